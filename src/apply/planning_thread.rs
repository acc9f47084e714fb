//! The thread that plans, with a runtime of its own in which the first lane writes.
//!
//! A stream that is kept up with is one group after the other: planned, written, answered. Were the writer elsewhere,
//! each of them would wait twice for another thread to be woken, and on a busy machine for a core as well.
//!
//! Hazard: the runtime moves only while the thread waits in it. So whoever plans waits nowhere else, and lets the lane
//! have its turn between two batches of changes; what the lane still has when planning ends is carried out behind it.

use std::convert::Infallible;
use std::rc::Rc;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

use crate::error::{Error, ErrorKind, Result};

/// What the thread is there for; it gets the runtime to wait in.
type Work = Box<dyn FnOnce(Rc<Runtime>) + Send>;

/// The thread. Dropped, it ends with its work, and all that it has not carried out is dropped.
pub(super) struct PlanningThread {
    runtime: Handle,
    work: Option<oneshot::Sender<Work>>,
    until_released: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl PlanningThread {
    /// # Errors
    /// `Local` if no thread can be had.
    pub(super) fn start() -> Result<PlanningThread> {
        let failed = |cause| Error::new(ErrorKind::Local, "start the planning thread").because(cause);
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (work, to_do) = oneshot::channel::<Work>();
        let (until_released, released) = oneshot::channel::<Infallible>();
        let thread = thread::Builder::new()
            .name("pgstream-plan".to_owned())
            .spawn(move || {
                let runtime = Rc::new(runtime);
                if let Ok(work) = runtime.block_on(to_do) {
                    work(Rc::clone(&runtime));
                }
                // An error: its sender is gone.
                let _ = runtime.block_on(released);
            })
            .map_err(failed)?;
        Ok(PlanningThread {
            runtime: handle,
            work: Some(work),
            until_released: Some(until_released),
            thread: Some(thread),
        })
    }

    /// Where the first lane works.
    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Begins; what comes after the first time is passed over.
    pub(super) fn work(&mut self, work: impl FnOnce(Rc<Runtime>) + Send + 'static) {
        if let Some(begin) = self.work.take() {
            // Its receiver waits as long as there is a sender.
            let _ = begin.send(Box::new(work));
        }
    }

    /// Waits for the end of its work, which nothing but that may be waiting for.
    pub(super) fn join(&mut self) {
        drop(self.work.take());
        drop(self.until_released.take());
        if let Some(thread) = self.thread.take() {
            // Its panics are caught where the work is.
            let _ = thread.join();
        }
    }
}

impl Drop for PlanningThread {
    fn drop(&mut self) {
        self.join();
    }
}
