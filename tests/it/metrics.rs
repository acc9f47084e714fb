//! What the exporter serves is what Prometheus reads: judged by Prometheus' own tool.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use pgstream::error::ErrorKind;
use pgstream::telemetry::{
    ApplyGroup, ChangeKind, Exporter, FallbackReason, METRICS, Phase, Side, Stage, TableState,
};

/// `promtool check metrics` accepts every metric there is, each with HELP and TYPE.
#[tokio::test(flavor = "multi_thread")]
async fn promtool_accepts_every_metric() {
    let exporter = Exporter::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    record_everything(&exporter);
    let address = exporter.local_addr();
    let body = tokio::task::spawn_blocking(move || scrape(address)).await.unwrap();
    for metric in METRICS {
        let head = format!("# HELP {} {}\n# TYPE {} ", metric.name, metric.help, metric.name);
        assert!(body.contains(&head), "{} is missing in\n{body}", metric.name);
    }
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs; Debian has it in the package prometheus");
    promtool.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
    let verdict = promtool.wait_with_output().unwrap();
    let text = [verdict.stdout, verdict.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    // It exits 0 with remarks on some matters; we want none.
    assert!(verdict.status.success() && text.concat().is_empty(), "{text:?}\n{body}");
    exporter.shutdown().await;
}

fn record_everything(exporter: &Exporter) {
    let metrics = exporter.metrics();
    metrics.error(ErrorKind::Connect);
    for name in ["shop", "odd \"name\"\n\\"] {
        let database = metrics.database(name);
        database.phase(Phase::Following);
        database.tables(TableState::Ready, 3);
        database.copied_rows(10);
        database.copied_bytes(1_000);
        database.lag_bytes(Stage::Applied, 16);
        database.lag_seconds(Duration::from_millis(1_500));
        database.slot_retained_bytes(1 << 24);
        database.slot_safe_wal_bytes(-1);
        database.snapshot_age(Duration::ZERO);
        database.spool_bytes(0);
        database.applied_transactions(2);
        database.applied_changes(ChangeKind::Update, 5);
        database.apply_group(ApplyGroup { changes: 5, elapsed: Duration::from_millis(3) });
        database.apply_fallback(FallbackReason::UniqueViolation);
        database.reconnected(Side::Target);
    }
}

fn scrape(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}
