//! Several processes copy one database, and any of them may vanish.
//!
//! A narrow line to the source makes the copy last long enough for something to happen in the middle of it.

use std::collections::BTreeMap;

use pgstream::demo::ClusterOptions;

use crate::support::engine::Engine;
use crate::support::fault::Proxy;
use crate::support::migration::{CAUGHT_UP, RUN, STOP, migrate, words};
use crate::support::scenario::{Scenario, Side, source_options, target_options};
use crate::support::{PATIENCE, eventually};

/// One large table in parts, one that is copied whole, and small ones that go together.
const TABLES: &str = "
    CREATE TABLE big (id int PRIMARY KEY, pad text);
    INSERT INTO big SELECT i, md5(i::text) || md5((i + 1)::text) || md5((i + 2)::text) || md5((i + 3)::text)
      FROM generate_series(1, 50000) AS i;
    CREATE TABLE whole AS SELECT * FROM big LIMIT 2500;
    ALTER TABLE whole ADD PRIMARY KEY (id);
    DO $$ BEGIN FOR i IN 1..12 LOOP
        EXECUTE format('CREATE TABLE small_%s AS SELECT * FROM big LIMIT 20', i);
        EXECUTE format('ALTER TABLE small_%s ADD PRIMARY KEY (id)', i);
    END LOOP; END $$;
    ANALYZE";
const IN_PARTS: [&str; 4] = ["--split-tables-larger-than", "400kB", "--copy-jobs", "1"];
const SOME_PARTS: &str = "(SELECT count(*) >= 4 FROM pgstream.copied_part)";
/// Of each copy connection.
const BYTES_PER_SECOND: u64 = 768 << 10;

async fn narrow(source: &Side) -> Proxy {
    let proxy = Proxy::start(source.cluster.port()).await;
    proxy.throttle(Some(BYTES_PER_SECOND));
    proxy
}

fn worker(source: &str, target: &str, more: &[&str]) -> Engine {
    let line = ["worker", "--json", "-v", "-j", "1", "-s", source, "-t", target];
    Engine::start(line.iter().chain(more))
}

