//! From definitions to a full target: publication and slot, rows, and indexes behind the rows.
//!
//! Hazard: a table counts as copied when the ledger says so, and only under the snapshot whose position the
//! ledger holds. A snapshot that is lost, or a table that was rewritten under it (P15), costs a new snapshot at
//! a later position for what is not finished, and nothing else.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::build::Builder;
use super::cutover::{load_role, source_search_path};
use super::define::{self, Definitions};
use super::open::{self, OpenSnapshot};
use super::release::release_source;
use super::run::Run;
use super::selection::{Selection, Wishes, select};
use super::spooling::{self, meanwhile};
use super::unseen;
use crate::apply;
use crate::bulk::ledger::{self, TableState};
use crate::bulk::{CopyEvent, CopyPlan, Keeper, LoadCommit, LoadRole, OnRewrite, TableCopy, copy_tables};
use crate::catalog::{self, Catalog, Persistence, Table, TableKind};
use crate::error::{Error, ErrorKind, Result, describe};
use crate::pg::{Lsn, QualifiedName, quote_literal};
use crate::schema::Flush;
use crate::telemetry::{Phase, TableState as Stage};
use crate::wire::{Meter, Session, SessionSettings};

/// Snapshots that may be lost, or found too old, before we ask for help. Many, because a queue table may be
/// truncated several times a second: a wave that has only such a table left is short, and one of them gets
/// through. A lock from before the snapshot would not help: the TRUNCATE that waits for it would be ahead of
/// our COPY in the queue for the table.
const WAVES: u32 = 100;

/// Takes the target from `SchemaReady` (or wherever an interrupted run left it) to `CatchingUp`.
pub(super) async fn load(run: &Run, phase: Phase) -> Result<()> {
    let Begun { snapshot, source, target } = match phase {
        Phase::SchemaReady => begin(run).await?,
        _ => Begun {
            snapshot: None,
            source: catalog::load(&run.source).await?,
            target: catalog::load(&run.target).await?,
        },
    };
    let builder = builder(run, &source).await?;
    let (events, copied) = mpsc::channel(1024);
    // An index that cannot be built ends the copy at once, and the other way round.
    let work = async { tokio::try_join!(builder.run(copied), copy(run, &source, &target, snapshot, events)) };
    meanwhile(run, work).await?;
    run.enter(Phase::CatchingUp, "").await
}

/// Builds what is not built, each table's as soon as its rows are there.
pub(super) async fn builder(run: &Run, source: &Catalog) -> Result<Builder> {
    let sizes: HashMap<&QualifiedName, u64> =
        source.tables.iter().map(|table| (&table.name, table.bytes)).collect();
    let to_come: HashMap<QualifiedName, u64> = unfinished(run)
        .await?
        .into_iter()
        .map(|name| {
            let bytes = sizes.get(&name).copied().unwrap_or(0);
            (name, bytes)
        })
        .collect();
    run.tables.set(sizes.keys().copied().filter(|name| to_come.contains_key(name)), Stage::Waiting);
    let copied = ledger::read(&run.target).await?;
    run.tables.set(copied.keys().filter(|name| !to_come.contains_key(name)), Stage::Building);
    let definitions = Definitions::of(run).await?;
    let builds = Definitions::pending(run, definitions.plan.builds.clone()).await?;
    let settings = define::build_settings(run).await?;
    Builder::new(run, builds, |table| to_come.get(table).copied(), settings).await
}

/// Tables whose rows are not all there.
pub(super) async fn unfinished(run: &Run) -> Result<Vec<QualifiedName>> {
    let ledger = ledger::read(&run.target).await?;
    Ok(ledger
        .into_iter()
        .filter(|(_, state)| *state == TableState::Unfinished)
        .map(|(name, _)| name)
        .collect())
}

/// A copy that may start.
struct Begun {
    /// The slot's own, if the slot was made just now.
    snapshot: Option<OpenSnapshot>,
    /// As that snapshot shows it.
    source: Catalog,
    target: Catalog,
}

