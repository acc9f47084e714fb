//! What has been done so far, and the lines that say so: pure, the clock comes as an argument.
//!
//! Hazard: a database may hold a hundred thousand tables and be followed for weeks. So a line is due at an
//! edge between phases or when enough time has passed, never because a row or a table was finished.

use std::time::{Duration, Instant};

use super::building::{Building, RunningBuild};
use super::copying::Copying;
use super::label::Phase;
use super::text;
use crate::pg::Lsn;

/// Between two lines while work has an end in sight.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// Between two lines once the target only keeps in step.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(60);
/// A rate over less than this says nothing.
pub(super) const RATE_SPAN_MIN: Duration = Duration::from_millis(500);

/// One table that has been copied whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopiedTable<'a> {
    /// Its name, for people.
    pub name: &'a str,
    /// Rows copied.
    pub rows: u64,
    /// Bytes of COPY data.
    pub bytes: u64,
    /// From the first part's beginning to the last one's commit.
    pub elapsed: Duration,
}

/// Where following stands. The totals count from the start of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowLine {
    /// End LSN of the last commit applied on the target.
    pub applied: Lsn,
    /// WAL between that and the source's position.
    pub lag_bytes: u64,
    /// Source transactions applied.
    pub transactions: u64,
    /// Changes applied.
    pub changes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Followed {
    at: Instant,
    line: FollowLine,
    /// Transactions a second, once two observations lie far enough apart.
    rate: Option<u64>,
}

/// The state behind the bars and the lines.
#[derive(Debug)]
pub(super) struct Tally {
    started: Instant,
    phase: Option<Phase>,
    copy: Option<Copying>,
    builds: Option<Building>,
    follow: Option<Followed>,
    line_due: Instant,
    /// Which database of several this is.
    name: Option<String>,
    /// Several databases share one screen: each speaks as much less often as there are many.
    patience: u32,
    /// Phases that were left, with the time spent in each; one entry a phase.
    spent: Vec<(Phase, Duration)>,
    phase_entered: Instant,
}

/// Databases that may each speak as often as one alone.
const TALKERS: usize = 8;

impl Tally {
    pub(super) fn new(now: Instant) -> Tally {
        Tally {
            started: now,
            phase: None,
            copy: None,
            builds: None,
            follow: None,
            line_due: now,
            name: None,
            patience: 1,
            spent: Vec::new(),
            phase_entered: now,
        }
    }

    /// The tally of one of `databases`, by the same clock.
    pub(super) fn of_database(&self, now: Instant, name: &str, databases: usize) -> Tally {
        let patience = u32::try_from(databases.div_ceil(TALKERS)).unwrap_or(u32::MAX).max(1);
        Tally { started: self.started, name: Some(name.to_owned()), patience, ..Tally::new(now) }
    }

    /// Enters a phase; says so, and what the one before came to. Entering it again says nothing.
    pub(super) fn phase(&mut self, now: Instant, phase: Phase) -> Vec<String> {
        let left = self.phase.replace(phase);
        if left == Some(phase) {
            return Vec::new();
        }
        self.spend(left, now);
        let summary = match left {
            Some(Phase::Copying) => self.copy.as_ref().map(|copy| copy.summary(now)),
            Some(Phase::Building) => {
                self.builds.as_ref().map(|builds| format!("{} built", text::count(builds.done)))
            }
            _ => None,
        };
        self.line_due = now + LINE_INTERVAL * self.patience;
        let entered = phase.label().replace('_', " ");
        summary.into_iter().chain([entered]).map(|line| self.stamped(now, &line)).collect()
    }

    pub(super) fn copy_started(&mut self, now: Instant, bytes_total: u64, tables_total: u64) {
        self.copy = Some(Copying::new(now, bytes_total, tables_total));
    }

    pub(super) fn table_started(&mut self, name: &str, bytes: u64) {
        if let Some(copy) = &mut self.copy {
            copy.table_started(name, bytes);
        }
    }

    pub(super) fn copied(&mut self, now: Instant, bytes: u64) -> Option<String> {
        if let Some(copy) = &mut self.copy {
            copy.passed(now, bytes);
        }
        self.work_due(now)
    }

    pub(super) fn table_done(&mut self, now: Instant, table: CopiedTable<'_>) -> Option<String> {
        if let Some(copy) = &mut self.copy {
            copy.table_done(table);
        }
        self.work_due(now)
    }

    pub(super) fn builds(&mut self, total: u64) {
        let builds = self.builds.get_or_insert_default();
        builds.total = builds.done + total;
    }

    pub(super) fn builds_running(&mut self, now: Instant, running: Vec<RunningBuild>) -> Option<String> {
        self.builds.get_or_insert_default().running = running;
        self.work_due(now)
    }

    pub(super) fn build_done(&mut self, now: Instant) -> Option<String> {
        self.builds.get_or_insert_default().done += 1;
        self.work_due(now)
    }

