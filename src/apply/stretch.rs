//! How far a group may grow beyond its bounds while the stream lags.
//!
//! Hazard: a group that is too small pays a round trip and a flush for little work, and over a long way that
//! is most of the time; where its changes are spread over many tables, it pays a statement for a few rows of each.
//! The rows themselves cost less in a large group, too: more of them are changed once for several changes, they are
//! found in the order of their keys, and a page that one transaction changes several times is tidied once. One that
//! is too large holds locks, memory and the news for longer than it has to. So the bounds double while full groups
//! take a moment only, or the fixed part of what they cost is noticeable, and halve when they take long.
//!
//! ```text
//!   a full group takes  < 0.15 s: stretch │  fixed part > 1/16, < 2 s: stretch  │  > 1 s, fixed part < 1/64: draw in
//! ```

use std::time::Duration;

use super::climb::Pressure;
use super::group::GroupBounds;

/// Times the bounds, at the most.
const FACTOR_MAX: usize = 8;
/// The same for bytes, of which a group is held several times: read, planned, written.
const BYTES_FACTOR_MAX: usize = 4;
/// A full group that takes less may be larger.
const GROUP_MIN: Duration = Duration::from_millis(150);
/// One that takes more is too large, unless what it costs by itself is noticeable.
const GROUP_LONG: Duration = Duration::from_secs(1);
/// A group that took this long is large enough, whatever its fixed part.
const GROUP_MAX: Duration = Duration::from_secs(2);
/// What a statement costs before its first row, roughly: bound and started, often enough planned, too.
const STATEMENT: Duration = Duration::from_micros(100);

/// What a group that was committed has cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cost {
    /// Round trips during which nothing else could be done.
    pub(super) fixed: Duration,
    /// Statements that changed rows: mostly one for each kind of change of each table, however many rows.
    pub(super) statements: u32,
    /// From its begin to the answer to its COMMIT.
    pub(super) elapsed: Duration,
    pub(super) changes: u64,
}

/// Bounds that adapt.
#[derive(Debug)]
pub(super) struct Stretch {
    floor: GroupBounds,
    factor: usize,
}

impl Stretch {
    pub(super) fn from(floor: GroupBounds) -> Stretch {
        Stretch { floor, factor: 1 }
    }

    /// What groups may have now.
    pub(super) fn bounds(&self) -> GroupBounds {
        GroupBounds {
            changes: self.floor.changes.saturating_mul(self.factor),
            bytes: self.floor.bytes.saturating_mul(self.factor.min(BYTES_FACTOR_MAX)),
            age: self.floor.age,
        }
    }

    /// A group, or a lane's share of it, has been committed, and the next is handed over. Nothing is learnt unless that
    /// one is full, or where the last was small: they were handed over because nobody had to wait, and one that is
    /// soon done says nothing of how long a larger one would hold its locks.
    pub(super) fn observe(&mut self, cost: Cost, next: Pressure) {
        if next != Pressure::Full || cost.changes < self.floor.changes as u64 / 16 {
            return;
        }
        let fixed = cost.fixed + STATEMENT * cost.statements;
        if cost.elapsed < GROUP_MIN || fixed * 16 > cost.elapsed && cost.elapsed < GROUP_MAX {
            self.factor = FACTOR_MAX.min(self.factor * 2);
        } else if cost.elapsed > GROUP_LONG && fixed * 64 < cost.elapsed {
            self.factor = (self.factor / 2).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups of a target that takes so long for a change and `trip` for each of three round trips.
    fn settle(stretch: &mut Stretch, change: Duration, trip: Duration) -> GroupBounds {
        for _ in 0..10 {
            let changes = stretch.bounds().changes as u32;
            let fixed = trip * 3;
            let elapsed = fixed + change * changes;
            stretch.observe(Cost { fixed, statements: 4, elapsed, changes: changes.into() }, Pressure::Full);
        }
        stretch.bounds()
    }

    const NEAR: Duration = Duration::from_micros(200);

    #[test]
    fn groups_grow_until_they_take_a_moment_and_shrink_where_they_take_long() {
        let floor = GroupBounds::default();
        let mut stretch = Stretch::from(floor);
        assert_eq!(settle(&mut stretch, Duration::from_micros(20), NEAR), floor, "a fifth of a second");
        let quick = settle(&mut stretch, Duration::from_micros(2), NEAR);
        assert_eq!((quick.changes, quick.bytes), (floor.changes * 8, floor.bytes * 4));
        assert_eq!(settle(&mut stretch, Duration::from_micros(10), NEAR), quick, "0.8 s");
        assert_eq!(settle(&mut stretch, Duration::from_micros(40), NEAR).changes, floor.changes * 2);
        assert_eq!(settle(&mut stretch, Duration::from_micros(200), NEAR), floor);
    }

    #[test]
    fn groups_grow_with_the_way() {
        let mut stretch = Stretch::from(GroupBounds::default());
        let (slow, far) = (Duration::from_micros(20), Duration::from_millis(20));
        assert!(settle(&mut stretch, slow, far).changes > settle(&mut stretch, slow * 2, NEAR).changes);
    }

    #[test]
    fn groups_grow_where_their_changes_are_spread_over_many_tables() {
        let mut stretch = Stretch::from(GroupBounds::default());
        let elapsed = STATEMENT * 2_000 + Duration::from_millis(400);
        stretch
            .observe(Cost { fixed: Duration::ZERO, statements: 4, elapsed, changes: 10_000 }, Pressure::Full);
        assert_eq!(stretch.bounds(), GroupBounds::default());
        stretch.observe(
            Cost { fixed: Duration::ZERO, statements: 2_000, elapsed, changes: 10_000 },
            Pressure::Full,
        );
        assert!(stretch.bounds().changes > GroupBounds::default().changes);
    }

    #[test]
    fn small_groups_tell_nothing_nor_do_those_that_nobody_waits_behind() {
        let mut stretch = Stretch::from(GroupBounds::default());
        let elapsed = Duration::from_millis(40);
        let cost = |changes| Cost { fixed: elapsed, statements: 4, elapsed, changes };
        stretch.observe(cost(4), Pressure::Full);
        for next in [Pressure::None, Pressure::Some] {
            stretch.observe(cost(9_000), next);
        }
        assert_eq!(stretch.bounds(), GroupBounds::default());
        stretch.observe(cost(9_000), Pressure::Full);
        assert!(stretch.bounds().changes > GroupBounds::default().changes);
    }
}
