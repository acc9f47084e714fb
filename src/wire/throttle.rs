//! Holds the copies of a process to a rate: a bucket of bytes that fills with time, for all splices together.
//!
//! Hazard: a limit that many tasks share is outrun if each may have a little more, and nobody keeps to it if
//! everyone must ask for every byte. So bytes are taken first and paid for afterwards: who finds the bucket in
//! debt waits until that is paid, and what is under way at that moment, a batch for each task, is all there is
//! beyond the rate.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// No longer than this is slept at once, so that a limit that is lifted is soon noticed.
const NAP_MAX: Duration = Duration::from_millis(500);

/// A limit that copies share; none at first. A clone is a reference.
#[derive(Debug, Clone, Default)]
pub struct Throttle {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Without a limit nobody asks the bucket.
    limited: AtomicBool,
    spent: AtomicU64,
    bucket: Mutex<Option<Bucket>>,
}

impl Throttle {
    /// From now on at most so many bytes a second; `None` lifts the limit.
    pub fn set(&self, bytes_per_second: Option<NonZeroU64>) {
        let mut bucket = self.bucket();
        match (&mut *bucket, bytes_per_second) {
            // What is owed stays owed.
            (Some(bucket), Some(rate)) => bucket.change(rate, Instant::now()),
            (bucket, rate) => *bucket = rate.map(|rate| Bucket::new(rate, Instant::now())),
        }
        self.shared.limited.store(bytes_per_second.is_some(), Ordering::Release);
    }

    /// The limit now, in bytes a second.
    #[must_use]
    pub fn limit(&self) -> Option<NonZeroU64> {
        self.bucket().as_ref().map(|bucket| bucket.rate)
    }

    /// Bytes that have passed so far, with a limit or without.
    #[must_use]
    pub fn spent(&self) -> u64 {
        self.shared.spent.load(Ordering::Relaxed)
    }

    /// Takes note of bytes that have passed.
    pub(super) fn spend(&self, bytes: u64) {
        self.shared.spent.fetch_add(bytes, Ordering::Relaxed);
        if self.shared.limited.load(Ordering::Acquire)
            && let Some(bucket) = &mut *self.bucket()
        {
            bucket.spend(bytes, Instant::now());
        }
    }

    /// How long to wait before taking more; then ask again.
    pub(super) fn pause(&self) -> Option<Duration> {
        if !self.shared.limited.load(Ordering::Acquire) {
            return None;
        }
        self.bucket().as_mut()?.pause(Instant::now()).map(|pause| pause.min(NAP_MAX))
    }

    fn bucket(&self) -> MutexGuard<'_, Option<Bucket>> {
        self.shared.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bucket itself: pure, the time comes as an argument.
#[derive(Debug)]
struct Bucket {
    rate: NonZeroU64,
    /// Bytes that may pass at once; below zero, bytes that have passed too early.
    level: f64,
    at: Instant,
}

impl Bucket {
    /// So much of what nobody used may be made up for: less than anyone would call a burst.
    const SAVED_MAX: Duration = Duration::from_millis(100);

    fn new(rate: NonZeroU64, now: Instant) -> Bucket {
        Bucket { rate, level: 0.0, at: now }
    }

    fn change(&mut self, rate: NonZeroU64, now: Instant) {
        self.fill(now);
        self.rate = rate;
    }

    fn spend(&mut self, bytes: u64, now: Instant) {
        self.fill(now);
        self.level -= approximate(bytes);
    }

    fn pause(&mut self, now: Instant) -> Option<Duration> {
        self.fill(now);
        // At least a byte's time, or a debt of a fraction would be asked for over and over.
        (self.level < 0.0).then(|| Duration::from_secs_f64((1.0 - self.level) / approximate(self.rate.get())))
    }

    fn fill(&mut self, now: Instant) {
        let rate = approximate(self.rate.get());
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + rate * elapsed).min(rate * Bucket::SAVED_MAX.as_secs_f64());
        self.at = self.at.max(now);
    }
}

/// Exact up to 2^53 bytes, and within one part in 2^53 above.
#[allow(clippy::cast_precision_loss)]
fn approximate(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What so many tasks move in `seconds`, each taking `batch` bytes whenever it may.
    fn moved(rate: u64, tasks: usize, batch: u64, seconds: u64) -> u64 {
        let start = Instant::now();
        let mut bucket = Bucket::new(NonZeroU64::new(rate).unwrap(), start);
        let mut wakes = vec![start; tasks];
        let mut moved = 0;
        loop {
            let (task, now) = wakes.iter().copied().enumerate().min_by_key(|(_, at)| *at).unwrap();
            if now > start + Duration::from_secs(seconds) {
                return moved;
            }
            wakes[task] = match bucket.pause(now) {
                Some(pause) => now + pause.min(NAP_MAX),
                None => {
                    bucket.spend(batch, now);
                    moved += batch;
                    // A server that would give a gigabyte a second.
                    now + Duration::from_secs_f64(approximate(batch) / 1e9)
                }
            };
        }
    }

    #[test]
    fn tasks_together_keep_to_the_rate_and_use_it_up() {
        for (rate, tasks, batch) in
            [(50 << 20, 8, 128 << 10), (1 << 20, 1, 128 << 10), (10_000, 4, 128 << 10), (3 << 20, 16, 700)]
        {
            let bytes = moved(rate, tasks, batch, 30);
            let most = rate * 30 + rate / 10 + tasks as u64 * batch;
            assert!(bytes <= most, "{rate} by {tasks}: {bytes} of {most}");
            assert!(bytes >= rate * 29, "{rate} by {tasks}: {bytes}");
        }
    }

    #[test]
    fn what_nobody_used_is_not_saved_up() {
        let start = Instant::now();
        let mut bucket = Bucket::new(NonZeroU64::new(1000).unwrap(), start);
        let later = start + Duration::from_secs(3600);
        assert_eq!(bucket.pause(later), None);
        bucket.spend(1100, later);
        let pause = bucket.pause(later).unwrap();
        assert!(pause > Duration::from_millis(990) && pause < Duration::from_millis(1010), "{pause:?}");
    }

    #[test]
    fn a_debt_outlives_a_change_of_the_rate_but_not_its_end() {
        let throttle = Throttle::default();
        throttle.spend(1 << 40);
        assert_eq!(throttle.pause(), None);
        let rate = NonZeroU64::new;
        throttle.set(rate(1 << 20));
        throttle.spend(1 << 30);
        throttle.set(rate(2 << 20));
        assert_eq!(throttle.pause(), Some(NAP_MAX));
        throttle.set(None);
        assert_eq!((throttle.pause(), throttle.limit()), (None, None));
        assert_eq!(throttle.spent(), (1 << 40) + (1 << 30));
    }
}
