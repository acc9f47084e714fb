//! Connection strings, by libpq's rules.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

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

/// `sslmode` (docs: `libpq-ssl`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Never.
    Disable,
    /// Plain first, TLS if the server insists.
    Allow,
    /// TLS if the server has it; libpq's default.
    Prefer,
    /// TLS, whoever answers (a given root certificate is still verified).
    Require,
    /// TLS, and the certificate must chain to a trusted root.
    VerifyCa,
    /// TLS, chain, and the host's name.
    VerifyFull,
}

/// `sslnegotiation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslNegotiation {
    /// Ask with SSLRequest first.
    Postgres,
    /// TLS at once (17+).
    Direct,
}

/// `sslrootcert`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCertificates {
    /// A PEM file.
    File(PathBuf),
    /// The machine's own trust store (`sslrootcert=system`).
    System,
}

/// `channel_binding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBindingMode {
    /// Not used.
    Disable,
    /// Used where both ends can.
    Prefer,
    /// Demanded.
    Require,
}

/// `target_session_attrs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetSessionAttrs {
    /// Any server.
    Any,
    /// One that takes writes.
    ReadWrite,
    /// One whose sessions are read-only by default.
    ReadOnly,
    /// One not in recovery.
    Primary,
    /// One in recovery.
    Standby,
    /// A standby if there is one, else any.
    PreferStandby,
}

/// How to reach one database: every parameter resolved, libpq's defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conninfo {
    /// Servers to try, in order.
    pub hosts: Vec<Host>,
    /// The role.
    pub user: String,
    /// Its password, from the string, the environment or a passfile.
    pub password: Option<Secret>,
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
    /// TCP keepalives: idle time before the first probe; `None` when switched off.
    pub keepalives_idle: Option<Duration>,
    /// `tcp_user_timeout`.
    pub tcp_user_timeout: Option<Duration>,
}

/// A connection string that cannot be used. Never holds the string's values, which may be secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConninfoError {
    /// The text breaks the grammar.
    #[error("{0}")]
    Syntax(String),
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
}
