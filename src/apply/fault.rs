//! What a fault means: another try, a replay row by row, or the end.
//!
//! Hazard: a deadlock looks like a failure and is none, a lost connection may hide a commit, and a unique
//! violation may come from our batching or from the target. Only the last try, row by row, tells whose fault
//! it is; its error names relation, key, LSN, xid and SQLSTATE. The key is the only value it quotes: it ends the run,
//! and is shown to the operator alone.

use super::change::{Step, Truncation};
use super::event::SourceTransaction;
use super::lane::{Fault, FaultCause};
use super::plan::{Action, Batch, Planned};
use super::stats::FallbackReason;
use super::table::{BoundColumn, BoundTable, RowIdentity};
use crate::error::{Error, ErrorKind};
use crate::pg::SqlState;
use crate::pgoutput::{Tuple, Value};
use crate::wire::ServerError;

/// What to do about a fault in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Another session stood in the way: the same again may succeed (P99).
    Retry,
    /// The batch may be to blame: replay it row by row.
    Replay(FallbackReason),
    /// Neither helps.
    Stop,
}

impl Fault {
    /// Judges a fault of the set-based plan.
    pub(super) fn verdict(&self) -> Verdict {
        match &self.cause {
            FaultCause::Unprepared(_) | FaultCause::Lost(_) => Verdict::Stop,
            FaultCause::Touched { .. } | FaultCause::Miscounted => Verdict::Replay(FallbackReason::Mismatch),
            FaultCause::Server(error) => verdict(error.sqlstate),
        }
    }

    /// Whether something that the server evaluates for us names what it does not find (P58).
    pub(super) fn is_unresolved(&self) -> bool {
        match &self.cause {
            FaultCause::Server(error) => error.sqlstate.is_some_and(|state| state.is_unresolved()),
            FaultCause::Unprepared(_)
            | FaultCause::Lost(_)
            | FaultCause::Touched { .. }
            | FaultCause::Miscounted => false,
        }
    }

    /// Whether the server does not know how to do this, in the form it was asked for.
    pub(super) fn is_unsupported(&self) -> bool {
        match &self.cause {
            FaultCause::Unprepared(_) => true,
            FaultCause::Server(error) => error.sqlstate.is_some_and(|state| state.class() == "0A"),
            FaultCause::Lost(_) | FaultCause::Touched { .. } | FaultCause::Miscounted => false,
        }
    }

    /// Whether the whole group may simply be tried again.
    pub(super) fn is_contention(&self) -> bool {
        self.verdict() == Verdict::Retry
    }

    /// What was refused, in the server's words without the row's values.
    pub(super) fn said(&self) -> (Option<SqlState>, String) {
        match &self.cause {
            FaultCause::Server(error) | FaultCause::Unprepared(error) => match Refusal::of(error) {
                Some(Refusal { message, state }) => (Some(state), message),
                None => (None, error.message.clone()),
            },
            FaultCause::Lost(error) => (None, error.to_string()),
            FaultCause::Touched { expected, touched } => {
                (None, Touched { expected: *expected, touched: *touched }.to_string())
            }
            FaultCause::Miscounted => (None, Miscounted.to_string()),
        }
    }

    /// The fault as an error of `doing`, of the kind that the server's answer has.
    pub(super) fn into_error(self, doing: &str) -> Error {
        match self.cause {
            FaultCause::Server(error) => error.during(doing),
            FaultCause::Lost(error) => Error::new(error.kind(), doing).because(error),
            FaultCause::Unprepared(error) => match error.during(doing) {
                error if error.kind() == ErrorKind::Sql => error.into_kind(ErrorKind::Drift).hint(
                    "The target's definitions are not what they were at the start. Run the command again.",
                ),
                error => error,
            },
            FaultCause::Touched { expected, touched } => {
                Error::new(ErrorKind::Apply, doing).because(Touched { expected, touched })
            }
            FaultCause::Miscounted => Error::new(ErrorKind::Apply, doing).because(Miscounted),
        }
    }
}

