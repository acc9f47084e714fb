//! Holds the copy to `--copy-rate`, and slows it down by itself while the source's standbys fall behind.
//!
//! Hazard: reading a database at full speed takes the source's disks and network from those who send its WAL on,
//! and with checksums or hint bits logged it even makes WAL; a standby that lags is stale to its readers, and
//! no use in a failover. But a standby may lag for reasons of its own (delayed on purpose, replay paused, a slow
//! link), and the copy would then crawl for nothing. So only those count that we have seen in step, only if they
//! are far behind look after look, and no longer than it helps.
//!
//! What else could be asked, and is not:
//! - The target's checkpoints. Any bulk load requests one after the other, and that is its fastest way; they
//!   harm clients, of which a target has none yet, and no counter tells a load that suffers from one that does not.
//!   A server that cannot take more reads its socket later, and the splice waits.
//! - Room on disks. No SQL tells it; who finds none waits ([`crate::telemetry::Obstacle::DiskFull`]), and the
//!   spool's own bound keeps it off this machine's disk.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use super::run::Run;
use crate::bulk::Budget;
use crate::error::{Error, Result, describe};
use crate::telemetry::{Obstacle, text};
use crate::wire::{Session, Throttle};

/// Between two looks at the standbys.
const INTERVAL: Duration = Duration::from_secs(2);

/// The limit that the copies of a command share, and who sets it.
#[derive(Debug)]
pub(super) struct Brake {
    throttle: Throttle,
    /// The operator's limit.
    wanted: Option<NonZeroU64>,
    /// One of the databases looks at the source's standbys for all.
    lookout: Budget,
}

impl Brake {
    pub(super) fn new(wanted: Option<NonZeroU64>) -> Brake {
        let throttle = Throttle::default();
        throttle.set(wanted);
        Brake { throttle, wanted, lookout: Budget::new(NonZeroUsize::MIN) }
    }

    /// What the copies keep to.
    pub(super) fn throttle(&self) -> Throttle {
        self.throttle.clone()
    }

    /// Holds the copies to this beside the operator's limit.
    fn hold_to(&self, limit: Option<NonZeroU64>) {
        self.throttle.set([limit, self.wanted].into_iter().flatten().min());
    }
}

/// Runs `work`, the copy of a database, with an eye on the source's standbys.
pub(super) async fn beside<T>(run: &Run, work: impl Future<Output = T>) -> T {
    tokio::select! {
        done = work => done,
        never = watch(run) => match never {},
    }
}

async fn watch(run: &Run) -> Infallible {
    let brake = &run.budgets.brake;
    run.metrics.copy_limit(brake.throttle.limit());
    let _turn = brake.lookout.take().await;
    let mut governor = Governor::default();
    let _lifted_at_the_end = Lift(run);
    if let Some(limit) = brake.wanted {
        run.progress.note(&format!("the copy keeps to {} a second", text::bytes(limit.get())));
    }
    let mut passed = brake.throttle.spent();
    loop {
        match standbys(&run.source).await {
            Ok(standbys) => {
                let now = brake.throttle.spent();
                let rate = (now - passed) / INTERVAL.as_secs();
                passed = now;
                act(run, governor.observe(&standbys, rate));
            }
            // Who needs the source notices by himself that it is away.
            Err(error) => tracing::debug!(error = %describe(&error), "standbys cannot be looked at"),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn act(run: &Run, verdict: Verdict) {
    let brake = &run.budgets.brake;
    match verdict {
        Verdict::Free => {
            brake.hold_to(None);
            run.held_up.over(Obstacle::Standbys);
        }
        Verdict::Slow { rate, standby, lag_bytes } => {
            brake.hold_to(Some(rate));
            let (lag, rate) = (text::bytes(lag_bytes), text::bytes(rate.get()));
            // The pause is for those who try again; we only look again.
            let _ = run.held_up.by(
                Obstacle::Standbys,
                &format!("{standby} lags by {lag}, and the copy is slowed down to {rate} a second"),
            );
        }
    }
    run.metrics.copy_limit(brake.throttle.limit());
}

/// Leaves the copies to the operator's limit when nobody looks any more.
struct Lift<'a>(&'a Run);

impl Drop for Lift<'_> {
    fn drop(&mut self) {
        act(self.0, Verdict::Free);
    }
}

/// A server that replays the source's WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Standby {
    name: String,
    lag_bytes: u64,
}

