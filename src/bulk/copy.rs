//! One wave of the copy: many tables, one snapshot, and the workers of this process.
//!
//! Hazard: a connection that breaks must cost one part, not the wave; a snapshot that is lost costs the
//! wave, and nothing less will do, because two snapshots in one table are a wrong table.
//!
//! The wave's conductor writes it on the target and ends it ([`copy_tables`]); any other process may lend a hand
//! meanwhile ([`help_copy`]). Both work in shifts: workers take parts until none is left to take; what others have
//! taken is then waited for, and if it comes back there is another shift.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::budget::Budget;
use super::control::{Control, Standing};
use super::partition::{Cut, TableCopy, partition};
use super::wave::{Hand, Loaded, PutOff, Wave};
use super::worker::Worker;
use crate::error::{Error, ErrorKind, Recovery, Result, describe};
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
    /// Whether each part waits for the target's disk.
    pub commit: LoadCommit,
    /// What a table that was rewritten after the snapshot means for the others.
    pub rewritten: OnRewrite,
    /// Counts payload bytes as they pass.
    pub meter: Arc<Meter>,
    /// What a worker waits for on the servers.
    pub held_up: HeldUp,
    /// From then on no table is begun any more: what is left is for a later snapshot. Those that are begun are
    /// finished, for two snapshots in one table are a wrong table.
    pub begin_until: Option<Instant>,
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

/// When a part that was loaded must be on the target's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadCommit {
    /// At its commit.
    Waits,
    /// With the next commit that waits, WAL being flushed in order. A crash before it takes rows and the note of them
    /// back together; whoever was told meanwhile must lose his own session in that crash, and ask the ledger again.
    WithTheNext,
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
    /// Whether tables were left because the snapshot had become too old to begin them.
    pub is_aged: bool,
}

/// What a worker leaves behind when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing that could be taken.
    Nothing,
    /// Parts that nobody needs to copy any more.
    TheWave,
}

/// Between two looks at what other processes have done, and at the snapshot's age.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Copies every table of the plan, with whoever joins in, and reports each on `events` as soon as it is complete.
///
/// One wave at a time on a target. When this returns nothing of it is under way in any process, unless the error is one
/// that a person has to mend.
///
/// # Errors
/// `Snapshot` when the snapshot is gone (start another wave), `Connect` when a server stayed away,
/// `Copy` for anything that needs a person. Tables reported as done are complete in every case.
/// # Cancel safety
/// Dropping the future ends the workers; what they had not committed is rolled back by the servers. The wave stays open
/// for others until [`super::settle_wave`].
pub async fn copy_tables(mut plan: CopyPlan, events: mpsc::Sender<CopyEvent>) -> Result<CopyOutcome> {
    plan.tables.sort_by_key(|table| (table.rank, std::cmp::Reverse(table.bytes)));
    let cut = Cut { split_bytes: plan.split_bytes, jobs: plan.jobs };
    let parts = partition(&plan.tables, cut, plan.source_version);
    let jobs = plan.jobs.min(parts.len());
    let control = Control::open(&plan, &parts).await?;
    let wave = Wave::new(plan, control.number(), Hand::Conductor, events);
    let mut process = Process { wave: Arc::new(wave), control, left_unbegun: None };
    if let Err(error) = process.work(jobs).await {
        match error.recovery() {
            Recovery::Retry => drop(process.end().await),
            Recovery::Operator | Recovery::Bug => process.control.try_shut().await,
        }
        return Err(error);
    }
    process.end().await
}

/// Lends a hand to a wave that another process conducts, until nothing is left to do in it.
///
/// The plan is that of [`super::OpenWave`] with this process's own connections, jobs and patience; `number` is the wave's,
/// and what is loaded here is counted in `loaded`.
///
/// # Errors
/// As [`copy_tables`]; `Snapshot` may also mean that the source is another server than the conductor's.
/// # Cancel safety
/// Dropping the future ends the workers; what they had taken and not committed is there for others again.
pub async fn help_copy(
    plan: CopyPlan,
    number: i64,
    loaded: Arc<Loaded>,
    events: mpsc::Sender<CopyEvent>,
) -> Result<()> {
    let (jobs, control) = (plan.jobs, Control::join(&plan.target, number));
    let wave = Arc::new(Wave::new(plan, number, Hand::Helper, events).counting(loaded));
    Process { wave, control, left_unbegun: None }.work(jobs).await
}

