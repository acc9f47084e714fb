//! Throwaway clusters come up, take settings, restart, and leave nothing behind.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use pgstream::demo::{Cluster, ClusterOptions, Listen, Shutdown};
use pgstream::error::ErrorKind;
use pgstream::pg::Conninfo;
use pgstream::wire::{Session, SessionSettings};

use crate::support::eventually;

fn process_exists(pid: u32) -> bool {
    Command::new("sh").args(["-c", &format!("kill -0 {pid} 2>/dev/null")]).status().unwrap().success()
}

#[tokio::test]
async fn a_dropped_cluster_leaves_no_process_and_no_file() {
    let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
    let (pid, directory) = (cluster.pid().unwrap(), cluster.directory().to_owned());
    assert!(process_exists(pid) && directory.exists());
    drop(cluster);
    assert!(!process_exists(pid));
    assert!(!directory.exists());
}

#[tokio::test]
async fn two_clusters_are_two_servers_and_both_decode() {
    let (one, two) = tokio::join!(
        Cluster::start(ClusterOptions::default()),
        Cluster::start(ClusterOptions { listen: Listen::Socket, ..ClusterOptions::default() })
    );
    let mut identifiers = Vec::new();
    for cluster in [one.unwrap(), two.unwrap()] {
        let session = cluster.session("postgres").await.unwrap();
        let sql = "SELECT system_identifier, pg_catalog.current_setting('wal_level') \
                   FROM pg_catalog.pg_control_system()";
        let row = session.query_one(sql, &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(1), "logical");
        identifiers.push(row.get::<_, i64>(0));
    }
    assert_ne!(identifiers[0], identifiers[1]);
}

#[tokio::test]
async fn a_restart_keeps_port_and_data_whatever_the_shutdown() {
    let settings = vec![("work_mem".to_owned(), "7MB".to_owned())];
    let cluster = Cluster::start(ClusterOptions { settings, ..ClusterOptions::default() }).await.unwrap();
    cluster.create_database("Zürich's \"db\"").await.unwrap();
    let port = cluster.port();
    for shutdown in [Shutdown::Fast, Shutdown::Immediate, Shutdown::Kill] {
        let before = cluster.pid().unwrap();
        cluster.restart(shutdown).await.unwrap();
        assert_ne!(cluster.pid().unwrap(), before);
        assert_eq!(cluster.port(), port);
        let session = cluster.session("Zürich's \"db\"").await.unwrap();
        let row = session.query_one("SELECT pg_catalog.current_setting('work_mem')", &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), "7MB");
    }
    cluster.stop(Shutdown::Fast).await.unwrap();
    assert_eq!(cluster.pid(), None);
}

#[tokio::test]
async fn a_server_that_does_not_start_shows_its_log() {
    let settings = vec![("shared_buffers".to_owned(), "plenty".to_owned())];
    let error = Cluster::start(ClusterOptions { settings, ..ClusterOptions::default() }).await.unwrap_err();
    assert!(error.advice().unwrap().contains("shared_buffers"), "{error:?}");
}

#[tokio::test]
async fn rules_of_the_caller_decide_who_may_come_in() {
    let hba = vec!["host all eve 127.0.0.1/32 reject".to_owned()];
    let cluster = Cluster::start(ClusterOptions { hba, ..ClusterOptions::default() }).await.unwrap();
    cluster.session("postgres").await.unwrap().batch_execute("CREATE ROLE eve LOGIN").await.unwrap();
    let conninfo = Conninfo { user: "eve".to_owned(), ..cluster.conninfo("postgres") };
    let error = Session::connect(&conninfo, &SessionSettings::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth);
}

#[tokio::test]
async fn a_database_in_use_can_be_dropped() {
    let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
    cluster.create_database("busy").await.unwrap();
    let user = cluster.session("busy").await.unwrap();
    cluster.drop_database("busy").await.unwrap();
    user.simple_query("SELECT 1").await.unwrap_err();
    cluster.session("busy").await.unwrap_err();
}

/// Not a claim of its own: the child process of the next test, which kills it.
#[test]
fn holds_a_cluster_until_killed() {
    if std::env::var_os("PGSTREAM_TEST_HOLD").is_none() {
        return;
    }
    let cluster = Cluster::start_blocking(&ClusterOptions::default()).unwrap();
    eprintln!("HELD {} {}", cluster.pid().unwrap(), cluster.directory().display());
    std::thread::sleep(Duration::from_secs(60));
}

#[tokio::test]
async fn a_cluster_ends_when_its_owner_is_killed() {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cluster::holds_a_cluster_until_killed", "--nocapture"])
        .env("PGSTREAM_TEST_HOLD", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (pid, directory) = held(BufReader::new(owner.stderr.take().unwrap()));
    assert!(process_exists(pid));
    owner.kill().unwrap();
    owner.wait().unwrap();
    eventually("the guard clears up", async || !process_exists(pid) && !Path::new(&directory).exists()).await;
}

fn held(stderr: impl BufRead) -> (u32, PathBuf) {
    let line = stderr.lines().map_while(Result::ok).find(|line| line.contains("HELD ")).unwrap();
    let mut words = line.split_once("HELD ").unwrap().1.split(' ');
    (words.next().unwrap().parse().unwrap(), words.next().unwrap().into())
}
