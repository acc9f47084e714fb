//! How far the copy is, how fast, and for how much longer: pure, the clock comes as an argument.
//!
//! Hazard: what is known beforehand is bytes on the source's disk, and what passes is COPY data: half as much
//! where rows are small, twenty times as much where TOAST compresses well. So what is still to come is estimated
//! by the tables that are done. And a copy that was fast for an hour may be slow now: the rate is that of the last
//! half minute.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::tally::{CopiedTable, RATE_SPAN_MIN, per_second};
use super::text;

/// A rate is taken over so much time.
const WINDOW: Duration = Duration::from_secs(30);
/// Between two samples of it.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// The copy under one snapshot.
#[derive(Debug)]
pub(super) struct Copying {
    started: Instant,
    /// COPY data that has passed.
    bytes: u64,
    /// On the source's disk: of all tables.
    disk_total: u64,
    /// Of those that are done: on disk, and as COPY data.
    disk_done: u64,
    bytes_done: u64,
    rows: u64,
    tables: u64,
    tables_total: u64,
    /// Tables being copied now and their bytes on disk; as many as there are copy connections.
    running: BTreeMap<String, u64>,
    /// What had passed at moments of the last half minute, and one before.
    samples: VecDeque<(Instant, u64)>,
}

impl Copying {
    pub(super) fn new(now: Instant, disk_total: u64, tables_total: u64) -> Copying {
        Copying {
            started: now,
            bytes: 0,
            disk_total,
            disk_done: 0,
            bytes_done: 0,
            rows: 0,
            tables: 0,
            tables_total,
            running: BTreeMap::new(),
            samples: VecDeque::from([(now, 0)]),
        }
    }

    pub(super) fn table_started(&mut self, name: &str, disk_bytes: u64) {
        self.running.insert(name.to_owned(), disk_bytes);
    }

