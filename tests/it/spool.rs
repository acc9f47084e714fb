//! Changes wait on local disk while the target cannot take them: the source is rid of its WAL, and nothing is lost
//! by a kill, a full disk, a cut connection or a spool that is gone (P16, P17).

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::metrics::{get, metrics_address};
use crate::support::engine::Engine;
use crate::support::migration::{CAUGHT_UP, Hold, RUN, STOP, words};
use crate::support::scenario::{Footprint, Scenario, Side};
use crate::support::{PATIENCE, eventually};

pub(crate) const TABLES: &str = "
    CREATE TABLE held (id int PRIMARY KEY, v text);
    INSERT INTO held SELECT i, i FROM generate_series(1, 1000) AS i;
    CREATE TABLE busy (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, v text);
    INSERT INTO busy SELECT i, 0, i FROM generate_series(1, 1000) AS i";
/// Streams transactions in progress from 14 on, as soon as they are worth a message or two.
const STREAM_EARLY: [&str; 2] =
    ["ALTER SYSTEM SET logical_decoding_work_mem = '64kB'", "SELECT pg_reload_conf()"];
const AFTER: [&str; 2] = ["--spool-after", "1MB"];
const FULL: [&str; 4] = ["--spool-max", "200kB", "--metrics-addr", "127.0.0.1:0"];

/// A migration whose copy is held up by a lock on the target, with a folder for its spool.
struct HeldUp {
    scenario: Scenario,
    folder: tempfile::TempDir,
    engine: Engine,
    held: Hold,
    before: Footprint,
}

impl HeldUp {
    async fn begin(name: &str, more: &[&str]) -> HeldUp {
        HeldUp::begin_as(name, |scenario, words| {
            let mut all = words.to_vec();
            all.extend(more);
            scenario.migrate(&all)
        })
        .await
    }

    /// `start` runs the engine with the words it is given, and its own.
    async fn begin_as(name: &str, start: impl FnOnce(&Scenario, &[&str]) -> Engine) -> HeldUp {
        let scenario = Scenario::own(name).await;
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        scenario.source.execute(TABLES).await;
        if scenario.source.major() >= 14 {
            for statement in STREAM_EARLY {
                scenario.source.execute_alone(statement).await;
            }
        }
        let before = scenario.source.footprint().await;
        // The slot waits for this writer, so that the lock is taken before the copy comes to it.
        let writer = scenario.source.hold("CREATE TABLE public.undone ()").await;
        let engine = start(&scenario, &words(&[&["--copy-jobs", "1"], &work_dir(&folder)]));
        let published = "SELECT count(*) > 0 FROM pg_publication";
        eventually("the publication is made", async || scenario.source.holds(published).await).await;
        let held = scenario.target.hold("LOCK public.held").await;
        writer.release().await;
        eventually("the copy waits for the lock", async || scenario.target.holds(LOADING).await).await;
        HeldUp { scenario, folder, engine, held, before }
    }
}

pub(crate) fn work_dir(folder: &tempfile::TempDir) -> [&str; 2] {
    ["--work-dir", folder.path().to_str().unwrap()]
}

const LOADING: &str = "SELECT count(*) > 0 FROM pg_stat_activity
    WHERE application_name = 'pgstream load' AND wait_event_type = 'Lock' AND datname = current_database()";

/// The folder of the spool, once there is one.
pub(crate) fn spool(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let ours = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().ends_with("_spool");
    entries.into_iter().find(ours)
}

/// Writes about so many megabytes of WAL, in transactions of every sort.
pub(crate) async fn write(source: &Side, megabytes: u32, round: u32) {
    let session = source.session().await;
    for part in 0..megabytes {
        let base = 1_000_000 * (round + 1) + part * 1_000;
        let sql = format!(
            "INSERT INTO busy SELECT {base} + i, 0, repeat(md5(i::text), 25) FROM generate_series(1, 700) AS i;
             UPDATE busy SET n = n + 1 WHERE id <= 100;
             DELETE FROM busy WHERE id = {base} + 7;
             UPDATE held SET v = v || '.' WHERE id <= 10"
        );
        session.batch_execute(&sql).await.unwrap();
    }
}

/// Waits until the slot is confirmed up to where the source is now.
pub(crate) async fn confirmed_to_now(source: &Side, what: &str) {
    let now: String = source.value("SELECT pg_current_wal_insert_lsn()::text").await;
    let sql = format!(
        "SELECT bool_and(confirmed_flush_lsn >= '{now}') FROM pg_replication_slots WHERE slot_name NOT LIKE '%snapshot'"
    );
    eventually(what, async || source.holds(&sql).await).await;
}

pub(crate) const RETAINED: &str =
    "SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn))::bigint FROM pg_replication_slots";

