//! The follow loop: the stream into the applier, positions back to the source, until there.
//!
//! Hazards: a status that waits behind apply ends in a walsender timeout, and the same transaction comes
//! again for ever (P18); so reading, applying and reporting are tasks of their own, and the bounded queue
//! between them makes the *source* wait, never the reports. A goal is reached when it is *durable on the
//! target*, not when lag reads zero.
//!
//! The stream comes straight from the source, or by way of the spool when there is one: left by the copy, or begun
//! because the target does not gain on the source. When it is as good as read, it is brought to its end first
//! ([`super::spooling`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::Instrument as _;

use super::config::Ending as Wanted;
use super::cutover::source_search_path;
use super::drift::{self, Settled};
use super::feedback::Reports;
use super::format::{self, Allowed};
use super::gauge::{Gauge, Horizon};
use super::leftover;
use super::locks;
use super::monitor::Monitor;
use super::quarantine;
use super::run::Run;
use super::shutdown::Shutdown;
use super::spooling::{self, Standing};
use super::supply::{Supply, Way};
use super::unseen::{self, Found};
use crate::apply::{self, Applier, ApplyInput, ApplyOptions, Refusals, SourceNow};
use crate::bulk::ledger::{self, TableState};
use crate::catalog;
use crate::error::{Error, ErrorKind, Result, Side};
use crate::pg::{Lsn, QualifiedName};
use crate::pgoutput::{StreamOptions, TupleFormat};
use crate::replication::{
    FeedbackPositions, StreamReader, emit_barrier, free_slot, start_stream, wal_position,
};
use crate::telemetry::{Obstacle, Readiness};

/// How far following got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Followed {
    /// Why it ended.
    pub(super) ended: Ended,
    /// Everything before this is durable on the target.
    pub(super) position: Lsn,
    /// Between that and the source's position, as far as known.
    pub(super) lag_bytes: u64,
}

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
    /// When everything before this end position is durable on the target.
    End(Lsn),
    /// When the transaction that holds the message at this position is.
    Barrier(Lsn),
    /// When no more than this many bytes are missing; then at the position the source has at that moment.
    Lag(u64),
}

/// Between two looks at the positions, for metrics and the progress line.
const SHOW_INTERVAL: Duration = Duration::from_secs(1);
/// How long the applier may take to bring to its end what is under way, before the spool is left.
const TURN_WAIT: Duration = Duration::from_secs(5);

/// Applies until every table is at one and the same position: beyond the snapshot of the last one copied.
pub(super) async fn catch_up(run: &Run, stop: &mut Shutdown) -> Result<Followed> {
    let watermarks = watermarks(run).await?.into_iter().map(|(_, watermark)| watermark);
    let last = watermarks.filter(|watermark| *watermark != unseen::ASIDE).max().unwrap_or(Lsn::ZERO);
    let position = position(run).await?;
    if position >= last {
        return Ok(Followed { ended: Ended::Reached, position, lag_bytes: 0 });
    }
    stream(run, stop, Goal::End(last)).await
}

