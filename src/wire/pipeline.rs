//! Many statements in one go, answered together (docs: `protocol-flow`, Pipelining).
//!
//! Hazards: a client that only writes and a server that only answers wait for each other once both sockets are
//! full (P89), so whatever is sent, answers are taken in meanwhile. After a refusal the server passes over
//! everything up to our Sync, rows of a COPY that never began included; so nothing has to be awaited in between,
//! and exactly one statement is to blame. A pipeline left in the middle cannot be taken up again:
//! [`Connection`] refuses further use.
//!
//! ```text
//!   Parse? Bind Execute │ Parse? Bind Execute CopyData… CopyDone │ … │ Sync      one write, as far as it fits
//!   one answer for each, held by the server until its buffer is full or the Sync ◀─ one read
//! ```

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend::{self, BindError};
use tokio::io::{AsyncReadExt, AsyncWrite};

use crate::error::{Error, ErrorKind, Result};
use crate::wire::connection::{Connection, Phase, hung_up};
use crate::wire::copy::put_copy_data;
use crate::wire::message::{BackendMessage, CommandTag};
use crate::wire::server_error::ServerError;

/// Written and not yet taken by the socket; a single value may be longer.
const OUTPUT_BYTES: usize = 256 << 10;

/// A statement that the server keeps for this connection, by a number that the caller chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StatementId(pub u64);

impl StatementId {
    fn name(self) -> String {
        format!("s{}", self.0)
    }
}

/// One step of a pipeline.
#[derive(Debug, Clone, Copy)]
pub enum Request<'a> {
    /// Has the server read a statement and keep it; types of parameters are inferred.
    Prepare {
        /// Not in use before.
        statement: StatementId,
        /// One statement.
        sql: &'a str,
    },
    /// Runs a statement that is kept, to its end; rows that it gives are passed over.
    Execute {
        /// As prepared.
        statement: StatementId,
        /// For `$1`, `$2`, …
        parameters: &'a [Payload],
    },
    /// Runs a `COPY … FROM STDIN` that is kept.
    Copy {
        /// As prepared.
        statement: StatementId,
        /// In the statement's format.
        rows: &'a Bytes,
    },
    /// Has the server forget a statement.
    Forget {
        /// As prepared.
        statement: StatementId,
    },
}

/// A parameter's bytes, as they go to the wire.
#[derive(Clone)]
pub enum Payload {
    /// As the type's input function reads it.
    Text(Bytes),
    /// As its receive function does.
    Binary(Bytes),
    /// Of any type.
    Null,
}

impl Payload {
    /// The value; of NULL none.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Payload::Text(bytes) | Payload::Binary(bytes) => bytes,
            Payload::Null => &[],
        }
    }

    /// The protocol's code for it.
    fn format(&self) -> i16 {
        match self {
            Payload::Text(_) => 0,
            Payload::Binary(_) | Payload::Null => 1,
        }
    }
}

/// Shows no values: this may end up in a log.
impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.bytes().len())
    }
}

/// What became of a pipeline.
#[derive(Debug)]
pub enum Pipelined {
    /// All of it was carried out: what each `Execute` and `Copy` was answered, in order. To COMMIT that may be ROLLBACK.
    Done(Vec<CommandTag>),
    /// The request of this number was refused; those before it were carried out, those after it were not.
    Refused {
        /// Counted from zero.
        at: usize,
        /// The server's words.
        error: Box<ServerError>,
    },
}