#[tokio::test]
async fn a_copy_that_takes_long_does_not_keep_the_sources_wal() {
    let it = HeldUp::begin("spool_copy", &words(&[&STOP, &AFTER])).await;
    let Scenario { source, target } = &it.scenario;
    write(source, 20, 1).await;
    eventually("changes are spooled", async || spool(it.folder.path()).is_some()).await;
    confirmed_to_now(source, "what is spooled is confirmed").await;

    // A transaction in progress, half of it sent; then the connection goes, and it is sent again.
    let open = source.session().await;
    let half = "BEGIN; INSERT INTO busy SELECT -i, 1, repeat('a', 300) FROM generate_series(1, 2000) AS i;
        SAVEPOINT s; UPDATE busy SET v = 'never' WHERE id < -1000; DELETE FROM held WHERE id > 500;
        ROLLBACK TO SAVEPOINT s; INSERT INTO busy SELECT -i, 2, 'b' FROM generate_series(2001, 4000) AS i";
    open.batch_execute(half).await.unwrap();
    write(source, 2, 2).await;
    confirmed_to_now(source, "what is spooled is confirmed").await;
    assert!(source.terminate("stream").await > 0, "somebody streams during the copy");
    write(source, 2, 3).await;
    open.batch_execute("UPDATE busy SET v = 'kept' WHERE id < -3990; COMMIT").await.unwrap();
    write(source, 30, 4).await;
    confirmed_to_now(source, "after the connection was cut, too").await;
    eventually("the source needs to keep little WAL", async || {
        source.execute_alone("CHECKPOINT").await;
        source.execute("UPDATE busy SET n = n + 1 WHERE id = 1").await;
        source.value::<i64>(RETAINED).await < 20 << 20
    })
    .await;
    assert!(
        target.holds("SELECT phase = 'copying' FROM pgstream.migration").await,
        "the copy is still held up"
    );

    it.held.release().await;
    it.engine.wait(RUN).await.expect_code(0);
    it.scenario.assert_moved().await;
    assert_eq!(spool(it.folder.path()), None, "spooled changes are left behind");
    it.scenario.assert_source_clean(&it.before).await;
}

#[tokio::test]
async fn killed_while_spooling_and_while_reading_it_ends_equal() {
    let it = HeldUp::begin("spool_kill", &words(&[&CAUGHT_UP, &AFTER])).await;
    let Scenario { source, target } = &it.scenario;
    write(source, 10, 1).await;
    confirmed_to_now(source, "changes are spooled").await;
    let late = source
        .hold("INSERT INTO busy SELECT -i, 1, repeat('a', 300) FROM generate_series(1, 2000) AS i")
        .await;
    write(source, 5, 2).await;
    it.engine.kill().await;
    assert!(spool(it.folder.path()).is_some(), "the spool outlives its process");
    write(source, 5, 3).await;
    it.held.release().await;
    late.commit().await;

    // The applier waits for this lock, with the spool before it.
    let run = words(&[&AFTER, &work_dir(&it.folder)]);
    let engine = it.scenario.migrate(&words(&[&CAUGHT_UP, &run]));
    let copied = "SELECT bool_and(state = 'copied') FROM pgstream.copied_table";
    eventually("everything is copied", async || target.holds(copied).await).await;
    let held = target.hold("LOCK public.busy IN SHARE MODE").await;
    write(source, 5, 4).await;
    target.applier_waits().await;
    engine.kill().await;
    held.release().await;
    it.scenario.migrate(&words(&[&STOP, &run])).wait(RUN).await.expect_code(0);
    it.scenario.assert_moved().await;
    assert_eq!(spool(it.folder.path()), None, "spooled changes are left behind");
}

#[tokio::test]
async fn a_spool_that_is_gone_is_one_clear_error_and_nothing_goes_on_without_it() {
    let it = HeldUp::begin("spool_gone", &words(&[&CAUGHT_UP, &AFTER])).await;
    let source = &it.scenario.source;
    write(source, 10, 1).await;
    confirmed_to_now(source, "changes are spooled").await;
    it.engine.kill().await;
    it.held.release().await;
    let directory = spool(it.folder.path()).expect("it has begun to spool");
    let aside = it.folder.path().join("aside");
    std::fs::rename(&directory, &aside).unwrap();
    let run = words(&[&STOP, &AFTER, &work_dir(&it.folder)]);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    for _ in 0..2 {
        let outcome = it.scenario.migrate(&run).wait(RUN).await.expect_code(1);
        let error = &outcome.json()["error"];
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(directory.to_str().unwrap()) && message.contains(&host), "{error}");
        assert!(error["hint"].as_str().unwrap().contains("--work-dir"), "{error}");
        assert_eq!(source.slots().await, 1, "the slot stays for when it is found again");
    }
    // Brought back, to another directory.
    let elsewhere = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::rename(&aside, elsewhere.path().join(directory.file_name().unwrap())).unwrap();
    let run = words(&[&STOP, &AFTER, &work_dir(&elsewhere)]);
    it.scenario.migrate(&run).wait(RUN).await.expect_code(0);
    it.scenario.assert_moved().await;
    assert_eq!(spool(elsewhere.path()), None);
}

