//! Replays entries of an archive on the target.
//!
//! Hazard: neither "exit code 0" nor "exit code 1" says whether the target is whole; see [`judge`]. No surrounding
//! transaction: thousands of tables in one would exhaust the lock table (P88), so a restore cut short leaves its work
//! there and is run again as [`RestoreRun::Resumed`].
//!
//! Where entries do not need each other several `pg_restore` share them ([`lane`]). Side by side they may meet what one
//! alone never does: a table `_t` wants the name that the row type of a table `t` has just taken for its array. So what
//! fails there is no verdict yet; it is restored once more by itself.
//!
//! [`lane`]: crate::schema::lane
//! [`judge`]: crate::schema::judge

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt;

use futures_util::future::try_join_all;

use crate::catalog::{Capabilities, Owners};
use crate::error::{Error, ErrorKind, Result};
use crate::pg::Conninfo;
use crate::schema::build::Tablespaces;
use crate::schema::dump::{Archive, connection_kind};
use crate::schema::entry::DumpId;
use crate::schema::environment::Environment;
use crate::schema::judge::{
    Complaints, RestoreFailure, RestoreRun, RestoreWarning, Verdict, is_complaint, judge,
};
use crate::schema::lane::stretches;
use crate::schema::private::PrivateFile;
use crate::schema::process::{Completeness, Ended, run};
use crate::schema::tool::Tools;

/// How to restore.
#[derive(Debug, Clone, Copy)]
pub struct RestoreSettings {
    /// Whether our own work may be there already.
    pub run: RestoreRun,
    /// Whether objects go to the tablespaces they had.
    pub tablespaces: Tablespaces,
    /// Whether objects get the owners they had; grants they get either way.
    pub owners: Owners,
    /// Whether each statement waits for the target's disk.
    pub flush: Flush,
    /// Connections that may restore side by side.
    pub lanes: usize,
}

/// When what is committed must be on the target's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// At each commit.
    AtCommit,
    /// With the next commit that waits: WAL reaches the disk in its order. A crash before it takes them back, so they
    /// are noted as done in a session that was there before them, and that the crash would have ended.
    WithTheNote,
}

impl Flush {
    /// What a target allows of which our role may do this.
    #[must_use]
    pub fn of(may: &Capabilities) -> Flush {
        if may.asynchronous_commit { Flush::WithTheNote } else { Flush::AtCommit }
    }
}

/// A restore after which nothing is missing but what the warnings say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// What did not arrive, by name.
    pub warnings: Vec<RestoreWarning>,
}

/// Restores the entries `ids`, in that order but for privileges and event triggers, which `pg_restore` puts last, and
/// for what does not need each other.
///
/// # Errors
/// `Connect` or `Auth` when the target cannot be reached, `Schema` when a definition did not arrive (all of them
/// are named), `Tool` when `pg_restore` failed in another way.
/// # Cancel safety
/// `pg_restore` is killed between two entries or within one; call again with [`RestoreRun::Resumed`].
pub async fn restore(
    tools: &Tools,
    archive: &Archive,
    target: &Conninfo,
    ids: &[DumpId],
    settings: RestoreSettings,
) -> Result<Restored> {
    let one = |ids| restore_list(tools, archive, target, ids, settings);
    let mut warnings = Vec::new();
    for stretch in stretches(&archive.toc, ids, settings.lanes) {
        let lanes = try_join_all(stretch.iter().map(|lane| one(lane.clone()))).await?;
        let failed: HashSet<DumpId> = lanes.iter().flat_map(Judged::failed).collect();
        let mut fatal = Vec::new();
        for lane in lanes {
            // Of an entry that is not there its owner is complained of, too.
            let is_there =
                |warning: &RestoreWarning| warning.failure.id.is_none_or(|id| !failed.contains(&id));
            warnings.extend(lane.warnings.into_iter().filter(is_there));
            fatal.extend(lane.fatal);
        }
        if stretch.len() > 1 && !failed.is_empty() {
            tracing::debug!(
                entries = failed.len(),
                "definitions that failed side by side are restored again"
            );
            let again = one(ids.iter().copied().filter(|id| failed.contains(id)).collect()).await?;
            let still: HashSet<DumpId> = again.failed().collect();
            warnings.extend(again.warnings);
            fatal.retain(|failure| failure.id.is_none_or(|id| still.contains(&id)));
        }
        if !fatal.is_empty() {
            return Err(refuse(fatal));
        }
    }
    Ok(Restored { warnings })
}

/// Restores entries in the order of the list, by one `pg_restore`.
async fn restore_list(
    tools: &Tools,
    archive: &Archive,
    target: &Conninfo,
    ids: Vec<DumpId>,
    settings: RestoreSettings,
) -> Result<Judged> {
    // An empty list would make pg_restore restore nothing, but it would still connect.
    if ids.is_empty() {
        return Ok(Judged::default());
    }
    let list = write_list(&ids)?;
    let environment = Environment::of(target)?;
    let environment = match settings.flush {
        Flush::AtCommit => environment,
        Flush::WithTheNote => environment.set("synchronous_commit", "off"),
    };
    let arguments = arguments(archive, &list, settings);
    let ended = run(&tools.pg_restore, &arguments, &environment, is_complaint).await?;
    conclude(&ended, archive, settings.run)
}

