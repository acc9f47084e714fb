//! The follow loop: the stream into the applier, positions back to the source, until there.
//!
//! Hazards: a status that waits behind apply ends in a walsender timeout, and the same transaction comes
//! again for ever (P18); so reading, applying and reporting are tasks of their own, and the bounded queue
//! between them makes the *source* wait, never the reports. A goal is reached when it is *durable on the
//! target*, not when lag reads zero.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::config::Ending as Wanted;
use super::define;
use super::gauge::{Gauge, Horizon};
use super::run::Run;
use crate::apply::{self, Applier, ApplyInput, ApplyOptions, LaneId, Positions};
use crate::bulk::ledger::{self, TableState};
use crate::catalog;
use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Lsn, QualifiedName};
use crate::pgoutput::{StreamOptions, TupleFormat};
use crate::replication::{
    FeedbackPositions, FeedbackWriter, StreamReader, emit_barrier, end_walsender, slot_state, start_stream,
};
use crate::wire::{Connection, ConnectionSettings};

/// Why the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The goal is durable on the target.
    Reached,
    /// The operator wanted to stop; what had arrived has been applied.
    Interrupted,
}

/// When to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// Never by itself.
    None,
    /// When everything before this is durable on the target.
    Position(Lsn),
    /// When no more than this many bytes are missing; then at the position the source has at that moment.
    Lag(u64),
}

/// What is handed to the applier at once, at the most: beyond this a batch saves nothing.
const BATCH_ITEMS: usize = 1024;
const BATCH_BYTES: usize = 256 << 10;
/// Between two looks at the slot on the source.
const SLOT_POLL: Duration = Duration::from_secs(5);
/// Between two looks at the positions, for metrics and the progress line.
const SHOW_INTERVAL: Duration = Duration::from_secs(1);

/// Applies until every table is at one and the same position: beyond the snapshot of the last one copied.
pub(super) async fn catch_up(run: &Run) -> Result<Ended> {
    let last = watermarks(run).await?.into_iter().map(|(_, watermark)| watermark).max().unwrap_or(Lsn::ZERO);
    if position(run).await? >= last {
        return Ok(Ended::Reached);
    }
    stream(run, Goal::Position(last)).await
}

/// Follows as the options say.
pub(super) async fn follow(run: &Run) -> Result<Ended> {
    let goal = match run.options.ending {
        Wanted::Interrupt => Goal::None,
        Wanted::CaughtUp => Goal::Position(emit_barrier(&run.source).await?),
        Wanted::Stop { max_lag_bytes } => Goal::Lag(max_lag_bytes),
    };
    stream(run, goal).await
}

/// Where each table's copy ends and its changes begin.
async fn watermarks(run: &Run) -> Result<Vec<(QualifiedName, Lsn)>> {
    let ledger = ledger::read(&run.target).await?;
    let copied = ledger.into_iter().filter_map(|(name, state)| match state {
        TableState::Copied { watermark, .. } => Some((name, watermark)),
        TableState::Unfinished => None,
    });
    Ok(copied.collect())
}

async fn position(run: &Run) -> Result<Lsn> {
    let progress = apply::read_progress(&run.target, &run.id.slot(), LaneId::FIRST).await?;
    progress
        .map(|progress| progress.end_lsn)
        .ok_or_else(|| Error::new(ErrorKind::State, "read how far changes have been applied"))
}

/// One connection's worth of following. An error leaves the durable state as it is, for the next attempt.
async fn stream(run: &Run, goal: Goal) -> Result<Ended> {
    let start = position(run).await?;
    let publications = run.publications().await?;
    let options =
        StreamOptions { server: run.source_version, format: TupleFormat::Text, publications: &publications };
    let applier = Applier::start(apply_options(run, start, options.protocol_version()).await?).await?;
    // A walsender of an earlier connection holds the slot until it notices that we are gone.
    end_walsender(&run.source, &run.id.slot()).await?;
    let connection =
        Connection::connect(&run.options.source, &ConnectionSettings::replication("stream")).await?;
    let (reader, feedback) = start_stream(connection, &run.id.slot(), start, &options).await?;
    tracing::info!(lsn = %start, "streaming");
    let mut tasks = JoinSet::new();
    let horizon = Arc::new(Horizon::default());
    tasks.spawn(read(reader, applier.input(), Arc::clone(&horizon)));
    let positions = applier.positions();
    let reports = Reports { feedback, positions, interval: run.options.status_interval };
    let (stop_reports, stopped) = tokio::sync::oneshot::channel();
    let reports = tokio::spawn(reports.run(stopped));

    let ended = watch(run, &applier, &mut tasks, &horizon, goal).await;
    // Reading ends first; what has arrived is then brought to its end, or given up with the applier.
    tasks.shutdown().await;
    let finished = match ended {
        Ok(ended) => applier.finish().await.map(|_| ended),
        Err(error) => Err(error),
    };
    // The last report carries the last positions.
    let _ = stop_reports.send(());
    match reports.await {
        Ok(Ok(())) => {}
        // Whatever it was, the next stream begins at the position on the target.
        Ok(Err(error)) => tracing::debug!(error = %crate::error::describe(&error), "last report not sent"),
        Err(cause) => return Err(Error::new(ErrorKind::Bug, "report positions").because(cause)),
    }
    finished
}

