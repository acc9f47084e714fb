//! The applier: a thread that plans, a task that writes, and the channels between them.
//!
//! Hazard: a change may sit in any of these places when something fails. Nothing is lost by that: the source
//! keeps what was not confirmed, and the progress row tells what was applied. So the first error stops
//! everything at once, and the caller begins again from the progress row, with a new stream.
//!
//! ```text
//!   ApplyInput ══▶ "pgstream-plan" ══▶ writer ══▶ target
//!    (bytes)       decode, assemble,   (1 order)     │
//!                  group, plan                       ▼
//!                                                Positions ──▶ feedback to the source
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::Instrument as _;

use super::assemble::{Assembler, StashLimits};
use super::checkpoint::Checkpoint;
use super::input::ApplyInput;
use super::lane::Lane;
use super::operator::TargetFacts;
use super::options::ApplyOptions;
use super::planner::{Desk, ORDERS_MAX, Outlet, Planner};
use super::positions::{Positions, Reporter};
use super::relations::Relations;
use super::stats::ApplyStats;
use super::writer::{Done, Writer};
use crate::error::{Error, ErrorKind, Result};

/// Applies one stream to one target. Dropping it stops everything; what was not committed is rolled back.
#[derive(Debug)]
pub struct Applier {
    input: ApplyInput,
    reporter: Arc<Reporter>,
    stats: Arc<ApplyStats>,
    outcome: Arc<Outcome>,
    planner: Option<thread::JoinHandle<()>>,
    writer: Option<JoinHandle<()>>,
}

/// The first error, and the word to stop.
#[derive(Debug, Default)]
struct Outcome {
    error: Mutex<Option<Error>>,
    stop: watch::Sender<bool>,
}

impl Outcome {
    fn fail(&self, error: Error) {
        let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        // What follows from the first error, or from being stopped, is no news.
        if !self.stop.send_replace(true) {
            *first = Some(error);
        }
    }

    fn take(&self) -> Option<Error> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Applier {
    /// Connects to the target and starts.
    ///
    /// # Errors
    /// As [`Error::from_postgres`] classes them; `State` if the progress row does not stand at `options.start`;
    /// `Local` if no thread can be had.
    pub async fn start(options: ApplyOptions) -> Result<Applier> {
        let lane = Lane::connect(&options.target, options.replica_role, options.search_path).await?;
        let checkpoint = Checkpoint::adopt(lane.session(), &options.slot, options.start).await?;
        let facts = TargetFacts::load(lane.session(), &options.tables).await?;

        let reporter = Arc::new(Reporter::starting_at(options.start));
        let stats = Arc::new(ApplyStats::default());
        let outcome = Arc::new(Outcome::default());
        let (input, deliveries) = ApplyInput::new(options.input_bytes, outcome.stop.subscribe());
        let (orders, to_write) = mpsc::channel(ORDERS_MAX);
        let done = watch::Sender::new(Done::default());

        let values = options.values;
        let relations =
            Relations::new(options.tables, facts, options.watermarks, options.source).in_format(values);
        let out = Outlet::new(orders, done.subscribe(), outcome.stop.subscribe(), Handle::current());
        let limits =
            StashLimits { memory_bytes: options.stash_memory_bytes, directory: options.stash_directory };
        let planner = Planner {
            input: deliveries,
            assembler: Assembler::new(options.protocol_version, limits),
            desk: Desk::new(relations, options.bounds, options.start, Arc::clone(&reporter), out),
        };
        let writer = Writer::new(lane, checkpoint, Arc::clone(&reporter), Arc::clone(&stats), done);

        let writing = Arc::clone(&outcome);
        let writer = async move {
            match AssertUnwindSafe(writer.run(to_write)).catch_unwind().await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => writing.fail(error),
                Err(_) => writing.fail(Error::new(ErrorKind::Bug, "write changes")),
            }
        };
        let writer = tokio::spawn(writer.in_current_span());
        let planning = Arc::clone(&outcome);
        let span = tracing::Span::current();
        let planner = thread::Builder::new().name("pgstream-plan".to_owned()).spawn(move || {
            let _entered = span.entered();
            match catch_unwind(AssertUnwindSafe(|| planner.run())) {
                Ok(Ok(())) => {}
                // The writer went first; its error is the one to show.
                Ok(Err(error)) if error.kind() == ErrorKind::Aborted => {}
                Ok(Err(error)) => planning.fail(error),
                Err(_) => planning.fail(Error::new(ErrorKind::Bug, "plan changes")),
            }
        });
        let planner =
            planner.map_err(|error| Error::new(ErrorKind::Local, "start the planning thread").because(error));
        let (planner, failed) = match planner {
            Ok(planner) => (Some(planner), None),
            Err(error) => (None, Some(error)),
        };
        let applier = Applier { input, reporter, stats, outcome, planner, writer: Some(writer) };
        failed.map_or(Ok(applier), Err)
    }

    /// Where to send what arrives on the replication connection.
    #[must_use]
    pub fn input(&self) -> ApplyInput {
        self.input.clone()
    }

    /// How far the target has come; `watermark.confirmed()` is what the source may be told.
    #[must_use]
    pub fn positions(&self) -> watch::Receiver<Positions> {
        self.reporter.subscribe()
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> Arc<ApplyStats> {
        Arc::clone(&self.stats)
    }

    /// Waits until the applier has failed, and gives the first error; never ends while it works.
    ///
    /// # Cancel safety
    /// Safe: the error is taken when it is returned.
    pub async fn failed(&self) -> Error {
        stopped(self.outcome.stop.subscribe()).await;
        self.outcome.take().unwrap_or_else(|| Error::new(ErrorKind::Aborted, "apply changes"))
    }

    /// Applies every transaction that has been received whole, drops the one that goes on, and stops.
    ///
    /// # Errors
    /// The first error, now or before.
    pub async fn finish(mut self) -> Result<Positions> {
        tokio::select! {
            () = self.input.drain() => {}
            () = stopped(self.outcome.stop.subscribe()) => {}
        }
        // The writer ends when the planner has let go of its channel, or before that by an error.
        if let Some(writer) = self.writer.as_mut() {
            // Its panics are caught where it runs.
            let _ = writer.await;
            self.writer = None;
        }
        // So the planner is at its end, too; it must not be stopped before it has told of an error.
        self.join_planner();
        let is_stopped = *self.outcome.stop.borrow();
        match self.outcome.take() {
            Some(error) => Err(error),
            None if is_stopped => Err(Error::new(ErrorKind::Aborted, "apply changes")),
            None => Ok(self.reporter.now()),
        }
    }

    /// Stops at once; what was not committed is rolled back.
    pub fn abort(self) {
        drop(self);
    }

    fn halt(&mut self) {
        self.outcome.stop.send_replace(true);
        if let Some(writer) = self.writer.take() {
            writer.abort();
        }
        // It waits for nothing that does not end with the stop.
        self.join_planner();
    }

    fn join_planner(&mut self) {
        if let Some(planner) = self.planner.take() {
            // Its panics are caught where it runs.
            let _ = planner.join();
        }
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error says that nobody is left who could stop us, which is to be stopped.
    let _ = stop.wait_for(|stop| *stop).await;
}

impl Drop for Applier {
    fn drop(&mut self) {
        self.halt();
    }
}
