//! The scenery itself: a proxy that does what it is told, a footprint that sees what was left, and an
//! engine that dies when it is killed. A shell plays the engine: what is tested here is the holding of it.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use pgstream::error::Result;
use pgstream::pg::Conninfo;
use pgstream::wire::{Session, SessionSettings};
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::PATIENCE;
use crate::support::engine::Engine;
use crate::support::fault::Proxy;
use crate::support::scenario::{Scenario, Side};

const SHORT: Duration = Duration::from_millis(300);

async fn connect_through(proxy: &Proxy, side: &Side) -> Result<Session> {
    let mut conninfo: Conninfo = side.cluster.conninfo(&side.dbname);
    conninfo.hosts[0].port = proxy.port();
    Session::connect(&conninfo, &SessionSettings::default()).await
}

#[tokio::test]
async fn a_proxy_delays_and_throttles() {
    let side = Scenario::shared("delay").await.source;
    let proxy = Proxy::start(side.cluster.port()).await;
    let session = connect_through(&proxy, &side).await.unwrap();
    let elapsed = async |sql: &str| {
        let start = Instant::now();
        session.simple_query(sql).await.unwrap();
        start.elapsed()
    };
    proxy.delay(SHORT);
    assert!(elapsed("SELECT 1").await >= 2 * SHORT);
    proxy.delay(Duration::ZERO);
    proxy.throttle(Some(200_000));
    assert!(elapsed("SELECT repeat('x', 100000)").await >= SHORT);
}

#[tokio::test]
async fn a_stalled_proxy_is_silent_until_it_resumes() {
    let side = Scenario::shared("stall").await.source;
    let proxy = Proxy::start(side.cluster.port()).await;
    let session = connect_through(&proxy, &side).await.unwrap();
    proxy.stall();
    let query = session.simple_query("SELECT 1");
    tokio::pin!(query);
    assert!(timeout(SHORT, &mut query).await.is_err());
    proxy.resume();
    query.await.unwrap();
}

#[tokio::test]
async fn a_cut_breaks_connections_and_a_shut_door_keeps_new_ones_out() {
    let side = Scenario::shared("cut").await.source;
    let proxy = Proxy::start(side.cluster.port()).await;
    let session = connect_through(&proxy, &side).await.unwrap();
    proxy.cut();
    session.simple_query("SELECT 1").await.unwrap_err();
    let session = connect_through(&proxy, &side).await.unwrap();
    proxy.shut();
    session.simple_query("SELECT 1").await.unwrap_err();
    connect_through(&proxy, &side).await.unwrap_err();
    proxy.open();
    let session = connect_through(&proxy, &side).await.unwrap();
    let sql = "SELECT repeat('x', 1000000)";
    let (answer, ()) = tokio::join!(session.simple_query(sql), proxy.cut_after(300_000));
    answer.unwrap_err();
}

#[tokio::test]
async fn a_footprint_sees_what_was_left_on_the_source() {
    let scenario = Scenario::own("footprint").await;
    let source = &scenario.source;
    source.execute_alone("CREATE TABLE public.t (a int NOT NULL)").await;
    let before = source.footprint().await;
    scenario.assert_source_clean(&before).await;
    let left = [
        ("CREATE PUBLICATION p", "DROP PUBLICATION p"),
        ("ALTER TABLE public.t REPLICA IDENTITY FULL", "ALTER TABLE public.t REPLICA IDENTITY DEFAULT"),
        ("CREATE SCHEMA pgstream", "DROP SCHEMA pgstream"),
        (
            "SELECT pg_create_logical_replication_slot('s', 'pgoutput')",
            "SELECT pg_drop_replication_slot('s')",
        ),
    ];
    for (make, remove) in left {
        source.execute_alone(make).await;
        assert_ne!(source.footprint().await, before, "after {make}");
        source.execute_alone(remove).await;
        assert_eq!(source.footprint().await, before, "after {remove}");
    }
}

fn shell(script: &str) -> Engine {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    Engine::spawn(command)
}

#[tokio::test]
async fn an_engine_is_heard_and_its_document_read() {
    let mut engine = shell(r#"echo "copying shop.orders" >&2; echo '{"status": "done"}'; exit 4"#);
    engine.wait_for_stderr("shop.orders", PATIENCE).await;
    let outcome = engine.wait(PATIENCE).await.expect_code(4);
    assert_eq!(outcome.json()["status"], "done");
    assert_eq!(outcome.stderr, "copying shop.orders\n");
}

#[tokio::test]
async fn an_engine_is_interrupted_or_killed() {
    let engine = shell("exec sleep 60");
    engine.interrupt().await;
    assert_eq!(engine.wait(PATIENCE).await.status.signal(), Some(2));
    assert_eq!(shell("exec sleep 60").kill().await.status.signal(), Some(9));
}

#[tokio::test]
async fn an_engine_is_killed_at_a_point_of_durable_state() {
    let target = Scenario::shared("kill_when").await.target;
    let condition = "SELECT count(*) >= 2 FROM public.progress";
    let engine = shell("exec sleep 60");
    let writes = async {
        target.execute("CREATE TABLE progress AS SELECT 1 AS step").await;
        target.execute("INSERT INTO progress VALUES (2)").await;
    };
    let (outcome, ()) = tokio::join!(engine.kill_when(&target, condition), writes);
    assert_eq!(outcome.status.signal(), Some(9));
}

#[tokio::test]
async fn the_program_is_the_one_just_built() {
    Engine::start(["--version"]).wait(PATIENCE).await.expect_code(0);
}
