//! The main job: a database moves while it is written to, and the two ends are the same afterwards.

use crate::support::eventually;
use crate::support::migration::{CAUGHT_UP, FULL, RUN, words};
use crate::support::scenario::Scenario;

#[tokio::test]
async fn the_awkward_database_moves_while_it_is_written_to() {
    let scenario = Scenario::own("shop").await;
    scenario.seed(400).await;
    let before = scenario.source.footprint().await;
    let workload = scenario.write(400).await;
    eventually("the source lives", async || workload.counts().commits > 50).await;

    let caught_up = words(&[&CAUGHT_UP, &FULL]);
    let first = scenario.migrate(&caught_up).wait(RUN).await.expect_code(0).json();
    assert_eq!(first["status"], "done", "{first}");
    assert_eq!(scenario.source.slots().await, 1);
    let copied = scenario.target.copied_tables().await;

    let commits = workload.counts().commits;
    eventually("the source moves on", async || workload.counts().commits > commits + 100).await;
    let second = scenario.migrate(&caught_up).wait(RUN).await.expect_code(0).json();
    let applied = |result: &serde_json::Value| result["databases"][0]["transactions_applied"].as_u64();
    assert!(applied(&second) > applied(&first), "{first}\n{second}");
    assert_eq!(scenario.target.copied_tables().await, copied, "nothing is copied again");

    let report = workload.stop().await.expect("the source has refused no writer");
    assert!(report.counts.commits > 100);
    let done = scenario.stop_replication(&FULL).await.json();
    assert_eq!(done["databases"][0]["status"], "done", "{done}");
    scenario.assert_moved().await;
    scenario.assert_source_clean(&before).await;
}