/// Follows as the options say.
pub(super) async fn follow(run: &Run, stop: &mut Shutdown) -> Result<Followed> {
    let goal = match run.options.ending {
        Wanted::Interrupt => Goal::None,
        Wanted::CaughtUp => Goal::Barrier(stop.or_stop(emit_barrier(&run.source)).await?),
        Wanted::Stop { max_lag_bytes } => Goal::Lag(max_lag_bytes),
    };
    stream(run, stop, goal).await
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

/// How far the target's progress row says that it is.
pub(super) async fn position(run: &Run) -> Result<Lsn> {
    let progress = apply::read_progress(&run.target, &run.id.slot()).await?;
    progress
        .map(|progress| progress.end_lsn)
        .ok_or_else(|| Error::new(ErrorKind::State, "read how far changes have been applied"))
}

/// Follows, by way of the spool first if there is one. What the target refuses only because of a TRUNCATE that was not streamed is
/// passed over; values that cannot be read in the format they came in are asked for in another; rows that the target
/// refuses are parked, if the operator wants that; and where the source's definitions have changed, the stream begins
/// again when the target's have, too.
async fn stream(run: &Run, stop: &mut Shutdown, goal: Goal) -> Result<Followed> {
    let (mut allowed, mut refusals, mut tried) = (Allowed::Binary, Refusals::Stop, drift::Tried::default());
    let mut way = Way::Direct;
    loop {
        // In a box: it is large, and every future around it would hold it again.
        let error = match Box::pin(stream_once(run, stop, goal, allowed, refusals, way)).await {
            Ok(Course::Ended(followed)) => return Ok(followed),
            Ok(Course::Turned(other)) => {
                way = other;
                continue;
            }
            Err(error) => error,
        };
        if allowed != Allowed::TextOnly && format::was_at_fault(&error) {
            tracing::info!(error = %crate::error::describe(&error), "the stream begins again in another format");
            allowed = allowed.less();
            continue;
        }
        if let Some(obstacle) = Obstacle::of(&error) {
            match wait_for(run, stop, obstacle, error).await? {
                Settled::GoOn => continue,
                Settled::Interrupted => return interrupted(run).await,
            }
        }
        if error.kind() == ErrorKind::Apply && unseen::set_aside(run).await? == Found::More {
            continue;
        }
        if error.kind() == ErrorKind::Apply && run.options.quarantine.parks() && refusals == Refusals::Stop {
            tracing::info!("the stream begins again, to part what is refused from the rest");
            refusals = Refusals::Park;
            continue;
        }
        match drift::settle(run, stop, &mut tried, error).await? {
            Settled::GoOn => run.made_headway(),
            Settled::Interrupted => return interrupted(run).await,
        }
    }
}

/// Waits until the same may be tried again: nobody tells when a server has room, so it is asked, ever less often.
async fn wait_for(run: &Run, stop: &mut Shutdown, obstacle: Obstacle, error: Error) -> Result<Settled> {
    let pause = run.held_up.by_error(obstacle, &error);
    run.metrics.survived(error.kind());
    run.health.set_readiness(Readiness::Waiting);
    let waited = run.alive(spooling::meanwhile(run, async {
        tokio::time::sleep(pause).await;
        Ok(Settled::GoOn)
    }));
    tokio::select! {
        biased;
        () = stop.requested() => Ok(Settled::Interrupted),
        waited = waited => waited,
    }
}

/// The operator wanted to stop while nothing could be applied.
async fn interrupted(run: &Run) -> Result<Followed> {
    let position = position(run).await?;
    let (end, _) = wal_position(&run.source).await?;
    Ok(Followed { ended: Ended::Interrupted, position, lag_bytes: position.distance_to(end) })
}

/// How one stretch of following ended.
enum Course {
    Ended(Followed),
    /// It goes on this way.
    Turned(Way),
}

/// One stretch of following. An error leaves the durable state as it is, for the next attempt.
async fn stream_once(
    run: &Run,
    stop: &mut Shutdown,
    goal: Goal,
    allowed: Allowed,
    refusals: Refusals,
    way: Way,
) -> Result<Course> {
    let (applier, mut supply, horizon) = stop.or_stop(connect(run, allowed, refusals, way)).await?;
    run.held_up.over(Obstacle::Connections);
    applier.stats().observe_groups(run.metrics.clone());
    run.metrics.waiting_for_operator(false);
    let mut gauge = Gauge::new(run, applier.stats());
    let (monitor, seen) = (Monitor::of(run), Arc::clone(&horizon));
    let monitor = async move { monitor.run(&seen).await.map(|never| match never {}) };
    supply.tasks().spawn(monitor.in_current_span());

    let positions = applier.positions();
    let mut before = Lsn::ZERO;
    // What moves, or has nothing to do, waits for nobody.
    let at_work = || {
        let applied = positions.borrow().watermark.applied();
        std::mem::replace(&mut before, applied) < applied || horizon.lag_bytes(applied) == Some(0)
    };
    let ended = tokio::select! {
        ended = watch(run, stop, &applier, &mut supply, &horizon, &mut gauge, goal) => ended,
        never = locks::look_out(run, at_work) => match never {},
    };
    // Reading ends first; what has arrived is then brought to its end, or given up with the applier.
    let ended = match ended {
        Ok(ended) => supply.end_reading(&applier).await.map(|()| ended),
        Err(error) => Err(error),
    };
    let finished = match ended {
        Ok(ended @ Watched::Turned(_)) => match tokio::time::timeout(TURN_WAIT, applier.finish()).await {
            Ok(finished) => finished.map(|positions| (ended, Some(positions.watermark.confirmed()))),
            // The target is held up. What it has not committed comes again, from the spool.
            Err(_) => Ok((ended, None)),
        },
        Ok(ended) => applier.finish().await.map(|positions| (ended, Some(positions.watermark.confirmed()))),
        Err(error) => Err(error),
    };
    gauge.count();
    supply.close(run, finished.as_ref().ok().and_then(|(_, position)| *position)).await?;
    let (ended, position) = finished?;
    match (ended, position) {
        (Watched::Turned(way), _) => Ok(Course::Turned(way)),
        (Watched::Ended(ended), Some(position)) => {
            let lag_bytes = horizon.lag_bytes(position).unwrap_or(0);
            Ok(Course::Ended(Followed { ended, position, lag_bytes }))
        }
        (Watched::Ended(_), None) => unreachable!("an end is waited for"),
    }
}

/// Takes up the stream where the target stands.
async fn connect(
    run: &Run,
    allowed: Allowed,
    refusals: Refusals,
    way: Way,
) -> Result<(Applier, Supply, Arc<Horizon>)> {
    leftover::end_apply_sessions(run).await;
    unseen::set_aside(run).await?;
    let spool = match (spooling::resume(run).await?, way) {
        (None, Way::Spool) => spooling::begin(run).await?,
        (spool, Way::Direct | Way::Spool) => spool,
    };
    let start = position(run).await?;
    let horizon = Arc::new(Horizon::starting_at(start));
    // The first of the two looks without which no lag is known: the monitor's own is then the second.
    let (position, clock) = wal_position(&run.source).await?;
    horizon.source_is_at(position, clock);
    let mut apply = apply_options(run, start, run.source_version.pgoutput_version()).await?;
    let is_parked = !quarantine::parked(run).await?.is_empty();
    apply.refusals = if is_parked && run.options.quarantine.parks() { Refusals::Park } else { refusals };
    // Parked rows are told from others by the text of their keys.
    let allowed = if is_parked || apply.refusals == Refusals::Park { Allowed::TextOnly } else { allowed };
    let spool = match spool {
        Some(spool) => spool,
        None => {
            apply.values = format::choose(run, &apply, allowed);
            let format = format::of_tuples(&apply.values);
            let applier = Applier::start(apply).await.map_err(|error| error.on(Side::Target))?;
            let (reader, reports) = direct(run, start, format, &applier).await?;
            let runtime = reader.runtime();
            let read = read(reader, applier.input(), Arc::clone(&horizon));
            return Ok((applier, Supply::direct(run, &runtime, read, reports), horizon));
        }
    };
    // What is spooled cannot be asked for again in another format, and text is read everywhere.
    let applier = Applier::start(apply).await.map_err(|error| error.on(Side::Target))?;
    let supply = Supply::spooled(run, spool, &applier, Arc::clone(&horizon)).await?;
    Ok((applier, supply, horizon))
}

/// The stream straight from the source, and the reports back to it.
async fn direct(
    run: &Run,
    start: Lsn,
    format: TupleFormat,
    applier: &Applier,
) -> Result<(StreamReader, Reports<impl Fn() -> FeedbackPositions + Send + 'static>)> {
    let publications = run.publications().await?;
    let options = StreamOptions { server: run.source_version, format, publications: &publications };
    // A walsender of an earlier connection holds the slot until it notices that we are gone.
    free_slot(&run.source, &run.id.slot()).await?;
    let on_source = |error: Error| error.on(Side::Source);
    let (reader, feedback) =
        start_stream(&run.options.source, &run.id.slot(), start, &options).await.map_err(on_source)?;
    tracing::info!(lsn = %start, format = ?format, "streaming");
    let positions = applier.positions();
    let positions = move || {
        let now = positions.borrow().watermark;
        FeedbackPositions { received: now.received(), flushed: now.confirmed(), applied: now.applied() }
    };
    Ok((reader, Reports::new(feedback, run.options.status_interval, positions)))
}

pub(super) async fn apply_options(run: &Run, start: Lsn, protocol_version: u8) -> Result<ApplyOptions> {
    let mut options = ApplyOptions::new(run.options.target.clone(), run.id.slot(), protocol_version, start);
    let on_source = async {
        // The position first: what is read after it knows of everything from before it.
        let (as_of, _) = wal_position(&run.source).await?;
        Ok(SourceNow::new(catalog::load(&run.source).await?.tables, as_of))
    };
    let (target, source) = tokio::try_join!(catalog::load(&run.target), on_source)?;
    (options.tables, options.source) = (target.tables, source);
    drift::adopt_new(run, &options.tables).await?;
    options.watermarks = watermarks(run).await?.into_iter().collect();
    options.lanes = run.options.apply_lanes;
    options.replica_role = run.target_may.replica_role;
    options.search_path = Some(source_search_path(&run.source).await?);
    if let Some(directory) = &run.options.work_dir {
        options.stash_directory.clone_from(directory);
    }
    Ok(options)
}

/// Moves items from the wire to the applier; the bounded queue between them is the source's brake.
async fn read(mut reader: StreamReader, input: ApplyInput, horizon: Arc<Horizon>) -> Result<()> {
    loop {
        let items = reader.next_batch().await.map_err(|error| error.on(Side::Source))?;
        if items.is_empty() {
            break;
        }
        for item in &items {
            horizon.saw(item);
        }
        input.send(items).await?;
    }
    Err(Error::new(ErrorKind::Connect, "read the stream").because("the walsender ended it").on(Side::Source))
}

/// Why watching ended.
enum Watched {
    Ended(Ended),
    /// It goes on another way.
    Turned(Way),
}

/// Waits for the goal, the operator or an error, and shows how it goes meanwhile.
async fn watch(
    run: &Run,
    stop: &mut Shutdown,
    applier: &Applier,
    supply: &mut Supply,
    horizon: &Horizon,
    gauge: &mut Gauge<'_>,
    mut goal: Goal,
) -> Result<Watched> {
    let (positions, mut confirmed) = (applier.positions(), applier.confirmed());
    let mut show = tokio::time::interval(SHOW_INTERVAL);
    let start = positions.borrow().watermark.durable();
    loop {
        confirmed.mark_unchanged();
        let now = *positions.borrow();
        if now.watermark.durable() > start {
            run.made_headway();
        }
        // A position that was only passed proves nothing.
        if now.last_commit_time.is_some() {
            run.held_up.made_headway();
        }
        match goal {
            Goal::End(end) if now.watermark.confirmed() >= end => {
                gauge.show(&now, horizon, supply.spooled_to());
                return Ok(Watched::Ended(Ended::Reached));
            }
            // Beyond it, not at it: the barrier's own commit follows its position.
            Goal::Barrier(start) if now.watermark.confirmed() > start => {
                gauge.show(&now, horizon, supply.spooled_to());
                return Ok(Watched::Ended(Ended::Reached));
            }
            Goal::Lag(bytes)
                if horizon.lag_bytes(now.watermark.confirmed()).is_some_and(|lag| lag <= bytes) =>
            {
                // What commits from here on is the operator's to prevent; all that has committed is carried.
                goal = Goal::Barrier(stop.or_stop(emit_barrier(&run.source)).await?);
            }
            Goal::Lag(_) | Goal::End(_) | Goal::Barrier(_) | Goal::None => {}
        }
        tokio::select! {
            biased;
            () = stop.requested() => return Ok(Watched::Ended(Ended::Interrupted)),
            error = applier.failed() => return Err(error.on(Side::Target)),
            Some(ended) = supply.tasks().join_next() => {
                let ended = ended.map_err(|cause| Error::new(ErrorKind::Bug, "read the stream").because(cause))?;
                match ended {
                    // The applier ended first, and knows why.
                    Err(error) if error.kind() == ErrorKind::Aborted => return Err(applier.failed().await),
                    ended => ended?,
                }
            }
            changed = confirmed.changed() => {
                changed.map_err(|cause| Error::new(ErrorKind::Aborted, "follow the applier").because(cause))?;
            }
            // On an idle source nothing else wakes who waits for a lag.
            () = horizon.looked(), if matches!(goal, Goal::Lag(_)) => {}
            _ = show.tick() => {
                let now = *positions.borrow();
                gauge.show(&now, horizon, supply.spooled_to());
                run.health.beat(Instant::now());
                let standing = gauge.lag().map(|(bytes, age)| Standing {
                    bytes,
                    age,
                    work_done: applier.work_done(),
                    durable: now.watermark.durable(),
                    has_committed: now.last_commit_time.is_some(),
                });
                if let Some(way) = supply.turn(run, standing) {
                    return Ok(Watched::Turned(way));
                }
            }
        }
    }
}
