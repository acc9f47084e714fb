//! The main job: a database moves while it is written to, and the two ends are the same afterwards.

use std::process::Stdio;

use pgstream::demo::Cluster;
use tokio::process::Command;

use crate::support::eventually;
use crate::support::migration::{CAUGHT_UP, FULL, RUN, words};
use crate::support::scenario::{Scenario, Side};

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

/// `pgbench` as a child that dies with the test.
pub(crate) fn pgbench(source: &Side, arguments: &[&str]) -> Command {
    let mut found = Cluster::installations().into_iter().map(|one| one.program("pgbench"));
    let program = found.find(|program| program.is_file());
    let program = program.expect(
        "pgbench is missing: install PostgreSQL's client programs (apt-get install postgresql-client)",
    );
    let mut command = Command::new(program);
    command.args(arguments).arg(source.dsn()).kill_on_drop(true).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[tokio::test]
async fn a_database_moves_under_eight_clients_of_pgbench() {
    let scenario = Scenario::own("pgbench").await;
    let source = &scenario.source;
    let mut initialize = pgbench(source, &["-i", "-s", "2", "--foreign-keys", "-q"]);
    assert!(initialize.status().await.unwrap().success());
    let before = source.footprint().await;
    let mut clients = pgbench(source, &["-n", "-c", "8", "-T", "600", "-R", "400"]).spawn().unwrap();
    let rows = "SELECT count(*) FROM public.pgbench_history";
    eventually("they write", async || source.value::<i64>(rows).await > 100).await;

    let lists = ["--insert-only", "public.pgbench_history"];
    let caught_up = words(&[&CAUGHT_UP, &lists]);
    scenario.migrate(&caught_up).wait(RUN).await.expect_code(0);
    let written = source.value::<i64>(rows).await;
    eventually("they go on", async || source.value::<i64>(rows).await > written + 500).await;
    clients.kill().await.unwrap();
    let ours = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbench'";
    eventually("their sessions end", async || source.holds(ours).await).await;

    scenario.stop_replication(&lists).await;
    scenario.assert_moved().await;
    scenario.assert_source_clean(&before).await;
    let balance = "SELECT sum(abalance) FROM public.pgbench_accounts";
    let deltas = "SELECT sum(delta) FROM public.pgbench_history";
    assert_eq!(scenario.target.value::<i64>(balance).await, scenario.target.value::<i64>(deltas).await);
}
