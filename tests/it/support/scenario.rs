//! Two servers, a database on each, and what must hold between them at the end.
//!
//! Starting servers costs a second, so scenarios of one process share a pair and tell their databases
//! apart by name. A scenario that restarts a server, changes its settings or migrates every database
//! takes a pair of its own.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use pgstream::demo::{Cluster, ClusterOptions, Installation, ServerChoice};
use pgstream::verify::{Comparison, compare_database};
use pgstream::wire::Session;
use tokio_postgres::types::FromSqlOwned;

/// One end of a migration: a database on a server.
#[derive(Debug, Clone)]
pub(crate) struct Side {
    pub(crate) cluster: Cluster,
    pub(crate) dbname: String,
}

/// Both ends.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) source: Side,
    pub(crate) target: Side,
}

/// Everything on a source that a migration could leave behind or change for good (P30).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Footprint(Vec<String>);

impl Footprint {
    /// Without the lines that `keep` does not keep: those that the test itself has left.
    pub(crate) fn except(mut self, keep: impl Fn(&str) -> bool) -> Footprint {
        self.0.retain(|line| keep(line));
        self
    }
}

impl Scenario {
    /// An empty database on each server of the shared pair.
    pub(crate) async fn shared(name: &str) -> Scenario {
        static PAIR: OnceLock<(Cluster, Cluster)> = OnceLock::new();
        let pair =
            PAIR.get_or_init(|| start_pair(&source_options(), &target_options()).expect("two servers start"));
        Scenario::on(pair.clone(), name).await
    }

    /// An empty database on each of two servers of its own.
    pub(crate) async fn own(name: &str) -> Scenario {
        Scenario::own_with(name, source_options(), target_options()).await
    }

    /// [`Scenario::own`], with other options for the servers.
    pub(crate) async fn own_with(name: &str, source: ClusterOptions, target: ClusterOptions) -> Scenario {
        let pair = tokio::try_join!(Cluster::start(source), Cluster::start(target));
        Scenario::on(pair.expect("two servers start"), name).await
    }

    async fn on((source, target): (Cluster, Cluster), name: &str) -> Scenario {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let dbname = format!("it_{}_{name}", COUNT.fetch_add(1, Ordering::Relaxed));
        let side = |cluster| Side { cluster, dbname: dbname.clone() };
        let scenario = Scenario { source: side(source), target: side(target) };
        for side in [&scenario.source, &scenario.target] {
            side.cluster.create_database(&side.dbname).await.expect("create a scenario's database");
        }
        scenario
    }

    /// Compares every row and sequence.
    pub(crate) async fn compare(&self) -> Comparison {
        let session = async |side: &Side| side.cluster.session(&side.dbname).await.expect("connect");
        let (source, target) = tokio::join!(session(&self.source), session(&self.target));
        compare_database(&source, &target).await.expect("compare the two databases")
    }

    /// Asserts that both sides hold the same, and shows some rows of what does not.
    ///
    /// # Panics
    /// With the differences.
    pub(crate) async fn assert_equal(&self) {
        let comparison = self.compare().await;
        if comparison.is_equal() {
            return;
        }
        let mut shown = comparison.to_string();
        for relation in comparison.differing_relations().take(5) {
            if relation.source.is_some() && relation.target.is_some() {
                shown += &self.sample_of_differences(&relation.name.to_string()).await;
            }
        }
        panic!("the two sides differ:\n{shown}");
    }

    /// Some rows that are on one side only.
    pub(crate) async fn sample_of_differences(&self, table: &str) -> String {
        let sql = format!("SELECT t::text FROM ONLY {table} AS t LIMIT 100000");
        let mut balance: BTreeMap<String, i64> = BTreeMap::new();
        for (side, weight) in [(&self.source, 1), (&self.target, -1)] {
            for row in side.session().await.query(sql.as_str(), &[]).await.expect("read rows to show") {
                *balance.entry(row.get(0)).or_default() += weight;
            }
        }
        let differing = balance.iter().filter(|(_, balance)| **balance != 0).take(6);
        differing
            .fold(format!("{table} (+ more on the source, - more on the target):\n"), |text, (row, n)| {
                text + &format!("  {n:+} {}\n", row.chars().take(400).collect::<String>())
            })
    }

