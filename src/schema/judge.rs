//! Reads what `pg_restore` complained about, and judges each complaint by name.
//!
//! Hazard: `pg_restore` goes on after an error and ends with "errors ignored on restore: 3". Which three decides
//! everything: an owner that is not there is a warning, a function that is not there is a broken target (P77).
//! What is not on the list below is fatal; and the number of complaints read must be the number it counted.
//!
//! Verdicts rest on the statement that failed, not on the server's wording, which follows the server's language.
//! Only two do look at the wording, and miss on the safe side: what a resumed run finds already there.

use std::fmt;

use std::collections::HashMap;

use crate::schema::entry::{DumpId, Entry};
use crate::schema::toc::Toc;

/// One statement that `pg_restore` could not execute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreFailure {
    /// The entry, when it was restoring one.
    pub id: Option<DumpId>,
    /// The entry for people.
    pub entry: String,
    /// What the server (or libpq) said, with DETAIL and HINT.
    pub message: String,
    /// The statement, cut at about 1000 bytes by `pg_restore`; empty if it was none.
    pub statement: String,
}

/// The definition arrived; something about it did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreWarning {
    /// What did not arrive.
    pub kind: RestoreWarningKind,
    /// The failure behind it.
    pub failure: RestoreFailure,
}

impl fmt::Display for RestoreWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            RestoreWarningKind::Owner => "its owner could not be set",
            RestoreWarningKind::Privileges => "its privileges could not be granted",
            RestoreWarningKind::Comment => "its comment could not be set",
            RestoreWarningKind::SecurityLabel => "its security label could not be set",
            RestoreWarningKind::SchemaWasThere => "it was there already and is kept",
        };
        write!(f, "{}: {what}: {}", self.failure.entry, self.failure.message)
    }
}

/// What may be missing without the target being broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RestoreWarningKind {
    /// The owner: the role is missing, or we may not act for it (P70, P71).
    Owner,
    /// All privileges of one entry, for a role that is missing or a right that we lack (P71).
    Privileges,
    /// The comment of an extension or of schema `public`, which only the owner may set (P77).
    Comment,
    /// A security label whose provider the target lacks (P74).
    SecurityLabel,
    /// A schema that the target came with (P81); it keeps its owner if ours may not be set.
    SchemaWasThere,
}

/// Whether this restore may meet its own work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreRun {
    /// Nothing of the archive is there yet.
    First,
    /// An earlier run was cut short: what is there already is fine.
    Resumed,
}

/// What a failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing is missing.
    Expected,
    /// Something is, and the result says so.
    Warning(RestoreWarningKind),
    /// The target is not what the source is.
    Fatal,
}

/// Judges one failure.
pub(super) fn judge(failure: &RestoreFailure, run: RestoreRun) -> Verdict {
    if !is_refusal(&failure.message) {
        return Verdict::Fatal;
    }
    let statement = failure.statement.trim_start();
    let starts = |words: &str| statement.starts_with(words);
    // pg_restore 17+ sets it on every target, and it bounds nothing on one that does not know it (P79).
    if failure.id.is_none() && starts("SET transaction_timeout = 0") {
        return Verdict::Expected;
    }
    if starts("COMMENT ON EXTENSION ") || starts("COMMENT ON SCHEMA public ") {
        return Verdict::Warning(RestoreWarningKind::Comment);
    }
    if starts("SECURITY LABEL ") {
        return Verdict::Warning(RestoreWarningKind::SecurityLabel);
    }
    if failure.entry.starts_with("ACL ") || failure.entry.starts_with("DEFAULT ACL ") {
        return Verdict::Warning(RestoreWarningKind::Privileges);
    }
    // pg_restore sends it as a statement of its own, after the definition: `ALTER TABLE a.b OWNER TO c;`
    if starts("ALTER ") && statement.lines().next().is_some_and(|line| line.contains(" OWNER TO ")) {
        return Verdict::Warning(RestoreWarningKind::Owner);
    }
    let there = says_it_is_there(&failure.message);
    match run {
        RestoreRun::Resumed if there => Verdict::Expected,
        RestoreRun::First if there && starts("CREATE SCHEMA ") => {
            Verdict::Warning(RestoreWarningKind::SchemaWasThere)
        }
        RestoreRun::Resumed | RestoreRun::First => Verdict::Fatal,
    }
}

/// Whether a server refused a statement, in whatever language: `ERROR:  …`, with two blanks. libpq's own
/// messages about a broken connection have no such form, and FATAL ends the session.
fn is_refusal(message: &str) -> bool {
    let severity = message.split_once(":  ").map(|(severity, _)| severity);
    severity.is_some_and(|word| !word.contains([' ', '\n']) && !matches!(word, "FATAL" | "PANIC"))
}

