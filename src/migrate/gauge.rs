//! Turns positions and counters into metrics and the progress line.
//!
//! Hazard: an idle source must not look like a growing lag (P95). Lag is measured against the position that
//! the walsender reports, which moves with everything that is decoded, and in time against the source's clock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::run::Run;
use crate::apply::{ApplyStats, FallbackReason, Positions};
use crate::pg::{Lsn, PgTimestamp};
use crate::replication::StreamItem;
use crate::telemetry::{self, ChangeKind, FollowLine, Phase, Readiness, Stage};

/// Where the source stands, and its clock.
#[derive(Debug)]
pub(super) struct Horizon {
    /// What the stream itself has told: it moves with everything that is decoded.
    streamed: AtomicU64,
    /// The end of the source's WAL at the last look but one. The last look is younger than what can have arrived,
    /// and an idle source would seem to lag by it.
    known: AtomicU64,
    seen: AtomicU64,
    clock: AtomicI64,
    looked: Notify,
}

impl Horizon {
    pub(super) fn starting_at(start: Lsn) -> Horizon {
        Horizon {
            streamed: AtomicU64::new(start.offset()),
            known: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            clock: AtomicI64::new(i64::MIN),
            looked: Notify::new(),
        }
    }

    /// An item of the stream has arrived.
    pub(super) fn saw(&self, item: &StreamItem) {
        let (StreamItem::Data { wal_end, sent, .. } | StreamItem::Keepalive { wal_end, sent }) = item;
        self.streamed.fetch_max(wal_end.offset(), Ordering::AcqRel);
        self.clock.fetch_max(sent.micros(), Ordering::AcqRel);
    }

    /// The source's WAL ends here now.
    pub(super) fn source_is_at(&self, position: Lsn, clock: PgTimestamp) {
        self.clock.fetch_max(clock.micros(), Ordering::AcqRel);
        let before = self.seen.swap(position.offset(), Ordering::AcqRel);
        self.known.store(before, Ordering::Release);
        self.looked.notify_one();
    }

    /// Waits for a look at the source, unless one came since the last wait. For one who waits.
    pub(super) async fn looked(&self) {
        self.looked.notified().await;
    }

    /// The source's position.
    fn position(&self) -> Lsn {
        Lsn::new(self.streamed.load(Ordering::Acquire).max(self.known.load(Ordering::Acquire)))
    }

    /// WAL between `position` and the source's; none before the source has been looked at twice.
    pub(super) fn lag_bytes(&self, position: Lsn) -> Option<u64> {
        (self.known.load(Ordering::Acquire) > 0).then(|| position.distance_to(self.position()))
    }

    fn clock(&self) -> PgTimestamp {
        PgTimestamp::from_micros(self.clock.load(Ordering::Acquire))
    }
}

/// How old what is missing may be, by the source's clock alone (P95).
///
/// What is not applied yet was committed after the newest commit that is, and after the last moment at which
/// the source's position was one that we have reached: the later of the two counts. The first alone would
/// take the pause before a commit for lag, the second knows nothing of the time before we began to look.
#[derive(Debug, Default)]
struct Age {
    /// Positions of the source not reached yet, and when they were its own.
    ahead: VecDeque<(Lsn, PgTimestamp)>,
    reached: Option<PgTimestamp>,
}

impl Age {
    /// Beyond this every second sample is dropped: a long lag is known less finely.
    const SAMPLES_MAX: usize = 1024;

    fn lag(&mut self, source: (Lsn, PgTimestamp), confirmed: Lsn, newest: Option<PgTimestamp>) -> Duration {
        self.ahead.push_back(source);
        while let Some((position, clock)) = self.ahead.front()
            && *position <= confirmed
        {
            self.reached = Some(*clock);
            self.ahead.pop_front();
        }
        if self.ahead.len() > Age::SAMPLES_MAX {
            let mut keep = false;
            self.ahead.retain(|_| {
                keep = !keep;
                keep
            });
        }
        let (position, now) = source;
        match newest.max(self.reached) {
            Some(since) if confirmed < position => now.since(since),
            Some(_) | None => Duration::ZERO,
        }
    }
}

/// A target that lacks no more WAL than this, a segment's worth, is in step.
const IN_STEP_BYTES_MAX: u64 = 16 << 20;

/// Shows differences since it last looked.
pub(super) struct Gauge<'a> {
    run: &'a Run,
    stats: Arc<ApplyStats>,
    shown: Counts,
    age: Age,
    lag: Option<(u64, Duration)>,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    transactions: u64,
    inserts: u64,
    updates: u64,
    deletes: u64,
    truncates: u64,
    parked: u64,
    fallbacks: [u64; FallbackReason::ALL.len()],
}

impl Counts {
    fn of(stats: &ApplyStats) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            transactions: read(&stats.transactions),
            inserts: read(&stats.inserts),
            updates: read(&stats.updates),
            deletes: read(&stats.deletes),
            truncates: read(&stats.truncates),
            parked: read(&stats.parked_changes),
            fallbacks: FallbackReason::ALL.map(|reason| stats.fallbacks(reason)),
        }
    }

    fn changes(&self) -> u64 {
        self.inserts + self.updates + self.deletes + self.truncates
    }
}

