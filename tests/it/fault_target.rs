//! The target is short of something: room, connections, a lock. The engine says so once, waits, confirms nothing that
//! is not there, and goes on by itself.

use std::net::SocketAddr;

use crate::metrics::{get, metrics_address};
use crate::support::engine::Engine;
use crate::support::fault::Proxy;
use crate::support::migration::{RUN, STOP, in_step, migrate, words};
use crate::support::scenario::{Scenario, Side, source_options, target_options};
use crate::support::{PATIENCE, eventually};

const TABLES: &str = "
    CREATE TABLE first (id int PRIMARY KEY, v text);
    CREATE TABLE second (id int PRIMARY KEY, v text);
    INSERT INTO first SELECT i, i FROM generate_series(1, 1000) AS i;
    INSERT INTO second SELECT * FROM first";
const QUICK: [&str; 4] = ["--metrics-addr", "127.0.0.1:0", "--status-interval", "200ms"];
const FOLLOWING: &str = "SELECT phase = 'following' FROM pgstream.migration";

const STREAMING: &str = "SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming'";

/// What a server says whose disk is full, for as long as the trigger is there: the rows of the other table have room.
const FULL_DISK: &str = "
    CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE 'could not extend file \"base/1/2\": No space left on device' USING ERRCODE = '53100'; END $$;
    CREATE TRIGGER no_room BEFORE INSERT OR UPDATE OR DELETE ON second FOR EACH ROW EXECUTE PROCEDURE no_room();
    ALTER TABLE second ENABLE ALWAYS TRIGGER no_room";
/// What the operator is told, once.
const TOLD_DISK: &str = "warning: waiting for room on a full disk";
const ROOM: &str = "DROP FUNCTION no_room CASCADE";

async fn following(scenario: &Scenario, target: &str, more: &[&str]) -> (Engine, SocketAddr) {
    scenario.source.execute(TABLES).await;
    let mut engine = migrate(&scenario.source.dsn(), target, &words(&[&QUICK, more]));
    engine.wait_for_stderr("metrics are served", PATIENCE).await;
    eventually("it follows", async || scenario.target.holds(FOLLOWING).await).await;
    eventually("it streams", async || scenario.source.holds(STREAMING).await).await;
    let address = metrics_address(&engine.stderr_text());
    (engine, address)
}

/// Whether the metric says that work waits for this.
fn is_held_up(address: SocketAddr, by: &str) -> bool {
    let (_, text) = get(address, "/metrics").expect("metrics are served");
    let series = format!("by=\"{by}\"}} ");
    let line = text.lines().find(|line| line.starts_with("pgstream_held_up") && line.contains(&series));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).ends_with(" 1")
}

/// Where the source may discard its WAL up to.
async fn confirmed(source: &Side) -> String {
    source.value("SELECT max(confirmed_flush_lsn)::text FROM pg_replication_slots").await
}

async fn end(scenario: &Scenario, engine: Engine) {
    engine.interrupt().await;
    engine.wait(RUN).await.expect_code(0);
    scenario.stop_replication(&[]).await;
    scenario.assert_moved().await;
}

#[tokio::test]
async fn a_full_disk_of_the_target_is_waited_for_while_following() {
    let scenario = Scenario::own("disk_follow").await;
    let Scenario { source, target } = &scenario;
    let (mut engine, metrics) = following(&scenario, &target.dsn(), &[]).await;
    assert!(!is_held_up(metrics, "disk_full"));
    in_step(&scenario, "the copy").await;
    target.execute(FULL_DISK).await;
    source.execute("UPDATE second SET v = 'lost?' WHERE id <= 500").await;
    let beyond: String = source.value("SELECT pg_current_wal_insert_lsn()::text").await;
    engine.wait_for_stderr(TOLD_DISK, PATIENCE).await;
    assert!(is_held_up(metrics, "disk_full"));
    source.execute("UPDATE first SET v = 'later'; DELETE FROM second WHERE id > 900").await;
    // Once more, and again: the pause between two tries grows.
    let tries = || get(metrics, "/metrics").map_or(0, |(_, text)| errors_survived(&text));
    let before = tries();
    eventually("it tries again", async || tries() >= before + 2).await;
    let told = engine.stderr_text();
    assert_eq!(told.matches(TOLD_DISK).count(), 1, "{told}");
    let sql = format!("SELECT max(confirmed_flush_lsn) < '{beyond}' FROM pg_replication_slots");
    assert!(source.holds(&sql).await, "confirmed up to {}, beyond {beyond}", confirmed(source).await);
    target.execute(ROOM).await;
    in_step(&scenario, "there was room").await;
    eventually("the metric is back", async || !is_held_up(metrics, "disk_full")).await;
    end(&scenario, engine).await;
}