async fn apply_options(run: &Run, start: Lsn, protocol_version: u8) -> Result<ApplyOptions> {
    let mut options = ApplyOptions::new(run.options.target.clone(), run.id.slot(), protocol_version, start);
    options.tables = catalog::load(&run.target).await?.tables;
    options.watermarks = watermarks(run).await?.into_iter().collect();
    options.replica_role = define::replica_role(run).await?;
    if let Some(directory) = &run.options.work_dir {
        options.spool_directory.clone_from(directory);
    }
    Ok(options)
}

/// Moves items from the wire to the applier; the bounded queue between them is the source's brake.
async fn read(mut reader: StreamReader, input: ApplyInput, horizon: Arc<Horizon>) -> Result<()> {
    loop {
        let items = reader.next_batch(BATCH_ITEMS, BATCH_BYTES).await?;
        if items.is_empty() {
            break;
        }
        for item in &items {
            horizon.saw(item);
        }
        input.send(items).await?;
    }
    Err(Error::new(ErrorKind::Connect, "read the stream").because("the walsender ended it"))
}

/// Reports positions to the source on its own clock, and at once when asked.
struct Reports {
    feedback: FeedbackWriter,
    positions: tokio::sync::watch::Receiver<Positions>,
    interval: Duration,
}

impl Reports {
    async fn run(mut self, mut stop: tokio::sync::oneshot::Receiver<()>) -> Result<()> {
        let mut tick = tokio::time::interval(self.interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.feedback.reply_wanted() => {}
                _ = &mut stop => {
                    self.report().await?;
                    return self.feedback.finish().await;
                }
            }
            self.report().await?;
        }
    }

    async fn report(&mut self) -> Result<()> {
        let now = self.positions.borrow().watermark;
        let positions =
            FeedbackPositions { received: now.received(), flushed: now.confirmed(), applied: now.applied() };
        self.feedback.report(positions).await
    }
}

/// Waits for the goal, the operator or an error, and shows how it goes meanwhile.
async fn watch(
    run: &Run,
    applier: &Applier,
    tasks: &mut JoinSet<Result<()>>,
    horizon: &Horizon,
    mut goal: Goal,
) -> Result<Ended> {
    let mut positions = applier.positions();
    let mut stop = run.shutdown.clone();
    let mut show = tokio::time::interval(SHOW_INTERVAL);
    let mut polled = Instant::now();
    let mut gauge = Gauge::new(run, applier.stats());
    loop {
        let now = *positions.borrow_and_update();
        match goal {
            // Beyond it, not at it: the barrier's own commit follows its position.
            Goal::Position(end) if now.watermark.confirmed() > end => {
                gauge.show(&now, horizon);
                return Ok(Ended::Reached);
            }
            Goal::Lag(bytes)
                if horizon.lag_bytes(now.watermark.confirmed()).is_some_and(|lag| lag <= bytes) =>
            {
                // What commits from here on is the operator's to prevent; all that has committed is carried.
                goal = Goal::Position(emit_barrier(&run.source).await?);
            }
            Goal::Lag(_) | Goal::Position(_) | Goal::None => {}
        }
        tokio::select! {
            biased;
            () = stop.requested() => return Ok(Ended::Interrupted),
            error = applier.failed() => return Err(error),
            Some(ended) = tasks.join_next() => {
                ended.map_err(|cause| Error::new(ErrorKind::Bug, "read the stream").because(cause))??;
            }
            changed = positions.changed() => {
                changed.map_err(|cause| Error::new(ErrorKind::Aborted, "follow the applier").because(cause))?;
            }
            _ = show.tick() => {
                gauge.show(&positions.borrow().clone(), horizon);
                run.health.beat(Instant::now());
                if polled.elapsed() >= SLOT_POLL {
                    polled = Instant::now();
                    look_at_slot(run).await?;
                }
            }
        }
    }
}

/// Shows what the source keeps back for us, and notices when it no longer does (P16).
async fn look_at_slot(run: &Run) -> Result<()> {
    let name = run.id.slot();
    let Some(slot) = slot_state(&run.source, &name).await? else {
        return Err(Error::new(ErrorKind::Slot, format!("find slot {name} on the source")).hint(
            "Somebody dropped it, and the changes since are lost: empty the target database and begin anew.",
        ));
    };
    run.metrics.slot_retained_bytes(slot.retained_bytes);
    if let Some(bytes) = slot.safe_bytes {
        run.metrics.slot_safe_wal_bytes(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
    Ok(())
}
