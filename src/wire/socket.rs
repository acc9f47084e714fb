//! One socket type for every way to reach a server: TCP, Unix, and TLS over either.
//!
//! Hazard: a slot being created, an index being built, an idle stream are minutes of silence, and a NAT or
//! a load balancer on the way forgets silent connections without telling. Keepalives and
//! `TCP_USER_TIMEOUT` turn that into an error in minutes instead of a wait for ever (P92).

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::pg::{Conninfo, SslNegotiation};
use crate::wire::certificate::Certificate;
use crate::wire::unwatched::Unwatched;

/// Between probes, once the first has gone unanswered, and how many of them.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 6;

/// TLS asks for one record at a time, and a server's are of 8 kB: so many are fetched at once.
const TLS_READ_BYTES: usize = 64 << 10;

/// Where a socket leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Why there is no socket. Each of these sends the operator to another place.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// DNS.
    #[error("the name does not resolve")]
    NoSuchName(#[source] io::Error),
    /// Nobody listens, no route, no permission.
    #[error("{0}")]
    Unreachable(#[source] io::Error),
    /// Nothing came back in time.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The server has `ssl = off`.
    #[error("the server does not offer TLS")]
    TlsNotOffered,
    /// The server answered the request for TLS with something else.
    #[error("the server answered the request for TLS with byte {0:#04x}")]
    NotPostgres(u8),
    /// Certificates or versions do not agree.
    #[error("TLS handshake: {0}")]
    Tls(rustls::Error),
    /// The connection broke while TLS was being set up.
    #[error("the connection broke during the TLS handshake: {0}")]
    TlsCut(#[source] io::Error),
}

/// Whether and how a socket is encrypted.
#[derive(Clone)]
pub(super) enum Encryption {
    /// Not at all.
    Off,
    /// If the server has it.
    Offered(Tls),
    /// Or there is no connection.
    Required(Tls),
}

/// All that a handshake needs.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) connector: TlsConnector,
    pub(super) name: ServerName<'static>,
    pub(super) negotiation: SslNegotiation,
}

/// TCP options, from the connection string.
#[derive(Debug, Clone, Copy)]
pub(super) struct Liveness {
    keepalives_idle: Option<Duration>,
    user_timeout: Option<Duration>,
}

impl From<&Conninfo> for Liveness {
    fn from(conninfo: &Conninfo) -> Liveness {
        Liveness { keepalives_idle: conninfo.keepalives_idle, user_timeout: conninfo.tcp_user_timeout }
    }
}

/// One way to one server: what a connection was made by, and what its cancel request is sent by.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) address: Address,
    pub(super) encryption: Encryption,
    pub(super) liveness: Liveness,
}

impl Route {
    /// Connects, and settles encryption. No byte of the login has been sent yet.
    pub(super) async fn open(&self) -> Result<Socket, SocketError> {
        let mut stream = self.open_stream().await.map_err(SocketError::Unreachable)?;
        let (tls, required) = match &self.encryption {
            Encryption::Off => return Ok(Socket::Plain(stream)),
            Encryption::Offered(tls) => (tls, Required::No),
            Encryption::Required(tls) => (tls, Required::Yes),
        };
        match tls.negotiation {
            SslNegotiation::Direct => tls.handshake(stream).await,
            SslNegotiation::Postgres => match (ask_for_tls(&mut stream).await?, required) {
                (Answer::Yes, _) => tls.handshake(stream).await,
                (Answer::No, Required::No) => Ok(Socket::Plain(stream)),
                (Answer::No, Required::Yes) => Err(SocketError::TlsNotOffered),
            },
        }
    }

    async fn open_stream(&self) -> io::Result<Stream> {
        match &self.address {
            Address::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                let socket = SockRef::from(&stream);
                if let Some(idle) = self.liveness.keepalives_idle {
                    let keepalive = TcpKeepalive::new().with_time(idle).with_interval(KEEPALIVE_INTERVAL);
                    socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_RETRIES))?;
                }
                #[cfg(target_os = "linux")]
                socket.set_tcp_user_timeout(self.liveness.user_timeout)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }
}

enum Required {
    Yes,
    No,
}

enum Answer {
    Yes,
    No,
}