async fn assert_ended_and_said_so(engine: Engine, scenario: &Scenario, folder: &Path) {
    let outcome = engine.wait(RUN).await.expect_code(0);
    assert!(outcome.stdout.contains("until there is room"), "{}", outcome.stdout);
    scenario.assert_moved().await;
    assert_eq!(spool(folder), None);
}

#[tokio::test]
async fn a_full_spool_leaves_the_wal_to_the_slot_and_says_so() {
    let it = HeldUp::begin("spool_full", &words(&[&STOP, &AFTER, &FULL])).await;
    let source = &it.scenario.source;
    let mut engine = it.engine;
    write(source, 20, 1).await;
    engine.wait_for_stderr("the source keeps its WAL for us", PATIENCE).await;
    let (_, metrics) = get(metrics_address(&engine.stderr_text()), "/metrics").expect("metrics are served");
    let full = metrics.lines().find(|line| line.starts_with("pgstream_spool_full{")).unwrap_or_default();
    assert!(full.ends_with(" 1"), "{metrics}");
    let now: String = source.value("SELECT pg_current_wal_insert_lsn()::text").await;
    write(source, 2, 2).await;
    let beyond = format!("SELECT bool_or(confirmed_flush_lsn > '{now}') FROM pg_replication_slots");
    assert!(!source.holds(&beyond).await, "what is not on the disk is not confirmed");
    it.held.release().await;
    assert_ended_and_said_so(engine, &it.scenario, it.folder.path()).await;
}

#[tokio::test]
async fn a_disk_that_takes_no_more_leaves_the_wal_to_the_slot_and_says_so() {
    let it = HeldUp::begin_as("spool_disk", |scenario, words| {
        // Files of at most a quarter of a megabyte; the signal that would tell of it is ignored, as on a full disk.
        let limited = "trap '' XFSZ; ulimit -f 512; exec \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", limited, "sh", env!("CARGO_BIN_EXE_pgstream"), "migrate", "--json", "-v"]);
        command.args(["--source", &scenario.source.dsn(), "--target", &scenario.target.dsn()]);
        command.args(STOP).args(AFTER).args(words);
        Engine::spawn(command)
    })
    .await;
    let source = &it.scenario.source;
    let mut engine = it.engine;
    write(source, 20, 1).await;
    engine.wait_for_stderr("the source keeps its WAL for us", PATIENCE).await;
    write(source, 2, 2).await;
    it.held.release().await;
    assert_ended_and_said_so(engine, &it.scenario, it.folder.path()).await;
}

#[tokio::test]
async fn no_spool_means_none() {
    let it = HeldUp::begin("spool_none", &words(&[&STOP, &["--no-spool"]])).await;
    let source = &it.scenario.source;
    write(source, 10, 1).await;
    // The monitor looks at the source every second; a spool would have begun by now.
    let retained = "SELECT count(*) = 1 FROM pg_replication_slots WHERE NOT active";
    for round in 0..5 {
        write(source, 1, 2 + round).await;
        assert!(source.holds(retained).await, "somebody streams");
    }
    it.held.release().await;
    it.engine.wait(RUN).await.expect_code(0);
    it.scenario.assert_moved().await;
    assert_eq!(spool(it.folder.path()), None);
}

#[tokio::test]
async fn status_tells_of_a_spool_and_cleanup_removes_it() {
    let it = HeldUp::begin("spool_cleanup", &words(&[&STOP, &AFTER])).await;
    let Scenario { source, target } = &it.scenario;
    write(source, 10, 1).await;
    confirmed_to_now(source, "changes are spooled").await;
    let ends = ["--json", "-s", &source.dsn(), "-t", &target.dsn()];
    let told = Engine::start(words(&[&["status"], &ends])).wait(RUN).await.expect_code(0).json();
    let status = &told["databases"][0];
    let directory = spool(it.folder.path()).expect("it has begun to spool");
    assert_eq!(status["spool"]["directory"], directory.to_str().unwrap(), "{told}");
    assert!(status["spool"]["bytes"].as_u64() > Some(100_000), "{told}");
    assert!(status["lag_bytes"].as_u64() > Some(5 << 20), "what is spooled is not applied: {told}");

    it.engine.kill().await;
    it.held.release().await;
    let listed = Engine::start(words(&[&["cleanup", "--dry-run"], &ends])).wait(RUN).await.expect_code(0);
    assert!(listed.stdout.contains(directory.to_str().unwrap()), "{}", listed.stdout);
    assert!(directory.exists());
    let cleaned = Engine::start(words(&[&["cleanup"], &ends])).wait(RUN).await.expect_code(0);
    assert!(cleaned.stdout.contains("\"spool\""), "{}", cleaned.stdout);
    assert_eq!(spool(it.folder.path()), None);
    it.scenario.assert_source_clean(&it.before).await;
}
