//! Two servers, and the programs that are run on them.

use std::path::{Path, PathBuf};
use std::process::Command;

use pgstream::demo::{Cluster, ClusterOptions, Durability};
use pgstream::error::{Error, Result};
use pgstream::wire::Session;

use crate::process::{Running, server_seconds};

/// What both servers are given beyond their defaults, so that checkpoints do not decide who wins.
const SETTINGS: &[(&str, &str)] = &[
    ("shared_buffers", "256MB"),
    ("max_wal_size", "4GB"),
    ("checkpoint_timeout", "30min"),
    ("maintenance_work_mem", "128MB"),
    // pg_dump locks every table at once.
    ("max_locks_per_transaction", "1024"),
];

/// By what everybody reaches the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Way {
    /// Unix sockets: whoever sends pays for little more than what it sends.
    Socket,
    /// The loopback, where whoever sends also pays for the receiver's share of the network's work.
    Tcp,
}

/// A source and a target on this machine; both end when this drops, and when we are killed.
pub(crate) struct Stage {
    pub(crate) source: Cluster,
    pub(crate) target: Cluster,
    engine: PathBuf,
    way: Way,
}

/// CPU seconds of both servers at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Servers {
    pub(crate) source: f64,
    pub(crate) target: f64,
}

impl Stage {
    pub(crate) async fn set(durability: Durability, engine: &Path, way: Way) -> Result<Stage> {
        let settings =
            SETTINGS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let options = ClusterOptions { settings, durability, ..ClusterOptions::default() };
        let (source, target) = tokio::try_join!(Cluster::start(options.clone()), Cluster::start(options))?;
        Ok(Stage { source, target, engine: engine.to_owned(), way })
    }

    /// What is said about it above the tables.
    pub(crate) fn description(&self) -> String {
        let settings: Vec<String> = SETTINGS.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let way = match self.way {
            Way::Socket => "unix sockets",
            Way::Tcp => "TCP",
        };
        format!("PostgreSQL {}, {}, by {way}", self.source.installation().version(), settings.join(", "))
    }

    pub(crate) fn cpu(&self) -> Servers {
        let of = |cluster: &Cluster| cluster.pid().map_or(0.0, server_seconds);
        Servers { source: of(&self.source), target: of(&self.target) }
    }

    /// One of PostgreSQL's client programs: the server's own, else the one on the PATH.
    pub(crate) fn program(&self, name: &str) -> Command {
        let own = self.source.installation().program(name);
        Command::new(if own.exists() { own } else { PathBuf::from(name) })
    }

    /// How the source's contestants reach one of its databases.
    pub(crate) fn source_dsn(&self, dbname: &str) -> String {
        self.by_way(&self.source, dbname)
    }

    /// The same of the target.
    pub(crate) fn target_dsn(&self, dbname: &str) -> String {
        self.by_way(&self.target, dbname)
    }

    fn by_way(&self, cluster: &Cluster, dbname: &str) -> String {
        let dsn = cluster.dsn(dbname);
        match self.way {
            Way::Tcp => dsn,
            // The last of two values counts.
            Way::Socket => format!("{dsn} host='{}'", cluster.directory().display()),
        }
    }

    /// `pgstream migrate` from one database to another, by another port of this machine if need be; more arguments
    /// may follow.
    pub(crate) fn migrate(&self, from: &str, to: &str, port: Option<u16>) -> Command {
        let target = match port {
            None => self.target_dsn(to),
            Some(port) => format!("{} port={port}", self.target.dsn(to)),
        };
        self.migrate_by(&self.source_dsn(from), &target)
    }

    /// The same by connection strings.
    pub(crate) fn migrate_by(&self, source: &str, target: &str) -> Command {
        let mut command = Command::new(&self.engine);
        command.args(["migrate", "-s", source, "-t", target, "--json", "--quiet"]);
        command.stdout(std::process::Stdio::null());
        command
    }

    /// Runs pgbench on a database of the source.
    pub(crate) async fn pgbench(&self, dbname: &str, arguments: &[&str]) -> Result<()> {
        let mut command = self.program("pgbench");
        command.args(arguments).arg(self.source_dsn(dbname)).stdout(std::process::Stdio::null());
        Running::start(command)?.finish().await.map(drop)
    }

    /// Writes the target's dirty pages out, so that the next contestant does not pay for the last one.
    pub(crate) async fn settle(&self) -> Result<()> {
        for cluster in [&self.source, &self.target] {
            run(&cluster.session("postgres").await?, "CHECKPOINT").await?;
        }
        Ok(())
    }
}

/// Runs SQL without a result.
pub(crate) async fn run(session: &Session, sql: &str) -> Result<()> {
    let failed = |cause| Error::from_postgres(format!("run {}", sql.lines().next().unwrap_or(sql)), cause);
    session.batch_execute(sql).await.map_err(failed)
}

/// Asks for one number.
pub(crate) async fn number(session: &Session, sql: &str) -> Result<i64> {
    let row = session.query_one(sql, &[]).await;
    row.map(|row| row.get(0)).map_err(|cause| Error::from_postgres(format!("ask {sql}"), cause))
}
