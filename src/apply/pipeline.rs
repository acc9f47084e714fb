//! The applier: a thread that plans and writes, tasks that write beside it, and the channels between them.
//!
//! Hazard: a change may sit in any of these places when something fails. Nothing is lost by that: the source
//! keeps what was not confirmed, and the progress row tells what was applied. So the first error stops
//! everything at once, and the caller begins again from the progress row, with a new stream.
//!
//! ```text
//!   ApplyInput ══▶ "pgstream-plan" ══▶ writers ══▶ target
//!    (bytes)       decode, assemble,   (1 order     │ commits, applied
//!                  group, plan, and     for each)   ▼
//!                  the first writer
//!                                       flush ──▶ Positions ──▶ feedback to the source
//!                                                 durable, confirmed
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::assemble::{Assembler, StashLimits};
use super::checkpoint::{Checkpoint, LaneId};
use super::crew::{Crew, Start};
use super::flush::Flusher;
use super::format::ValueFormat;
use super::hire::{Hands, Hiring, Outcome, set_to_work};
use super::input::ApplyInput;
use super::operator::TargetFacts;
use super::options::ApplyOptions;
use super::planner::{Desk, Planner};
use super::planning_thread::PlanningThread;
use super::positions::{Positions, Reporter};
use super::quarantine::Quarantine;
use super::relations::Relations;
use super::route::keyed_tables;
use super::stats::ApplyStats;
use super::writer::Done;
use crate::catalog::ReplicaRole;
use crate::error::{Error, ErrorKind, Result};
use crate::pg::Lsn;

/// Applies one stream to one target. Dropping it stops everything; what was not committed is rolled back.
pub struct Applier {
    input: ApplyInput,
    reporter: Arc<Reporter>,
    stats: Arc<ApplyStats>,
    done: watch::Receiver<Vec<Done>>,
    outcome: Arc<Outcome>,
    planner: PlanningThread,
    hands: Arc<Hands>,
    flusher: Arc<Flusher>,
    flush: JoinHandle<()>,
}

