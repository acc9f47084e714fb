//! A workload's databases and slots: one backlog, carried over as often as one likes.
//!
//! Hazard: two drains are comparable only from the same bytes to the same bytes. So the backlog is written
//! once, behind a slot that nobody reads; each run gets a copy of that slot and a copy of the target as it was
//! before.
//!
//! ```text
//!   source:  ── slot "keep" ──┬── backlog ── mark ─▶        target:  database "base" (before the backlog)
//!                             ╰ copied for each run                    ╰ copied for each run
//! ```

use std::io::Write as _;
use std::time::{Duration, Instant};

use pgstream::error::{Error, ErrorKind, Result};
use pgstream::wire::Session;

use super::workload::{Backlog, CLIENTS, Start, Workload};
use crate::process::Running;
use crate::stage::{Stage, number, run};

const SOURCE: &str = "origin";
const BASE: &str = "base";
pub(super) const TARGET: &str = "running";
const KEEP: &str = "bench_keep";
/// Slots of the contestants that have none of their own.
pub(super) const NATIVE: &str = "bench_native";
pub(super) const DRAIN: &str = "bench_drain";

/// The last transaction of each backlog is seen here.
const MARKS: &str = "CREATE TABLE public.bench_mark (id bigint PRIMARY KEY)";

pub(super) struct Arena<'a> {
    pub(super) stage: &'a Stage,
    pub(super) source: Session,
    witness: &'static str,
    /// The migration's slot.
    pub(super) slot: String,
    /// The migration's publications, quoted and joined by commas.
    pub(super) publications: String,
    /// pgbench's, where its tables are used.
    scale: u64,
    insert_only: &'static [&'static str],
}

/// Where a backlog ends.
#[derive(Debug, Clone)]
pub(super) struct End {
    pub(super) mark: i64,
    /// Where the mark's commit ends.
    pub(super) lsn: String,
    /// What the witness says of the source.
    pub(super) witness: i64,
}