/// How often each part of the large table was asked for, by its first block.
fn asked(log: &str) -> BTreeMap<i64, usize> {
    let mut asked = BTreeMap::new();
    for line in log.lines().filter(|line| line.contains(r#"FROM ONLY "public"."big" WHERE ctid >= '("#)) {
        let (_, rest) = line.split_once("ctid >= '(").unwrap();
        let block = rest.split(',').next().unwrap().parse().unwrap();
        *asked.entry(block).or_default() += 1;
    }
    asked
}

async fn parts(target: &Side) -> BTreeMap<i64, String> {
    let sql = "SELECT first_block, copied_at::text FROM pgstream.copied_part WHERE table_name = 'big'";
    let rows = target.session().await.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn three_processes_copy_one_database_and_one_of_them_is_killed() {
    let settings = vec![("log_statement".to_owned(), "all".to_owned())];
    let logging = ClusterOptions { settings, ..source_options() };
    let scenario = Scenario::own_with("workers", logging, target_options()).await;
    let Scenario { source, target } = &scenario;
    source.execute(TABLES).await;
    let before = source.footprint().await;
    let proxy = narrow(source).await;
    let from = source.dsn_through(proxy.port());

    let conductor = migrate(&from, &target.dsn(), &words(&[&CAUGHT_UP, &IN_PARTS]));
    let [killed, stays] = [(); 2].map(|()| worker(&from, &target.dsn(), &[]));
    let all_at_work = "SELECT count(*) = 3 FROM pg_stat_activity
        WHERE application_name = 'pgstream copy' AND query LIKE 'COPY %'";
    eventually("three processes copy", async || source.holds(all_at_work).await).await;
    killed.kill_when(target, SOME_PARTS).await;
    let done = parts(target).await;
    source.execute("UPDATE big SET pad = 'updated' WHERE id % 100 = 0; DELETE FROM whole WHERE id < 9").await;

    let worked = stays.wait(RUN).await.expect_code(0).json();
    assert_eq!(worked["status"], "done", "{worked}");
    assert!(worked["databases"][0]["parts"].as_u64() > Some(1), "{worked}");
    conductor.wait(RUN).await.expect_code(0);

    // What was done is as it was, and was asked for once; of the rest only what the killed one had in hand was twice.
    let now = parts(target).await;
    assert!(done.len() >= 4 && done.iter().all(|(part, at)| now.get(part) == Some(at)), "{done:?}\n{now:?}");
    let asked = asked(&source.cluster.log());
    assert_eq!(asked.keys().collect::<Vec<_>>(), now.keys().collect::<Vec<_>>());
    assert!(done.keys().all(|part| asked[part] == 1), "{asked:?}\n{done:?}");
    let twice = asked.values().filter(|count| **count > 1).count();
    assert!(twice <= 1 && asked.values().all(|count| *count <= 2), "{asked:?}");

    scenario.stop_replication(&[]).await;
    scenario.assert_moved().await;
    scenario.assert_source_clean(&before).await;
}

#[tokio::test]
async fn a_worker_outlives_its_conductor_and_joins_the_next() {
    let scenario = Scenario::shared("orphan").await;
    let Scenario { source, target } = &scenario;
    source.execute(TABLES).await;
    let proxy = narrow(source).await;
    let from = source.dsn_through(proxy.port());

    let conductor = migrate(&from, &target.dsn(), &words(&[&STOP, &IN_PARTS]));
    let mut patient = worker(&from, &target.dsn(), &["--wait", "1min"]);
    patient.wait_for_stderr("joining the copy", PATIENCE).await;
    // A database of the same name, on another server.
    let elsewhere = format!("{} application_name=elsewhere", target.dsn());
    let outcome = worker(&elsewhere, &target.dsn(), &[]).wait(PATIENCE).await.expect_code(1);
    assert!(outcome.stderr.contains("another server"), "{}", outcome.stderr);
    conductor.kill_when(target, SOME_PARTS).await;
    // Its snapshot is gone, and what is under way comes to its end.
    patient.wait_for_stderr("is not running", PATIENCE).await;
    source.execute("UPDATE big SET pad = 'updated' WHERE id % 100 = 0").await;
    let outcome = worker(&from, &target.dsn(), &["--wait", "0s"]).wait(PATIENCE).await.expect_code(1);
    assert!(outcome.stderr.contains("`pgstream migrate` is not running"), "{}", outcome.stderr);

    let copied = target.copied_tables().await;
    let conductor = migrate(&from, &target.dsn(), &words(&[&STOP, &IN_PARTS]));
    let worked = patient.wait(RUN).await.expect_code(0).json();
    assert!(worked["databases"][0]["parts"].as_u64() > Some(1), "{worked}");
    let document = conductor.wait(RUN).await.expect_code(0).json();
    assert_eq!(document["databases"][0]["tables"], 14, "{document}");
    assert!(copied.len() < 14, "it was killed in the middle");
    scenario.assert_moved().await;
}

#[tokio::test]
async fn a_worker_that_has_nothing_to_join_says_why() {
    let scenario = Scenario::shared("alone").await;
    let Scenario { source, target } = &scenario;
    source.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    let lone =
        async |source: &str, target: &str| worker(source, target, &["--wait", "0s"]).wait(PATIENCE).await;
    let outcome = lone(&source.dsn(), &target.dsn()).await.expect_code(1);
    assert!(outcome.stderr.contains("Start `pgstream migrate`"), "{}", outcome.stderr);

    scenario.migrate(&CAUGHT_UP).wait(RUN).await.expect_code(0);
    let worked = lone(&source.dsn(), &target.dsn()).await.expect_code(0).json();
    assert_eq!((&worked["status"], worked["databases"].as_array().map(Vec::len)), (&"done".into(), Some(0)));
    scenario.stop_replication(&[]).await;
}

/// Waves under several snapshots, each table as of its own, while all of them are written to.
#[tokio::test]
async fn a_long_copy_changes_its_snapshot_and_no_table_has_two() {
    let scenario = Scenario::shared("ages").await;
    let Scenario { source, target } = &scenario;
    source.execute(TABLES).await;
    let more = "DO $$ BEGIN FOR i IN 1..4 LOOP
            EXECUTE format('CREATE TABLE part_%s AS SELECT * FROM big LIMIT 6000', i);
            EXECUTE format('ALTER TABLE part_%s ADD PRIMARY KEY (id)', i);
        END LOOP; END $$";
    source.execute(more).await;
    let proxy = narrow(source).await;
    let from = source.dsn_through(proxy.port());
    let age = ["--snapshot-max-age", "1s", "--copy-jobs", "1", "--split-tables-larger-than", "2MB"];
    let engine = migrate(&from, &target.dsn(), &words(&[&CAUGHT_UP, &age]));

    let writer = source.session().await;
    let mut round = 0;
    let all = "SELECT bool_and(state = 'copied') FROM pgstream.copied_table";
    eventually("every table is copied", async || {
        round += 1;
        let write = format!(
            "UPDATE big SET pad = 'b{round}' WHERE id = {round};
             UPDATE part_1 SET pad = 'p{round}' WHERE id = {round};
             INSERT INTO part_4 VALUES (100000 + {round}, 'new'); DELETE FROM part_3 WHERE id = {round};
             UPDATE small_12 SET pad = 's{round}' WHERE id = 7"
        );
        writer.batch_execute(&write).await.unwrap();
        target.holds(all).await
    })
    .await;
    let outcome = engine.wait(RUN).await.expect_code(0);
    assert!(outcome.stderr.contains("the snapshot has reached its age"), "{}", outcome.stderr);
    let snapshots: i64 = target.value("SELECT count(DISTINCT watermark) FROM pgstream.copied_table").await;
    let waves: i64 = target.value("SELECT number FROM pgstream.copy_wave").await;
    assert!(snapshots >= 3 && waves >= snapshots, "{snapshots} snapshots in {waves} waves");
    scenario.stop_replication(&[]).await;
    scenario.assert_moved().await;
}
