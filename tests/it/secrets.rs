//! A password, wherever it was given, is seen nowhere: not on stdout or stderr at any log level, not in the
//! command line of a process, not in the metrics or the result.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use pgstream::demo::ClusterOptions;

use crate::metrics::{get, metrics_address};
use crate::support::engine::Engine;
use crate::support::scenario::{Scenario, Side, source_options, target_options};
use crate::support::{PATIENCE, eventually};

const SOURCE_PASSWORD: &str = "s0urce-h&nter=2";
const TARGET_PASSWORD: &str = "t4rget-hunter/2";

fn with_passwords(options: ClusterOptions) -> ClusterOptions {
    let hba = ["all", "replication"].map(|database| format!("host {database} mover all scram-sha-256"));
    ClusterOptions { hba: hba.to_vec(), ..options }
}

async fn scenario() -> Scenario {
    let scenario =
        Scenario::own_with("secret", with_passwords(source_options()), with_passwords(target_options()))
            .await;
    for (side, password) in [(&scenario.source, SOURCE_PASSWORD), (&scenario.target, TARGET_PASSWORD)] {
        side.execute(&format!("CREATE ROLE mover SUPERUSER LOGIN PASSWORD '{password}'")).await;
    }
    let table = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1000)";
    scenario.source.execute(table).await;
    scenario
}

/// Both passwords, as they are and as they would stand in a URI.
const FORMS: [&str; 4] = [SOURCE_PASSWORD, TARGET_PASSWORD, "s0urce-h%26nter%3D2", "t4rget-hunter%2F2"];

/// Every command line on this machine that holds one of these. Our own process, and the harness', hold none.
fn command_lines(forms: &[&str]) -> BTreeSet<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    let holds = |line: &String| forms.iter().any(|form| line.contains(form));
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(holds).collect()
}

fn tells(text: &str) -> bool {
    FORMS.iter().any(|form| text.contains(form))
}

#[tokio::test]
async fn a_password_on_a_command_line_would_be_seen() {
    let marker = "an-argument-to-be-seen";
    let mut shell = tokio::process::Command::new("sh");
    let mut child = shell.args(["-c", "read line", marker]).stdin(Stdio::piped()).spawn().unwrap();
    // A process has its own command line only some time after it was started.
    eventually("it is seen", async || command_lines(&[marker]).len() == 1).await;
    drop(child.stdin.take());
    child.wait().await.unwrap();
}

/// One run with `command`, at the most talkative level: what it printed, and what was seen meanwhile.
async fn run(mut command: tokio::process::Command) -> String {
    command.args(["-vvv", "--json", "--metrics-addr", "127.0.0.1:0", "--stop-replication"]);
    let mut engine = Engine::spawn(command);
    engine.wait_for_stderr("metrics are served", PATIENCE).await;
    let address = metrics_address(&engine.stderr_text());
    let (status, metrics) = get(address, "/metrics").expect("the engine has only begun");
    assert_eq!(status, 200);
    let seen = tokio::task::spawn_blocking(|| {
        let start = std::time::Instant::now();
        let mut seen = BTreeSet::new();
        while start.elapsed() < std::time::Duration::from_secs(2) {
            seen.extend(command_lines(&FORMS));
        }
        seen
    });
    let outcome = engine.wait(PATIENCE).await.expect_code(0);
    let seen = seen.await.unwrap();
    assert!(seen.is_empty(), "command lines: {seen:#?}");
    format!("{}\n{}\n{metrics}", outcome.stdout, outcome.stderr)
}

/// Not by --source: what the operator types there stands in the process list by the operator's own hand.
fn from_environment(scenario: &Scenario) -> tokio::process::Command {
    let uri = |side: &Side, password: &str| {
        format!("postgres://mover:{password}@127.0.0.1:{}/{}", side.cluster.port(), side.dbname)
    };
    let mut command = Engine::command();
    command.arg("migrate");
    command.env("SOURCE_SERVICE_URI", uri(&scenario.source, "s0urce-h%26nter%3D2"));
    command.env("TARGET_SERVICE_URI", uri(&scenario.target, "t4rget-hunter%2F2"));
    command
}

async fn assert_kept(said: &str, scenario: &Scenario) {
    assert!(said.contains("DEBUG") || said.contains("TRACE"), "the log was meant to be full:\n{said}");
    let line = said.lines().find(|line| tells(line));
    assert!(line.is_none(), "a password is printed: {line:?}");
    scenario.assert_equal().await;
}

#[tokio::test]
async fn a_password_in_the_environment_stays_there() {
    let scenario = scenario().await;
    let said = run(from_environment(&scenario)).await;
    assert_kept(&said, &scenario).await;
}

#[tokio::test]
async fn a_password_in_a_file_stays_there() {
    let scenario = scenario().await;
    let folder = tempfile::tempdir().unwrap();
    let (passfile, services) = (folder.path().join("passfile"), folder.path().join("services"));
    fs::write(&passfile, format!("*:{}:*:mover:{SOURCE_PASSWORD}\n", scenario.source.cluster.port()))
        .unwrap();
    fs::set_permissions(&passfile, fs::Permissions::from_mode(0o600)).unwrap();
    let service = format!(
        "[there]\nhost=127.0.0.1\nport={}\nuser=mover\ndbname={}\npassword={TARGET_PASSWORD}\n",
        scenario.target.cluster.port(),
        scenario.target.dbname
    );
    fs::write(&services, service).unwrap();
    let mut command = Engine::command();
    command.args(["migrate", "-s", &(scenario.source.dsn() + " user=mover"), "-t", "service=there"]);
    command.env("PGPASSFILE", &passfile).env("PGSERVICEFILE", &services);
    let said = run(command).await;
    assert_kept(&said, &scenario).await;
}

/// PGPASSWORD goes for both ends; refused, it is not repeated either.
#[tokio::test]
async fn a_refused_password_is_not_repeated() {
    let scenario = scenario().await;
    for talk in ["-q", "-d", "-vvv"] {
        let mut command = Engine::command();
        command.env("PGPASSWORD", TARGET_PASSWORD);
        let (source, target) = (scenario.source.dsn() + " user=mover", scenario.target.dsn() + " user=mover");
        command.args(["migrate", "--json", talk, "-s", &source, "-t", &target]);
        let outcome = Engine::spawn(command).wait(PATIENCE).await.expect_code(1);
        assert!(outcome.stderr.contains("password authentication failed"), "{}", outcome.stderr);
        assert!(!tells(&outcome.stderr) && !tells(&outcome.stdout), "{}\n{}", outcome.stdout, outcome.stderr);
    }
}

/// Killed while the tools are at work with them: neither passwords nor definitions, which may hold some, stay on disk.
#[tokio::test]
async fn a_killed_engine_leaves_nothing_to_be_read() {
    let scenario = scenario().await;
    scenario.source.execute("CREATE TYPE mood AS ENUM ('calm')").await;
    let folder = tempfile::tempdir().unwrap();
    let restoring = scenario.target.hold("LOCK pg_catalog.pg_enum IN SHARE MODE").await;
    let mut command = from_environment(&scenario);
    command.env("TMPDIR", folder.path());
    let waits = "EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'pgstream schema'
        AND wait_event_type = 'Lock')";
    Engine::spawn(command).kill_when(&scenario.target, waits).await;
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "{left:?}");
    restoring.release().await;
    scenario.migrate(&["--stop-replication"]).wait(PATIENCE).await.expect_code(0);
    scenario.assert_equal().await;
}
