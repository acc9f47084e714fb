//! Finds `pg_dump` and `pg_restore` and chooses which to use.
//!
//! Hazard: `pg_dump` refuses a server newer than itself, `pg_restore` refuses an archive newer than itself, and a
//! definition written by a newer major than the target's need not load there (P79). So both come from one
//! installation, the target's major for choice. Debian's `/usr/bin/pg_dump` is a wrapper that picks a version by
//! what it connects to; the binaries behind it are used instead.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use futures_util::future::join_all;

use crate::error::{Error, ErrorKind, Result};
use crate::pg::ServerVersion;

/// A folder that holds both tools, of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// The folder.
    pub folder: PathBuf,
    /// The major version.
    pub major: u32,
    /// The version as the tool prints it: `15.20`.
    pub version: String,
}

/// The tools in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tools {
    /// `pg_dump`.
    pub pg_dump: PathBuf,
    /// `pg_restore` of the same installation.
    pub pg_restore: PathBuf,
    /// Their major version.
    pub major: u32,
    /// Their version as they print it.
    pub version: String,
}

/// No installation will do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ToolsError {
    /// There is none at all.
    #[error("no pg_dump and pg_restore were found")]
    NotFound,
    /// Each is older than the source.
    #[error("pg_dump {} cannot read a server of version {source_major}", found.join(", "))]
    TooOld {
        /// The versions found.
        found: Vec<String>,
        /// The source's major.
        source_major: u32,
    },
}

/// Where installers put the tools: folders, of which `*` stands for any one name.
const USUAL_FOLDERS: [&str; 8] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/opt/homebrew/opt/libpq/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/usr/local/opt/libpq/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
];

/// Chooses among installations: the target's major, else the newest between source and target, else the oldest
/// that is newer than both, whose `SET transaction_timeout` an older target is then allowed to refuse (P79).
///
/// # Errors
/// [`ToolsError`] when none can read the source.
pub fn choose_tools(
    found: &[Installation],
    source: ServerVersion,
    target: ServerVersion,
) -> Result<&Installation, ToolsError> {
    if found.is_empty() {
        return Err(ToolsError::NotFound);
    }
    // Smaller is better; of equals, the one found first.
    let distance = |installation: &Installation| match installation.major.checked_sub(target.major()) {
        Some(newer) if newer > 0 => (1, newer),
        _ => (0, target.major().saturating_sub(installation.major)),
    };
    found
        .iter()
        .filter(|installation| installation.major >= source.major())
        .min_by_key(|i| distance(i))
        .ok_or_else(|| ToolsError::TooOld {
            found: found.iter().map(|installation| installation.version.clone()).collect(),
            source_major: source.major(),
        })
}

/// Finds the tools: only in `pgbin` when it is given, else on the PATH and where installers put them.
///
/// # Errors
/// `Tool`, with the versions found and how to get one that will do.
pub async fn find_tools(pgbin: Option<&Path>, source: ServerVersion, target: ServerVersion) -> Result<Tools> {
    let folders = match pgbin {
        Some(folder) => vec![folder.to_owned()],
        None => usual_folders(),
    };
    let found = join_all(folders.into_iter().map(inspect)).await;
    let found: Vec<Installation> = found.into_iter().flatten().collect();
    let installation = choose_tools(&found, source, target).map_err(|error| {
        let place = pgbin.map(|folder| format!(" in {}", folder.display())).unwrap_or_default();
        let wanted = target.major().max(source.major());
        Error::new(ErrorKind::Tool, format!("find pg_dump and pg_restore{place}"))
            .hint(format!(
                "Install the client programs of PostgreSQL {wanted} (`apt-get install postgresql-client-{wanted}`, \
                 `dnf install postgresql{wanted}`, `brew install postgresql@{wanted}`), or name their folder with \
                 `--pgbin`."
            ))
            .because(error)
    })?;
    Ok(Tools {
        pg_dump: installation.folder.join("pg_dump"),
        pg_restore: installation.folder.join("pg_restore"),
        major: installation.major,
        version: installation.version.clone(),
    })
}

/// The PATH's folders, then the usual ones; each once.
fn usual_folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = USUAL_FOLDERS.iter().flat_map(|pattern| expand(pattern));
    let mut folders: Vec<PathBuf> = Vec::new();
    for folder in std::env::split_paths(&path).chain(usual) {
        // A wrapper's version depends on the connection: it is not what it says now.
        let real = std::fs::canonicalize(folder.join("pg_dump")).ok();
        let wrapper = real.as_deref().and_then(Path::file_name).is_some_and(|name| name == "pg_wrapper");
        if real.is_some() && !wrapper && !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

/// The folders that match a pattern with at most one `*`, highest names first.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else { return vec![PathBuf::from(pattern)] };
    let (parent, prefix) = before.rsplit_once('/').unwrap_or((".", before));
    let names = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let mut names: Vec<String> = names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort_by(|a, b| b.cmp(a));
    names.into_iter().map(|name| PathBuf::from(format!("{parent}/{name}{after}"))).collect()
}

/// Asks both tools of a folder for their version; `None` unless both answer alike.
async fn inspect(folder: PathBuf) -> Option<Installation> {
    let (pg_dump, pg_restore) = (folder.join("pg_dump"), folder.join("pg_restore"));
    let (dump, restore) = tokio::join!(version_of(&pg_dump), version_of(&pg_restore));
    let ((major, version), (restore_major, _)) = dump.zip(restore)?;
    (major == restore_major).then_some(Installation { folder, major, version })
}

async fn version_of(program: &Path) -> Option<(u32, String)> {
    let mut command = tokio::process::Command::new(program);
    command.arg("--version").env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.ok().filter(|output| output.status.success())?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// `pg_dump (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)`: the first word that begins with a number.
fn parse_version(text: &str) -> Option<(u32, String)> {
    text.split_whitespace().find_map(|word| {
        let digits = word.find(|char: char| !char.is_ascii_digit()).unwrap_or(word.len());
        let major = word.get(..digits)?.parse().ok()?;
        Some((major, word.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(majors: &[u32], source: u32, target: u32) -> Result<u32, ToolsError> {
        let found: Vec<Installation> = majors
            .iter()
            .map(|major| Installation {
                folder: PathBuf::new(),
                major: *major,
                version: format!("{major}.1"),
            })
            .collect();
        let version = |major: u32| ServerVersion::new(major * 10_000);
        choose_tools(&found, version(source), version(target)).map(|installation| installation.major)
    }

    #[test]
    fn prefers_the_targets_major() {
        assert_eq!(choice(&[18, 15, 17], 13, 17), Ok(17));
    }

    #[test]
    fn takes_what_lies_between_before_what_is_newer() {
        assert_eq!(choice(&[18, 14, 15, 12], 13, 17), Ok(15));
        assert_eq!(choice(&[18, 17, 12], 13, 16), Ok(17));
    }

    #[test]
    fn never_takes_one_older_than_the_source() {
        let error = choice(&[12, 14], 15, 16).unwrap_err();
        assert_eq!(error.to_string(), "pg_dump 12.1, 14.1 cannot read a server of version 15");
        assert_eq!(choice(&[], 15, 16), Err(ToolsError::NotFound));
    }

    #[test]
    fn reads_every_vendors_version() {
        let read = |text| parse_version(text).map(|(major, _)| major);
        assert_eq!(read("pg_dump (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n"), Some(15));
        assert_eq!(read("pg_dump (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(read("pg_dump (EnterpriseDB) 16.4.0"), Some(16));
        assert_eq!(read("pg_dump: command not found"), None);
    }
}
