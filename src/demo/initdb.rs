//! A data directory, made and configured.
//!
//! Hazard: a Unix socket's path has room for about a hundred bytes, and a temporary directory's may be
//! longer than that by itself.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::demo::cluster::{ClusterOptions, Durability, Listen};
use crate::demo::installation::Installation;
use crate::demo::server::{Account, command};
use crate::error::{Error, ErrorKind, Result};

/// The superuser of every cluster.
pub(super) const SUPERUSER: &str = "postgres";

/// Where `PGDATA` lies within a cluster's directory.
pub(super) fn data_directory(directory: &Path) -> PathBuf {
    directory.join("data")
}

/// A directory whose name leaves room for a socket's: the kernel allows 107 bytes, macOS 103.
pub(super) fn short_tempdir() -> std::io::Result<TempDir> {
    let builder = || tempfile::Builder::new().prefix("pgs-").to_owned();
    let longest_socket_name = ".s.PGSQL.65535.lock".len();
    if std::env::temp_dir().as_os_str().len() + "/pgs-XXXXXX/".len() + longest_socket_name < 103 {
        builder().tempdir()
    } else {
        builder().tempdir_in("/tmp")
    }
}

/// Makes and configures the data directory.
pub(super) fn initdb(
    installation: &Installation,
    account: Option<Account>,
    directory: &Path,
    options: &ClusterOptions,
) -> Result<()> {
    let failed = || Error::new(ErrorKind::Local, "run initdb");
    let data = data_directory(directory);
    let output = command(&installation.program("initdb"), account, directory)
        .args(["--no-sync", "--auth=trust", "-U", SUPERUSER])
        .args(["--locale", &options.locale, "--encoding", &options.encoding, "-D"])
        .arg(&data)
        .output()
        .map_err(|cause| {
            failed().because(cause).hint(format!(
                "Every folder above {} must be open to the user that runs the server.",
                installation.bindir().display()
            ))
        })?;
    if !output.status.success() {
        return Err(failed().because(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let written = append(&data.join("postgresql.conf"), &settings_text(directory, options))
        .and_then(|()| fs::write(data.join("pg_hba.conf"), hba_text(&options.hba)));
    written.map_err(|cause| Error::new(ErrorKind::Local, "configure a cluster").because(cause))
}

fn append(path: &Path, text: &str) -> std::io::Result<()> {
    File::options().append(true).open(path)?.write_all(text.as_bytes())
}

fn settings_text(directory: &Path, options: &ClusterOptions) -> String {
    let sockets = directory.display().to_string();
    let ours = [
        ("listen_addresses", if options.listen == Listen::Loopback { "127.0.0.1" } else { "" }),
        ("unix_socket_directories", &sockets),
        ("wal_level", "logical"),
        ("max_replication_slots", "20"),
        ("max_wal_senders", "20"),
        ("max_connections", "200"),
        ("max_prepared_transactions", "10"),
        // Server::spawn reads the log from standard error, in English.
        ("logging_collector", "off"),
        ("log_destination", "stderr"),
        ("lc_messages", "C"),
        ("log_line_prefix", "%m [%p] %q%d %a: "),
        ("timezone", "UTC"),
        ("log_timezone", "UTC"),
    ];
    let careless = [("fsync", "off"), ("full_page_writes", "off")];
    let theirs = options.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let mut text = String::new();
    let careless = careless.into_iter().filter(|_| options.durability == Durability::Careless);
    for (name, value) in ours.into_iter().chain(careless).chain(theirs) {
        let _ = writeln!(text, "{name} = '{}'", value.replace('\'', "''"));
    }
    text
}

fn hba_text(first: &[String]) -> String {
    let ours = [
        "local all all trust",
        "local replication all trust",
        "host all all 127.0.0.1/32 trust",
        "host replication all 127.0.0.1/32 trust",
    ];
    first.iter().map(String::as_str).chain(ours).fold(String::new(), |text, line| text + line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_caller_come_last_and_are_quoted() {
        let settings = vec![("search_path".to_owned(), "it's".to_owned())];
        let options = ClusterOptions { settings, listen: Listen::Socket, ..ClusterOptions::default() };
        let text = settings_text(Path::new("/tmp/x"), &options);
        assert!(text.ends_with("search_path = 'it''s'\n"), "{text}");
        assert!(text.contains("listen_addresses = ''\n") && text.contains("fsync = 'off'\n"));
    }

    #[test]
    fn rules_of_the_caller_come_first() {
        assert!(
            hba_text(&["host all eve 0/0 reject".to_owned()]).starts_with("host all eve 0/0 reject\nlocal")
        );
    }
}