impl Applier {
    /// Connects to the target and starts.
    ///
    /// # Errors
    /// As [`Error::from_postgres`] classes them; `State` if the progress row does not stand at `options.start`;
    /// `Local` if no thread can be had.
    pub async fn start(options: ApplyOptions) -> Result<Applier> {
        let role = options.replica_role;
        let session = Flusher::connect(&options.target).await?;
        let checkpoint = Checkpoint::adopt(&session, &options.slot, options.start).await?;
        let (stored, ends) = (checkpoint.keyed(&session).await?, checkpoint.ends());
        let quarantine = Quarantine::load(&session, &options.slot, options.refusals).await?;
        if quarantine.is_some() && options.values != ValueFormat::Text {
            return Err(Error::new(ErrorKind::Bug, "tell parked rows by their keys in a binary stream"));
        }
        let facts = TargetFacts::load(&session, &options.tables).await?;

        let reporter = Arc::new(Reporter::starting_at(options.start));
        let flusher = Flusher::start(session, &options.slot, Arc::clone(&reporter)).await?;
        let (stats, outcome, hands) = <(Arc<ApplyStats>, Arc<Outcome>, Arc<Hands>)>::default();
        let (input, deliveries) = ApplyInput::new(options.input_bytes, outcome.until_stopped());
        let hiring = Hiring::new(
            &options,
            Arc::new(checkpoint),
            Arc::clone(&reporter),
            Arc::clone(&stats),
            Arc::clone(&outcome),
            Arc::clone(&hands),
        );
        // Without the replica role foreign keys are checked, and a child must not overtake its parent; nor a change
        // one of a parked row.
        let may_spread = options.lanes.most() > 1 && role != ReplicaRole::Denied && quarantine.is_none();
        let mut planner = PlanningThread::start()?;
        let lane = hiring.connect(planner.runtime(), LaneId::FIRST).await?;
        let first = hiring.employ(planner.runtime(), LaneId::FIRST, lane, quarantine);
        let done = hiring.done();
        let start = Start {
            ends,
            stored,
            keyed: keyed_tables(&options.tables, &facts),
            lanes: options.lanes,
            hiring: may_spread.then_some(hiring),
        };
        let values = options.values;
        let relations =
            Relations::new(options.tables, facts, options.watermarks, options.source).in_format(values);
        let limits =
            StashLimits { memory_bytes: options.stash_memory_bytes, directory: options.stash_directory };
        let assembler = Assembler::new(options.protocol_version, limits);
        let plan = {
            let (done, stop, reporter) = (done.clone(), outcome.until_stopped(), Arc::clone(&reporter));
            move |runtime| {
                let crew = Crew::new(first, done, stop, runtime, start);
                let desk = Desk::new(relations, options.bounds, options.start, reporter, crew);
                Planner { input: deliveries, assembler, desk }.run()
            }
        };
        let flusher = Arc::new(flusher);
        let flushing = Arc::clone(&flusher);
        let flush =
            set_to_work(
                &Handle::current(),
                &outcome,
                "make changes durable",
                async move { flushing.run().await },
            );
        let planning = Arc::clone(&outcome);
        let span = tracing::Span::current();
        planner.work(move |runtime| {
            let _entered = span.entered();
            match catch_unwind(AssertUnwindSafe(|| plan(runtime))) {
                Ok(Ok(())) => {}
                // The writer went first; its error is the one to show.
                Ok(Err(error)) if error.kind() == ErrorKind::Aborted => {}
                Ok(Err(error)) => planning.fail(error),
                Err(_) => planning.fail(Error::new(ErrorKind::Bug, "plan changes")),
            }
        });
        Ok(Applier { input, reporter, stats, done, outcome, planner, hands, flusher, flush })
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

    /// `watermark.confirmed()` alone: whoever waits for that is not woken by each commit.
    #[must_use]
    pub fn confirmed(&self) -> watch::Receiver<Lsn> {
        self.reporter.subscribe_to_confirmed()
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> Arc<ApplyStats> {
        Arc::clone(&self.stats)
    }

    /// Grows with whatever the target has carried out, within a large transaction, too.
    #[must_use]
    pub fn work_done(&self) -> u64 {
        self.done.borrow().iter().map(|done| done.orders).sum()
    }

    /// Waits until the applier has failed, and gives the first error; never ends while it works.
    ///
    /// # Cancel safety
    /// Safe: the error is taken when it is returned.
    pub async fn failed(&self) -> Error {
        stopped(self.outcome.until_stopped()).await;
        self.outcome.take().unwrap_or_else(|| Error::new(ErrorKind::Aborted, "apply changes"))
    }

    /// Applies every transaction that has been received whole, drops the one that goes on, sees to it that all
    /// is durable, and stops.
    ///
    /// # Errors
    /// The first error, now or before.
    /// # Cancel safety
    /// Dropped before it is done, everything stops at once, as by [`Applier::abort`].
    pub async fn finish(mut self) -> Result<Positions> {
        tokio::select! {
            () = self.input.drain() => {}
            () = stopped(self.outcome.until_stopped()) => {}
        }
        // Writers end when the planner has let go of their channels, or before that by an error. One that was
        // hired in the last moment is there when the first has ended.
        loop {
            let mut hands = self.hands.take();
            if hands.is_empty() {
                break;
            }
            hands.rest().await;
        }
        // So the planner is at its end, too; it must not be stopped before it has told of an error.
        self.planner.join();
        self.flush.abort();
        if !self.outcome.is_stopped() {
            self.flusher.flush().await?;
        }
        match self.outcome.take() {
            Some(error) => Err(error),
            None if self.outcome.is_stopped() => Err(Error::new(ErrorKind::Aborted, "apply changes")),
            None => Ok(self.reporter.now()),
        }
    }

    /// Stops at once; what was not committed is rolled back.
    pub fn abort(self) {
        drop(self);
    }

    fn halt(&mut self) {
        self.outcome.stop();
        self.flush.abort();
        drop(self.hands.take());
        // It waits for nothing that does not end with the stop.
        self.planner.join();
        // What it hired in the last moment.
        drop(self.hands.take());
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