/// Physical standbys, as far as our role may see how far they are (`pg_monitor` may).
async fn standbys(source: &Session) -> Result<Vec<Standby>> {
    // A walsender with a database decodes, and lags by what it decodes; ours is one of these.
    const SQL: &str = "
        SELECT r.application_name || coalesce(' at ' || pg_catalog.host(r.client_addr), ''),
               pg_catalog.pg_wal_lsn_diff(
                   CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                        ELSE pg_catalog.pg_current_wal_lsn() END, r.replay_lsn)::pg_catalog.int8
          FROM pg_catalog.pg_stat_replication AS r
          JOIN pg_catalog.pg_stat_activity AS a ON a.pid = r.pid
         WHERE coalesce(a.datid, 0) = 0 AND r.replay_lsn IS NOT NULL";
    let rows = source
        .query(SQL, &[])
        .await
        .map_err(|error| Error::from_postgres("look at the source's standbys", error))?;
    let standby = |row: &tokio_postgres::Row| Standby {
        name: row.get(0),
        lag_bytes: u64::try_from(row.get::<_, Option<i64>>(1).unwrap_or(0)).unwrap_or(0),
    };
    Ok(rows.iter().map(standby).collect())
}

/// What the copy may do after a look.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Free,
    Slow { rate: NonZeroU64, standby: String, lag_bytes: u64 },
}

/// Decides from look to look. Pure.
///
/// ```text
///        far behind, LOOKS times         no better than at the last look: half of it
/// Free ────────────────────────▶ Slow ─┐◀─┘
///   ▲                                  │ in step: twice as much
///   └──────────────────────────────────┘ until that is what it was before; or it never helped
/// ```
#[derive(Debug, Default)]
struct Governor {
    /// Standbys that have been in step with the source since we look.
    known: BTreeSet<String>,
    /// Looks in a row at which one of them was far behind.
    behind: u32,
    slowed: Option<Slowed>,
}

#[derive(Debug)]
struct Slowed {
    rate: u64,
    /// Bytes a second before that.
    before: u64,
    lag_bytes: u64,
    /// Looks at which it was as slow as can be, and that did not help.
    in_vain: u32,
}

impl Governor {
    /// A standby that lacks no more than this, a segment, is in step.
    const IN_STEP_BYTES_MAX: u64 = 16 << 20;
    /// One that lacks more than this is far behind.
    const BEHIND_BYTES: u64 = 64 << 20;
    /// So many looks in a row: a checkpoint or a batch job on the source makes for less.
    const LOOKS: u32 = 3;
    /// The copy is never slower than this (bytes a second).
    const RATE_MIN: u64 = 1 << 20;
    /// So many looks in vain, and it is not our doing.
    const IN_VAIN_MAX: u32 = 30;
    /// More standbys than any server has.
    const KNOWN_MAX: usize = 256;

