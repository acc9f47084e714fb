//! Progress for people, on stderr: bars on a terminal, a few plain lines elsewhere.
//!
//! Hazard: bars and logs share one screen, and each garbles the other unless everything that writes to
//! stderr goes through here. The log's writer is [`Progress::suspend`].

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::bars::Bars;
use super::building::RunningBuild;
use super::label::Phase;
use super::tally::{CopiedTable, FollowLine, Tally};
use super::text;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Display {
    /// Bars if stderr is a terminal that can draw them, else [`Display::Lines`].
    Bars,
    /// Plain lines at phase edges and every ten seconds.
    Lines,
    /// The same as log events, for logs that a machine reads.
    Events,
    /// Warnings only.
    Quiet,
}

#[derive(Debug)]
enum Screen {
    Bars(Bars),
    Lines(Sink),
    Events,
    Quiet(Sink),
}

impl Screen {
    /// The same screen, for one of several databases.
    fn of_database(&self) -> Screen {
        match self {
            Screen::Bars(bars) => Screen::Bars(bars.of_database()),
            Screen::Lines(sink) => Screen::Lines(sink.clone()),
            Screen::Events => Screen::Events,
            Screen::Quiet(sink) => Screen::Quiet(sink.clone()),
        }
    }
}

/// One handle for everybody; a clone is a reference. Nothing here is called per row.
#[derive(Debug, Clone)]
pub struct Progress {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    tally: Mutex<Tally>,
    screen: Screen,
}

/// Whether a line is worth keeping where bars already show the same.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weight {
    Periodic,
    Lasting,
    Warning,
}

impl Progress {
    /// Progress on stderr.
    #[must_use]
    pub fn new(display: Display) -> Progress {
        let screen = match display {
            Display::Bars => Bars::on_stderr().map_or_else(|| Screen::Lines(Sink::Stderr), Screen::Bars),
            Display::Lines => Screen::Lines(Sink::Stderr),
            Display::Events => Screen::Events,
            Display::Quiet => Screen::Quiet(Sink::Stderr),
        };
        Progress::on(screen)
    }

    fn on(screen: Screen) -> Progress {
        Progress::with(Tally::new(Instant::now()), screen)
    }

    fn with(tally: Tally, screen: Screen) -> Progress {
        Progress { shared: Arc::new(Shared { tally: Mutex::new(tally), screen }) }
    }

    /// The progress of one of `databases`, on the same screen and by the same clock; its lines bear its name.
    #[must_use]
    pub fn of_database(&self, name: &str, databases: usize) -> Progress {
        let tally = self.tally().of_database(Instant::now(), name, databases);
        Progress::with(tally, self.shared.screen.of_database())
    }

    /// How long it has been in each phase, in the order in which they were entered first.
    #[must_use]
    pub fn phases(&self) -> Vec<(Phase, Duration)> {
        self.tally().phases(Instant::now())
    }

    /// Enters a phase; entering the same one again says nothing.
    pub fn phase(&self, phase: Phase) {
        let now = Instant::now();
        let lines = self.update(now, |tally| tally.phase(now, phase));
        for line in lines {
            self.say(Weight::Lasting, &line);
        }
    }

    /// The copy begins: estimated bytes, and tables.
    pub fn copy_started(&self, bytes_total: u64, tables_total: u64) {
        let now = Instant::now();
        self.update(now, |tally| tally.copy_started(now, bytes_total, tables_total));
    }

    /// A table's copy begins; `bytes` is its size.
    pub fn table_started(&self, name: &str, bytes: u64) {
        self.update(Instant::now(), |tally| tally.table_started(name, bytes));
    }

    /// Adds copied bytes, a buffer's worth at a time.
    pub fn copied(&self, bytes: u64) {
        self.periodic(|tally, now| tally.copied(now, bytes));
    }

    /// A table is copied whole. Its bytes were already added by [`Progress::copied`].
    pub fn table_done(&self, table: CopiedTable<'_>) {
        tracing::debug!(
            relation = table.name,
            rows = table.rows,
            bytes = table.bytes,
            elapsed_ms = millis(table.elapsed),
            "table copied"
        );
        self.periodic(|tally, now| tally.table_done(now, table));
    }

    /// So many more indexes and constraints are to be built.
    pub fn builds(&self, total: u64) {
        self.update(Instant::now(), |tally| tally.builds(total));
    }

    /// Those that run now, as the target tells of them; about once a second.
    pub fn builds_running(&self, running: Vec<RunningBuild>) {
        self.periodic(|tally, now| tally.builds_running(now, running));
    }

