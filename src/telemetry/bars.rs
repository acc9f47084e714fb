//! The bars on a terminal: a drawing of the tally, nothing of their own.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::building::Building;
use super::copying::Copying;
use super::tally::Tally;

const REDRAWS_PER_SECOND: u8 = 10;

#[derive(Debug, Default)]
struct Drawn {
    copy: Option<ProgressBar>,
    running: Option<ProgressBar>,
    builds: Option<ProgressBar>,
    building: Option<ProgressBar>,
    follow: Option<ProgressBar>,
    /// All there is of one of several databases.
    summary: Option<ProgressBar>,
}

/// What is drawn.
#[derive(Debug, Clone, Copy)]
enum Layout {
    /// Bars of the one database there is.
    Bars,
    /// One line for each of several.
    Line,
}

/// The bars that are on the screen now.
#[derive(Debug)]
pub(super) struct Bars {
    multi: MultiProgress,
    layout: Layout,
    drawn: Mutex<Drawn>,
}

impl Bars {
    /// Bars on stderr; `None` when it is no terminal, or one that cannot move its cursor.
    pub(super) fn on_stderr() -> Option<Bars> {
        let target = ProgressDrawTarget::stderr_with_hz(REDRAWS_PER_SECOND);
        let multi = MultiProgress::with_draw_target(target);
        let bars = Bars { multi, layout: Layout::Bars, drawn: Mutex::default() };
        (!bars.multi.is_hidden()).then_some(bars)
    }

    /// One of several databases, on the same screen.
    pub(super) fn of_database(&self) -> Bars {
        Bars { multi: self.multi.clone(), layout: Layout::Line, drawn: Mutex::default() }
    }

    /// Makes the screen say what the tally says. Bars appear when their work begins and go when it ends.
    pub(super) fn draw(&self, tally: &Tally, now: Instant) {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        match self.layout {
            Layout::Bars => {}
            Layout::Line => return self.line(&mut drawn.summary, Place::Last, Some(tally.summary(now))),
        }
        let (copy, builds) = (tally.copying(), tally.building());
        // The copy stands above the builds, which are announced first.
        let copied = copy.map(|copy| (copy.position(), copy.line(now)));
        self.bar(&mut drawn.copy, "copy", Place::Row(0), copied);
        self.line(&mut drawn.running, Place::Row(1), copy.and_then(Copying::running_line));
        let built = builds.map(|builds| ((builds.done, builds.total), builds.position_line()));
        self.bar(&mut drawn.builds, "build", Place::Last, built);
        self.line(&mut drawn.building, Place::Last, builds.and_then(Building::running_line));
        self.line(
            &mut drawn.follow,
            Place::Last,
            if tally.is_following() { tally.follow_line() } else { None },
        );
    }

    /// Prints a line that stays, above the bars.
    pub(super) fn print(&self, line: &str) {
        // Nobody can be told that the terminal is gone.
        let _ = self.multi.println(line);
    }

    /// Takes the bars off the screen while `write` writes to it.
    pub(super) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        self.multi.suspend(write)
    }

    /// Takes the bars off for good.
    pub(super) fn clear(&self) {
        let drawn = std::mem::take(&mut *self.drawn.lock().unwrap_or_else(PoisonError::into_inner));
        let Drawn { copy, running, builds, building, follow, summary } = drawn;
        for bar in [copy, running, builds, building, follow, summary].into_iter().flatten() {
            bar.finish_and_clear();
        }
    }

    fn bar(
        &self,
        slot: &mut Option<ProgressBar>,
        name: &'static str,
        place: Place,
        at: Option<((u64, u64), String)>,
    ) {
        let Some(((done, total), text)) = at else { return remove(slot) };
        let bar = slot.get_or_insert_with(|| {
            let bar = ProgressBar::no_length().with_style(style("{prefix:>5} [{bar:24}] {msg}"));
            self.put(place, bar.with_prefix(name))
        });
        bar.set_length(total);
        bar.set_position(done);
        bar.set_message(text);
    }

    fn line(&self, slot: &mut Option<ProgressBar>, place: Place, text: Option<String>) {
        let Some(text) = text else { return remove(slot) };
        let bar = slot.get_or_insert_with(|| {
            self.put(place, ProgressBar::no_length().with_style(style("{spinner:>5} {msg}")))
        });
        bar.set_message(text);
        bar.tick();
    }

    fn put(&self, place: Place, bar: ProgressBar) -> ProgressBar {
        match place {
            Place::Row(row) => self.multi.insert(row, bar),
            Place::Last => self.multi.add(bar),
        }
    }
}

/// Where a bar stands among the others.
#[derive(Clone, Copy)]
enum Place {
    Row(usize),
    Last,
}

fn remove(slot: &mut Option<ProgressBar>) {
    if let Some(bar) = slot.take() {
        bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("templates stand in this file").progress_chars("=> ")
}
