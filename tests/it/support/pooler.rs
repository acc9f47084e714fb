//! A pooler that passes sessions on and refuses replication in PgBouncer's words (P91).

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A pooler on a port of its own; it ends when this drops.
pub(crate) struct Pooler {
    port: u16,
    acceptor: JoinHandle<()>,
}

impl Pooler {
    /// Listens on a free port of 127.0.0.1, before the server on `upstream_port` there.
    pub(crate) async fn start(upstream_port: u16) -> Pooler {
        Pooler::start_with(upstream_port, Keys::Servers).await
    }

    /// The same, but it answers a login with a process number of its own making.
    pub(crate) async fn start_masked(upstream_port: u16) -> Pooler {
        Pooler::start_with(upstream_port, Keys::Own).await
    }

    async fn start_with(upstream_port: u16, keys: Keys) -> Pooler {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let acceptor = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(attend(client, upstream_port, keys));
            }
        });
        Pooler { port, acceptor }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

/// Whose key a client gets to cancel with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keys {
    Servers,
    Own,
}

/// Reads the startup message, and lets the server answer it or does so itself. Without TLS.
async fn attend(mut client: TcpStream, upstream_port: u16, keys: Keys) -> std::io::Result<()> {
    let startup_bytes = client.read_u32().await?;
    let mut rest = vec![0; startup_bytes as usize - 4];
    client.read_exact(&mut rest).await?;
    if rest.windows(12).any(|window| window == b"\0replication") {
        let fields = b"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: replication\0\0";
        client.write_u8(b'E').await?;
        client.write_u32(4 + fields.len() as u32).await?;
        client.write_all(fields).await?;
        return client.shutdown().await;
    }
    let mut server = TcpStream::connect(("127.0.0.1", upstream_port)).await?;
    server.write_u32(startup_bytes).await?;
    server.write_all(&rest).await?;
    if keys == Keys::Own {
        greet(&mut client, &mut server).await?;
    }
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// Passes the answer to a login on, with another process number; the server trusts everyone, so that it alone
/// speaks until it is ready.
async fn greet(client: &mut TcpStream, server: &mut TcpStream) -> std::io::Result<()> {
    loop {
        let kind = server.read_u8().await?;
        let bytes = server.read_u32().await?;
        let mut body = vec![0; bytes as usize - 4];
        server.read_exact(&mut body).await?;
        if kind == b'K' {
            body[..4].copy_from_slice(&1_000_000_007_u32.to_be_bytes());
        }
        client.write_u8(kind).await?;
        client.write_u32(bytes).await?;
        client.write_all(&body).await?;
        if kind == b'Z' {
            return Ok(());
        }
    }
}
