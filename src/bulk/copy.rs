//! One wave of the copy: many tables, one snapshot, a fixed number of workers.
//!
//! Hazard: a connection that breaks must cost one part, not the wave; a snapshot that is lost costs the
//! wave, and nothing less will do, because two snapshots in one table are a wrong table.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::budget::Budget;
use super::partition::{Cut, Part, TableCopy, partition};
use super::worker::Worker;
use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Conninfo, Lsn, QualifiedName, ServerVersion};
use crate::telemetry::HeldUp;
use crate::wire::Meter;

/// What to copy, from where, under which snapshot.
#[derive(Debug)]
pub struct CopyPlan {
    /// The source database.
    pub source: Conninfo,
    /// The target database.
    pub target: Conninfo,
    /// The source's version.
    pub source_version: ServerVersion,
    /// The keeper's snapshot.
    pub snapshot: String,
    /// The LSN of that snapshot; becomes the tables' watermark.
    pub watermark: Lsn,
    /// Tables, in any order.
    pub tables: Vec<TableCopy>,
    /// Workers; each holds one connection to either end while it has a turn.
    pub jobs: usize,
    /// Where the workers take their turns.
    pub budget: Budget,
    /// Tables larger than this are cut (bytes).
    pub split_bytes: u64,
    /// How long a part waits for ACCESS SHARE on its table (P26).
    pub lock_timeout: Duration,
    /// `client_encoding` of both ends (P63).
    pub encoding: String,
    /// The source database's `search_path`, lent to a load in which a function of the target's own (a CHECK's,
    /// a domain's, an index's) does not find what it names (P58).
    pub search_path: String,
    /// Whether triggers and foreign keys exist already and must not fire.
    pub replica_role: LoadRole,
    /// What a table that was rewritten after the snapshot means for the others.
    pub rewritten: OnRewrite,
    /// Counts payload bytes as they pass.
    pub meter: Arc<Meter>,
    /// What a worker waits for on the servers.
    pub held_up: HeldUp,
}

/// What becomes of a wave when the snapshot can no longer show one of its tables (P15).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRewrite {
    /// The table waits for a later snapshot, which the stream makes consistent with this one.
    PutOff,
    /// There is no stream: all tables need one snapshot, and the wave ends at once.
    End,
}

/// The `session_replication_role` that rows are loaded under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadRole {
    /// The server's own: nothing that fires exists yet.
    Origin,
    /// `replica`: ordinary triggers and foreign keys stay quiet (P47).
    Replica,
    /// The same, where only `aiven_extras.session_replication_role` may set it (P48).
    ReplicaThroughAivenExtras,
}

/// A table that is complete and noted as such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopiedTable {
    /// Its name.
    pub name: QualifiedName,
    /// Rows.
    pub rows: u64,
    /// COPY bytes.
    pub bytes: u64,
    /// From its first part's start to its last part's end.
    pub elapsed: Duration,
}

/// What happens while a wave runs; one or two per table, none per row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyEvent {
    /// The first part of a table begins.
    Started {
        /// The table.
        name: QualifiedName,
        /// Its size on the source.
        bytes: u64,
    },
    /// A table is complete.
    Done(CopiedTable),
}

/// How a wave ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CopyOutcome {
    /// Tables that were rewritten or truncated on the source after the snapshot was taken (P15): untouched
    /// here, to be copied under a later snapshot.
    pub rewritten: Vec<QualifiedName>,
    /// Tables that somebody kept locked for longer than we wait (P26): to be tried again later.
    pub locked: Vec<QualifiedName>,
}

/// Running totals of one table.
#[derive(Debug)]
pub(super) struct TableProgress {
    pub(super) parts_left: AtomicUsize,
    pub(super) rows: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) started: std::sync::OnceLock<Instant>,
    /// Why the rest of its parts are left for a later wave.
    pub(super) put_off: std::sync::OnceLock<PutOff>,
}

/// Why a table is not copied in this wave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PutOff {
    Rewritten,
    Locked,
}

/// What a worker leaves behind when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// The queue is empty.
    Nothing,
    /// Parts that nobody needs to copy any more.
    TheWave,
}

/// What the workers of a wave share.
#[derive(Debug)]
pub(super) struct Wave {
    pub(super) plan: CopyPlan,
    pub(super) progress: Vec<TableProgress>,
    pub(super) queue: crossbeam_channel::Receiver<Part>,
    pub(super) events: mpsc::Sender<CopyEvent>,
}

/// Copies every table of the plan and reports each on `events` as soon as it is complete.
///
/// # Errors
/// `Snapshot` when the snapshot is gone (start another wave), `Connect` when a server stayed away,
/// `Copy` for anything that needs a person. Tables reported as done are complete in every case.
/// # Cancel safety
/// Dropping the future ends the workers; what they had not committed is rolled back by the servers.
pub async fn copy_tables(plan: CopyPlan, events: mpsc::Sender<CopyEvent>) -> Result<CopyOutcome> {
    let parts =
        partition(&plan.tables, Cut { split_bytes: plan.split_bytes, jobs: plan.jobs }, plan.source_version);
    let jobs = plan.jobs.min(parts.len());
    let mut parts_left = vec![0; plan.tables.len()];
    let (sender, queue) = crossbeam_channel::unbounded();
    for part in parts {
        parts_left[part.table] += 1;
        sender.send(part).expect("the receiver is held here");
    }
    drop(sender);
    let progress = parts_left
        .into_iter()
        .map(|parts_left| TableProgress {
            parts_left: AtomicUsize::new(parts_left),
            rows: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            started: std::sync::OnceLock::new(),
            put_off: std::sync::OnceLock::new(),
        })
        .collect();
    let wave = Arc::new(Wave { plan, progress, queue, events });
    Worker::empty_split_tables(&wave).await?;
    let mut workers = JoinSet::new();
    for _ in 0..jobs {
        workers.spawn(Worker::new(Arc::clone(&wave)).run().in_current_span());
    }
    while let Some(ended) = workers.join_next().await {
        // The first error ends the wave: the set is dropped, and the others' transactions with it.
        match ended.map_err(|cause| Error::new(ErrorKind::Bug, "run a copy worker").because(cause))?? {
            Left::Nothing => {}
            Left::TheWave => break,
        }
    }
    let put_off = |why: PutOff| {
        let tables = wave.plan.tables.iter().zip(&wave.progress);
        tables
            .filter(|(_, progress)| progress.put_off.get() == Some(&why))
            .map(|(table, _)| table.name.clone())
            .collect()
    };
    Ok(CopyOutcome { rewritten: put_off(PutOff::Rewritten), locked: put_off(PutOff::Locked) })
}
