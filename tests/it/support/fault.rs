//! A TCP proxy that misbehaves on request, to stand between the engine and a server.
//!
//! Delay is latency, not bandwidth: bytes wait their time in a queue while more come in behind them.
//! Throttle is bandwidth. A stall holds everything and closes nothing, which is how a lost route looks.
//! A cut resets the connections, which is how a killed server or a firewall looks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

const CHUNK_BYTES: usize = 16 << 10;
/// Bytes under way per direction: chunks of at most [`CHUNK_BYTES`].
const CHUNKS_MAX: usize = 64;

/// What becomes of the bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Flow {
    Passing,
    Stalled,
}

/// Whether new connections are let through.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Door {
    Open,
    Shut,
}

#[derive(Debug, Clone, PartialEq)]
struct Weather {
    flow: Flow,
    door: Door,
    delay: Duration,
    bytes_per_second: Option<u64>,
    /// Connections opened under an older number are reset.
    epoch: u64,
    /// Once so many bytes have passed in all, no more do.
    bytes_max: Option<u64>,
    upstream: SocketAddr,
}

/// A proxy on a port of its own. Dropping it resets what goes through it.
pub(crate) struct Proxy {
    port: u16,
    weather: watch::Sender<Weather>,
    carried: watch::Receiver<u64>,
    acceptor: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and forwards to `upstream_port` there.
    pub(crate) async fn start(upstream_port: u16) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let (weather, forecast) = watch::channel(Weather {
            flow: Flow::Passing,
            door: Door::Open,
            delay: Duration::ZERO,
            bytes_per_second: None,
            epoch: 0,
            bytes_max: None,
            upstream: SocketAddr::from(([127, 0, 0, 1], upstream_port)),
        });
        let (counter, carried) = watch::channel(0);
        let acceptor = tokio::spawn(accept(listener, forecast, Arc::new(counter)));
        Proxy { port, weather, carried, acceptor }
    }

    /// Where to connect instead of the server.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Holds each byte back for `delay`, each way.
    pub(crate) fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }

    /// Lets at most so many bytes pass per second, each way of each connection; `None` lifts the limit.
    pub(crate) fn throttle(&self, bytes_per_second: Option<u64>) {
        self.weather.send_modify(|weather| weather.bytes_per_second = bytes_per_second);
    }

    /// Nothing passes any more, and nobody is told.
    pub(crate) fn stall(&self) {
        self.weather.send_modify(|weather| weather.flow = Flow::Stalled);
    }

    /// Ends a stall; what was held back arrives.
    pub(crate) fn resume(&self) {
        self.weather.send_modify(|weather| weather.flow = Flow::Passing);
    }

    /// Resets every connection; new ones are welcome.
    pub(crate) fn cut(&self) {
        self.weather.send_modify(|weather| weather.epoch += 1);
    }

    /// Resets every connection and every new one, until [`Proxy::open`].
    pub(crate) fn shut(&self) {
        self.weather.send_modify(|weather| {
            weather.door = Door::Shut;
            weather.epoch += 1;
        });
    }

    /// Ends [`Proxy::shut`].
    pub(crate) fn open(&self) {
        self.weather.send_modify(|weather| weather.door = Door::Open);
    }

    /// Waits until so many bytes in all have passed, both ways together, then resets every connection.
    /// What is under way at that moment does not arrive, however late the reset comes.
    pub(crate) async fn cut_after(&self, bytes: u64) {
        let goal = *self.carried.borrow() + bytes;
        self.weather.send_modify(|weather| weather.bytes_max = Some(goal));
        let _ = self.carried.clone().wait_for(|carried| *carried >= goal).await;
        self.weather.send_modify(|weather| {
            weather.bytes_max = None;
            weather.epoch += 1;
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.acceptor.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, weather: watch::Receiver<Weather>, carried: Arc<watch::Sender<u64>>) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(connect(client, weather.clone(), Arc::clone(&carried)));
    }
}

async fn connect(client: TcpStream, weather: watch::Receiver<Weather>, carried: Arc<watch::Sender<u64>>) {
    let now = weather.borrow().clone();
    // Closing with a linger of zero sends RST instead of FIN.
    let _ = client.set_zero_linger();
    if now.door == Door::Shut {
        return;
    }
    let Ok(server) = TcpStream::connect(now.upstream).await else { return };
    let _ = server.set_zero_linger();
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let both = async {
        tokio::join!(
            pump(from_client, to_server, weather.clone(), Arc::clone(&carried)),
            pump(from_server, to_client, weather.clone(), carried)
        )
    };
    let mut epochs = weather.clone();
    let cut = epochs.wait_for(|weather| weather.epoch > now.epoch);
    tokio::select! {
        _ = both => {}
        _ = cut => {}
    }
}

/// Carries one direction: a reader stamps each chunk with the time it is due, a writer honours it.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    weather: watch::Receiver<Weather>,
    carried: Arc<watch::Sender<u64>>,
) {
    let (sender, mut queue) = mpsc::channel::<(Instant, Bytes)>(CHUNKS_MAX);
    let forecast = weather.clone();
    let read = async move {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(CHUNK_BYTES);
            let mut chunk = (&mut from).take(CHUNK_BYTES as u64);
            if chunk.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
            let due = Instant::now() + forecast.borrow().delay;
            if sender.send((due, buffer.split().freeze())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        let mut weather = weather;
        while let Some((due, chunk)) = queue.recv().await {
            tokio::time::sleep_until(due).await;
            let passes = |weather: &Weather| {
                weather.flow == Flow::Passing && weather.bytes_max.is_none_or(|max| *carried.borrow() < max)
            };
            let passing = weather.wait_for(passes).await;
            let Ok(rate) = passing.map(|weather| weather.bytes_per_second) else { return };
            if to.write_all(&chunk).await.is_err() {
                return;
            }
            let length = chunk.len() as u64;
            carried.send_modify(|carried| *carried += length);
            if let Some(rate) = rate {
                tokio::time::sleep(Duration::from_secs_f64(length as f64 / rate as f64)).await;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}
