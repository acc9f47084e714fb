//! Our own connection: the simple query protocol, replication commands, and the COPY modes.
//!
//! Hazard: a future may be dropped at any `.await`. All bytes, in both directions, and the state of the
//! conversation live in [`Connection`], so a dropped read loses nothing and a half-sent message is finished
//! by the next call. What cannot be finished (a COPY left in the middle) makes the connection refuse
//! further use, rather than let an answer be taken for another question's.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Conninfo, ServerVersion};
use crate::wire::cancel::CancelToken;
use crate::wire::connect;
use crate::wire::frame::{Frame, FrameBuffer};
use crate::wire::message::{BackendKey, BackendMessage, CommandTag, TransactionStatus};
use crate::wire::pins::Mode;
use crate::wire::row::Row;
use crate::wire::server_error::ServerError;
use crate::wire::socket::{Route, Socket};

/// More than this in one answer of [`Connection::query`] is a mistake of ours: COPY is for rows.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What a connection is for, and what it sets beyond the pins.
#[derive(Debug, Clone, Default)]
pub struct ConnectionSettings {
    /// Shown in `pg_stat_activity` after `pgstream `: "stream", "copy 3".
    pub role: &'static str,
    /// SQL, or a walsender.
    pub mode: Mode,
    /// Further settings; each replaces the pin of its name.
    pub extra: Vec<(&'static str, String)>,
}

impl ConnectionSettings {
    /// An SQL connection for that role.
    #[must_use]
    pub fn sql(role: &'static str) -> ConnectionSettings {
        ConnectionSettings { role, mode: Mode::Sql, extra: Vec::new() }
    }

    /// A walsender for that role.
    #[must_use]
    pub fn replication(role: &'static str) -> ConnectionSettings {
        ConnectionSettings { role, mode: Mode::Replication, extra: Vec::new() }
    }

    /// Adds a setting.
    #[must_use]
    pub fn set(mut self, name: &'static str, value: impl Into<String>) -> ConnectionSettings {
        self.extra.push((name, value.into()));
        self
    }
}

/// Where the conversation stands.
///
/// ```text
/// Idle ──query──▶ Answering ──ReadyForQuery──▶ Idle
///                     │ Copy*Response
///                     ▼
///                 Copying ──ReadyForQuery──▶ Idle        (dropped in here: refused for good)
///   Idle ──pipeline──▶ Pipelining ──ReadyForQuery──▶ Idle   (dropped in here: the same)
///   any ──closed, FATAL, bytes that make no sense──▶ Broken
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Idle,
    Answering,
    Copying,
    Pipelining,
    Broken,
}

/// One connection, logged in and pinned.
pub struct Connection {
    pub(super) socket: Socket,
    pub(super) input: FrameBuffer,
    pub(super) output: BytesMut,
    pub(super) phase: Phase,
    pub(super) status: TransactionStatus,
    pub(super) parameters: HashMap<String, String>,
    pub(super) backend: BackendKey,
    pub(super) version: ServerVersion,
    pub(super) route: Arc<Route>,
    /// `host:port`, for errors.
    pub(super) peer: String,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({}, pid {}, {:?})", self.peer, self.backend.pid, self.phase)
    }
}

/// All that came back for one query.
#[derive(Debug, Default)]
struct Answer {
    rows: Vec<Row>,
    tag: Option<CommandTag>,
}

impl Connection {
    /// Connects to the first of the hosts that will do, logs in, and pins the settings that change bytes or
    /// end long work (P59, P90).
    ///
    /// # Errors
    /// `Connect` if no server could be reached, `Auth` if one refused the login or could not be trusted,
    /// `Usage` for a connection string that contradicts itself.
    pub async fn connect(conninfo: &Conninfo, settings: &ConnectionSettings) -> Result<Connection> {
        connect::connect(conninfo, settings).await
    }

