//! Catching up with a backlog, beside a native subscription.
//!
//! Hazard: two drains are comparable only from the same bytes to the same bytes. So the backlog is written
//! once, behind a slot that nobody reads; each run gets a copy of that slot and a copy of the target as it was
//! before, and ends when the backlog's last row is seen on the target. Contestants take turns in going first.
//!
//! ```text
//!   source:  ── slot "keep" ──┬── backlog ── mark ─▶        target:  database "base" (before the backlog)
//!                             ╰ copied for each run                    ╰ copied for each run
//! ```

use std::io::Write as _;
use std::time::{Duration, Instant};

use pgstream::error::{Error, ErrorKind, Result};
use pgstream::wire::Session;

use crate::Size;
use crate::process::{Running, cpu_seconds};
use crate::stage::{Servers, Stage, number, run};
use crate::table::{Run, Table};

const HEADING: [&str; 10] = [
    "start s",
    "drain s",
    "trans./s",
    "changes/s",
    "source CPU s",
    "engine CPU s",
    "target CPU s",
    "sender busy %",
    "apply busy %",
    "peak MB",
];
/// The column that is compared: `drain s`.
const DRAIN: usize = 1;

const SOURCE: &str = "teller";
const BASE: &str = "base";
const TARGET: &str = "running";
const KEEP: &str = "bench_keep";
const NATIVE: &str = "bench_native";
/// Between two looks at how far a drain has come.
const POLL: Duration = Duration::from_millis(10);
/// A drain that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(1800);

const TABLES: &str = "
CREATE TABLE public.bench_mark (id bigint PRIMARY KEY);
CREATE TABLE public.bench_event (
    id bigserial PRIMARY KEY, account integer NOT NULL, amount numeric(12, 2) NOT NULL, note text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp())";

/// A backlog, as a pgbench script.
struct Backlog {
    name: &'static str,
    /// None is pgbench's own TPC-B-like transaction.
    script: Option<&'static str>,
    changes_each: u64,
}

const BACKLOGS: [Backlog; 3] = [
    Backlog { name: "TPC-B: 3 updates, 1 insert", script: None, changes_each: 4 },
    Backlog {
        name: "10 inserts",
        script: Some(
            "INSERT INTO public.bench_event (account, amount, note) \
             SELECT n, n * 1.25, 'event of ' || n FROM generate_series(1, 10) AS n;",
        ),
        changes_each: 10,
    },
    Backlog {
        name: "1 update by key",
        script: Some(
            "\\set aid random(1, 100000 * :scale)\n\
             UPDATE public.pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;",
        ),
        changes_each: 1,
    },
];

#[derive(Clone, Copy)]
enum Contestant {
    Native,
    Pgstream,
}

const CONTESTANTS: [Contestant; 2] = [Contestant::Native, Contestant::Pgstream];

/// Measures, and gives one table for each kind of backlog.
pub(crate) async fn measure(stage: &Stage, size: &Size) -> Result<()> {
    let scale = size.catch_up_scale.to_string();
    stage.source.create_database(SOURCE).await?;
    stage.pgbench(SOURCE, &["-i", "-q", "-s", &scale]).await?;
    let source = stage.source.session(SOURCE).await?;
    run(&source, TABLES).await?;
    stage.target.create_database(BASE).await?;
    let arena = Arena { stage, source, slot: String::new(), publications: String::new(), scale };
    let arena = arena.in_step().await?;
    for (number, backlog) in (1..).zip(&BACKLOGS) {
        let transactions = size.transactions / if backlog.changes_each == 10 { 4 } else { 1 };
        arena.write(backlog, transactions, number).await?;
        let mut runs: [Vec<Run<10>>; 2] = Default::default();
        for repetition in 0..size.repetitions {
            for step in 0..CONTESTANTS.len() {
                let at = (step + repetition) % CONTESTANTS.len();
                runs[at].push(arena.once(CONTESTANTS[at], backlog, transactions, number).await?);
            }
        }
        let mut table = Table::new(HEADING, DRAIN);
        for (contestant, runs) in CONTESTANTS.iter().zip(&runs) {
            table.add(contestant.name(), runs);
        }
        println!("\nCatching up with {transactions} transactions of {}\n\n{table}", backlog.name);
        arena.move_base().await?;
    }
    Ok(())
}

