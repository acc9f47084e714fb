//! Turns positions and counters into metrics and the progress line.
//!
//! Hazard: an idle source must not look like a growing lag (P95). Lag is measured against the position that
//! the walsender reports, which moves with everything that is decoded, and in time against the source's clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::run::Run;
use crate::apply::{ApplyStats, FallbackReason, Positions};
use crate::pg::{Lsn, PgTimestamp};
use crate::replication::StreamItem;
use crate::telemetry::{self, ChangeKind, FollowLine, Stage};

/// The source's position and clock, as its last keepalive or message told them.
#[derive(Debug, Default)]
pub(super) struct Horizon {
    wal_end: AtomicU64,
    clock: AtomicI64,
    /// Whether a keepalive has come: until then the position may be that of a backlog's beginning.
    told: std::sync::atomic::AtomicBool,
}

impl Horizon {
    pub(super) fn saw(&self, item: &StreamItem) {
        let (wal_end, sent) = match item {
            StreamItem::Data { wal_end, sent, .. } => (wal_end, sent),
            StreamItem::Keepalive { wal_end, sent } => {
                self.told.store(true, Ordering::Release);
                (wal_end, sent)
            }
        };
        self.wal_end.fetch_max(wal_end.offset(), Ordering::AcqRel);
        self.clock.fetch_max(sent.micros(), Ordering::AcqRel);
    }

    /// The source's position.
    fn position(&self) -> Lsn {
        Lsn::new(self.wal_end.load(Ordering::Acquire))
    }

    /// WAL between `position` and the source's; none before the source has said where it stands.
    pub(super) fn lag_bytes(&self, position: Lsn) -> Option<u64> {
        self.told.load(Ordering::Acquire).then(|| position.distance_to(self.position()))
    }

    /// Time between the last applied commit and now, by the source's clock; zero with nothing missing.
    fn lag(&self, positions: &Positions) -> Duration {
        let now = PgTimestamp::from_micros(self.clock.load(Ordering::Acquire));
        match positions.last_commit_time {
            Some(commit) if positions.watermark.confirmed() < self.position() => now.since(commit),
            Some(_) | None => Duration::ZERO,
        }
    }
}

/// Shows differences since it last looked.
pub(super) struct Gauge<'a> {
    run: &'a Run,
    stats: Arc<ApplyStats>,
    shown: Counts,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    transactions: u64,
    inserts: u64,
    updates: u64,
    deletes: u64,
    truncates: u64,
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
            fallbacks: FallbackReason::ALL.map(|reason| stats.fallbacks(reason)),
        }
    }

    fn changes(&self) -> u64 {
        self.inserts + self.updates + self.deletes + self.truncates
    }
}

impl Gauge<'_> {
    pub(super) fn new(run: &Run, stats: Arc<ApplyStats>) -> Gauge<'_> {
        Gauge { run, stats, shown: Counts::default() }
    }

    pub(super) fn show(&mut self, positions: &Positions, horizon: &Horizon) {
        let metrics = &self.run.metrics;
        let now = positions.watermark;
        for (stage, position) in [
            (Stage::Received, now.received()),
            (Stage::Assembled, now.assembled()),
            (Stage::Applied, now.applied()),
            (Stage::Durable, now.durable()),
            (Stage::Confirmed, now.confirmed()),
        ] {
            metrics.lag_bytes(stage, position.distance_to(horizon.position()));
        }
        metrics.lag_seconds(horizon.lag(positions));
        self.count();
        self.run.progress.follow(FollowLine {
            applied: now.applied(),
            lag_bytes: now.confirmed().distance_to(horizon.position()),
            transactions: self.shown.transactions,
            changes: self.shown.changes(),
        });
    }

    fn count(&mut self) {
        let metrics = &self.run.metrics;
        let (now, before) = (Counts::of(&self.stats), self.shown);
        metrics.applied_transactions(now.transactions - before.transactions);
        metrics.applied_changes(ChangeKind::Insert, now.inserts - before.inserts);
        metrics.applied_changes(ChangeKind::Update, now.updates - before.updates);
        metrics.applied_changes(ChangeKind::Delete, now.deletes - before.deletes);
        metrics.applied_changes(ChangeKind::Truncate, now.truncates - before.truncates);
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
