//! The messages a server sends us, read from their frames.
//!
//! Hazard: every byte here is the peer's. Reading is total: a body that ends early or holds a count that
//! does not fit is a [`MessageError`] that names the message, the field and the offset.
//!
//! `postgres-protocol` reads most of these too, but knows neither CopyBothResponse nor keys longer than
//! four bytes (18+), and it takes an unknown type for the end of the world. It stays the writer of ours.
//! (docs: `protocol-message-formats`)

use std::sync::Arc;

use bytes::Bytes;

use crate::pg::SqlState;
use crate::wire::body::{MessageError, Reader};
use crate::wire::frame::Frame;
use crate::wire::server_error::{ServerError, Severity};

/// One message of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendMessage {
    /// A step of the login.
    Authentication(Authentication),
    /// A setting the server reports: `server_version`, `client_encoding`.
    ParameterStatus {
        /// Its name.
        name: String,
        /// Its value now.
        value: String,
    },
    /// What a cancel request must show.
    BackendKeyData(BackendKey),
    /// The server speaks no newer minor protocol than this, and does not know these options.
    NegotiateProtocolVersion {
        /// Newest minor version of protocol 3.
        minor: i32,
    },
    /// The answer is complete; send the next query.
    ReadyForQuery(TransactionStatus),
    /// Names of the columns that follow.
    RowDescription(Arc<[String]>),
    /// One row.
    DataRow(Vec<Option<Bytes>>),
    /// A statement is done: "COPY 5".
    CommandComplete(CommandTag),
    /// The statement was empty.
    EmptyQuery,
    /// A statement is read and kept.
    ParseComplete,
    /// Its parameters are read.
    BindComplete,
    /// A statement is forgotten.
    CloseComplete,
    /// A refusal.
    Error(Box<ServerError>),
    /// Information.
    Notice(Box<ServerError>),
    /// `LISTEN` traffic; nobody here listens.
    Notification,
    /// The server awaits our CopyData.
    CopyIn(CopyShape),
    /// The server will send CopyData.
    CopyOut(CopyShape),
    /// Both at once: replication.
    CopyBoth(CopyShape),
    /// A piece of copied data.
    CopyData(Bytes),
    /// No more of it.
    CopyDone,
}

/// A step of the login (docs: `protocol-flow`, Start-up).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// We are in.
    Ok,
    /// Send the password as it is.
    CleartextPassword,
    /// Send it hashed with this salt.
    Md5Password {
        /// Four random bytes.
        salt: [u8; 4],
    },
    /// Begin SASL by one of these mechanisms.
    Sasl {
        /// Names, best first.
        mechanisms: Vec<String>,
    },
    /// The server's challenge.
    SaslContinue(Bytes),
    /// The server's proof.
    SaslFinal(Bytes),
    /// A method that we do not speak.
    Unsupported {
        /// Its name, for the operator.
        method: &'static str,
    },
}

/// What tells a server's process to a cancel request.
#[derive(Clone, PartialEq, Eq)]
pub struct BackendKey {
    /// The server's process.
    pub pid: i32,
    /// Its secret: four bytes, up to 256 with protocol 3.2 (18+).
    pub secret: Bytes,
}

impl std::fmt::Debug for BackendKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BackendKey(pid {}, …)", self.pid)
    }
}

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    /// Outside a transaction block.
    Idle,
    /// In one.
    InTransaction,
    /// In one that failed: only its end is accepted.
    Failed,
}

/// The tag of a completed statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandTag(String);

impl CommandTag {
    /// Rows the statement touched: the number that ends the tag; zero for tags without one.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.0.rsplit(' ').next().and_then(|last| last.parse().ok()).unwrap_or(0)
    }

    /// The whole of it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// How the data of a COPY is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyShape {
    /// Text (and CSV) or binary.
    pub format: CopyFormat,
    /// Number of columns.
    pub columns: u16,
}

/// The overall format of a COPY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyFormat {
    /// Text, CSV included; also what replication announces.
    Text,
    /// Binary.
    Binary,
}

