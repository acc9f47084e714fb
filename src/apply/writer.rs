//! Turns groups into target transactions, and says how far the target has come.
//!
//! Hazard: batching is optimistic. A violated constraint or a wrong number of rows rolls the chunk back, the first of a
//! group with its transaction, others to their savepoint; and the same changes are applied row by row in the source's
//! order. The progress row is written in the same transaction, so that either both are there after a crash or neither.
//!
//! ```text
//!   BEGIN ─ batches ─ progress ─ COMMIT                       few changes: all in one go
//!   BEGIN ─ batches ─ [SAVEPOINT ─ batches ─ RELEASE …] ─ progress ─ COMMIT
//!              │ fault: ROLLBACK [TO], row by row ╯  (what is refused even so is parked, if that is wanted)
//!              ╰ deadlock: ROLLBACK, the group again, a few times
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{RwLock, mpsc, watch};

use super::change::Step;
use super::checkpoint::{Checkpoint, LaneId, Scope};
use super::fault::{Verdict, refused};
use super::group::{Chunk, GroupEnd};
use super::lane::{COMMIT, Fault, FaultCause, Lane};
use super::plan::{Planned, plan_exactly};
use super::positions::{Reached, Reporter};
use super::quarantine::{News, Quarantine, Sifted};
use super::stats::{ApplyStats, Tally};
use super::stretch::Cost;
use super::write::{Body, Write, writes};
use crate::error::{Error, ErrorKind, Result};
use crate::pg::Lsn;

/// How often a group is tried before its deadlocks are the caller's.
const ATTEMPTS_MAX: u32 = 5;
/// How many of these other lanes may be at work beside.
const SHARED_ATTEMPTS_MAX: u32 = 2;
/// Changes of one round of a replay; fewer after one was refused.
const ROUND: usize = 256;
const ROUND_MIN: usize = 8;
/// Changes of a group that is committed in the same go: a round trip is much of what it costs.
const SMALL: usize = 500;

// The savepoint's name is ours alone; READ COMMITTED and READ WRITE, whatever the role's defaults are.
const BEGIN: [&str; 2] = ["BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", "SET CONSTRAINTS ALL DEFERRED"];
/// Of a group whose first chunk is to blame.
const BEGIN_ANEW: [&str; 3] = ["ROLLBACK", BEGIN[0], BEGIN[1]];
const NEXT: &str = "SAVEPOINT pgstream_chunk";
const RELEASE: &str = "RELEASE SAVEPOINT pgstream_chunk";
const BACK: &str = "ROLLBACK TO SAVEPOINT pgstream_chunk";
const BEGIN_ROUND: &str = "SAVEPOINT pgstream_round";
const ROUND_AGAIN: &str = "ROLLBACK TO SAVEPOINT pgstream_round";
const END_ROUND: &str = "RELEASE SAVEPOINT pgstream_round";

/// What the planner hands over.
#[derive(Debug)]
pub(super) enum Order {
    /// Changes, planned and encoded; `handled` is how far the stream has come when they are committed.
    Chunk { chunk: Chunk, writes: Vec<Write>, scope: Scope, handled: Lsn },
    /// Nothing was to do before this position.
    Position { scope: Scope, handled: Lsn },
    /// From here on so many lanes each have their own row, and the changes of these tables are told by key.
    Expand { lanes: usize, keyed: Arc<BTreeSet<String>> },
}

/// What the writer has done so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Done {
    /// Orders carried out.
    pub(super) orders: u64,
    /// Of the last group.
    pub(super) cost: Option<Cost>,
}

/// Applies orders on one lane.
pub(super) struct Writer {
    id: LaneId,
    lane: Lane,
    checkpoint: Arc<Checkpoint>,
    reporter: Arc<Reporter>,
    stats: Arc<ApplyStats>,
    done: Arc<watch::Sender<Vec<Done>>>,
    /// Held by each lane while it is at work; alone by one that others keep standing in the way of.
    calm: Arc<RwLock<()>>,
    /// Whether the target has not refused to commit in the same go.
    in_one_go: bool,
    /// What is parked; none if nothing is or may be. As of the last commit.
    quarantine: Option<Quarantine>,
    open: Option<Open>,
}

