//! Each check speaks up on a real server when something is wrong, and is quiet when its own fix was applied.

use std::time::Duration;

use pgstream::demo::{Cluster, ClusterOptions};
use pgstream::error::{ErrorKind, describe};
use pgstream::pg::{Conninfo, HostName, SslMode};
use pgstream::precheck::{CHECKS, CheckChoice, CheckOptions, Method, Outcome, Report, Verdict, check};
use pgstream::wire::{Connection, ConnectionSettings};

use crate::support::pooler::Pooler;
use crate::support::scenario::{Scenario, Side};

/// Checks that look at a whole cluster, where other scenarios are at work.
const OF_THE_CLUSTER: [&str; 6] = [
    "source-connections",
    "target-connections",
    "replication-slots",
    "wal-senders",
    "prepared-transactions",
    "long-writers",
];

pub(crate) fn conninfo(side: &Side) -> Conninfo {
    side.cluster.conninfo(&side.dbname)
}

pub(crate) fn as_role(side: &Side, user: &str) -> Conninfo {
    Conninfo { user: user.to_owned(), ..conninfo(side) }
}

pub(crate) async fn judged(source: &Conninfo, target: &Conninfo) -> Report {
    // No SQL tells how much room a disk has.
    let choice = CheckChoice { target_free_bytes: Some(1 << 50), ..CheckChoice::default() };
    check(source, target, &CheckOptions { choice, ..CheckOptions::default() })
        .await
        .unwrap_or_else(|error| panic!("{}", describe(&error)))
}

impl Scenario {
    pub(crate) async fn judged(&self) -> Report {
        judged(&conninfo(&self.source), &conninfo(&self.target)).await
    }
}

/// What a check found wrong.
pub(crate) fn findings<'a>(report: &'a Report, id: &str) -> Vec<&'a Outcome> {
    assert!(CHECKS.iter().any(|check| check.id == id), "there is no check {id}");
    report.checks.iter().filter(|outcome| outcome.id == id && outcome.verdict != Verdict::Pass).collect()
}

/// The one thing that a check found, with that verdict and those words.
pub(crate) fn only<'a>(report: &'a Report, id: &str, verdict: Verdict, words: &str) -> &'a Outcome {
    let found = findings(report, id);
    let [one] = found.as_slice() else { panic!("{id}: {found:#?}") };
    assert_eq!(one.verdict, verdict, "{one:?}");
    assert!(one.message.contains(words), "{words:?} is not in {one:?}");
    one
}

pub(crate) fn passes(report: &Report, id: &str) {
    let found = findings(report, id);
    assert!(found.is_empty(), "{found:#?}");
}

pub(crate) fn fix(outcome: &Outcome) -> &str {
    outcome.fix.as_deref().unwrap_or_else(|| panic!("no fix: {outcome:?}"))
}

#[tokio::test]
async fn a_sound_pair_passes_and_is_left_as_it_was() {
    let scenario = Scenario::shared("sound").await;
    scenario.source.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE VIEW v AS SELECT * FROM a").await;
    let report = scenario.judged().await;
    let bad = |outcome: &&Outcome| outcome.verdict != Verdict::Pass && !OF_THE_CLUSTER.contains(&outcome.id);
    let bad: Vec<_> = report.checks.iter().filter(bad).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    let sql = "SELECT (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_replication_slots \
               WHERE database = current_database())";
    assert_eq!(scenario.source.value::<i64>(sql).await, 0);
}

#[tokio::test]
async fn a_table_without_identity_blocks_until_its_fix_is_run() {
    let scenario = Scenario::shared("identity").await;
    let tables = "
        CREATE TABLE bare (a int);
        CREATE TABLE eligible (a int NOT NULL, b int); CREATE UNIQUE INDEX narrow ON eligible (a);
        CREATE UNIQUE INDEX nullable ON eligible (b);
        CREATE TABLE late (a int PRIMARY KEY DEFERRABLE);
        CREATE TABLE hushed (a int PRIMARY KEY); ALTER TABLE hushed REPLICA IDENTITY NOTHING;
        CREATE TABLE lost (a int PRIMARY KEY, b int NOT NULL); CREATE UNIQUE INDEX gone ON lost (b);
        ALTER TABLE lost REPLICA IDENTITY USING INDEX gone; DROP INDEX gone;
        CREATE TABLE sound (a int PRIMARY KEY); CREATE TABLE whole (a int); ALTER TABLE whole REPLICA IDENTITY FULL";
    scenario.source.execute(tables).await;
    let report = scenario.judged().await;
    assert!(!report.ok);
    let found = findings(&report, "replica-identity");
    let about = |table: &str| {
        let of = |outcome: &&&Outcome| outcome.message.starts_with(&format!("public.{table} "));
        *found.iter().find(of).unwrap_or_else(|| panic!("{table} is not in {found:#?}"))
    };
    assert_eq!(found.len(), 5, "{found:#?}");
    assert!(about("bare").message.contains("has no primary key"));
    assert!(about("late").message.contains("DEFERRABLE"));
    assert!(fix(about("late")).starts_with("Add a primary key"), "a deferrable key does not qualify");
    let mended = ["eligible", "hushed", "lost"].map(about);
    assert_eq!(
        fix(mended[0]),
        "ALTER TABLE \"public\".\"eligible\" REPLICA IDENTITY USING INDEX \"narrow\";"
    );
    for outcome in mended {
        scenario.source.execute(fix(outcome)).await;
    }
    scenario.source.execute("ALTER TABLE bare ADD PRIMARY KEY (a); DROP TABLE late").await;
    passes(&scenario.judged().await, "replica-identity");
}