/// Publishes, takes the slot, and enters the tables into the ledger.
async fn begin(run: &Run) -> Result<Begun> {
    // An interrupted attempt may have left things that this one no longer wants. They go before we look: an
    // identity that is FULL by our doing only must not be taken for the table's own.
    release_source(&run.source, &run.target).await?;
    spooling::discard(run).await?;
    let selection = {
        let before = catalog::load(&run.source).await?;
        select(&before, &run.wishes(&before)?)
    };
    harmless(&selection)?;
    tell_definitions_only(run, &selection).await?;
    unseen::warn(run).await?;
    open::publish(run, &selection).await?;
    let snapshot = open::open_slot(run).await?;
    let (shown, target) = tokio::try_join!(catalog_under(run, &snapshot.keeper), catalog::load(&run.target))?;
    unchanged_since(run, &selection, &shown, &target)?;
    run.target
        .batch_execute("DELETE FROM pgstream.progress")
        .await
        .map_err(|error| Error::from_postgres("begin the progress anew", error))?;
    apply::begin_progress(&run.target, &run.id.slot(), snapshot.consistent_point).await?;
    let moved: HashSet<&QualifiedName> = selection.moved.iter().collect();
    let sizes = shown
        .tables
        .iter()
        .filter(|table| moved.contains(&table.name))
        .map(|table| (&table.name, table.bytes));
    let enter = format!(
        "DELETE FROM pgstream.copied_part;
         DELETE FROM pgstream.copied_table;
         {};
         {};
         UPDATE pgstream.migration SET consistent_point = {}",
        ledger::enter(selection.moved.iter()).unwrap_or_default(),
        ledger::measure(sizes).unwrap_or_default(),
        quote_literal(&snapshot.consistent_point.to_string())
    );
    run.enter(Phase::Copying, &enter).await?;
    Ok(Begun { snapshot: Some(snapshot), source: shown, target })
}

/// Names what comes without rows.
pub(super) async fn tell_definitions_only(run: &Run, selection: &Selection) -> Result<()> {
    run.tables.set(selection.definitions_only.iter().map(|(table, _)| table), Stage::Skipped);
    for warning in rows_left(selection) {
        run.warn(&warning).await?;
    }
    Ok(())
}

/// Tables whose definition alone is carried: one warning for each, or for each reason where they are many.
fn rows_left(selection: &Selection) -> Vec<String> {
    const NAMED: usize = 20;
    let mut by_reason: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (table, why) in &selection.definitions_only {
        by_reason.entry(why).or_default().push(table.plain());
    }
    let one = |(why, tables): (&str, Vec<String>)| {
        let said = format!("the definition is carried, its rows are not: {why}");
        if tables.len() <= NAMED {
            return tables.iter().map(|table| format!("{table}: {said}")).collect::<Vec<_>>();
        }
        let more = tables.len() - NAMED;
        vec![format!("{} and {more} more: of each {said}", tables[..NAMED].join(", "))]
    };
    by_reason.into_iter().flat_map(one).collect()
}

/// Publishing a table without identity would make the source's own UPDATE fail (P06). A first run has been
/// checked for that; on a later one such a table may be new.
fn harmless(selection: &Selection) -> Result<()> {
    let tables: Vec<String> = selection.breaking.iter().map(QualifiedName::plain).collect();
    if tables.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Check, format!("publish tables that cannot identify their rows: {}", tables.join(", ")))
        .hint("Give each a primary key, or name it in --insert-only or --skip-table, or use --replica-identity full."))
}

/// The source's catalog exactly as the snapshot shows it.
pub(super) async fn catalog_under(run: &Run, keeper: &Keeper) -> Result<Catalog> {
    let session = Session::connect(&run.options.source, &SessionSettings::role("catalog")).await?;
    let import = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
        quote_literal(keeper.snapshot())
    );
    session.batch_execute(&import).await.map_err(|error| {
        let error = Error::from_postgres("join the snapshot", error);
        Error::new(ErrorKind::Snapshot, "read the catalog under the snapshot").because(error)
    })?;
    catalog::load(&session).await
}

/// Definitions were dumped before the slot existed; what changed in between is in neither dump nor stream (P25).
fn unchanged_since(run: &Run, selection: &Selection, shown: &Catalog, target: &Catalog) -> Result<()> {
    if select(shown, &run.wishes(shown)?).moved != selection.moved {
        return Err(Error::new(ErrorKind::Drift, "compare the source's tables with those being published")
            .hint(DRIFTED));
    }
    fits(&selection.moved, shown, target)
}

const DRIFTED: &str = "The source's definitions changed after they were carried over. Empty the target database and \
                       begin anew, when no DDL runs on the source.";

/// Every column of these tables has its place on the target.
pub(super) fn fits(tables: &[QualifiedName], source: &Catalog, target: &Catalog) -> Result<()> {
    let moved: HashSet<&QualifiedName> = tables.iter().collect();
    let differences: Vec<String> = catalog::compare(source, target)
        .into_iter()
        .filter(|difference| moved.contains(&difference.table))
        .map(|difference| difference.to_string())
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Drift, format!("compare the two ends: {}", differences.join("; ")))
        .hint(DRIFTED))
}

