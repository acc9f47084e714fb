//! The environment that the tools connect by.
//!
//! Hazard: an argument list is readable by every user of the machine, so the password goes into a file of mode
//! 0600 (P94), and a database name on a command line is expanded when it holds a `=` (P57), so it goes into
//! `PGDATABASE`, which is not. Our own process's `PG*` variables would change what the tools connect to: none
//! of them is passed on.

use std::ffi::OsString;
use std::io::Write;

use tempfile::NamedTempFile;

use crate::error::{Error, ErrorKind, Result};
use crate::pg::{
    ChannelBindingMode, Conninfo, HostName, RootCertificates, Secret, SslMode, SslNegotiation,
    TargetSessionAttrs,
};

/// Settings of the tools' sessions that must not depend on the role, the database or our caller.
///
/// The timeouts (P90) are those that every server since 10 knows. Plain quoting keeps definitions comparable,
/// and standard strings mean the same on both ends.
const PINS: &str = "-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 \
                    -c default_transaction_read_only=off -c standard_conforming_strings=on \
                    -c quote_all_identifiers=off";

/// Variables for one tool, and the passfile they point at, which lives as long as this.
pub(super) struct Environment {
    variables: Vec<(&'static str, OsString)>,
    _passfile: Option<NamedTempFile>,
}

impl Environment {
    /// Writes the passfile and names every parameter of `conninfo`.
    pub(super) fn of(conninfo: &Conninfo) -> Result<Environment> {
        let mut variables = parameters(conninfo);
        let passfile = conninfo.password.as_ref().map(write_passfile).transpose()?;
        if let Some(file) = &passfile {
            variables.push(("PGPASSFILE", file.path().into()));
        }
        Ok(Environment { variables, _passfile: passfile })
    }

    /// Gives a command this environment and no other `PG*` variable; messages come in English.
    pub(super) fn apply(&self, command: &mut tokio::process::Command) {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") || name == "LANGUAGE" {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C").env("LC_MESSAGES", "C");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
    }
}

/// Every server shares the one password, so the line matches all of them.
fn write_passfile(password: &Secret) -> Result<NamedTempFile> {
    let doing = "write a password file for pg_dump";
    let line = passfile_line(password).ok_or_else(|| {
        Error::new(ErrorKind::Usage, doing).hint("A password with a line break cannot be given to pg_dump.")
    })?;
    let failed = |error| Error::new(ErrorKind::Local, doing).because(error);
    // tempfile creates it with mode 0600, which libpq insists on.
    let mut file = tempfile::Builder::new().prefix("pgstream-").tempfile().map_err(failed)?;
    file.write_all(line.as_bytes()).map_err(failed)?;
    Ok(file)
}

/// `host:port:database:user:password` (docs: `libpq-pgpass`).
fn passfile_line(password: &Secret) -> Option<String> {
    let text = password.reveal();
    let escaped = text.replace('\\', "\\\\").replace(':', "\\:");
    (!text.contains(['\n', '\r'])).then(|| format!("*:*:*:*:{escaped}\n"))
}

/// docs: `libpq-envars`
fn parameters(conninfo: &Conninfo) -> Vec<(&'static str, OsString)> {
    let list = |items: Vec<String>| OsString::from(items.join(","));
    let hosts = &conninfo.hosts;
    let names = hosts.iter().map(|host| match &host.name {
        HostName::Tcp(name) => name.clone(),
        HostName::Unix(directory) => directory.to_string_lossy().into_owned(),
    });
    let mut variables = vec![
        ("PGHOST", list(names.collect())),
        ("PGPORT", list(hosts.iter().map(|host| host.port.to_string()).collect())),
        ("PGUSER", OsString::from(&conninfo.user)),
        ("PGDATABASE", OsString::from(conninfo.database())),
        ("PGSSLMODE", OsString::from(ssl_mode(conninfo.sslmode))),
        ("PGAPPNAME", OsString::from("pgstream schema")),
        ("PGOPTIONS", OsString::from(options(conninfo.options.as_deref()))),
    ];
    if hosts.iter().any(|host| host.hostaddr.is_some()) {
        let address = |host: &crate::pg::Host| host.hostaddr.map(|a| a.to_string()).unwrap_or_default();
        variables.push(("PGHOSTADDR", list(hosts.iter().map(address).collect())));
    }
    if let Some(timeout) = conninfo.connect_timeout {
        variables.push(("PGCONNECT_TIMEOUT", OsString::from(timeout.as_secs().max(1).to_string())));
    }
    match &conninfo.sslrootcert {
        Some(RootCertificates::File(path)) => variables.push(("PGSSLROOTCERT", path.into())),
        Some(RootCertificates::System) => variables.push(("PGSSLROOTCERT", "system".into())),
        None => {}
    }
    for (name, path) in [("PGSSLCERT", &conninfo.sslcert), ("PGSSLKEY", &conninfo.sslkey)] {
        variables.extend(path.as_ref().map(|path| (name, path.into())));
    }
    if conninfo.sslnegotiation == SslNegotiation::Direct {
        variables.push(("PGSSLNEGOTIATION", "direct".into()));
    }
    match conninfo.channel_binding {
        ChannelBindingMode::Prefer => {}
        ChannelBindingMode::Disable => variables.push(("PGCHANNELBINDING", "disable".into())),
        ChannelBindingMode::Require => variables.push(("PGCHANNELBINDING", "require".into())),
    }
    if let Some(wanted) = session_attrs(conninfo.target_session_attrs) {
        variables.push(("PGTARGETSESSIONATTRS", wanted.into()));
    }
    variables
}

/// The caller's options, then ours: the last one counts.
fn options(given: Option<&str>) -> String {
    given.map_or_else(|| PINS.to_owned(), |given| format!("{given} {PINS}"))
}

fn ssl_mode(mode: SslMode) -> &'static str {
    match mode {
        SslMode::Disable => "disable",
        SslMode::Allow => "allow",
        SslMode::Prefer => "prefer",
        SslMode::Require => "require",
        SslMode::VerifyCa => "verify-ca",
        SslMode::VerifyFull => "verify-full",
    }
}

fn session_attrs(wanted: TargetSessionAttrs) -> Option<&'static str> {
    match wanted {
        TargetSessionAttrs::Any => None,
        TargetSessionAttrs::ReadWrite => Some("read-write"),
        TargetSessionAttrs::ReadOnly => Some("read-only"),
        TargetSessionAttrs::Primary => Some("primary"),
        TargetSessionAttrs::Standby => Some("standby"),
        TargetSessionAttrs::PreferStandby => Some("prefer-standby"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_keeps_its_colons_and_backslashes() {
        let line = passfile_line(&Secret::new("a:b\\c")).unwrap();
        assert_eq!(line, "*:*:*:*:a\\:b\\\\c\n");
        assert_eq!(passfile_line(&Secret::new("a\nb")), None);
    }

    #[test]
    fn our_options_come_after_the_callers() {
        let both = options(Some("-c statement_timeout=5"));
        assert!(both.starts_with("-c statement_timeout=5 -c statement_timeout=0 "), "{both}");
    }
}