    /// Asserts that `pg_dump --schema-only` says the same of both sides; across majors, which word views and
    /// privileges differently, of the target and of a plain restore beside it.
    ///
    /// # Panics
    /// With the lines that differ.
    pub(crate) async fn assert_same_schema(&self) {
        let source = if self.source.major() == self.target.major() {
            self.source.schema()
        } else {
            self.restored_plainly().await.schema()
        };
        let target = self.target.schema();
        let only = |these: &[String], others: &[String], mark: char| {
            let missing = these.iter().filter(|line| !others.contains(line));
            missing.fold(String::new(), |text, line| text + &format!("{mark} {line}\n"))
        };
        let differing = only(&source, &target, '-') + &only(&target, &source, '+');
        assert!(source == target, "the schemas differ (or only their order does):\n{differing}");
    }

    /// The source's definitions in a database beside the target, by pg_dump and pg_restore alone.
    async fn restored_plainly(&self) -> Side {
        let beside =
            Side { cluster: self.target.cluster.clone(), dbname: format!("{}_plain", self.target.dbname) };
        beside.cluster.drop_database(&beside.dbname).await.expect("drop the database beside the target");
        beside.cluster.create_database(&beside.dbname).await.expect("create a database beside the target");
        let archive = tempfile::NamedTempFile::new().expect("make a file");
        let dumped = client_program("pg_dump")
            .args(["--format=custom", "--schema-only", "--no-publications", "--no-subscriptions"])
            .arg("--file")
            .arg(archive.path())
            .args(["--dbname", &self.source.dsn()])
            .output()
            .expect("pg_dump is installed");
        assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
        // It complains of settings that the target does not know; what is missing for worse reasons shows below.
        let restored = client_program("pg_restore")
            .args(["--dbname", &beside.dsn()])
            .arg(archive.path())
            .output()
            .expect("pg_restore is installed");
        assert!(matches!(restored.status.code(), Some(0 | 1)), "{restored:?}");
        beside
    }

    /// Asserts that the source is as it was: no slot, publication, schema, trigger or setting of ours.
    ///
    /// # Panics
    /// With what was added and what is gone.
    pub(crate) async fn assert_source_clean(&self, before: &Footprint) {
        let after = self.source.footprint().await;
        let only = |these: &Footprint, others: &Footprint| {
            these.0.iter().filter(|line| !others.0.contains(line)).cloned().collect::<Vec<_>>()
        };
        let (left, lost) = (only(&after, before), only(before, &after));
        assert!(left.is_empty() && lost.is_empty(), "left behind: {left:#?}\nlost: {lost:#?}");
    }
}

impl Side {
    /// A session in the scenario's database; names without a schema mean `public`.
    pub(crate) async fn session(&self) -> Session {
        let session = self.cluster.session(&self.dbname).await.expect("connect to a server of ours");
        // Under our usual name an engine would take it for a dead one's session, and end it.
        let settings = "SET application_name = 'test'; SET search_path = public";
        session.batch_execute(settings).await.expect("set up a session");
        session
    }

    /// The server's major version.
    pub(crate) fn major(&self) -> u32 {
        self.cluster.installation().version().major()
    }

    /// The connection string for the engine.
    pub(crate) fn dsn(&self) -> String {
        self.cluster.dsn(&self.dbname)
    }

    /// The connection string for the engine, by way of a proxy's port.
    pub(crate) fn dsn_through(&self, port: u16) -> String {
        format!("{} port={port}", self.dsn())
    }

    /// Runs statements.
    pub(crate) async fn execute(&self, sql: &str) {
        let session = self.session().await;
        if let Err(error) = session.batch_execute(sql).await {
            panic!("{error:?}\nin {sql}");
        }
    }

    /// Runs one statement that refuses a transaction block, such as CREATE DATABASE.
    pub(crate) async fn execute_alone(&self, sql: &str) {
        let session = self.session().await;
        if let Err(error) = session.batch_execute(sql).await {
            panic!("{error:?}\nin {sql}");
        }
    }

    /// The one value that a query gives.
    pub(crate) async fn value<T: FromSqlOwned>(&self, sql: &str) -> T {
        let session = self.session().await;
        match session.query_one(sql, &[]).await {
            Ok(row) => row.get(0),
            Err(error) => panic!("{error:?}\nin {sql}"),
        }
    }

