//! Sets a lane to work: its connection, its writer, and the task that holds them.
//!
//! Hazard: a task that fails unheard leaves the others waiting for ever. Whatever ends a writer, an error or a
//! panic, is the applier's end.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::{RwLock, mpsc, watch};
use tokio::task::JoinHandle;
use tracing::Instrument as _;

use super::checkpoint::{Checkpoint, LaneId};
use super::crew::ORDERS_MAX;
use super::lane::Lane;
use super::options::ApplyOptions;
use super::positions::Reporter;
use super::quarantine::Quarantine;
use super::stats::ApplyStats;
use super::writer::{Done, Order, Writer};
use crate::catalog::ReplicaRole;
use crate::error::{Error, ErrorKind, Result};
use crate::pg::Conninfo;

/// The first error, and the word to stop.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    error: Mutex<Option<Error>>,
    stop: watch::Sender<bool>,
}

impl Outcome {
    pub(super) fn fail(&self, error: Error) {
        let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        // What follows from the first error, or from being stopped, is no news.
        if !self.stop.send_replace(true) {
            *first = Some(error);
        }
    }

    pub(super) fn take(&self) -> Option<Error> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    pub(super) fn until_stopped(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }
}

/// Tasks of the applier; the planner adds to them as it hires.
#[derive(Debug, Default)]
pub(super) struct Hands(Mutex<Vec<JoinHandle<()>>>);

impl Hands {
    fn add(&self, hand: JoinHandle<()>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(hand);
    }

    /// Those that are there now.
    pub(super) fn take(&self) -> Taken {
        Taken(std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Tasks that end with whoever took them: one that was merely let go would commit what nobody expects any more.
pub(super) struct Taken(Vec<JoinHandle<()>>);

impl Taken {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits until all have come to their end.
    pub(super) async fn rest(&mut self) {
        for hand in &mut self.0 {
            // Its panics are caught where it runs.
            let _ = hand.await;
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        for hand in &self.0 {
            hand.abort();
        }
    }
}

/// Runs `work` there; its error, or its panic, is the applier's.
pub(super) fn set_to_work(
    runtime: &Handle,
    outcome: &Arc<Outcome>,
    doing: &'static str,
    work: impl Future<Output = Result<()>> + Send + 'static,
) -> JoinHandle<()> {
    let outcome = Arc::clone(outcome);
    let work = async move {
        match AssertUnwindSafe(work).catch_unwind().await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => outcome.fail(error),
            Err(_) => outcome.fail(Error::new(ErrorKind::Bug, doing)),
        }
    };
    runtime.spawn(work.in_current_span())
}

/// All that a new lane needs.
pub(super) struct Hiring {
    target: Conninfo,
    replica_role: ReplicaRole,
    search_path: Option<String>,
    checkpoint: Arc<Checkpoint>,
    reporter: Arc<Reporter>,
    stats: Arc<ApplyStats>,
    done: Arc<watch::Sender<Vec<Done>>>,
    calm: Arc<RwLock<()>>,
    outcome: Arc<Outcome>,
    hands: Arc<Hands>,
    /// Where all lanes but the first are at work.
    runtime: Handle,
    span: tracing::Span,
}

impl Hiring {
    /// Within the runtime where all lanes but the first are to work.
    pub(super) fn new(
        options: &ApplyOptions,
        checkpoint: Arc<Checkpoint>,
        reporter: Arc<Reporter>,
        stats: Arc<ApplyStats>,
        outcome: Arc<Outcome>,
        hands: Arc<Hands>,
    ) -> Hiring {
        Hiring {
            target: options.target.clone(),
            replica_role: options.replica_role,
            search_path: options.search_path.clone(),
            checkpoint,
            reporter,
            stats,
            done: Arc::new(watch::Sender::new(vec![Done::default(); LaneId::MAX])),
            calm: Arc::default(),
            outcome,
            hands,
            runtime: Handle::current(),
            span: tracing::Span::current(),
        }
    }

    /// What the lanes have done.
    pub(super) fn done(&self) -> watch::Receiver<Vec<Done>> {
        self.done.subscribe()
    }

    /// Connects one more lane and sets it to work.
    ///
    /// # Errors
    /// As [`Error::from_postgres`] classes them.
    pub(super) async fn hire(&self, id: LaneId) -> Result<mpsc::Sender<Order>> {
        let lane = self.connect(&self.runtime, id).await?;
        Ok(self.employ(&self.runtime, id, lane, None))
    }

    /// Connects a lane that is to work there: a socket belongs to the reactor on which it was opened.
    ///
    /// # Errors
    /// As [`Lane::connect`].
    pub(super) async fn connect(&self, runtime: &Handle, id: LaneId) -> Result<Lane> {
        let (target, role, path) = (self.target.clone(), self.replica_role, self.search_path.clone());
        let connecting = async move { Lane::connect(&target, id, role, path).await };
        let connecting = runtime.spawn(connecting.in_current_span());
        connecting.await.map_err(|cause| Error::new(ErrorKind::Bug, "connect to write").because(cause))?
    }

    /// Sets a lane to work that is connected; the only one, if rows are or may be parked.
    pub(super) fn employ(
        &self,
        runtime: &Handle,
        id: LaneId,
        lane: Lane,
        quarantine: Option<Quarantine>,
    ) -> mpsc::Sender<Order> {
        let (orders, to_write) = mpsc::channel(ORDERS_MAX);
        let writer = Writer::new(
            id,
            lane,
            Arc::clone(&self.checkpoint),
            Arc::clone(&self.reporter),
            Arc::clone(&self.stats),
            Arc::clone(&self.done),
            Arc::clone(&self.calm),
        )
        .with(quarantine);
        let _entered = self.span.enter();
        self.hands.add(set_to_work(runtime, &self.outcome, "write changes", writer.run(to_write)));
        orders
    }
}
