//! One copy by one contestant, to an empty database.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pgstream::error::{Error, ErrorKind, Result};
use pgstream::migrate::Options;
use pgstream::wire::Session;
use serde_json::Value;

use super::dataset::{DataSet, Limit, Native};
use super::{SOURCE, TARGET};
use crate::process::{Running, Usage};
use crate::stage::{Stage, number, run};

const SUBSCRIPTION: &str = "bench_copy";
/// With a number after it: the database of a contestant that is done.
const ASIDE: &str = "aside";
/// Between two looks at a subscription.
const POLL: Duration = Duration::from_millis(20);
/// A subscription that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(900);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Contestant {
    DumpDirectory,
    DumpPipe,
    Native,
    Pgcopydb,
    Pgstream,
}

/// How a copy went.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Outcome {
    pub(super) seconds: f64,
    /// CPU of everything: tools and both servers.
    pub(super) cpu: f64,
    /// What only pgstream tells of itself.
    pub(super) own: Option<Own>,
}

/// pgstream's own account, and its process's.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Own {
    /// The phase in which rows are copied.
    pub(super) copy_seconds: f64,
    /// CPU of its own threads, without the tools that it runs.
    pub(super) cpu: f64,
    /// COPY payload.
    pub(super) bytes: f64,
    pub(super) memory_bytes: f64,
}

/// Those whom pgstream is compared with.
pub(super) fn rivals(set: &DataSet) -> Vec<Contestant> {
    let mut rivals = vec![Contestant::DumpDirectory, Contestant::DumpPipe];
    if set.native == Native::Runs {
        rivals.push(Contestant::Native);
    }
    if pgcopydb_is_there() {
        rivals.push(Contestant::Pgcopydb);
    }
    rivals
}

fn pgcopydb_is_there() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join("pgcopydb").is_file())
}

/// What every contestant is given.
pub(super) fn jobs() -> String {
    Options::default_copy_jobs().to_string()
}

/// Copies the source to a target of its own, which stays for whoever looks at it.
pub(super) async fn once(stage: &Stage, set: &DataSet, contestant: Contestant) -> Result<Outcome> {
    make_room(stage, set).await?;
    stage.target.create_database(TARGET).await?;
    if contestant == Contestant::Native {
        dump_definitions(stage, TARGET, &[]).await?;
    }
    stage.settle().await?;
    let before = stage.cpu();
    let (usage, own) = match contestant {
        Contestant::DumpDirectory => (by_directory(stage).await?, None),
        Contestant::DumpPipe => (by_pipe(stage).await?, None),
        Contestant::Native => (subscribe(stage).await?, None),
        Contestant::Pgcopydb => (pgcopydb(stage).await?, None),
        Contestant::Pgstream => {
            let mut migrate = stage.migrate(SOURCE, TARGET, None);
            for table in set.insert_only {
                migrate.args(["--insert-only", table]);
            }
            let (usage, own) = pgstream(migrate).await?;
            (usage, Some(own))
        }
    };
    let after = stage.cpu();
    let servers = after.source - before.source + after.target - before.target;
    Ok(Outcome {
        seconds: usage.wall.as_secs_f64(),
        cpu: usage.own_seconds + usage.children_seconds + servers,
        own,
    })
}

/// Takes the last contestant's database away. Where it is of many files it is kept until the data set is done: for a
/// minute or more after thousands of them went, ext4 goes to great lengths not to use their inodes for new ones.
async fn make_room(stage: &Stage, set: &DataSet) -> Result<()> {
    if set.limit == Limit::Measured {
        return stage.target.drop_database(TARGET).await;
    }
    let session = stage.target.session("postgres").await?;
    if databases(&session, TARGET).await? > 0 {
        let aside = databases(&session, &format!("{ASIDE}%")).await?;
        run(&session, &format!("ALTER DATABASE {TARGET} RENAME TO {ASIDE}{aside}")).await?;
    }
    Ok(())
}

/// Drops every database of a data set.
pub(super) async fn clear(stage: &Stage) -> Result<()> {
    stage.source.drop_database(SOURCE).await?;
    stage.target.drop_database(TARGET).await?;
    let session = stage.target.session("postgres").await?;
    for at in 0..databases(&session, &format!("{ASIDE}%")).await? {
        stage.target.drop_database(&format!("{ASIDE}{at}")).await?;
    }
    Ok(())
}

/// How many have a name LIKE this.
async fn databases(session: &Session, like: &str) -> Result<i64> {
    number(session, &format!("SELECT count(*) FROM pg_catalog.pg_database WHERE datname LIKE '{like}'")).await
}

/// Uncompressed: between two servers of one machine compression only costs.
async fn by_directory(stage: &Stage) -> Result<Usage> {
    let folder = folder()?;
    let archive = folder.path().join("dump");
    let mut dump = stage.program("pg_dump");
    dump.args(["-Fd", "-Z0", "-j", &jobs(), "-f"]).arg(&archive).args(["-d", &stage.source_dsn(SOURCE)]);
    let dumped = Running::start(dump)?.finish().await?;
    let mut restore = stage.program("pg_restore");
    restore.args(["-j", &jobs(), "-d", &stage.target_dsn(TARGET)]).arg(&archive);
    let restored = Running::start(restore)?.finish().await?;
    Ok(both(dumped, restored, dumped.wall + restored.wall))
}

