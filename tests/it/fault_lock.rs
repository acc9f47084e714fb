//! What others do on the source at the wrong moment: rewrite, truncate, lock, drop; write for too long.

use crate::support::engine::Engine;
use crate::support::migration::{CAUGHT_UP, FULL, Hold, RUN, STOP, migrate, words};
use crate::support::scenario::Scenario;
use crate::support::{PATIENCE, eventually};

/// One after the other, the largest table first.
const ONE_BY_ONE: [&str; 2] = ["--copy-jobs", "1"];

const TABLES: &str = "
    CREATE TABLE big (id int PRIMARY KEY, v int);
    INSERT INTO big SELECT i, i FROM generate_series(1, 20000) AS i;
    CREATE TABLE rewritten (id int PRIMARY KEY, v int);
    CREATE TABLE truncated (id int PRIMARY KEY, v int);
    CREATE TABLE vacuumed (id int PRIMARY KEY, v int);
    CREATE TABLE locked (id int PRIMARY KEY, v int);
    CREATE TABLE keyless (v int);
    INSERT INTO rewritten SELECT i, i FROM generate_series(1, 500) AS i;
    INSERT INTO truncated SELECT * FROM rewritten;
    INSERT INTO vacuumed SELECT * FROM rewritten;
    INSERT INTO locked SELECT * FROM rewritten;
    INSERT INTO keyless SELECT v FROM rewritten;
    DELETE FROM vacuumed WHERE v % 2 = 0";

/// A migration whose snapshot is taken, and whose copy waits for a lock on the target's first table.
async fn held_up(scenario: &Scenario, ending: &[&str]) -> (Engine, Hold) {
    let Scenario { source, target } = scenario;
    let writer = source.hold("CREATE TABLE public.undone ()").await;
    let engine = scenario.migrate(&words(&[ending, &FULL, &ONE_BY_ONE]));
    let published = "SELECT count(*) > 0 FROM pg_publication";
    eventually("the publication is made", async || source.holds(published).await).await;
    let held = target.hold("LOCK public.big").await;
    writer.release().await;
    let waits = "SELECT count(*) > 0 FROM pg_stat_activity
        WHERE application_name = 'pgstream load' AND wait_event_type = 'Lock' AND datname = current_database()";
    eventually("the copy waits for the target", async || target.holds(waits).await).await;
    (engine, held)
}

#[tokio::test]
async fn tables_rewritten_truncated_or_locked_after_the_snapshot_arrive_whole() {
    let scenario = Scenario::own("rewritten").await;
    let Scenario { source, .. } = &scenario;
    source.execute(TABLES).await;
    let (engine, held) = held_up(&scenario, &CAUGHT_UP).await;
    source.execute("ALTER TABLE rewritten ALTER COLUMN v TYPE int USING v + 1000").await;
    source
        .execute("TRUNCATE truncated; INSERT INTO truncated SELECT i, -i FROM generate_series(1, 7) AS i")
        .await;
    source.execute_alone("VACUUM FULL public.vacuumed").await;
    let locked = source.hold("LOCK public.locked; UPDATE public.locked SET v = 0 WHERE id = 1").await;
    held.release().await;
    let waits = "SELECT count(*) > 0 FROM pg_stat_activity
        WHERE application_name = 'pgstream copy' AND wait_event_type = 'Lock' AND datname = current_database()";
    eventually("the copy waits for the source", async || source.holds(waits).await).await;
    locked.commit().await;
    let outcome = engine.wait(RUN).await.expect_code(0);
    for table in ["rewritten", "truncated"] {
        assert!(outcome.stderr.contains(&format!("public.{table}")), "{}", outcome.stderr);
    }
    scenario.assert_rows_equal().await;
    scenario.stop_replication(&FULL).await;
    scenario.assert_moved().await;
}

#[tokio::test]
async fn a_lock_that_stays_is_waited_for_again_and_again() {
    let scenario = Scenario::own("locked").await;
    scenario.source.execute(TABLES).await;
    let (engine, held) = held_up(&scenario, &words(&[&STOP, &["--lock-timeout", "200ms"]])).await;
    let locked = scenario.source.hold("LOCK public.locked").await;
    held.release().await;
    let mut engine = engine;
    engine.wait_for_stderr("locked meanwhile, copied anew: public.locked", PATIENCE).await;
    locked.commit().await;
    engine.wait(RUN).await.expect_code(0);
    scenario.assert_moved().await;
}

#[tokio::test]
async fn a_table_dropped_during_the_copy_is_one_clear_error_and_the_next_run_goes_without_it() {
    let scenario = Scenario::own("dropped").await;
    let Scenario { source, target } = &scenario;
    source.execute(TABLES).await;
    let before = source.footprint().await;
    source.execute("CREATE TABLE doomed (id int PRIMARY KEY); INSERT INTO doomed VALUES (1)").await;
    let (engine, held) = held_up(&scenario, &STOP).await;
    source.execute("DROP TABLE doomed").await;
    held.release().await;
    let outcome = engine.wait(RUN).await.expect_code(1);
    let error = &outcome.json()["error"];
    assert!(error["message"].as_str().unwrap().contains("public.doomed"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("dropped on the source"), "{error}");
    // Identities are set back, too.
    scenario.assert_source_clean(&before).await;
    scenario.stop_replication(&FULL).await;
    target.execute("DROP TABLE doomed").await;
    scenario.assert_moved().await;
    scenario.assert_source_clean(&before).await;
}

#[tokio::test]
async fn transactions_that_keep_the_slot_from_starting_are_named_and_waited_for() {
    let scenario = Scenario::own("writers").await;
    let Scenario { source, target } = &scenario;
    source.execute(TABLES).await;
    let before = source.footprint().await;
    let session = source.session().await;
    let prepare = "BEGIN; INSERT INTO public.big VALUES (-1); PREPARE TRANSACTION 'forgotten'";
    session.batch_execute(prepare).await.unwrap();
    let writer = source.hold("UPDATE public.big SET v = 0").await;
    let blockers = [format!("pid {}", writer.pid().await), "prepared transaction forgotten".to_owned()];

    let impatient = words(&[&STOP, &FULL, &["--slot-wait", "1s"]]);
    let outcome = scenario.migrate(&impatient).wait(RUN).await.expect_code(1);
    let hint = outcome.json()["error"]["hint"].as_str().unwrap().to_owned();
    assert!(blockers.iter().all(|blocker| hint.contains(blocker)), "{hint}");
    let without = |lines: &str| !lines.contains("forgotten");
    assert!(source.footprint().await.except(without) == before, "left: {:#?}", source.footprint().await);

    let mut engine = migrate(&source.dsn(), &target.dsn(), &words(&[&STOP, &FULL]));
    for blocker in &blockers {
        engine.wait_for_stderr(blocker, PATIENCE).await;
    }
    writer.commit().await;
    session.batch_execute("COMMIT PREPARED 'forgotten'").await.unwrap();
    engine.wait(RUN).await.expect_code(0);
    scenario.assert_moved().await;
}