#[tokio::test]
async fn what_the_stream_does_not_carry_is_told() {
    let scenario = Scenario::shared("content").await;
    let objects = "
        CREATE UNLOGGED TABLE quick (a int); SELECT lo_create(0); SELECT lo_create(0);
        CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER far FOREIGN DATA WRAPPER nowhere;
        CREATE FOREIGN TABLE abroad (a int) SERVER far;
        CREATE MATERIALIZED VIEW counted AS SELECT 1 AS one;
        CREATE MATERIALIZED VIEW unfilled AS SELECT 1 AS one WITH NO DATA";
    scenario.source.execute(objects).await;
    let report = scenario.judged().await;
    assert!(report.ok, "{report}");
    only(&report, "unlogged-tables", Verdict::Warn, "public.quick is unlogged");
    only(&report, "large-objects", Verdict::Warn, "2 large objects");
    only(&report, "foreign-tables", Verdict::Warn, "public.abroad is foreign");
    let views = only(&report, "materialized-views", Verdict::Warn, "public.counted");
    assert!(!views.message.contains("unfilled"), "{views:?}");
}

#[tokio::test]
async fn a_target_that_cannot_take_it_is_told() {
    let scenario = Scenario::shared("receiving").await;
    let (source, target) = (&scenario.source, &scenario.target);
    // An extension that no package holds; renaming one in the catalog spares us making one.
    let objects = "
        CREATE ROLE only_on_the_source; CREATE TABLE a (id int PRIMARY KEY);
        ALTER TABLE a OWNER TO only_on_the_source;
        UPDATE pg_catalog.pg_extension SET extname = 'not_to_be_had' WHERE extname = 'plpgsql'";
    source.execute(objects).await;
    target.execute("CREATE TABLE left_over (a int)").await;
    let report = scenario.judged().await;
    only(&report, "target-empty", Verdict::Block, "public.left_over");
    only(&report, "extensions", Verdict::Block, "not_to_be_had");
    only(&report, "roles", Verdict::Warn, "only_on_the_source");
    let mend = "DROP TABLE left_over; CREATE ROLE only_on_the_source";
    target.execute(mend).await;
    source
        .execute("UPDATE pg_catalog.pg_extension SET extname = 'plpgsql' WHERE extname = 'not_to_be_had'")
        .await;
    let report = scenario.judged().await;
    for id in ["target-empty", "extensions", "roles"] {
        passes(&report, id);
    }
}

#[tokio::test]
async fn a_database_is_not_copied_onto_itself_under_any_name() {
    let scenario = Scenario::shared("itself").await;
    let source = &scenario.source;
    let names = "CREATE ROLE itself LOGIN REPLICATION; \
                 REVOKE EXECUTE ON FUNCTION pg_catalog.pg_control_system() FROM PUBLIC";
    source.execute(names).await;
    let by_address = conninfo(source);
    let mut by_name = by_address.clone();
    by_name.hosts[0].name = HostName::Tcp("localhost".to_owned());
    by_name.hosts[0].hostaddr = Some(std::net::Ipv4Addr::LOCALHOST.into());
    only(&judged(&by_address, &by_name).await, "same-database", Verdict::Block, "onto itself");
    // The server keeps its identity from that role, and tells it to a walsender.
    let shy = as_role(source, "itself");
    only(&judged(&shy, &by_name).await, "same-database", Verdict::Block, "onto itself");
    only(&judged(&by_name, &shy).await, "same-database", Verdict::Unknown, "identifier");
    passes(&judged(&by_address, &by_address.with_database("template1")).await, "same-database");
    passes(&scenario.judged().await, "same-database");
}

