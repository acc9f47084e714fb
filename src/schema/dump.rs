//! Writes the source's definitions into an archive.
//!
//! Hazard: `pg_dump` locks every table it describes (ACCESS SHARE). Behind a waiting ALTER TABLE it would stand
//! in line, and everyone else behind it; so it waits only so long for a lock (P26). And it needs to read every
//! table it is not told to leave out (P82).

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Conninfo, Identifier};
use crate::schema::environment::Environment;
use crate::schema::private::PrivateFile;
use crate::schema::process::run;
use crate::schema::toc::Toc;
use crate::schema::tool::Tools;

/// An archive beyond this is not one of definitions only.
const ARCHIVE_BYTES_MAX: u64 = 1 << 30;

/// How to dump.
#[derive(Debug, Clone)]
pub struct DumpSettings {
    /// How long to wait for the lock on a table before giving up.
    pub lock_wait_timeout: Duration,
    /// The archive's encoding.
    pub encoding: DumpEncoding,
    /// Whether columns keep their TOAST compression method.
    pub toast_compression: ToastCompression,
    /// Schemas of which nothing is wanted: their tables are neither locked nor need be readable (P82).
    pub without_schemas: Vec<Identifier>,
}

/// The encoding of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DumpEncoding {
    /// UTF-8, converted by the source.
    Utf8,
    /// The bytes as they are: for a SQL_ASCII database, which cannot convert (P63).
    AsStored,
}

/// Whether `SET COMPRESSION` is dumped (P74).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToastCompression {
    /// Yes.
    Keep,
    /// No: the target was built without lz4. Known to `pg_dump` 14 and newer.
    Drop,
}

/// A custom-format archive of definitions, and its table of contents.
#[derive(Debug, Clone)]
pub struct Archive {
    /// The file. Definitions may hold secrets (user mappings).
    pub file: Arc<PrivateFile>,
    /// What is in it.
    pub toc: Toc,
}

impl Archive {
    /// Reads the table of contents of an archive dumped earlier.
    ///
    /// # Errors
    /// `Local` if the file cannot be read, `Tool` if it is not an archive we know.
    pub async fn open(file: PrivateFile) -> Result<Archive> {
        let path = file.path().to_owned();
        let doing = || "read the archive of definitions";
        let local = |error: std::io::Error| Error::new(ErrorKind::Local, doing()).because(error);
        let length = tokio::fs::metadata(&path).await.map_err(local)?.len();
        if length > ARCHIVE_BYTES_MAX {
            return Err(Error::new(ErrorKind::Tool, doing())
                .hint("Only archives of definitions (`pg_dump --schema-only -Fc`) are read."));
        }
        let bytes = tokio::fs::read(&path).await.map_err(local)?;
        let toc = Toc::parse(&bytes).map_err(|error| {
            Error::new(ErrorKind::Tool, doing())
                .hint("Name another pg_dump with `--pgbin`; versions 10 to 18 are known to work.")
                .because(error)
        })?;
        Ok(Archive { file: Arc::new(file), toc })
    }
}

/// Dumps every definition of `source` but publications, subscriptions and our own state (P75).
///
/// # Errors
/// `Connect` or `Auth` when the source cannot be reached, `Tool` for all else; the message names the object.
/// # Cancel safety
/// `pg_dump` is killed; the file at `into` is then worthless, and written anew by the next call.
pub async fn dump_definitions(
    tools: &Tools,
    source: &Conninfo,
    into: PrivateFile,
    settings: DumpSettings,
) -> Result<Archive> {
    let environment = Environment::of(source)?;
    let ended = run(&tools.pg_dump, &arguments(into.path(), &settings), &environment, |_| true).await?;
    if ended.code != Some(0) {
        return Err(explain(&ended.stderr));
    }
    Archive::open(into).await
}

