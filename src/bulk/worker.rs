//! A copy worker: takes parts from the queue, one connection to either end, until none is left to take.
//!
//! Hazard: after an error a connection may be in any state; the worker throws both away, and with the target's
//! transaction the part goes back into the queue, for whoever takes it then. Each part is tried a bounded number of
//! times.

use std::sync::Arc;
use std::time::Duration;

use super::batch;
use super::budget::Turn;
use super::control::{Complete, read, seconds};
use super::copy::{CopyPlan, Left, LoadCommit, LoadRole, OnRewrite};
use super::ledger;
use super::partition::{Freeze, Part, TableCopy};
use super::queue::{self, Claim};
use super::wave::{PutOff, Wave};
use crate::error::{Error, ErrorKind, Recovery, Result};
use crate::pg::{SqlState, quote_literal};
use crate::telemetry::Obstacle;
use crate::wire::{Connection, ConnectionSettings, splice};

/// How often a part is tried before its connection error counts.
const ATTEMPTS: u32 = 6;

pub(super) struct Worker {
    wave: Arc<Wave>,
    ends: Option<Ends>,
    turn: Option<Turn>,
    search_path: SearchPath,
    /// Claims that failed, one after the other.
    failures: u32,
    /// The part that broke off before them: with the next claim it may be another's.
    broke_off: Option<Part>,
    /// Something stood in the way of the last part.
    held_up: bool,
}

/// Which `search_path` rows are loaded under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SearchPath {
    Empty,
    /// Once one table has needed it, also for the tables after it.
    Sources,
}

pub(super) struct Ends {
    pub(super) source: Connection,
    pub(super) target: Connection,
}

/// What became of a part; all but `Loaded` have rolled it back.
enum Copied {
    /// Rows and bytes of it, and its table if that is complete now. Several tables have been told of already.
    Loaded {
        rows: u64,
        bytes: u64,
        complete: Option<Complete>,
    },
    PutOff(PutOff),
    /// Its tables cannot be copied in one go.
    NotTogether,
}

impl Worker {
    pub(super) fn new(wave: Arc<Wave>) -> Worker {
        Worker {
            wave,
            ends: None,
            turn: None,
            search_path: SearchPath::Empty,
            failures: 0,
            broke_off: None,
            held_up: false,
        }
    }

    pub(super) async fn run(mut self) -> Result<Left> {
        loop {
            self.take_turn().await;
            let claim = match self.claim().await {
                Ok(Some(claim)) => claim,
                Ok(None) => return Ok(Left::Nothing),
                Err(error) => {
                    self.recover(None, error).await?;
                    continue;
                }
            };
            self.failures = 0;
            match self.copy(&claim).await {
                Ok(Copied::Loaded { rows, bytes, complete }) => {
                    self.loaded(&claim.part, rows, bytes, complete).await
                }
                Ok(Copied::PutOff(why)) => {
                    if self.put_off(&claim, why).await? == Left::TheWave {
                        return Ok(Left::TheWave);
                    }
                }
                Ok(Copied::NotTogether) => self.scatter(&claim).await,
                Err(error) if error.sqlstate() == Some(SqlState::LOCK_NOT_AVAILABLE) => {
                    self.ends = None;
                    self.put_off(&claim, PutOff::Locked).await?;
                }
                Err(error) => self.recover(Some(&claim), error).await?,
            }
        }
    }

    /// Waits for a turn, unless this worker has one that it may go on with.
    async fn take_turn(&mut self) {
        if self.turn.as_ref().is_some_and(Turn::is_over) {
            // Without a turn no connection is ours.
            self.ends = None;
            self.turn = None;
        }
        if self.turn.is_none() {
            self.turn = Some(self.wave.plan.budget.take().await);
        }
    }

    /// Opens a transaction on the target and takes a part in it; `None` when there is none to take.
    async fn claim(&mut self) -> Result<Option<Claim>> {
        let claim = queue::claim(self.wave.number);
        let rows = self.connect().await?.target.query(&claim).await?;
        let Some(row) = rows.first() else {
            self.ends = None;
            return Ok(None);
        };
        let claim = Claim::read(row).filter(|claim| self.wave.has(&claim.part));
        claim.map(Some).ok_or_else(|| {
            Error::new(ErrorKind::State, "take a part of the copy").hint(
                "The schema pgstream on the target was changed by someone else; run the same command again.",
            )
        })
    }