#[tokio::test]
async fn a_plain_role_is_told_which_rights_it_needs() {
    let scenario = Scenario::shared("rights").await;
    let (source, target) = (&scenario.source, &scenario.target);
    let objects = "
        CREATE ROLE prudent LOGIN; CREATE ROLE holder; CREATE SCHEMA shut;
        CREATE TABLE shut.held (a int PRIMARY KEY, s serial); ALTER TABLE shut.held OWNER TO holder;
        CREATE TABLE shut.secret (a int PRIMARY KEY); ALTER TABLE shut.secret OWNER TO holder;
        ALTER TABLE shut.secret ENABLE ROW LEVEL SECURITY; ALTER TABLE shut.secret FORCE ROW LEVEL SECURITY";
    source.execute(objects).await;
    target.execute("CREATE ROLE prudent LOGIN; CREATE ROLE holder").await;
    let (from, to) = (as_role(source, "prudent"), as_role(target, "prudent"));
    let report = judged(&from, &to).await;
    assert!(!report.ok);
    only(&report, "replication-right", Verdict::Block, "prudent");
    only(&report, "row-security", Verdict::Block, "shut.secret");
    only(&report, "target-rights", Verdict::Block, "prudent");
    only(&report, "replica-role", Verdict::Warn, "prudent");
    assert_eq!(findings(&report, "readable").len(), 2, "tables and sequences: {report}");
    assert_eq!(findings(&report, "publication-right").len(), 2, "database and owner: {report}");
    for outcome in report.checks.iter().filter(|outcome| outcome.verdict != Verdict::Pass) {
        match outcome.id {
            "target-rights" => target.execute(fix(outcome)).await,
            // Before 15 only a superuser may, and the fix says so.
            "replica-role" if target.major() >= 15 => target.execute(fix(outcome)).await,
            "replication-right" | "row-security" | "readable" | "publication-right" => {
                source.execute(fix(outcome)).await;
            }
            _ => {}
        }
    }
    let report = judged(&from, &to).await;
    for id in ["replication-right", "row-security", "readable", "publication-right", "target-rights"] {
        passes(&report, id);
    }
    if target.major() >= 15 {
        passes(&report, "replica-role");
    }
}

#[tokio::test]
async fn connections_are_counted_for_our_role() {
    let scenario = Scenario::shared("budget").await;
    let source = &scenario.source;
    source.execute("CREATE ROLE thrifty LOGIN REPLICATION CONNECTION LIMIT 4").await;
    let (from, to) = (as_role(source, "thrifty"), conninfo(&scenario.target));
    assert_eq!(findings(&judged(&from, &to).await, "source-connections")[0].verdict, Verdict::Block);
    source.execute("ALTER ROLE thrifty CONNECTION LIMIT 8").await;
    assert_eq!(findings(&judged(&from, &to).await, "source-connections")[0].verdict, Verdict::Warn);
    source.execute("ALTER ROLE thrifty CONNECTION LIMIT 50").await;
    passes(&judged(&from, &to).await, "source-connections");
}

