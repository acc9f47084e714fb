//! Interrupting a query from outside (docs: `protocol-flow`, Canceling Requests in Progress).
//!
//! Hazard: a cancel request may come too late and hit whatever the connection does next. Send one only for a
//! query whose answer you still await, and await it before you send another.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::error::{Error, ErrorKind, Result};
use crate::wire::message::BackendKey;
use crate::wire::socket::{Route, SocketError};

/// CancelRequest's place where a protocol version would stand.
const CANCEL_REQUEST_CODE: i32 = 80_877_102;

/// How long a server may take to accept a cancel request.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// What it takes to interrupt one connection: its route and its key.
#[derive(Clone)]
pub struct CancelToken {
    route: Arc<Route>,
    backend: BackendKey,
    peer: String,
}

impl CancelToken {
    pub(super) fn new(route: Arc<Route>, backend: BackendKey, peer: String) -> CancelToken {
        CancelToken { route, backend, peer }
    }

    /// Asks the server to interrupt the query that runs now, over a socket of its own, encrypted as the
    /// connection is. Returns once the server has taken the request; the query ends later, or not.
    ///
    /// # Errors
    /// `Connect`.
    pub async fn cancel(&self) -> Result<()> {
        let taken = tokio::time::timeout(CANCEL_TIMEOUT, self.send_request()).await;
        taken.unwrap_or(Err(SocketError::TimedOut(CANCEL_TIMEOUT))).map_err(|error| {
            Error::new(ErrorKind::Connect, format!("cancel a query on {}", self.peer)).because(error)
        })
    }

    async fn send_request(&self) -> Result<(), SocketError> {
        let mut socket = self.route.open().await?;
        socket.write_all(&self.request()).await.map_err(SocketError::Unreachable)?;
        socket.flush().await.map_err(SocketError::Unreachable)?;
        // The server answers by hanging up, once it has sent the signal. How it hangs up is its affair.
        let _ = socket.read_u8().await;
        Ok(())
    }

    fn request(&self) -> BytesMut {
        let mut bytes = BytesMut::with_capacity(16);
        // A key has at most 256 bytes (18+).
        let length = i32::try_from(12 + self.backend.secret.len()).unwrap_or(i32::MAX);
        bytes.put_i32(length);
        bytes.put_i32(CANCEL_REQUEST_CODE);
        bytes.put_i32(self.backend.pid);
        bytes.put_slice(&self.backend.secret);
        bytes
    }
}

impl std::fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CancelToken({}, pid {})", self.peer, self.backend.pid)
    }
}