/// Copies what is not copied, one snapshot after the other until nothing is left. `shown` is the source as the first of
/// them shows it, if there is one already.
async fn copy(
    run: &Run,
    shown: &Catalog,
    target: &Catalog,
    mut snapshot: Option<OpenSnapshot>,
    events: mpsc::Sender<CopyEvent>,
) -> Result<()> {
    let meter = Arc::new(run.meter());
    // A wave that ended by its age, and was of use, is as it should be.
    let (mut waves, mut left, mut is_aged) = (0, usize::MAX, false);
    loop {
        let unfinished = unfinished(run).await?;
        if unfinished.is_empty() {
            return run.enter(Phase::Building, "").await;
        }
        if !std::mem::take(&mut is_aged) || unfinished.len() >= left {
            waves += 1;
        }
        if waves > WAVES {
            break;
        }
        left = unfinished.len();
        let (current, later);
        let source = match snapshot.take() {
            Some(snapshot) => {
                current = snapshot;
                shown
            }
            None => {
                current = open::later_snapshot(run).await?;
                later = catalog_under(run, &current.keeper).await?;
                &later
            }
        };
        fits(&unfinished, source, target)?;
        open::still_published(run, &unfinished).await?;
        unseen::note(run, &unfinished).await?;
        let age_left = run.options.snapshot_age_max.map(|age| age.saturating_sub(current.keeper.age()));
        let begin_until = age_left.and_then(|left| Instant::now().checked_add(left));
        let plan = CopyPlan {
            meter: Arc::clone(&meter),
            begin_until,
            ..copy_plan(run, &current.keeper, current.consistent_point, copies(&unfinished, source, target)?)
                .await?
        };
        let bytes = plan.tables.iter().map(|table| table.bytes).sum();
        run.progress.copy_started(bytes, plan.tables.len() as u64);
        match watched(run, &current.keeper, &meter, copy_tables(plan, events.clone())).await {
            Ok(outcome) => {
                is_aged = outcome.is_aged;
                if is_aged {
                    run.progress.note("the snapshot has reached its age; going on under a new one");
                }
                for (tables, why) in [(outcome.rewritten, "rewritten"), (outcome.locked, "locked")] {
                    if !tables.is_empty() {
                        let names: Vec<_> = tables.iter().map(QualifiedName::plain).collect();
                        run.progress.note(&format!("{why} meanwhile, copied anew: {}", names.join(", ")));
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::Snapshot || current.keeper.is_lost() => {
                run.progress.warn(&format!("{}; going on under a new snapshot", describe(&error)));
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(ErrorKind::Copy, format!("copy every table within {WAVES} snapshots")).hint(
        "Tables are being rewritten or locked, or the source restarts, over and over; run again when that has ended.",
    ))
}

/// The plan for `tables`, of which nothing is there that could fire.
pub(super) async fn copy_plan(
    run: &Run,
    keeper: &Keeper,
    watermark: Lsn,
    tables: Vec<TableCopy>,
) -> Result<CopyPlan> {
    Ok(CopyPlan {
        source: run.options.source.clone(),
        target: run.options.target.clone(),
        source_version: run.source_version,
        snapshot: keeper.snapshot().to_owned(),
        watermark,
        tables,
        jobs: run.options.copy_jobs.get(),
        budget: run.budgets.copies.clone(),
        split_bytes: run.options.split_bytes,
        lock_timeout: run.options.lock_timeout,
        encoding: run.encoding.clone(),
        search_path: source_search_path(&run.source).await?,
        replica_role: LoadRole::Origin,
        // No phase is entered, and nothing told to the source, but by sessions that were there before the copy's.
        commit: match Flush::of(&run.target_may) {
            Flush::AtCommit => LoadCommit::Waits,
            Flush::WithTheNote => LoadCommit::WithTheNext,
        },
        rewritten: OnRewrite::PutOff,
        meter: Arc::new(run.meter()),
        held_up: run.held_up.clone(),
        begin_until: None,
    })
}

/// Copies published tables that the target has only lately, under a snapshot of their own: their changes from
/// before it are passed over.
pub(super) async fn copy_late(run: &Run, tables: &[QualifiedName]) -> Result<()> {
    run.progress.note(&format!("copying {} tables that were attached on the source", tables.len()));
    let target = catalog::load(&run.target).await?;
    let snapshot = open::later_snapshot(run).await?;
    let source = catalog_under(run, &snapshot.keeper).await?;
    fits(tables, &source, &target)?;
    unseen::note(run, tables).await?;
    let tables = copies(tables, &source, &target)?;
    let plan = copy_plan(run, &snapshot.keeper, snapshot.consistent_point, tables).await?;
    copy_alone(CopyPlan { replica_role: load_role(run), ..plan }).await
}

/// Copies tables for which nobody waits, or says which was in the way.
async fn copy_alone(plan: CopyPlan) -> Result<()> {
    // Their events are only drained.
    let (events, mut drained) = mpsc::channel(64);
    let drain = async {
        while drained.recv().await.is_some() {}
        Ok(())
    };
    let (outcome, ()) = tokio::try_join!(copy_tables(plan, events), drain)?;
    match outcome.rewritten.iter().chain(&outcome.locked).next() {
        None => Ok(()),
        Some(table) => Err(Error::new(ErrorKind::Copy, format!("copy table {}", table.plain()))
            .hint("It was truncated, rewritten or locked just now; run the same command again.")),
    }
}

/// Tables that no stream tells of, and whose rows move all the same.
pub(super) fn unlogged(source: &Catalog, wishes: &Wishes) -> Vec<QualifiedName> {
    source
        .tables
        .iter()
        .filter(|table| table.kind == TableKind::Ordinary && table.persistence == Persistence::Unlogged)
        .filter(|table| table.extension.is_none() && !wishes.left.has(table.oid))
        .map(|table| table.name.clone())
        .collect()
}

/// Copies tables that the stream does not carry, or not all of, as they are now that writes have stopped (P35, P41).
pub(super) async fn copy_unstreamed(run: &Run, source: &Catalog, replica_role: LoadRole) -> Result<()> {
    let wishes = run.wishes(source)?;
    let mut unstreamed = unlogged(source, &wishes);
    let changed = unseen::changed(run).await?;
    let seen_to = source
        .tables
        .iter()
        .filter(|table| table.kind == TableKind::Ordinary && table.persistence != Persistence::Unlogged)
        .filter(|table| changed.contains(&table.name))
        .filter(|table| table.extension.is_none() && !wishes.left.has(table.oid));
    unstreamed.extend(seen_to.map(|table| table.name.clone()));
    let Some(enter) = ledger::enter(unstreamed.iter()) else { return Ok(()) };
    run.target
        .batch_execute(&enter)
        .await
        .map_err(|error| Error::from_postgres("enter tables that the stream does not carry", error))?;
    run.progress.note(&format!("copying {} tables that the stream does not carry", unstreamed.len()));
    let target = catalog::load(&run.target).await?;
    let keeper = Keeper::open(&run.options.source).await?;
    let tables = copies(&unstreamed, source, &target)?;
    let plan = CopyPlan { replica_role, ..copy_plan(run, &keeper, Lsn::ZERO, tables).await? };
    copy_alone(plan).await
}

/// Shows what passes through the splice, twice a second, while `work` runs.
pub(super) async fn watched<T>(
    run: &Run,
    keeper: &Keeper,
    meter: &Meter,
    work: impl Future<Output = T>,
) -> T {
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    let mut shown = meter.bytes();
    let mut show = || {
        let passed = meter.bytes();
        run.progress.copied(passed - shown);
        run.metrics.copied_bytes(passed - shown);
        run.metrics.snapshot_age(keeper.age());
        run.health.beat(Instant::now());
        shown = passed;
    };
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => {
                show();
                run.metrics.snapshot_age(Duration::ZERO);
                return done;
            }
            _ = tick.tick() => show(),
        }
    }
}

pub(super) fn copies(
    unfinished: &[QualifiedName],
    source: &Catalog,
    target: &Catalog,
) -> Result<Vec<TableCopy>> {
    fn by_name(catalog: &Catalog) -> HashMap<&QualifiedName, &Table> {
        catalog.tables.iter().map(|table| (&table.name, table)).collect()
    }
    let (on_source, on_target) = (by_name(source), by_name(target));
    unfinished
        .iter()
        .map(|name| {
            let missing = |side: &str| {
                Error::new(ErrorKind::Drift, format!("copy table {}", name.plain())).hint(format!(
                    "The table is no longer there on the {side}: it was dropped or renamed meanwhile."
                ))
            };
            let from = on_source.get(name).ok_or_else(|| missing("source"))?;
            let to = on_target.get(name).ok_or_else(|| missing("target"))?;
            Ok(TableCopy::new(from, to))
        })
        .collect()
}
