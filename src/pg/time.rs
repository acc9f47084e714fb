//! The server's clock.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Microseconds since 2000-01-01 00:00 UTC, as replication messages carry time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PgTimestamp(i64);

/// Seconds from the Unix epoch to PostgreSQL's.
const EPOCH_SECONDS: u64 = 946_684_800;

impl PgTimestamp {
    /// Wraps microseconds since 2000.
    #[must_use]
    pub const fn from_micros(micros: i64) -> PgTimestamp {
        PgTimestamp(micros)
    }

    /// Microseconds since 2000.
    #[must_use]
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Time from `earlier` to this; zero when the clocks say otherwise (P95).
    #[must_use]
    pub fn since(self, earlier: PgTimestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl From<SystemTime> for PgTimestamp {
    fn from(time: SystemTime) -> PgTimestamp {
        let epoch = UNIX_EPOCH + Duration::from_secs(EPOCH_SECONDS);
        let micros = match time.duration_since(epoch) {
            Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |n| -n),
        };
        PgTimestamp(micros)
    }
}

impl fmt::Display for PgTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0.div_euclid(1_000_000), self.0.rem_euclid(1_000_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_from_the_year_2000() {
        let y2k = UNIX_EPOCH + Duration::from_secs(EPOCH_SECONDS);
        assert_eq!(PgTimestamp::from(y2k), PgTimestamp::from_micros(0));
        assert_eq!(PgTimestamp::from(UNIX_EPOCH).micros(), -946_684_800_000_000);
    }

    #[test]
    fn never_reports_a_negative_lag() {
        let (early, late) = (PgTimestamp::from_micros(5), PgTimestamp::from_micros(9));
        assert_eq!(late.since(early), Duration::from_micros(4));
        assert_eq!(early.since(late), Duration::ZERO);
    }
}
