//! What a run came to, for whoever prints it.

use std::time::Duration;

use crate::catalog::ObjectCounts;
use crate::pg::Lsn;
use crate::precheck::Method;

/// How it ended, short of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The operator stopped it after a clean drain; the same command goes on.
    Interrupted,
    /// The target holds everything the source had when the run caught up; the slot stays, the same command goes on.
    CaughtUp,
    /// It is over: the dump is complete, or replication was stopped for good, and everything of ours removed.
    Stopped,
}

/// The check that decided for the dump, where the operator had left the choice to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decisive {
    /// Its id.
    pub check: String,
    /// What it found.
    pub message: String,
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
    /// How the rows travelled.
    pub method: Method,
    /// What decided for that method, if it was not the operator.
    pub decided_by: Option<Decisive>,
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
