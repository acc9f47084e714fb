//! Looks at the source while other work goes on: where it stands, and whether it still keeps our WAL.
//!
//! Hazard: a slot that is lost in the first hour of a copy must not be found in the tenth (P16), and lag that
//! is measured against what the walsender has decoded reads zero during a backlog (P95). A session of its
//! own, so that no other step waits for the answers.

use std::convert::Infallible;
use std::time::Duration;

use super::gauge::Horizon;
use super::locks;
use super::run::Run;
use crate::error::{Error, ErrorKind, Recovery, Result, describe};
use crate::pg::{Conninfo, Lsn, SlotName};
use crate::replication::{slot_state, wal_position};
use crate::telemetry::DatabaseMetrics;
use crate::wire::{Session, SessionSettings};

/// Between two looks at the source's position.
const INTERVAL: Duration = Duration::from_secs(1);
/// Between the first two, doubled after each: lag is known only from the second look on, and whoever waits for
/// it with a small database should not wait long.
const INTERVAL_FIRST: Duration = Duration::from_millis(50);
/// Before the next look at a source that is away.
const AWAY: Duration = Duration::from_secs(5);
/// Every so many of them, a look at the slot.
const SLOT_EVERY: u32 = 5;

/// What it needs of a run; it outlives borrows of it.
pub(super) struct Monitor {
    source: Conninfo,
    slot: SlotName,
    metrics: DatabaseMetrics,
}

impl Monitor {
    pub(super) fn of(run: &Run) -> Monitor {
        Monitor { source: run.options.source.clone(), slot: run.id.slot(), metrics: run.metrics.clone() }
    }

    /// Looks until something is wrong.
    ///
    /// # Errors
    /// `Slot` when the slot is gone or has lost its WAL, `Connect` when the source is away.
    pub(super) async fn run(self, horizon: &Horizon) -> Result<Infallible> {
        let session = Session::connect(&self.source, &SessionSettings::role("monitor")).await?;
        let mut pause = INTERVAL_FIRST;
        let mut looks: u32 = 0;
        loop {
            let (position, clock) = wal_position(&session).await?;
            horizon.source_is_at(position, clock);
            if looks.is_multiple_of(SLOT_EVERY) {
                self.look_at_slot(&session).await?;
            }
            looks = looks.wrapping_add(1);
            tokio::time::sleep(pause).await;
            pause = INTERVAL.min(pause * 2);
        }
    }

    async fn look_at_slot(&self, session: &Session) -> Result<()> {
        let lost = |what: &str| {
            Error::new(ErrorKind::Slot, format!("find what slot {} keeps: {what}", self.slot)).hint(
                "The changes since are lost: empty the target database and begin anew, with a larger \
                 max_slot_wal_keep_size on the source.",
            )
        };
        let Some(slot) = slot_state(session, &self.slot).await? else {
            return Err(lost("somebody dropped it"));
        };
        if slot.is_lost {
            return Err(lost("its WAL has been removed"));
        }
        self.metrics.slot_retained_bytes(slot.retained_bytes);
        if let Some(bytes) = slot.safe_bytes {
            self.metrics.slot_safe_wal_bytes(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        Ok(())
    }
}

/// Runs `work`, and the monitor beside it for as long as it takes; whoever holds a lock that it waits for is named.
///
/// A source that is away for a while is no matter here: who needs it notices by himself, and an index build
/// does not.
///
/// # Errors
/// Those of `work`, or what the monitor found.
pub(super) async fn beside<T>(run: &Run, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        done = locks::beside(run, work) => done,
        error = trouble(run) => Err(error),
    }
}

/// Looks until something is wrong that does not pass.
async fn trouble(run: &Run) -> Error {
    let horizon = Horizon::starting_at(Lsn::ZERO);
    // Most of what runs here is over by then, and a connection costs more than some of it.
    tokio::time::sleep(INTERVAL).await;
    loop {
        let Err(error) = Monitor::of(run).run(&horizon).await;
        if error.recovery() != Recovery::Retry {
            return error;
        }
        tracing::debug!(error = %describe(&error), "the source cannot be looked at");
        tokio::time::sleep(AWAY).await;
    }
}