fn verdict(state: Option<SqlState>) -> Verdict {
    let Some(state) = state else { return Verdict::Stop };
    match state {
        SqlState::UNIQUE_VIOLATION => Verdict::Replay(FallbackReason::Unique),
        SqlState::EXCLUSION_VIOLATION => Verdict::Replay(FallbackReason::Exclusion),
        SqlState::DEADLOCK_DETECTED | SqlState::SERIALIZATION_FAILURE | SqlState::LOCK_NOT_AVAILABLE => {
            Verdict::Retry
        }
        // The connection, the server's resources, the operator's hand, the server's disk.
        _ if matches!(state.class(), "08" | "53" | "57" | "58") => Verdict::Stop,
        _ => Verdict::Replay(FallbackReason::Refused),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{touched} rows were touched instead of {expected}")]
struct Touched {
    expected: u64,
    touched: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another number of rows was touched than was sent")]
struct Miscounted;

/// The error of a change that cannot be applied: the last word on `step`.
pub(super) fn refused(
    fault: Fault,
    step: &Step,
    planned: &Planned,
    transactions: &[SourceTransaction],
) -> Error {
    let row = match planned {
        Planned::Rows(batch) => row(batch),
        Planned::Truncate(_) => String::new(),
    };
    let doing = format!("{}{row}{}", what(planned), whence(step, transactions));
    let hint = match &fault.cause {
        FaultCause::Touched { touched: 0, .. } => {
            "The row is not on the target: something else writes there, or it was not copied. Find who, put the row \
             back as it is on the source, and run the command again."
        }
        FaultCause::Touched { .. } | FaultCause::Miscounted => {
            "The target has several such rows. Remove those that the source does not have, give the table the \
             source's key, and run the command again."
        }
        FaultCause::Server(_) | FaultCause::Unprepared(_) | FaultCause::Lost(_) => {
            "The target refuses what the source has. Nothing of this transaction or after it was applied; mend the \
             target and run the command again. `--quarantine park` would set such a row aside."
        }
    };
    let said = match &fault.cause {
        FaultCause::Server(error) | FaultCause::Unprepared(error) => match Refusal::of(error) {
            Some(said) => said,
            None => return fault.into_error(&doing),
        },
        FaultCause::Lost(_) => return fault.into_error(&doing),
        FaultCause::Touched { .. } | FaultCause::Miscounted => {
            return fault.into_error(&doing).into_kind(ErrorKind::Apply).hint(hint);
        }
    };
    if verdict(Some(said.state)) == Verdict::Stop {
        return fault.into_error(&doing);
    }
    Error::new(ErrorKind::Apply, doing).with_sqlstate(said.state).hint(hint).because(said)
}

/// What the server says of a row, without the row: its detail quotes the values, and a message about one value
/// quotes that behind a colon.
#[derive(Debug, thiserror::Error)]
#[error("{message} [{state}]")]
struct Refusal {
    message: String,
    state: SqlState,
}

impl Refusal {
    fn of(error: &ServerError) -> Option<Refusal> {
        let state = error.sqlstate?;
        Some(Refusal { message: without_value(&error.message, state).to_owned(), state })
    }
}

fn without_value(message: &str, state: SqlState) -> &str {
    match state.class() {
        "22" => message.split_once(": \"").map_or(message, |(what, _)| what),
        _ => message,
    }
}

fn what(planned: &Planned) -> String {
    match planned {
        Planned::Rows(batch) => format!("{} {}", batch.action.verb(), batch.table.name.plain()),
        Planned::Truncate(Truncation { tables, .. }) => {
            let names: Vec<String> = tables.iter().map(|table| table.name.plain()).collect();
            format!("truncate {}", names.join(", "))
        }
    }
}

/// " (transaction 731, committed at 0/15D6A18)".
pub(super) fn whence(step: &Step, transactions: &[SourceTransaction]) -> String {
    let of = transactions.get(step.transaction() as usize);
    of.map_or(String::new(), |of| format!(" (transaction {}, committed at {})", of.xid, of.final_lsn))
}

/// ", key (id) = (5)".
fn row(batch: &Batch) -> String {
    let table = &batch.table;
    let tuple = batch.rows.first().and_then(|row| row.old.as_ref().or(row.new.as_ref()));
    match (&table.identity, &batch.action, tuple) {
        (
            RowIdentity::Key(key),
            Action::Insert | Action::Update(_) | Action::Rekey(_) | Action::Delete,
            Some(tuple),
        ) => {
            format!(", key {}", key_text(table, key, tuple))
        }
        _ => String::new(),
    }
}

fn key_text(table: &BoundTable, key: &[usize], tuple: &Tuple) -> String {
    let values: Vec<Value<'_>> = tuple.values().collect();
    let value = |at: &usize| match values.get(*at) {
        Some(Value::Text(text)) => shown(text),
        Some(Value::Binary(bytes)) => {
            table.columns.get(*at).map_or_else(|| hexadecimal(bytes), |column| readable(column, bytes))
        }
        Some(Value::Null | Value::Unchanged) | None => "NULL".to_owned(),
    };
    let names = super::statement::names(table, key);
    let values: Vec<String> = key.iter().map(value).collect();
    format!("({names}) = ({})", values.join(", "))
}

/// A binary value as people write it, for the types that keys mostly are of.
fn readable(column: &BoundColumn, bytes: &[u8]) -> String {
    let name = (column.type_name.schema.raw() == "pg_catalog").then(|| column.type_name.name.raw());
    match (name, bytes) {
        (Some("int2"), [a, b]) => i16::from_be_bytes([*a, *b]).to_string(),
        (Some("int4"), [a, b, c, d]) => i32::from_be_bytes([*a, *b, *c, *d]).to_string(),
        (Some("int8"), bytes) => <[u8; 8]>::try_from(bytes)
            .map_or_else(|_| hexadecimal(bytes), |all| i64::from_be_bytes(all).to_string()),
        (Some("text" | "varchar" | "bpchar" | "name"), text) => shown(text),
        (Some(_) | None, bytes) => hexadecimal(bytes),
    }
}

fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().take(100).collect()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().take(50).fold("\\x".to_owned(), |hex, byte| hex + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::sample::{keyed, texts};

    #[test]
    fn each_refusal_has_its_answer() {
        let of = |code: &str| verdict(SqlState::from_code(code));
        assert_eq!(of("23505"), Verdict::Replay(FallbackReason::Unique));
        assert_eq!(of("22P02"), Verdict::Replay(FallbackReason::Refused));
        assert_eq!(of("40P01"), Verdict::Retry);
        assert_eq!(of("53100"), Verdict::Stop);
        assert_eq!(verdict(None), Verdict::Stop);
    }

    #[test]
    fn what_the_server_says_comes_without_the_value() {
        let of = |message: &'static str, code| without_value(message, SqlState::from_code(code).unwrap());
        assert_eq!(
            of(r#"invalid input value for enum mood: "secret""#, "22P02"),
            "invalid input value for enum mood"
        );
        let check = r#"new row for relation "t" violates check constraint "c""#;
        assert_eq!(of(check, "23514"), check);
    }

    #[test]
    fn the_key_is_named_with_its_values() {
        let text = key_text(&keyed(), &[0, 1], &texts(&[Some("5"), Some("∅"), Some("x")]));
        assert_eq!(text, r#"("id", "a") = (5, NULL)"#);
        let table = keyed();
        assert_eq!(readable(&table.columns[0], &[0xFF, 0xFF, 0xFF, 0xFE]), "-2");
        assert_eq!(readable(&table.columns[0], &[1]), "\\x01");
        assert_eq!(readable(&table.columns[1], "ä".as_bytes()), "ä");
    }
}