impl Gauge<'_> {
    pub(super) fn new(run: &Run, stats: Arc<ApplyStats>) -> Gauge<'_> {
        Gauge { run, stats, shown: Counts::default(), age: Age::default(), lag: None }
    }

    /// `spooled` is what is durable on local disk, where there is a spool.
    pub(super) fn show(&mut self, positions: &Positions, horizon: &Horizon, spooled: Option<Lsn>) {
        let metrics = &self.run.metrics;
        let now = positions.watermark;
        // Before the source has said where it stands a lag would read as none.
        if let Some(missing) = horizon.lag_bytes(now.confirmed()) {
            for (stage, position) in [
                (Stage::Received, spooled.unwrap_or_default().max(now.received())),
                (Stage::Assembled, now.assembled()),
                (Stage::Applied, now.applied()),
                (Stage::Durable, now.durable()),
                (Stage::Spooled, spooled.unwrap_or(now.durable())),
                (Stage::Confirmed, spooled.unwrap_or_default().max(now.confirmed())),
            ] {
                metrics.lag_bytes(stage, position.distance_to(horizon.position()));
            }
            let source = (horizon.position(), horizon.clock());
            let age = self.age.lag(source, now.confirmed(), positions.last_commit_time);
            metrics.lag_seconds(age);
            self.lag = Some((missing, age));
            let complete = self.run.shown_phase() >= Phase::Following;
            self.run.health.set_readiness(match missing {
                ..=IN_STEP_BYTES_MAX if complete => Readiness::InStep,
                _ => Readiness::Behind,
            });
        }
        self.count();
        self.run.progress.follow(FollowLine {
            applied: now.applied(),
            lag_bytes: now.confirmed().distance_to(horizon.position()),
            transactions: self.shown.transactions,
            changes: self.shown.changes(),
        });
    }

    /// WAL that the target lacked at the last look, and how old that was; none before it is known.
    pub(super) fn lag(&self) -> Option<(u64, Duration)> {
        self.lag
    }

    /// Adds what was applied since the last look.
    pub(super) fn count(&mut self) {
        let metrics = &self.run.metrics;
        let (now, before) = (Counts::of(&self.stats), self.shown);
        metrics.applied_transactions(now.transactions - before.transactions);
        metrics.applied_changes(ChangeKind::Insert, now.inserts - before.inserts);
        metrics.applied_changes(ChangeKind::Update, now.updates - before.updates);
        metrics.applied_changes(ChangeKind::Delete, now.deletes - before.deletes);
        metrics.applied_changes(ChangeKind::Truncate, now.truncates - before.truncates);
        metrics.parked_changes(now.parked - before.parked);
        metrics.parked_rows(self.stats.parked_rows.load(Ordering::Relaxed));
        for (index, reason) in FallbackReason::ALL.into_iter().enumerate() {
            for _ in before.fallbacks[index]..now.fallbacks[index] {
                metrics.apply_fallback(label(reason));
            }
        }
        self.shown = now;
    }
}

fn label(reason: FallbackReason) -> telemetry::FallbackReason {
    match reason {
        FallbackReason::Unique => telemetry::FallbackReason::UniqueViolation,
        FallbackReason::Exclusion => telemetry::FallbackReason::ExclusionViolation,
        FallbackReason::Mismatch => telemetry::FallbackReason::RowsMismatch,
        FallbackReason::Refused => telemetry::FallbackReason::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> PgTimestamp {
        PgTimestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_pause_before_a_commit_is_no_lag() {
        let mut age = Age::default();
        let mut lag = |end, clock, confirmed, newest| {
            age.lag((Lsn::new(end), at(clock)), Lsn::new(confirmed), Some(at(newest))).as_secs()
        };
        assert_eq!(lag(100, 1_000, 100, 1_000), 0);
        assert_eq!(lag(100, 5_000, 100, 1_000), 0, "idle for an hour");
        assert_eq!(lag(200, 5_001, 100, 1_000), 1, "one second after the first commit in an hour");
        assert_eq!(lag(300, 5_010, 100, 1_000), 10);
        assert_eq!(lag(300, 5_011, 200, 5_000), 10, "what was there at 5 001 is applied");
        assert_eq!(lag(300, 5_012, 300, 5_009), 0);
    }

    #[test]
    fn a_backlog_from_before_we_looked_has_its_age() {
        let mut age = Age::default();
        let lag = age.lag((Lsn::new(900), at(5_000)), Lsn::new(100), Some(at(1_400)));
        assert_eq!(lag.as_secs(), 3_600);
    }

    #[test]
    fn a_lag_of_days_takes_bounded_memory() {
        let mut age = Age::default();
        for second in 0..100_000 {
            age.lag((Lsn::new(second + 1), at(second.cast_signed())), Lsn::ZERO, None);
        }
        assert!(age.ahead.len() <= Age::SAMPLES_MAX);
    }
}
