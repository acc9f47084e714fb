//! Connections break, servers restart, routes are lost: the engine goes on by itself, and ends equal.

use pgstream::demo::{Shutdown, Workload};

use crate::support::engine::Engine;
use crate::support::eventually;
use crate::support::fault::Proxy;
use crate::support::migration::{FULL, RUN, in_step, migrate, words};
use crate::support::scenario::{Scenario, Side};

const ROWS: u32 = 300;
const COPYING: &str = "SELECT count(*) > 0 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.relation = 'shop.event'::regclass AND NOT l.granted AND a.application_name = 'pgstream load'";
/// A table whose copy takes this long is held up by a lock on the target.
const HELD: &str = "LOCK shop.event";

/// Waits until the copy is held up by the lock of the test.
async fn copying(target: &Side) {
    eventually("the copy waits for the lock", async || target.holds(COPYING).await).await;
}

/// Interrupts the engine, stops the writers, and takes the migration to its end.
async fn finish(scenario: &Scenario, engine: Engine, workload: Workload) {
    engine.interrupt().await;
    let outcome = engine.wait(RUN).await.expect_code(0);
    assert_eq!(outcome.json()["status"], "running", "{}", outcome.stdout);
    workload.stop().await.expect("the source has refused no writer");
    scenario.stop_replication(&FULL).await;
    scenario.assert_moved().await;
}

#[tokio::test]
async fn terminated_backends_and_restarted_servers_do_not_end_a_migration() {
    let scenario = Scenario::own("restarts").await;
    scenario.seed(ROWS).await;
    let before = scenario.source.footprint().await;
    let workload = scenario.write(ROWS).await;
    let Scenario { source, target } = &scenario;

    // What a wave that broke off has left waiting for a lock must not keep the next one from beginning.
    let engine = scenario.migrate(&words(&[&FULL, &["--lock-timeout", "10min"]]));
    let schema_ready = "SELECT phase = 'schema_ready' OR phase = 'copying' FROM pgstream.migration";
    eventually("the schema is there", async || target.holds(schema_ready).await).await;
    let held = target.hold(HELD).await;
    copying(target).await;
    let since: String = target.value("SELECT clock_timestamp()::text").await;
    assert!(source.terminate("keeper").await > 0);
    let anew = format!("{COPYING} AND a.backend_start > '{since}'");
    eventually("the next wave waits for the lock", async || target.holds(&anew).await).await;
    assert!(target.terminate("load").await > 0);
    copying(target).await;
    eventually("the copy is ended on the source", async || source.terminate("copy").await > 0).await;
    copying(target).await;
    assert!(source.terminate("control").await > 0);
    assert!(target.terminate("").await > 0);
    copying(target).await;
    for shutdown in [Shutdown::Fast, Shutdown::Immediate] {
        source.cluster.restart(shutdown).await.unwrap();
        copying(target).await;
    }
    target.cluster.restart(Shutdown::Immediate).await.unwrap();
    drop(held);

    let following = "SELECT phase = 'following' FROM pgstream.migration";
    eventually("it follows", async || target.holds(following).await).await;
    in_step(&scenario, "the copy").await;
    assert!(target.terminate("apply 0").await > 0);
    in_step(&scenario, "the apply session was terminated").await;
    assert!(source.terminate("stream").await > 0);
    in_step(&scenario, "the walsender was terminated").await;
    source.terminate("").await;
    target.terminate("").await;
    in_step(&scenario, "every session was terminated").await;
    for shutdown in [Shutdown::Fast, Shutdown::Immediate, Shutdown::Kill] {
        target.cluster.restart(shutdown).await.unwrap();
        in_step(&scenario, &format!("{shutdown:?} restart of the target")).await;
        source.cluster.restart(shutdown).await.unwrap();
        in_step(&scenario, &format!("{shutdown:?} restart of the source")).await;
    }
    finish(&scenario, engine, workload).await;
    scenario.assert_source_clean(&before).await;
}

#[tokio::test]
async fn cut_and_stalled_routes_do_not_end_a_migration() {
    let scenario = Scenario::own("routes").await;
    scenario.seed(ROWS).await;
    let before = scenario.source.footprint().await;
    let workload = scenario.write(ROWS).await;
    let Scenario { source, target } = &scenario;
    let to_source = Proxy::start(source.cluster.port()).await;
    let to_target = Proxy::start(target.cluster.port()).await;
    let (source_dsn, target_dsn) =
        (source.dsn_through(to_source.port()), target.dsn_through(to_target.port()));
    let parts = ["--split-tables-larger-than", "64kB", "--copy-jobs", "2"];
    let engine = migrate(&source_dsn, &target_dsn, &words(&[&FULL, &parts]));

    let some =
        |count: u32| format!("SELECT count(*) >= {count} FROM pgstream.copied_table WHERE state = 'copied'");
    eventually("some tables are copied", async || target.holds(&some(3)).await).await;
    to_source.cut();
    eventually("more tables are copied", async || target.holds(&some(8)).await).await;
    to_target.cut();
    eventually("more tables are copied", async || target.holds(&some(12)).await).await;
    for proxy in [&to_source, &to_target] {
        proxy.stall();
        // Time must pass on a dead route; writers count it.
        let commits = workload.counts().commits;
        eventually("time passes", async || workload.counts().commits > commits + 50).await;
        proxy.resume();
    }
    let following = "SELECT phase = 'following' FROM pgstream.migration";
    eventually("it follows", async || target.holds(following).await).await;
    for (proxy, side) in [(&to_source, "source"), (&to_target, "target")] {
        in_step(&scenario, "the copy").await;
        proxy.cut();
        in_step(&scenario, &format!("the {side}'s connections were reset")).await;
        proxy.stall();
        let commits = workload.counts().commits;
        eventually("time passes", async || workload.counts().commits > commits + 200).await;
        proxy.resume();
        in_step(&scenario, &format!("the {side}'s route was dead")).await;
        let commits = workload.counts().commits;
        proxy.shut();
        eventually("time passes", async || workload.counts().commits > commits + 200).await;
        proxy.open();
        in_step(&scenario, &format!("the {side} was out of reach")).await;
        proxy.cut_after(200_000).await;
        in_step(&scenario, &format!("the {side}'s connections were reset in the middle of something")).await;
    }
    finish(&scenario, engine, workload).await;
    scenario.assert_source_clean(&before).await;
}
