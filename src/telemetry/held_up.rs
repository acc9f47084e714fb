//! What work waits for on a server that answers, told once for as long as it lasts.
//!
//! Hazard: a disk that is full is found full at every try, and a line for each would bury the one that matters.
//! So a spell has a beginning and an end, whoever meets it and however often; in between only the pause grows.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::label::Obstacle;
use super::metrics::DatabaseMetrics;
use super::progress::Progress;
use crate::error::{Error, describe};
use crate::pg::SqlState;

/// Between two tries of one spell, at first and at the most.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(15);

impl Obstacle {
    /// What an error says that stands in the way, if that passes without anything of ours being changed.
    #[must_use]
    pub fn of(error: &Error) -> Option<Obstacle> {
        match error.sqlstate()? {
            SqlState::DISK_FULL => Some(Obstacle::DiskFull),
            SqlState::TOO_MANY_CONNECTIONS => Some(Obstacle::Connections),
            _ => None,
        }
    }

    fn waits_for(self) -> &'static str {
        match self {
            Obstacle::DiskFull => "room on a full disk",
            Obstacle::Connections => "a free connection",
            Obstacle::Lock => "a lock that others hold",
            Obstacle::Standbys => "the source's standbys",
        }
    }
}

/// The spells of one database; a clone is a reference.
#[derive(Debug, Clone)]
pub struct HeldUp {
    metrics: DatabaseMetrics,
    progress: Progress,
    spells: Arc<Mutex<[Option<Spell>; Obstacle::ALL.len()]>>,
}

#[derive(Debug, Clone, Copy)]
struct Spell {
    since: Instant,
    pause: Duration,
}

impl HeldUp {
    /// Nothing is in the way yet.
    #[must_use]
    pub fn new(metrics: DatabaseMetrics, progress: Progress) -> HeldUp {
        for obstacle in Obstacle::ALL {
            metrics.held_up(*obstacle, false);
        }
        HeldUp { metrics, progress, spells: Arc::default() }
    }

    /// Notes that work waits, and tells `why` if that is news. Returns how long to wait before the next try.
    pub fn by(&self, obstacle: Obstacle, why: &str) -> Duration {
        let (pause, is_news) = {
            let mut spells = self.spells();
            let spell = &mut spells[obstacle as usize];
            let is_news = spell.is_none();
            let spell = spell.get_or_insert(Spell { since: Instant::now(), pause: PAUSE_MIN });
            let pause = spell.pause;
            spell.pause = PAUSE_MAX.min(pause * 2);
            (pause, is_news)
        };
        if is_news {
            self.metrics.held_up(obstacle, true);
            tracing::warn!(by = obstacle.label(), reason = why, "held up");
            self.progress.warn(&format!("waiting for {}: {why}", obstacle.waits_for()));
        }
        pause
    }

    /// As [`HeldUp::by`], for an error that tells of an obstacle.
    pub fn by_error(&self, obstacle: Obstacle, error: &Error) -> Duration {
        self.by(obstacle, &describe(error))
    }

    /// Since when something has been in the way, if anything is.
    #[must_use]
    pub fn since(&self) -> Option<Instant> {
        self.spells().iter().flatten().map(|spell| spell.since).min()
    }

    /// The obstacle has passed.
    pub fn over(&self, obstacle: Obstacle) {
        let ended = self.spells()[obstacle as usize].take();
        if let Some(Spell { since, .. }) = ended {
            let elapsed_ms = since.elapsed().as_millis() as u64;
            self.metrics.held_up(obstacle, false);
            tracing::info!(by = obstacle.label(), elapsed_ms, "going on");
            self.progress.note(&format!("going on: no longer waiting for {}", obstacle.waits_for()));
        }
    }

    /// Work has got further: the servers have what it takes. Of locks only who looks at them knows.
    pub fn made_headway(&self) {
        self.over(Obstacle::DiskFull);
        self.over(Obstacle::Connections);
    }

    fn spells(&self) -> MutexGuard<'_, [Option<Spell>; Obstacle::ALL.len()]> {
        self.spells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Display, Metrics};

    #[test]
    fn a_spell_begins_and_ends_once_and_its_pause_grows_to_a_bound() {
        let metrics = Metrics::on().unwrap();
        let held_up = HeldUp::new(metrics.database("shop"), Progress::new(Display::Quiet));
        let is_held = |value: &str| {
            let line = format!("pgstream_held_up{{database=\"shop\",by=\"disk_full\"}} {value}");
            assert!(metrics.render().contains(&line), "{}", metrics.render());
        };
        is_held("0");
        let pauses: Vec<Duration> = (0..20).map(|_| held_up.by(Obstacle::DiskFull, "no room")).collect();
        assert!(pauses.is_sorted() && pauses[0] == PAUSE_MIN && pauses[19] == PAUSE_MAX, "{pauses:?}");
        is_held("1");
        assert!(held_up.since().is_some());
        held_up.made_headway();
        is_held("0");
        assert_eq!(held_up.since(), None);
        assert_eq!(held_up.by(Obstacle::DiskFull, "no room"), PAUSE_MIN);
    }

    #[test]
    fn an_error_tells_what_is_in_the_way_also_through_a_wrapper() {
        let of = |state| {
            let inner = Error::new(crate::error::ErrorKind::Sql, "write").with_sqlstate(state);
            Obstacle::of(&Error::new(crate::error::ErrorKind::Copy, "copy").because(inner))
        };
        assert_eq!(of(SqlState::DISK_FULL), Some(Obstacle::DiskFull));
        assert_eq!(of(SqlState::TOO_MANY_CONNECTIONS), Some(Obstacle::Connections));
        assert_eq!(of(SqlState::UNIQUE_VIOLATION), None);
    }
}
