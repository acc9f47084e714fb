//! A copy worker: takes parts from the queue, one connection to either end, until the queue is empty.
//!
//! Hazard: after an error a connection may be in any state; the worker throws both away and begins the part
//! anew, a bounded number of times.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::batch;
use super::budget::Turn;
use super::copy::{CopiedTable, CopyEvent, CopyPlan, Left, LoadRole, OnRewrite, PutOff, Wave};
use super::ledger;
use super::partition::{Freeze, Part, TableCopy};
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

/// Whether tables could be copied in one go.
#[derive(PartialEq, Eq)]
enum Together {
    Done,
    NotThisWay,
}

enum Copied {
    Rows { rows: u64, bytes: u64 },
    PutOff(PutOff),
}

impl Worker {
    pub(super) fn new(wave: Arc<Wave>) -> Worker {
        Worker { wave, ends: None, turn: None, search_path: SearchPath::Empty }
    }

    /// Empties the tables that are copied in parts, before any part of them may load.
    pub(super) async fn empty_split_tables(wave: &Wave) -> Result<()> {
        let mut target: Option<Connection> = None;
        for (table, progress) in wave.plan.tables.iter().zip(&wave.progress) {
            if progress.parts_left.load(Ordering::Relaxed) > 1 {
                let connection = match target.take() {
                    Some(connection) => connection,
                    None => {
                        Connection::connect(
                            &wave.plan.target,
                            &target_settings(&wave.plan, SearchPath::Empty),
                        )
                        .await?
                    }
                };
                let connection = target.insert(connection);
                connection
                    .execute(&format!(
                        "BEGIN; {}; COMMIT",
                        ledger::begin_parts(&table.name, &empty(&wave.plan, table).0, wave.plan.watermark)
                    ))
                    .await?;
            }
        }
        Ok(())
    }

    pub(super) async fn run(mut self) -> Result<Left> {
        while let Ok(first) = self.wave.queue.try_recv() {
            let parts = self.with_small_ones(first);
            if parts.len() > 1 && self.copy_together(&parts).await? == Together::Done {
                continue;
            }
            for part in parts {
                if self.copy_alone(part).await? == Left::TheWave {
                    return Ok(Left::TheWave);
                }
            }
        }
        Ok(Left::Nothing)
    }

    /// Takes more parts along if these are whole tables so small that the way to them is the work; the other workers
    /// get their share.
    fn with_small_ones(&self, first: Part) -> Vec<Part> {
        let mut parts = vec![first];
        if !batch::is_small(first, self.table(first)) {
            return parts;
        }
        let share = self.wave.queue.len() / self.wave.plan.jobs.max(1);
        // The queue is sorted by size: what follows is no larger.
        while parts.len() < share.min(batch::TABLES_MAX)
            && let Ok(next) = self.wave.queue.try_recv()
        {
            parts.push(next);
        }
        parts
    }

    /// Copies whole tables in one transaction on either end; whatever stands in the way is met table by table.
    async fn copy_together(&mut self, parts: &[Part]) -> Result<Together> {
        let wave = Arc::clone(&self.wave);
        for part in parts {
            self.start(*part).await;
        }
        self.take_turn().await;
        let copied = match self.connect().await {
            Ok(ends) => batch::copy(ends, &wave.plan, parts).await,
            Err(error) => Err(error),
        };
        match copied {
            Ok(Some(copied)) => {
                for (part, (rows, bytes)) in parts.iter().zip(copied) {
                    self.count(*part, rows, bytes).await?;
                }
                return Ok(Together::Done);
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(error = %crate::error::describe(&error), "small tables go one by one");
            }
        }
        self.ends = None;
        Ok(Together::NotThisWay)
    }