fn says_it_is_there(message: &str) -> bool {
    let first = message.lines().next().unwrap_or_default();
    // Some kinds (text search configurations) are only stopped by a catalog's own index.
    const THERE: [&str; 5] = [
        "already exists",
        "is already a partition",
        "is already an identity column",
        "is already a member of",
        "violates unique constraint \"pg_",
    ];
    THERE.iter().any(|words| first.contains(words))
}

/// Everything that `pg_restore --verbose` complained about.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    /// One per statement that failed, in order.
    pub(super) failures: Vec<RestoreFailure>,
    /// Its own count, printed at the end if it got there and it is not zero.
    pub(super) counted: Option<usize>,
}

/// The line before a failure that names its entry; what precedes its statement; lines that tell of progress.
const ENTRY: &str = "pg_restore: from TOC entry ";
const STATEMENT: &str = "Command was: ";
const PROGRESS: &str = "pg_restore: creating ";

/// Whether a line of stderr matters to [`Complaints::read`].
pub(super) fn is_complaint(line: &str) -> bool {
    !line.starts_with(PROGRESS)
}

impl Complaints {
    /// Reads stderr (`pg_backup_archiver.c`, `warn_or_exit_horribly`).
    pub(super) fn read(stderr: &str, toc: &Toc) -> Complaints {
        let entries: HashMap<DumpId, &Entry> = toc.entries.iter().map(|entry| (entry.id, entry)).collect();
        let mut complaints = Complaints::default();
        let mut entry: (Option<DumpId>, String) = (None, "the session's settings".to_owned());
        let mut part = Part::None;
        let mut rest = stderr;
        while !rest.is_empty() {
            // A statement that we know is stepped over whole: its text may imitate any line below.
            if let (Part::Message, Some(statement)) = (part, rest.strip_prefix(STATEMENT))
                && let Some(failure) = complaints.failures.last_mut()
            {
                let definition = failure.id.and_then(|id| entries.get(&id)).and_then(|e| e.definition.sql());
                let (known, after) = split_common(statement, definition.unwrap_or_default());
                failure.statement.push_str(known);
                let (line, after) = after.split_once('\n').unwrap_or((after, ""));
                failure.statement.push_str(line);
                (rest, part) = (after, Part::Statement);
                continue;
            }
            let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
            rest = after;
            if let Some(text) = line.strip_prefix(ENTRY) {
                entry = name_entry(text, &entries);
                part = Part::None;
            } else if let Some(text) = line.strip_prefix("pg_restore: error: ") {
                let message = text.strip_prefix("could not execute query: ").unwrap_or(text).to_owned();
                let (id, entry) = entry.clone();
                complaints.failures.push(RestoreFailure { id, entry, message, statement: String::new() });
                part = Part::Message;
            } else if let Some(count) = line.strip_prefix("pg_restore: warning: errors ignored on restore: ")
            {
                complaints.counted = count.trim().parse().ok();
                part = Part::None;
            } else if line.starts_with("pg_restore: ") {
                part = Part::None;
            } else if let Some(failure) = complaints.failures.last_mut() {
                part.take_line(failure, line);
            }
        }
        for failure in &mut complaints.failures {
            failure.statement.truncate(failure.statement.trim_end().len());
        }
        complaints
    }
}

/// Which part of a complaint the next line continues.
#[derive(Clone, Copy)]
enum Part {
    None,
    Message,
    Statement,
}

impl Part {
    fn take_line(self, failure: &mut RestoreFailure, line: &str) {
        let text = match self {
            Part::None => return,
            Part::Message => &mut failure.message,
            Part::Statement => &mut failure.statement,
        };
        text.push('\n');
        text.push_str(line);
    }
}

/// Splits `text` where it ceases to be the same as `other`.
fn split_common<'a>(text: &'a str, other: &str) -> (&'a str, &'a str) {
    let same = text.chars().zip(other.chars()).take_while(|(a, b)| a == b);
    let length = same.map(|(char, _)| char.len_utf8()).sum();
    text.split_at_checked(length).unwrap_or((text, ""))
}

