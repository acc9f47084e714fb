//! A budget of connections that all databases of a run share.
//!
//! Hazard: a database of a thousand parts must not keep the others waiting until its last, and a connection
//! that waits for its turn counts on the server like any other. So turns are short while others wait, and
//! whoever has no turn holds no connection.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A turn goes on for this long although others wait: connecting anew for each small table would cost more.
const TURN_MIN: Duration = Duration::from_secs(1);

/// So many may work at once. A clone is a reference.
#[derive(Debug, Clone)]
pub struct Budget {
    seats: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

/// The right to work; given back when it drops.
#[derive(Debug)]
pub struct Turn {
    _seat: OwnedSemaphorePermit,
    waiting: Arc<AtomicUsize>,
    since: Instant,
}

impl Budget {
    /// A budget of that many turns at once.
    #[must_use]
    pub fn new(seats: NonZeroUsize) -> Budget {
        let seats = seats.get().min(Semaphore::MAX_PERMITS);
        Budget { seats: Arc::new(Semaphore::new(seats)), waiting: Arc::default() }
    }

    /// Waits for a turn, behind all who wait already.
    ///
    /// # Cancel safety
    /// Safe; the place in the queue is lost.
    pub async fn take(&self) -> Turn {
        let queued = Queued::enter(&self.waiting);
        let seat = Arc::clone(&self.seats).acquire_owned().await.expect("nobody closes the budget");
        drop(queued);
        self.turn(seat)
    }

    /// A turn, if one is to be had now.
    #[must_use]
    pub fn try_take(&self) -> Option<Turn> {
        Arc::clone(&self.seats).try_acquire_owned().ok().map(|seat| self.turn(seat))
    }

    fn turn(&self, seat: OwnedSemaphorePermit) -> Turn {
        Turn { _seat: seat, waiting: Arc::clone(&self.waiting), since: Instant::now() }
    }

    /// Whether somebody waits for a turn now.
    #[must_use]
    pub fn is_contended(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

impl Turn {
    /// Whether it is time to let others work: they wait, and this turn has lasted for a while.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0 && self.since.elapsed() >= TURN_MIN
    }
}

/// Somebody in the queue, also when the wait is given up.
struct Queued<'a>(&'a AtomicUsize);

impl Queued<'_> {
    fn enter(waiting: &AtomicUsize) -> Queued<'_> {
        waiting.fetch_add(1, Ordering::Relaxed);
        Queued(waiting)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn no_more_work_at_once_than_there_are_seats() {
        let budget = Budget::new(NonZeroUsize::MIN);
        let turn = budget.take().await;
        let mut second = Box::pin(budget.take());
        assert!(second.as_mut().now_or_never().is_none());
        assert!(budget.is_contended());
        assert!(!turn.is_over(), "it has only begun");
        assert!(budget.try_take().is_none());
        drop(turn);
        let turn = second.now_or_never().expect("the seat is free");
        assert!(!budget.is_contended() && !turn.is_over());
    }

    #[tokio::test]
    async fn who_gives_up_waiting_is_not_waited_for() {
        let budget = Budget::new(NonZeroUsize::MIN);
        let turn = budget.take().await;
        let mut second = Box::pin(budget.take());
        assert!(second.as_mut().now_or_never().is_none());
        drop(second);
        assert!(!budget.is_contended());
        drop(turn);
        assert!(budget.take().now_or_never().is_some());
    }
}
