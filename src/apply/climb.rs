//! How many lanes to work in: one while the stream is kept up with, more while they pay.
//!
//! Hazard: lanes cost connections, and on a server without cores to spare they only take turns. So they are
//! added one step at a time, only while the target is what is waited for, and kept only if more was applied.
//!
//! ```text
//!   1 ──behind──▶ 2 ──faster──▶ 4        each step tried for a while;
//!   ▲             ╰─ not ─▶ 1   ╰ not ▶ 2   one that brought nothing is not tried again soon
//!   ╰──── caught up, from anywhere
//! ```

use std::fmt;
use std::num::NonZeroU8;
use std::time::{Duration, Instant};

use super::checkpoint::LaneId;

/// Full groups in a row before the stream counts as one that lags: few, as they grow.
const BEHIND_GROUPS: u32 = 2;
/// How long a number of lanes is tried, and for how many groups at least.
const TRIAL: Duration = Duration::from_secs(2);
const TRIAL_GROUPS: u32 = 8;
/// How long a step that brought nothing is not tried again.
const REST: Duration = Duration::from_secs(60);
/// The most lanes that are taken without being asked for.
const AUTO_MAX: usize = 4;

/// `--apply-lanes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ApplyLanes {
    /// As many as pay.
    #[default]
    Auto,
    /// So many whenever the stream lags; at most 16.
    Fixed(NonZeroU8),
}

impl fmt::Display for ApplyLanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApplyLanes::Auto => f.write_str("auto"),
            ApplyLanes::Fixed(lanes) => lanes.fmt(f),
        }
    }
}

impl ApplyLanes {
    /// Connections that they may take at the most.
    #[must_use]
    pub fn most(self) -> usize {
        match self {
            ApplyLanes::Auto => AUTO_MAX,
            ApplyLanes::Fixed(lanes) => usize::from(lanes.get()).min(LaneId::MAX),
        }
    }
}

/// Why a group is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pressure {
    /// The writers had nothing else to do.
    None,
    /// They have, and can take it all the same.
    Some,
    /// It is full, and more is coming.
    Full,
}

/// Decides on the number of lanes.
#[derive(Debug)]
pub(super) struct Climb {
    lanes: ApplyLanes,
    most: usize,
    full_groups: u32,
    /// The number that has proved best, and what it applied in a second.
    best: (usize, f64),
    trial: Option<Trial>,
    /// When the next step may be tried again.
    rest_until: Option<Instant>,
}

/// A number of lanes being measured.
#[derive(Debug)]
struct Trial {
    lanes: usize,
    since: Instant,
    groups: u32,
    changes: u64,
    /// How long the writers were waited for.
    waited: Duration,
}

impl Climb {
    pub(super) fn new(lanes: ApplyLanes) -> Climb {
        Climb { lanes, most: lanes.most(), full_groups: 0, best: (1, 0.0), trial: None, rest_until: None }
    }

    /// No more than this many can be had.
    pub(super) fn limit(&mut self, most: usize) {
        self.most = self.most.min(most.max(1));
        self.best.0 = self.best.0.min(self.most);
        self.trial = None;
    }

    /// How many lanes the next group is spread over; `changes` were handed over before it, for which writers
    /// were waited for so long.
    pub(super) fn lanes(
        &mut self,
        pressure: Pressure,
        changes: u64,
        waited: Duration,
        now: Instant,
    ) -> usize {
        match pressure {
            Pressure::None => (self.full_groups, self.trial) = (0, None),
            Pressure::Some => {}
            Pressure::Full => self.full_groups = self.full_groups.saturating_add(1),
        }
        match self.lanes {
            _ if self.full_groups <= BEHIND_GROUPS => 1,
            ApplyLanes::Fixed(_) => self.most,
            ApplyLanes::Auto => self.climb(changes, waited, now),
        }
    }

    fn climb(&mut self, changes: u64, waited: Duration, now: Instant) -> usize {
        let lanes = self.best.0;
        let trial = self.trial.get_or_insert(Trial {
            lanes,
            since: now,
            groups: 0,
            changes: 0,
            waited: Duration::ZERO,
        });
        trial.changes += changes;
        trial.waited += waited;
        trial.groups += 1;
        let elapsed = now.saturating_duration_since(trial.since);
        if elapsed < TRIAL || trial.groups < TRIAL_GROUPS {
            return trial.lanes;
        }
        let rate = trial.changes as f64 / elapsed.as_secs_f64();
        let is_held_up = trial.waited * 2 > elapsed;
        let lanes = trial.lanes;
        if lanes > self.best.0 && rate < self.best.1 * 1.15 {
            self.rest_until = Some(now + REST);
            tracing::info!(lanes = self.best.0, "more lanes bring nothing");
        } else {
            self.best = (lanes, rate);
        }
        let (best, _) = self.best;
        let may_try = is_held_up && self.rest_until.is_none_or(|until| now >= until);
        let next = if may_try { self.most.min(best * 2) } else { best };
        self.trial = Some(Trial { lanes: next, since: now, groups: 0, changes: 0, waited: Duration::ZERO });
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups of 1 000 changes under pressure, at the rate that so many lanes apply, for a minute.
    fn settle(climb: &mut Climb, mut now: Instant, rate: impl Fn(usize) -> f64) -> (usize, usize) {
        let (mut lanes, mut most) = (1, 1);
        let end = now + Duration::from_secs(60);
        while now < end {
            let took = Duration::from_secs_f64(1_000.0 / rate(lanes));
            now += took;
            lanes = climb.lanes(Pressure::Full, 1_000, took, now);
            most = most.max(lanes);
        }
        (lanes, most)
    }

    #[test]
    fn lanes_that_pay_are_kept() {
        let mut climb = Climb::new(ApplyLanes::Auto);
        assert_eq!(settle(&mut climb, Instant::now(), |lanes| 10_000.0 * lanes as f64), (4, 4));
        assert_eq!(climb.lanes(Pressure::None, 1, Duration::ZERO, Instant::now()), 1);
    }

    #[test]
    fn lanes_that_do_not_pay_are_given_back() {
        let mut climb = Climb::new(ApplyLanes::Auto);
        assert_eq!(settle(&mut climb, Instant::now(), |_| 10_000.0), (1, 2));
        let two = |lanes: usize| 10_000.0 * lanes.min(2) as f64;
        assert_eq!(settle(&mut Climb::new(ApplyLanes::Auto), Instant::now(), two), (2, 4));
    }

    #[test]
    fn a_fixed_number_is_taken_while_behind() {
        let mut climb = Climb::new(ApplyLanes::Fixed(std::num::NonZeroU8::new(7).unwrap()));
        assert_eq!(settle(&mut climb, Instant::now(), |_| 10_000.0), (7, 7));
        climb.limit(3);
        assert_eq!(climb.lanes(Pressure::Full, 1, Duration::ZERO, Instant::now()), 3);
    }
}