    async fn copy(&mut self, claim: &Claim) -> Result<Copied> {
        let part = claim.part;
        self.wave.begin(&part).await;
        if part.count == 1 {
            return self.copy_one(part).await;
        }
        let wave = Arc::clone(&self.wave);
        let copied = match self.connect().await {
            Ok(ends) => batch::copy(ends, &wave, &part).await,
            Err(error) => Err(error),
        };
        match copied {
            Ok(Some(counts)) => {
                let started = wave.started(part.table);
                for (table, (rows, bytes)) in (part.table..).zip(&counts) {
                    wave.complete(table, Complete { rows: *rows, bytes: *bytes, elapsed: started }).await;
                }
                let sum = |of: fn(&(u64, u64)) -> u64| counts.iter().map(of).sum();
                return Ok(Copied::Loaded { rows: sum(|c| c.0), bytes: sum(|c| c.1), complete: None });
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(error = %crate::error::describe(&error), "small tables go one by one");
            }
        }
        self.ends = None;
        Ok(Copied::NotTogether)
    }

    /// Copies a table or a range of one, in the transaction that has claimed it.
    async fn copy_one(&mut self, part: Part) -> Result<Copied> {
        let wave = Arc::clone(&self.wave);
        let plan = &wave.plan;
        let table = &plan.tables[part.table];
        let Ends { source, target } = self.connect().await?;
        let (emptied, freeze) = match part.range {
            None => {
                let (emptied, freeze) = empty(plan, table);
                (Some(emptied), freeze)
            }
            Some(_) => (None, Freeze::No),
        };
        let ready = async {
            match emptied {
                Some(emptied) => target.execute(&emptied).await.map(drop),
                None => Ok(()),
            }
        };
        let (opened, ready) = tokio::join!(open_part(source, plan, part), ready);
        let opened = opened?;
        ready?;
        if opened == Opened::Rewritten {
            let (read, written) = tokio::join!(source.execute("ROLLBACK"), target.execute("ROLLBACK"));
            read.and(written)?;
            return Ok(Copied::PutOff(PutOff::Rewritten));
        }
        let spliced =
            splice(source, &table.copy_out(part.range), target, &table.copy_in(freeze), &plan.meter).await?;
        let (rows, bytes) = (spliced.rows, spliced.bytes);
        // All that the source had for us is there; it ends while the target notes it.
        let (ended, complete) =
            tokio::join!(source.execute("COMMIT"), note_part(target, &wave, part, rows, bytes));
        ended?;
        let complete = complete?;
        target.execute("COMMIT").await?;
        Ok(Copied::Loaded { rows, bytes, complete })
    }

    async fn loaded(&mut self, part: &Part, rows: u64, bytes: u64, complete: Option<Complete>) {
        self.broke_off = None;
        if std::mem::take(&mut self.held_up) {
            self.wave.plan.held_up.made_headway();
        }
        self.wave.count(rows, bytes);
        if let Some(complete) = complete {
            self.wave.complete(part.table, complete).await;
        }
    }

    /// Leaves a table to a later wave, for everyone.
    async fn put_off(&mut self, claim: &Claim, why: PutOff) -> Result<Left> {
        tracing::info!(relation = %self.table(&claim.part).name.plain(), ?why, "table put off");
        let ends_all = why == PutOff::Rewritten && self.wave.plan.rewritten == OnRewrite::End;
        let mut note = queue::put_off(self.wave.number, claim.part.table, why.label());
        if ends_all {
            note = format!("{note}; {}", queue::shut(self.wave.number));
        }
        loop {
            let done = match self.connect().await {
                // One question is one transaction.
                Ok(ends) => ends.target.execute(&note).await,
                Err(error) => Err(error),
            };
            match done {
                Ok(_) => break,
                Err(error) => self.recover(Some(claim), error).await?,
            }
        }
        Ok(if ends_all { Left::TheWave } else { Left::Nothing })
    }

    /// Has several tables taken one by one. Should that fail they go back together, and come here again.
    async fn scatter(&mut self, claim: &Claim) {
        let scatter = queue::scatter(self.wave.number, claim);
        let scattered = match self.connect().await {
            Ok(ends) => ends.target.execute(&scatter).await,
            Err(error) => Err(error),
        };
        if let Err(error) = scattered {
            tracing::debug!(error = %crate::error::describe(&error), "small tables stay together");
            self.ends = None;
        }
    }

