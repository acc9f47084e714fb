//! The one error of everything that does I/O.
//!
//! Hazard: at 3 a.m. the reader has one line. So an error says what we were doing, what the operator can
//! do, and keeps its cause as a cause; its kind decides whether we try again, ask, or admit a bug.

use std::fmt;

use crate::pg::SqlState;

/// Shorthand for this crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by the part of the work that met it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The command line, an option or a connection string makes no sense.
    Usage,
    /// A server could not be reached, or the connection broke.
    Connect,
    /// The server refused the login.
    Auth,
    /// A pre-check blocks the migration.
    Check,
    /// A server refused a statement of ours.
    Sql,
    /// Bytes that break the protocol.
    Protocol,
    /// A replication slot is missing, lost or in use.
    Slot,
    /// The exported snapshot is gone.
    Snapshot,
    /// `pg_dump`, `pg_restore`: not found, too old, or failed.
    Tool,
    /// A definition could not be restored.
    Schema,
    /// Rows could not be copied.
    Copy,
    /// A change could not be applied, or touched another number of rows than it should.
    Apply,
    /// The two ends have drifted apart in shape: a column, a table, a type.
    Drift,
    /// The durable state on the target does not fit what we found.
    State,
    /// The two ends differ in content.
    Verify,
    /// The local machine: files, processes, threads.
    Local,
    /// The operator asked us to stop.
    Cancelled,
    /// Another task ended first; its error is the one to show.
    Aborted,
    /// A broken invariant of ours.
    Bug,
}

/// Who can do something about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// We can: the same work on a new connection may succeed.
    Retry,
    /// A person must change something first.
    Operator,
    /// Only we, in the code.
    Bug,
}

impl ErrorKind {
    /// Every kind, so that each can be counted from zero.
    pub const ALL: [ErrorKind; 19] = [
        ErrorKind::Usage,
        ErrorKind::Connect,
        ErrorKind::Auth,
        ErrorKind::Check,
        ErrorKind::Sql,
        ErrorKind::Protocol,
        ErrorKind::Slot,
        ErrorKind::Snapshot,
        ErrorKind::Tool,
        ErrorKind::Schema,
        ErrorKind::Copy,
        ErrorKind::Apply,
        ErrorKind::Drift,
        ErrorKind::State,
        ErrorKind::Verify,
        ErrorKind::Local,
        ErrorKind::Cancelled,
        ErrorKind::Aborted,
        ErrorKind::Bug,
    ];

    /// Who can mend errors of this kind.
    #[must_use]
    pub const fn recovery(self) -> Recovery {
        match self {
            ErrorKind::Connect | ErrorKind::Snapshot => Recovery::Retry,
            ErrorKind::Usage
            | ErrorKind::Auth
            | ErrorKind::Check
            | ErrorKind::Sql
            | ErrorKind::Slot
            | ErrorKind::Tool
            | ErrorKind::Schema
            | ErrorKind::Copy
            | ErrorKind::Apply
            | ErrorKind::Drift
            | ErrorKind::State
            | ErrorKind::Verify
            | ErrorKind::Local
            | ErrorKind::Cancelled
            | ErrorKind::Aborted => Recovery::Operator,
            ErrorKind::Protocol | ErrorKind::Bug => Recovery::Bug,
        }
    }

    /// What a server's refusal means: a login problem, a passing trouble, or a statement it will not run.
    #[must_use]
    pub fn of_sqlstate(state: SqlState) -> ErrorKind {
        match state {
            state if state.class() == "28" => ErrorKind::Auth,
            state if state.is_transient() => ErrorKind::Connect,
            _ => ErrorKind::Sql,
        }
    }

    /// The kind as a metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            ErrorKind::Usage => "usage",
            ErrorKind::Connect => "connect",
            ErrorKind::Auth => "auth",
            ErrorKind::Check => "check",
            ErrorKind::Sql => "sql",
            ErrorKind::Protocol => "protocol",
            ErrorKind::Slot => "slot",
            ErrorKind::Snapshot => "snapshot",
            ErrorKind::Tool => "tool",
            ErrorKind::Schema => "schema",
            ErrorKind::Copy => "copy",
            ErrorKind::Apply => "apply",
            ErrorKind::Drift => "drift",
            ErrorKind::State => "state",
            ErrorKind::Verify => "verify",
            ErrorKind::Local => "local",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::Aborted => "aborted",
            ErrorKind::Bug => "bug",
        }
    }
}

/// One of the two servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The server that rows come from.
    Source,
    /// The server that rows go to.
    Target,
}

impl Side {
    /// Both.
    pub const ALL: &'static [Side] = &[Side::Source, Side::Target];

