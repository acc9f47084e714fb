//! Whether the process is well, and whether the target is in step: what `/healthz` and `/readyz` answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A conductor that has not beaten for this long is stuck.
const HEARTBEAT_AGE_MAX: Duration = Duration::from_secs(60);

/// Whether the target follows the source closely enough to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Still copying, building or catching up.
    Behind,
    /// Held up until a person changes something on the target.
    Waiting,
    /// Caught up, and kept in step.
    InStep,
}

/// The answer to "are you alive?".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Work goes on.
    Well,
    /// The conductor has not reported for a minute.
    Stuck,
    /// The conductor said that it failed.
    Failed,
}

#[derive(Debug, Clone, Copy)]
struct State {
    readiness: Readiness,
    heartbeat: Option<Instant>,
    failed: bool,
}

const BEGINNING: State = State { readiness: Readiness::Behind, heartbeat: None, failed: false };

/// Shared by the conductors, each of which reports on its database, and the exporter, which answers for all:
/// the process is well, and the target in step, when every database is.
#[derive(Debug, Clone)]
pub struct Health {
    states: Arc<Mutex<Vec<State>>>,
    database: usize,
}

impl Default for Health {
    fn default() -> Health {
        Health { states: Arc::new(Mutex::new(vec![BEGINNING])), database: 0 }
    }
}

impl Health {
    /// A handle for each of that many databases; what was reported before is forgotten. None at all are one
    /// that never gets in step.
    #[must_use]
    pub fn divide(&self, databases: usize) -> Vec<Health> {
        *self.states() = vec![BEGINNING; databases.max(1)];
        (0..databases).map(|database| Health { states: Arc::clone(&self.states), database }).collect()
    }

    /// The conductor is alive at `now`. Once begun, the beat is expected at least every minute.
    pub fn beat(&self, now: Instant) {
        self.report(|state| state.heartbeat = Some(now));
    }

    /// The conductor is done: no further beat is expected of this database.
    pub fn rest(&self) {
        self.report(|state| state.heartbeat = None);
    }

    /// The conductor gave up. Final.
    pub fn fail(&self) {
        self.report(|state| state.failed = true);
    }

    /// Sets whether the target is in step.
    pub fn set_readiness(&self, readiness: Readiness) {
        self.report(|state| state.readiness = readiness);
    }

    /// Whether the process is well at `now`.
    #[must_use]
    pub fn life(&self, now: Instant) -> Life {
        let states = self.states();
        let stale = |beat: Instant| now.saturating_duration_since(beat) > HEARTBEAT_AGE_MAX;
        if states.iter().any(|state| state.failed) {
            Life::Failed
        } else if states.iter().any(|state| state.heartbeat.is_some_and(stale)) {
            Life::Stuck
        } else {
            Life::Well
        }
    }

    /// Whether the target is in step; what a person has to see to is told first.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let states = self.states();
        let any = |wanted| states.iter().any(|state| state.readiness == wanted);
        match (any(Readiness::Waiting), any(Readiness::Behind)) {
            (true, _) => Readiness::Waiting,
            (false, true) => Readiness::Behind,
            (false, false) => Readiness::InStep,
        }
    }

    fn report(&self, change: impl FnOnce(&mut State)) {
        // A handle from before a division reports on nothing.
        if let Some(state) = self.states().get_mut(self.database) {
            change(state);
        }
    }

    fn states(&self) -> MutexGuard<'_, Vec<State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_heartbeat_is_stuck_and_a_new_one_heals() {
        let (health, start) = (Health::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(health.life(at(1_000)), Life::Well, "no beat was promised yet");
        health.beat(start);
        assert_eq!(health.life(at(60)), Life::Well);
        assert_eq!(health.life(at(61)), Life::Stuck);
        health.beat(at(61));
        assert_eq!(health.life(at(62)), Life::Well);
    }

    #[test]
    fn failure_is_final() {
        let (health, now) = (Health::default(), Instant::now());
        health.clone().fail();
        health.beat(now);
        assert_eq!(health.life(now), Life::Failed);
    }

    #[test]
    fn several_databases_are_well_and_in_step_only_together() {
        let (health, now) = (Health::default(), Instant::now());
        let databases = health.divide(2);
        let later = now + Duration::from_secs(100);
        databases[0].set_readiness(Readiness::InStep);
        assert_eq!(health.readiness(), Readiness::Behind);
        databases[1].set_readiness(Readiness::Waiting);
        assert_eq!(health.readiness(), Readiness::Waiting);
        databases[1].set_readiness(Readiness::InStep);
        assert_eq!(health.readiness(), Readiness::InStep);
        databases[0].beat(now);
        databases[1].beat(later);
        assert_eq!(health.life(later), Life::Stuck, "the first has not been heard of");
        databases[0].rest();
        assert_eq!(health.life(later), Life::Well, "the first is done");
        databases[1].fail();
        assert_eq!(health.life(later), Life::Failed);
    }
}