struct Arena<'a> {
    stage: &'a Stage,
    source: Session,
    /// The migration's slot.
    slot: String,
    /// The migration's publications, quoted and joined by commas.
    publications: String,
    scale: String,
}

impl Arena<'_> {
    /// Brings `base` in step with the source, and keeps the position.
    async fn in_step(mut self) -> Result<Self> {
        let mut migrate = self.stage.migrate(SOURCE, BASE);
        migrate.args(["--until", "caught-up"]);
        Running::start(migrate)?.finish().await?;
        let sql =
            "SELECT slot_name::text FROM pg_catalog.pg_replication_slots WHERE slot_name LIKE 'pgstream%'";
        self.slot = text(&self.source, sql).await?;
        let sql = "SELECT string_agg(quote_ident(pubname), ', ') FROM pg_catalog.pg_publication";
        self.publications = text(&self.source, sql).await?;
        self.copy_slot(&self.slot, KEEP).await?;
        Ok(self)
    }

    async fn copy_slot(&self, from: &str, to: &str) -> Result<()> {
        let drop = format!(
            "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots \
             WHERE slot_name = '{to}'"
        );
        run(&self.source, &drop).await?;
        run(&self.source, &format!("SELECT pg_catalog.pg_copy_logical_replication_slot('{from}', '{to}')"))
            .await
    }

    /// Writes a backlog and its mark.
    async fn write(&self, backlog: &Backlog, transactions: u64, mark: i64) -> Result<()> {
        const CLIENTS: u64 = 8;
        let each = (transactions / CLIENTS).to_string();
        let scale = format!("scale={}", self.scale);
        let clients = CLIENTS.to_string();
        let mut arguments = vec!["-n", "-M", "prepared", "-c", &clients, "-j", "2", "-t", &each];
        let script = backlog.script.map(script).transpose()?;
        let path = script.as_ref().map(|file| file.path().display().to_string());
        if let Some(path) = &path {
            arguments.extend(["-f", path, "-D", &scale]);
        }
        // How the backlog comes to be is not measured.
        run(&self.source, "ALTER DATABASE teller SET synchronous_commit = off").await?;
        self.stage.pgbench(SOURCE, &arguments).await?;
        run(&self.source, &format!("INSERT INTO public.bench_mark VALUES ({mark})")).await?;
        run(&self.source, "SELECT pg_catalog.pg_switch_wal()").await
    }

    /// The backlog is part of `base` from now on.
    async fn move_base(&self) -> Result<()> {
        self.copy_slot(KEEP, &self.slot).await?;
        let mut migrate = self.stage.migrate(SOURCE, BASE);
        migrate.args(["--until", "caught-up"]);
        Running::start(migrate)?.finish().await?;
        self.copy_slot(&self.slot, KEEP).await
    }

    async fn once(
        &self,
        contestant: Contestant,
        backlog: &Backlog,
        transactions: u64,
        mark: i64,
    ) -> Result<Run<10>> {
        let control = self.stage.target.session("postgres").await?;
        run(&control, &format!("CREATE DATABASE {TARGET} TEMPLATE {BASE}")).await?;
        self.stage.settle().await?;
        let target = self.stage.target.session(TARGET).await?;
        // The engine ends sessions in its target that look like those of an engine before it.
        run(&target, "SET application_name = 'bench'").await?;
        let before = self.stage.cpu();
        let drain = match contestant {
            Contestant::Native => self.native(&target, mark).await?,
            Contestant::Pgstream => self.pgstream(&target, mark).await?,
        };
        self.same(&target).await?;
        match contestant {
            Contestant::Native => {
                run(&target, &format!("ALTER SUBSCRIPTION {NATIVE} DISABLE")).await?;
                run(&target, &format!("DROP SUBSCRIPTION {NATIVE}")).await?;
            }
            Contestant::Pgstream => {}
        }
        drop(target);
        self.stage.target.drop_database(TARGET).await?;
        let (start, took) = (drain.active.as_secs_f64(), (drain.done - drain.active).as_secs_f64());
        let Servers { source, target } = drain.servers;
        Ok([
            start,
            took,
            transactions as f64 / took,
            (transactions * backlog.changes_each) as f64 / took,
            source - before.source,
            drain.engine_seconds,
            target - before.target,
            100.0 * drain.sender_seconds / took,
            100.0 * drain.apply_seconds / took,
            drain.memory_bytes as f64 / 1e6,
        ])
    }

    async fn native(&self, target: &Session, mark: i64) -> Result<Drain> {
        self.copy_slot(KEEP, NATIVE).await?;
        let connection = self.stage.source.dsn(SOURCE).replace('\'', "''");
        // What the subscription waits for is what we measure: its own defaults, but for the streaming.
        let create = format!(
            "CREATE SUBSCRIPTION {NATIVE} CONNECTION '{connection}' PUBLICATION {} WITH (slot_name = '{NATIVE}', \
             create_slot = false, copy_data = false, streaming = on)",
            self.publications
        );
        let started = Instant::now();
        run(target, &create).await?;
        self.watch(target, NATIVE, mark, started, None).await
    }

    async fn pgstream(&self, target: &Session, mark: i64) -> Result<Drain> {
        self.copy_slot(KEEP, &self.slot).await?;
        let mut migrate = self.stage.migrate(SOURCE, TARGET);
        migrate.args(["--until", "caught-up"]);
        let started = Instant::now();
        let mut engine = Running::start(migrate)?;
        let drain = self.watch(target, &self.slot, mark, started, Some(&mut engine)).await?;
        engine.finish().await?;
        Ok(drain)
    }

    /// Follows a drain from its command to its last row.
    async fn watch(
        &self,
        target: &Session,
        slot: &str,
        mark: i64,
        started: Instant,
        mut engine: Option<&mut Running>,
    ) -> Result<Drain> {
        let sender = format!(
            "SELECT coalesce(max(active_pid), 0)::int8 FROM pg_replication_slots WHERE slot_name = '{slot}'"
        );
        let apply = "SELECT coalesce(max(pid), 0)::int8 FROM pg_catalog.pg_stat_activity \
                     WHERE datname = current_database() AND (application_name LIKE 'pgstream apply%' \
                     OR backend_type = 'logical replication worker')";
        let marked = format!("SELECT count(*) FROM public.bench_mark WHERE id = {mark}");
        let sender = wait_for_pid(&self.source, &sender, started).await?;
        let active = started.elapsed();
        let apply = wait_for_pid(target, apply, started).await?;
        let mut drain = Drain { active, ..Drain::default() };
        loop {
            let is_done = number(target, &marked).await? > 0;
            drain.sender_seconds = cpu_seconds(sender).unwrap_or(drain.sender_seconds);
            drain.apply_seconds = cpu_seconds(apply).unwrap_or(drain.apply_seconds);
            if let Some(engine) = &mut engine {
                engine.weigh();
                drain.engine_seconds = cpu_seconds(engine.pid()).unwrap_or(drain.engine_seconds);
                drain.memory_bytes = engine.memory_bytes();
            }
            if is_done {
                drain.done = started.elapsed();
                drain.servers = self.stage.cpu();
                return Ok(drain);
            }
            if started.elapsed() > PATIENCE {
                return Err(Error::new(ErrorKind::Apply, "see the end of a backlog in time"));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// A drain that lost something is no result.
    async fn same(&self, target: &Session) -> Result<()> {
        let sql = "SELECT (SELECT count(*) FROM public.pgbench_history) * 1000003
            + (SELECT sum(abalance) FROM public.pgbench_accounts) * 31
            + (SELECT count(*) + coalesce(sum(account), 0) FROM public.bench_event)::int8";
        let (ours, theirs) = (number(&self.source, sql).await?, number(target, sql).await?);
        if ours == theirs {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Apply, format!("end with the same rows (source {ours}, target {theirs})")))
    }
}

impl Contestant {
    fn name(self) -> &'static str {
        match self {
            Contestant::Native => "native subscription",
            Contestant::Pgstream => "pgstream",
        }
    }
}

/// How a drain went.
#[derive(Debug, Clone, Copy, Default)]
struct Drain {
    /// From the command to a walsender at work.
    active: Duration,
    /// From the command to the last row.
    done: Duration,
    engine_seconds: f64,
    sender_seconds: f64,
    apply_seconds: f64,
    memory_bytes: u64,
    servers: Servers,
}

async fn wait_for_pid(session: &Session, sql: &str, started: Instant) -> Result<u32> {
    loop {
        let pid = u32::try_from(number(session, sql).await?).unwrap_or(0);
        if pid > 0 {
            return Ok(pid);
        }
        if started.elapsed() > Duration::from_secs(60) {
            return Err(Error::new(ErrorKind::Slot, "see the stream begin"));
        }
        tokio::time::sleep(POLL).await;
    }
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