/// The target transaction that goes on.
#[derive(Debug)]
struct Open {
    since: Instant,
    tally: Tally,
    /// As it will be when this commits.
    quarantine: Option<Quarantine>,
    news: News,
}

/// Why a chunk was not applied.
enum Failure {
    /// The target transaction may be tried again.
    Contention(Error),
    /// In the plain form it may go.
    InOneGo,
    /// The change of this number, whatever is tried.
    Refused {
        step: usize,
        error: Error,
    },
    Final(Error),
}

impl Failure {
    fn of(fault: Fault, doing: &str) -> Failure {
        if fault.is_contention() {
            Failure::Contention(fault.into_error(doing))
        } else {
            Failure::Final(fault.into_error(doing))
        }
    }

    fn into_error(self) -> Error {
        match self {
            Failure::Contention(error) | Failure::Refused { error, .. } | Failure::Final(error) => error,
            Failure::InOneGo => Error::new(ErrorKind::Bug, "commit in one go"),
        }
    }
}

impl Writer {
    pub(super) fn new(
        id: LaneId,
        lane: Lane,
        checkpoint: Arc<Checkpoint>,
        reporter: Arc<Reporter>,
        stats: Arc<ApplyStats>,
        done: Arc<watch::Sender<Vec<Done>>>,
        calm: Arc<RwLock<()>>,
    ) -> Writer {
        let in_one_go = true;
        Writer { id, lane, checkpoint, reporter, stats, done, calm, in_one_go, quarantine: None, open: None }
    }

    /// Goes on with what is parked; none if nothing is or may be.
    pub(super) fn with(self, quarantine: Option<Quarantine>) -> Writer {
        if let Some(quarantine) = &quarantine {
            self.stats.count_parked(0, quarantine.rows());
        }
        Writer { quarantine, ..self }
    }

