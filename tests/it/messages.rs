//! Every failure: one clear message with what to do, the documented exit status, one JSON document, and
//! nothing left behind on the source.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use pgstream::demo::{ClusterOptions, Shutdown};
use pgstream::wire::{Connection, ConnectionSettings};

use crate::support::PATIENCE;
use crate::support::engine::Engine;
use crate::support::scenario::{Scenario, source_options, target_options};

const FAILED: i32 = 1;
const USAGE: i32 = 2;
const BLOCKED: i32 = 3;
/// Without it a dump takes the place of what cannot be streamed.
const STREAMED: [&str; 2] = ["--method", "replication"];

/// One way to go wrong: a command line, and what must come of it.
struct Case<'a> {
    source: String,
    target: String,
    words: &'a [&'a str],
    code: i32,
    /// Texts that people must find on stderr.
    says: &'a [&'a str],
}

impl Case<'_> {
    /// Runs it, and asserts all that holds of every failure.
    async fn fails(self, scenario: &Scenario) {
        let before = scenario.source.footprint().await;
        let servers = ["migrate", "--json", "--source", &self.source, "--target", &self.target];
        let outcome = Engine::start(servers.iter().chain(self.words)).wait(PATIENCE).await;
        let said = format!("{:?}\nstdout:\n{}\nstderr:\n{}", self.words, outcome.stdout, outcome.stderr);
        let (document, outcome) = (outcome.json(), outcome.expect_code(self.code));
        assert_eq!(document["status"], "failed", "{said}");
        let (message, hint) = (&document["error"]["message"], &document["error"]["hint"]);
        assert!(message.is_string(), "{said}");
        // What is wrong with a command line says by itself what to write instead.
        assert!(hint.is_string() || self.code == USAGE, "without advice: {said}");
        let mistakes = outcome.stderr.lines().filter(|line| line.starts_with("pgstream: ")).count();
        let hints = outcome.stderr.lines().filter(|line| line.starts_with("hint: ")).count();
        assert_eq!((mistakes, hints == 1), (1, hint.is_string()), "one message, one advice: {said}");
        assert!(!outcome.stderr.contains('\u{1b}'), "{said}");
        for text in self.says {
            assert!(outcome.stderr.contains(text), "does not say {text:?}: {said}");
        }
        scenario.assert_source_clean(&before).await;
    }
}

