//! `check --trial-restore`: the definitions are tried on the target, and nothing is left of the trial.

use std::time::Duration;

use crate::support::engine::Engine;
use crate::support::eventually;
use crate::support::migration::{CAUGHT_UP, RUN, words};
use crate::support::scenario::{Scenario, Side};

fn trial(scenario: &Scenario) -> Engine {
    let (source, target) = (scenario.source.dsn(), scenario.target.dsn());
    Engine::start(["check", "-s", &source, "-t", &target, "--trial-restore", "--json"])
}

/// The scratch databases of a server that nobody else tries definitions on.
async fn scratch(target: &Side) -> i64 {
    let prefix = pgstream::migrate::SCRATCH_PREFIX;
    target.value(&format!("SELECT count(*) FROM pg_database WHERE starts_with(datname, '{prefix}')")).await
}

fn verdict(report: &serde_json::Value, id: &str) -> (String, String) {
    let checks = report["checks"].as_array().unwrap();
    let found =
        checks.iter().find(|check| check["id"] == id).unwrap_or_else(|| panic!("no {id} in {report:#}"));
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (text("verdict"), text("message"))
}

#[tokio::test]
async fn definitions_that_do_not_restore_block_and_leave_nothing() {
    let scenario = Scenario::own("trial").await;
    let (source, target) = (&scenario.source, &scenario.target);
    // A library that no server has: only a restore can tell.
    let objects = "
        CREATE TABLE a (id int PRIMARY KEY, v text); CREATE INDEX ON a (v); CREATE VIEW b AS SELECT * FROM a;
        CREATE TABLE c (id int PRIMARY KEY REFERENCES a);
        CREATE FUNCTION lost() RETURNS int LANGUAGE c AS '$libdir/hstore', 'hstore_hash';
        UPDATE pg_catalog.pg_proc SET probin = 'nowhere' WHERE proname = 'lost'";
    source.execute(objects).await;
    let before = source.footprint().await;
    let report = trial(&scenario).wait(RUN).await.expect_code(3).json();
    let (found, message) = verdict(&report, "trial-restore");
    assert_eq!(found, "block", "{report:#}");
    assert!(message.contains("public.lost()"), "{message}");
    assert_eq!(verdict(&report, "tools").0, "pass");
    assert_eq!(scratch(target).await, 0);

    // A migration asks the same, and has not begun.
    scenario.migrate(&words(&[&CAUGHT_UP, &["--trial-restore"]])).wait(RUN).await.expect_code(3);
    assert_eq!(scratch(target).await, 0);
    scenario.assert_source_clean(&before).await;

    source.execute("DROP FUNCTION lost()").await;
    let report = trial(&scenario).wait(RUN).await.expect_code(0).json();
    assert_eq!(verdict(&report, "trial-restore").0, "pass", "{report:#}");
    assert_eq!(scratch(target).await, 0);

    interrupted(&scenario).await;
    not_permitted(&scenario).await;
}

/// While `pg_dump` waits for a lock the scratch database is there; an interrupt takes it along.
async fn interrupted(scenario: &Scenario) {
    let lock = scenario.source.hold("LOCK TABLE a IN ACCESS EXCLUSIVE MODE").await;
    let engine = trial(scenario);
    let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity
        WHERE application_name LIKE 'pgstream schema%' AND wait_event_type = 'Lock')";
    eventually("pg_dump waits for the lock", async || scenario.source.holds(waits).await).await;
    assert_eq!(scratch(&scenario.target).await, 1);
    engine.interrupt().await;
    engine.wait(Duration::from_secs(60)).await.expect_code(1);
    assert_eq!(scratch(&scenario.target).await, 0);
    lock.release().await;
}

/// A role that may make no database learns that nothing was tried, not that something failed.
async fn not_permitted(scenario: &Scenario) {
    let (source, target) = (&scenario.source, &scenario.target);
    target
        .execute(&format!("CREATE ROLE plain LOGIN; GRANT CREATE ON DATABASE {} TO plain", target.dbname))
        .await;
    let dsn = target.dsn() + " user=plain";
    let words = ["check", "-s", &source.dsn(), "-t", &dsn, "--trial-restore", "--json"];
    let report = Engine::start(words).wait(RUN).await.json();
    let (found, message) = verdict(&report, "trial-restore");
    assert_eq!(found, "unknown", "{report:#}");
    assert!(message.contains("could not be tried"), "{message}");
}