impl BackendMessage {
    /// Reads one frame. Text is taken leniently: before `client_encoding` is settled it may be anything.
    ///
    /// # Errors
    /// A body that does not fit its type, or a type that is not known.
    pub fn parse(frame: Frame) -> Result<BackendMessage, MessageError> {
        let Frame { tag, body } = frame;
        let read = |message| Reader::new(message, body.clone());
        Ok(match tag {
            b'R' => BackendMessage::Authentication(authentication(read("Authentication"))?),
            b'S' => {
                let mut reader = read("ParameterStatus");
                BackendMessage::ParameterStatus { name: reader.text("name")?, value: reader.text("value")? }
            }
            b'K' => {
                let mut reader = read("BackendKeyData");
                let pid = reader.i32("pid")?;
                BackendMessage::BackendKeyData(BackendKey { pid, secret: reader.into_rest() })
            }
            b'v' => BackendMessage::NegotiateProtocolVersion {
                minor: read("NegotiateProtocolVersion").i32("minor version")? & 0xFFFF,
            },
            b'Z' => BackendMessage::ReadyForQuery(transaction_status(read("ReadyForQuery"))?),
            b'T' => BackendMessage::RowDescription(columns(read("RowDescription"))?),
            b'D' => BackendMessage::DataRow(values(read("DataRow"))?),
            b'C' => BackendMessage::CommandComplete(CommandTag(read("CommandComplete").text("tag")?)),
            b'I' => BackendMessage::EmptyQuery,
            b'1' => BackendMessage::ParseComplete,
            b'2' => BackendMessage::BindComplete,
            b'3' => BackendMessage::CloseComplete,
            b'E' => BackendMessage::Error(Box::new(fields(read("ErrorResponse"))?)),
            b'N' => BackendMessage::Notice(Box::new(fields(read("NoticeResponse"))?)),
            b'A' => BackendMessage::Notification,
            b'G' => BackendMessage::CopyIn(copy_shape(read("CopyInResponse"))?),
            b'H' => BackendMessage::CopyOut(copy_shape(read("CopyOutResponse"))?),
            b'W' => BackendMessage::CopyBoth(copy_shape(read("CopyBothResponse"))?),
            b'd' => BackendMessage::CopyData(body),
            b'c' => BackendMessage::CopyDone,
            _ => return Err(MessageError::UnknownType { tag }),
        })
    }

    /// The message's name, for errors.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            BackendMessage::Authentication(_) => "Authentication",
            BackendMessage::ParameterStatus { .. } => "ParameterStatus",
            BackendMessage::BackendKeyData(_) => "BackendKeyData",
            BackendMessage::NegotiateProtocolVersion { .. } => "NegotiateProtocolVersion",
            BackendMessage::ReadyForQuery(_) => "ReadyForQuery",
            BackendMessage::RowDescription(_) => "RowDescription",
            BackendMessage::DataRow(_) => "DataRow",
            BackendMessage::CommandComplete(_) => "CommandComplete",
            BackendMessage::EmptyQuery => "EmptyQueryResponse",
            BackendMessage::ParseComplete => "ParseComplete",
            BackendMessage::BindComplete => "BindComplete",
            BackendMessage::CloseComplete => "CloseComplete",
            BackendMessage::Error(_) => "ErrorResponse",
            BackendMessage::Notice(_) => "NoticeResponse",
            BackendMessage::Notification => "NotificationResponse",
            BackendMessage::CopyIn(_) => "CopyInResponse",
            BackendMessage::CopyOut(_) => "CopyOutResponse",
            BackendMessage::CopyBoth(_) => "CopyBothResponse",
            BackendMessage::CopyData(_) => "CopyData",
            BackendMessage::CopyDone => "CopyDone",
        }
    }
}

fn authentication(mut reader: Reader) -> Result<Authentication, MessageError> {
    let unsupported = |method| Authentication::Unsupported { method };
    Ok(match reader.i32("method")? {
        0 => Authentication::Ok,
        2 => unsupported("Kerberos V5"),
        3 => Authentication::CleartextPassword,
        5 => Authentication::Md5Password { salt: reader.array("salt")? },
        6 => unsupported("SCM credentials"),
        7 | 8 => unsupported("GSSAPI"),
        9 => unsupported("SSPI"),
        10 => {
            let mut mechanisms = Vec::new();
            while !reader.is_at_end_of_list() {
                mechanisms.push(reader.text("mechanism")?);
            }
            Authentication::Sasl { mechanisms }
        }
        11 => Authentication::SaslContinue(reader.into_rest()),
        12 => Authentication::SaslFinal(reader.into_rest()),
        _ => unsupported("a method newer than this program"),
    })
}

fn transaction_status(mut reader: Reader) -> Result<TransactionStatus, MessageError> {
    match reader.u8("status")? {
        b'I' => Ok(TransactionStatus::Idle),
        b'T' => Ok(TransactionStatus::InTransaction),
        b'E' => Ok(TransactionStatus::Failed),
        _ => Err(reader.impossible("status")),
    }
}

fn columns(mut reader: Reader) -> Result<Arc<[String]>, MessageError> {
    let count = reader.u16("count")?;
    (0..count)
        .map(|_| {
            let name = reader.text("column name")?;
            // Table OID, attribute number, type OID, type length, type modifier, format.
            reader.take(4 + 2 + 4 + 2 + 4 + 2, "column type")?;
            Ok(name)
        })
        .collect()
}