fn errors_survived(text: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with("pgstream_errors_total{kind=\"connect\"}"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn a_full_disk_of_the_target_is_waited_for_while_copying_under_the_same_snapshot() {
    let scenario = Scenario::own("disk_copy").await;
    let Scenario { source, target } = &scenario;
    source.execute(TABLES).await;
    let before = source.footprint().await;
    // The slot waits for this writer, so that the disk is full before the copy begins.
    let writer = source.hold("CREATE TABLE public.undone ()").await;
    let mut engine = scenario.migrate(&words(&[&STOP, &QUICK, &["--copy-jobs", "1"]]));
    let published = "SELECT count(*) > 0 FROM pg_publication";
    eventually("the publication is made", async || source.holds(published).await).await;
    target.execute(FULL_DISK).await;
    writer.release().await;
    engine.wait_for_stderr(TOLD_DISK, PATIENCE).await;
    let metrics = metrics_address(&engine.stderr_text());
    assert!(is_held_up(metrics, "disk_full"));
    let slots = "SELECT string_agg(slot_name || restart_lsn, ',') FROM pg_replication_slots";
    let slot: String = source.value(slots).await;
    source.execute("UPDATE second SET v = 'lost?'; INSERT INTO first VALUES (-1, 'new')").await;
    assert_eq!(source.value::<String>(slots).await, slot);
    target.execute(ROOM).await;
    let outcome = engine.wait(RUN).await.expect_code(0);
    assert!(!outcome.stderr.contains("new snapshot"), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.matches(TOLD_DISK).count(), 1, "{}", outcome.stderr);
    scenario.assert_moved().await;
    scenario.assert_source_clean(&before).await;
}

/// The target's server may write no file beyond a limit: a disk that is full for tables, while its log still
/// fits. Half a kilobyte over whole blocks makes the write short, which the server reports as a full disk.
#[tokio::test]
async fn a_disk_that_is_really_full_is_waited_for() {
    let scenario = Scenario::own("disk").await;
    let fill = "CREATE TABLE large (id int PRIMARY KEY, note text);
                INSERT INTO large SELECT n, repeat(md5(n::text), 40) FROM generate_series(1, 30000) AS n";
    scenario.source.execute(fill).await;
    let before = scenario.source.footprint().await;
    scenario.target.limit_files("20972032").await;
    let mut engine = scenario.migrate(&STOP);
    engine.wait_for_stderr(TOLD_DISK, PATIENCE).await;
    scenario.target.limit_files("unlimited").await;
    engine.wait(RUN).await.expect_code(0);
    scenario.assert_equal().await;
    scenario.assert_source_clean(&before).await;
}

/// Takes every connection that the target has left.
async fn take_all(target: &Side) -> Vec<pgstream::wire::Session> {
    let mut taken = Vec::new();
    while let Ok(session) = target.cluster.session(&target.dbname).await {
        session.batch_execute("SET application_name = 'test'").await.unwrap();
        taken.push(session);
        assert!(taken.len() < 200, "the target has a limit");
    }
    taken
}

#[tokio::test]
async fn a_target_without_connections_is_waited_for_and_fewer_lanes_do() {
    let limited =
        [("max_connections", "20"), ("superuser_reserved_connections", "0"), ("max_wal_senders", "2")];
    let mut options = target_options();
    options.settings.extend(limited.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let scenario = Scenario::own_with("connections", source_options(), options).await;
    let Scenario { source, target } = &scenario;
    let route = Proxy::start(target.cluster.port()).await;
    let lanes = ["--apply-lanes", "4", "--copy-jobs", "2", "--index-jobs", "2"];
    let (mut engine, metrics) = following(&scenario, &target.dsn_through(route.port()), &lanes).await;
    in_step(&scenario, "the copy").await;

    // At a reconnect there is none.
    route.shut();
    let taken = take_all(target).await;
    route.open();
    source.execute("UPDATE first SET v = 'again'").await;
    engine.wait_for_stderr("waiting for a free connection", PATIENCE).await;
    assert!(is_held_up(metrics, "connections"));
    drop(taken);
    in_step(&scenario, "connections were to be had").await;
    eventually("the metric is back", async || !is_held_up(metrics, "connections")).await;

    // While it lags there is one more than it has; the target must be what is waited for.
    target.slow_down("second", "id", 10).await;
    let held = target.hold("LOCK first IN SHARE MODE").await;
    let mut taken = take_all(target).await;
    let backlog = "DO $$ BEGIN SET synchronous_commit = off; FOR i IN 1..10000 LOOP
        UPDATE first SET v = i::text WHERE id = i % 1000 + 1;
        INSERT INTO second SELECT 10 * (i + 1000) + j, 'x' FROM generate_series(0, 7) AS j; COMMIT; END LOOP; END $$";
    source.execute_alone(backlog).await;
    let sent = "SELECT bool_and(sent_lsn >= pg_current_wal_lsn()) FROM pg_stat_replication";
    eventually("the backlog is sent", async || source.holds(sent).await).await;
    drop(taken.pop());
    held.release().await;
    engine.wait_for_stderr("no more lanes can be had", PATIENCE).await;
    in_step(&scenario, "what lanes there were").await;
    drop(taken);
    target.execute("DROP FUNCTION slow CASCADE").await;
    end(&scenario, engine).await;
}

#[tokio::test]
async fn who_holds_a_lock_on_the_target_is_named_and_no_walsender_gives_up_meanwhile() {
    let scenario = Scenario::own("lock_follow").await;
    let Scenario { source, target } = &scenario;
    for sql in ["ALTER SYSTEM SET wal_sender_timeout = '2s'", "SELECT pg_reload_conf()"] {
        source.execute_alone(sql).await;
    }
    let (mut engine, metrics) = following(&scenario, &target.dsn(), &[]).await;
    in_step(&scenario, "the copy").await;
    let walsender = "SELECT string_agg(pid::text, ',') FROM pg_stat_replication";
    let before: String = source.value(walsender).await;
    let held = target.hold("LOCK second").await;
    // More than is buffered on the way, so that reading stands still, too.
    source.execute("UPDATE second SET v = repeat(md5(v), 1000)").await;
    source
        .execute("INSERT INTO first SELECT -i, repeat(md5(i::text), 1000) FROM generate_series(1, 1000) AS i")
        .await;
    let holder = format!("pid {} (test", held.pid().await);
    engine.wait_for_stderr("waiting for a lock that others hold: pgstream apply 0 waits for", PATIENCE).await;
    let told = engine.stderr_text();
    assert!(told.contains("second") && told.contains(&holder), "{holder}\n{told}");
    assert!(is_held_up(metrics, "lock"));
    let since: String = source.value("SELECT now()::text").await;
    let passed = format!("SELECT now() > '{since}'::timestamptz + interval '5 s'");
    eventually("the target has been held up for longer than that", async || source.holds(&passed).await)
        .await;
    assert_eq!(source.value::<String>(walsender).await, before, "the walsender has given us up");
    held.release().await;
    in_step(&scenario, "the lock was released").await;
    eventually("the metric is back", async || !is_held_up(metrics, "lock")).await;
    end(&scenario, engine).await;
}
