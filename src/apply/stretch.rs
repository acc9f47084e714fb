//! How far a group may grow beyond its bounds, so that what each group costs by itself stays small.
//!
//! Hazard: a group that is too small pays a round trip and a flush for little work, and over a long way that
//! is most of the time; where its changes are spread over many tables, it pays a statement for a few rows of each.
//! One that is too large holds locks, memory and the news for longer than it has to. So
//! the bounds double while the fixed part of what full groups cost is noticeable, and halve once it is not.
//!
//! ```text
//!   cost of a group:  │ fixed: a few round trips, statements │ work: grows with the changes … │
//!                       > 1/16 of all: stretch      < 1/64: draw in
//! ```

use std::time::Duration;

use super::group::GroupBounds;

/// Times the bounds, at the most.
const FACTOR_MAX: usize = 8;
/// The same for bytes, of which a group is held several times: read, planned, written.
const BYTES_FACTOR_MAX: usize = 4;
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

    /// A group, or a lane's share of it, has been committed. Small ones tell nothing: they were handed over
    /// because nobody had to wait.
    pub(super) fn observe(&mut self, cost: Cost) {
        if cost.changes < self.floor.changes as u64 / 16 {
            return;
        }
        let fixed = cost.fixed + STATEMENT * cost.statements;
        if fixed * 16 > cost.elapsed && cost.elapsed < GROUP_MAX {
            self.factor = FACTOR_MAX.min(self.factor * 2);
        } else if fixed * 64 < cost.elapsed {
            self.factor = (self.factor / 2).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups of a target that takes 10 µs for a change and `trip` for each of three round trips.
    fn settle(stretch: &mut Stretch, trip: Duration) -> GroupBounds {
        for _ in 0..10 {
            let changes = stretch.bounds().changes as u64;
            let fixed = trip * 3;
            let elapsed = fixed + Duration::from_micros(10 * changes);
            stretch.observe(Cost { fixed, statements: 4, elapsed, changes });
        }
        stretch.bounds()
    }

    #[test]
    fn groups_grow_with_the_way_and_shrink_again() {
        let floor = GroupBounds::default();
        let mut stretch = Stretch::from(floor);
        assert_eq!(settle(&mut stretch, Duration::from_micros(200)), floor);
        let far = settle(&mut stretch, Duration::from_millis(20));
        assert_eq!((far.changes, far.bytes), (floor.changes * 8, floor.bytes * 4));
        assert_eq!(settle(&mut stretch, Duration::from_micros(200)), floor);
    }

    #[test]
    fn groups_grow_where_their_changes_are_spread_over_many_tables() {
        let mut stretch = Stretch::from(GroupBounds::default());
        for statements in [2_000, 2_000, 2_000, 2_000, 4, 4, 4, 4] {
            let changes = stretch.bounds().changes as u64;
            let elapsed = STATEMENT * statements + Duration::from_micros(10 * changes);
            stretch.observe(Cost { fixed: Duration::ZERO, statements, elapsed, changes });
            if statements > 4 {
                assert!(stretch.bounds().changes > changes as usize || stretch.factor == FACTOR_MAX);
            }
        }
        assert_eq!(stretch.bounds(), GroupBounds::default(), "and shrink when they are not");
    }

    #[test]
    fn small_groups_tell_nothing() {
        let mut stretch = Stretch::from(GroupBounds::default());
        let cost = Duration::from_millis(40);
        stretch.observe(Cost { fixed: cost, statements: 4, elapsed: cost, changes: 4 });
        assert_eq!(stretch.bounds(), GroupBounds::default());
    }
}
