//! Sees to it that what was committed is also on the target's disk, and says so.
//!
//! Hazard: apply sessions do not wait for the disk at COMMIT, so a target that crashes forgets its last
//! commits, the progress in them too. That loses nothing as long as the source still has them: nothing is
//! confirmed, and no goal counts as reached, before a commit that *did* wait for the disk has come after it.
//! WAL is flushed in order, so one such commit, of one small row, makes all before it durable (P17).
//!
//! ```text
//!   lanes:   COMMIT  COMMIT  COMMIT  COMMIT …            synchronous_commit = off
//!                                │ applied
//!   flush:                       ╰─ UPDATE ─ COMMIT ─▶ durable, confirmed       = on
//! ```
//! A session of its own does that, so that no group waits for the disk. It asks for no function that only
//! some servers or roles have.

use std::sync::Arc;
use std::time::Duration;

use super::positions::{Positions, Reporter};
use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Conninfo, SlotName};
use crate::wire::{Session, SessionSettings};

/// Between two flushes: a second of WAL on the source is cheap, a flush of the target's disk is not.
const FLUSH_INTERVAL: Duration = Duration::from_millis(50);

/// It must write something: a transaction that changes nothing waits for nothing.
const FLUSH: &str = "
UPDATE pgstream.stream SET durable_lsn = $2::text::pg_lsn, flushed_at = clock_timestamp() WHERE slot = $1";

/// Makes commits durable.
#[derive(Debug)]
pub(super) struct Flusher {
    session: Session,
    slot: SlotName,
    reporter: Arc<Reporter>,
}

impl Flusher {
    /// A session that waits for the disk; until it is needed for that, it may serve for other things.
    ///
    /// # Errors
    /// As [`Session::connect`].
    pub(super) async fn connect(target: &Conninfo) -> Result<Session> {
        let settings = SessionSettings::role("flush").set("synchronous_commit", "on");
        Session::connect(target, &settings).await
    }

    /// Makes durable what an engine before this one has left: the progress that was read may be that of a commit not
    /// yet on disk, and the source is told of it at once.
    ///
    /// # Errors
    /// As [`Error::from_postgres`] classes them.
    pub(super) async fn start(session: Session, slot: &SlotName, reporter: Arc<Reporter>) -> Result<Flusher> {
        let flusher = Flusher { session, slot: slot.clone(), reporter };
        flusher.write().await?;
        Ok(flusher)
    }

    /// Flushes whenever something was applied; ends only by an error.
    ///
    /// # Errors
    /// As [`Flusher::flush`].
    /// # Cancel safety
    /// Safe.
    pub(super) async fn run(&self) -> Result<()> {
        let mut positions = self.reporter.subscribe();
        loop {
            let is_behind = |now: &Positions| now.watermark.durable() < now.watermark.applied();
            if positions.wait_for(is_behind).await.is_err() {
                return Ok(());
            }
            self.flush().await?;
            // Not a wait for something to become true: it keeps the disk from being flushed all the time.
            tokio::time::sleep(FLUSH_INTERVAL).await;
        }
    }

    /// Makes durable what is applied now.
    ///
    /// # Errors
    /// `Connect` if the session is lost; `State` if the row is gone.
    pub(super) async fn flush(&self) -> Result<()> {
        let before = self.reporter.now().watermark;
        if before.durable() < before.applied() {
            self.write().await?;
            self.reporter.flushed(before.applied());
        }
        Ok(())
    }

    async fn write(&self) -> Result<()> {
        let applied = self.reporter.now().watermark.applied();
        let doing = || format!("make the changes up to {applied} durable");
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 2] =
            [&self.slot.as_str(), &applied.to_string()];
        let touched = self.session.execute(FLUSH, &parameters).await;
        match touched.map_err(|error| Error::from_postgres(doing(), error))? {
            1 => Ok(()),
            _ => Err(Error::new(ErrorKind::State, doing()).hint(
                "Its row in pgstream.stream is gone: see that no other pgstream runs for this migration.",
            )),
        }
    }
}