impl Connection {
    /// Carries out requests in order, without waiting for an answer before the next is sent.
    ///
    /// # Errors
    /// `Connect` if the connection broke, `Protocol` for answers that make no sense, `Bug` for a request that is no
    /// message, such as a parameter beyond 1 GiB. A refusal by the server is no error here, even one that ends the
    /// connection.
    /// # Cancel safety
    /// Not safe: when dropped, the connection refuses further use.
    /// (docs: `protocol-flow`, Extended Query)
    pub async fn pipeline(&mut self, requests: &[Request<'_>]) -> Result<Pipelined> {
        let doing = format!("run statements on {}", self.peer);
        self.make_idle(&doing).await?;
        self.phase = Phase::Pipelining;
        let mut feed = Feed { left: requests.iter(), rows: None, is_over: false };
        let (mut done, mut tags, mut refused) = (0, Vec::new(), None);
        loop {
            while let Some(frame) = self.next_frame()? {
                let Some(message) = self.absorb(frame)? else { continue };
                match message {
                    BackendMessage::ParseComplete | BackendMessage::CloseComplete => done += 1,
                    BackendMessage::BindComplete | BackendMessage::DataRow(_) | BackendMessage::CopyIn(_) => {
                    }
                    BackendMessage::CommandComplete(tag) => {
                        tags.push(tag);
                        done += 1;
                    }
                    BackendMessage::Error(error) if error.severity.ends_connection() => {
                        return Ok(Pipelined::Refused { at: done, error });
                    }
                    BackendMessage::Error(error) => {
                        refused = refused.or(Some(error));
                        feed.stop();
                    }
                    BackendMessage::ReadyForQuery(_) => {
                        return match refused {
                            Some(error) => Ok(Pipelined::Refused { at: done, error }),
                            None if done == requests.len() => Ok(Pipelined::Done(tags)),
                            None => Err(self.nonsense(io::Error::other("an answer is missing"))),
                        };
                    }
                    other => return Err(self.unexpected(&other, &doing)),
                }
            }
            feed.fill(&mut self.output, &doing)?;
            self.exchange().await?;
        }
    }

    /// Sends and takes in what can be, at least some of it.
    async fn exchange(&mut self) -> Result<()> {
        match poll_fn(|cx| self.poll_exchange(cx)).await {
            Ok(()) => Ok(()),
            Err(Broke::Sending(error)) => Err(self.last_words(error).await),
            Err(Broke::Receiving(error)) => Err(self.lost(error)),
        }
    }

    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broke>> {
        let mut has_moved = false;
        while !self.output.is_empty() {
            match Pin::new(&mut self.socket).poll_write(cx, &self.output) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(Broke::Sending(io::ErrorKind::WriteZero.into())));
                }
                Poll::Ready(Ok(count)) => self.output.advance(count),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Broke::Sending(error))),
            }
            has_moved = true;
        }
        // What the TLS layer still holds must go out before we wait.
        if let Poll::Ready(Err(error)) = Pin::new(&mut self.socket).poll_flush(cx) {
            return Poll::Ready(Err(Broke::Sending(error)));
        }
        match pin!(self.socket.read_buf(self.input.space())).poll(cx) {
            Poll::Pending => {}
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(Broke::Receiving(hung_up()))),
            Poll::Ready(Ok(_)) => has_moved = true,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(Broke::Receiving(error))),
        }
        if has_moved { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

/// Which way the socket failed.
enum Broke {
    Sending(io::Error),
    Receiving(io::Error),
}

/// What is still to be written, in whole messages.
struct Feed<'a> {
    left: std::slice::Iter<'a, Request<'a>>,
    /// Of the COPY that goes on.
    rows: Option<Bytes>,
    /// The Sync is written.
    is_over: bool,
}

impl Feed<'_> {
    /// Writes messages while there is room.
    fn fill(&mut self, output: &mut BytesMut, doing: &str) -> Result<()> {
        while output.len() < OUTPUT_BYTES && !self.is_over {
            self.put_next(output).map_err(|cause| Error::new(ErrorKind::Bug, doing).because(cause))?;
        }
        Ok(())
    }

    fn put_next(&mut self, output: &mut BytesMut) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if let Some(rows) = &mut self.rows {
            if rows.is_empty() {
                self.rows = None;
                frontend::copy_done(output);
            } else {
                let piece = rows.split_to(rows.len().min(OUTPUT_BYTES));
                put_copy_data(output, &piece, "send rows")?;
            }
            return Ok(());
        }
        match self.left.next() {
            None => {
                frontend::sync(output);
                self.is_over = true;
            }
            Some(Request::Prepare { statement, sql }) => frontend::parse(&statement.name(), sql, [], output)?,
            Some(Request::Forget { statement }) => frontend::close(b'S', &statement.name(), output)?,
            Some(Request::Execute { statement, parameters }) => put_execute(*statement, parameters, output)?,
            Some(Request::Copy { statement, rows }) => {
                put_execute(*statement, &[], output)?;
                self.rows = Some(Bytes::clone(rows));
            }
        }
        Ok(())
    }

    /// The rest would be passed over.
    fn stop(&mut self) {
        self.left = [].iter();
        self.rows = None;
    }
}

fn put_execute(
    statement: StatementId,
    parameters: &[Payload],
    output: &mut BytesMut,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let put = |parameter: &Payload, output: &mut BytesMut| {
        output.put_slice(parameter.bytes());
        Ok(match parameter {
            Payload::Text(_) | Payload::Binary(_) => IsNull::No,
            Payload::Null => IsNull::Yes,
        })
    };
    let formats = parameters.iter().map(Payload::format);
    match frontend::bind("", &statement.name(), formats, parameters, put, [], output) {
        Ok(()) => {}
        Err(BindError::Conversion(error)) => return Err(error),
        Err(BindError::Serialization(error)) => return Err(error.into()),
    }
    Ok(frontend::execute("", 0, output)?)
}