impl<'a> Arena<'a> {
    /// Makes the workload's tables, brings `base` in step with them, and keeps the position.
    pub(super) async fn open(stage: &'a Stage, workload: &Workload) -> Result<Arena<'a>> {
        stage.source.create_database(SOURCE).await?;
        let source = stage.source.session(SOURCE).await?;
        let (mut scale, mut insert_only): (u64, &[&str]) = (1, &[]);
        match &workload.start {
            Start::Pgbench { scale: wanted } => {
                // It has no key, and only ever grows.
                (scale, insert_only) = (*wanted, &["--insert-only", "public.pgbench_history"]);
                stage.pgbench(SOURCE, &["-i", "-q", "-s", &scale.to_string()]).await?;
            }
            Start::Sql(sql) => run(&source, sql).await?,
        }
        run(&source, MARKS).await?;
        run(&source, "VACUUM ANALYZE").await?;
        // How a backlog comes to be is not measured.
        run(&source, &format!("ALTER DATABASE {SOURCE} SET synchronous_commit = off")).await?;
        let source = stage.source.session(SOURCE).await?;
        stage.target.create_database(BASE).await?;
        let (witness, nothing) = (workload.witness, String::new());
        let mut arena = Arena {
            stage,
            source,
            witness,
            slot: nothing.clone(),
            publications: nothing,
            scale,
            insert_only,
        };
        arena.catch_up().await?;
        let sql =
            "SELECT slot_name::text FROM pg_catalog.pg_replication_slots WHERE slot_name LIKE 'pgstream%'";
        arena.slot = text(&arena.source, sql).await?;
        let sql = "SELECT string_agg(quote_ident(pubname), ',') FROM pg_catalog.pg_publication";
        arena.publications = text(&arena.source, sql).await?;
        arena.copy_slot(&arena.slot, KEEP).await?;
        Ok(arena)
    }

    /// Removes it all, so that the next workload finds an empty disk.
    pub(super) async fn close(self) -> Result<()> {
        let Arena { stage, source, .. } = self;
        drop_slots(&source, "true").await?;
        drop(source);
        for dbname in [TARGET, BASE] {
            stage.target.drop_database(dbname).await?;
        }
        stage.source.drop_database(SOURCE).await
    }

    /// Writes a backlog and its mark.
    pub(super) async fn write(&self, backlog: &Backlog, transactions: u64, mark: i64) -> Result<End> {
        let (each, clients, scale) =
            ((transactions / CLIENTS).to_string(), CLIENTS.to_string(), self.scale.to_string());
        match backlog {
            Backlog::Sql(sql) => run(&self.source, sql).await?,
            Backlog::TpcB => {
                let all = ["-n", "-M", "prepared", "-c", &clients, "-j", "2", "-t", &each, "-s", &scale];
                self.stage.pgbench(SOURCE, &all).await?;
            }
            Backlog::Script { text, protocol, rows } => {
                let file = script(text)?;
                let (path, rows) = (file.path().display().to_string(), format!("rows={rows}"));
                let all =
                    ["-n", "-M", protocol, "-c", &clients, "-j", "2", "-t", &each, "-D", &rows, "-f", &path];
                self.stage.pgbench(SOURCE, &all).await?;
            }
        }
        self.mark(mark).await
    }

    /// Makes the mark, after everything that was written.
    pub(super) async fn mark(&self, mark: i64) -> Result<End> {
        run(&self.source, &format!("INSERT INTO public.bench_mark VALUES ({mark})")).await?;
        let lsn = text(&self.source, "SELECT pg_catalog.pg_current_wal_insert_lsn()::text").await?;
        let witness = number(&self.source, self.witness).await?;
        // A walsender sends what is flushed; with asynchronous commits the last page waits.
        run(&self.source, "SELECT pg_catalog.pg_switch_wal()").await?;
        Ok(End { mark, lsn, witness })
    }

    /// `pgstream migrate` into a database of the target, by way of that port.
    pub(super) fn migrate(&self, to: &str, port: Option<u16>, more: &[&str]) -> Result<Running> {
        let mut command = self.stage.migrate(SOURCE, to, port);
        command.args(self.insert_only).args(more);
        Running::start(command)
    }

    /// `base` holds everything that the source does.
    async fn catch_up(&self) -> Result<()> {
        self.migrate(BASE, None, &["--until", "caught-up"])?.finish().await.map(drop)
    }

    /// All that was written is part of `base` from now on.
    pub(super) async fn move_base(&self) -> Result<()> {
        self.take(&self.slot).await?;
        self.catch_up().await?;
        self.copy_slot(&self.slot, KEEP).await
    }

    /// A slot at the beginning of the backlog.
    pub(super) async fn take(&self, slot: &str) -> Result<()> {
        self.copy_slot(KEEP, slot).await
    }

    async fn copy_slot(&self, from: &str, to: &str) -> Result<()> {
        drop_slots(&self.source, &format!("slot_name = '{to}'")).await?;
        run(&self.source, &format!("SELECT pg_catalog.pg_copy_logical_replication_slot('{from}', '{to}')"))
            .await
    }

    /// The target as it was before the backlog.
    pub(super) async fn fresh_target(&self) -> Result<Session> {
        let control = self.stage.target.session("postgres").await?;
        self.stage.target.drop_database(TARGET).await?;
        // As files, the way before 15; it also writes dirty pages out, so that nobody pays for the one before.
        let strategy =
            if self.stage.target.installation().version().major() >= 15 { "STRATEGY file_copy" } else { "" };
        run(&control, &format!("CREATE DATABASE {TARGET} TEMPLATE {BASE} {strategy}")).await?;
        let target = self.stage.target.session(TARGET).await?;
        // The engine ends sessions in its target that look like those of an engine before it.
        run(&target, "SET application_name = 'bench'").await?;
        Ok(target)
    }

    /// The native subscription of the same publications.
    pub(super) async fn subscribe(&self, target: &Session) -> Result<()> {
        self.take(NATIVE).await?;
        let connection = self.stage.source_dsn(SOURCE).replace('\'', "''");
        let create = format!(
            "CREATE SUBSCRIPTION {NATIVE} CONNECTION '{connection}' PUBLICATION {} WITH (slot_name = '{NATIVE}', \
             create_slot = false, copy_data = false{})",
            self.publications,
            match self.stage.source.installation().version().major() {
                ..14 => "",
                14 | 15 => ", streaming = on",
                16.. => ", streaming = parallel",
            }
        );
        run(target, &create).await
    }

    pub(super) async fn unsubscribe(&self, target: &Session) -> Result<()> {
        run(target, &format!("ALTER SUBSCRIPTION {NATIVE} DISABLE")).await?;
        run(target, &format!("DROP SUBSCRIPTION {NATIVE}")).await
    }

    /// What one walsender can send: all of the backlog, written away.
    pub(super) async fn drain(&self, end: &End) -> Result<Running> {
        self.take(DRAIN).await?;
        let mut command = self.stage.program("pg_recvlogical");
        command.args(["--start", "--no-loop", "-S", DRAIN, "-F", "0", "-f", "-", "-E", &end.lsn]);
        let streams = self.stage.source.installation().version().major() >= 14;
        command.args(["-o", if streams { "proto_version=2" } else { "proto_version=1" }]);
        command.args(["-o", &format!("publication_names={}", self.publications)]);
        if streams {
            command.args(["-o", "streaming=on"]);
        }
        command.args(["-d", &self.stage.source_dsn(SOURCE)]).stdout(std::process::Stdio::null());
        Running::start(command)
    }

    /// pgbench at a rate, for a time; without a rate, as fast as it can.
    pub(super) fn writers(&self, seconds: u64, per_second: Option<f64>) -> Result<Running> {
        let mut command = self.stage.program("pgbench");
        let (clients, scale) = (CLIENTS.to_string(), self.scale.to_string());
        command.args(["-n", "-M", "prepared", "-c", &clients, "-j", "2", "-s", &scale]);
        command.args(["-T", &seconds.to_string()]);
        if let Some(rate) = per_second {
            command.args(["-R", &format!("{rate:.0}")]);
        }
        command.arg(self.stage.source_dsn(SOURCE)).stdout(std::process::Stdio::null());
        Running::start(command)
    }

    pub(super) async fn source_session(&self) -> Result<Session> {
        self.stage.source.session(SOURCE).await
    }

    /// Whether the target holds everything that the source held at the mark.
    pub(super) async fn is_whole(&self, target: &Session, end: &End) -> Result<bool> {
        Ok(number(target, self.witness).await? == end.witness)
    }
}

/// Drops slots; a walsender that still holds one is ended first.
async fn drop_slots(source: &Session, which: &str) -> Result<()> {
    let slots = format!("pg_catalog.pg_replication_slots WHERE database = current_database() AND {which}");
    let held = format!("SELECT count(pg_catalog.pg_terminate_backend(active_pid)) FROM {slots}");
    let begun = Instant::now();
    while number(source, &held).await? > 0 {
        if begun.elapsed() > Duration::from_secs(30) {
            return Err(Error::new(ErrorKind::Slot, "drop a slot that somebody holds"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    run(source, &format!("SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM {slots}")).await
}

async fn text(session: &Session, sql: &str) -> Result<String> {
    let row = session.query_one(sql, &[]).await;
    row.map(|row| row.get(0)).map_err(|cause| Error::from_postgres(format!("ask {sql}"), cause))
}

fn script(text: &str) -> Result<tempfile::NamedTempFile> {
    let failed = |cause| Error::new(ErrorKind::Local, "write a script for pgbench").because(cause);
    let mut file = tempfile::NamedTempFile::new().map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    Ok(file)
}
