//! One migration from wherever it stands to wherever it is told to go, by as many attempts as it takes.
//!
//! Hazard: after any broken connection we cannot know what the servers have done. So nothing is carried
//! over in memory: an attempt reads the durable state on the target and goes on from there, exactly as a new
//! process would, and a retry is simply the next attempt.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::abandon;
use super::adopt::{Known, adopt};
use super::config::Options;
use super::outcome::Outcome;
use super::run::Watchers;
use super::spooling;
use super::state;
use crate::error::{Error, ErrorKind, Recovery, Result, Side, describe};
use crate::pg::SqlState;
use crate::precheck::Method;
use crate::precheck::facts::SourceFacts;
use crate::telemetry::{Obstacle, Readiness};
use crate::wire::{Session, SessionSettings};

/// How long attempts may fail one after the other, none of them getting any further, before the error
/// counts. A server's restart on a large machine takes minutes.
const PATIENCE: Duration = Duration::from_secs(10 * 60);
/// Between two attempts, at first and at the most.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// How long the work may go on without the lock, only to be heard: less than another engine needs to begin.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long it may take to keep an error on the target.
const REMEMBER: Duration = Duration::from_secs(2);

/// What an attempt came to, beside its result.
#[derive(Default)]
struct Attempt {
    /// It found or made the migration's state: both servers can be reached, and every check has passed.
    adopted: bool,
    /// It left the migration further than it was.
    headway: bool,
    /// How that migration moves its rows, once it is found or made.
    method: Option<Method>,
}

/// Runs a migration until its end, trying again while the errors are of the kind that passes.
///
/// # Errors
/// `Check` when a check blocks it; `Cancelled` when the operator stopped it before it followed; else what
/// went wrong. Running again is safe in every case.
pub async fn migrate(options: &Options, watchers: &Watchers) -> Result<Outcome> {
    migrate_seen(options, watchers, None).await
}

/// The same, from a source that was looked at a moment ago, with the same options.
pub(super) async fn migrate_seen(
    options: &Options,
    watchers: &Watchers,
    mut seen: Option<Box<SourceFacts>>,
) -> Result<Outcome> {
    let started = Instant::now();
    let mut adopted = false;
    let mut last_headway = started;
    let mut pause = PAUSE_MIN;
    loop {
        let mut attempt = Attempt::default();
        let known = if adopted { Known::ByThisRun } else { Known::No { seen: seen.take() } };
        let ended = attempt_once(options, watchers, &mut attempt, known).await;
        let error = match ended {
            Ok(mut outcome) => {
                outcome.figures.elapsed = started.elapsed();
                return Ok(outcome);
            }
            Err(error) => error,
        };
        adopted |= attempt.adopted;
        if adopted && error.kind() != ErrorKind::Cancelled {
            remember(options, &error).await;
        }
        if attempt.headway {
            last_headway = Instant::now();
            pause = PAUSE_MIN;
        }
        // The lock may be held by our own last session, which the server has not yet seen to be gone.
        let ours = adopted && !attempt.adopted && error.sqlstate() == Some(SqlState::LOCK_NOT_AVAILABLE);
        let passes = error.recovery() == Recovery::Retry || ours;
        if !adopted || !passes || watchers.shutdown.is_requested() {
            return Err(error);
        }
        // A server that answers is waited for as long as it takes; the operator has been told.
        let held_up = Obstacle::of(&error).map(|obstacle| watchers.held_up.by_error(obstacle, &error));
        if held_up.is_none() && last_headway.elapsed() > PATIENCE {
            return Err(out_of_patience(error, attempt.method));
        }
        if let Some(longer) = held_up {
            pause = longer;
            last_headway = Instant::now();
        } else {
            tracing::warn!(error = %describe(&error), pause_ms = pause.as_millis() as u64, "broke off; trying again");
            watchers.progress.note(&format!("{}; trying again", describe(&error)));
        }
        watchers.metrics.survived(error.kind());
        watchers.metrics.reconnected(error.side().unwrap_or(Side::Source));
        watchers.health.set_readiness(Readiness::Behind);
        let mut stop = watchers.shutdown.clone();
        // Nothing to wait for but time: a server is away.
        let waited = async {
            tokio::time::sleep(pause).await;
            Ok(())
        };
        stop.or_stop(waited).await?;
        pause = PAUSE_MAX.min(pause * 2);
    }
}

/// Keeps what ended an attempt on the target, where `status` finds it: also when it is the source that is away.
async fn remember(options: &Options, error: &Error) {
    let noted = async {
        let target = Session::connect(&options.target, &SessionSettings::role("control")).await?;
        state::note_error(&target, &describe(error)).await
    };
    // It helps whoever asks, and nobody waits for it.
    match tokio::time::timeout(REMEMBER, noted).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::debug!(error = %describe(&error), "the error could not be kept on the target")
        }
        Err(_) => tracing::debug!("the error could not be kept on the target in time"),
    }
}

/// A server that stays away may come back, and then the slot is what lets us go on: so it stays, and is named.
fn out_of_patience(error: Error, method: Option<Method>) -> Error {
    let advice = error.advice().map(|advice| format!("{advice}\n")).unwrap_or_default();
    let keeps = match method {
        Some(Method::Dump) => "",
        Some(Method::Replication) | None => {
            " Until then the source keeps WAL for the slot pgstream_… that stays there."
        }
    };
    Error::new(error.kind(), format!("go on after {} minutes without headway", PATIENCE.as_secs() / 60))
        .hint(format!("{advice}Run the same command again once both servers answer.{keeps}"))
        .because(error)
}

async fn attempt_once(
    options: &Options,
    watchers: &Watchers,
    attempt: &mut Attempt,
    known: Known,
) -> Result<Outcome> {
    let mut stop = watchers.shutdown.clone();
    let run = stop.or_stop(adopt(options, watchers, known)).await?;
    attempt.adopted = true;
    run.held_up.over(Obstacle::Connections);
    attempt.method = Some(run.method);
    watchers.method.set(run.method);
    // With this session the lock is lost, and another engine may be at work.
    let ended = {
        let mut work = std::pin::pin!(run.go_on(&mut stop));
        tokio::select! {
            ended = &mut work => ended,
            reason = run.target.until_closed() => {
                let lost = Error::new(ErrorKind::Connect, "keep the lock on the target database");
                // A server that dies tells one of us why: that its disk is full, say.
                tokio::time::timeout(LAST_WORDS, work)
                    .await
                    .unwrap_or_else(|_| Err(lost.because(reason.to_string())))
            }
        }
    };
    attempt.headway = run.headway.load(Ordering::Relaxed);
    let error = match ended {
        Ok(outcome) => return Ok(outcome),
        Err(error) => error,
    };
    match (error.kind(), error.recovery()) {
        // A dump has no walsender, and makes nothing on the source.
        _ if run.method == Method::Dump => {}
        (ErrorKind::Cancelled, _) => {
            abandon::hang_up(&run).await;
            spooling::tell_what_stays(&run).await;
        }
        (_, Recovery::Operator) => abandon::abandon(&run).await,
        (_, Recovery::Retry | Recovery::Bug) => {}
    }
    // A server that went away took our own session with it.
    let side = if run.target.is_closed() { Side::Target } else { Side::Source };
    Err(error.on(side))
}
