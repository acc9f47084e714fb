//! What the exporter serves is what Prometheus reads: judged by Prometheus' own tool.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use pgstream::demo::{SeedOptions, Workload, WorkloadOptions, seed};
use pgstream::error::{self, ErrorKind};
use pgstream::telemetry::{
    ApplyGroup, BuildStep, ChangeKind, Exporter, FallbackReason, METRICS, Obstacle, Phase, Stage, TableState,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::engine::Engine;
use crate::support::scenario::{Scenario, Side};
use crate::support::{PATIENCE, eventually};

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
    assert_promtool_accepts(&body);
    exporter.shutdown().await;
}

fn assert_promtool_accepts(body: &str) {
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
        database.index_builds(BuildStep::Scanning, 2);
        database.copy_limit(std::num::NonZeroU64::new(1 << 20));
        database.lag_bytes(Stage::Applied, 16);
        database.lag_seconds(Duration::from_millis(1_500));
        database.waiting_for_operator(true);
        database.held_up(Obstacle::Lock, true);
        database.parked_changes(3);
        database.parked_rows(1);
        database.slot_retained_bytes(1 << 24);
        database.slot_safe_wal_bytes(-1);
        database.snapshot_age(Duration::ZERO);
        database.spool_bytes(0);
        database.spool_full(false);
        database.applied_transactions(2);
        database.applied_changes(ChangeKind::Update, 5);
        database.apply_group(ApplyGroup { changes: 5, elapsed: Duration::from_millis(3) });
        database.apply_fallback(FallbackReason::UniqueViolation);
        database.reconnected(error::Side::Target);
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

/// Where the engine says that it serves metrics.
pub(crate) fn metrics_address(stderr: &str) -> SocketAddr {
    let word = stderr.split_once("address=").and_then(|(_, rest)| rest.split_whitespace().next());
    word.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no address in\n{stderr}"))
}

/// What one request was answered, split at the end of the head.
pub(crate) fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).ok()?;
    let (head, body) = response.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// Everything asked at one moment.
#[derive(Debug, Clone)]
struct Scrape {
    text: String,
    healthy: bool,
    ready: bool,
}

impl Scrape {
    fn take(address: SocketAddr) -> Option<Scrape> {
        let (status, text) = get(address, "/metrics")?;
        assert_eq!(status, 200);
        let (health, _) = get(address, "/healthz")?;
        let (ready, _) = get(address, "/readyz")?;
        Some(Scrape { text, healthy: health == 200, ready: ready == 200 })
    }

    /// The value of the one series of that name whose labels contain each of `labels`.
    fn value(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let mut lines = self.text.lines().filter(|line| {
            let series = line.split(['{', ' ']).next();
            series == Some(name) && labels.iter().all(|label| line.contains(label))
        });
        let value = lines.next()?.rsplit(' ').next()?.parse().ok();
        assert!(lines.next().is_none(), "several series {name} {labels:?} in\n{}", self.text);
        value
    }

    fn phase(&self) -> Option<Phase> {
        let is_current = |phase: &&Phase| {
            self.value("pgstream_phase", &[&format!("phase=\"{}\"", phase.label())]) == Some(1.0)
        };
        Phase::ALL.iter().find(is_current).copied()
    }

    /// Lag of everything that is behind by stage and in time; `None` until it is known.
    fn lags(&self) -> Option<[f64; 4]> {
        let bytes = |stage| self.value("pgstream_replication_lag_bytes", &[stage]);
        Some([
            bytes("stage=\"applied\"")?,
            bytes("stage=\"durable\"")?,
            bytes("stage=\"confirmed\"")?,
            self.value("pgstream_replication_lag_seconds", &[])?,
        ])
    }
}

/// Scrapes five times a second until the engine is gone.
struct Scraper {
    latest: watch::Receiver<Option<Scrape>>,
    all: JoinHandle<Vec<Scrape>>,
}

