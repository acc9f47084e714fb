//! The COPY modes: out, in, and both at once (docs: `protocol-flow`, COPY Operations).
//!
//! Hazard: while data flows, the other side may speak at any time: an error while we still write, a notice
//! between two rows. And a COPY left in the middle cannot be taken up again, so [`Connection`] refuses all
//! further use if one of these is dropped before its end.

use bytes::{BufMut, Bytes, BytesMut};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::error::{Error, ErrorKind, Result};
use crate::wire::connection::{Connection, Phase, hung_up};
use crate::wire::frame::FrameBuffer;
use crate::wire::message::{BackendMessage, CopyShape};
use crate::wire::socket::Socket;

/// Which way the data of a COPY goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Out,
    In,
    Both,
}

impl Connection {
    /// Runs a replication command that turns the connection into two streams: START_REPLICATION.
    ///
    /// The two halves may live in two tasks, over TLS too.
    ///
    /// # Errors
    /// The server's refusal by its SQLSTATE; `Connect` if the connection broke. The connection is gone then.
    pub async fn copy_both(mut self, sql: &str) -> Result<(CopyBothReader, CopyBothWriter)> {
        self.begin_copy(sql, Direction::Both).await?;
        let doing = self.doing(sql);
        let Connection { socket, input, output, .. } = self;
        let (read, write) = tokio::io::split(socket);
        let reader = CopyBothReader { half: read, input, doing: doing.clone(), end: End::Open };
        Ok((reader, CopyBothWriter { half: write, output, doing }))
    }

    /// Runs `COPY … TO STDOUT`.
    ///
    /// # Errors
    /// As [`Connection::query`].
    pub async fn copy_out(&mut self, sql: &str) -> Result<CopyOut<'_>> {
        self.begin_copy(sql, Direction::Out).await?;
        let doing = self.doing(sql);
        Ok(CopyOut { connection: self, doing })
    }

    /// Runs `COPY … FROM STDIN`.
    ///
    /// # Errors
    /// As [`Connection::query`].
    pub async fn copy_in(&mut self, sql: &str) -> Result<CopyIn<'_>> {
        self.begin_copy(sql, Direction::In).await?;
        let doing = self.doing(sql);
        Ok(CopyIn { connection: self, doing })
    }

    /// Sends a statement that must lead into a COPY, and waits until it has.
    pub(super) async fn begin_copy(&mut self, sql: &str, wanted: Direction) -> Result<CopyShape> {
        self.send_query(sql).await?;
        let doing = self.doing(sql);
        match (self.receive().await?, wanted) {
            (BackendMessage::CopyOut(shape), Direction::Out)
            | (BackendMessage::CopyIn(shape), Direction::In)
            | (BackendMessage::CopyBoth(shape), Direction::Both) => Ok(shape),
            (BackendMessage::Error(error), _) => {
                self.drain().await?;
                Err(error.during(doing))
            }
            (other, _) => Err(self.unexpected(&other, &doing)),
        }
    }

    /// The end of a COPY, once no more data can come: its row count, or the server's refusal.
    pub(super) async fn end_copy(&mut self, doing: &str) -> Result<u64> {
        let mut rows = 0;
        loop {
            match self.receive().await? {
                BackendMessage::CommandComplete(tag) => rows = tag.rows(),
                BackendMessage::ReadyForQuery(_) => return Ok(rows),
                BackendMessage::CopyDone => {}
                BackendMessage::Error(error) => {
                    self.drain().await?;
                    return Err(error.during(doing));
                }
                other => return Err(self.unexpected(&other, doing)),
            }
        }
    }

    /// Throws away what is left of an answer. A connection that ended with it has nothing left.
    pub(super) async fn drain(&mut self) -> Result<()> {
        while matches!(self.phase, Phase::Answering | Phase::Copying) {
            self.receive().await?;
        }
        Ok(())
    }
}

/// Data coming out of a COPY.
#[derive(Debug)]
pub struct CopyOut<'a> {
    connection: &'a mut Connection,
    doing: String,
}

impl CopyOut<'_> {
    /// The next piece, one row at a time as the server cuts them; `None` at the end.
    ///
    /// # Errors
    /// The server's refusal by its SQLSTATE; `Connect` if the connection broke.
    /// # Cancel safety
    /// Safe.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.connection.phase == Phase::Idle {
            return Ok(None);
        }
        match self.connection.receive().await? {
            BackendMessage::CopyData(data) => Ok(Some(data)),
            BackendMessage::CopyDone => self.connection.end_copy(&self.doing).await.map(|_| None),
            BackendMessage::Error(error) => {
                self.connection.drain().await?;
                Err(error.during(&self.doing))
            }
            other => Err(self.connection.unexpected(&other, &self.doing)),
        }
    }
}

