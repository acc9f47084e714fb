//! A TCP socket that no reactor is told of: it is read when somebody looks, and looked at again after a nap.
//!
//! A server sends the rows of a COPY by 8 kB. A reactor is woken for each of these, at the sender's cost and at
//! ours, and then reads no more than those. After a nap there are many, and one read takes them.
//!
//! Hazard: a nap is time in which the socket's buffers must hold what arrives. Those of TCP grow to megabytes; a
//! unix socket's hold some 200 kB, less than a nap's worth, so it stays with the reactor. And what is sent to a
//! socket that nobody watches may wait for a nap: this is for streams, not for questions and answers.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// The shortest that the timer knows.
const NAP: Duration = Duration::from_millis(1);

/// The socket, which does not block.
#[derive(Debug)]
pub(super) struct Unwatched {
    stream: TcpStream,
    nap: Option<Pin<Box<Sleep>>>,
}

impl Unwatched {
    /// Takes a socket away from its reactor.
    ///
    /// # Errors
    /// The reactor's; the socket is closed then.
    pub(super) fn new(watched: tokio::net::TcpStream) -> io::Result<Unwatched> {
        Ok(Unwatched { stream: watched.into_std()?, nap: None })
    }

    /// Gives it to the reactor of this runtime.
    ///
    /// # Errors
    /// The reactor's; the socket is closed then.
    pub(super) fn watch(self) -> io::Result<tokio::net::TcpStream> {
        tokio::net::TcpStream::from_std(self.stream)
    }

    /// Tries until it works, with a nap after each time that it would have blocked.
    fn poll_try<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut attempt: impl FnMut(&TcpStream) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            if let Some(nap) = &mut self.nap {
                ready!(nap.as_mut().poll(cx));
                self.nap = None;
            }
            match attempt(&self.stream) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.nap = Some(Box::pin(tokio::time::sleep(NAP)));
                }
                outcome => return Poll::Ready(outcome),
            }
        }
    }
}

impl AsyncRead for Unwatched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let space = buf.initialize_unfilled();
        let count = ready!(self.poll_try(cx, |mut stream| stream.read(space)))?;
        buf.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Unwatched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_try(cx, |mut stream| stream.write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.shutdown(Shutdown::Write))
    }
}
