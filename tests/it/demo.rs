//! The demo's database is the same for the same seed, and its writer writes without breaking it.

use pgstream::demo::{SeedOptions, Shutdown, Stage, StageOptions, Workload, WorkloadOptions, seed};
use pgstream::pg::Lsn;

use crate::support::eventually;
use crate::support::scenario::Scenario;

#[tokio::test]
async fn the_same_seed_gives_the_same_database() {
    let (one, other) = tokio::join!(Scenario::shared("seed"), Scenario::shared("seed"));
    let scenario = Scenario { source: one.source, target: other.source };
    for side in [&scenario.source, &scenario.target] {
        seed(&side.session().await, SeedOptions { rows: 300, seed: 7 }).await.unwrap();
    }
    scenario.assert_equal().await;
    scenario.assert_same_schema().await;
    assert!(scenario.source.value::<i64>("SELECT count(*) FROM shop.order_line").await >= 2700);
    assert_eq!(scenario.source.value::<i64>("SELECT count(*) FROM shop.audit").await, 0);
}

#[tokio::test]
async fn another_version_gives_the_same_rows() {
    let scenario = Scenario::shared("versions").await;
    for side in [&scenario.source, &scenario.target] {
        seed(&side.session().await, SeedOptions { rows: 100, seed: 1 }).await.unwrap();
    }
    let comparison = scenario.compare().await;
    let differing =
        comparison.differing_relations().filter(|one| one.source.is_some() && one.target.is_some());
    let differing: Vec<_> = differing.map(|one| one.name.to_string()).collect();
    for name in &differing {
        eprintln!("{}", scenario.sample_of_differences(name).await);
    }
    assert!(differing.is_empty(), "{differing:?}");
}

#[tokio::test]
async fn another_seed_gives_other_rows() {
    let scenario = Scenario::shared("seeds").await;
    for (side, number) in [(&scenario.source, 1), (&scenario.target, 2)] {
        seed(&side.session().await, SeedOptions { rows: 50, seed: number }).await.unwrap();
    }
    let comparison = scenario.compare().await;
    let differing: Vec<_> = comparison.differing_relations().map(|one| one.name.plain()).collect();
    assert!(differing.contains(&"shop.document".to_owned()), "{differing:?}");
    assert!(!differing.contains(&"shop.seat".to_owned()), "{differing:?}");
}

#[tokio::test]
async fn writers_keep_the_books_balanced_and_stop_at_a_position() {
    let source = Scenario::shared("workload").await.source;
    seed(&source.session().await, SeedOptions { rows: 200, seed: 1 }).await.unwrap();
    let options = WorkloadOptions { rows: 200, transaction_rows_max: 2000, ..WorkloadOptions::default() };
    let conninfo = source.cluster.conninfo(&source.dbname);
    let workload = Workload::start(conninfo, &options).await.unwrap();
    eventually("600 transactions commit", async || workload.counts().commits >= 600).await;
    let report = workload.stop().await.unwrap();
    assert!(report.counts.rollbacks > 0 && report.counts.rows > report.counts.commits);
    assert!(report.end_lsn > Lsn::ZERO);
    assert_eq!(source.value::<i64>("SELECT sum(balance)::int8 FROM shop.account").await, 200_000);
    assert!(source.value::<i64>("SELECT count(*) FROM shop.audit").await > 0);
    assert_eq!(source.value::<i64>("SELECT count(*) FROM shop.event WHERE kind = 'abandoned'").await, 0);
    assert_eq!(source.value::<i64>("SELECT count(*) FROM shop.event WHERE kind = 'never'").await, 0);
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%writer' AND datname = ";
    let sql = format!("{sql}'{}'", source.dbname);
    eventually("the writers' sessions end", async || source.value::<i64>(&sql).await == 0).await;
}

#[tokio::test]
async fn writers_outlive_a_restart_of_the_source() {
    let source = Scenario::own("writers_restart").await.source;
    seed(&source.session().await, SeedOptions { rows: 50, seed: 1 }).await.unwrap();
    let options = WorkloadOptions { rows: 50, writers: 2, ..WorkloadOptions::default() };
    let conninfo = source.cluster.conninfo(&source.dbname);
    let workload = Workload::start(conninfo, &options).await.unwrap();
    source.cluster.restart(Shutdown::Immediate).await.unwrap();
    let before = workload.counts().commits;
    eventually("both write again", async || workload.counts().reconnects >= 2).await;
    eventually("commits go on", async || workload.counts().commits > before + 20).await;
    workload.stop().await.unwrap();
}

#[tokio::test]
async fn a_source_that_refuses_updates_is_reported() {
    let source = Scenario::shared("refusal").await.source;
    seed(&source.session().await, SeedOptions { rows: 50, seed: 1 }).await.unwrap();
    // What a careless migration does (P06).
    source.execute("CREATE PUBLICATION careless FOR TABLE shop.heartbeat, shop.queue").await;
    let conninfo = source.cluster.conninfo(&source.dbname);
    let workload =
        Workload::start(conninfo, &WorkloadOptions { rows: 50, ..Default::default() }).await.unwrap();
    eventually("all writers meet it", async || workload.running() == 0).await;
    let error = workload.stop().await.unwrap_err();
    assert_eq!(error.sqlstate().unwrap().code(), "55000");
}

#[tokio::test]
async fn a_stage_has_a_living_source_and_an_empty_target() {
    let options = StageOptions { seed: SeedOptions { rows: 50, seed: 1 }, ..StageOptions::default() };
    let stage = Stage::set(options).await.unwrap();
    let workload = stage.start_workload(WorkloadOptions::default()).await.unwrap();
    eventually("the source lives", async || workload.counts().commits > 10).await;
    workload.stop().await.unwrap();
    assert!(stage.target.session(&stage.dbname).await.is_err());
}