    pub(super) fn follow(&mut self, now: Instant, line: FollowLine) -> Option<String> {
        let rate = self.follow.and_then(|last| {
            let span = now.saturating_duration_since(last.at);
            (span >= RATE_SPAN_MIN)
                .then(|| per_second(line.transactions.saturating_sub(last.line.transactions), span))
        });
        match (&mut self.follow, rate) {
            // Too soon for a rate: keep measuring from where the last one ended.
            (Some(last), None) => {
                last.line = FollowLine { transactions: last.line.transactions, ..line };
            }
            (follow, rate) => *follow = Some(Followed { at: now, line, rate }),
        }
        self.due(now).then(|| self.follow_line()).flatten().map(|line| self.stamped(now, &line))
    }

    /// The copy, while there is something to copy.
    pub(super) fn copying(&self) -> Option<&Copying> {
        self.copy.as_ref().filter(|_| self.before(Phase::Building))
    }

    /// The builds, while any is left.
    pub(super) fn building(&self) -> Option<&Building> {
        let builds = self.builds.as_ref()?;
        (builds.done < builds.total).then_some(builds)
    }

    /// `lag 12.3 MB, 120 tx/s, applied 16/B374D848`
    pub(super) fn follow_line(&self) -> Option<String> {
        let Followed { line, rate, .. } = self.follow?;
        let rate = rate.map(|rate| format!("{} tx/s, ", text::count(rate))).unwrap_or_default();
        Some(format!("lag {}, {rate}applied {}", text::bytes(line.lag_bytes), line.applied))
    }

    /// Whether changes are being applied now.
    pub(super) fn is_following(&self) -> bool {
        self.follow.is_some() && !self.before(Phase::CatchingUp) && self.before(Phase::CutOver)
    }

    /// `00:12:41 text`, or `00:12:41 database: text` of one of several.
    pub(super) fn stamped(&self, now: Instant, line: &str) -> String {
        let clock = text::clock(now.saturating_duration_since(self.started));
        let line = text::printable(line);
        match &self.name {
            Some(name) => format!("{clock} {}: {line}", text::printable(name)),
            None => format!("{clock} {line}"),
        }
    }

    /// Where this database of several stands, in one line.
    pub(super) fn summary(&self, now: Instant) -> String {
        let copy = || self.copying().map(|copy| copy.line(now));
        let builds = || self.building().map(Building::line);
        let follow = || if self.is_following() { self.follow_line() } else { None };
        let phase = || self.phase.map_or("waiting", Phase::label).replace('_', " ");
        let work = copy().or_else(builds).or_else(follow).unwrap_or_else(phase);
        let name = self.name.as_deref().unwrap_or_default();
        format!("{}: {work}", text::printable(name))
    }

    /// The time spent in each phase until `now`, in the order in which they were entered first.
    pub(super) fn phases(&self, now: Instant) -> Vec<(Phase, Duration)> {
        let mut spent = self.spent.clone();
        add(&mut spent, self.phase, now.saturating_duration_since(self.phase_entered));
        spent
    }

    fn spend(&mut self, left: Option<Phase>, now: Instant) {
        add(&mut self.spent, left, now.saturating_duration_since(self.phase_entered));
        self.phase_entered = now;
    }

    /// The phase as a label, for logs.
    pub(super) fn phase_label(&self) -> &'static str {
        self.phase.map_or("none", Phase::label)
    }

    fn before(&self, phase: Phase) -> bool {
        self.phase.is_none_or(|current| current < phase)
    }

    fn work_due(&mut self, now: Instant) -> Option<String> {
        if !self.due(now) {
            return None;
        }
        let copy = self.copying().map(|copy| format!("copied {}", copy.line(now)));
        let builds = self.building().map(Building::line);
        let line = [copy, builds].into_iter().flatten().collect::<Vec<_>>().join("; ");
        (!line.is_empty()).then(|| self.stamped(now, &line))
    }

    /// Whether a periodic line is due; if so, sets when the next one is.
    fn due(&mut self, now: Instant) -> bool {
        if now < self.line_due {
            return false;
        }
        let settled = self.phase == Some(Phase::Following);
        self.line_due = now + self.patience * if settled { FOLLOW_INTERVAL } else { LINE_INTERVAL };
        true
    }
}

fn add(spent: &mut Vec<(Phase, Duration)>, phase: Option<Phase>, time: Duration) {
    let Some(phase) = phase else { return };
    match spent.iter_mut().find(|(known, _)| *known == phase) {
        Some((_, total)) => *total += time,
        None => spent.push((phase, time)),
    }
}

