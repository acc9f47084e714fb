//! Status tells how far a migration is, while it runs and after it died, without getting in its way.

use std::time::Duration;

use pgstream::demo::Shutdown;
use serde_json::Value;

use crate::support::engine::{Engine, Outcome};
use crate::support::eventually;
use crate::support::migration::{FULL, RUN, words};
use crate::support::scenario::Scenario;

const SCHEMA_READY: &str = "(SELECT phase FROM pgstream.migration) = 'schema_ready'";
const ONE_JOB: [&str; 2] = ["--copy-jobs", "1"];

async fn status(words: &[&str]) -> Outcome {
    Engine::start(["status"].iter().chain(words)).wait(RUN).await
}

impl Scenario {
    /// The one migration's status.
    async fn status(&self) -> Value {
        let (source, target) = (self.source.dsn(), self.target.dsn());
        let document = status(&["--json", "-s", &source, "-t", &target]).await.expect_code(0).json();
        assert_eq!(document["databases"].as_array().map(Vec::len), Some(1), "{document}");
        document["databases"][0].clone()
    }

    /// The same, of the target alone; null when there is none.
    async fn target_status(&self) -> Value {
        status(&["--json", "-t", &self.target.dsn()]).await.json()["databases"][0].clone()
    }
}

#[tokio::test]
async fn a_migration_is_seen_copying_following_and_dead() {
    let scenario = Scenario::own("seen").await;
    let Scenario { source, target } = &scenario;
    let none = status(&["--json", "-t", &target.dsn()]).await.expect_code(1);
    assert!(none.stderr.contains("find a migration in database"), "{}", none.stderr);
    scenario.seed(300).await;
    scenario.migrate(&FULL).kill_when(target, SCHEMA_READY).await;
    let dead = scenario.target_status().await;
    assert_eq!((&dead["phase"], &dead["engine"]), (&"schema_ready".into(), &Value::Null), "{dead}");

    // It is one of the smallest: first it holds up all that are copied together with it, then, by itself, nobody.
    let small = target.hold("LOCK shop.category IN SHARE MODE").await;
    let mut engine = scenario.migrate(&words(&[&FULL, &ONE_JOB, &["--lock-timeout", "2s"]]));
    let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'pgstream load'
                    AND wait_event_type = 'Lock'";
    let copied = async || scenario.status().await["tables"]["done"].as_u64().is_some_and(|done| done > 0);
    eventually("the copy waits", async || copied().await && target.holds(waits).await).await;
    let copying = scenario.status().await;
    assert_eq!(copying["phase"], "copying", "{copying}");
    assert!(copying["engine"]["pid"].as_i64().is_some_and(|pid| pid > 0), "{copying}");
    let number = |status: &Value, pointer: &str| status.pointer(pointer).and_then(Value::as_f64);
    let share = |what: &str, part: &str| number(&copying, &format!("/{what}/{part}")).expect("a number");
    for what in ["tables", "bytes"] {
        assert!(share(what, "done") > 0.0 && share(what, "done") < share(what, "total"), "{what}: {copying}");
    }
    assert!(number(&copying, "/bytes_per_second").is_some_and(|rate| rate > 0.0), "{copying}");
    assert!(number(&copying, "/seconds_left").is_some(), "{copying}");
    assert_eq!(copying["slot"]["exists"], true, "{copying}");
    assert!(number(&copying, "/slot/retained_bytes").is_some_and(|bytes| bytes > 0.0), "{copying}");
    small.release().await;

    engine.wait_for_stderr("\"following\"", RUN).await;
    eventually("it is in step", async || scenario.status().await["lag_bytes"] == 0).await;
    source.execute("INSERT INTO shop.category (id, title) VALUES (-1, 'seen by status')").await;
    let applied = async || number(&scenario.status().await, "/transactions_applied").is_some_and(|n| n > 0.0);
    eventually("a change is applied", applied).await;
    let following = scenario.status().await;
    assert_eq!((&following["phase"], &following["slot"]["active"]), (&"following".into(), &true.into()));
    assert!(number(&following, "/lag_seconds").is_some(), "{following}");

    engine.kill().await;
    eventually("its session ends", async || scenario.target_status().await["engine"] == Value::Null).await;
    let (source, target) = (source.dsn(), target.dsn().split(" dbname=").next().unwrap().to_owned());
    // Without a database's name every database is looked at.
    let told = status(&["-s", &source, "-t", &target]).await.expect_code(0);
    for text in ["following for", "none is at work", "not in use, keeps", "lag "] {
        assert!(told.stderr.contains(text), "{text:?} is not in\n{}", told.stderr);
    }
}

#[tokio::test]
async fn the_last_error_is_told_and_is_past_when_the_migration_goes_on() {
    let scenario = Scenario::own("error").await;
    let Scenario { source, .. } = &scenario;
    source.execute("CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut engine = scenario.migrate(&[]);
    engine.wait_for_stderr("\"following\"", RUN).await;
    let mut watching = Engine::start(["status", "--watch", "100ms", "-t", &scenario.target.dsn()]);
    watching.wait_for_stderr("following for", Duration::from_secs(60)).await;

    source.cluster.stop(Shutdown::Fast).await.expect("the source stops");
    let told = async || scenario.target_status().await["last_error"]["message"].is_string();
    eventually("the error is told", told).await;
    let broken = scenario.target_status().await;
    assert_eq!(broken["last_error"]["past"], false, "{broken}");
    assert!(broken["engine"].is_null() || broken["engine"]["pid"].is_i64(), "{broken}");
    let both = scenario.status().await;
    assert!(both["source_error"].is_string() && both["lag_bytes"].is_null(), "{both}");
    watching.wait_for_stderr("  error ", Duration::from_secs(60)).await;

    source.cluster.restart(Shutdown::Fast).await.expect("the source starts");
    source.execute("INSERT INTO t VALUES (1)").await;
    eventually("it went on", async || scenario.target_status().await["last_error"]["past"] == true).await;
    watching.interrupt().await;
    watching.wait(RUN).await.expect_code(0);
    engine.interrupt().await;
    engine.wait(RUN).await.expect_code(0);
}