    pub(super) fn passed(&mut self, now: Instant, bytes: u64) {
        self.bytes += bytes;
        if self.samples.back().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= SAMPLE_INTERVAL) {
            self.samples.push_back((now, self.bytes));
        }
        // The first sample is the youngest that is a window old.
        while self.samples.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= WINDOW) {
            self.samples.pop_front();
        }
    }

    pub(super) fn table_done(&mut self, table: CopiedTable<'_>) {
        self.disk_done += self.running.remove(table.name).unwrap_or(0);
        self.bytes_done += table.bytes;
        self.tables += 1;
        self.rows += table.rows;
    }

    /// COPY data that has passed, and an estimate of all there is.
    pub(super) fn position(&self) -> (u64, u64) {
        let left = u128::from(self.disk_total.saturating_sub(self.disk_done));
        // A twentieth of all counts as done byte for byte, so that the first few tables do not speak for all others.
        let trust = u128::from(self.disk_total / 20 + 1);
        let done = (u128::from(self.bytes_done) + trust, u128::from(self.disk_done) + trust);
        let left = u64::try_from(left * done.0 / done.1).unwrap_or(u64::MAX);
        (self.bytes, self.bytes.max(self.bytes_done.saturating_add(left)))
    }

    /// `12.3 GB of 80.0 GB (15 %), 41 of 312 tables, 210 MB/s, 5m 10s left`
    pub(super) fn line(&self, now: Instant) -> String {
        let (bytes, total) = self.position();
        let mut line = format!(
            "{} of {} ({} %), {} of {}",
            text::bytes(bytes),
            text::bytes(total),
            self.percent(),
            text::count(self.tables),
            text::counted(self.tables_total, "table"),
        );
        if let Some(rate) = self.rate(now) {
            line += &format!(", {}/s", text::bytes(rate));
            // Estimates are off both ways; less than a second is not worth one.
            if let Some(seconds) = (total - bytes).checked_div(rate).filter(|seconds| *seconds > 0) {
                line += &format!(", {} left", text::duration(Duration::from_secs(seconds)));
            }
        }
        line
    }

    /// Bytes a second in the last half minute.
    fn rate(&self, now: Instant) -> Option<u64> {
        let (since, bytes) = self.samples.front()?;
        let span = now.saturating_duration_since(*since);
        (span >= RATE_SPAN_MIN).then(|| per_second(self.bytes - bytes, span))
    }

    /// 100 only when all is there.
    fn percent(&self) -> u64 {
        let (bytes, total) = self.position();
        if self.tables >= self.tables_total {
            return 100;
        }
        u64::try_from(u128::from(bytes) * 100 / u128::from(total.max(1))).unwrap_or(99).min(99)
    }

    /// The largest tables being copied: `orders (12.3 GB), events (8.00 GB) and 6 more`
    pub(super) fn running_line(&self) -> Option<String> {
        let mut running: Vec<(&String, &u64)> = self.running.iter().collect();
        running.sort_by_key(|(_, bytes)| Reverse(**bytes));
        text::first_few(
            running
                .iter()
                .map(|(name, bytes)| format!("{} ({})", text::printable(name), text::bytes(**bytes))),
        )
    }

    /// What it came to.
    pub(super) fn summary(&self, now: Instant) -> String {
        let span = now.saturating_duration_since(self.started);
        let rate = if span >= RATE_SPAN_MIN {
            format!(" ({}/s)", text::bytes(per_second(self.bytes, span)))
        } else {
            String::new()
        };
        format!(
            "copied {}, {}, {} in {}{rate}",
            text::counted(self.tables, "table"),
            text::counted(self.rows, "row"),
            text::bytes(self.bytes),
            text::duration(span),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1024 * 1024;

    fn done(copying: &mut Copying, name: &str, bytes: u64) {
        copying.table_done(CopiedTable { name, rows: 1, bytes, elapsed: Duration::ZERO });
    }

    #[test]
    fn wrong_estimates_stay_sane() {
        let start = Instant::now();
        let mut copying = Copying::new(start, MB, 1);
        copying.passed(start, 3 * MB);
        assert_eq!(copying.line(start), "3.00 MB of 3.00 MB (99 %), 0 of 1 table");
        assert_eq!(copying.position(), (3 * MB, 3 * MB));
        let copying = Copying::new(start, 0, 0);
        assert_eq!(copying.line(start), "0 bytes of 0 bytes (100 %), 0 of 0 tables");
    }

    #[test]
    fn tables_that_are_done_tell_what_is_to_come() {
        let start = Instant::now();
        let mut copying = Copying::new(start, 1_000 * MB, 10);
        for name in ["a", "b", "c", "d"] {
            copying.table_started(name, 100 * MB);
            copying.passed(start, 300 * MB);
            done(&mut copying, name, 300 * MB);
        }
        let (passed, total) = copying.position();
        // Each compresses threefold; of ten that is 3 000 MB.
        assert_eq!(passed, 1_200 * MB);
        assert!((2_800 * MB..3_000 * MB).contains(&total), "{}", total / MB);
    }

    #[test]
    fn a_few_small_tables_do_not_speak_for_all() {
        let start = Instant::now();
        let mut copying = Copying::new(start, 1_000 * MB, 10);
        copying.table_started("tiny", 8 << 10);
        copying.passed(start, 100);
        done(&mut copying, "tiny", 100);
        let (_, total) = copying.position();
        assert!((990 * MB..1_010 * MB).contains(&total), "{}", total / MB);
    }

    #[test]
    fn the_rate_is_that_of_the_last_half_minute() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut copying = Copying::new(start, 100_000 * MB, 1);
        for second in 1..=600 {
            copying.passed(at(second), 100 * MB);
        }
        assert_eq!(copying.rate(at(600)), Some(100 * MB));
        for second in 601..=640 {
            copying.passed(at(second), MB);
        }
        assert_eq!(copying.rate(at(640)), Some(MB));
        assert!(copying.samples.len() <= 32, "{}", copying.samples.len());
        for second in 641..=700 {
            copying.passed(at(second), 0);
        }
        assert_eq!(copying.rate(at(700)), Some(0));
        assert!(copying.line(at(700)).ends_with("0 bytes/s"), "{}", copying.line(at(700)));
    }

    #[test]
    fn the_largest_running_tables_come_first() {
        let mut copying = Copying::new(Instant::now(), 1_000 * MB, 1_200);
        for (name, size) in [("small", 1), ("a\u{1b}[2J", 9), ("mid", 5), ("least", 0), ("gone", 99)] {
            copying.table_started(name, size * MB);
        }
        done(&mut copying, "gone", 0);
        assert_eq!(
            copying.running_line().unwrap(),
            "a [2J (9.00 MB), mid (5.00 MB), small (1.00 MB) and 1 more"
        );
    }
}
