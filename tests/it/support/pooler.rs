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
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let acceptor = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(attend(client, upstream_port));
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

/// Reads the startup message, and lets the server answer it or does so itself. Without TLS.
async fn attend(mut client: TcpStream, upstream_port: u16) -> std::io::Result<()> {
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
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