/// This process's share of a wave.
struct Process {
    wave: Arc<Wave>,
    control: Control,
    /// Parts that were left when the snapshot had become old.
    left_unbegun: Option<u64>,
}

impl Process {
    /// Works in shifts until nothing is left, here or elsewhere.
    async fn work(&mut self, jobs: usize) -> Result<()> {
        loop {
            if self.shift(jobs).await? == Left::TheWave {
                return Ok(());
            }
            let mut is_waiting = false;
            loop {
                match self.control.standing().await? {
                    Standing::Over => return Ok(()),
                    Standing::Free => break,
                    Standing::Held => self.look().await?,
                }
                if !std::mem::replace(&mut is_waiting, true) {
                    tracing::info!("nothing left to take; waiting for parts that other processes copy");
                }
            }
        }
    }

    /// Lets workers loose until none finds a part to take.
    async fn shift(&mut self, jobs: usize) -> Result<Left> {
        let mut workers = JoinSet::new();
        for _ in 0..jobs {
            workers.spawn(Worker::new(Arc::clone(&self.wave)).run().in_current_span());
        }
        let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + LOOK_INTERVAL, LOOK_INTERVAL);
        loop {
            tokio::select! {
                // The first error ends the wave: the set is dropped, and the others' transactions with it.
                ended = workers.join_next() => match ended {
                    None => return Ok(Left::Nothing),
                    Some(ended) => {
                        let ended = ended
                            .map_err(|cause| Error::new(ErrorKind::Bug, "run a copy worker").because(cause))?;
                        match ended? {
                            Left::Nothing => {}
                            Left::TheWave => return Ok(Left::TheWave),
                        }
                    }
                },
                _ = tick.tick() => match self.look().await {
                    // Whoever copies notices by himself that the target is away, and knows what that has cost.
                    Err(error) if error.recovery() == Recovery::Retry => {
                        tracing::debug!(error = %describe(&error), "the wave cannot be looked at");
                    }
                    looked => looked?,
                },
            }
        }
    }

    /// What concerns the conductor alone: news of others, and the snapshot's age.
    async fn look(&mut self) -> Result<()> {
        match self.wave.hand {
            Hand::Helper => return Ok(()),
            Hand::Conductor => {}
        }
        let news = self.control.news().await?;
        self.wave.hear(news).await;
        let is_old = self.wave.plan.begin_until.is_some_and(|until| Instant::now() >= until);
        // A snapshot under which nothing was begun would be followed by another of the kind.
        if is_old && self.left_unbegun.is_none() && self.wave.has_begun() {
            let parts = self.control.leave_unbegun().await?;
            let begun = self.wave.under_way();
            tracing::info!(parts, begun, "the snapshot is old: only what is begun is finished under it");
            self.left_unbegun = Some(parts);
        }
        Ok(())
    }

    /// Ends the wave, and tells what has not been told.
    async fn end(&mut self) -> Result<CopyOutcome> {
        let put_off = self.control.end().await?;
        let news = self.control.news().await?;
        self.wave.hear(news).await;
        // The answer to a COMMIT may have been lost, and with it the word that a table is complete.
        if !self.wave.is_all_told() {
            let complete = self.control.complete().await?;
            self.wave.hear(complete).await;
        }
        let named = |why: PutOff| {
            let tables = put_off.iter().filter(|(_, because)| *because == why);
            tables.filter_map(|(table, _)| Some(self.wave.plan.tables.get(*table)?.name.clone())).collect()
        };
        Ok(CopyOutcome {
            rewritten: named(PutOff::Rewritten),
            locked: named(PutOff::Locked),
            is_aged: self.left_unbegun.is_some_and(|parts| parts > 0),
        })
    }
}
