//! Gives a migration up for now: an error that needs a person has come before the target was complete.
//!
//! Hazard: such an error may be the target's end (its disk is full, and the server with it gone), and the slot
//! that nobody reads then fills the source's disk (P16, P30). So what is ours on the source is known here
//! without the target, and undone first; the state on the target is set back when it can be, by this run or
//! by the next one.

use super::lock;
use super::release::{self, Undone};
use super::run::Run;
use super::spooling;
use super::state::{self, Made};
use crate::error::{Result, describe};
use crate::replication::{end_walsender, find_publications, slot_state};
use crate::telemetry::Phase;
use crate::wire::{Session, SessionSettings};

/// What was copied is worth nothing without the stream that followed it.
const COPY_ANEW: &str = "
    UPDATE pgstream.copied_table SET state = 'pending', watermark = NULL, rows = 0, bytes = 0;
    DELETE FROM pgstream.progress";

/// Leaves the source as we found it, unless the target is complete: then the slot is what lets a run go on
/// when the cause is mended, and stays.
pub(super) async fn abandon(run: &Run) {
    // Without the target its last word counts.
    let phase = run.phase().await.unwrap_or_else(|_| run.shown_phase());
    if phase > Phase::Building {
        return;
    }
    let made = run.made();
    if made.is_empty() {
        return;
    }
    // What was spooled followed the copy that is given up.
    spooling::remove_files(run).await;
    let again = match relock(run).await {
        Lock::Kept => None,
        Lock::Again(session) => Some(session),
        Lock::Dead => None,
        Lock::Taken => return,
    };
    let target = again.as_deref().unwrap_or(&run.target);
    let undone = match undo(run, made).await {
        Ok(undone) => undone,
        Err(error) => Undone { done: Vec::new(), failure: Some(error) },
    };
    match undone.failure {
        None => run
            .progress
            .note("the source is left as it was found: no slot, no publication; the next run copies anew"),
        Some(error) => {
            let slot = run.id.slot();
            tracing::error!(error = %describe(&error), "the source could not be left clean");
            run.progress.warn(&format!(
                "the source could not be left clean, look for slot {slot} and publications of that name there: {}",
                describe(&error)
            ));
        }
    }
    if let Err(error) = set_back(target, &undone.done).await {
        // The next run finds that the slot is gone, and does this then.
        tracing::warn!(error = %describe(&error), "the target could not be told");
    }
}

/// Ends the walsender of a run that was interrupted: one that waits for a lock does not notice that we are
/// gone, and would hold a half-made slot until the wait is over (P12).
pub(super) async fn hang_up(run: &Run) {
    if let Err(error) = end_walsender(&run.source, &run.id.slot()).await {
        tracing::debug!(error = %describe(&error), "the walsender could not be ended");
    }
}

async fn undo(run: &Run, made: Vec<Made>) -> Result<Undone> {
    if !run.source.is_closed() {
        return Ok(release::undo_all(&run.source, made).await);
    }
    let source = Session::connect(&run.options.source, &SessionSettings::role("control")).await?;
    Ok(release::undo_all(&source, made).await)
}

/// The lock that says that the slot and all else are ours to undo.
enum Lock {
    /// We had it all the time.
    Kept,
    /// It went with our session, and nobody else had taken it.
    Again(Box<Session>),
    /// Nobody has it: the server is gone.
    Dead,
    /// Another engine works on: what is on the source is its own now.
    Taken,
}

async fn relock(run: &Run) -> Lock {
    if !run.target.is_closed() {
        return Lock::Kept;
    }
    let Ok(session) = Session::connect(&run.options.target, &SessionSettings::role("control")).await else {
        return Lock::Dead;
    };
    match lock::lock(&session).await {
        Ok(()) => Lock::Again(Box::new(session)),
        Err(_) if session.is_closed() => Lock::Dead,
        Err(_) => Lock::Taken,
    }
}

async fn set_back(target: &Session, undone: &[Made]) -> Result<()> {
    for made in undone {
        state::forget(target, made).await?;
    }
    begin_anew(target).await.map(drop)
}

/// Sets the state back to before the copy; returns the phase it then has.
async fn begin_anew(target: &Session) -> Result<Phase> {
    let phase = match state::find(target).await? {
        Some(state) if state.phase == Phase::Planned => Phase::Planned,
        _ => Phase::SchemaReady,
    };
    state::enter(target, phase, COPY_ANEW).await?;
    Ok(phase)
}

/// Sets the state back if an earlier run gave up and could not tell the target: its slot is gone, or, where
/// the slot could not be dropped, a publication. Without either there is no stream to go on with.
pub(super) async fn notice(run: &Run, phase: Phase) -> Result<Phase> {
    if !(Phase::Copying..=Phase::Building).contains(&phase) {
        return Ok(phase);
    }
    let gone = if slot_state(&run.source, &run.id.slot()).await?.is_none() {
        "the slot"
    } else if !publications_stand(run).await? {
        "a publication"
    } else {
        return Ok(phase);
    };
    run.progress.note(&format!("{gone} of the copy that was begun is gone from the source: copying anew"));
    begin_anew(&run.target).await
}

async fn publications_stand(run: &Run) -> Result<bool> {
    let found = find_publications(&run.source, run.id.publication().raw()).await?;
    let journalled = run.publications().await?;
    Ok(journalled.iter().all(|name| found.iter().any(|found| found.name == *name)))
}
