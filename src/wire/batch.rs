//! Several small COPYs in one question, for tables that are smaller than the way to them is long.
//!
//! Hazard: both ends are asked for everything at once, so an error concerns the whole question: the caller rolls
//! back and asks for each table by itself. What is held in memory is bounded; more than that is not for this way.
//! Rows sent to a COPY that never began are passed over by the server, in the order in which it reads them (server
//! side: postgres.c, which ignores CopyData and CopyDone outside of a COPY).

use bytes::{Bytes, BytesMut};
use postgres_protocol::message::frontend;

use crate::error::{Error, ErrorKind, Result};
use crate::wire::connection::{Connection, Phase};
use crate::wire::copy::put_copy_data;
use crate::wire::message::{BackendMessage, CopyShape};
use crate::wire::server_error::ServerError;

/// All that one COPY sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeCopy {
    shape: CopyShape,
    /// The payload of its CopyData, joined.
    pub payload: Bytes,
    /// Rows, as the server counted them.
    pub rows: u64,
}

/// What several COPYs in one question stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stored {
    /// Rows of each COPY.
    pub copied: Vec<u64>,
    /// Rows that the last statement touched.
    pub last: u64,
}

impl Connection {
    /// Runs `COPY … TO STDOUT` statements, joined in `script`, and holds what they send; `None` if that is more than
    /// `bytes_max`.
    ///
    /// # Errors
    /// The server's refusal by its SQLSTATE; `Connect` if the connection broke.
    /// # Cancel safety
    /// Not safe: when dropped, the connection refuses further use.
    pub async fn copy_out_whole(&mut self, script: &str, bytes_max: usize) -> Result<Option<Vec<WholeCopy>>> {
        self.send_query(script).await?;
        let doing = self.doing(script);
        let (mut copies, mut open): (Vec<WholeCopy>, Option<(CopyShape, BytesMut)>) = (Vec::new(), None);
        let (mut refusal, mut bytes): (Option<ServerError>, usize) = (None, 0);
        loop {
            match self.receive().await? {
                BackendMessage::CopyOut(shape) => open = Some((shape, BytesMut::new())),
                BackendMessage::CopyData(data) => {
                    bytes += data.len();
                    if bytes > bytes_max {
                        // What is still to come may be large; a new connection is cheaper.
                        self.phase = Phase::Broken;
                        return Ok(None);
                    }
                    if let Some((_, payload)) = &mut open {
                        payload.extend_from_slice(&data);
                    }
                }
                BackendMessage::CopyDone => {}
                BackendMessage::CommandComplete(tag) => {
                    if let Some((shape, payload)) = open.take() {
                        copies.push(WholeCopy { shape, payload: payload.freeze(), rows: tag.rows() });
                    }
                }
                BackendMessage::Error(error) if error.severity.ends_connection() => {
                    return Err(error.during(doing));
                }
                BackendMessage::Error(error) => refusal = refusal.or(Some(*error)),
                BackendMessage::ReadyForQuery(_) => break,
                other => return Err(self.unexpected(&other, &doing)),
            }
        }
        refusal.map_or(Ok(Some(copies)), |error| Err(error.during(doing)))
    }

    /// Runs `script`, whose `COPY … FROM STDIN` statements are given `copies` in order. Nothing is awaited in between.
    ///
    /// # Errors
    /// The first refusal by its SQLSTATE; `Copy` if a COPY expects another format or number of columns than it was
    /// given; `Connect` if the connection broke. Whatever it was, the caller's transaction is to be rolled back.
    /// # Cancel safety
    /// Not safe: when dropped, the connection refuses further use.
    pub async fn copy_in_whole(&mut self, script: &str, copies: &[WholeCopy]) -> Result<Stored> {
        let doing = self.doing(script);
        self.send_query(script).await?;
        for copy in copies {
            if !copy.payload.is_empty() {
                put_copy_data(&mut self.output, &copy.payload, &doing)?;
            }
            frontend::copy_done(&mut self.output);
        }
        self.flush().await?;
        let (mut stored, mut refusal, mut misfit) = (Stored::default(), None, None);
        let (mut given, mut is_copying) = (copies.iter(), false);
        loop {
            match self.receive().await? {
                BackendMessage::CopyIn(shape) => {
                    let sent = given.next().map(|copy| copy.shape);
                    if sent != Some(shape) {
                        misfit = Some((sent, shape));
                    }
                    is_copying = true;
                }
                BackendMessage::CommandComplete(tag) => {
                    stored.last = tag.rows();
                    if std::mem::take(&mut is_copying) {
                        stored.copied.push(tag.rows());
                    }
                }
                BackendMessage::Error(error) if error.severity.ends_connection() => {
                    return Err(error.during(doing));
                }
                BackendMessage::Error(error) => refusal = refusal.or(Some(*error)),
                BackendMessage::ReadyForQuery(_) => break,
                other => return Err(self.unexpected(&other, &doing)),
            }
        }
        match (refusal, misfit) {
            (Some(error), _) => Err(error.during(doing)),
            (None, Some((sent, expected))) => Err(Error::new(ErrorKind::Copy, "join two COPYs")
                .because(format!("the source sends {sent:?}, the target expects {expected:?}"))),
            (None, None) => Ok(stored),
        }
    }
}
