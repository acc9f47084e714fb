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

#[derive(Debug)]
struct State {
    readiness: Readiness,
    heartbeat: Option<Instant>,
    failed: bool,
}

/// Shared by the conductor, which reports, and the exporter, which answers.
#[derive(Debug, Clone)]
pub struct Health {
    state: Arc<Mutex<State>>,
}

impl Default for Health {
    fn default() -> Health {
        let state = State { readiness: Readiness::Behind, heartbeat: None, failed: false };
        Health { state: Arc::new(Mutex::new(state)) }
    }
}

impl Health {
    /// The conductor is alive at `now`. Once begun, the beat is expected at least every minute.
    pub fn beat(&self, now: Instant) {
        self.state().heartbeat = Some(now);
    }

    /// The conductor gave up. Final.
    pub fn fail(&self) {
        self.state().failed = true;
    }

    /// Sets whether the target is in step.
    pub fn set_readiness(&self, readiness: Readiness) {
        self.state().readiness = readiness;
    }

    /// Whether the process is well at `now`.
    #[must_use]
    pub fn life(&self, now: Instant) -> Life {
        let state = self.state();
        let stale = |beat: Instant| now.saturating_duration_since(beat) > HEARTBEAT_AGE_MAX;
        match state.heartbeat {
            _ if state.failed => Life::Failed,
            Some(beat) if stale(beat) => Life::Stuck,
            Some(_) | None => Life::Well,
        }
    }

    /// Whether the target is in step.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        self.state().readiness
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
}