/// One id per line (`SortTocFromFile` reads the number before the semicolon).
fn write_list(ids: &[DumpId]) -> Result<PrivateFile> {
    let lines: String = ids.iter().map(|id| format!("{id};\n")).collect();
    PrivateFile::holding(lines.as_bytes()).map_err(|error| {
        Error::new(ErrorKind::Local, "write the list of definitions to restore").because(error)
    })
}

fn arguments(archive: &Archive, list: &PrivateFile, settings: RestoreSettings) -> Vec<OsString> {
    // An empty name makes it connect, and leaves which database to PGDATABASE, which is never expanded (P57).
    // Without --verbose it does not say which entry an error belongs to.
    let mut arguments: Vec<OsString> =
        ["--dbname=", "--no-password", "--verbose"].map(OsString::from).to_vec();
    if settings.tablespaces == Tablespaces::Default {
        arguments.push("--no-tablespaces".into());
    }
    if settings.owners == Owners::Dropped {
        arguments.push("--no-owner".into());
    }
    arguments.extend(["--use-list".into(), list.path().into(), archive.file.path().into()]);
    arguments
}

/// What one `pg_restore` has left undone.
#[derive(Debug, Default)]
struct Judged {
    warnings: Vec<RestoreWarning>,
    /// Entries that did not arrive.
    fatal: Vec<RestoreFailure>,
}

impl Judged {
    fn failed(&self) -> impl Iterator<Item = DumpId> {
        self.fatal.iter().filter_map(|failure| failure.id)
    }
}

/// Judges every complaint, and whether these are all.
fn conclude(ended: &Ended, archive: &Archive, run: RestoreRun) -> Result<Judged> {
    let complaints = Complaints::read(&ended.stderr, &archive.toc);
    let read = complaints.failures.len();
    let mut judged = Judged::default();
    for failure in complaints.failures {
        match judge(&failure, run) {
            Verdict::Expected => {}
            Verdict::Warning(kind) => judged.warnings.push(RestoreWarning { kind, failure }),
            Verdict::Fatal => judged.fatal.push(failure),
        }
    }
    let is_over = |failure: &RestoreFailure| {
        connection_kind(&failure.message).is_some() || failure.statement.is_empty() || failure.id.is_none()
    };
    if judged.fatal.iter().any(is_over) {
        return Err(refuse(judged.fatal));
    }
    let counted = complaints.counted.unwrap_or(0);
    let whole = ended.complete == Completeness::Whole && read > 0 && read == counted;
    match ended.code {
        Some(0) if read == 0 => Ok(judged),
        Some(1) if whole => Ok(judged),
        // What is said of entries tells more than that there was more to say.
        _ if !judged.fatal.is_empty() => Err(refuse(judged.fatal)),
        _ => Err(Error::new(ErrorKind::Tool, "restore definitions")
            .hint("pg_restore ended without saying why in a form we know; run it by hand to see more.")
            .because(ended.stderr.trim().to_owned())),
    }
}

/// Definitions that did not arrive.
#[derive(Debug)]
struct Refused(Vec<RestoreFailure>);

/// How many are told in full.
const TOLD_MAX: usize = 5;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, failure) in self.0.iter().take(TOLD_MAX).enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", failure.entry, failure.message.replace('\n', ", "))?;
        }
        match self.0.len().saturating_sub(TOLD_MAX) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for Refused {}

fn refuse(fatal: Vec<RestoreFailure>) -> Error {
    let text = |failure: &RestoreFailure| connection_kind(&failure.message);
    if let Some(kind) = fatal.iter().find_map(text) {
        return Error::new(kind, "restore definitions").because(Refused(fatal));
    }
    // Not a statement of the archive: pg_restore itself gave up.
    if fatal.iter().any(|failure| failure.statement.is_empty()) {
        return Error::new(ErrorKind::Tool, "restore definitions")
            .hint("Name a pg_restore of the version that wrote the archive with `--pgbin`.")
            .because(Refused(fatal));
    }
    let doing = match fatal.as_slice() {
        [only] => format!("restore {}", only.entry),
        all => format!("restore {} definitions", all.len()),
    };
    let hint = fatal.first().map_or("", advice);
    Error::new(ErrorKind::Schema, doing).hint(hint).because(Refused(fatal))
}

/// What the operator can do about the first failure: the others often follow from it.
fn advice(failure: &RestoreFailure) -> &'static str {
    let says = |words: &str| failure.message.contains(words);
    if says("already exists") {
        "The target database must be empty: drop what is named, or start from a database made from template0."
    } else if says("extension") && (says("is not available") || says("could not open extension control file"))
    {
        "Install the extension on the target server, or allow it in the provider's settings."
    } else if says("permission denied") || says("must be superuser") || says("must be owner") {
        "Give the target role the right that is missing, or leave the object out."
    } else if says("role") && says("does not exist") {
        "Create the role on the target first, or migrate the roles together with the databases."
    } else {
        "Mend the definition on the source, or leave the object out, and run again on an empty target database."
    }
}