fn values(mut reader: Reader) -> Result<Vec<Option<Bytes>>, MessageError> {
    let count = reader.u16("count")?;
    let value = |_| match reader.i32("value length")? {
        -1 => Ok(None),
        length => match usize::try_from(length) {
            Ok(length) => reader.take(length, "value").map(Some),
            Err(_) => Err(reader.impossible("value length")),
        },
    };
    (0..count).map(value).collect()
}

fn copy_shape(mut reader: Reader) -> Result<CopyShape, MessageError> {
    let format = match reader.u8("format")? {
        0 => CopyFormat::Text,
        1 => CopyFormat::Binary,
        _ => return Err(reader.impossible("format")),
    };
    Ok(CopyShape { format, columns: reader.u16("column count")? })
}

fn fields(mut reader: Reader) -> Result<ServerError, MessageError> {
    let mut error = ServerError {
        severity: Severity::Notice,
        severity_text: String::new(),
        sqlstate: None,
        message: String::new(),
        detail: None,
        hint: None,
        context: None,
        schema: None,
        table: None,
        column: None,
        constraint: None,
    };
    loop {
        let kind = reader.u8("field type")?;
        if kind == 0 {
            return Ok(error);
        }
        let text = reader.text("field")?;
        match kind {
            b'S' if error.severity_text.is_empty() => {
                error.severity = Severity::from_text(&text);
                error.severity_text = text;
            }
            b'V' => error.severity = Severity::from_text(&text),
            b'C' => error.sqlstate = SqlState::from_code(&text),
            b'M' => error.message = text,
            b'D' => error.detail = Some(text),
            b'H' => error.hint = Some(text),
            b'W' => error.context = Some(text),
            b's' => error.schema = Some(text),
            b't' => error.table = Some(text),
            b'c' => error.column = Some(text),
            b'n' => error.constraint = Some(text),
            // Positions, source file and line, and fields that are not invented yet.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(tag: u8, body: &'static [u8]) -> Result<BackendMessage, MessageError> {
        BackendMessage::parse(Frame { tag, body: Bytes::from_static(body) })
    }

    #[test]
    fn reads_the_fields_of_an_error() {
        let body = b"SFEHLER\0VERROR\0C23505\0Mdoppelt\0DKey (a)=(1)\0tt1\0nt1_pkey\0L42\0\0";
        let Ok(BackendMessage::Error(error)) = parse(b'E', body) else { panic!("not an error") };
        assert_eq!(error.severity, Severity::Error);
        assert_eq!(error.sqlstate, Some(SqlState::UNIQUE_VIOLATION));
        assert_eq!(error.constraint.as_deref(), Some("t1_pkey"));
        assert_eq!(error.to_string(), "FEHLER: doppelt (Key (a)=(1)) [23505]");
    }

    #[test]
    fn reads_a_row_with_a_null() {
        let row = parse(b'D', b"\0\x02\0\0\0\x01x\xff\xff\xff\xff").unwrap();
        assert_eq!(row, BackendMessage::DataRow(vec![Some(Bytes::from_static(b"x")), None]));
    }

    #[test]
    fn names_the_field_a_message_ends_in() {
        let error = parse(b'D', b"\0\x01\0\0\0\x05abc").unwrap_err();
        assert_eq!(error, MessageError::Truncated { message: "DataRow", field: "value", offset: 6 });
    }

    #[test]
    fn reads_a_key_of_any_length() {
        let long = parse(b'K', b"\0\0\0\x07abcdefghijklmnopqrstuvwxyz").unwrap();
        let secret = Bytes::from_static(b"abcdefghijklmnopqrstuvwxyz");
        assert_eq!(long, BackendMessage::BackendKeyData(BackendKey { pid: 7, secret }));
    }

    #[test]
    fn counts_rows_by_the_tags_last_word() {
        for (tag, rows) in [("COPY 5", 5), ("INSERT 0 12", 12), ("BEGIN", 0), ("CREATE TABLE", 0)] {
            assert_eq!(CommandTag(tag.to_owned()).rows(), rows, "{tag}");
        }
    }

    #[test]
    fn lists_sasl_mechanisms() {
        let sasl = parse(b'R', b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0").unwrap();
        let mechanisms = ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"].map(str::to_owned).to_vec();
        assert_eq!(sasl, BackendMessage::Authentication(Authentication::Sasl { mechanisms }));
    }

    proptest! {
        #[test]
        fn never_panics(tag: u8, body in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = BackendMessage::parse(Frame { tag, body: body.into() });
        }
    }
}
