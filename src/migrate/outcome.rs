//! What a run came to, for whoever prints it.

use std::time::Duration;

use super::follow::Followed;
use super::state::{self, MigrationId};
use crate::apply::{self, LaneId};
use crate::bulk::ledger::{self, TableState};
use crate::catalog::{self, ObjectCounts};
use crate::error::Result;
use crate::pg::Lsn;
use crate::wire::Session;

/// How it ended, short of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The operator stopped it after a clean drain; the same command goes on.
    Interrupted,
    /// The target holds everything the source had when the run caught up; the slot stays, the same command goes on.
    CaughtUp,
    /// Replication was stopped for good and everything of ours removed.
    Stopped,
}

/// Figures of one database.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// Tables whose rows move.
    pub tables: u64,
    /// Rows copied in bulk, over all runs of this migration.
    pub rows_copied: u64,
    /// COPY bytes, over all runs.
    pub bytes_copied: u64,
    /// Source transactions applied, over all runs.
    pub transactions_applied: u64,
    /// Row changes applied, over all runs.
    pub changes_applied: u64,
    /// Between the source's position and what is durable on the target, when last looked at.
    pub lag_bytes: u64,
    /// How long this run took.
    pub elapsed: Duration,
}

/// The result for one database.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The source database.
    pub database: String,
    /// How it ended.
    pub ended: Ended,
    /// Everything up to here is durable on the target; an end position.
    pub position: Lsn,
    /// Where the stream began: the position of the first snapshot.
    pub consistent_point: Option<Lsn>,
    /// What the target database holds.
    pub objects: ObjectCounts,
    /// Figures.
    pub figures: Figures,
    /// Everything that was not carried as it was, or that the operator must look at.
    pub warnings: Vec<String>,
}

/// Reads what a migration has come to from its records on the target.
pub(super) async fn read(
    target: &Session,
    id: &MigrationId,
    database: &str,
    ended: Ended,
    followed: &Followed,
) -> Result<Outcome> {
    let tables = ledger::read(target).await?;
    let mut figures =
        Figures { tables: tables.len() as u64, lag_bytes: followed.lag_bytes, ..Figures::default() };
    for state in tables.values() {
        if let TableState::Copied { rows, bytes, .. } = state {
            figures.rows_copied += rows;
            figures.bytes_copied += bytes;
        }
    }
    let progress = apply::read_progress(target, &id.slot(), LaneId::FIRST).await?;
    if let Some(progress) = progress {
        figures.transactions_applied = progress.transactions.unsigned_abs();
        figures.changes_applied = progress.changes.unsigned_abs();
    }
    Ok(Outcome {
        database: database.to_owned(),
        ended,
        position: followed.position,
        consistent_point: state::find(target).await?.and_then(|state| state.consistent_point),
        objects: catalog::count_objects(target).await?,
        figures,
        warnings: state::warnings(target).await?,
    })
}
