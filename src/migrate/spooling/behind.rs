//! When changes that wait for the target are taken to local disk while it is followed.
//!
//! Hazard: a spool costs a copy of every byte, and the way there breaks off what the target is at. So it is taken only
//! by a target that lacks much, or has lacked something for long, and that does not gain: one that stands still, or
//! that falls ever further behind. One that works its way through a backlog, or through one large transaction, is left
//! alone.

use std::time::{Duration, Instant};

use crate::pg::Lsn;

/// What is older than this is as bad as much WAL: somebody may think that nobody wants the slot any more (P17).
const AGE_MAX: Duration = Duration::from_secs(60);
/// A target that has done nothing for so long stands still.
const STANDING: Duration = Duration::from_secs(5);
/// One that has not come nearer for so long, whatever it has done, falls behind.
const FALLING: Duration = Duration::from_secs(60);

/// Where the target stands at one moment.
#[derive(Debug, Clone, Copy)]
pub(in crate::migrate) struct Standing {
    /// WAL that it lacks.
    pub(in crate::migrate) bytes: u64,
    /// How old that is.
    pub(in crate::migrate) age: Duration,
    /// Grows with whatever is done there, committed or not.
    pub(in crate::migrate) work_done: u64,
    /// What is durable there.
    pub(in crate::migrate) durable: Lsn,
    /// Whether anything was committed there since this stretch of following began.
    pub(in crate::migrate) has_committed: bool,
}

/// Follows how far the target is behind.
#[derive(Debug)]
pub(in crate::migrate) struct Behind {
    after_bytes: u64,
    last: Option<(u64, Lsn)>,
    mark: Option<Mark>,
}

#[derive(Debug)]
struct Mark {
    nearest: u64,
    nearest_at: Instant,
    worked_at: Instant,
}

impl Behind {
    /// `after_bytes` of WAL are much.
    pub(in crate::migrate) fn new(after_bytes: u64) -> Behind {
        Behind { after_bytes, last: None, mark: None }
    }

    /// Whether the target has done something since the last look.
    fn has_worked(&mut self, standing: &Standing) -> (bool, bool) {
        let (work_done, durable) =
            self.last.replace((standing.work_done, standing.durable)).unwrap_or_default();
        let committed = standing.durable > durable;
        (committed || standing.work_done > work_done, committed)
    }

    /// Whether it is time for the spool.
    pub(in crate::migrate) fn gains_nothing(&mut self, now: Instant, standing: Standing) -> bool {
        let (worked, committed) = self.has_worked(&standing);
        if standing.bytes < self.after_bytes && standing.age < AGE_MAX {
            self.mark = None;
            return false;
        }
        let bytes = standing.bytes;
        let mark = self.mark.get_or_insert(Mark { nearest: bytes, nearest_at: now, worked_at: now });
        if bytes < mark.nearest {
            (mark.nearest, mark.nearest_at) = (bytes, now);
        }
        if worked {
            mark.worked_at = now;
        }
        let stands = now.saturating_duration_since(mark.worked_at) >= STANDING;
        // Within one large transaction it cannot come nearer.
        stands || (committed && now.saturating_duration_since(mark.nearest_at) >= FALLING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second at which it is time, of a target that stands so at each.
    fn time_for(after_bytes: u64, at: impl Fn(u64) -> Standing) -> Option<u64> {
        let (mut behind, start) = (Behind::new(after_bytes), Instant::now());
        (0..600).find(|second| behind.gains_nothing(start + Duration::from_secs(*second), at(*second)))
    }

    fn standing(bytes: u64, age: u64, work_done: u64, durable: u64) -> Standing {
        Standing {
            bytes,
            age: Duration::from_secs(age),
            work_done,
            durable: Lsn::new(durable),
            has_committed: true,
        }
    }

    #[test]
    fn a_target_that_stands_still_is_noticed_by_bytes_or_by_age() {
        assert_eq!(time_for(100, |_| standing(100, 1, 7, 7)), Some(5));
        assert_eq!(time_for(100, |second| standing(99, second, 7, 7)), Some(65));
        assert_eq!(time_for(100, |_| standing(99, 59, 7, 7)), None);
    }

    #[test]
    fn a_backlog_that_is_worked_off_is_left_alone() {
        assert_eq!(time_for(100, |second| standing(100_000 - second, 300, second, second)), None);
        assert_eq!(time_for(100, |second| standing(100_000, 300, second, 7)), None, "one large transaction");
    }

    #[test]
    fn a_target_that_falls_ever_further_behind_is_noticed() {
        assert_eq!(time_for(100, |second| standing(100 + second, 9, second, second)), Some(60));
    }
}
