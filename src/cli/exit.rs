//! How a run ends: the exit status, and the one error that is shown.
//!
//! Hazard: an error quotes servers, and a server's text may hold line breaks and escape sequences. The first
//! line is always ours and whole; what follows is indented.

use std::error::Error as _;
use std::io::Write as _;
use std::process::ExitCode;

use serde::Serialize;

use super::result::Status;
use crate::error::{Error, ErrorKind, describe};
use crate::migrate::Output;
use crate::telemetry::text;

/// The exit status. Scripts depend on the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done, or interrupted after a clean drain.
    Done,
    /// 1: failed; the message says why, and running again is safe.
    Failed,
    /// 2: bad usage or configuration.
    Usage,
    /// 3: a check blocks the migration.
    Blocked,
    /// 4: verification found differences.
    Different,
}

impl Exit {
    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Blocked => 3,
            Exit::Different => 4,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

impl From<&Error> for Exit {
    fn from(error: &Error) -> Exit {
        match error.kind() {
            ErrorKind::Usage => Exit::Usage,
            ErrorKind::Check => Exit::Blocked,
            ErrorKind::Verify => Exit::Different,
            ErrorKind::Connect
            | ErrorKind::Auth
            | ErrorKind::Sql
            | ErrorKind::Protocol
            | ErrorKind::Slot
            | ErrorKind::Snapshot
            | ErrorKind::Tool
            | ErrorKind::Schema
            | ErrorKind::Copy
            | ErrorKind::Apply
            | ErrorKind::Drift
            | ErrorKind::State
            | ErrorKind::Local
            | ErrorKind::Cancelled
            | ErrorKind::Aborted
            | ErrorKind::Bug => Exit::Failed,
        }
    }
}

impl From<Status> for Exit {
    fn from(status: Status) -> Exit {
        match status {
            Status::Done | Status::Running => Exit::Done,
            // What follows in a script, a cutover say, must not run on half a database.
            Status::Failed | Status::Cancelled => Exit::Failed,
        }
    }
}

/// An error as `--json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Its kind, as in the metric `pgstream_errors_total`.
    pub kind: &'static str,
    /// What we were doing and every cause.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// The server's code.
    pub sqlstate: Option<String>,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Failure {
        Failure {
            kind: error.kind().label(),
            message: describe(error),
            hint: advice(error).map(str::to_owned),
            sqlstate: error.sqlstate().map(|state| state.to_string()),
        }
    }
}

/// Shows the error that ends the run, on stderr, and with `--json` also as the document on stdout, where
/// otherwise a result would stand. Returns how to exit.
pub fn fail(error: &Error, output: Output) -> Exit {
    complain(error);
    if output == Output::Json {
        let document = serde_json::json!({ "status": "failed", "error": Failure::from(error) });
        // When the reader is gone, the exit status still speaks.
        let _ = writeln!(std::io::stdout().lock(), "{document}");
    }
    Exit::from(error)
}

/// Shows the error to people.
pub(super) fn complain(error: &Error) {
    // When the screen is gone, the exit status still speaks.
    let _ = std::io::stderr().lock().write_all(lines(error).as_bytes());
}

/// Shows the error that ended one database of several.
pub(super) fn complain_of(database: &str, error: &Error) {
    let shown = lines(error);
    let told = shown.strip_prefix("pgstream: ").unwrap_or(&shown);
    let line = format!("pgstream: {}: {told}", text::printable(database));
    // As above.
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

/// `pgstream: doing: cause` and `hint: …`, the hint in as many lines as it has.
fn lines(error: &Error) -> String {
    let message = describe(error);
    let mut lines = format!("pgstream: {}\n", text::printable(&message));
    if let Some(hint) = advice(error) {
        lines += &format!("hint: {}\n", text::printable_lines(hint, "      "));
    }
    lines
}

/// The advice nearest to the surface: of the error, else of the first cause of ours that has some.
fn advice(error: &Error) -> Option<&str> {
    error.advice().or_else(|| advice(error.source()?.downcast_ref::<Error>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::SqlState;

    fn refused() -> Error {
        let cause = Error::new(ErrorKind::Sql, "create slot x")
            .hint("Raise max_replication_slots.")
            .with_sqlstate(SqlState::CONFIGURATION_LIMIT_EXCEEDED);
        Error::new(ErrorKind::Slot, "prepare the stream\u{1b}[2J").because(cause)
    }

    #[test]
    fn statuses_are_the_promised_numbers() {
        let code = |kind| Exit::from(&Error::new(kind, "x")).code();
        for kind in ErrorKind::ALL {
            let expected = match kind {
                ErrorKind::Usage => 2,
                ErrorKind::Check => 3,
                ErrorKind::Verify => 4,
                _ => 1,
            };
            assert_eq!(code(kind), expected, "{kind:?}");
        }
        let ends = [Status::Done, Status::Running, Status::Failed, Status::Cancelled];
        assert_eq!(ends.map(|status| Exit::from(status).code()), [0, 0, 1, 1]);
    }

    #[test]
    fn one_error_is_one_line_and_its_advice() {
        assert_eq!(
            lines(&refused()),
            "pgstream: prepare the stream [2J: create slot x\nhint: Raise max_replication_slots.\n"
        );
        assert_eq!(lines(&Error::new(ErrorKind::Bug, "x")), "pgstream: x\n");
    }

    #[test]
    fn a_long_hint_keeps_its_lines_and_loses_its_teeth() {
        let error = Error::new(ErrorKind::Check, "x").hint("Mend:\n  a: b\u{1b}[2J\npgstream: all is well\n");
        assert_eq!(
            lines(&error),
            "pgstream: x\nhint: Mend:\n        a: b [2J\n      pgstream: all is well\n"
        );
    }

    #[test]
    fn a_failure_keeps_the_servers_code() {
        let failure = Failure::from(&refused());
        assert_eq!(failure.sqlstate.as_deref(), Some("53400"));
        assert_eq!((failure.kind, failure.hint.as_deref()), ("slot", Some("Raise max_replication_slots.")));
    }
}