/// SSLRequest. Exactly one byte is read: whatever else came in clear would be an attacker's, and is left
/// to fail as ciphertext (docs: `protocol-flow`, SSL Session Encryption; CVE-2021-23222).
async fn ask_for_tls(stream: &mut Stream) -> Result<Answer, SocketError> {
    let mut request = bytes::BytesMut::new();
    postgres_protocol::message::frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(SocketError::TlsCut)?;
    match stream.read_u8().await.map_err(SocketError::TlsCut)? {
        b'S' => Ok(Answer::Yes),
        b'N' => Ok(Answer::No),
        // 'E' starts an error message, but one that nobody has vouched for (CVE-2024-10977).
        other => Err(SocketError::NotPostgres(other)),
    }
}

impl Tls {
    async fn handshake(&self, stream: Stream) -> Result<Socket, SocketError> {
        let stream = BufReader::with_capacity(TLS_READ_BYTES, stream);
        let connecting = self.connector.connect(self.name.clone(), stream);
        let stream = connecting.await.map_err(|error| {
            match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(cause) => SocketError::Tls(cause.clone()),
                None => SocketError::TlsCut(error),
            }
        })?;
        Ok(Socket::Tls(Box::new(stream)))
    }
}

/// A socket to a server.
#[derive(Debug)]
pub(super) enum Socket {
    Plain(Stream),
    Tls(Box<TlsStream<BufReader<Stream>>>),
}

/// The transport itself.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Unwatched(Unwatched),
    /// Between a reactor and none: neither would have it.
    Lost,
}

impl Stream {
    fn unwatch(&mut self) -> io::Result<()> {
        *self = match std::mem::replace(self, Stream::Lost) {
            Stream::Tcp(watched) => Stream::Unwatched(Unwatched::new(watched)?),
            other => other,
        };
        Ok(())
    }

    fn watch(&mut self) -> io::Result<()> {
        *self = match std::mem::replace(self, Stream::Lost) {
            Stream::Unwatched(unwatched) => Stream::Tcp(unwatched.watch()?),
            other => other,
        };
        Ok(())
    }
}

impl Socket {
    /// Reads it by naps from now on, if it is TCP.
    ///
    /// # Errors
    /// The reactor's; the connection is lost then.
    pub(super) fn unwatch(&mut self) -> io::Result<()> {
        self.stream().unwatch()
    }

    /// Reads it as soon as something arrives, again.
    ///
    /// # Errors
    /// The reactor's; the connection is lost then.
    pub(super) fn watch(&mut self) -> io::Result<()> {
        self.stream().watch()
    }

    fn stream(&mut self) -> &mut Stream {
        match self {
            Socket::Plain(stream) => stream,
            Socket::Tls(tls) => tls.get_mut().0.get_mut(),
        }
    }

    /// What `tls-server-end-point` binds to, on a TLS socket.
    pub(super) fn end_point_hash(&self) -> Option<Vec<u8>> {
        let Socket::Tls(stream) = self else { return None };
        Certificate::read(stream.get_ref().1.peer_certificates()?.first()?)?.end_point_hash()
    }

    pub(super) fn is_encrypted(&self) -> bool {
        matches!(self, Socket::Tls(_))
    }

    /// "TLSv1_3 TLS13_AES_256_GCM_SHA384", for the log.
    pub(super) fn describe_encryption(&self) -> String {
        let Socket::Tls(stream) = self else { return "none".to_owned() };
        let session = stream.get_ref().1;
        match (session.protocol_version(), session.negotiated_cipher_suite()) {
            (Some(version), Some(suite)) => format!("{version:?} {:?}", suite.suite()),
            _ => "TLS".to_owned(),
        }
    }
}

/// Calls a method on whatever transport is inside.
macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Socket::Plain($stream) => $call,
            Socket::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Socket::Plain(stream) => stream.is_write_vectored(),
            Socket::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

/// Calls a method on the transport under TLS.
macro_rules! either {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
            Stream::Unwatched($stream) => $call,
            Stream::Lost => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Tcp(stream) => stream.is_write_vectored(),
            Stream::Unix(stream) => stream.is_write_vectored(),
            Stream::Unwatched(_) | Stream::Lost => false,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