fn arguments(into: &Path, settings: &DumpSettings) -> Vec<OsString> {
    let timeout = format!("--lock-wait-timeout={}", settings.lock_wait_timeout.as_millis());
    let mut arguments: Vec<OsString> = [
        "--format=custom",
        "--schema-only",
        "--no-password",
        "--no-publications",
        "--no-subscriptions",
        "--exclude-schema=pgstream",
        &timeout,
    ]
    .map(OsString::from)
    .to_vec();
    if settings.encoding == DumpEncoding::Utf8 {
        arguments.push("--encoding=UTF8".into());
    }
    if settings.toast_compression == ToastCompression::Drop {
        arguments.push("--no-toast-compression".into());
    }
    // In double quotes a name is no pattern.
    arguments.extend(settings.without_schemas.iter().map(|name| format!("--exclude-schema={name}").into()));
    arguments.push("--file".into());
    arguments.push(into.into());
    arguments
}

/// Tells the causes of a failed dump apart, by what `pg_dump` said.
fn explain(stderr: &str) -> Error {
    let text = stderr.trim();
    let (kind, hint) = if text.contains("permission denied") {
        let hint = "Grant the migrating role SELECT on what is named (pg_read_all_data, 14+), or leave its schema out.";
        (ErrorKind::Tool, Some(hint))
    } else if text.contains("due to statement timeout") || text.contains("due to lock timeout") {
        let hint = "A table is locked by another session, often by a waiting ALTER TABLE. Run again when it has ended.";
        (ErrorKind::Tool, Some(hint))
    } else if text.contains("server version mismatch") {
        (ErrorKind::Tool, Some("Name a pg_dump at least as new as the source with `--pgbin`."))
    } else {
        (connection_kind(text).unwrap_or(ErrorKind::Tool), None)
    };
    let error = Error::new(kind, "dump the source's definitions").because(text.to_owned());
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// The kind of a tool's failure that is one of connecting, if it is.
pub(super) fn connection_kind(text: &str) -> Option<ErrorKind> {
    const REFUSED: [&str; 5] = [
        "authentication failed",
        "no pg_hba.conf entry",
        "no password supplied",
        "role \"",
        "not permitted to log in",
    ];
    const BROKEN: [&str; 6] = [
        "connection to server",
        "server closed the connection",
        "no connection to the server",
        "terminating connection",
        "could not receive data",
        "SSL connection has been closed",
    ];
    // Reached and let in, but asked for what is not there: no second try will help.
    const ABSENT: [&str; 2] = ["FATAL:  database \"", "FATAL:  unrecognized configuration parameter"];
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    match says(&BROKEN) {
        true if says(&ABSENT) => Some(ErrorKind::Sql),
        true if says(&REFUSED) => Some(ErrorKind::Auth),
        true => Some(ErrorKind::Connect),
        false => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_table_it_may_not_read() {
        let error = explain(
            "pg_dump: error: query failed: ERROR:  permission denied for table migrations\n\
             pg_dump: detail: Query was: LOCK TABLE storage.migrations IN ACCESS SHARE MODE\n",
        );
        assert_eq!(error.kind(), ErrorKind::Tool);
        assert!(error.advice().is_some_and(|advice| advice.contains("SELECT")));
        assert!(crate::error::describe(&error).contains("storage.migrations"));
    }

    #[test]
    fn tells_a_refusal_from_a_broken_connection() {
        let refused =
            "connection to server at \"h\" failed: FATAL:  password authentication failed for user \"x\"";
        assert_eq!(explain(refused).kind(), ErrorKind::Auth);
        assert_eq!(
            explain("connection to server at \"h\" failed: Connection refused").kind(),
            ErrorKind::Connect
        );
        let absent = "connection to server at \"h\" failed: FATAL:  database \"x\" does not exist";
        assert_eq!(explain(absent).kind(), ErrorKind::Sql);
        assert_eq!(explain("server closed the connection unexpectedly").kind(), ErrorKind::Connect);
    }
}
