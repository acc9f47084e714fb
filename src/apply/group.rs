//! Collects committed transactions until they are worth a target transaction.
//!
//! Hazard: only whole transactions may be committed on the target, and a transaction may be larger than
//! memory. So a group ends at the last commit it holds, and what came after begins the next; and one
//! transaction beyond the bounds is given out in parts, which the writer commits together.
//!
//! ```text
//!   steps: ─ T1 ─┤── T2 ──┤─ T3 (open) …
//!                         ╰ boundary: what may be handed over as a whole
//! ```

use std::time::{Duration, Instant};

use super::change::Step;
use super::event::SourceTransaction;
use crate::pg::{Lsn, PgTimestamp};

/// When a group is full; where each group costs much by itself, several times as much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupBounds {
    /// Changes.
    pub changes: usize,
    /// Bytes of the source's messages.
    pub bytes: usize,
    /// Time since its first commit, after which it waits for the writer rather than for more, unless it is so late
    /// that it may wait for more than that.
    pub age: Duration,
}

impl Default for GroupBounds {
    fn default() -> GroupBounds {
        GroupBounds { changes: 10_000, bytes: 4 << 20, age: Duration::from_millis(100) }
    }
}

/// What comes late may wait for company: so much less than it is late already, that nobody will tell. Each group
/// costs the target by itself, and a target that is behind has better to do.
const LATE_PER_WAIT: u32 = 8;
/// It waits no longer than this, however late it is.
const PATIENCE_MAX: Duration = Duration::from_millis(250);
/// What is no later than this is not behind: a COMMIT that waits for the source's disk is as late, or a busy machine.
/// It waits for nothing.
const LATE_MIN: Duration = Duration::from_millis(50);

/// The end of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GroupEnd {
    /// End of the last transaction's commit record.
    pub(super) end_lsn: Lsn,
    /// When that transaction committed; none if there is none.
    pub(super) commit_time: Option<PgTimestamp>,
    pub(super) transactions: u64,
    pub(super) changes: u64,
}

impl GroupEnd {
    /// The same end, of a group that is counted elsewhere.
    pub(super) fn uncounted(&self) -> GroupEnd {
        GroupEnd { transactions: 0, changes: 0, ..*self }
    }
}

/// What is executed at one stroke, and replayed row by row if that fails.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) steps: Vec<Step>,
    /// That the steps' indexes name.
    pub(super) transactions: Vec<SourceTransaction>,
    /// None for a part of a transaction that goes on.
    pub(super) end: Option<GroupEnd>,
}

/// Changes not yet handed over.
#[derive(Debug)]
pub(super) struct Group {
    bounds: GroupBounds,
    steps: Vec<Step>,
    transactions: Vec<SourceTransaction>,
    bytes: usize,
    /// Since when there is a whole transaction.
    since: Option<Instant>,
    /// How long it may wait for company.
    patience: Duration,
    boundary: Option<Boundary>,
    /// Changes of the open transaction that were handed over already.
    parts: Option<u64>,
}

/// The last commit.
#[derive(Debug, Clone, Copy)]
struct Boundary {
    steps: usize,
    end_lsn: Lsn,
    commit_time: PgTimestamp,
    transactions: u64,
    /// Bytes that came before it.
    bytes: usize,
}

impl Group {
    pub(super) fn new(bounds: GroupBounds) -> Group {
        Group {
            bounds,
            steps: Vec::new(),
            transactions: Vec::new(),
            bytes: 0,
            since: None,
            patience: Duration::ZERO,
            boundary: None,
            parts: None,
        }
    }

    /// A transaction begins.
    pub(super) fn begin(&mut self, transaction: SourceTransaction) {
        self.transactions.push(transaction);
    }

