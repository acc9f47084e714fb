//! How far the stream has come.
//!
//! Hazard: the source discards WAL up to what it is told. A position reported before the target has flushed
//! everything up to it is data lost at the next crash, so the five positions move only in their order.

use super::checkpoint::Scope;
use crate::pg::Lsn;

/// Five positions; each means "everything before this byte", so all of them are *end* LSNs.
///
/// ```text
///   confirmed ≤ durable ≤ applied ≤ assembled ≤ received
/// ```
/// Asserted after each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermark {
    received: Lsn,
    assembled: Lsn,
    applied: Lsn,
    durable: Lsn,
    confirmed: Lsn,
}

impl Watermark {
    /// Everything before `start` is on the target.
    #[must_use]
    pub const fn starting_at(start: Lsn) -> Watermark {
        Watermark { received: start, assembled: start, applied: start, durable: start, confirmed: start }
    }

    /// What has arrived from the walsender.
    #[must_use]
    pub const fn received(&self) -> Lsn {
        self.received
    }

    /// Transactions known to have committed on the source.
    #[must_use]
    pub const fn assembled(&self) -> Lsn {
        self.assembled
    }

    /// Transactions whose commit the target has acknowledged.
    #[must_use]
    pub const fn applied(&self) -> Lsn {
        self.applied
    }

    /// Transactions whose commit the target has flushed.
    #[must_use]
    pub const fn durable(&self) -> Lsn {
        self.durable
    }

    /// What the source may be told; it discards the WAL before it.
    #[must_use]
    pub const fn confirmed(&self) -> Lsn {
        self.confirmed
    }

    /// Bytes up to `end` have arrived.
    pub fn receive(&mut self, end: Lsn) {
        self.received = self.received.max(end);
        self.check();
    }

    /// Every transaction that commits before `end` has been seen whole.
    pub fn assemble(&mut self, end: Lsn) {
        self.received = self.received.max(end);
        self.assembled = self.assembled.max(end);
        self.check();
    }

    /// Every transaction that commits before `end` is on the target, if not on its disk yet.
    pub fn apply(&mut self, end: Lsn) {
        self.applied = self.applied.max(end);
        self.check();
    }

    /// Nothing was to be applied between the position applied and `end`: what is durable stays so.
    pub fn pass(&mut self, end: Lsn) {
        let is_durable = self.durable == self.applied;
        self.apply(end);
        if is_durable {
            self.flush(self.applied);
        }
    }

    /// The target has flushed everything that commits before `end`.
    pub fn flush(&mut self, end: Lsn) {
        self.durable = self.durable.max(end);
        self.confirmed = self.confirmed.max(end);
        self.check();
    }

    fn check(&self) {
        assert!(
            self.confirmed <= self.durable
                && self.durable <= self.applied
                && self.applied <= self.assembled
                && self.assembled <= self.received,
            "positions out of order: {self:?}"
        );
    }
}

/// How far each lane has come. All that is applied without a gap is what the last of them has.
#[derive(Debug, Clone)]
pub(super) struct Frontier(Vec<Lsn>);

impl Frontier {
    /// One lane, at `start`.
    pub(super) fn starting_at(start: Lsn) -> Frontier {
        Frontier(vec![start])
    }

    /// So many lanes go on from where the one is.
    pub(super) fn spread(&mut self, lanes: usize) {
        self.0 = vec![self.applied(); lanes.max(1)];
    }

    /// `scope` has come to `end`; if that is everyone, one lane goes on from there.
    pub(super) fn reach(&mut self, scope: Scope, end: Lsn) {
        match scope {
            Scope::All => self.0 = vec![self.applied().max(end)],
            Scope::Lane(lane) => {
                if let Some(lane) = self.0.get_mut(lane.index()) {
                    *lane = end.max(*lane);
                }
            }
        }
    }

    /// Everything that commits before this is on the target.
    pub(super) fn applied(&self) -> Lsn {
        self.0.iter().copied().min().unwrap_or(Lsn::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::apply::checkpoint::LaneId;

    #[test]
    fn positions_never_go_back() {
        let mut watermark = Watermark::starting_at(Lsn::new(10));
        watermark.assemble(Lsn::new(30));
        watermark.apply(Lsn::new(20));
        watermark.flush(Lsn::new(20));
        watermark.apply(Lsn::new(15));
        watermark.receive(Lsn::new(5));
        let ends = [watermark.received(), watermark.assembled(), watermark.confirmed()];
        assert_eq!(ends.map(Lsn::offset), [30, 30, 20]);
    }

    #[test]
    #[should_panic(expected = "out of order")]
    fn nothing_is_applied_before_it_was_assembled() {
        Watermark::starting_at(Lsn::ZERO).apply(Lsn::new(1));
    }

    #[test]
    fn a_position_without_changes_waits_for_those_before_it() {
        let mut watermark = Watermark::starting_at(Lsn::new(10));
        watermark.assemble(Lsn::new(90));
        watermark.pass(Lsn::new(20));
        assert_eq!(watermark.confirmed(), Lsn::new(20));
        watermark.apply(Lsn::new(30));
        watermark.pass(Lsn::new(40));
        assert_eq!((watermark.applied(), watermark.confirmed()), (Lsn::new(40), Lsn::new(20)));
        watermark.flush(Lsn::new(40));
        watermark.pass(Lsn::new(50));
        assert_eq!(watermark.confirmed(), Lsn::new(50));
    }

    /// What happens next.
    #[derive(Debug, Clone)]
    enum Happening {
        Assembled,
        Applied(usize),
        Flushed,
    }

    fn happening(lanes: usize) -> impl Strategy<Value = Happening> {
        prop_oneof![
            Just(Happening::Assembled),
            (0..lanes).prop_map(Happening::Applied),
            Just(Happening::Flushed)
        ]
    }

    proptest! {
        /// Commits 1..=n are assembled in order, each lane applies its share of each in order, and flushes fall
        /// anywhere: what is applied never passes a gap, and what is confirmed never passes a flush.
        #[test]
        fn confirmed_never_passes_a_gap(steps in proptest::collection::vec(happening(3), 1..300)) {
            let mut watermark = Watermark::starting_at(Lsn::ZERO);
            let mut frontier = Frontier::starting_at(Lsn::ZERO);
            frontier.spread(3);
            let (mut assembled, mut lanes, mut flushed) = (0_u64, [0_u64; 3], 0);
            for step in steps {
                match step {
                    Happening::Assembled => {
                        assembled += 1;
                        watermark.assemble(Lsn::new(assembled));
                    }
                    Happening::Applied(lane) if lanes[lane] < assembled => {
                        lanes[lane] += 1;
                        let id = LaneId::all(3).nth(lane).unwrap();
                        frontier.reach(Scope::Lane(id), Lsn::new(lanes[lane]));
                        watermark.apply(frontier.applied());
                    }
                    Happening::Applied(_) => {}
                    Happening::Flushed => {
                        flushed = watermark.applied().offset();
                        watermark.flush(watermark.applied());
                    }
                }
                prop_assert_eq!(watermark.applied(), Lsn::new(*lanes.iter().min().unwrap()));
                prop_assert_eq!(watermark.confirmed(), Lsn::new(flushed));
            }
        }
    }
}
