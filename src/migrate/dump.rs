//! The dump: what one moment of the source looked like, by the copy path of every migration, and nothing after it.
//!
//! Hazard: two snapshots in one target are a database that never was, and without a stream nothing mends that.
//! So a snapshot that is lost, or that can no longer show a table (P15), costs the whole copy, unless the source
//! has not changed since ([`Keeper::content`]); and once a foreign key may exist, nothing is copied again.
//!
//! Nothing is made on the source. It may be a standby, and its role needs no more than SELECT.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::config::Ending;
use super::outcome::Outcome;
use super::run::Run;
use super::selection::select;
use super::shutdown::Shutdown;
use super::state::{self, Snapshot};
use super::{cutover, define, load, throttle};
use crate::bulk::ledger::{self, TableState};
use crate::bulk::{CopyEvent, CopyPlan, Keeper, OnRewrite, Rank, TableCopy, copy_tables};
use crate::catalog::{self, Catalog};
use crate::error::{Error, ErrorKind, Result, describe};
use crate::pg::{Lsn, QualifiedName};
use crate::telemetry::Phase;
use crate::wire::Meter;

/// Snapshots that may be lost, or be too old for a table, before we ask for help. A table that was rewritten goes
/// first under the next one, so only one that is rewritten every few moments needs many.
const SNAPSHOTS: u32 = 20;
/// How often a table that others keep locked is tried under one snapshot; each time for `lock_timeout`.
const LOCK_ROUNDS: u32 = 100;

/// From the phase the state names to the end; there is no other ending.
pub(super) async fn go_on(run: &Run, stop: &mut Shutdown) -> Result<Outcome> {
    let mut phase = run.phase().await?;
    run.show(phase);
    if phase == Phase::CutOver {
        // An earlier run has ended here. The target may long be in use: nothing is done again.
        return run.close(Lsn::ZERO).await;
    }
    match run.options.ending {
        Ending::Interrupt | Ending::Stop { .. } => {}
        Ending::CaughtUp => run.progress.note("a dump ends by itself: --until has no meaning for it"),
    }
    if run.options.snapshot_age_max.is_some() {
        run.progress.note("a dump is of one moment: --snapshot-max-age has no meaning for it");
    }
    if phase == Phase::Planned {
        stop.or_stop(run.alive(define::define(run))).await?;
        run.made_headway();
        phase = Phase::SchemaReady;
    }
    if phase < Phase::Fenced {
        stop.or_stop(run.alive(throttle::beside(run, fill(run)))).await?;
        run.made_headway();
    }
    stop.or_stop(run.alive(complete(run))).await?;
    run.enter(Phase::CutOver, "").await?;
    run.close(Lsn::ZERO).await
}

/// Why a snapshot did not do.
enum Broken {
    /// These tables have other files by now than the snapshot knows.
    Rewritten(Vec<QualifiedName>),
    Failed(Error),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Broken {
        Broken::Failed(error)
    }
}

/// Takes the target from `SchemaReady` to `Fenced`: everything that comes from the source is there.
async fn fill(run: &Run) -> Result<()> {
    let mut restless = Vec::new();
    for _ in 0..SNAPSHOTS {
        let keeper = Keeper::open(&run.options.source).await?;
        let why = match fill_under(run, &keeper, &restless).await {
            Ok(()) => return Ok(()),
            Err(Broken::Rewritten(tables)) => {
                let names: Vec<_> = tables.iter().map(QualifiedName::plain).collect();
                restless.extend(tables);
                format!("rewritten or truncated on the source meanwhile: {}", names.join(", "))
            }
            Err(Broken::Failed(error)) if error.kind() == ErrorKind::Snapshot || keeper.is_lost() => {
                describe(&error)
            }
            Err(Broken::Failed(error)) => return Err(error),
        };
        run.progress.warn(&format!("{why}; going on under a new snapshot"));
    }
    Err(Error::new(ErrorKind::Copy, format!("copy every table under one of {SNAPSHOTS} snapshots")).hint(
        "Tables are being rewritten or truncated, or the source restarts, over and over; run again when that has \
         ended, or leave such tables out with --skip-table.",
    ))
}

async fn fill_under(run: &Run, keeper: &Keeper, restless: &[QualifiedName]) -> Result<(), Broken> {
    let source = load::catalog_under(run, keeper).await?;
    let ordinal = begin(run, keeper, &source).await?;
    let target = catalog::load(&run.target).await?;
    let tables: Vec<QualifiedName> = ledger::read(&run.target).await?.into_keys().collect();
    load::fits(&tables, &source, &target)?;
    let (events, copied) = mpsc::channel(1024);
    let builder = load::builder(run, &source).await?;
    // An index that cannot be built ends the copy at once, and the other way round.
    let copy = Copy { run, keeper, ordinal, restless, source: &source, target: &target };
    tokio::try_join!(async { builder.run(copied).await.map_err(Broken::from) }, copy.run(events))?;
    cutover::carry_large_objects(run, keeper, source.large_objects).await?;
    // Later than the snapshot, and so beyond every number that it shows (P33).
    cutover::set_sequences(run, &source).await?;
    run.enter(Phase::Fenced, "").await?;
    Ok(())
}

