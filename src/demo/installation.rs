//! Finding server programs: `initdb` and `postgres`, of which a machine may hold several majors.
//!
//! Hazard: client packages put `pg_config` and `psql` on the PATH without any server, and Debian keeps
//! servers off the PATH altogether. So a folder counts only if both programs are in it and answer.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, ErrorKind, Result};
use crate::pg::ServerVersion;

/// Names the folders to look in, joined like a PATH; when set, no other is looked at.
pub const SERVER_BIN: &str = "PGSTREAM_SERVER_BIN";

/// Folders that packages use; one `*` per pattern.
const USUAL_FOLDERS: &[&str] = &[
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql/bin",
    "/usr/lib/postgresql*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
];

/// One installed server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    bindir: PathBuf,
    version: ServerVersion,
}

/// Which of the installed servers to run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ServerChoice {
    /// The highest version there is.
    #[default]
    Newest,
    /// The highest minor of this major.
    Major(u32),
    /// This one.
    Exactly(Installation),
}

impl Installation {
    /// Every server of this machine, newest first.
    #[must_use]
    pub fn all() -> Vec<Installation> {
        let folders: BTreeSet<PathBuf> =
            candidates().into_iter().filter_map(|folder| folder.canonicalize().ok()).collect();
        let mut found: Vec<Installation> = folders.iter().filter_map(|folder| probe(folder)).collect();
        found.sort_by_key(|installation| std::cmp::Reverse(installation.version));
        found
    }

    /// The server that `choice` means.
    ///
    /// # Errors
    /// [`ErrorKind::Tool`] when there is none; the hint says how to get one.
    pub fn choose(choice: &ServerChoice) -> Result<Installation> {
        let (wanted, found) = match choice {
            ServerChoice::Exactly(installation) => return Ok(installation.clone()),
            ServerChoice::Newest => {
                ("a PostgreSQL server".to_owned(), Installation::all().into_iter().next())
            }
            ServerChoice::Major(major) => {
                let mut all = Installation::all().into_iter();
                (format!("a PostgreSQL {major} server"), all.find(|one| one.version.major() == *major))
            }
        };
        found.ok_or_else(|| {
            Error::new(ErrorKind::Tool, format!("find {wanted} (initdb and postgres)")).hint(format!(
                "Install one (`apt-get install postgresql`, `dnf install postgresql-server`, `brew install \
                 postgresql`), or name its folder in {SERVER_BIN}."
            ))
        })
    }

    /// The folder of its programs.
    #[must_use]
    pub fn bindir(&self) -> &Path {
        &self.bindir
    }

    /// The path of one of its programs; server-only packages lack the client ones.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.bindir.join(name)
    }

    /// The server's version.
    #[must_use]
    pub fn version(&self) -> ServerVersion {
        self.version
    }
}

fn candidates() -> Vec<PathBuf> {
    if let Some(folders) = env::var_os(SERVER_BIN) {
        return env::split_paths(&folders).collect();
    }
    let on_path = env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    let told = Command::new("pg_config").arg("--bindir").output().ok();
    let told = told.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    let usual = USUAL_FOLDERS.iter().flat_map(|pattern| expand(pattern));
    Vec::into_iter(on_path).chain(told).chain(usual).collect()
}

/// Expands the one `*` of a pattern against the folders that exist.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else { return vec![PathBuf::from(pattern)] };
    let Some((parent, prefix)) = before.rsplit_once('/') else { return Vec::new() };
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path().join(after.trim_start_matches('/')))
        .collect()
}

fn probe(bindir: &Path) -> Option<Installation> {
    if !bindir.join("initdb").is_file() {
        return None;
    }
    let output = Command::new(bindir.join("postgres")).arg("--version").output().ok()?;
    let version = parse_version(&String::from_utf8_lossy(&output.stdout))?;
    Some(Installation { bindir: bindir.to_owned(), version })
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`; betas (`18beta1`) count as minor 0.
fn parse_version(text: &str) -> Option<ServerVersion> {
    let number = text.strip_prefix("postgres (PostgreSQL) ")?.split_whitespace().next()?;
    let leading = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse::<u32>().ok()
    };
    let major = leading(number)?;
    let minor = number.split_once('.').and_then(|(_, minor)| leading(minor)).unwrap_or(0);
    // Before 10 the major version had two parts, and pgoutput did not exist.
    (10..1000).contains(&major).then(|| ServerVersion::new(major * 10_000 + minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions_as_packagers_print_them() {
        let number = |text| parse_version(text).map(ServerVersion::number);
        assert_eq!(number("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(150_018));
        assert_eq!(number("postgres (PostgreSQL) 18beta1\n"), Some(180_000));
        assert_eq!(number("postgres (PostgreSQL) 9.6.24\n"), None);
        assert_eq!(number("psql (PostgreSQL) 15.18\n"), None);
    }

    #[test]
    fn a_folder_without_initdb_is_no_server() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("postgres"), "").unwrap();
        assert_eq!(probe(folder.path()), None);
    }

    #[test]
    fn a_star_expands_to_what_exists() {
        let root = tempfile::tempdir().unwrap();
        for name in ["pg-10", "pg-18", "other"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        let mut found = expand(&format!("{}/pg-*/bin", root.path().display()));
        found.sort();
        assert_eq!(found, ["pg-10/bin", "pg-18/bin"].map(|tail| root.path().join(tail)));
    }

    #[test]
    fn a_missing_major_is_named_with_a_way_to_get_it() {
        let error = Installation::choose(&ServerChoice::Major(999)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Tool);
        assert!(error.doing().contains("999") && error.advice().unwrap().contains("apt-get install"));
    }
}
