//! The engine is killed, and run again: nothing lost, nothing twice, nothing of ours multiplied.
//!
//! Points are named by what the servers show. Where a point is too short to hit, a lock on one of the
//! servers holds the engine there until it is dead.

use pgstream::demo::Workload;

use crate::support::engine::Engine;
use crate::support::eventually;
use crate::support::migration::{CAUGHT_UP, FULL, STOP, words};
use crate::support::scenario::Scenario;

const ROWS: u32 = 300;
/// Small parts, one after the other, so that there is a middle to be killed in.
const IN_PARTS: [&str; 4] = ["--split-tables-larger-than", "64kB", "--copy-jobs", "1"];
const SCHEMA_READY: &str = "(SELECT phase FROM pgstream.migration) = 'schema_ready'";
const CATCHING_UP: &str = "(SELECT phase FROM pgstream.migration) = 'catching_up'";
const FOLLOWING: &str = "(SELECT phase FROM pgstream.migration) = 'following'";
const OUR_SLOT: &str = "SELECT count(*) = 1 FROM pg_replication_slots
    WHERE slot_name LIKE 'pgstream%' AND confirmed_flush_lsn IS NOT NULL";

/// A migration that is killed again and again, under load.
struct Victim {
    scenario: Scenario,
    workload: Workload,
}

impl Victim {
    async fn new(name: &str) -> Victim {
        let scenario = Scenario::own(name).await;
        scenario.seed(ROWS).await;
        let workload = scenario.write(ROWS).await;
        Victim { scenario, workload }
    }

    fn run(&self, ending: &[&str]) -> Engine {
        self.scenario.migrate(&words(&[ending, &FULL, &IN_PARTS]))
    }

    /// Runs until `condition` holds on the target, kills, and looks at what is left.
    async fn kill_when(&self, point: &str, condition: &str) {
        let engine = self.run(&[]);
        self.kill_running(engine, point, condition).await;
    }

    async fn kill_running(&self, engine: Engine, point: &str, condition: &str) {
        let copied = self.scenario.target.copied_tables().await;
        engine.kill_when(&self.scenario.target, condition).await;
        self.look(point, copied).await;
    }

    /// What was finished before is untouched, and there is at most one slot that outlives the engine.
    async fn look(&self, point: &str, copied_before: std::collections::BTreeMap<String, String>) {
        let now = self.scenario.target.copied_tables().await;
        for (table, at) in copied_before {
            assert_eq!(now.get(&table), Some(&at), "{point}: {table} was finished and copied again");
        }
        let lasting =
            "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'pgstream%' AND NOT temporary";
        assert!(self.scenario.source.value::<i64>(lasting).await <= 1, "{point}: more than one slot");
    }

    /// Stops the writers and takes the migration to its end.
    async fn finish(self) {
        let Victim { scenario, workload } = self;
        workload.stop().await.expect("the source has refused no writer");
        scenario.stop_replication(&FULL).await;
        scenario.assert_moved().await;
    }
}

