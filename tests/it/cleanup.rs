//! Cleanup removes what pgstream made, wherever it was killed and whichever server is left, and nothing else.

use pgstream::demo::Shutdown;
use serde_json::Value;

use crate::support::engine::{Engine, Outcome};
use crate::support::migration::{CAUGHT_UP, FULL, RUN, STOP, migrate, words};
use crate::support::scenario::{Footprint, Scenario, Side};

const ROWS: u32 = 200;
/// A source port that nobody listens on.
const NOWHERE: &str = "host=127.0.0.1 port=1 user=nobody dbname=nowhere connect_timeout=3";

async fn cleanup(source: Option<&str>, target: Option<&str>, more: &[&str]) -> Outcome {
    let mut words = vec!["cleanup", "--json"];
    for (option, dsn) in [("--source", source), ("--target", target)] {
        words.extend(dsn.iter().flat_map(|dsn| [option, dsn]));
    }
    words.extend(more);
    Engine::start(words).wait(RUN).await
}

/// `kind name status` of all that was found, in order.
fn found(document: &Value) -> Vec<String> {
    let text = |item: &Value, field: &str| item[field].as_str().unwrap_or("?").to_owned();
    let items = document["found"].as_array().expect("a list of what was found");
    items.iter().map(|item| format!("{} {}", text(item, "kind"), text(item, "status"))).collect()
}

fn count(document: &Value, what: &str) -> usize {
    found(document).iter().filter(|line| *line == what).count()
}

impl Scenario {
    async fn cleanup(&self, more: &[&str]) -> Outcome {
        cleanup(Some(&self.source.dsn()), Some(&self.target.dsn()), more).await
    }

    /// Nothing of ours is on either server, and the source is as it was.
    async fn assert_both_clean(&self, before: &Footprint) {
        self.assert_source_clean(before).await;
        for (side, what) in [(&self.source, "pg_replication_slots"), (&self.source, "pg_publication")] {
            assert_eq!(side.value::<i64>(&format!("SELECT count(*) FROM {what}")).await, 0, "{what}");
        }
        self.assert_target_clean().await;
    }

    async fn assert_target_clean(&self) {
        let left = "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgstream'";
        assert_eq!(self.target.value::<i64>(left).await, 0, "schema pgstream is left on the target");
    }

    /// An empty target database under the same name.
    async fn empty_target(&self) {
        self.target.cluster.drop_database(&self.target.dbname).await.expect("drop the target database");
        self.target.cluster.create_database(&self.target.dbname).await.expect("create the target database");
    }

    /// Seeds, and moves until both are in step; the slot stays.
    async fn in_step(&self) -> Footprint {
        self.seed(ROWS).await;
        let before = self.source.footprint().await;
        self.migrate(&words(&[&CAUGHT_UP, &FULL])).wait(RUN).await.expect_code(0);
        before
    }
}

#[tokio::test]
async fn after_a_kill_at_any_named_point_nothing_is_left() {
    let scenario = Scenario::own("killed").await;
    scenario.seed(ROWS).await;
    // Some tables of the seed are FULL on their own account.
    let full = "CREATE TABLE full_before (objid oid PRIMARY KEY);
                INSERT INTO full_before SELECT oid FROM pg_class WHERE relreplident = 'f'";
    scenario.source.execute(full).await;
    // Else the indexes are built between two looks.
    let slow = "CREATE FUNCTION shop.slow(int) RETURNS int IMMUTABLE LANGUAGE plpgsql
                    AS 'BEGIN PERFORM pg_catalog.pg_sleep(0.5); RETURN $1; END';
                CREATE TABLE shop.slowly_indexed (id int PRIMARY KEY);
                INSERT INTO shop.slowly_indexed VALUES (1);
                CREATE INDEX ON shop.slowly_indexed (shop.slow(id))";
    scenario.source.execute(slow).await;
    let before = scenario.source.footprint().await;
    let phase = |phase: &str| format!("(SELECT phase FROM pgstream.migration) = '{phase}'");
    let (source, target) = (&scenario.source, &scenario.target);
    let follow = words(&[&FULL, &["--split-tables-larger-than", "64kB", "--copy-jobs", "1"]]);
    let stop = words(&[&STOP, &FULL]);
    let points: [(&str, &Side, String, &[&str]); 9] = [
        ("while definitions are restored", target, "EXISTS (SELECT FROM pgstream.archive)".to_owned(), &follow),
        ("when a publication is there", source, "SELECT count(*) > 0 FROM pg_publication".to_owned(), &follow),
        (
            "when an identity was set",
            source,
            "SELECT count(*) > 0 FROM pg_class WHERE relreplident = 'f' AND oid NOT IN (SELECT objid FROM full_before)"
                .to_owned(),
            &follow,
        ),
        ("when the slot is there", source, "SELECT count(*) > 0 FROM pg_replication_slots WHERE slot_name ~ '^pgstream_[0-9a-f]{8}$'".to_owned(), &follow),
        (
            "mid copy",
            target,
            "SELECT count(*) > 2 FROM pgstream.copied_table WHERE state = 'copied'".to_owned(),
            &follow,
        ),
        ("while indexes are built", target, phase("building"), &follow),
        ("while catching up", target, phase("catching_up"), &follow),
        ("while following", target, phase("following"), &follow),
        ("when writes are fenced", target, phase("fenced"), &stop),
    ];
    for (point, side, condition, words) in points {
        eprintln!("killed {point}");
        scenario.migrate(words).kill_when(side, &condition).await;
        let outcome = scenario.cleanup(&[]).await.expect_code(0);
        assert!(outcome.json()["found"].as_array().is_some_and(|found| !found.is_empty()), "{point}");
        scenario.assert_both_clean(&before).await;
        let again = scenario.cleanup(&[]).await.expect_code(0).json();
        assert_eq!(again["found"], serde_json::json!([]), "{point}, a second time");
        scenario.empty_target().await;
    }
    // And the ground is fit for a whole migration.
    scenario.stop_replication(&FULL).await;
    scenario.assert_moved().await;
}

