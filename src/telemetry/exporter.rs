//! The HTTP server on `--metrics-addr`: `/metrics`, `/healthz`, `/readyz`.
//!
//! Hazard: the port may stand open to a network. So connections are few, each answers one request, and one
//! that is slow to ask or to read is cut; nothing that is sent to us is read beyond its head.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use super::health::{Health, Life, Readiness};
use super::metrics::Metrics;
use crate::error::{Error, ErrorKind, Result};

const CONNECTIONS_MAX: usize = 16;
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEAD_TIME_MAX: Duration = Duration::from_secs(2);
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(30);
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN_TYPE: &str = "text/plain; charset=utf-8";

/// A running server; it ends when this drops.
#[derive(Debug)]
pub struct Exporter {
    address: SocketAddr,
    metrics: Metrics,
    health: Health,
    server: JoinHandle<()>,
}

impl Exporter {
    /// Listens on `address`; port 0 picks a free one. Called inside a tokio runtime.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] if the address cannot be listened on.
    pub async fn start(address: SocketAddr) -> Result<Exporter> {
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::Usage, format!("listen on {address} for metrics"))
                .hint("Give `--metrics-addr` an address of this machine and a free port, such as 127.0.0.1:9187.")
                .because(error)
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let metrics =
            Metrics::on().map_err(|error| Error::new(ErrorKind::Bug, "set up the metrics").because(error))?;
        let health = Health::default();
        let server = tokio::spawn(serve(listener, metrics.clone(), health.clone()));
        Ok(Exporter { address, metrics, health, server })
    }

    /// Where it listens, the port filled in.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What it exports.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// What it answers on `/healthz` and `/readyz`.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Stops at once and waits until the port is free again.
    pub async fn shutdown(mut self) {
        self.server.abort();
        // The only outcome is the cancellation asked for.
        let _ = (&mut self.server).await;
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Accepts while there is room, and keeps the recorder small. Its connections end with it.
async fn serve(listener: TcpListener, metrics: Metrics, health: Health) {
    let mut connections = JoinSet::new();
    let mut upkeep = tokio::time::interval(UPKEEP_INTERVAL);
    upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, metrics.clone(), health.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "metrics connection refused");
                    // Out of file descriptors, most likely: accept would fail again at once, and there is
                    // nothing to wait for but time.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            },
            Some(_) = connections.join_next() => {}
            _ = upkeep.tick() => metrics.upkeep(),
        }
    }
}

/// One request, one answer.
async fn converse(stream: TcpStream, metrics: Metrics, health: Health) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = respond(request.method(), request.uri().path(), &metrics, &health);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIME_MAX, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "metrics connection broke"),
        Err(_) => tracing::debug!("metrics connection too slow"),
    }
}

fn respond(method: &Method, path: &str, metrics: &Metrics, health: &Health) -> Response<Full<Bytes>> {
    let answer = match path {
        "/metrics" | "/healthz" | "/readyz" if method != Method::GET => {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            return response;
        }
        "/metrics" => {
            let mut response = Response::new(Full::new(Bytes::from(metrics.render())));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(METRICS_TYPE));
            return response;
        }
        "/healthz" => match health.life(Instant::now()) {
            Life::Well => (StatusCode::OK, "well\n"),
            Life::Stuck => (StatusCode::SERVICE_UNAVAILABLE, "stuck\n"),
            Life::Failed => (StatusCode::SERVICE_UNAVAILABLE, "failed\n"),
        },
        "/readyz" => match health.readiness() {
            Readiness::InStep => (StatusCode::OK, "in step\n"),
            Readiness::Behind => (StatusCode::SERVICE_UNAVAILABLE, "behind\n"),
            Readiness::Waiting => (StatusCode::SERVICE_UNAVAILABLE, "waiting for the operator\n"),
        },
        _ => (StatusCode::NOT_FOUND, "try /metrics, /healthz or /readyz\n"),
    };
    plain(answer.0, answer.1)
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PLAIN_TYPE));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::label::Phase;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Sends raw bytes and reads until the server closes.
    async fn exchange(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        exchange(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
    }

    async fn started() -> Exporter {
        Exporter::start("127.0.0.1:0".parse().unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn serves_metrics_in_the_text_format() {
        let exporter = started().await;
        exporter.metrics().database("shop").phase(Phase::Planned);
        let response = get(exporter.local_addr(), "/metrics").await;
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        assert!(response.contains("content-type: text/plain; version=0.0.4"), "{response}");
        assert!(response.contains("# TYPE pgstream_phase gauge\n"), "{response}");
    }

    #[tokio::test]
    async fn readiness_and_life_are_told_apart() {
        let exporter = started().await;
        let (address, health) = (exporter.local_addr(), exporter.health());
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        health.set_readiness(Readiness::InStep);
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        health.fail();
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 503"));
    }

    #[tokio::test]
    async fn refuses_other_paths_and_methods() {
        let exporter = started().await;
        let address = exporter.local_addr();
        assert!(get(address, "/").await.starts_with("HTTP/1.1 404"));
        assert!(get(address, "/metrics/x").await.starts_with("HTTP/1.1 404"));
        let posted =
            exchange(address, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await;
        assert!(posted.starts_with("HTTP/1.1 405"), "{posted}");
        assert!(posted.contains("allow: GET\r\n"), "{posted}");
    }

    #[tokio::test]
    async fn a_head_without_end_is_refused() {
        let exporter = started().await;
        let mut stream = TcpStream::connect(exporter.local_addr()).await.unwrap();
        // The server may close before everything is sent; both ends of that race are right.
        let _ = stream.write_all(format!("GET /{} ", "x".repeat(2 * HEAD_BYTES_MAX)).as_bytes()).await;
        let mut response = Vec::new();
        let _ = stream.read_to_end(&mut response).await;
        assert!(!response.starts_with(b"HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn silent_connections_cannot_lock_others_out() {
        let exporter = started().await;
        let address = exporter.local_addr();
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        // Every place is taken until the first silent one is cut for sending no head.
        let answer = tokio::time::timeout(2 * HEAD_TIME_MAX, get(address, "/healthz")).await;
        assert!(answer.expect("answered in time").starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn the_port_is_free_after_shutdown() {
        let exporter = started().await;
        let address = exporter.local_addr();
        exporter.shutdown().await;
        TcpListener::bind(address).await.expect("bind again");
    }

    #[tokio::test]
    async fn a_taken_port_is_a_usage_error() {
        let exporter = started().await;
        let error = Exporter::start(exporter.local_addr()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
    }
}
