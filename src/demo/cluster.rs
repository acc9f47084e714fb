//! Throwaway PostgreSQL clusters: for the demo, the scenarios and the benches.
//!
//! Hazard: two clusters copied from one template have the same system identifier, and pgstream rightly
//! takes them for one server. So each cluster gets an `initdb` of its own; without syncing that is
//! half a second.

use std::fs::{self, OpenOptions};
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tempfile::TempDir;

use crate::demo::initdb::{SUPERUSER, data_directory, initdb, short_tempdir};
use crate::demo::installation::{Installation, ServerChoice};
use crate::demo::server::{Account, Guard, Server, Shutdown, command};
use crate::error::{Error, ErrorKind, Result};
use crate::pg::{
    ChannelBindingMode, Conninfo, Host, HostName, Identifier, SslMode, SslNegotiation, TargetSessionAttrs,
};
use crate::wire::{Session, SessionSettings};

/// How a cluster is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Listen {
    /// By its socket only, in a directory that no other user may enter.
    Socket,
    /// By its socket, and on a free port of 127.0.0.1, where every local user is let in as superuser.
    #[default]
    Loopback,
}

/// What the server does to survive a crash of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// `fsync = off`: for tests, which outlive no machine.
    #[default]
    Careless,
    /// PostgreSQL's defaults: for measuring.
    Real,
}

/// What a cluster is made like.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Which server to run.
    pub server: ServerChoice,
    /// Lines for `postgresql.conf`, after and so above ours; values unquoted.
    pub settings: Vec<(String, String)>,
    /// Lines for `pg_hba.conf`, before and so above ours, which trust everyone.
    pub hba: Vec<String>,
    /// The locale of its databases.
    pub locale: String,
    /// The encoding of its databases.
    pub encoding: String,
    /// How it is reached.
    pub listen: Listen,
    /// Whether it syncs.
    pub durability: Durability,
}

impl Default for ClusterOptions {
    fn default() -> ClusterOptions {
        ClusterOptions {
            server: ServerChoice::Newest,
            settings: Vec::new(),
            hba: Vec::new(),
            locale: "C".to_owned(),
            encoding: "UTF8".to_owned(),
            listen: Listen::default(),
            durability: Durability::default(),
        }
    }
}

/// A cluster of our own. When it drops, and also when we are killed, its server ends and its files go.
///
/// Clones share the one server.
#[derive(Debug, Clone)]
pub struct Cluster(Arc<Inner>);

/// Dropped in this order: first the server, then its files, the guard last.
#[derive(Debug)]
struct Inner {
    server: Mutex<Option<Server>>,
    directory: TempDir,
    _guard: Guard,
    installation: Installation,
    account: Option<Account>,
    listen: Listen,
    port: u16,
}

impl Cluster {
    /// Makes a cluster and starts its server, on a port that nobody else has.
    ///
    /// # Errors
    /// [`ErrorKind::Tool`] without server programs; [`ErrorKind::Local`] when one of them fails, with
    /// what it said.
    pub async fn start(options: ClusterOptions) -> Result<Cluster> {
        blocking("start a cluster", move || Cluster::start_blocking(&options)).await
    }