/// Enters the tables that the snapshot shows, or keeps what an earlier snapshot of the same content has brought.
async fn begin(run: &Run, keeper: &Keeper, source: &Catalog) -> Result<u64> {
    let wishes = run.wishes(source)?;
    let selection = select(source, &wishes);
    let unlogged = load::unlogged(source, &wishes);
    let before = state::snapshot(&run.target).await?;
    let snapshot = Snapshot {
        ordinal: before.as_ref().map_or(1, |before| before.ordinal + 1),
        content: keeper.content().map(str::to_owned),
    };
    let note = state::note_snapshot(&snapshot);
    let copied = ledger::read(&run.target).await?;
    let finished = copied.values().filter(|state| **state != TableState::Unfinished).count();
    if snapshot.content.is_some() && before.is_some_and(|before| before.content == snapshot.content) {
        run.progress.note(&format!("the source has not changed since: {finished} finished tables are kept"));
        // A crash empties unlogged tables, and no transaction tells of it.
        let anew = ledger::set_back(unlogged.iter()).unwrap_or_default();
        run.enter(Phase::Copying, &format!("{anew}; {note}")).await?;
        return Ok(snapshot.ordinal);
    }
    if finished > 0 {
        run.progress.warn(&format!(
            "the source may have changed since {finished} tables were copied: they are copied anew, so that all are \
             of one moment"
        ));
    }
    load::tell_definitions_only(run, &selection).await?;
    let mut moved = selection.moved;
    if is_standby(run).await? {
        for table in &unlogged {
            let name = table.plain();
            run.warn(&format!(
                "{name}: unlogged, and so not to be read on a standby: its rows are not moved"
            ))
            .await?;
        }
    } else {
        moved.extend(unlogged);
    }
    let names: HashSet<&QualifiedName> = moved.iter().collect();
    let entered = source.tables.iter().filter(|table| names.contains(&table.name));
    let enter = format!(
        "DELETE FROM pgstream.copied_part;
         DELETE FROM pgstream.copied_table;
         {};
         {};
         {note}",
        ledger::enter(moved.iter()).unwrap_or_default(),
        ledger::measure(entered.map(|table| (&table.name, table.bytes))).unwrap_or_default(),
    );
    run.enter(Phase::Copying, &enter).await?;
    Ok(snapshot.ordinal)
}

async fn is_standby(run: &Run) -> Result<bool> {
    let row = run
        .source
        .query_one("SELECT pg_catalog.pg_is_in_recovery()", &[])
        .await
        .map_err(|error| Error::from_postgres("ask whether the source is a standby", error))?;
    Ok(row.get(0))
}

/// The copy under one snapshot.
struct Copy<'a> {
    run: &'a Run,
    keeper: &'a Keeper,
    ordinal: u64,
    restless: &'a [QualifiedName],
    source: &'a Catalog,
    target: &'a Catalog,
}

impl Copy<'_> {
    async fn run(self, events: mpsc::Sender<CopyEvent>) -> Result<(), Broken> {
        let meter = Arc::new(self.run.meter());
        for _ in 0..LOCK_ROUNDS {
            let unfinished = load::unfinished(self.run).await?;
            if unfinished.is_empty() {
                return Ok(self.run.enter(Phase::Building, "").await?);
            }
            let plan = self.plan(&unfinished, &meter).await?;
            let bytes = plan.tables.iter().map(|table| table.bytes).sum();
            self.run.progress.copy_started(bytes, plan.tables.len() as u64);
            let copy = copy_tables(plan, events.clone());
            let outcome = load::watched(self.run, self.keeper, &meter, copy).await?;
            if !outcome.rewritten.is_empty() {
                return Err(Broken::Rewritten(outcome.rewritten));
            }
            if !outcome.locked.is_empty() {
                let names: Vec<_> = outcome.locked.iter().map(QualifiedName::plain).collect();
                self.run.progress.note(&format!("locked meanwhile, tried again: {}", names.join(", ")));
            }
        }
        Err(Error::new(ErrorKind::Copy, "copy tables that others keep locked")
            .hint("Find the sessions that hold ACCESS EXCLUSIVE locks on the source, and run again when they have ended.")
            .into())
    }

    async fn plan(&self, unfinished: &[QualifiedName], meter: &Arc<Meter>) -> Result<CopyPlan> {
        let mut tables: Vec<TableCopy> = load::copies(unfinished, self.source, self.target)?;
        for table in tables.iter_mut().filter(|table| self.restless.contains(&table.name)) {
            table.rank = Rank::First;
        }
        // No position belongs to the snapshot; its number tells a late word of an earlier one from its own.
        let watermark = Lsn::new(self.ordinal);
        Ok(CopyPlan {
            rewritten: OnRewrite::End,
            meter: Arc::clone(meter),
            ..load::copy_plan(self.run, self.keeper, watermark, tables).await?
        })
    }
}

/// What the target does for itself, once all rows are there. Can be done twice.
async fn complete(run: &Run) -> Result<()> {
    define::complete(run).await?;
    cutover::complete_target(run, &catalog::load(&run.source).await?).await?;
    define::settle_owners(run).await
}