impl Scraper {
    fn start(address: SocketAddr) -> Scraper {
        let (sender, latest) = watch::channel(None);
        let all = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            while let Some(scrape) = Scrape::take(address) {
                sender.send_replace(Some(scrape.clone()));
                all.push(scrape);
                std::thread::sleep(Duration::from_millis(200));
            }
            all
        });
        Scraper { latest, all }
    }

    /// Waits for a scrape of which `holds` is true.
    async fn until(&mut self, what: &str, mut holds: impl FnMut(&Scrape) -> bool) -> Scrape {
        let seen = self.latest.wait_for(|scrape| scrape.as_ref().is_some_and(&mut holds));
        let seen = tokio::time::timeout(PATIENCE, seen).await;
        match seen {
            Ok(Ok(scrape)) => scrape.clone().expect("it was looked at"),
            Ok(Err(_)) => panic!("the engine ended before: {what}"),
            Err(_) => panic!("never scraped: {what}"),
        }
    }

    /// The next scrapes, as many as asked for.
    async fn next(&mut self, count: usize) -> Vec<Scrape> {
        let mut scrapes = Vec::new();
        while scrapes.len() < count {
            self.latest.changed().await.expect("the engine still runs");
            scrapes.extend(self.latest.borrow_and_update().clone());
        }
        scrapes
    }
}

/// A table that takes a while to copy, and three writers on the rest.
async fn live_source(scenario: &Scenario) -> Workload {
    let large = "CREATE TABLE large (id int PRIMARY KEY, note text);
                 INSERT INTO large SELECT n, repeat(md5(n::text), 20) FROM generate_series(1, 60000) AS n";
    scenario.source.execute(large).await;
    seed(&scenario.source.session().await, SeedOptions { rows: 200, seed: 1 }).await.unwrap();
    let pause = Duration::from_millis(15);
    let options = WorkloadOptions { rows: 200, writers: 3, pause, ..WorkloadOptions::default() };
    Workload::start(scenario.source.cluster.conninfo(&scenario.source.dbname), &options).await.unwrap()
}

/// The whole way of a migration as Prometheus would see it.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_is_told_truly_from_its_beginning_to_its_end() {
    let scenario = Scenario::own("metrics").await;
    let workload = live_source(&scenario).await;
    let (source, target) = (scenario.source.dsn(), scenario.target.dsn());
    let mut engine = Engine::start(
        [
            ["migrate", "--json", "-v", "--source", &source, "--target", &target].as_slice(),
            &["--replica-identity", "full", "--metrics-addr", "127.0.0.1:0", "--status-interval", "200ms"],
        ]
        .concat(),
    );
    engine.wait_for_stderr("metrics are served", PATIENCE).await;
    let mut scraper = Scraper::start(metrics_address(&engine.stderr_text()));

    scraper.until("following", |scrape| scrape.phase() == Some(Phase::Following)).await;
    let commits = workload.counts().commits;
    eventually("the source lives on", async || workload.counts().commits > commits + 50).await;
    let end = workload.stop().await.unwrap().end_lsn;
    let applied = format!(
        "SELECT bool_and(confirmed_flush_lsn >= '{end}') FROM pg_replication_slots
          WHERE slot_name LIKE 'pgstream%'"
    );
    eventually("all is applied", async || scenario.source.value::<bool>(&applied).await).await;

    // Idle: lag falls to zero and stays there.
    scraper.until("no lag", |scrape| scrape.lags() == Some([0.0; 4])).await;
    for scrape in scraper.next(8).await {
        assert_eq!(scrape.lags(), Some([0.0; 4]), "lag on an idle source");
        assert!(scrape.healthy && scrape.ready);
    }
    reconnects_are_counted_on_their_side(&scenario, &mut scraper).await;
    busy_neighbours_do_not_pin_wal(&scenario).await;

    let last = scraper.until("no lag", |scrape| scrape.lags() == Some([0.0; 4])).await;
    engine.interrupt().await;
    let result = engine.wait(PATIENCE).await.expect_code(0).json();
    counters_equal(&last, &result["databases"][0]);
    let scrapes = scraper.all.await.unwrap();
    phases_only_go_on(&scrapes);
    for scrape in scrapes.iter().step_by(scrapes.len().div_ceil(12)) {
        assert_promtool_accepts(&scrape.text);
    }
}