#[tokio::test]
async fn a_list_changes_nothing_and_a_target_that_is_gone_for_good_is_no_hindrance() {
    let scenario = Scenario::own("target_gone").await;
    let before = scenario.in_step().await;
    let during = scenario.source.footprint().await;

    let listed = scenario.cleanup(&["--dry-run"]).await.expect_code(0).json();
    assert_eq!(listed["dry_run"], true);
    let identities = count(&listed, "replica_identity found");
    assert!(identities > 0, "{listed}");
    assert_eq!((count(&listed, "slot found"), count(&listed, "publication found")), (1, 1), "{listed}");
    assert_eq!(count(&listed, "schema found"), 1, "{listed}");
    scenario.assert_source_clean(&during).await;

    scenario.target.cluster.stop(Shutdown::Immediate).await.expect("the target stops");
    let removed = scenario.cleanup(&[]).await.expect_code(1).json();
    assert_eq!(removed["ok"], false);
    assert_eq!(removed["errors"][0]["side"], "target", "{removed}");
    assert_eq!(count(&removed, "replica_identity removed"), identities, "{removed}");
    scenario.assert_source_clean(&before).await;
    let again = cleanup(Some(&scenario.source.dsn()), None, &[]).await.expect_code(0).json();
    assert_eq!(again["found"], serde_json::json!([]));
}

#[tokio::test]
async fn without_the_source_what_remains_there_is_said_and_found_again() {
    let scenario = Scenario::own("source_gone").await;
    let before = scenario.in_step().await;
    let target = scenario.target.dsn();

    let kept = cleanup(Some(NOWHERE), Some(&target), &[]).await.expect_code(1).json();
    assert_eq!(found(&kept), ["schema remains"], "the journal stays as long as the source may come back");

    let gone = cleanup(None, Some(&target), &[]).await.expect_code(1).json();
    assert_eq!((count(&gone, "schema removed"), count(&gone, "slot remains")), (1, 1), "{gone}");
    scenario.assert_target_clean().await;
    cleanup(None, Some(&target), &[]).await.expect_code(0);

    let source = scenario.cleanup(&[]).await.expect_code(0).json();
    assert_eq!(count(&source, "slot removed"), 1, "{source}");
    scenario.assert_both_clean(&before).await;
}

