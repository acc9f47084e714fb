//! How far the stream has come.
//!
//! Hazard: the source discards WAL up to what it is told. A position reported before the target has flushed
//! everything up to it is data lost at the next crash, so the five positions move only in their order.

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

    /// Every transaction that commits before `end` is on the target, committed and flushed.
    ///
    /// One step, because apply sessions commit with `synchronous_commit = on`.
    pub fn apply(&mut self, end: Lsn) {
        self.applied = self.applied.max(end);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn positions_never_go_back() {
        let mut watermark = Watermark::starting_at(Lsn::new(10));
        watermark.assemble(Lsn::new(30));
        watermark.apply(Lsn::new(20));
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

    proptest! {
        /// Commits 1..=n are assembled and applied in order, at any interleaving: confirmed never passes a gap.
        #[test]
        fn confirmed_never_passes_a_gap(steps in proptest::collection::vec(any::<bool>(), 1..200)) {
            let mut watermark = Watermark::starting_at(Lsn::ZERO);
            let (mut assembled, mut applied) = (0, 0);
            for assemble in steps {
                if assemble {
                    assembled += 1;
                    watermark.assemble(Lsn::new(assembled));
                } else if applied < assembled {
                    applied += 1;
                    watermark.apply(Lsn::new(applied));
                }
                prop_assert_eq!(watermark.confirmed(), Lsn::new(applied));
            }
        }
    }
}