async fn reconnects_are_counted_on_their_side(scenario: &Scenario, scraper: &mut Scraper) {
    for (side, role, label) in
        [(&scenario.source, "stream", "side=\"source\""), (&scenario.target, "apply%", "side=\"target\"")]
    {
        let cut = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
              WHERE application_name LIKE 'pgstream {role}' AND datname = current_database()"
        );
        let reconnects = |scrape: &Scrape| scrape.value("pgstream_reconnects_total", &[label]).unwrap();
        let before = reconnects(&scraper.next(1).await[0]);
        assert_eq!(side.value::<i64>(&cut).await, 1, "sessions of pgstream {role}");
        // A session that is idle learns of its end when it is needed.
        scenario.source.execute("UPDATE large SET note = note WHERE id = 1").await;
        scraper.until(label, |scrape| reconnects(scrape) == before + 1.0).await;
        scraper.until("in step again", |scrape| scrape.ready && scrape.lags().is_some()).await;
    }
    let errors = scraper.next(1).await[0].value("pgstream_errors_total", &["kind=\"connect\""]);
    assert_eq!(errors, Some(2.0));
}

/// P19: the slot moves on although nothing happens in its own database.
async fn busy_neighbours_do_not_pin_wal(scenario: &Scenario) {
    let neighbour =
        Side { dbname: format!("{}_neighbour", scenario.source.dbname), ..scenario.source.clone() };
    neighbour.cluster.create_database(&neighbour.dbname).await.unwrap();
    neighbour.execute("CREATE TABLE busy AS SELECT generate_series(1, 50000) AS n").await;
    let written: String = neighbour.value("SELECT pg_current_wal_lsn()::text").await;
    let confirmed = format!(
        "SELECT bool_and(confirmed_flush_lsn >= '{written}') FROM pg_replication_slots
          WHERE slot_name LIKE 'pgstream%'"
    );
    eventually("the slot is confirmed past what its neighbour wrote", async || {
        scenario.source.value::<bool>(&confirmed).await
    })
    .await;
}

fn counters_equal(last: &Scrape, database: &serde_json::Value) {
    let changes = ["insert", "update", "delete", "truncate"]
        .map(|kind| last.value("pgstream_applied_changes_total", &[&format!("kind=\"{kind}\"")]).unwrap());
    let counted = [
        ("rows_copied", last.value("pgstream_copied_rows_total", &[])),
        ("bytes_copied", last.value("pgstream_copied_bytes_total", &[])),
        ("transactions_applied", last.value("pgstream_applied_transactions_total", &[])),
        ("changes_applied", Some(changes.iter().sum())),
        ("tables", last.value("pgstream_tables", &["state=\"ready\""])),
    ];
    for (figure, counter) in counted {
        assert_eq!(database[figure].as_f64(), counter, "{figure} of {database}");
    }
    assert!(counted[2].1 > Some(50.0) && changes.iter().all(|count| *count > 0.0), "{changes:?}");
    let groups = last.value("pgstream_apply_group_seconds_count", &[]).unwrap();
    let grouped = last.value("pgstream_apply_group_changes_sum", &[]).unwrap();
    assert!(groups > 0.0 && Some(groups) <= counted[2].1, "{groups} groups");
    assert_eq!(Some(grouped), counted[3].1, "changes in groups");
}

fn phases_only_go_on(scrapes: &[Scrape]) {
    let mut phases: Vec<Phase> = scrapes.iter().filter_map(Scrape::phase).collect();
    phases.dedup();
    assert!(phases.is_sorted(), "{phases:?}");
    assert!(phases.contains(&Phase::Copying) && phases.ends_with(&[Phase::Following]), "{phases:?}");
    let early = scrapes.iter().filter(|scrape| scrape.phase() < Some(Phase::Following));
    for scrape in early {
        assert!(!scrape.ready && scrape.healthy, "in step before {:?}", scrape.phase());
    }
}