pub(super) fn per_second(amount: u64, span: Duration) -> u64 {
    let millis = span.as_millis().max(1);
    u64::try_from(u128::from(amount) * 1_000 / millis).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1024 * 1024;

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn copying(start: Instant) -> Tally {
        let mut tally = Tally::new(start);
        tally.phase(start, Phase::Copying);
        tally.copy_started(start, 1_000 * MB, 1_200);
        tally
    }

    #[test]
    fn a_line_every_ten_seconds_however_many_tables() {
        let start = Instant::now();
        let mut tally = copying(start);
        let mut lines = Vec::new();
        for second in 0..30 {
            for _ in 0..40 {
                lines.extend(tally.copied(at(start, second), MB / 4));
                tally.table_started("t", MB / 4);
                let table = CopiedTable { name: "t", rows: 1, bytes: MB / 4, elapsed: Duration::ZERO };
                lines.extend(tally.table_done(at(start, second), table));
            }
        }
        let first = "00:00:10 copied 100 MB of 0.98 GB (10 %), 400 of 1 200 tables, 10.0 MB/s, 1m 29s left";
        assert_eq!(lines.len(), 2, "{lines:#?}");
        assert_eq!(lines[0], first);
        assert!(lines[1].starts_with("00:00:20 copied 200 MB"), "{lines:#?}");
    }

    #[test]
    fn phase_edges_are_told_once_with_what_was_done() {
        let start = Instant::now();
        let mut tally = copying(start);
        tally.copied(at(start, 1), 500 * MB);
        tally.table_done(at(start, 1), CopiedTable { name: "t", rows: 7, bytes: 1, elapsed: Duration::ZERO });
        tally.builds(3);
        let lines = tally.phase(at(start, 5), Phase::Building);
        assert_eq!(
            lines,
            ["00:00:05 copied 1 table, 7 rows, 500 MB in 5.0s (100 MB/s)", "00:00:05 building"]
        );
        assert!(tally.phase(at(start, 6), Phase::Building).is_empty());
        assert_eq!(tally.build_done(at(start, 20)).unwrap(), "00:00:20 1 of 3 built");
        let lines = tally.phase(at(start, 21), Phase::CatchingUp);
        assert_eq!(lines, ["00:00:21 1 built", "00:00:21 catching up"]);
    }

    #[test]
    fn following_slows_its_lines_once_in_step() {
        let start = Instant::now();
        let mut tally = Tally::new(start);
        tally.phase(start, Phase::CatchingUp);
        let follow = |seconds: u64, lag_bytes| FollowLine {
            applied: Lsn::new(0x16_0000_0000 + seconds),
            lag_bytes,
            transactions: seconds * 120,
            changes: seconds * 240,
        };
        let mut lines = Vec::new();
        for second in 1..=20 {
            lines.extend(tally.follow(at(start, second), follow(second, 5 * MB)));
        }
        tally.phase(at(start, 20), Phase::Following);
        for second in 21..=120 {
            lines.extend(tally.follow(at(start, second), follow(second, 0)));
        }
        assert_eq!(
            lines,
            [
                "00:00:10 lag 5.00 MB, 120 tx/s, applied 16/A",
                "00:00:20 lag 5.00 MB, 120 tx/s, applied 16/14",
                "00:00:30 lag 0 bytes, 120 tx/s, applied 16/1E",
                "00:01:30 lag 0 bytes, 120 tx/s, applied 16/5A",
            ]
        );
    }

    #[test]
    fn a_burst_of_reports_does_not_spoil_the_rate() {
        let start = Instant::now();
        let mut tally = Tally::new(start);
        let report = |transactions| FollowLine { applied: Lsn::ZERO, lag_bytes: 1, transactions, changes: 0 };
        tally.follow(start, report(0));
        tally.follow(start + Duration::from_millis(1), report(500));
        tally.follow(at(start, 1), report(1_000));
        assert_eq!(tally.follow_line().unwrap(), "lag 1 bytes, 1 000 tx/s, applied 0/0");
    }

    #[test]
    fn a_database_of_several_is_named_and_speaks_less_often() {
        let start = Instant::now();
        let mut tally = Tally::new(start).of_database(start, "shop", 17);
        assert_eq!(tally.summary(start), "shop: waiting");
        assert_eq!(tally.phase(start, Phase::Copying), ["00:00:00 shop: copying"]);
        tally.copy_started(start, MB, 1);
        assert_eq!(tally.copied(at(start, 29), 0), None);
        assert!(
            tally.copied(at(start, 30), 0).unwrap().starts_with("00:00:30 shop: copied 0 bytes of 1.00 MB")
        );
        assert!(tally.summary(start).starts_with("shop: 0 bytes of 1.00 MB"));
    }

    #[test]
    fn time_is_counted_by_phase_also_when_one_comes_twice() {
        let start = Instant::now();
        let mut tally = Tally::new(start);
        for (second, phase) in [(1, Phase::Copying), (3, Phase::SchemaReady), (4, Phase::Copying)] {
            tally.phase(at(start, second), phase);
        }
        let seconds = Duration::from_secs;
        let expected = [(Phase::Copying, seconds(7)), (Phase::SchemaReady, seconds(1))];
        assert_eq!(tally.phases(at(start, 9)), expected);
    }
}
