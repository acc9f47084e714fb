//! The operator's wish to stop.
//!
//! Hazard: a stop that is noticed only between two long steps is no stop. So every long step is raced
//! against it, and the follow loop, which has something to bring to an end, listens for itself.

use std::future::Future;

use tokio::sync::watch;

use crate::error::{Error, ErrorKind, Result};

/// Hands the wish out.
#[derive(Debug)]
pub struct ShutdownSender(watch::Sender<bool>);

/// Waits for it; cheap to clone.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// A new pair.
#[must_use]
pub fn shutdown() -> (ShutdownSender, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (ShutdownSender(sender), Shutdown(receiver))
}

impl ShutdownSender {
    /// Asks for the stop.
    pub fn request(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Whether the stop has been asked for.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for the wish; never returns if nobody can ask any more.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn requested(&mut self) {
        if self.0.wait_for(|requested| *requested).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Runs `work` unless the stop comes first; then `work` is dropped.
    ///
    /// # Errors
    /// Those of `work`; `Cancelled` when the stop came first.
    pub async fn or_stop<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.requested() => Err(Error::new(ErrorKind::Cancelled, "stop at the operator's wish")),
            done = work => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stop_ends_work_that_never_would() {
        let (sender, mut shutdown) = shutdown();
        sender.request();
        let ended = shutdown.or_stop(std::future::pending::<Result<()>>()).await;
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::Cancelled);
    }
}