/// `201; 1259 16386 TABLE t owner`
fn name_entry(text: &str, entries: &HashMap<DumpId, &Entry>) -> (Option<DumpId>, String) {
    let id = text.split(';').next().and_then(|number| number.parse().ok()).map(DumpId::new);
    let name = id.and_then(|id| entries.get(&id)).map_or_else(|| text.to_owned(), |entry| entry.name());
    (id, name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::Oid;
    use crate::schema::entry::{Definition, Section};

    const NO_TOC: Toc = Toc {
        version: (1, 14),
        database: String::new(),
        server_version: String::new(),
        dump_version: String::new(),
        entries: Vec::new(),
    };

    fn failure(entry: &str, message: &str, statement: &str) -> RestoreFailure {
        RestoreFailure {
            id: Some(DumpId::new(1)),
            entry: entry.to_owned(),
            message: message.to_owned(),
            statement: statement.to_owned(),
        }
    }

    #[test]
    fn reads_what_pg_restore_18_said() {
        let stderr = "pg_restore: while INITIALIZING:\n\
            pg_restore: error: could not execute query: ERROR:  unrecognized configuration parameter \"transaction_timeout\"\n\
            Command was: SET transaction_timeout = 0;\n\
            pg_restore: while PROCESSING TOC:\n\
            pg_restore: from TOC entry 12; 2615 18179 SCHEMA app odd_owner\n\
            pg_restore: error: could not execute query: ERROR:  schema \"app\" already exists\n\
            DETAIL:  It is.\n\
            Command was: CREATE SCHEMA app\n    -- twice\n;\n\n\n\
            pg_restore: error: could not execute query: ERROR:  role \"odd_owner\" does not exist\n\
            Command was: ALTER SCHEMA app OWNER TO odd_owner;\n\n\
            pg_restore: warning: errors ignored on restore: 3\n";
        let Complaints { failures, counted } = Complaints::read(stderr, &NO_TOC);
        assert_eq!((failures.len(), counted), (3, Some(3)));
        assert_eq!(judge(&failures[0], RestoreRun::First), Verdict::Expected);
        assert_eq!(failures[1].message, "ERROR:  schema \"app\" already exists\nDETAIL:  It is.");
        assert_eq!(failures[1].statement, "CREATE SCHEMA app\n    -- twice\n;");
        assert_eq!(
            (failures[2].id, failures[2].statement.as_str()),
            (Some(DumpId::new(12)), "ALTER SCHEMA app OWNER TO odd_owner;")
        );
        assert_eq!(judge(&failures[2], RestoreRun::First), Verdict::Warning(RestoreWarningKind::Owner));
    }

    #[test]
    fn a_definition_cannot_pretend_to_be_a_complaint() {
        let sql = "CREATE FUNCTION app.f() RETURNS void AS $$\n\
                   pg_restore: error: could not execute query: ERROR:  forged\n\
                   Command was: COMMENT ON EXTENSION x;\n$$;\n";
        let mut toc = NO_TOC;
        toc.entries.push(Entry {
            id: DumpId::new(7),
            section: Section::PreData,
            desc: "FUNCTION".into(),
            tag: "f()".to_owned(),
            namespace: Some("app".into()),
            owner: "".into(),
            tablespace: None,
            definition: Definition::Sql(sql.into()),
            dependencies: [].into(),
            table_oid: Oid::new(1255),
            oid: Oid::new(1),
        });
        let stderr = format!(
            "pg_restore: from TOC entry 7; 1255 1 FUNCTION f() me\n\
             pg_restore: error: could not execute query: ERROR:  function \"f\" already exists\n\
             Command was: {sql}\n\n\
             pg_restore: warning: errors ignored on restore: 1\n"
        );
        let Complaints { failures, counted } = Complaints::read(&stderr, &toc);
        assert_eq!((failures.len(), counted), (1, Some(1)));
        assert_eq!(failures[0].statement, sql.trim_end());
        assert_eq!(failures[0].entry, "FUNCTION app.f()");
    }

    #[test]
    fn only_the_session_may_lack_transaction_timeout() {
        let inside = failure("FUNCTION app.f()", "ERROR:  unrecognized", "SET transaction_timeout = 0;");
        assert_eq!(judge(&inside, RestoreRun::First), Verdict::Fatal);
    }

    #[test]
    fn a_missing_role_costs_owner_and_grants_but_not_a_policy() {
        let missing = "FEHLER:  Rolle »x« existiert nicht";
        let verdict = |entry, statement| judge(&failure(entry, missing, statement), RestoreRun::First);
        let warning = |kind| Verdict::Warning(kind);
        assert_eq!(verdict("TABLE a.b", "ALTER TABLE a.b OWNER TO x;"), warning(RestoreWarningKind::Owner));
        assert_eq!(verdict("ACL a.TABLE b", "GRANT SELECT …"), warning(RestoreWarningKind::Privileges));
        assert_eq!(verdict("POLICY a.b p", "CREATE POLICY p ON a.b TO x;"), Verdict::Fatal);
    }

    #[test]
    fn only_a_resumed_run_may_find_a_table_there() {
        let there = failure("TABLE a.b", "ERROR:  relation \"b\" already exists", "CREATE TABLE a.b ();");
        assert_eq!(judge(&there, RestoreRun::First), Verdict::Fatal);
        assert_eq!(judge(&there, RestoreRun::Resumed), Verdict::Expected);
        let misled = failure("TABLE a.b", "ERROR:  boom\nDETAIL:  already exists", "CREATE TABLE a.b ();");
        assert_eq!(judge(&misled, RestoreRun::Resumed), Verdict::Fatal);
    }

    #[test]
    fn a_broken_connection_is_never_benign() {
        for message in
            ["server closed the connection unexpectedly\n\tThis probably means", "FATAL:  terminating"]
        {
            let lost = failure("TABLE a.b", message, "ALTER TABLE a.b OWNER TO x;");
            assert_eq!(judge(&lost, RestoreRun::Resumed), Verdict::Fatal, "{message}");
        }
    }
}