/// A case between the scenario's own two databases.
fn case<'a>(scenario: &Scenario, words: &'a [&'a str], code: i32, says: &'a [&'a str]) -> Case<'a> {
    Case { source: scenario.source.dsn(), target: scenario.target.dsn(), words, code, says }
}

/// Roles log in with passwords, and only the harness' own without.
fn with_passwords(options: ClusterOptions) -> ClusterOptions {
    let hba = ["all", "replication"].map(|database| format!("host {database} mover all scram-sha-256"));
    ClusterOptions { hba: hba.to_vec(), ..options }
}

#[tokio::test]
async fn a_server_that_is_not_reached_is_named_with_its_cause_and_its_cure() {
    let scenario =
        Scenario::own_with("reach", with_passwords(source_options()), with_passwords(target_options())).await;
    for side in [&scenario.source, &scenario.target] {
        side.execute("CREATE ROLE mover SUPERUSER LOGIN PASSWORD 'right'").await;
    }
    let (source, target) = (scenario.source.dsn(), scenario.target.dsn());
    // A port that was free a moment ago.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let unresolved = "the name does not resolve";
    for (wrong, says) in [
        (
            " user=mover password=wrong",
            ["password authentication failed", "The password for role mover is wrong"],
        ),
        (" user=mover", ["asked for a password", "PGPASSWORD"]),
        (" user=nobody_here", ["\"nobody_here\" does not exist", "pg_hba.conf"]),
        (" dbname=no_such_db", ["\"no_such_db\" does not exist", "CREATE DATABASE \"no_such_db\""]),
        (&*format!(" port={dead}"), ["Connection refused", "Check host, port and firewall"]),
        (" host=no-such-host.invalid", [unresolved, "Check the host's spelling"]),
    ] {
        let on_source = [says[0], says[1], "on the source"];
        let case = Case {
            source: source.clone() + wrong,
            target: target.clone(),
            words: &[],
            code: FAILED,
            says: &on_source,
        };
        case.fails(&scenario).await;
        let on_target = [says[0], says[1], "on the target"];
        let case = Case {
            source: source.clone(),
            target: target.clone() + wrong,
            // What is not there would be created.
            words: &["--no-createdb"],
            code: FAILED,
            says: &on_target,
        };
        case.fails(&scenario).await;
    }
}

#[tokio::test]
async fn bad_usage_is_told_from_everything_else() {
    let scenario = Scenario::own("usage").await;
    let skip = ["--skip-table", "no_such_table"];
    for (words, says) in [
        (&["--frobnicate"][..], &["there is no option --frobnicate", "pgstream --help"][..]),
        (&["--until", "caught-up", "--stop-replication"], &["two ways to end"]),
        (&["--max-replication-lag", "0"], &["--stop-replication"]),
        (&["--copy-jobs", "none"], &["--copy-jobs has a value it cannot take"]),
        (&["stray"], &["belongs to no option"]),
        (&["--quiet", "-v"], &["contradict each other"]),
        (&skip, &["find a table that matches no_such_table", "fold to lower case"]),
        (&["--skip-table", "a", "--insert-only", "a"], &["both --skip-table and --insert-only"]),
        (&["--work-dir", "/no/such/directory"], &["/no/such/directory"]),
        (&["--metrics-addr", "192.0.2.1:9"], &["--metrics-addr"]),
    ] {
        case(&scenario, words, USAGE, says).fails(&scenario).await;
    }
    for (dsn, says) in [
        ("just_a_name", "missing \"=\""),
        ("postgres://me:hunter2@host:port/db", "port"),
        ("host=x frobnicate=y password=hunter2", "frobnicate"),
        ("host=127.0.0.1 sslmode=maybe", "sslmode"),
    ] {
        let says = ["read the source's connection string", says, "Write it as libpq does"];
        let case =
            Case { source: dsn.into(), target: scenario.target.dsn(), words: &[], code: USAGE, says: &says };
        case.fails(&scenario).await;
    }
    let twice = scenario.source.dsn();
    let says = ["the same database"];
    Case { source: twice.clone(), target: twice, words: &[], code: USAGE, says: &says }
        .fails(&scenario)
        .await;
}

#[tokio::test]
async fn tables_that_cannot_be_published_or_read_block() {
    let scenario = Scenario::own("tables").await;
    scenario
        .source
        .execute(
            "CREATE TABLE keyed (id int PRIMARY KEY);
             CREATE TABLE keyless (a int);
             CREATE TABLE eligible (a int NOT NULL UNIQUE);
             CREATE TABLE deferred (a int PRIMARY KEY DEFERRABLE)",
        )
        .await;
    let says = [
        "3 checks block",
        "public.keyless has no primary key",
        "--replica-identity full, --insert-only public.keyless or --skip-table public.keyless",
        "ALTER TABLE \"public\".\"eligible\" REPLICA IDENTITY USING INDEX \"eligible_a_key\";",
        "public.deferred has a DEFERRABLE primary key",
    ];
    case(&scenario, &STREAMED, BLOCKED, &says).fails(&scenario).await;

    let source = &scenario.source;
    source.execute("DROP TABLE keyless, eligible, deferred; CREATE ROLE reader LOGIN").await;
    let says = [
        "not let role reader replicate",
        "ALTER ROLE \"reader\" REPLICATION;",
        "may not read tables public.keyed",
        "GRANT SELECT ON TABLE \"public\".\"keyed\" TO \"reader\";",
        "GRANT CREATE ON DATABASE",
    ];
    Case { source: source.dsn() + " user=reader", ..case(&scenario, &STREAMED, BLOCKED, &says) }
        .fails(&scenario)
        .await;
    source.execute("DROP ROLE reader").await;
}

#[tokio::test]
async fn a_target_that_holds_something_or_is_the_source_blocks() {
    let scenario = Scenario::own("full").await;
    scenario.source.execute("CREATE TABLE t (id int PRIMARY KEY)").await;
    scenario.target.execute("CREATE TABLE stray (a int)").await;
    let says = ["is not empty: it holds a relation, public.stray", "Name an empty database"];
    case(&scenario, &[], BLOCKED, &says).fails(&scenario).await;
    assert_eq!(scenario.target.value::<i64>("SELECT count(*) FROM public.stray").await, 0);

    let says = ["a check blocks", "it would be copied onto itself"];
    let target = scenario.source.dsn() + " application_name=another_string";
    let itself = Case { target, ..case(&scenario, &[], BLOCKED, &says) };
    let outcome = Engine::start(["migrate", "-s", &itself.source, "-t", &itself.target]).wait(PATIENCE).await;
    assert!(!outcome.stderr.contains("DROP DATABASE"), "advice to drop the source:\n{}", outcome.stderr);
    itself.fails(&scenario).await;
}

fn with_setting(options: ClusterOptions, name: &str, value: &str) -> ClusterOptions {
    ClusterOptions { settings: vec![(name.to_owned(), value.to_owned())], ..options }
}

#[tokio::test]
async fn a_source_without_logical_wal_blocks() {
    let source = with_setting(source_options(), "wal_level", "replica");
    let scenario = Scenario::own_with("wal_level", source, target_options()).await;
    let says = ["wal_level is replica on the source", "ALTER SYSTEM SET wal_level = 'logical';"];
    case(&scenario, &STREAMED, BLOCKED, &says).fails(&scenario).await;
}

#[tokio::test]
async fn a_source_without_a_free_slot_blocks_and_names_the_idle_ones() {
    let source = with_setting(source_options(), "max_replication_slots", "1");
    let scenario = Scenario::own_with("slots", source, target_options()).await;
    scenario.source.execute("SELECT pg_create_logical_replication_slot('forgotten', 'pgoutput')").await;
    let says = ["All 1 replication slots", "forgotten", "ALTER SYSTEM SET max_replication_slots = 5;"];
    case(&scenario, &STREAMED, BLOCKED, &says).fails(&scenario).await;
}

#[tokio::test]
async fn a_source_without_a_free_walsender_blocks() {
    let source = with_setting(source_options(), "max_wal_senders", "1");
    let scenario = Scenario::own_with("senders", source, target_options()).await;
    let conninfo = scenario.source.cluster.conninfo(&scenario.source.dbname);
    let taken = Connection::connect(&conninfo, &ConnectionSettings::replication("other")).await.unwrap();
    let says = ["All 1 walsenders", "ALTER SYSTEM SET max_wal_senders = 5;"];
    case(&scenario, &STREAMED, BLOCKED, &says).fails(&scenario).await;
    drop(taken);
}

#[tokio::test]
async fn a_standby_at_either_end_blocks() {
    let scenario = Scenario::own("standby").await;
    let cluster = &scenario.target.cluster;
    cluster.stop(Shutdown::Fast).await.unwrap();
    fs::write(cluster.data_directory().join("standby.signal"), "").unwrap();
    cluster.restart(Shutdown::Fast).await.unwrap();
    let says = ["The target is a standby", "target_session_attrs=read-write"];
    case(&scenario, &STREAMED, BLOCKED, &says).fails(&scenario).await;
    let says = ["The source is a standby", "target_session_attrs=read-write"];
    let (source, target) = (scenario.target.dsn(), scenario.source.dsn());
    Case { source, target, words: &STREAMED, code: BLOCKED, says: &says }.fails(&scenario).await;
}

/// Writes stand-ins for both tools that only know their version.
fn fake_tools(directory: &Path, version: &str) {
    for program in ["pg_dump", "pg_restore"] {
        let path = directory.join(program);
        fs::write(&path, format!("#!/bin/sh\necho \"{program} (PostgreSQL) {version}\"\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[tokio::test]
async fn tools_that_are_missing_or_too_old_stop_it_before_anything_is_made() {
    let scenario = Scenario::own("tools").await;
    scenario.source.execute("CREATE TABLE t (id int PRIMARY KEY)").await;
    let empty = tempfile::tempdir().unwrap();
    let old = tempfile::tempdir().unwrap();
    fake_tools(old.path(), "9.6.24");
    let too_old = format!("pg_dump 9.6.24 cannot read a server of version {}", scenario.source.major());
    for (folder, says) in [(&empty, "no pg_dump and pg_restore were found"), (&old, &*too_old)] {
        let words = ["--pgbin", folder.path().to_str().unwrap()];
        let says = [says, "postgresql-client-", "--pgbin"];
        case(&scenario, &words, BLOCKED, &says).fails(&scenario).await;
    }
    let begun = "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgstream'";
    assert_eq!(scenario.target.value::<i64>(begun).await, 0);
}

/// A server that dies of its full disk takes the journal with it; what is ours on the source goes all the same.
#[tokio::test]
async fn a_target_that_dies_of_its_full_disk_leaves_the_source_clean() {
    let scenario = Scenario::own("dies").await;
    let fill = "CREATE TABLE t (id int PRIMARY KEY, note text);
                INSERT INTO t SELECT n, repeat(md5(n::text), 40) FROM generate_series(1, 30000) AS n";
    scenario.source.execute(fill).await;
    // The end of a WAL segment of 16 MB does not fit any more: the copy gets there, and that is a PANIC.
    scenario.target.limit_files("16773120").await;
    let says = ["copy table public.t"];
    case(&scenario, &[], FAILED, &says).fails(&scenario).await;
}