    async fn copy_alone(&mut self, part: Part) -> Result<Left> {
        self.start(part).await;
        if self.wave.progress[part.table].put_off.get().is_some() {
            return Ok(Left::Nothing);
        }
        self.take_turn().await;
        match self.copy_patiently(part).await? {
            Copied::Rows { rows, bytes } => self.count(part, rows, bytes).await?,
            Copied::PutOff(why) => {
                tracing::info!(relation = %self.table(part).name.plain(), ?why, "table put off");
                let _ = self.wave.progress[part.table].put_off.set(why);
                if why == PutOff::Rewritten && self.wave.plan.rewritten == OnRewrite::End {
                    return Ok(Left::TheWave);
                }
            }
        }
        Ok(Left::Nothing)
    }

    /// Says that a table is begun, once.
    async fn start(&self, part: Part) {
        if self.wave.progress[part.table].started.set(Instant::now()).is_ok() {
            let table = self.table(part);
            self.tell(CopyEvent::Started { name: table.name.clone(), bytes: table.bytes }).await;
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

    fn table(&self, part: Part) -> &TableCopy {
        &self.wave.plan.tables[part.table]
    }

    /// Tries a part again while the error is one that a new connection may cure.
    ///
    /// For room on a disk and for a connection it waits as long as it takes, under the same snapshot: what other
    /// parts of the table have brought would be lost with it.
    async fn copy_patiently(&mut self, part: Part) -> Result<Copied> {
        let (mut attempt, mut tries) = (1, 0_u64);
        loop {
            tries += 1;
            // The last attempt may have committed although its answer never came.
            let tried = if tries == 1 { Ok(None) } else { self.copied_before(part).await };
            let tried = match tried {
                Ok(Some(copied)) => Ok(copied),
                Ok(None) => self.copy(part).await,
                Err(error) => Err(error),
            };
            let error = match tried {
                Ok(copied) => {
                    // Others may have had room all the time.
                    if tries > 1 {
                        self.wave.plan.held_up.made_headway();
                    }
                    return Ok(copied);
                }
                Err(error) => error,
            };
            self.ends = None;
            if let Some(obstacle) = Obstacle::of(&error) {
                let pause = self.wave.plan.held_up.by_error(obstacle, &self.explain(part, error));
                tokio::time::sleep(pause).await;
                continue;
            }
            if error.sqlstate() == Some(SqlState::LOCK_NOT_AVAILABLE) {
                return Ok(Copied::PutOff(PutOff::Locked));
            }
            let is_unresolved = error.sqlstate().is_some_and(|state| state.is_unresolved());
            if is_unresolved && self.search_path == SearchPath::Empty {
                tracing::info!(relation = %self.table(part).name.plain(), "loading under the source's search_path");
                self.search_path = SearchPath::Sources;
                continue;
            }
            // A part that is noted twice was copied before, by a COMMIT whose answer was lost.
            let twin =
                tries > 1 && part.range.is_some() && error.sqlstate() == Some(SqlState::UNIQUE_VIOLATION);
            if (error.recovery() != Recovery::Retry && !twin) || attempt == ATTEMPTS {
                return Err(self.explain(part, error));
            }
            tracing::warn!(
                relation = %self.table(part).name.plain(),
                error = %crate::error::describe(&error),
                attempt,
                "copy of a part broke off; trying again"
            );
            // Nothing to wait for but time: the server is away.
            tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
            attempt += 1;
        }
    }

    fn explain(&self, part: Part, error: Error) -> Error {
        let doing = format!("copy table {}", self.table(part).name.plain());
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

    /// What the ledger says of a part; a whole table is simply emptied and loaded again.
    async fn copied_before(&mut self, part: Part) -> Result<Option<Copied>> {
        let Some(range) = part.range else { return Ok(None) };
        let note = ledger::find_part(&self.table(part).name, range);
        let rows = self.connect().await?.target.query(&note).await?;
        let number = |index| rows.first().and_then(|row| row.get(index)?.parse().ok());
        Ok(number(0).zip(number(1)).map(|(rows, bytes)| Copied::Rows { rows, bytes }))
    }

    async fn connect(&mut self) -> Result<&mut Ends> {
        if self.ends.is_none() {
            let plan = &self.wave.plan;
            let source = Connection::connect(&plan.source, &settings("copy", plan)).await?;
            let settings = target_settings(plan, self.search_path);
            let mut target = Connection::connect(&plan.target, &settings).await?;
            if plan.replica_role == LoadRole::ReplicaThroughAivenExtras {
                target.query("SELECT aiven_extras.session_replication_role('replica')").await?;
            }
            self.ends = Some(Ends { source, target });
        }
        Ok(self.ends.as_mut().expect("connected above"))
    }

    async fn copy(&mut self, part: Part) -> Result<Copied> {
        let wave = Arc::clone(&self.wave);
        let plan = &wave.plan;
        let table = &plan.tables[part.table];
        let Ends { source, target } = self.connect().await?;

        if open_part(source, plan, part).await? == Opened::Rewritten {
            source.execute("ROLLBACK").await?;
            return Ok(Copied::PutOff(PutOff::Rewritten));
        }
        let (prelude, freeze) = match part.range {
            None => {
                let (emptied, freeze) = empty(plan, table);
                (format!("BEGIN; {emptied}"), freeze)
            }
            Some(_) => ("BEGIN".to_owned(), Freeze::No),
        };
        target.execute(&prelude).await?;
        let spliced =
            splice(source, &table.copy_out(part.range), target, &table.copy_in(freeze), &plan.meter).await?;
        let note = match part.range {
            None => ledger::table_done(&table.name, plan.watermark, spliced.rows, spliced.bytes),
            Some(range) => ledger::part_done(&table.name, range, plan.watermark, spliced.rows, spliced.bytes),
        };
        noted(target.execute(&note).await?)?;
        source.execute("COMMIT").await?;
        target.execute("COMMIT").await?;
        Ok(Copied::Rows { rows: spliced.rows, bytes: spliced.bytes })
    }

    /// Adds a part to its table, and completes the table with its last part.
    async fn count(&mut self, part: Part, rows: u64, bytes: u64) -> Result<()> {
        let wave = Arc::clone(&self.wave);
        let progress = &wave.progress[part.table];
        let table = &wave.plan.tables[part.table];
        let rows = progress.rows.fetch_add(rows, Ordering::AcqRel) + rows;
        let bytes = progress.bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if progress.parts_left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return Ok(());
        }
        if part.range.is_some() {
            let Ends { target, .. } = self.connect().await?;
            let note = ledger::parts_done(&table.name, wave.plan.watermark, rows, bytes);
            noted(target.execute(&note).await?)?;
        }
        let elapsed = progress.started.get().map_or(Duration::ZERO, Instant::elapsed);
        self.tell(CopyEvent::Done(CopiedTable { name: table.name.clone(), rows, bytes, elapsed })).await;
        Ok(())
    }

    async fn tell(&self, event: CopyEvent) {
        // A conductor that no longer listens is going down, and this task with it.
        let _ = self.wave.events.send(event).await;
    }
}

/// The statement that empties a table before it is loaded, and whether its rows can then be frozen (P86).
///
/// Foreign keys that exist already forbid TRUNCATE of what they refer to, whoever asks.
fn empty(plan: &CopyPlan, table: &TableCopy) -> (String, Freeze) {
    match plan.replica_role {
        LoadRole::Origin => (format!("TRUNCATE ONLY {}", table.name), Freeze::Yes),
        LoadRole::Replica | LoadRole::ReplicaThroughAivenExtras => {
            (format!("DELETE FROM ONLY {}", table.name), Freeze::No)
        }
    }
}

fn target_settings(plan: &CopyPlan, search_path: SearchPath) -> ConnectionSettings {
    let settings = match search_path {
        SearchPath::Empty => settings("load", plan),
        // What our own statements name stays PostgreSQL's (P57).
        SearchPath::Sources => {
            settings("load", plan).set("search_path", format!("pg_catalog, {}", plan.search_path))
        }
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

/// A note in the ledger must touch its one row; anything else means that the table is not ours to load now.
fn noted(rows: u64) -> Result<()> {
    if rows == 1 {
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