    /// Goes on after an error that a new connection may cure, once that may help; gives back any other.
    ///
    /// For room on a disk and for a connection it waits as long as it takes, under the same snapshot: what other
    /// parts of the table have brought would be lost with it.
    async fn recover(&mut self, claim: Option<&Claim>, error: Error) -> Result<()> {
        self.ends = None;
        let part = claim.map(|claim| claim.part);
        self.broke_off = part.or(self.broke_off);
        if let Some(obstacle) = Obstacle::of(&error) {
            self.held_up = true;
            let pause = self.wave.plan.held_up.by_error(obstacle, &self.explain(self.broke_off, error));
            tokio::time::sleep(pause).await;
            return Ok(());
        }
        let relation = part.map(|part| self.table(&part).name.plain());
        let is_unresolved = error.sqlstate().is_some_and(|state| state.is_unresolved());
        if is_unresolved && part.is_some() && self.search_path == SearchPath::Empty {
            tracing::info!(relation, "loading under the source's search_path");
            self.search_path = SearchPath::Sources;
            return Ok(());
        }
        // It does not come back.
        if error.kind() == ErrorKind::Snapshot {
            return Err(self.explain(part, error));
        }
        let attempt = match claim {
            Some(claim) => self.wave.failed(claim.ordinal),
            None => {
                self.failures += 1;
                self.failures
            }
        };
        if error.recovery() != Recovery::Retry || attempt >= ATTEMPTS {
            return Err(self.explain(self.broke_off, error));
        }
        let why = crate::error::describe(&error);
        tracing::warn!(relation, error = %why, attempt, "copy of a part broke off; trying again");
        // Nothing to wait for but time: the server is away.
        tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
        Ok(())
    }

    fn table(&self, part: &Part) -> &TableCopy {
        &self.wave.plan.tables[part.table]
    }

    fn explain(&self, part: Option<Part>, error: Error) -> Error {
        let Some(part) = part else { return error };
        let doing = format!("copy table {}", self.table(&part).name.plain());
        if matches!(error.kind(), ErrorKind::Snapshot | ErrorKind::Connect | ErrorKind::Drift) {
            let kind = error.kind();
            return Error::new(kind, doing).because(error);
        }
        let hint = match error.sqlstate() {
            Some(SqlState::UNDEFINED_TABLE) => {
                "The table was dropped on the source after the migration began. Run the same command again to go on \
                 without it; its definition stays on the target, where you may drop it when all is done."
            }
            Some(SqlState::INSUFFICIENT_PRIVILEGE) => {
                "Give the source role SELECT on the table (and BYPASSRLS where row security applies)."
            }
            _ => "Mend what the server's message names, then run the same command again.",
        };
        Error::new(ErrorKind::Copy, doing).hint(hint).because(error)
    }

    async fn connect(&mut self) -> Result<&mut Ends> {
        if self.ends.is_none() {
            let plan = &self.wave.plan;
            let source = Connection::connect(&plan.source, &settings("copy", plan)).await?;
            let settings = match self.search_path {
                SearchPath::Empty => load_settings(plan),
                // What our own statements name stays PostgreSQL's (P57).
                SearchPath::Sources => {
                    load_settings(plan).set("search_path", format!("pg_catalog, {}", plan.search_path))
                }
            };
            let mut target = Connection::connect(&plan.target, &settings).await?;
            plan.take_role(&mut target).await?;
            self.ends = Some(Ends { source, target });
        }
        Ok(self.ends.as_mut().expect("connected above"))
    }
}

impl CopyPlan {
    /// Sets on the target what no setting of the connection can.
    pub(super) async fn take_role(&self, target: &mut Connection) -> Result<()> {
        if self.replica_role == LoadRole::ReplicaThroughAivenExtras {
            target.query("SELECT aiven_extras.session_replication_role('replica')").await?;
        }
        Ok(())
    }
}

/// The statement that empties a table before it is loaded, and whether its rows can then be frozen (P86).
///
/// Foreign keys that exist already forbid TRUNCATE of what they refer to, whoever asks.
pub(super) fn empty(plan: &CopyPlan, table: &TableCopy) -> (String, Freeze) {
    match plan.replica_role {
        LoadRole::Origin => (format!("TRUNCATE ONLY {}", table.name), Freeze::Yes),
        LoadRole::Replica | LoadRole::ReplicaThroughAivenExtras => {
            (format!("DELETE FROM ONLY {}", table.name), Freeze::No)
        }
    }
}