/// A server that streams nothing, has one slot and one walsender, and asks some for a password.
async fn narrow_source() -> Scenario {
    let settings = [("wal_level", "replica"), ("max_replication_slots", "1"), ("max_wal_senders", "1")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let hba = vec![
        "host all asked 127.0.0.1/32 scram-sha-256".to_owned(),
        "host all unlisted 127.0.0.1/32 reject".to_owned(),
    ];
    let source = ClusterOptions { settings, hba, ..ClusterOptions::default() };
    Scenario::own_with("narrow", source, ClusterOptions::default()).await
}

#[tokio::test]
async fn a_source_that_cannot_stream_is_told_and_one_out_of_reach_is_an_error() {
    let scenario = narrow_source().await;
    let source = &scenario.source;
    let report = scenario.judged().await;
    only(&report, "wal-level", Verdict::Block, "replica");
    only(&report, "replication-slots", Verdict::Warn, "1");
    only(&report, "wal-senders", Verdict::Warn, "One walsender");
    passes(&report, "replication-right");

    source.execute("SELECT pg_catalog.pg_create_physical_replication_slot('taken')").await;
    let sender = ConnectionSettings::replication("test");
    let sender = Connection::connect(&conninfo(source), &sender).await.unwrap();
    let report = scenario.judged().await;
    let slots = only(&report, "replication-slots", Verdict::Block, "taken");
    assert!(fix(slots).contains("max_replication_slots"), "{slots:?}");
    only(&report, "wal-senders", Verdict::Block, "1 walsender");
    // That none is free says nothing about rights.
    passes(&report, "replication-right");
    sender.close().await;
    let dump = CheckOptions { method: Method::Dump, ..CheckOptions::default() };
    let report = check(&conninfo(source), &conninfo(&scenario.target), &dump).await.unwrap();
    assert!(report.ok, "{report}");

    source.execute("CREATE ROLE asked LOGIN PASSWORD 'secret'; CREATE ROLE unlisted LOGIN").await;
    let mut down = conninfo(source);
    down.hosts[0].port = 1;
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut silent = Conninfo { connect_timeout: Some(Duration::from_secs(2)), ..conninfo(source) };
    silent.hosts[0].port = mute.local_addr().unwrap().port();
    let mut nameless = conninfo(source);
    nameless.hosts[0].name = HostName::Tcp("nowhere.invalid".to_owned());
    nameless.hosts[0].hostaddr = None;
    let out_of_reach = [
        (as_role(source, "asked"), ErrorKind::Auth, "passfile"),
        (as_role(source, "unlisted"), ErrorKind::Auth, "pg_hba.conf"),
        (as_role(source, "nobody"), ErrorKind::Auth, "role nobody"),
        (conninfo(source).with_database("nowhere"), ErrorKind::Auth, "CREATE DATABASE \"nowhere\""),
        (down, ErrorKind::Connect, "No server answers"),
        (silent, ErrorKind::Connect, "not even a refusal"),
        (nameless, ErrorKind::Connect, "spelling"),
        (Conninfo { sslmode: SslMode::Require, ..conninfo(source) }, ErrorKind::Auth, "sslmode=disable"),
    ];
    for (source, kind, advice) in out_of_reach {
        let error = check(&source, &conninfo(&scenario.target), &CheckOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{}", describe(&error));
        assert!(error.advice().unwrap().contains(advice), "{:?} of {}", error.advice(), describe(&error));
        assert!(error.doing().contains("on the source"), "{error}");
    }
}

#[tokio::test]
async fn a_pooler_that_refuses_replication_is_named() {
    let scenario = Scenario::shared("pooled").await;
    let pooler = Pooler::start(scenario.source.cluster.port()).await;
    let mut pooled = Conninfo { sslmode: SslMode::Disable, ..conninfo(&scenario.source) };
    pooled.hosts[0].port = pooler.port();
    let report = judged(&pooled, &conninfo(&scenario.target)).await;
    let found = only(&report, "replication-right", Verdict::Block, "unsupported startup parameter");
    assert!(fix(found).contains("pooler") && fix(found).contains("own address"), "{found:?}");
    passes(&report, "pooler");
    passes(&scenario.judged().await, "replication-right");
}

#[tokio::test]
async fn a_pooler_that_names_processes_of_its_own_is_seen() {
    let scenario = Scenario::shared("masked").await;
    let pooler = Pooler::start_masked(scenario.target.cluster.port()).await;
    let mut pooled = Conninfo { sslmode: SslMode::Disable, ..conninfo(&scenario.target) };
    pooled.hosts[0].port = pooler.port();
    let report = judged(&conninfo(&scenario.source), &pooled).await;
    let found = only(&report, "pooler", Verdict::Warn, "before the target");
    assert!(fix(found).contains("its own host and port"), "{found:?}");
    passes(&scenario.judged().await, "pooler");
}

#[tokio::test]
async fn open_transactions_are_named_and_cost_no_right() {
    let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
    for dbname in ["shop", "empty"] {
        cluster.create_database(dbname).await.unwrap();
    }
    let (source, target) = (cluster.conninfo("shop"), cluster.conninfo("empty"));
    let writer = cluster.session("postgres").await.unwrap();
    writer.batch_execute("BEGIN; SELECT pg_catalog.txid_current()").await.unwrap();
    let preparer = cluster.session("postgres").await.unwrap();
    let prepare = "BEGIN; SELECT pg_catalog.txid_current(); PREPARE TRANSACTION 'it''s open'";
    preparer.batch_execute(prepare).await.unwrap();
    // The slot waits for them five seconds, and that makes the writer a long one.
    let report = judged(&source, &target).await;
    passes(&report, "replication-right");
    only(&report, "long-writers", Verdict::Warn, &format!("pid {}", writer.backend_pid()));
    let prepared = only(&report, "prepared-transactions", Verdict::Warn, "it's open");
    assert!(fix(prepared).contains("ROLLBACK PREPARED 'it''s open'"));
    writer.batch_execute("ROLLBACK").await.unwrap();
    preparer.batch_execute("ROLLBACK PREPARED 'it''s open'").await.unwrap();
    let report = judged(&source, &target).await;
    for id in ["long-writers", "prepared-transactions", "replication-right"] {
        passes(&report, id);
    }
    let sql = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots";
    let slots: i64 = preparer.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(slots, 0, "the slot that was tried is gone");
}
