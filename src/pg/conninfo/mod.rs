//! Connection strings, by libpq's rules.
//!
//! Hazard: a connection string holds a password, and a wrong one may hold it anywhere. No error here shows a
//! value, and no `Debug` a secret (P94). What libpq would enforce and we cannot is refused, never ignored.
//!
//! ```text
//!   string > service file > PG* variables > ~/.postgresql, ~/.pgpass, built-in defaults
//! ```
//!
//! See PostgreSQL docs, `libpq-connect`, `libpq-envars`, `libpq-pgservice`, `libpq-pgpass`; fe-connect.c.

mod choice;
mod environment;
mod error;
mod host;
mod keyword;
mod passfile;
mod resolve;
mod service;
mod settings;
#[cfg(test)]
mod testing;
mod tools;
mod uri;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use choice::{ChannelBindingMode, SslMode, SslNegotiation, TargetSessionAttrs};
pub use environment::{Environment, Files};
pub use error::ConninfoError;
pub use passfile::Passfile;
pub use settings::Given;

/// A secret that neither `Debug` nor `Display` shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The secret itself; for the wire, an environment variable or a 0600 file, never for a message.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where a host is: a name or address to reach by TCP, or a directory of Unix sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostName {
    /// A DNS name or an address in text.
    Tcp(String),
    /// The directory that holds `.s.PGSQL.<port>`.
    Unix(PathBuf),
}

/// One server to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The name, also what a certificate is checked against.
    pub name: HostName,
    /// An address that spares the DNS look-up.
    pub hostaddr: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

/// `sslrootcert`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCertificates {
    /// A PEM file.
    File(PathBuf),
    /// The machine's own trust store (`sslrootcert=system`).
    System,
}

/// How to reach one database: every parameter resolved, libpq's defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conninfo {
    /// Servers to try, in order.
    pub hosts: Vec<Host>,
    /// The role.
    pub user: String,
    /// Its password, from the string, a service file or the environment; ask [`Conninfo::password_for`] instead.
    pub password: Option<Secret>,
    /// The password file to look into when there is no `password`.
    pub passfile: Passfile,
    /// The database as the string named it; `None` when it named none.
    pub dbname: Option<String>,
    /// Seconds per host; `None` waits for ever.
    pub connect_timeout: Option<Duration>,
    /// `options`: command-line settings for the backend.
    pub options: Option<String>,
    /// What `pg_stat_activity` shows.
    pub application_name: Option<String>,
    /// TLS mode.
    pub sslmode: SslMode,
    /// How TLS begins.
    pub sslnegotiation: SslNegotiation,
    /// Trusted roots.
    pub sslrootcert: Option<RootCertificates>,
    /// Client certificate, PEM.
    pub sslcert: Option<PathBuf>,
    /// Its key, PEM.
    pub sslkey: Option<PathBuf>,
    /// SCRAM channel binding.
    pub channel_binding: ChannelBindingMode,
    /// Which servers will do.
    pub target_session_attrs: TargetSessionAttrs,
    /// TCP keepalives: idle time before the first probe, a minute unless set (P92); `None` when switched off.
    pub keepalives_idle: Option<Duration>,
    /// `tcp_user_timeout`.
    pub tcp_user_timeout: Option<Duration>,
}

impl Conninfo {
    /// The database to connect to: the one named, else the role's own name, as libpq has it.
    #[must_use]
    pub fn database(&self) -> &str {
        self.dbname.as_deref().unwrap_or(&self.user)
    }

    /// The same server and role, another database.
    #[must_use]
    pub fn with_database(&self, dbname: &str) -> Conninfo {
        Conninfo { dbname: Some(dbname.to_owned()), ..self.clone() }
    }

    /// The password for this host, one of [`Conninfo::hosts`], and the database named here.
    #[must_use]
    pub fn password_for(&self, host: &Host) -> Option<&Secret> {
        let names = || host.passfile_names().into_iter();
        let in_file = |name: String| self.passfile.password(&name, host.port, self.database(), &self.user);
        self.password.as_ref().or_else(|| names().find_map(in_file))
    }
}
