//! What a server says when it refuses, warns or informs.

use std::fmt;

use crate::error::{Error, ErrorKind};
use crate::pg::SqlState;

/// How bad it is (field `V`, never translated).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The server stops.
    Panic,
    /// The connection ends.
    Fatal,
    /// The statement failed.
    Error,
    /// WARNING, NOTICE, DEBUG, INFO, LOG.
    Notice,
}

impl Severity {
    /// Reads the field's text; what we do not know informs only.
    #[must_use]
    pub fn from_text(text: &str) -> Severity {
        match text {
            "PANIC" => Severity::Panic,
            "FATAL" => Severity::Fatal,
            "ERROR" => Severity::Error,
            _ => Severity::Notice,
        }
    }

    /// Whether the connection ends with this.
    #[must_use]
    pub const fn ends_connection(self) -> bool {
        matches!(self, Severity::Panic | Severity::Fatal)
    }
}

/// The fields of an ErrorResponse or NoticeResponse (docs: `protocol-error-fields`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    /// How bad it is.
    pub severity: Severity,
    /// As the server wrote it, perhaps translated: "ERROR", "FEHLER".
    pub severity_text: String,
    /// The code; `None` only from something that is not quite PostgreSQL.
    pub sqlstate: Option<SqlState>,
    /// What happened.
    pub message: String,
    /// More of it.
    pub detail: Option<String>,
    /// The server's advice.
    pub hint: Option<String>,
    /// Call stack of the server's code: "COPY t, line 3, column b".
    pub context: Option<String>,
    /// Schema concerned.
    pub schema: Option<String>,
    /// Table concerned.
    pub table: Option<String>,
    /// Column concerned.
    pub column: Option<String>,
    /// Constraint concerned.
    pub constraint: Option<String>,
}

impl ServerError {
    /// This refusal as the crate's error, its kind read from the SQLSTATE.
    #[must_use]
    pub fn during(self, doing: impl Into<String>) -> Error {
        let hint = self.hint.clone();
        let error = match self.sqlstate {
            Some(state) => Error::new(ErrorKind::of_sqlstate(state), doing).with_sqlstate(state),
            None => Error::new(ErrorKind::Sql, doing),
        };
        let error = error.because(self);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    /// The innermost line of the context, without the row that COPY quotes there: this goes into logs.
    fn place(&self) -> Option<&str> {
        let innermost = self.context.as_deref()?.lines().next()?;
        Some(innermost.split_once(": \"").map_or(innermost, |(place, _row)| place))
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity_text, self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        if let Some(place) = self.place() {
            write!(f, " at {place}")?;
        }
        match self.sqlstate {
            Some(state) => write!(f, " [{state}]"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ServerError {}

#[cfg(test)]
mod tests {
    use crate::wire::frame::Frame;
    use crate::wire::message::BackendMessage;

    #[test]
    fn shows_the_line_of_a_copy_but_not_its_row() {
        let body = b"SERROR\0C22P02\0Mbad\0WCOPY t, line 3, column b: \"secret\"\nmore\0\0";
        let frame = Frame { tag: b'E', body: body.as_slice().into() };
        let Ok(BackendMessage::Error(error)) = BackendMessage::parse(frame) else { panic!("not an error") };
        assert_eq!(error.to_string(), "ERROR: bad at COPY t, line 3, column b [22P02]");
    }
}