async fn by_pipe(stage: &Stage) -> Result<Usage> {
    let mut dump = stage.program("pg_dump");
    dump.args(["-Fc", "-Z0", "-d", &stage.source_dsn(SOURCE)]);
    let mut restore = stage.program("pg_restore");
    restore.args(["-d", &stage.target_dsn(TARGET)]);
    piped(dump, restore).await
}

async fn piped(mut from: Command, into: Command) -> Result<Usage> {
    let broken = |cause| Error::new(ErrorKind::Local, "make a pipe").because(cause);
    let (reader, writer) = std::io::pipe().map_err(broken)?;
    from.stdout(Stdio::from(writer));
    let from = Running::start(from)?;
    let into = Running::start_reading(into, reader)?;
    let (one, other) = tokio::try_join!(from.finish(), into.finish())?;
    Ok(both(one, other, one.wall.max(other.wall)))
}

/// Definitions of the source into a database of the target: all, or only a section.
pub(super) async fn dump_definitions(stage: &Stage, into: &str, more: &[&str]) -> Result<()> {
    let mut dump = stage.program("pg_dump");
    dump.args(["-Fc", "-s", "-d", &stage.source_dsn(SOURCE)]).args(more);
    let mut restore = stage.program("pg_restore");
    restore.args(["-d", &stage.target_dsn(into)]);
    piped(dump, restore).await.map(drop)
}

async fn subscribe(stage: &Stage) -> Result<Usage> {
    let (source, target) = (stage.source.session(SOURCE).await?, stage.target.session(TARGET).await?);
    run(&source, &format!("DROP PUBLICATION IF EXISTS {SUBSCRIPTION}")).await?;
    run(&source, &format!("CREATE PUBLICATION {SUBSCRIPTION} FOR ALL TABLES")).await?;
    let connection = stage.source_dsn(SOURCE).replace('\'', "''");
    let begun = Instant::now();
    run(
        &target,
        &format!("CREATE SUBSCRIPTION {SUBSCRIPTION} CONNECTION '{connection}' PUBLICATION {SUBSCRIPTION}"),
    )
    .await?;
    while number(&target, "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'").await? > 0 {
        if begun.elapsed() > PATIENCE {
            return Err(Error::new(ErrorKind::Copy, "see a subscription's tables copied in time"));
        }
        tokio::time::sleep(POLL).await;
    }
    let wall = begun.elapsed();
    run(&target, &format!("DROP SUBSCRIPTION {SUBSCRIPTION}")).await?;
    run(&source, &format!("DROP PUBLICATION {SUBSCRIPTION}")).await?;
    Ok(Usage { wall, ..Usage::default() })
}

async fn pgcopydb(stage: &Stage) -> Result<Usage> {
    let folder = folder()?;
    let mut clone = Command::new("pgcopydb");
    clone
        .args(["clone", "--table-jobs", &jobs(), "--index-jobs", &jobs(), "--dir"])
        .arg(folder.path().join("work"));
    clone.args(["--source", &stage.source_dsn(SOURCE), "--target", &stage.target_dsn(TARGET)]);
    // It speaks much.
    clone.stdout(Stdio::null());
    Running::start(clone)?.finish().await
}

/// Runs a `pgstream migrate`, and reads what it reports.
pub(super) async fn pgstream(mut migrate: Command) -> Result<(Usage, Own)> {
    let folder = folder()?;
    let file = folder.path().join("report.json");
    migrate.args(["--stop-replication", "-j", &jobs(), "--report"]).arg(&file);
    let usage = Running::start(migrate)?.finish().await?;
    let failed = |cause| Error::new(ErrorKind::Local, "read pgstream's report").because(cause);
    let report = std::fs::read(&file).map_err(failed)?;
    let report: Value = serde_json::from_slice(&report)
        .map_err(|cause| Error::new(ErrorKind::Bug, "understand pgstream's report").because(cause))?;
    let database = &report["databases"][0];
    let phases = database["phases"].as_array();
    let copying = phases.into_iter().flatten().filter(|phase| phase["phase"] == "copying");
    let own = Own {
        copy_seconds: copying.filter_map(|phase| phase["seconds"].as_f64()).sum(),
        cpu: usage.own_seconds,
        bytes: database["bytes_copied"].as_f64().unwrap_or(f64::NAN),
        memory_bytes: usage.memory_bytes as f64,
    };
    Ok((usage, own))
}

pub(super) fn folder() -> Result<tempfile::TempDir> {
    let failed = |cause| Error::new(ErrorKind::Local, "make a directory to work in").because(cause);
    tempfile::tempdir().map_err(failed)
}

fn both(one: Usage, other: Usage, wall: Duration) -> Usage {
    Usage {
        wall,
        own_seconds: one.own_seconds + other.own_seconds,
        children_seconds: one.children_seconds + other.children_seconds,
        memory_bytes: one.memory_bytes.max(other.memory_bytes),
    }
}
