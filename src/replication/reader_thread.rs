//! A thread with a reactor of its own, for the one connection whose bytes come message by message.
//!
//! A walsender sends each change by itself. Whoever sleeps in the reactor that the socket belongs to is woken for
//! each of them, at the sender's cost: over TCP that is more than it spends on decoding. The thread here may sleep
//! outside of its reactor, and find what came meanwhile in one read.
//!
//! Hazard: the socket lives as long as its reactor, so whatever writes to it holds the thread, too.

use std::convert::Infallible;
use std::sync::Arc;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::error::{Error, ErrorKind, Result};

/// The thread; it ends, and with it every task on it, when the last clone is dropped.
#[derive(Debug, Clone)]
pub(super) struct ReaderThread(Arc<Running>);

#[derive(Debug)]
struct Running {
    reactor: Handle,
    _until_dropped: oneshot::Sender<Infallible>,
}

impl ReaderThread {
    /// # Errors
    /// `Local` if no thread can be had.
    pub(super) fn start() -> Result<ReaderThread> {
        let failed = |cause| Error::new(ErrorKind::Local, "start the reading thread").because(cause);
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let reactor = runtime.handle().clone();
        let (until_dropped, dropped) = oneshot::channel::<Infallible>();
        thread::Builder::new()
            .name("pgstream-read".to_owned())
            .spawn(move || {
                // An error: its sender is gone.
                let _ = runtime.block_on(dropped);
            })
            .map_err(failed)?;
        Ok(ReaderThread(Arc::new(Running { reactor, _until_dropped: until_dropped })))
    }

    pub(super) fn reactor(&self) -> &Handle {
        &self.0.reactor
    }
}