    /// Takes a look, and bytes a second that were copied since the last.
    fn observe(&mut self, standbys: &[Standby], rate: u64) -> Verdict {
        for standby in standbys.iter().filter(|standby| standby.lag_bytes <= Governor::IN_STEP_BYTES_MAX) {
            if self.known.len() < Governor::KNOWN_MAX {
                self.known.insert(standby.name.clone());
            }
        }
        let ours = standbys.iter().filter(|standby| self.known.contains(&standby.name));
        let Some(worst) = ours.max_by_key(|standby| standby.lag_bytes) else {
            self.slowed = None;
            return Verdict::Free;
        };
        let is_behind = worst.lag_bytes > Governor::BEHIND_BYTES;
        self.behind = if is_behind { self.behind.saturating_add(1) } else { 0 };
        self.slowed = match self.slowed.take() {
            None if self.behind >= Governor::LOOKS && rate > Governor::RATE_MIN => {
                let slower = Governor::slower(rate);
                Some(Slowed { rate: slower, before: rate, lag_bytes: worst.lag_bytes, in_vain: 0 })
            }
            None => None,
            Some(Slowed { in_vain: Governor::IN_VAIN_MAX, .. }) if is_behind => {
                self.known.remove(&worst.name);
                None
            }
            Some(slowed) if is_behind && worst.lag_bytes >= slowed.lag_bytes => {
                let in_vain = slowed.in_vain + u32::from(slowed.rate == Governor::RATE_MIN);
                let rate = Governor::slower(slowed.rate);
                Some(Slowed { rate, lag_bytes: worst.lag_bytes, in_vain, ..slowed })
            }
            Some(slowed) if worst.lag_bytes <= Governor::IN_STEP_BYTES_MAX => {
                let faster = slowed.rate * 2;
                (faster < slowed.before).then_some(Slowed { rate: faster, ..slowed })
            }
            Some(slowed) => Some(Slowed { lag_bytes: worst.lag_bytes, ..slowed }),
        };
        match &self.slowed {
            None => Verdict::Free,
            Some(slowed) => Verdict::Slow {
                rate: NonZeroU64::new(slowed.rate).expect("it is never less than RATE_MIN"),
                standby: worst.name.clone(),
                lag_bytes: worst.lag_bytes,
            },
        }
    }

    fn slower(rate: u64) -> u64 {
        (rate / 2).max(Governor::RATE_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    /// The limits, in MB a second, after looks at one standby that lags by so many MB while 100 MB a second are copied.
    fn limits(lags: &[u64]) -> Vec<Option<u64>> {
        let mut governor = Governor::default();
        let look = |lag: &u64| {
            let standby = Standby { name: "one".to_owned(), lag_bytes: lag * MB };
            match governor.observe(&[standby], 100 * MB) {
                Verdict::Free => None,
                Verdict::Slow { rate, .. } => Some(rate.get() / MB),
            }
        };
        lags.iter().map(look).collect()
    }

    #[test]
    fn a_standby_that_falls_behind_slows_the_copy_until_it_is_in_step() {
        let lags = [0, 70, 80, 90, 100, 90, 70, 30, 10, 5, 0];
        let expected =
            [None, None, None, Some(50), Some(25), Some(25), Some(25), Some(25), Some(50), None, None];
        assert_eq!(limits(&lags), expected);
    }

    #[test]
    fn one_that_was_behind_before_is_not_our_doing() {
        assert_eq!(limits(&[500, 600, 700, 800, 900]), [None; 5]);
        assert_eq!(limits(&[500, 10, 100, 100, 100])[4], Some(50));
    }

    #[test]
    fn a_spike_slows_nothing() {
        assert_eq!(limits(&[0, 200, 200, 10, 200, 200, 0]), [None; 7]);
    }

    #[test]
    fn one_that_hangs_slows_the_copy_down_to_a_crawl_but_not_for_good() {
        let limits = limits(&[vec![0], vec![100; 60]].concat());
        assert_eq!(limits[20], Some(1));
        assert_eq!(limits.last(), Some(&None), "it is not our doing");
        assert_eq!(limits.iter().filter(|limit| limit.is_some()).min(), Some(&Some(1)));
    }

    #[test]
    fn one_that_goes_away_is_waited_for_no_longer() {
        let mut governor = Governor::default();
        for lag_bytes in [0, 100 * MB, 100 * MB, 100 * MB] {
            governor.observe(&[Standby { name: "one".to_owned(), lag_bytes }], 2 * MB);
        }
        assert!(governor.slowed.is_some());
        assert_eq!(governor.observe(&[], MB), Verdict::Free);
    }
}