/// Data going into a COPY.
#[derive(Debug)]
pub struct CopyIn<'a> {
    connection: &'a mut Connection,
    doing: String,
}

impl CopyIn<'_> {
    /// Sends a piece of data, cut anywhere.
    ///
    /// # Errors
    /// `Connect` if the connection broke. A refusal of the data shows in [`CopyIn::finish`].
    pub async fn send(&mut self, data: &[u8]) -> Result<()> {
        put_copy_data(&mut self.connection.output, data, &self.doing)?;
        self.connection.flush().await
    }

    /// Ends the data and gives the number of rows stored.
    ///
    /// # Errors
    /// The server's refusal by its SQLSTATE; `Connect` if the connection broke.
    pub async fn finish(self) -> Result<u64> {
        frontend::copy_done(&mut self.connection.output);
        self.connection.flush().await?;
        self.connection.end_copy(&self.doing).await
    }
}

/// Whether more may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Reached,
}

/// What a walsender sends.
#[derive(Debug)]
pub struct CopyBothReader {
    half: ReadHalf<Socket>,
    input: FrameBuffer,
    doing: String,
    end: End,
}

impl CopyBothReader {
    /// The payload of the next CopyData, sharing the memory it was read into; `None` when the server has
    /// ended the stream: because we did, or because it shuts down.
    ///
    /// # Errors
    /// The server's refusal by its SQLSTATE; `Connect` if the connection broke; `Protocol` for bytes that
    /// make no sense.
    /// # Cancel safety
    /// Safe: bytes read stay in the buffer.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        while self.end == End::Open {
            let Some(frame) = self.input.next_frame().map_err(|error| self.nonsense(error))? else {
                self.fill().await?;
                continue;
            };
            match BackendMessage::parse(frame).map_err(|error| self.nonsense(error))? {
                BackendMessage::CopyData(data) => return Ok(Some(data)),
                // A walsender that shuts down sends the tag without CopyDone before it.
                BackendMessage::CopyDone
                | BackendMessage::CommandComplete(_)
                | BackendMessage::ReadyForQuery(_) => self.end = End::Reached,
                BackendMessage::Error(error) => {
                    self.end = End::Reached;
                    return Err(error.during(&self.doing));
                }
                BackendMessage::Notice(notice) => tracing::debug!(%notice, "server notice"),
                BackendMessage::ParameterStatus { .. } | BackendMessage::Notification => {}
                other => return Err(self.nonsense(format!("unexpected {}", other.name()))),
            }
        }
        Ok(None)
    }

    fn nonsense(&self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::new(ErrorKind::Protocol, &self.doing).because(cause)
    }

    async fn fill(&mut self) -> Result<()> {
        let read = self.half.read_buf(self.input.space()).await;
        match read.and_then(|count| if count == 0 { Err(hung_up()) } else { Ok(()) }) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.end = End::Reached;
                Err(Error::new(ErrorKind::Connect, &self.doing).because(error))
            }
        }
    }
}

/// What a walsender is told.
#[derive(Debug)]
pub struct CopyBothWriter {
    half: WriteHalf<Socket>,
    output: BytesMut,
    doing: String,
}

impl CopyBothWriter {
    /// Sends one CopyData.
    ///
    /// # Errors
    /// `Connect` if the connection broke; the reader may know why.
    /// # Cancel safety
    /// Safe: the message is either wholly in the write buffer or not at all; the next call sends the rest.
    pub async fn send(&mut self, payload: &[u8]) -> Result<()> {
        put_copy_data(&mut self.output, payload, &self.doing)?;
        self.flush().await
    }

    /// Ends our side. The server answers by ending its own, which the reader sees.
    ///
    /// # Errors
    /// `Connect` if the connection broke.
    pub async fn finish(mut self) -> Result<()> {
        frontend::copy_done(&mut self.output);
        self.flush().await
    }

    async fn flush(&mut self) -> Result<()> {
        let written = async {
            self.half.write_all_buf(&mut self.output).await?;
            self.half.flush().await
        };
        written.await.map_err(|error| Error::new(ErrorKind::Connect, &self.doing).because(error))
    }
}

pub(super) fn put_copy_data(output: &mut BytesMut, payload: &[u8], doing: &str) -> Result<()> {
    let length =
        i32::try_from(payload.len() + 4).map_err(|error| Error::new(ErrorKind::Bug, doing).because(error))?;
    output.reserve(payload.len() + 5);
    output.put_u8(b'd');
    output.put_i32(length);
    output.put_slice(payload);
    Ok(())
}