    /// What pg_dump says of its schema, without lines that name versions or differ from run to run.
    fn schema(&self) -> Vec<String> {
        let output = client_program("pg_dump")
            .args(["--schema-only", "--no-publications", "--no-subscriptions", "--exclude-schema=pgstream"])
            .args(["--dbname", &self.dsn()])
            .output()
            .expect("pg_dump is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let noise = ["\\restrict", "\\unrestrict", "-- Dumped", "--", ""];
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter(|line| !noise[..3].iter().any(|start| line.starts_with(start)))
            .filter(|line| !noise[3..].contains(line))
            .map(str::to_owned)
            .collect()
    }

    /// What the source looks like now, apart from its rows.
    pub(crate) async fn footprint(&self) -> Footprint {
        let session = self.session().await;
        let rows = session.query(FOOTPRINT, &[]).await.expect("read the source's footprint");
        Footprint(rows.iter().map(|row| row.get(0)).collect())
    }
}

/// The newest there is.
fn client_program(name: &str) -> Command {
    let found = Cluster::installations().into_iter().map(|one| one.program(name));
    let found = found.filter(|program| program.is_file()).chain([name.into()]).next();
    Command::new(found.expect("the chain is not empty"))
}

const FOOTPRINT: &str = "
    SELECT 'slot ' || slot_name FROM pg_catalog.pg_replication_slots
        WHERE database = current_database() OR database IS NULL
    UNION ALL SELECT 'publication ' || pubname FROM pg_catalog.pg_publication
    UNION ALL SELECT 'schema ' || nspname FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_(toast_)?temp'
    UNION ALL SELECT 'relation ' || c.oid::regclass || ' identity ' || relreplident::text
            || ' row security ' || relrowsecurity || coalesce(' options ' || reloptions::text, '')
        FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = relnamespace
        WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
    UNION ALL SELECT 'trigger ' || tgname || ' on ' || tgrelid::regclass || ' ' || tgenabled::text
        FROM pg_catalog.pg_trigger
    UNION ALL SELECT 'event trigger ' || evtname || ' ' || evtenabled::text FROM pg_catalog.pg_event_trigger
    UNION ALL SELECT 'function ' || p.oid::regprocedure FROM pg_catalog.pg_proc AS p WHERE p.oid >= 16384
        AND p.pronamespace::regnamespace::text !~ '^pg_temp'
    UNION ALL SELECT 'role ' || rolname FROM pg_catalog.pg_roles
    UNION ALL SELECT 'setting ' || setrole || ' ' || setconfig::text FROM pg_catalog.pg_db_role_setting
        WHERE setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
    UNION ALL SELECT 'prepared ' || gid FROM pg_catalog.pg_prepared_xacts WHERE database = current_database()
    ORDER BY 1";

/// Which majors to run: `PGSTREAM_TEST_SOURCE` and `PGSTREAM_TEST_TARGET`, the newest unless named.
pub(crate) fn source_options() -> ClusterOptions {
    ClusterOptions { server: server("PGSTREAM_TEST_SOURCE"), ..ClusterOptions::default() }
}

/// See [`source_options`].
pub(crate) fn target_options() -> ClusterOptions {
    ClusterOptions { server: server("PGSTREAM_TEST_TARGET"), ..ClusterOptions::default() }
}

/// The major version that a server of these options will have.
pub(crate) fn major(options: &ClusterOptions) -> u32 {
    let installation = Installation::choose(&options.server).expect("there is such a server");
    installation.version().major()
}

fn server(variable: &str) -> ServerChoice {
    match std::env::var(variable) {
        Ok(major) => ServerChoice::Major(major.parse().expect("a major version, like 15")),
        Err(_) => ServerChoice::Newest,
    }
}

fn start_pair(
    source: &ClusterOptions,
    target: &ClusterOptions,
) -> pgstream::error::Result<(Cluster, Cluster)> {
    std::thread::scope(|scope| {
        let source = scope.spawn(|| Cluster::start_blocking(source));
        let target = Cluster::start_blocking(target);
        Ok((source.join().expect("the starting thread does not panic")?, target?))
    })
}
