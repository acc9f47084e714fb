//! `pgstream migrate` between the two sides of a scenario, and what must hold when it is over.

use std::collections::BTreeMap;
use std::time::Duration;

use pgstream::demo::{SeedOptions, Workload, WorkloadOptions, seed};
use pgstream::verify::RelationKind;
use pgstream::wire::Session;

use super::engine::{Engine, Outcome};
use super::eventually;
use super::scenario::{Scenario, Side};

/// Keyless tables are published whole for the time of the migration; the seed has some.
pub(crate) const FULL: [&str; 2] = ["--replica-identity", "full"];
/// End in step, and leave the slot.
pub(crate) const CAUGHT_UP: [&str; 2] = ["--until", "caught-up"];
/// End in step, and remove everything of ours.
pub(crate) const STOP: [&str; 3] = ["--max-replication-lag", "0", "--stop-replication"];
/// How long one run may take on a slow and busy machine.
pub(crate) const RUN: Duration = Duration::from_secs(180);

/// The words of a command line, from several lists.
pub(crate) fn words<'a>(lists: &[&[&'a str]]) -> Vec<&'a str> {
    lists.concat()
}

impl Scenario {
    /// Fills the source with the awkward database.
    pub(crate) async fn seed(&self, rows: u32) {
        seed(&self.source.session().await, SeedOptions { rows, seed: 1 }).await.expect("seed the source");
    }

    /// Lets writers loose on a seeded source; at a pace that a machine busy with other tests keeps up with.
    pub(crate) async fn write(&self, rows: u32) -> Workload {
        let conninfo = self.source.cluster.conninfo(&self.source.dbname);
        let pause = Duration::from_millis(15);
        let options =
            WorkloadOptions { rows, writers: 3, pause, transaction_rows_max: 3000, ..Default::default() };
        Workload::start(conninfo, &options).await.expect("writers connect")
    }

    /// Starts `pgstream migrate` with these words; it logs phases on stderr, its result on stdout.
    pub(crate) fn migrate(&self, words: &[&str]) -> Engine {
        migrate(&self.source.dsn(), &self.target.dsn(), words)
    }

    /// Migrates to the very end, which must be a good one.
    pub(crate) async fn stop_replication(&self, more: &[&str]) -> Outcome {
        self.migrate(&words(&[&STOP, more])).wait(RUN).await.expect_code(0)
    }

    /// Asserts that the target holds all that the source does.
    ///
    /// Unlogged tables and large objects, which no stream tells of, are left out. Materialized views are
    /// refreshed on the source first, as the migration has done on the target.
    pub(crate) async fn assert_rows_equal(&self) {
        // A view can only read from older ones.
        let refresh = "DO $$ DECLARE view regclass; BEGIN
            FOR view IN SELECT oid FROM pg_class WHERE relkind = 'm' AND relispopulated ORDER BY oid LOOP
                EXECUTE 'REFRESH MATERIALIZED VIEW ' || view;
            END LOOP; END $$";
        self.source.execute(refresh).await;
        let comparison = self.compare().await;
        let differing = comparison.differing_relations().filter(|one| one.kind != RelationKind::Unlogged);
        let mut shown = String::new();
        for relation in differing.take(5) {
            shown += &format!("{relation:?}\n");
            if relation.source.is_some() && relation.target.is_some() {
                shown += &self.sample_of_differences(&relation.name.to_string()).await;
            }
        }
        assert!(shown.is_empty(), "the two sides differ:\n{shown}");
    }

    /// Asserts that a migration came to its end: rows, unlogged tables and large objects too, sequences and
    /// definitions are the same on both sides, and nothing of ours is left on the target.
    pub(crate) async fn assert_moved(&self) {
        self.assert_rows_equal().await;
        let comparison = self.compare().await;
        assert!(comparison.is_equal(), "the two sides differ:\n{comparison}");
        self.assert_same_schema().await;
        let left = "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgstream'";
        assert_eq!(self.target.value::<i64>(left).await, 0, "schema pgstream is left on the target");
    }
}

/// Waits until everything that the source has committed by now is durable on the target, as its slot tells.
pub(crate) async fn in_step(scenario: &Scenario, after: &str) {
    let now: String = scenario.source.value("SELECT pg_current_wal_insert_lsn()::text").await;
    let confirmed = format!("SELECT bool_and(confirmed_flush_lsn >= '{now}') FROM pg_replication_slots");
    let what = format!("in step again after {after}");
    eventually(&what, async || scenario.source.holds(&confirmed).await).await;
}

