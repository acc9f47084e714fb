//! The target stands still while it is followed: changes go to local disk, the source drops its WAL, and when the
//! target moves again nothing is missing and nothing is doubled (P16, P17).

use crate::spool::{RETAINED, TABLES, confirmed_to_now, spool, work_dir, write};
use crate::support::engine::Engine;
use crate::support::migration::{CAUGHT_UP, RUN, STOP, in_step, words};
use crate::support::scenario::{Scenario, Side};
use crate::support::{PATIENCE, eventually};

const AFTER: [&str; 4] = ["--spool-after", "1MB", "--status-interval", "200ms"];
const STREAMING: &str = "SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming'";
const FOLLOWING: &str = "SELECT phase = 'following' FROM pgstream.migration";

/// A migration that follows, with a folder for its spool.
struct Following {
    scenario: Scenario,
    folder: tempfile::TempDir,
    engine: Engine,
}

impl Following {
    async fn begin(name: &str) -> Following {
        let scenario = Scenario::own(name).await;
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        scenario.source.execute(TABLES).await;
        let engine = scenario.migrate(&words(&[&AFTER, &work_dir(&folder)]));
        eventually("it follows", async || scenario.target.holds(FOLLOWING).await).await;
        eventually("it streams", async || scenario.source.holds(STREAMING).await).await;
        in_step(&scenario, "the copy").await;
        Following { scenario, folder, engine }
    }

    fn spool(&self) -> Option<std::path::PathBuf> {
        spool(self.folder.path())
    }

    /// Waits until it goes on straight from the source, with everything applied.
    async fn joined_the_stream(&self, after: &str) {
        eventually(&format!("the spool is left after {after}"), async || self.spool().is_none()).await;
        in_step(&self.scenario, after).await;
        self.scenario.assert_rows_equal().await;
    }

    async fn end(self) {
        self.engine.interrupt().await;
        self.engine.wait(RUN).await.expect_code(0);
        self.scenario.stop_replication(&work_dir(&self.folder)).await;
        self.scenario.assert_moved().await;
        assert_eq!(spool(self.folder.path()), None, "spooled changes are left behind");
    }
}

/// Waits until the source has dropped all but a little of its WAL.
async fn wal_is_dropped(source: &Side) {
    eventually("the source needs to keep little WAL", async || {
        source.execute_alone("CHECKPOINT").await;
        source.execute("UPDATE busy SET n = n + 1 WHERE id = 1").await;
        source.value::<i64>(RETAINED).await < 3 << 20
    })
    .await;
}

#[tokio::test]
async fn a_target_that_stands_still_does_not_keep_the_sources_wal() {
    let it = Following::begin("behind_lock").await;
    let Scenario { source, target } = &it.scenario;
    let held = target.hold("LOCK public.held").await;
    write(source, 10, 1).await;
    eventually("changes are spooled", async || it.spool().is_some()).await;
    confirmed_to_now(source, "what is spooled is confirmed").await;
    wal_is_dropped(source).await;
    write(source, 2, 2).await;
    confirmed_to_now(source, "what comes later, too").await;
    let applied = "SELECT count(*) FROM busy";
    assert_eq!(target.value::<i64>(applied).await, 1000, "the target stands still");
    held.release().await;
    it.joined_the_stream("the lock was released").await;
    // And once more, by the same engine.
    let held = target.hold("LOCK public.held").await;
    write(source, 5, 3).await;
    eventually("changes are spooled", async || it.spool().is_some()).await;
    confirmed_to_now(source, "what is spooled is confirmed").await;
    held.release().await;
    it.joined_the_stream("another lock was released").await;
    it.end().await;
}

#[tokio::test]
async fn killed_with_a_spool_of_changes_that_were_not_applied_it_ends_equal() {
    let it = Following::begin("behind_kill").await;
    let Scenario { source, target } = &it.scenario;
    let held = target.hold("LOCK public.held").await;
    write(source, 8, 1).await;
    eventually("changes are spooled", async || it.spool().is_some()).await;
    confirmed_to_now(source, "what is spooled is confirmed").await;
    let late = source.hold("UPDATE busy SET v = 'late' WHERE id BETWEEN 500 AND 800").await;
    write(source, 2, 2).await;
    it.engine.kill().await;
    write(source, 2, 3).await;
    late.commit().await;
    let run = words(&[&AFTER, &work_dir(&it.folder)]);
    // Killed again while it reads.
    let engine = it.scenario.migrate(&words(&[&CAUGHT_UP, &run]));
    let mine = "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'pgstream control' AND datname = current_database()";
    eventually("it has begun again", async || target.holds(mine).await).await;
    target.applier_waits().await;
    engine.kill().await;
    held.release().await;
    it.scenario.migrate(&words(&[&STOP, &run])).wait(RUN).await.expect_code(0);
    it.scenario.assert_moved().await;
    assert_eq!(spool(it.folder.path()), None, "spooled changes are left behind");
}

#[tokio::test]
async fn what_waits_for_the_operator_is_spooled_meanwhile() {
    let mut it = Following::begin("behind_operator").await;
    let Scenario { source, target } = &it.scenario;
    source.execute("ALTER TABLE held ADD COLUMN c int; UPDATE held SET c = 7").await;
    it.engine.wait_for_stderr("waiting for the operator", PATIENCE).await;
    write(source, 5, 1).await;
    eventually("changes are spooled", async || spool(it.folder.path()).is_some()).await;
    confirmed_to_now(source, "what is spooled is confirmed").await;
    target.execute("ALTER TABLE held ADD COLUMN c int").await;
    it.joined_the_stream("the operator's ALTER").await;

    target
        .execute(
            "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 RAISE 'no space left' USING ERRCODE = '53100'; END $$;
             CREATE TRIGGER no_room BEFORE UPDATE ON held FOR EACH ROW EXECUTE PROCEDURE no_room();
             ALTER TABLE held ENABLE ALWAYS TRIGGER no_room",
        )
        .await;
    write(source, 5, 2).await;
    eventually("changes are spooled", async || spool(it.folder.path()).is_some()).await;
    confirmed_to_now(source, "what is spooled is confirmed").await;
    target.execute("DROP FUNCTION no_room CASCADE").await;
    it.joined_the_stream("there was room").await;
    it.end().await;
}