    /// Whether anything but warnings is shown.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        !matches!(self.shared.screen, Screen::Quiet(_))
    }

    /// One of them is built.
    pub fn build_done(&self, name: &str) {
        tracing::debug!(name, "built");
        self.periodic(Tally::build_done);
    }

    /// Where following stands; about once a second.
    pub fn follow(&self, line: FollowLine) {
        self.periodic(|tally, now| tally.follow(now, line));
    }

    /// Says something that is neither a phase nor a warning: what is being waited for, say.
    pub fn note(&self, text: &str) {
        self.stamped(Weight::Lasting, text);
    }

    /// Warns: something unexpected, and work goes on. Shown even when quiet. The result names it too.
    pub fn warn(&self, text: &str) {
        match self.shared.screen {
            Screen::Events => self.say(Weight::Warning, &text::printable(text)),
            _ => self.stamped(Weight::Warning, &format!("warning: {text}")),
        }
    }

    /// Takes the bars away; what follows on stderr is the caller's.
    pub fn finish(&self) {
        if let Screen::Bars(bars) = &self.shared.screen {
            bars.clear();
        }
    }

    /// Runs `write`, which writes to stderr, while no bar is drawn there.
    pub fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.shared.screen {
            Screen::Bars(bars) => bars.suspend(write),
            Screen::Lines(_) | Screen::Events | Screen::Quiet(_) => write(),
        }
    }

    fn periodic(&self, change: impl FnOnce(&mut Tally, Instant) -> Option<String>) {
        let now = Instant::now();
        if let Some(line) = self.update(now, |tally| change(tally, now)) {
            self.say(Weight::Periodic, &line);
        }
    }

    fn stamped(&self, weight: Weight, text: &str) {
        let line = self.tally().stamped(Instant::now(), text);
        self.say(weight, &line);
    }

    /// Changes the tally and redraws. The lock is released before anything is written as a log event.
    fn update<T>(&self, now: Instant, change: impl FnOnce(&mut Tally) -> T) -> T {
        let mut tally = self.tally();
        let changed = change(&mut tally);
        if let Screen::Bars(bars) = &self.shared.screen {
            bars.draw(&tally, now);
        }
        changed
    }

    fn say(&self, weight: Weight, line: &str) {
        match (&self.shared.screen, weight) {
            (Screen::Bars(_), Weight::Periodic) | (Screen::Quiet(_), Weight::Periodic | Weight::Lasting) => {}
            (Screen::Bars(bars), Weight::Lasting | Weight::Warning) => bars.print(line),
            (Screen::Lines(sink), _) | (Screen::Quiet(sink), Weight::Warning) => {
                sink.write(&format!("{line}\n"));
            }
            (Screen::Events, Weight::Warning) => {
                tracing::warn!(phase = self.tally().phase_label(), text = line, "warning");
            }
            (Screen::Events, Weight::Periodic | Weight::Lasting) => {
                tracing::info!(phase = self.tally().phase_label(), text = line, "progress");
            }
        }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.shared.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where plain lines go.
#[derive(Debug, Clone)]
enum Sink {
    Stderr,
    #[cfg(test)]
    Memory(Arc<Mutex<Vec<u8>>>),
}

impl Sink {
    fn write(&self, line: &str) {
        match self {
            // A closed stderr must not end a migration.
            Sink::Stderr => drop(io::stderr().lock().write_all(line.as_bytes())),
            #[cfg(test)]
            Sink::Memory(buffer) => buffer.lock().unwrap().extend_from_slice(line.as_bytes()),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::Lsn;

    /// What a short run writes, without the clock in front.
    fn run(screen: fn(Sink) -> Screen) -> Vec<String> {
        let buffer = Arc::new(Mutex::new(Vec::new()));
        let progress = Progress::on(screen(Sink::Memory(Arc::clone(&buffer))));
        progress.phase(Phase::Copying);
        progress.copy_started(1 << 20, 2);
        progress.table_started("public.orders", 1 << 20);
        for _ in 0..1_000 {
            progress.copied(1 << 10);
        }
        let elapsed = Duration::from_secs(1);
        progress.table_done(CopiedTable { name: "public.orders", rows: 10, bytes: 1 << 20, elapsed });
        progress.note("waiting for 1 transaction to end");
        progress.warn("public.t has no key\u{1b}[31m");
        progress.phase(Phase::Following);
        progress.follow(FollowLine { applied: Lsn::ZERO, lag_bytes: 0, transactions: 0, changes: 0 });
        progress.finish();
        let text = String::from_utf8(buffer.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    #[test]
    fn plain_lines_are_few_whatever_happens_in_between() {
        let mut lines = run(Screen::Lines);
        let summary = lines.remove(3);
        assert!(summary.starts_with("copied 1 table, 10 rows, 0.98 MB in "), "{summary}");
        let rest =
            ["copying", "waiting for 1 transaction to end", "warning: public.t has no key [31m", "following"];
        assert_eq!(lines, rest);
    }

    #[test]
    fn quiet_keeps_warnings() {
        assert_eq!(run(Screen::Quiet), ["warning: public.t has no key [31m"]);
    }
}