/// Starts `pgstream migrate` between any two connection strings.
pub(crate) fn migrate(source: &str, target: &str, words: &[&str]) -> Engine {
    let mut command = Engine::command();
    command.args(["migrate", "--json", "-v", "--source", source, "--target", target]).args(words);
    Engine::spawn(command)
}

impl Side {
    /// When each finished table was copied; a table that is copied again gets another time.
    pub(crate) async fn copied_tables(&self) -> BTreeMap<String, String> {
        let session = self.session().await;
        let sql = "SELECT schema_name || '.' || table_name, copied_at::text FROM pgstream.copied_table
                    WHERE state = 'copied'";
        // Before the first phase there is no ledger.
        let rows = session.query(sql, &[]).await.unwrap_or_default();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// Slots that are ours.
    pub(crate) async fn slots(&self) -> i64 {
        self.value("SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'pgstream%'").await
    }

    /// Ends every session of the engine whose role, the end of its `application_name`, is like `pattern`.
    pub(crate) async fn terminate(&self, pattern: &str) -> i64 {
        self.value(&format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
              WHERE application_name LIKE 'pgstream%{pattern}' AND application_name NOT LIKE '%demo%'
                AND datname = current_database()"
        ))
        .await
    }
}

/// An open transaction that keeps others waiting; it is rolled back at the latest when this drops.
pub(crate) struct Hold(Session);

impl Side {
    /// Gives a table an index for which one value in `one_in` of `column` takes a millisecond: hundreds of pauses in each
    /// full group. `DROP FUNCTION slow CASCADE` ends that.
    pub(crate) async fn slow_down(&self, table: &str, column: &str, one_in: u32) {
        let sql = format!(
            "CREATE FUNCTION slow(int) RETURNS int LANGUAGE plpgsql IMMUTABLE
                 AS 'BEGIN IF $1 % {one_in} = 0 THEN PERFORM pg_catalog.pg_sleep(0.001); END IF; RETURN $1; END';
             CREATE INDEX ON {table} (slow({column}))"
        );
        self.execute(&sql).await;
    }

    /// From now on the server's new sessions write no file beyond this size; "unlimited" ends that.
    pub(crate) async fn limit_files(&self, bytes: &str) {
        let postmaster = self.cluster.pid().expect("the server runs");
        let command = format!("prlimit --pid {postmaster} --fsize={bytes}:unlimited");
        self.execute(&format!("COPY (SELECT) TO PROGRAM '{command}'")).await;
    }

    /// Waits until an apply session waits for a lock here.
    pub(crate) async fn applier_waits(&self) {
        let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name LIKE 'pgstream apply%'
                         AND wait_event_type = 'Lock' AND datname = current_database()";
        eventually("the applier waits", async || self.holds(waits).await).await;
    }

    /// Opens a transaction and runs `sql` in it.
    pub(crate) async fn hold(&self, sql: &str) -> Hold {
        let session = self.session().await;
        if let Err(error) = session.batch_execute(&format!("BEGIN; {sql}")).await {
            panic!("{error:?}\nin {sql}");
        }
        Hold(session)
    }
}

impl Hold {
    /// The backend that holds.
    pub(crate) async fn pid(&self) -> i32 {
        self.0.query_one("SELECT pg_backend_pid()", &[]).await.expect("ask for a process id").get(0)
    }

    /// Commits.
    pub(crate) async fn commit(self) {
        self.0.batch_execute("COMMIT").await.expect("commit");
    }

    /// Rolls back, and returns when that is done.
    pub(crate) async fn release(self) {
        self.0.batch_execute("ROLLBACK").await.expect("roll back");
    }
}

impl Side {
    /// Whether a query of one boolean says yes; no if it cannot be asked, as of a server that restarts or a
    /// table that is not there yet.
    pub(crate) async fn holds(&self, sql: &str) -> bool {
        let Ok(session) = self.cluster.session(&self.dbname).await else { return false };
        if session.batch_execute("SET search_path = public").await.is_err() {
            return false;
        }
        session.query_one(sql, &[]).await.is_ok_and(|row| row.get::<_, Option<bool>>(0) == Some(true))
    }
}