    /// Carries out orders until there will be no more. What is then not committed is rolled back.
    ///
    /// # Errors
    /// `Apply` for a change that the target refuses, `State` if someone else moves the progress row,
    /// `Connect` if the connection is lost: whether the last group was committed, the progress row tells.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>) -> Result<()> {
        while let Some(order) = orders.recv().await {
            let cost = match order {
                Order::Position { scope, handled } => {
                    self.reporter.reached(scope, handled, Reached::Passed);
                    None
                }
                Order::Expand { lanes, keyed } => {
                    self.expand(lanes, &keyed).await?;
                    None
                }
                Order::Chunk { chunk, writes, scope, handled } => {
                    self.chunk(&chunk, &writes, scope, handled).await?
                }
            };
            self.done.send_modify(|lanes| {
                if let Some(done) = lanes.get_mut(self.id.index()) {
                    *done = Done { orders: done.orders + 1, cost: cost.or(done.cost) };
                }
            });
        }
        if self.open.take().is_some() {
            self.rollback().await?;
        }
        Ok(())
    }

    /// The cost of the group that ends with the chunk.
    async fn chunk(
        &mut self,
        chunk: &Chunk,
        writes: &[Write],
        scope: Scope,
        handled: Lsn,
    ) -> Result<Option<Cost>> {
        // Chunks before this one are gone; only a group's first can begin the group again.
        let is_first = self.open.is_none();
        let mut attempt = 1;
        let calm = Arc::clone(&self.calm);
        let committing = loop {
            // Two lanes that keep meeting are kept apart.
            let _held = match attempt {
                ..=SHARED_ATTEMPTS_MAX => (Some(calm.read().await), None),
                _ => (None, Some(calm.write().await)),
            };
            match self.attempt(chunk, writes, scope).await {
                Ok(committing) => break committing,
                Err(Failure::Contention(error)) if is_first && attempt < ATTEMPTS_MAX => {
                    tracing::warn!(lane = self.id.index(), attempt, sqlstate = ?error.sqlstate(),
                        "a group is tried again: another session holds what it needs");
                    self.stats.retries.fetch_add(1, Ordering::Relaxed);
                    attempt += 1;
                    self.open = None;
                    self.rollback().await?;
                }
                Err(Failure::InOneGo) => {
                    self.in_one_go = false;
                    self.open = None;
                    self.rollback().await?;
                }
                Err(failure) => return Err(failure.into_error()),
            }
        };
        let Some(end) = &chunk.end else { return Ok(None) };
        self.checkpoint.advanced(scope, end);
        self.reporter.reached(scope, handled, Reached::Committed { time: end.commit_time });
        if let Scope::Lane(_) = scope {
            self.stats.shares.fetch_add(1, Ordering::Relaxed);
        }
        let Some(open) = self.open.take() else { return Ok(None) };
        self.tell_of_parked(open.quarantine, &open.news);
        let elapsed = open.since.elapsed();
        self.stats.count(&open.tally, end.transactions, elapsed);
        tracing::debug!(lane = self.id.index(), lsn = %end.end_lsn, transactions = end.transactions, changes = end.changes,
            elapsed_ms = elapsed.as_millis() as u64, "group committed");
        // COMMIT is a bare round trip; a group waits for another one, at its last statement.
        let fixed = 2 * committing;
        let statements = u32::try_from(writes.len()).unwrap_or(u32::MAX);
        Ok(Some(Cost { fixed: fixed.min(elapsed), statements, elapsed, changes: end.changes }))
    }

    /// One try of a chunk, and of the commit if it is the group's last; how long that took.
    async fn attempt(&mut self, chunk: &Chunk, writes: &[Write], scope: Scope) -> Result<Duration, Failure> {
        let is_first = self.open.is_none();
        let prologue: &[&str] = if is_first { &BEGIN } else { &[NEXT] };
        let open = self.open.get_or_insert_with(|| Open {
            since: Instant::now(),
            tally: Tally::default(),
            quarantine: self.quarantine.clone(),
            news: News::default(),
        });
        open.tally.add(&chunk.steps);
        let advance = chunk.end.as_ref().map_or_else(Vec::new, |end| self.checkpoint.advance(scope, end));
        // What follows a parked change of its row joins it; the rest goes on.
        let (quarantine, sifted) = self.sift(&chunk.steps, chunk, None)?;
        let news = sifted.as_ref().map(|sifted| sifted.news.clone()).unwrap_or_default();
        let replanned = sifted.and_then(|sifted| sifted.replanned(&chunk.steps));
        let writes = replanned.as_deref().unwrap_or(writes);
        let all: Vec<&Write> = writes.iter().chain(&advance).collect();
        // Where lanes are brought together, that is counted by itself.
        let is_plain =
            || advance.len() == 1 && !writes.iter().any(|write| matches!(write.body, Body::Copy(_)));
        let is_small = self.in_one_go && is_first && chunk.steps.len() <= SMALL && is_plain();
        let in_one_go = chunk.end.as_ref().filter(|_| is_small);
        let ran = match in_one_go {
            Some(_) => self.lane.run_and_commit(prologue, &all).await,
            None => self.lane.run(prologue, &all).await,
        };
        match ran {
            Ok(()) => {
                self.sifted(quarantine, news);
                if in_one_go.is_some() {
                    return Ok(Duration::ZERO);
                }
            }
            Err(fault) if in_one_go.is_some() && fault.is_unsupported() => return Err(Failure::InOneGo),
            Err(fault) if fault.at.is_some_and(|at| at < writes.len()) => match fault.verdict() {
                Verdict::Replay(reason) => {
                    let relation = fault.at.and_then(|at| writes.get(at)?.table.as_ref());
                    if let Some(table) = relation.filter(|_| !fault.is_unresolved()) {
                        table.caution.raise();
                    }
                    tracing::info!(
                        relation = relation.map(|table| table.name.plain()),
                        reason = reason.label(),
                        changes = chunk.steps.len(),
                        "chunk replayed row by row"
                    );
                    self.stats.count_fallback(reason);
                    let back: &[&str] = if is_first { &BEGIN_ANEW } else { &[BACK] };
                    let rolled_back = self.lane.run(back, &[]).await;
                    rolled_back.map_err(|fault| Failure::of(fault, "roll a chunk back"))?;
                    // Whatever the fault was: a change behind it may be the first to need the path.
                    let lent = self.lane.lend_search_path().await;
                    lent.map_err(Failure::Final)?;
                    self.replay(chunk, &advance).await?;
                }
                Verdict::Retry | Verdict::Stop => {
                    let table = fault.at.and_then(|at| writes.get(at)?.table.as_ref());
                    let of = table.map_or("a group".to_owned(), |table| table.name.plain());
                    return Err(Failure::of(fault, &format!("apply changes of {of}")));
                }
            },
            Err(fault) => {
                return Err(match in_one_go.filter(|_| fault.at == Some(all.len())) {
                    Some(end) => uncommitted(fault, end),
                    None => self.bookkeeping_failed(fault),
                });
            }
        }
        let since = Instant::now();
        match &chunk.end {
            Some(end) => self.commit(end).await?,
            None if is_first => {}
            None => self.bare(RELEASE, "go on with a large transaction").await?,
        }
        Ok(since.elapsed())
    }

    /// The exact way: every change by itself, in order, from the chunk's savepoint on.
    async fn replay(&mut self, chunk: &Chunk, advance: &[Write]) -> Result<(), Failure> {
        let (mut left, mut most) = (&chunk.steps[..], ROUND);
        while !left.is_empty() {
            let steps = &left[..left.len().min(most)];
            let parks = self.open.as_ref().is_some_and(|open| open.quarantine.is_some());
            if parks {
                self.bare(BEGIN_ROUND, "begin a round").await?;
            }
            let done = match self.round(steps, chunk, None).await {
                Ok(()) => steps.len(),
                Err(Failure::Refused { step, error }) if self.may_park(steps.get(step), &error) => {
                    self.bare(ROUND_AGAIN, "roll a round back").await?;
                    // What came before it has gone through, and does so again.
                    self.round(&steps[..=step], chunk, Some(&error)).await?;
                    step + 1
                }
                Err(failure) => return Err(failure),
            };
            if parks {
                self.bare(END_ROUND, "end a round").await?;
            }
            most = if done == steps.len() { ROUND.min(2 * most) } else { ROUND_MIN };
            left = &left[done..];
        }
        let advance: Vec<&Write> = advance.iter().collect();
        self.lane.run(&[], &advance).await.map_err(|fault| self.bookkeeping_failed(fault))
    }

    /// Tells changes one by one, but those of parked rows; the last was `refused`, and is parked.
    async fn round(&mut self, steps: &[Step], chunk: &Chunk, refused: Option<&Error>) -> Result<(), Failure> {
        let (quarantine, sifted) = self.sift(steps, chunk, refused)?;
        let (kept, parking, news) = match sifted {
            Some(Sifted { kept, parking, news }) => (kept, parking, news),
            None => ((0..steps.len()).collect(), Vec::new(), News::default()),
        };
        let mut told: Vec<(usize, &Step, Planned, Write)> = Vec::new();
        for (at, step) in kept.into_iter().filter_map(|at| Some((at, steps.get(at)?))) {
            for planned in plan_exactly(step) {
                let made = writes(&planned);
                told.extend(made.into_iter().map(|write| (at, step, planned.clone(), write)));
            }
        }
        let all: Vec<&Write> = told.iter().map(|(_, _, _, write)| write).collect();
        if let Err(fault) = self.lane.run(&[], &all).await {
            return Err(located(fault, &told, chunk));
        }
        let parking: Vec<&Write> = parking.iter().collect();
        self.lane.run(&[], &parking).await.map_err(|fault| Failure::of(fault, "park changes"))?;
        self.sifted(quarantine, news);
        Ok(())
    }

    /// Parts what waits for a parked row from the rest; what is parked then is known once the target has it.
    fn sift(
        &self,
        steps: &[Step],
        chunk: &Chunk,
        refused: Option<&Error>,
    ) -> Result<(Option<Quarantine>, Option<Sifted>), Failure> {
        let Some(quarantine) = self.open.as_ref().and_then(|open| open.quarantine.as_ref()) else {
            return Ok((None, None));
        };
        let mut quarantine = quarantine.clone();
        let sifted = quarantine.sift(steps, &chunk.transactions, refused).map_err(Failure::Final)?;
        Ok((Some(quarantine), Some(sifted)))
    }

    fn sifted(&mut self, quarantine: Option<Quarantine>, news: News) {
        if let Some(open) = &mut self.open {
            open.quarantine = quarantine;
            open.news.add(news);
        }
    }

    fn may_park(&self, step: Option<&Step>, error: &Error) -> bool {
        let quarantine = self.open.as_ref().and_then(|open| open.quarantine.as_ref());
        quarantine.zip(step).is_some_and(|(quarantine, step)| quarantine.may_park(step, error))
    }

    /// The transaction that parks them has committed.
    fn tell_of_parked(&mut self, quarantine: Option<Quarantine>, news: &News) {
        let Some(quarantine) = quarantine else { return };
        for (relation, rows) in &news.refused {
            tracing::warn!(
                relation,
                rows,
                "the target refuses rows; they are parked, with their later changes"
            );
        }
        self.stats.count_parked(news.changes, quarantine.rows());
        self.quarantine = Some(quarantine);
    }

    async fn expand(&mut self, lanes: usize, keyed: &BTreeSet<String>) -> Result<()> {
        let writes = self.checkpoint.expand(lanes, keyed);
        let writes: Vec<&Write> = writes.iter().collect();
        let begun = self.lane.run(&BEGIN, &writes).await;
        begun.map_err(|fault| self.bookkeeping_failed(fault).into_error())?;
        self.bare(COMMIT, "spread changes over lanes").await.map_err(Failure::into_error)?;
        self.checkpoint.expanded(lanes);
        self.reporter.spread(lanes);
        Ok(())
    }

    async fn commit(&mut self, end: &GroupEnd) -> Result<(), Failure> {
        self.lane.simple(COMMIT).await.map_err(|fault| uncommitted(fault, end))
    }

    async fn bare(&mut self, sql: &str, doing: &str) -> Result<(), Failure> {
        self.lane.simple(sql).await.map_err(|fault| Failure::of(fault, doing))
    }

    fn bookkeeping_failed(&self, fault: Fault) -> Failure {
        match fault.cause {
            FaultCause::Touched { .. } | FaultCause::Miscounted => Failure::Final(self.checkpoint.stolen()),
            _ => Failure::of(fault, "record the progress"),
        }
    }

    async fn rollback(&mut self) -> Result<()> {
        self.lane.simple("ROLLBACK").await.map_err(|fault| fault.into_error("roll a group back"))
    }
}

fn uncommitted(fault: Fault, end: &GroupEnd) -> Failure {
    match Failure::of(fault, &format!("commit the changes up to {}", end.end_lsn)) {
        // A deferred constraint: the target's own state contradicts the source's.
        Failure::Final(error) if error.kind() == ErrorKind::Sql => Failure::Final(
            error
                .into_kind(ErrorKind::Apply)
                .hint("A deferred constraint of the target refuses what the source has."),
        ),
        other => other,
    }
}

fn located(fault: Fault, round: &[(usize, &Step, Planned, Write)], chunk: &Chunk) -> Failure {
    if fault.is_contention() {
        return Failure::of(fault, "apply a change");
    }
    match fault.at.and_then(|at| round.get(at)) {
        Some((at, step, planned, _)) => {
            Failure::Refused { step: *at, error: refused(fault, step, planned, &chunk.transactions) }
        }
        None => Failure::of(fault, "apply a change"),
    }
}