    /// The word for it, for messages and as a metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Side::Source => "source",
            Side::Target => "target",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// An error: its kind, what we were doing, what to do about it, and why.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    doing: String,
    hint: Option<String>,
    sqlstate: Option<SqlState>,
    side: Option<Side>,
    source: Option<Cause>,
}

impl Error {
    /// `doing` is a verb phrase: "resume slot x at 0/1".
    #[must_use]
    pub fn new(kind: ErrorKind, doing: impl Into<String>) -> Error {
        Error { kind, doing: doing.into(), hint: None, sqlstate: None, side: None, source: None }
    }

    /// Adds a whole sentence of advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Cause>) -> Error {
        self.source = Some(source.into());
        self
    }

    /// Adds the SQLSTATE that the server gave.
    #[must_use]
    pub fn with_sqlstate(mut self, sqlstate: SqlState) -> Error {
        self.sqlstate = Some(sqlstate);
        self
    }

    /// Says which server it came from; what was said nearer to the cause stays.
    #[must_use]
    pub fn on(mut self, side: Side) -> Error {
        self.side = self.side().or(Some(side));
        self
    }

    /// Wraps what tokio-postgres reports: the server's refusal, or a broken connection.
    #[must_use]
    pub fn from_postgres(doing: impl Into<String>, error: tokio_postgres::Error) -> Error {
        let sqlstate = error.code().and_then(|code| SqlState::from_code(code.code()));
        let kind = sqlstate.map_or(ErrorKind::Connect, ErrorKind::of_sqlstate);
        Error { sqlstate, ..Error::new(kind, doing).because(error) }
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Who can mend it.
    #[must_use]
    pub fn recovery(&self) -> Recovery {
        self.kind.recovery()
    }

    /// The kind of an error that wraps this one: `kind`, unless what happened passes by itself. A server
    /// that goes away in the middle of a command is no refusal of the command.
    #[must_use]
    pub fn kind_or(&self, kind: ErrorKind) -> ErrorKind {
        match self.recovery() {
            Recovery::Retry => self.kind,
            Recovery::Operator | Recovery::Bug => kind,
        }
    }

    /// What we were doing.
    #[must_use]
    pub fn doing(&self) -> &str {
        &self.doing
    }

    /// What the operator can do.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The server's SQLSTATE, here or in a cause of our own type.
    #[must_use]
    pub fn sqlstate(&self) -> Option<SqlState> {
        self.sqlstate.or_else(|| self.source.as_ref()?.downcast_ref::<Error>()?.sqlstate())
    }

    /// The server it came from, where that was said, here or in a cause of our own type.
    #[must_use]
    pub fn side(&self) -> Option<Side> {
        self.side.or_else(|| self.source.as_ref()?.downcast_ref::<Error>()?.side())
    }

    /// The same error with another kind: the caller knows better what it means.
    #[must_use]
    pub fn into_kind(mut self, kind: ErrorKind) -> Error {
        self.kind = kind;
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|cause| cause as _)
    }
}

/// An error with every cause on one line, for people: `doing: cause: cause`.
///
/// tokio-postgres hides the server's message behind "db error"; its text is put in place of that.
#[must_use]
pub fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        let text = match cause.downcast_ref::<tokio_postgres::error::DbError>() {
            Some(server) => {
                let detail = server.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
                format!("{}: {}{detail} [{}]", server.severity(), server.message(), server.code().code())
            }
            None => cause.to_string(),
        };
        next = cause.source();
        // A wrapper that repeats its cause, or says only that there is one, adds nothing.
        let empty = next.is_some() && (text == "db error" || text.is_empty());
        if !empty && parts.last().is_none_or(|last| !last.ends_with(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn describes_every_cause_once() {
        let inner = Error::new(ErrorKind::Sql, "create slot x");
        let outer = Error::new(ErrorKind::Slot, "prepare the stream").because(inner);
        assert_eq!(describe(&outer), "prepare the stream: create slot x");
    }

    #[test]
    fn the_side_nearest_to_the_cause_counts() {
        let inner = Error::new(ErrorKind::Connect, "read the stream").on(Side::Source);
        let outer = Error::new(ErrorKind::Connect, "follow").because(inner).on(Side::Target);
        assert_eq!(outer.side(), Some(Side::Source));
        assert_eq!(Error::new(ErrorKind::Connect, "follow").side(), None);
    }

    #[test]
    fn sqlstate_shows_through_a_wrapper() {
        let inner = Error::new(ErrorKind::Sql, "x").with_sqlstate(SqlState::DISK_FULL);
        let outer = Error::new(ErrorKind::Copy, "y").because(inner);
        assert_eq!(outer.sqlstate(), Some(SqlState::DISK_FULL));
    }
}
