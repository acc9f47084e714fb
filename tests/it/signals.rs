//! An interrupt ends a run well wherever it is: a document, an exit status that scripts can rely on, and the
//! same command goes on.

use crate::support::engine::Engine;
use crate::support::scenario::Scenario;
use crate::support::{PATIENCE, eventually};

/// Interrupted while it waits for a slot, of all moments the one when it holds the least.
#[tokio::test]
async fn an_interrupt_before_it_is_in_step_is_a_failure_only_where_an_end_was_asked_for() {
    let scenario = Scenario::own("interrupt").await;
    scenario.source.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    let before = scenario.source.footprint().await;
    let (source, target) = (scenario.source.dsn(), scenario.target.dsn());
    let command = ["migrate", "--json", "-s", &source, "-t", &target];
    let writer = scenario.source.session().await;
    for (ending, code) in [(&[][..], 0), (&["--until", "caught-up"][..], 1), (&["--stop-replication"], 1)] {
        writer.batch_execute("BEGIN; INSERT INTO public.t VALUES (2)").await.unwrap();
        let engine = Engine::start(command.iter().chain(ending));
        let waiting = "SELECT count(*) = 1 FROM pg_stat_activity
                        WHERE application_name = 'pgstream slot' AND wait_event_type = 'Lock'";
        eventually("slot creation waits", async || scenario.source.value::<bool>(waiting).await).await;
        engine.interrupt().await;
        let document = engine.wait(PATIENCE).await.expect_code(code).json();
        assert_eq!(document["status"], "cancelled");
        let message = document["databases"][0]["message"].as_str().unwrap();
        assert!(message.contains("run the same command again"), "{message}");
        let no_slot = "SELECT count(*) = 0 FROM pg_replication_slots";
        eventually("the half-made slot goes", async || scenario.source.value::<bool>(no_slot).await).await;
        writer.batch_execute("ROLLBACK").await.unwrap();
    }
    Engine::start(command.iter().chain(&["--stop-replication"])).wait(PATIENCE).await.expect_code(0);
    scenario.assert_equal().await;
    scenario.assert_source_clean(&before).await;
}
