//! The scenery that scenarios play in.

pub(crate) mod authority;
pub(crate) mod engine;
pub(crate) mod fault;
pub(crate) mod migration;
pub(crate) mod pooler;
pub(crate) mod scenario;

use std::time::{Duration, Instant};

/// How long any single thing may take before a test gives up; generous, for slow machines.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `holds`, asking again and again: for states that nobody announces.
///
/// # Panics
/// After a minute, saying what did not happen.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "did not happen within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What an HTTP server answers.
pub(crate) fn http(address: &str, path: &str) -> String {
    use std::io::{Read as _, Write as _};

    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
