//! Hands a connection that is logged in already to tokio-postgres.
//!
//! There is one login in this house: one order of hosts, one set of TLS rules, one set of error messages.
//! tokio-postgres insists on a login of its own, so this socket swallows its startup message and answers with
//! what the server told us. From then on bytes pass untouched.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::wire::connection::Connection;
use crate::wire::socket::Socket;

/// The socket of a [`Connection`], as a client sees it that has yet to log in.
pub(super) struct Handover {
    socket: Socket,
    greeting: Bytes,
    startup: Startup,
}

/// How much of the client's startup message has been swallowed.
enum Startup {
    /// Its length is being read.
    Length { known: [u8; 4], count: usize },
    /// This many bytes are to come.
    Rest(usize),
    /// All of it.
    Over,
}

impl Handover {
    /// Takes the socket over, at a moment when no answer is under way.
    pub(super) fn new(connection: Connection) -> Handover {
        let Connection { socket, mut input, parameters, backend, .. } = connection;
        let mut greeting = BytesMut::new();
        put_frame(&mut greeting, b'R', &0_i32.to_be_bytes());
        for (name, value) in &parameters {
            put_frame(&mut greeting, b'S', &[name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
        }
        // Its cancel requests are not used: CancelToken knows the way, and longer keys.
        put_frame(&mut greeting, b'K', &[backend.pid.to_be_bytes(), [0; 4]].concat());
        put_frame(&mut greeting, b'Z', b"I");
        greeting.extend_from_slice(input.raw());
        Handover { socket, greeting: greeting.freeze(), startup: Startup::Length { known: [0; 4], count: 0 } }
    }
}

fn put_frame(into: &mut BytesMut, tag: u8, body: &[u8]) {
    into.put_u8(tag);
    // Pieces of the login, none longer than a login frame.
    into.put_i32(i32::try_from(body.len() + 4).unwrap_or(i32::MAX));
    into.put_slice(body);
}

impl Startup {
    /// Swallows from the front of `bytes`; gives how many.
    fn swallow(&mut self, bytes: &[u8]) -> usize {
        match self {
            Startup::Over => 0,
            Startup::Length { known, count } => {
                let take = bytes.len().min(known.len() - *count);
                for (slot, byte) in known.iter_mut().skip(*count).zip(bytes) {
                    *slot = *byte;
                }
                *count += take;
                if *count == known.len() {
                    let length = usize::try_from(u32::from_be_bytes(*known)).unwrap_or(usize::MAX);
                    *self = Startup::Rest(length.saturating_sub(4));
                }
                take
            }
            Startup::Rest(left) => {
                let take = bytes.len().min(*left);
                *left -= take;
                if *left == 0 {
                    *self = Startup::Over;
                }
                take
            }
        }
    }
}

impl AsyncRead for Handover {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.greeting.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, buf);
        }
        let count = self.greeting.len().min(buf.remaining());
        let head = self.greeting.split_to(count);
        buf.put_slice(head.chunk());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Handover {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.startup.swallow(bytes) {
            0 => Pin::new(&mut self.socket).poll_write(cx, bytes),
            swallowed => Poll::Ready(Ok(swallowed)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swallows_the_startup_message_and_nothing_else() {
        let mut message = BytesMut::new();
        postgres_protocol::message::frontend::startup_message([("user", "alice")], &mut message).unwrap();
        let length = message.len();
        message.extend_from_slice(b"Q\0\0\0\x05\0");
        for chunk in [1, 3, 7, 1000] {
            let mut startup = Startup::Length { known: [0; 4], count: 0 };
            let (mut rest, mut passed) = (&message[..], 0);
            while !rest.is_empty() {
                let piece = &rest[..chunk.min(rest.len())];
                let swallowed = startup.swallow(piece);
                let taken = if swallowed == 0 { piece.len() } else { swallowed };
                passed += if swallowed == 0 { taken } else { 0 };
                rest = &rest[taken..];
            }
            assert_eq!(passed, message.len() - length, "in pieces of {chunk}");
        }
    }
}
