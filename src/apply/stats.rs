//! Counters of what was applied, for whoever shows them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::change::{Op, Step};
use crate::telemetry::{ApplyGroup, DatabaseMetrics};

/// Why a chunk was replayed row by row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FallbackReason {
    /// A unique index stood between two rows of a batch.
    Unique,
    /// An exclusion constraint did.
    Exclusion,
    /// A statement touched another number of rows than were sent.
    Mismatch,
    /// The target refused a value or a statement.
    Refused,
}

impl FallbackReason {
    /// All of them.
    pub const ALL: [FallbackReason; 4] = [
        FallbackReason::Unique,
        FallbackReason::Exclusion,
        FallbackReason::Mismatch,
        FallbackReason::Refused,
    ];

    /// As a metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            FallbackReason::Unique => "unique",
            FallbackReason::Exclusion => "exclusion",
            FallbackReason::Mismatch => "mismatch",
            FallbackReason::Refused => "refused",
        }
    }
}

/// What was applied since the start. Counted when the target has committed it.
#[derive(Debug, Default)]
pub struct ApplyStats {
    /// The source's transactions.
    pub transactions: AtomicU64,
    /// The source's inserts, however they were written.
    pub inserts: AtomicU64,
    /// The source's updates.
    pub updates: AtomicU64,
    /// The source's deletes.
    pub deletes: AtomicU64,
    /// The source's TRUNCATE statements.
    pub truncates: AtomicU64,
    /// Shares of groups that lanes applied side by side.
    pub shares: AtomicU64,
    /// Target transactions.
    pub groups: AtomicU64,
    /// Microseconds from the begin of each of them to its commit, summed.
    pub group_micros: AtomicU64,
    /// Groups tried again after a deadlock or a lock that was not had in time (P99).
    pub retries: AtomicU64,
    /// Changes parked since the start, because the target refuses their row.
    pub parked_changes: AtomicU64,
    /// Rows that are parked now.
    pub parked_rows: AtomicU64,
    fallbacks: [AtomicU64; FallbackReason::ALL.len()],
    observer: OnceLock<DatabaseMetrics>,
}

impl ApplyStats {
    /// Observes each group in these histograms from now on; a second observer is not heard.
    pub fn observe_groups(&self, metrics: DatabaseMetrics) {
        self.observer.get_or_init(|| metrics);
    }

    /// How often a chunk was replayed row by row, by reason. Counted at once, committed or not.
    #[must_use]
    pub fn fallbacks(&self, reason: FallbackReason) -> u64 {
        self.fallbacks[reason as usize].load(Ordering::Relaxed)
    }

    pub(super) fn count_fallback(&self, reason: FallbackReason) {
        self.fallbacks[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_parked(&self, changes: u64, rows: u64) {
        self.parked_changes.fetch_add(changes, Ordering::Relaxed);
        self.parked_rows.store(rows, Ordering::Relaxed);
    }

    pub(super) fn count(&self, tally: &Tally, transactions: u64, elapsed: Duration) {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let counts = [
            (&self.transactions, transactions),
            (&self.inserts, tally.inserts),
            (&self.updates, tally.updates),
            (&self.deletes, tally.deletes),
            (&self.truncates, tally.truncates),
            (&self.groups, 1),
            (&self.group_micros, micros),
        ];
        for (counter, by) in counts {
            counter.fetch_add(by, Ordering::Relaxed);
        }
        if let Some(metrics) = self.observer.get() {
            let changes = tally.inserts + tally.updates + tally.deletes + tally.truncates;
            metrics.apply_group(ApplyGroup { changes, elapsed });
        }
    }
}

/// Changes of a group that has not committed yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    inserts: u64,
    updates: u64,
    deletes: u64,
    truncates: u64,
}

impl Tally {
    pub(super) fn add(&mut self, steps: &[Step]) {
        for step in steps {
            let counter = match step {
                Step::Truncate(_) => &mut self.truncates,
                Step::Row(change) => match change.op {
                    Op::Insert { .. } => &mut self.inserts,
                    Op::Update { .. } | Op::Rekey { .. } | Op::Replace { .. } | Op::UpdateWhole { .. } => {
                        &mut self.updates
                    }
                    Op::Delete { .. } | Op::DeleteWhole { .. } => &mut self.deletes,
                },
            };
            *counter += 1;
        }
    }
}