    /// [`Cluster::start`] for a caller outside any runtime.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn start_blocking(options: &ClusterOptions) -> Result<Cluster> {
        let installation = Installation::choose(&options.server)?;
        let local = |cause| Error::new(ErrorKind::Local, "make a cluster's directory").because(cause);
        let directory = short_tempdir().map_err(local)?;
        let account = Account::needed_for(directory.path())?;
        if let Some(account) = account {
            chown(directory.path(), Some(account.uid), Some(account.gid)).map_err(local)?;
        }
        initdb(&installation, account, directory.path(), options)?;
        let guard = Guard::start(&data_directory(directory.path()), directory.path())?;
        let mut inner = Inner {
            server: Mutex::new(None),
            directory,
            _guard: guard,
            installation,
            account,
            listen: options.listen,
            port: 0,
        };
        inner.start_on_a_free_port()?;
        Ok(Cluster(Arc::new(inner)))
    }

    /// Every server installed on this machine, newest first.
    #[must_use]
    pub fn installations() -> Vec<Installation> {
        Installation::all()
    }

    /// The server programs it runs.
    #[must_use]
    pub fn installation(&self) -> &Installation {
        &self.0.installation
    }

    /// The port of its TCP and Unix sockets; the same after a restart.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// The postmaster's process id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.0.server().as_ref().filter(|server| server.is_running()).map(Server::pid)
    }

    /// The directory that holds everything of this cluster, its Unix socket too.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.0.directory.path()
    }

    /// The data directory (`PGDATA`).
    #[must_use]
    pub fn data_directory(&self) -> PathBuf {
        data_directory(self.directory())
    }

    /// Everything the server has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.0.log()
    }

    /// Stops the server and returns when it is gone. Stopping a stopped one does nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Bug`] if the waiting thread panicked.
    pub async fn stop(&self, shutdown: Shutdown) -> Result<()> {
        let inner = Arc::clone(&self.0);
        blocking("stop a cluster", move || {
            if let Some(server) = inner.server().take() {
                server.stop(shutdown);
            }
            Ok(())
        })
        .await
    }

    /// Stops the server if it runs, and starts it again on its old port.
    ///
    /// # Errors
    /// [`ErrorKind::Local`] when it does not come up, with the end of its log.
    pub async fn restart(&self, shutdown: Shutdown) -> Result<()> {
        self.stop(shutdown).await?;
        let inner = Arc::clone(&self.0);
        blocking("restart a cluster", move || {
            let server = inner.spawn()?;
            *inner.server() = Some(server);
            Ok(())
        })
        .await
    }

    /// How to reach one of its databases as superuser.
    #[must_use]
    pub fn conninfo(&self, dbname: &str) -> Conninfo {
        let name = match self.0.listen {
            Listen::Socket => HostName::Unix(self.directory().to_owned()),
            Listen::Loopback => HostName::Tcp("127.0.0.1".to_owned()),
        };
        Conninfo {
            hosts: vec![Host { name, hostaddr: None, port: self.0.port }],
            user: SUPERUSER.to_owned(),
            password: None,
            passfile: Default::default(),
            dbname: Some(dbname.to_owned()),
            connect_timeout: None,
            options: None,
            application_name: None,
            sslmode: SslMode::Prefer,
            sslnegotiation: SslNegotiation::Postgres,
            sslrootcert: None,
            sslcert: None,
            sslkey: None,
            channel_binding: ChannelBindingMode::Prefer,
            target_session_attrs: TargetSessionAttrs::Any,
            keepalives_idle: None,
            tcp_user_timeout: None,
        }
    }

    /// The same as a keyword/value string, for libpq and for our own command line.
    #[must_use]
    pub fn dsn(&self, dbname: &str) -> String {
        let host = match self.0.listen {
            Listen::Socket => self.directory().display().to_string(),
            Listen::Loopback => "127.0.0.1".to_owned(),
        };
        let quoted = |value: &str| format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'"));
        format!("host={} port={} user={SUPERUSER} dbname={}", quoted(&host), self.0.port, quoted(dbname))
    }

    /// Opens a session as superuser.
    ///
    /// # Errors
    /// As [`Session::connect`].
    pub async fn session(&self, dbname: &str) -> Result<Session> {
        let settings = SessionSettings { role: "demo", ..SessionSettings::default() };
        Session::connect(&self.conninfo(dbname), &settings).await
    }

    /// Creates an empty database.
    ///
    /// # Errors
    /// [`ErrorKind::Sql`] when the server refuses.
    pub async fn create_database(&self, dbname: &str) -> Result<()> {
        let sql = format!("CREATE DATABASE {} TEMPLATE template0", Identifier::new(dbname));
        let session = self.session("postgres").await?;
        session.batch_execute(&sql).await.map_err(|cause| Error::from_postgres("create a database", cause))
    }

    /// Drops a database and cuts off whoever uses it.
    ///
    /// # Errors
    /// [`ErrorKind::Sql`] when the server refuses; a replication slot in the database is such a reason.
    pub async fn drop_database(&self, dbname: &str) -> Result<()> {
        let failed = |cause| Error::from_postgres("drop a database", cause);
        let session = self.session("postgres").await?;
        // DROP … WITH (FORCE) begins with 13.
        let cut = "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity \
                   WHERE datname = $1 AND pid <> pg_catalog.pg_backend_pid()";
        session.execute(cut, &[&dbname]).await.map_err(failed)?;
        let sql = format!("DROP DATABASE IF EXISTS {}", Identifier::new(dbname));
        session.batch_execute(&sql).await.map_err(failed)
    }
}

impl Inner {
    fn server(&self) -> MutexGuard<'_, Option<Server>> {
        // A panic while it was held leaves an Option that is still true.
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> String {
        let bytes = fs::read(self.directory.path().join("server.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A port that was free a moment ago may be taken when the server asks for it; so try some.
    fn start_on_a_free_port(&mut self) -> Result<()> {
        const ATTEMPTS_MAX: usize = 5;
        let mut attempt = 1;
        loop {
            self.port = free_port()?;
            match self.spawn() {
                Ok(server) => {
                    *self.server() = Some(server);
                    return Ok(());
                }
                Err(_) if attempt < ATTEMPTS_MAX && self.log().contains("Address already in use") => {
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn spawn(&self) -> Result<Server> {
        let directory = self.directory.path();
        let local = |cause| Error::new(ErrorKind::Local, "open a server's log").because(cause);
        let log = OpenOptions::new().create(true).append(true).open(directory.join("server.log"));
        let mut command = command(&self.installation.program("postgres"), self.account, directory);
        command.arg("-D").arg(data_directory(directory)).arg("-p").arg(self.port.to_string());
        Server::spawn(command, log.map_err(local)?).map_err(|error| {
            let log = self.log();
            let start = log.char_indices().rev().nth(2000).map_or(0, |(index, _)| index);
            error.hint(format!("The server's log ends with:\n{}", &log[start..]))
        })
    }
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address =
        listener.map_err(|cause| Error::new(ErrorKind::Local, "find a free port").because(cause))?;
    Ok(address.port())
}

async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let task = tokio::task::spawn_blocking(work).await;
    task.map_err(|cause| Error::new(ErrorKind::Bug, doing).because(cause))?
}
