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
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity_text, self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        if let Some(context) = self.context.as_deref().and_then(|stack| stack.lines().next()) {
            write!(f, " at {context}")?;
        }
        match self.sqlstate {
            Some(state) => write!(f, " [{state}]"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ServerError {}
