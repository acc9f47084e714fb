//! Builds on the target are told of step by step, and use what they are given.

use crate::metrics::{get, metrics_address};
use crate::support::engine::Engine;
use crate::support::migration::{RUN, STOP, words};
use crate::support::scenario::Scenario;
use crate::support::{PATIENCE, eventually};

/// An index whose build takes three seconds, and none under other settings than those it was given.
const TABLE: &str = "
    CREATE FUNCTION slow(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
        IF pg_catalog.current_setting('application_name') = 'pgstream build' THEN
            IF pg_catalog.current_setting('maintenance_work_mem') <> '77MB'
               OR pg_catalog.current_setting('max_parallel_maintenance_workers') <> '1' THEN
                RAISE 'not what it was given: %', pg_catalog.current_setting('maintenance_work_mem');
            END IF;
            IF $1 % 100 = 0 THEN PERFORM pg_catalog.pg_sleep(0.1); END IF;
        END IF;
        RETURN $1; END $$;
    CREATE TABLE built (id int PRIMARY KEY, v text);
    INSERT INTO built SELECT i, repeat('x', 500) FROM generate_series(1, 3000) AS i;
    CREATE INDEX ON built (slow(id))";

#[tokio::test]
async fn a_build_is_seen_at_work_with_what_it_was_given() {
    let scenario = Scenario::own("built").await;
    let Scenario { source, target } = &scenario;
    // Before 12 no server tells, and before 11 none has the second setting.
    if target.major() < 12 || source.major() < 12 {
        return;
    }
    source.execute(TABLE).await;
    let given = ["--maintenance-work-mem", "77MB", "--max-parallel-maintenance-workers", "1"];
    let mut engine = scenario.migrate(&words(&[&STOP, &given, &["--metrics-addr", "127.0.0.1:0"]]));
    engine.wait_for_stderr("metrics are served", PATIENCE).await;
    let address = metrics_address(&engine.stderr_text());
    let scans = async |count: &str| {
        let (_, text) = get(address, "/metrics").expect("metrics are served");
        text.lines().any(|line| line.contains("step=\"scanning\"") && line.ends_with(count))
    };
    eventually("the metric shows it", async || scans(" 1").await).await;
    let status =
        Engine::start(["status", "--json", "-t", &target.dsn()]).wait(RUN).await.expect_code(0).json();
    let build = &status["databases"][0]["builds"][0];
    assert_eq!((&build["table"], &build["step"]), (&"public.built".into(), &"scanning".into()), "{status}");
    let (done, total) = (build["done"].as_u64().unwrap(), build["total"].as_u64().unwrap());
    assert!(done > 0 && done < total && total > 100, "{status}");
    engine.wait(RUN).await.expect_code(0);
    scenario.assert_moved().await;
}