/// Of a connection that loads.
pub(super) fn load_settings(plan: &CopyPlan) -> ConnectionSettings {
    let settings = settings("load", plan);
    let settings = match plan.commit {
        LoadCommit::Waits => settings,
        LoadCommit::WithTheNext => settings.set("synchronous_commit", "off"),
    };
    match plan.replica_role {
        LoadRole::Origin | LoadRole::ReplicaThroughAivenExtras => settings,
        LoadRole::Replica => settings.set("session_replication_role", "replica"),
    }
}

fn settings(role: &'static str, plan: &CopyPlan) -> ConnectionSettings {
    ConnectionSettings::sql(role)
        .set("client_encoding", plan.encoding.clone())
        .set("lock_timeout", plan.lock_timeout.as_millis().to_string())
}

/// Notes in the part's transaction what it has loaded; gives the table if that is complete now.
async fn note_part(
    target: &mut Connection,
    wave: &Wave,
    part: Part,
    rows: u64,
    bytes: u64,
) -> Result<Option<Complete>> {
    let (table, watermark) = (&wave.plan.tables[part.table].name, wave.plan.watermark);
    let news = wave.news(&part, bytes);
    let Some(range) = part.range else {
        let note = ledger::table_done(table, watermark, rows, bytes);
        noted(target.execute(&format!("{news}{note}")).await? == 1)?;
        return Ok(Some(Complete { rows, bytes, elapsed: wave.started(part.table) }));
    };
    let note = queue::part_done(part.table, table, range, watermark, rows, bytes);
    let answer = target.query(&format!("{news}{note}")).await?;
    noted(answer.iter().any(|row| row.get("noted") == Some("t")))?;
    Ok(answer.iter().find_map(|row| {
        let (rows, bytes) = (read(row, "total_rows")?, read(row, "total_bytes")?);
        Some(Complete { rows, bytes, elapsed: seconds(row) })
    }))
}

/// A note in the ledger must touch its one row; anything else means that the table is not ours to load now.
fn noted(is_noted: bool) -> Result<()> {
    if is_noted {
        return Ok(());
    }
    Err(Error::new(ErrorKind::State, "note a copied part")
        .hint("The schema pgstream on the target was changed by someone else; run the same command again."))
}

/// What a part's transaction finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opened {
    /// The table as the snapshot shows it.
    Table,
    /// Other files than the snapshot knows: COPY would find nothing in them.
    Rewritten,
}

/// Opens the part's transaction under the snapshot, locks the table against rewrites, and says whether
/// one happened before the lock (P15). One round trip.
///
/// # Errors
/// `Drift` if another table bears the name by now: the snapshot knows nothing of its rows, nor does the stream.
async fn open_part(source: &mut Connection, plan: &CopyPlan, part: Part) -> Result<Opened> {
    let table = &plan.tables[part.table];
    // SQL sees the snapshot's catalog, the two functions the present one.
    let opening = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
         SET TRANSACTION SNAPSHOT {};
         LOCK TABLE ONLY {} IN ACCESS SHARE MODE;
         SELECT pg_catalog.to_regclass({})::pg_catalog.oid IS NOT DISTINCT FROM {oid}::pg_catalog.oid AS same_table,
                (SELECT relfilenode FROM pg_catalog.pg_class WHERE oid = {oid})
                  IS NOT DISTINCT FROM pg_catalog.pg_relation_filenode({oid}) AS same_file",
        quote_literal(&plan.snapshot),
        table.name,
        quote_literal(&table.name.to_string()),
        oid = table.relation,
    );
    let rows = source.query(&opening).await.map_err(|error| match error.sqlstate() {
        // 22023 until 16, 42704 since; 55000 when the exporting transaction is over.
        Some(
            SqlState::INVALID_PARAMETER_VALUE
            | SqlState::UNDEFINED_OBJECT
            | SqlState::NOT_IN_PREREQUISITE_STATE,
        ) => Error::new(ErrorKind::Snapshot, "join the copy's snapshot").because(error),
        _ => error,
    })?;
    let is_true = |name: &str| rows.first().and_then(|row| row.get(name)) == Some("t");
    if !is_true("same_table") {
        return Err(Error::new(ErrorKind::Drift, "copy the table that the snapshot shows").hint(
            "On the source the table was replaced by another of the same name after the migration began. Empty the \
             target database and begin anew, when no such change runs on the source.",
        ));
    }
    Ok(if is_true("same_file") { Opened::Table } else { Opened::Rewritten })
}