#[tokio::test]
async fn what_only_looks_like_ours_is_untouched_in_every_database() {
    let scenario = Scenario::own("foreign").await;
    let Scenario { source, target } = &scenario;
    source
        .execute(
            "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE keyless (v int); CREATE TABLE theirs (v int);
             ALTER TABLE theirs REPLICA IDENTITY FULL;
             CREATE PUBLICATION pgstream_deadbeef FOR TABLE t; CREATE PUBLICATION pgstream_reports FOR TABLE t;
             COMMENT ON PUBLICATION pgstream_reports IS 'made by pgstream, migration 00000000; not'",
        )
        .await;
    for (name, plugin) in [("pgstream_cdc", "pgoutput"), ("pgstream_deadbeef", "test_decoding")] {
        let create = format!("SELECT pg_create_logical_replication_slot('{name}', '{plugin}')::text");
        source.value::<String>(&create).await;
    }
    source.cluster.create_database("second").await.expect("create a second database");
    target.cluster.create_database("second").await.expect("create a second database");
    target.cluster.create_database("bystander").await.expect("create a third database");
    let bystander = Side { dbname: "bystander".to_owned(), ..target.clone() };
    bystander.execute("CREATE SCHEMA pgstream; CREATE TABLE pgstream.mine ()").await;
    let before = source.footprint().await;
    let ending = words(&[&CAUGHT_UP, &FULL]);
    scenario.migrate(&ending).wait(RUN).await.expect_code(0);
    let dsns = [source, target].map(|side| side.cluster.dsn("second"));
    migrate(&dsns[0], &dsns[1], &CAUGHT_UP).wait(RUN).await.expect_code(0);

    // Without a database's name every database is meant.
    let servers = [source, target].map(|side| side.dsn().split(" dbname=").next().unwrap().to_owned());
    let report = cleanup(Some(&servers[0]), Some(&servers[1]), &[]).await.expect_code(0).json();
    assert_eq!((count(&report, "slot removed"), count(&report, "schema removed")), (2, 2), "{report}");
    assert_eq!(count(&report, "publication kept"), 1, "{report}");
    scenario.assert_source_clean(&before).await;
    scenario.assert_target_clean().await;
    let all = "SELECT string_agg(slot_name, ' ' ORDER BY slot_name) FROM pg_replication_slots";
    assert_eq!(source.value::<String>(all).await, "pgstream_cdc pgstream_deadbeef");
    assert_eq!(bystander.value::<i64>("SELECT count(*) FROM pgstream.mine").await, 0);
}

#[tokio::test]
async fn another_migration_from_the_same_source_goes_on() {
    let scenario = Scenario::own("two_targets").await;
    scenario.source.execute("CREATE TABLE t (id int PRIMARY KEY)").await;
    scenario.target.cluster.create_database("elsewhere").await.expect("create another target");
    let elsewhere = Side { dbname: "elsewhere".to_owned(), ..scenario.target.clone() };
    scenario.migrate(&CAUGHT_UP).wait(RUN).await.expect_code(0);
    let other = || migrate(&scenario.source.dsn(), &elsewhere.dsn(), &CAUGHT_UP);
    other().wait(RUN).await.expect_code(0);

    let report = scenario.cleanup(&[]).await.expect_code(0).json();
    assert_eq!((count(&report, "slot removed"), count(&report, "slot kept")), (1, 1), "{report}");
    scenario.source.execute("INSERT INTO t VALUES (1)").await;
    other().wait(RUN).await.expect_code(0);
    assert_eq!(elsewhere.value::<i64>("SELECT count(*) FROM t").await, 1);
}

#[tokio::test]
async fn an_engine_at_work_is_named_and_ended_only_by_force() {
    let scenario = Scenario::own("alive").await;
    scenario.source.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE keyless (v int)").await;
    let before = scenario.source.footprint().await;
    let mut engine = scenario.migrate(&FULL);
    engine.wait_for_stderr("\"following\"", RUN).await;
    let during = scenario.source.footprint().await;

    for target in [Some(scenario.target.dsn()), None] {
        let refused =
            cleanup(Some(&scenario.source.dsn()), target.as_deref(), &[]).await.expect_code(1).json();
        assert!(
            count(&refused, "slot remains") == 1 && refused.to_string().contains("(pgstream "),
            "{refused}"
        );
        scenario.assert_source_clean(&during).await;
    }
    scenario.cleanup(&["--force"]).await.expect_code(0);
    scenario.assert_both_clean(&before).await;
    let outcome = engine.wait(RUN).await.expect_code(1);
    assert!(outcome.stderr.contains("Somebody removed it"), "{}", outcome.stderr);
    scenario.assert_both_clean(&before).await;
}

#[tokio::test]
async fn a_copy_whose_publication_was_removed_begins_anew() {
    let scenario = Scenario::own("half_given_up").await;
    let Scenario { source, target } = &scenario;
    scenario.seed(ROWS).await;
    let before = source.footprint().await;
    let in_parts = words(&[&FULL, &["--copy-jobs", "1"]]);
    let mid_copy = "SELECT count(*) > 2 FROM pgstream.copied_table WHERE state = 'copied'";
    scenario.migrate(&in_parts).kill_when(target, mid_copy).await;
    assert!(target.value::<bool>("SELECT phase IN ('copying', 'building') FROM pgstream.migration").await);
    // As a run does whose target is gone, when the slot cannot be dropped and the publication can.
    let drop = "DO $$ BEGIN EXECUTE (SELECT 'DROP PUBLICATION ' || string_agg(quote_ident(pubname), ', ')
                                       FROM pg_publication); END $$";
    source.execute(drop).await;
    let slots = source.slots().await;
    assert_eq!(slots, 1, "the slot is still there");
    scenario.stop_replication(&FULL).await;
    scenario.assert_source_clean(&before).await;
    scenario.assert_moved().await;
}