    /// The index of the transaction that goes on, for its steps.
    pub(super) fn transaction(&self) -> u32 {
        u32::try_from(self.transactions.len().saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// From now on groups may have these bounds.
    pub(super) fn set_bounds(&mut self, bounds: GroupBounds) {
        self.bounds = bounds;
    }

    /// A change of the transaction that goes on.
    pub(super) fn push(&mut self, step: Step, bytes: usize) {
        self.steps.push(step);
        self.bytes += bytes;
    }

    /// The transaction that goes on has ended; it was `late` when the source sent it.
    pub(super) fn commit(&mut self, end_lsn: Lsn, late: Duration, now: Instant) {
        let before = self.boundary;
        let first_step = before.map_or(0, |before| before.steps);
        let is_empty = self.steps.len() == first_step && (self.parts.is_none() || before.is_some());
        let Some(transaction) = self.transactions.last().copied() else { return };
        if is_empty {
            // It changed nothing of ours; its position travels by itself.
            self.transactions.pop();
            return;
        }
        if self.since.is_none() {
            self.since = Some(now);
            self.patience = PATIENCE_MAX.min(late.saturating_sub(LATE_MIN) / LATE_PER_WAIT);
        }
        self.boundary = Some(Boundary {
            steps: self.steps.len(),
            end_lsn,
            commit_time: transaction.commit_time,
            transactions: before.map_or(0, |before| before.transactions) + 1,
            bytes: self.bytes,
        });
    }

    /// Whether there is a whole transaction to hand over.
    pub(super) fn has_whole(&self) -> bool {
        self.boundary.is_some()
    }

    /// Whether nothing is waiting here and no part was handed over whose end is missing.
    pub(super) fn is_idle(&self) -> bool {
        self.boundary.is_none() && self.parts.is_none()
    }

    /// When a writer that is idle is given the group.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.since.map(|since| since + self.patience)
    }

    /// Nothing follows for now: no waiting for company.
    pub(super) fn hurry(&mut self) {
        self.patience = Duration::ZERO;
    }

    /// When the writer need not be idle any more to be given the group.
    pub(super) fn ripe_at(&self) -> Option<Instant> {
        self.since.map(|since| since + self.bounds.age.max(self.patience))
    }

    /// Whether it is time to hand over, even if that means to wait for the writer.
    pub(super) fn is_full(&self) -> bool {
        self.steps.len() >= self.bounds.changes || self.bytes >= self.bounds.bytes
    }

    /// The whole transactions; else, if the bounds are reached, a part of the open one; else nothing.
    pub(super) fn take(&mut self) -> Option<Chunk> {
        self.since = None;
        match self.boundary.take() {
            Some(boundary) => Some(self.take_whole(boundary)),
            None if self.is_full() => Some(self.take_part()),
            None => None,
        }
    }

    fn take_whole(&mut self, boundary: Boundary) -> Chunk {
        let mut rest = self.steps.split_off(boundary.steps);
        let steps = std::mem::take(&mut self.steps);
        let changes = self.parts.take().unwrap_or(0) + steps.len() as u64;
        // Whatever follows the boundary belongs to the transaction that goes on, the last of the list.
        let transactions = self.transactions.clone();
        let open = usize::from(transactions.len() as u64 > boundary.transactions);
        self.transactions.drain(..transactions.len() - open);
        for step in &mut rest {
            step.set_transaction(0);
        }
        self.steps = rest;
        self.bytes -= boundary.bytes;
        let end = GroupEnd {
            end_lsn: boundary.end_lsn,
            commit_time: Some(boundary.commit_time),
            transactions: boundary.transactions,
            changes,
        };
        Chunk { steps, transactions, end: Some(end) }
    }

    fn take_part(&mut self) -> Chunk {
        let steps = std::mem::take(&mut self.steps);
        *self.parts.get_or_insert(0) += steps.len() as u64;
        self.bytes = 0;
        Chunk { steps, transactions: self.transactions.clone(), end: None }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::apply::change::{Change, Op};
    use crate::apply::sample::{keyed, texts};
    use crate::pg::Xid;

    fn group(changes: usize) -> Group {
        Group::new(GroupBounds { changes, ..GroupBounds::default() })
    }

    fn begin(group: &mut Group, xid: u32) {
        let (final_lsn, commit_time) = (Lsn::ZERO, PgTimestamp::from_micros(i64::from(xid)));
        group.begin(SourceTransaction { xid: Xid::new(xid), final_lsn, commit_time });
    }

    fn change(group: &mut Group) {
        let op = Op::Insert { new: texts(&[Some("1"), Some("a"), Some("b")]) };
        let step = Step::Row(Change { table: Arc::clone(&keyed()), transaction: group.transaction(), op });
        group.push(step, 10);
    }

    #[test]
    fn an_open_transaction_waits_for_the_next_group() {
        let mut group = group(100);
        begin(&mut group, 1);
        change(&mut group);
        group.commit(Lsn::new(5), Duration::ZERO, Instant::now());
        begin(&mut group, 2);
        change(&mut group);
        change(&mut group);
        let first = group.take().unwrap();
        assert_eq!((first.steps.len(), first.end.unwrap().end_lsn), (1, Lsn::new(5)));
        assert!(group.take().is_none());
        group.commit(Lsn::new(9), Duration::ZERO, Instant::now());
        let second = group.take().unwrap();
        assert_eq!(second.steps.len(), 2);
        assert_eq!(second.transactions[0].xid, Xid::new(2));
        assert!(matches!(&second.steps[0], Step::Row(change) if change.transaction == 0));
    }

    #[test]
    fn a_transaction_beyond_the_bounds_comes_in_parts() {
        let mut group = group(2);
        begin(&mut group, 1);
        change(&mut group);
        assert!(group.take().is_none());
        change(&mut group);
        let part = group.take().unwrap();
        assert_eq!((part.steps.len(), part.end), (2, None));
        assert!(!group.is_idle());
        group.commit(Lsn::new(7), Duration::ZERO, Instant::now());
        let last = group.take().unwrap();
        assert_eq!((last.steps.len(), last.end.unwrap().changes), (0, 2));
        assert!(group.is_idle());
    }

    #[test]
    fn a_transaction_that_changed_nothing_leaves_no_trace() {
        let mut group = group(2);
        begin(&mut group, 1);
        group.commit(Lsn::new(5), Duration::ZERO, Instant::now());
        assert!(group.is_idle() && group.take().is_none());
        begin(&mut group, 2);
        change(&mut group);
        group.commit(Lsn::new(8), Duration::ZERO, Instant::now());
        assert_eq!(group.take().unwrap().transactions.len(), 1);
    }

    #[test]
    fn what_is_late_waits_for_company_and_not_for_long() {
        let now = Instant::now();
        for (late, waits, ripens) in
            [(0, 0, 100), (50, 0, 100), (130, 10, 100), (1_650, 200, 200), (80_000, 250, 250)]
        {
            let mut group = group(100);
            begin(&mut group, 1);
            change(&mut group);
            group.commit(Lsn::new(5), Duration::from_millis(late), now);
            assert_eq!(group.due_at(), Some(now + Duration::from_millis(waits)), "{late} ms late");
            assert_eq!(group.ripe_at(), Some(now + Duration::from_millis(ripens)), "{late} ms late");
            group.hurry();
            assert_eq!(group.due_at(), Some(now));
        }
    }
}
