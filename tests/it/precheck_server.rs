//! Checks of servers, locales and settings that need servers, or databases, made for them.

use pgstream::demo::ClusterOptions;
use pgstream::precheck::Verdict;

use crate::precheck::{conninfo, findings, judged, only, passes};
use crate::support::scenario::Scenario;

/// A source with tight limits, whose transaction ids can be made to look old.
async fn tight_source() -> Scenario {
    let settings = [
        ("max_slot_wal_keep_size", "'64MB'"),
        ("max_locks_per_transaction", "10"),
        ("max_connections", "20"),
        ("max_worker_processes", "1"),
        ("max_wal_senders", "3"),
        ("shared_preload_libraries", "'pg_stat_statements'"),
        ("autovacuum", "off"),
    ];
    let settings =
        settings.map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned())).to_vec();
    let source = ClusterOptions { settings, ..ClusterOptions::default() };
    Scenario::own_with("tight", source, ClusterOptions::default()).await
}

/// The id that many transactions ago.
fn age(millions: i64) -> String {
    format!(
        "UPDATE pg_catalog.pg_database SET datfrozenxid =
             (((txid_current() - {millions} * 1000000 + 4294967296) % 4294967296)::text)::xid
         WHERE datname = current_database()"
    )
}

#[tokio::test]
async fn tight_limits_and_old_ids_are_told() {
    let scenario = tight_source().await;
    let (source, target) = (&scenario.source, &scenario.target);
    source.execute("CREATE EXTENSION pg_stat_statements").await;
    // In several transactions, for the lock table is small.
    let tables = "DO $$ BEGIN FOR n IN 1..400 LOOP
        EXECUTE format('CREATE TABLE public.t%s (id int PRIMARY KEY)', n);
        IF n % 40 = 0 THEN COMMIT; END IF; END LOOP; END $$";
    source.execute_alone(tables).await;
    let report = scenario.judged().await;
    only(&report, "wal-kept", Verdict::Warn, "64 MB of WAL");
    only(&report, "lock-table", Verdict::Warn, "locks 400 tables");
    only(&report, "preload-libraries", Verdict::Warn, "pg_stat_statements");
    passes(&report, "wraparound");
    passes(&report, "idle-slots");
    for (millions, verdict) in [(600, Verdict::Warn), (1_300, Verdict::Block)] {
        source.execute(&age(millions)).await;
        let report = scenario.judged().await;
        only(&report, "wraparound", verdict, &source.dbname);
    }
    source.execute(&age(0)).await;
    // The target's limits are not those of a source.
    let report = judged(&conninfo(target), &conninfo(source)).await;
    for id in ["wal-kept", "lock-table", "preload-libraries", "wraparound"] {
        passes(&report, id);
    }
}

#[tokio::test]
async fn another_order_of_text_is_told() {
    let scenario = Scenario::shared("sorted").await;
    let (source, target) = (&scenario.source, &scenario.target);
    source.execute("CREATE TABLE by_name (name text PRIMARY KEY) PARTITION BY RANGE (name)").await;
    let other = format!("{}_utf", target.dbname);
    let create =
        format!("CREATE DATABASE {other} TEMPLATE template0 LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'");
    target.execute_alone(&create).await;
    let report = judged(&conninfo(source), &conninfo(target).with_database(&other)).await;
    let found = only(&report, "locale", Verdict::Warn, "C.UTF-8 (libc) on the target");
    assert!(found.message.contains("public.by_name"), "{found:?}");
    passes(&scenario.judged().await, "locale");
}

#[tokio::test]
async fn settings_of_databases_are_told_without_their_values() {
    let scenario = Scenario::shared("settings").await;
    let (source, target) = (&scenario.source, &scenario.target);
    let stored = |dbname: &str| {
        format!(
            "ALTER DATABASE {dbname} SET work_mem = '8MB'; ALTER DATABASE {dbname} SET app.jwt_key = 'hunter2'; \
             ALTER DATABASE {dbname} SET statement_timeout = '30s'"
        )
    };
    source.execute(&stored(&source.dbname)).await;
    let report = scenario.judged().await;
    let lost = only(&report, "database-settings", Verdict::Warn, "work_mem");
    assert!(lost.message.contains("app.jwt_key"), "{lost:?}");
    only(
        &report,
        "timeouts",
        Verdict::Warn,
        "On the source our role or database comes with statement_timeout",
    );
    assert!(!report.to_string().contains("hunter2"), "{report}");
    target.execute(&stored(&target.dbname)).await;
    let report = scenario.judged().await;
    passes(&report, "database-settings");
    assert_eq!(findings(&report, "timeouts").len(), 2, "{report}");
    for side in [source, target] {
        side.execute(&format!("ALTER DATABASE {} RESET statement_timeout", side.dbname)).await;
    }
    let report = scenario.judged().await;
    passes(&report, "database-settings");
    passes(&report, "timeouts");
}