    /// Runs a query, or several in one string, and gives the rows of all of them.
    ///
    /// For catalogs and replication commands: more than 64 MiB of rows are refused.
    ///
    /// # Errors
    /// The server's refusal by its SQLSTATE; `Connect` if the connection broke.
    /// # Cancel safety
    /// Safe; the server goes on with the query, and the next call waits for it to end.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>> {
        Ok(self.ask(sql).await?.rows)
    }

    /// Runs a statement, or several in one string, and gives the row count of the last one.
    ///
    /// # Errors
    /// As [`Connection::query`].
    /// # Cancel safety
    /// As [`Connection::query`].
    pub async fn execute(&mut self, sql: &str) -> Result<u64> {
        Ok(self.ask(sql).await?.tag.map_or(0, |tag| tag.rows()))
    }

    async fn ask(&mut self, sql: &str) -> Result<Answer> {
        self.send_query(sql).await?;
        let mut answer = Answer::default();
        let mut columns: Arc<[String]> = Arc::new([]);
        let mut refusal: Option<ServerError> = None;
        let mut answer_bytes = 0;
        loop {
            match self.receive().await? {
                BackendMessage::RowDescription(names) => columns = names,
                BackendMessage::DataRow(values) => {
                    answer_bytes += values.iter().flatten().map(Bytes::len).sum::<usize>();
                    if answer_bytes > ANSWER_BYTES_MAX {
                        self.phase = Phase::Broken;
                        return Err(Error::new(ErrorKind::Bug, self.doing(sql))
                            .because("the answer is too large to be held"));
                    }
                    answer.rows.push(Row::new(Arc::clone(&columns), values));
                }
                BackendMessage::CommandComplete(tag) => answer.tag = Some(tag),
                BackendMessage::EmptyQuery => {}
                BackendMessage::Error(error) if error.severity.ends_connection() => {
                    return Err(error.during(self.doing(sql)));
                }
                BackendMessage::Error(error) => refusal = refusal.or(Some(*error)),
                BackendMessage::ReadyForQuery(_) => break,
                other => return Err(self.unexpected(&other, &self.doing(sql))),
            }
        }
        match refusal {
            Some(error) => Err(error.during(self.doing(sql))),
            None => Ok(answer),
        }
    }

    /// The server's version.
    #[must_use]
    pub fn version(&self) -> ServerVersion {
        self.version
    }

    /// A setting that the server reports by itself: `server_encoding`, `in_hot_standby` (14+).
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Where the session stood when the last answer was complete.
    #[must_use]
    pub fn transaction_status(&self) -> TransactionStatus {
        self.status
    }

    /// The server's process.
    #[must_use]
    pub fn backend_pid(&self) -> i32 {
        self.backend.pid
    }

    /// Whether the connection can take a query.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        matches!(self.phase, Phase::Idle | Phase::Answering)
    }

    /// What interrupts this connection's query from elsewhere.
    #[must_use]
    pub fn cancel_token(&self) -> CancelToken {
        CancelToken::new(Arc::clone(&self.route), self.backend.clone(), self.peer.clone())
    }

    /// Says goodbye, so that the server's log does not speak of a lost client.
    pub async fn close(mut self) {
        if self.phase == Phase::Idle {
            frontend::terminate(&mut self.output);
            // Whether the server hears it or not, it is over.
            let _ = self.flush().await;
            let _ = self.socket.shutdown().await;
        }
    }

    /// Sends a query.
    pub(super) async fn send_query(&mut self, sql: &str) -> Result<()> {
        self.make_idle(&self.doing(sql)).await?;
        frontend::query(sql, &mut self.output)
            .map_err(|error| Error::new(ErrorKind::Bug, self.doing(sql)).because(error))?;
        self.phase = Phase::Answering;
        self.flush().await
    }

    /// Waits until the answer to an earlier, abandoned question is out of the way.
    pub(super) async fn make_idle(&mut self, doing: &str) -> Result<()> {
        while self.phase == Phase::Answering {
            self.flush().await?;
            self.receive().await?;
        }
        if self.phase == Phase::Idle {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Connect, doing).because("an earlier failure left this connection unusable"))
    }

    /// The next message that concerns the caller; notices and parameters are dealt with on the way.
    ///
    /// # Cancel safety
    /// Safe: bytes read stay in the buffer.
    pub(super) async fn receive(&mut self) -> Result<BackendMessage> {
        loop {
            if let Some(message) = self.receive_one().await? {
                return Ok(message);
            }
        }
    }

    /// One message; `None` when it was dealt with here.
    pub(super) async fn receive_one(&mut self) -> Result<Option<BackendMessage>> {
        loop {
            match self.next_frame()? {
                Some(frame) => return self.absorb(frame),
                None => self.fill().await?,
            }
        }
    }

    /// A frame that is here already.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>> {
        self.input.next_frame().map_err(|error| self.nonsense(error))
    }

    /// Reads a frame and keeps the parts of the conversation up to date by it.
    pub(super) fn absorb(&mut self, frame: Frame) -> Result<Option<BackendMessage>> {
        let message = match BackendMessage::parse(frame) {
            Ok(message) => message,
            Err(error) => return Err(self.nonsense(error)),
        };
        match &message {
            BackendMessage::Notice(notice) => {
                tracing::debug!(peer = %self.peer, %notice, "server notice");
                return Ok(None);
            }
            BackendMessage::Notification => return Ok(None),
            BackendMessage::ParameterStatus { name, value } => {
                self.parameters.insert(name.clone(), value.clone());
                return Ok(None);
            }
            BackendMessage::ReadyForQuery(status) => {
                self.status = *status;
                self.phase = Phase::Idle;
            }
            BackendMessage::CopyIn(_) | BackendMessage::CopyOut(_) | BackendMessage::CopyBoth(_) => {
                self.phase = Phase::Copying;
            }
            BackendMessage::Error(error) if error.severity.ends_connection() => self.phase = Phase::Broken,
            _ => {}
        }
        Ok(Some(message))
    }

    async fn fill(&mut self) -> Result<()> {
        match self.socket.read_buf(self.input.space()).await {
            Ok(0) => Err(self.lost(hung_up())),
            Ok(_) => Ok(()),
            Err(error) => Err(self.lost(error)),
        }
    }

    /// Sends all that is written.
    ///
    /// # Cancel safety
    /// Safe: what was not sent stays in the buffer.
    pub(super) async fn flush(&mut self) -> Result<()> {
        match self.try_flush().await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.last_words(error).await),
        }
    }

    async fn try_flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            if self.socket.write_buf(&mut self.output).await? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        self.socket.flush().await
    }

    /// A server that hangs up usually said why first; that is worth more than "broken pipe".
    pub(super) async fn last_words(&mut self, error: io::Error) -> Error {
        while let Ok(message) = self.receive().await {
            if let BackendMessage::Error(refusal) = message {
                self.phase = Phase::Broken;
                return refusal.during(format!("talk to {}", self.peer));
            }
        }
        self.lost(error)
    }

    /// Marks the connection broken by the network.
    pub(super) fn lost(&mut self, error: io::Error) -> Error {
        self.phase = Phase::Broken;
        let error = if error.kind() == io::ErrorKind::UnexpectedEof { hung_up() } else { error };
        Error::new(ErrorKind::Connect, format!("talk to {}", self.peer)).because(error)
    }

    /// Marks the connection broken by bytes that make no sense.
    pub(super) fn nonsense(&mut self, error: impl std::error::Error + Send + Sync + 'static) -> Error {
        self.phase = Phase::Broken;
        Error::new(ErrorKind::Protocol, format!("read what {} sent", self.peer)).because(error)
    }

    /// Marks the connection broken by a message that has no place here.
    pub(super) fn unexpected(&mut self, message: &BackendMessage, doing: &str) -> Error {
        self.phase = Phase::Broken;
        Error::new(ErrorKind::Protocol, doing)
            .because(format!("unexpected {} from the server", message.name()))
    }

    /// What we were doing, without the statement's text: it may hold a password.
    pub(super) fn doing(&self, sql: &str) -> String {
        let word = |word: &&str| word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let words: Vec<&str> = sql.split_whitespace().take(2).take_while(word).collect();
        match words.as_slice() {
            [] => format!("run a statement on {}", self.peer),
            words => format!("run {} on {}", words.join(" "), self.peer),
        }
    }
}

/// The end of a stream that should not end.
pub(super) fn hung_up() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")
}