#[tokio::test]
async fn a_migration_killed_at_every_named_point_ends_equal() {
    let victim = Victim::new("points").await;
    let Scenario { source, target } = &victim.scenario;
    let before = source.footprint().await;

    victim.kill_when("while definitions are restored", "EXISTS (SELECT FROM pgstream.archive)").await;

    // pg_restore is a process of its own, and outlives the engine.
    let comments = target.hold("LOCK pg_catalog.pg_description IN SHARE MODE").await;
    let commenting = "EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'pgstream schema'
                          AND wait_event_type = 'Lock')";
    victim.kill_when("in the middle of pg_restore", commenting).await;
    comments.release().await;

    // A transaction that has written keeps the slot from starting, but not the publication.
    let writer = source.hold("CREATE TABLE public.undone ()").await;
    let engine = victim.run(&[]);
    engine.kill_when(source, "SELECT count(*) > 0 FROM pg_publication").await;
    writer.release().await;

    let ledger = target.hold("LOCK pgstream.progress").await;
    let engine = victim.run(&[]);
    engine.kill_when(source, OUR_SLOT).await;
    assert!(target.value::<bool>(&format!("SELECT {SCHEMA_READY}")).await, "the slot is not recorded yet");
    ledger.release().await;

    let parts = "SELECT EXISTS (SELECT FROM pgstream.copied_part JOIN pgstream.copied_table
                     USING (schema_name, table_name) WHERE state = 'copying')";
    victim.kill_when("between parts", parts).await;

    // One of the last and smallest.
    let small = target.hold("LOCK shop.category IN SHARE MODE").await;
    let waiting = "EXISTS (SELECT FROM pg_stat_activity WHERE application_name LIKE 'pgstream load'
                       AND wait_event_type = 'Lock')";
    victim.kill_when("mid copy", waiting).await;
    assert!(!target.copied_tables().await.is_empty(), "larger ones are copied by then");
    small.release().await;

    // An index is there, but nobody has noted that.
    let notes = target.hold("LOCK pgstream.restored IN SHARE MODE").await;
    let building = "EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'pgstream build'
                        AND query LIKE '%pgstream.restored%' AND wait_event_type = 'Lock')";
    victim.kill_when("while indexes are built", building).await;
    notes.release().await;

    victim.kill_when("while catching up", CATCHING_UP).await;

    let parent = target.hold("LOCK shop.category IN ROW EXCLUSIVE MODE").await;
    let adding = "EXISTS (SELECT FROM pg_stat_activity WHERE application_name LIKE 'pgstream%build'
                      AND query LIKE '%FOREIGN KEY%' AND wait_event_type = 'Lock')";
    victim.kill_when("before foreign keys", adding).await;
    parent.release().await;

    victim.kill_when("as it begins to follow", FOLLOWING).await;
    let applied = target.value::<i64>("SELECT sum(transactions)::int8 FROM pgstream.progress").await;
    let more = format!("SELECT sum(transactions) > {applied} + 50 FROM pgstream.progress");
    victim.kill_when("while it follows", &more).await;

    let Victim { scenario, workload } = victim;
    workload.stop().await.expect("the source has refused no writer");
    let stop = words(&[&STOP, &FULL]);
    let fenced = "(SELECT phase FROM pgstream.migration) = 'fenced'";
    scenario.migrate(&stop).kill_when(&scenario.target, fenced).await;
    // Reading our state keeps it from being dropped.
    let reader = scenario.target.hold("LOCK pgstream.archive IN ACCESS SHARE MODE").await;
    let gone = "SELECT count(*) = 0 FROM pg_replication_slots";
    let engine = scenario.migrate(&stop);
    engine.kill_when(&scenario.source, gone).await;
    // The dead engine's DROP would still be carried out, and with it the migration would be over.
    scenario.target.terminate("control").await;
    let ended = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgstream control'";
    eventually("its session ends", async || scenario.target.holds(ended).await).await;
    reader.release().await;
    scenario.stop_replication(&FULL).await;
    scenario.assert_moved().await;
    scenario.assert_source_clean(&before).await;
}

#[tokio::test]
async fn a_migration_killed_at_random_moments_ends_equal() {
    const KILLS: u64 = 10;
    let seed = std::env::var("PGSTREAM_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("PGSTREAM_TEST_SEED={seed}");
    let victim = Victim::new("random").await;
    let mut dice = seed;
    for kill in 0..KILLS {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // The writers are the clock: so many commits of theirs from now.
        let moment = victim.workload.counts().commits + (dice >> 33) % 300;
        let copied = victim.scenario.target.copied_tables().await;
        let engine = victim.run(if kill % 2 == 0 { &[] } else { &CAUGHT_UP });
        eventually("the moment comes", async || victim.workload.counts().commits >= moment).await;
        engine.kill().await;
        victim.look(&format!("kill {kill} of seed {seed}"), copied).await;
    }
    victim.finish().await;
}
