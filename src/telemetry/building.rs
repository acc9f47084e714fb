//! How far builds of indexes and constraints are.
//!
//! Hazard: a build of hours that shows only "3 of 12" cannot be told from one that hangs. What the server says of
//! each that runs is shown as it is, step by step: how long a step takes compared with the next nobody knows
//! beforehand, so there is no percentage of a whole build.

use std::fmt;

use serde::Serialize;

use super::label::BuildStep;
use super::text;

/// One build that runs now, as the target tells of it (docs: `progress-reporting`, CREATE INDEX).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunningBuild {
    /// The table it is on, for people.
    pub table: String,
    /// What it does now.
    pub step: BuildStep,
    /// Blocks or rows of this step that are done.
    pub done: u64,
    /// And all of them; zero where the server does not say.
    pub total: u64,
}

impl fmt::Display for RunningBuild {
    /// `app.orders (scanning 41 %)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", text::printable(&self.table), self.step.label())?;
        if self.total > 0 {
            let percent = u128::from(self.done) * 100 / u128::from(self.total);
            write!(f, " {} %", percent.min(100))?;
        }
        f.write_str(")")
    }
}

/// What is to be built, and what is.
#[derive(Debug, Default)]
pub(super) struct Building {
    pub(super) done: u64,
    pub(super) total: u64,
    pub(super) running: Vec<RunningBuild>,
}

impl Building {
    /// `3 of 12 built, now app.orders (scanning 41 %), app.events (sorting)`
    pub(super) fn line(&self) -> String {
        let mut line = format!("{} built", self.position_line());
        if let Some(running) = self.running_line() {
            line += &format!(", now {running}");
        }
        line
    }

    /// `3 of 12`
    pub(super) fn position_line(&self) -> String {
        format!("{} of {}", text::count(self.done), text::count(self.total))
    }

    /// Those that run: `app.orders (scanning 41 %), app.events (sorting)`
    pub(super) fn running_line(&self) -> Option<String> {
        text::first_few(self.running.iter().map(ToString::to_string))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_is_shown_step_by_step() {
        let running =
            |table: &str, step, done, total| RunningBuild { table: table.to_owned(), step, done, total };
        let mut building = Building { done: 3, total: 1_200, running: Vec::new() };
        assert_eq!(building.line(), "3 of 1 200 built");
        building.running = vec![
            running("app.orders", BuildStep::Scanning, 41, 100),
            running("app.\u{1b}[2J", BuildStep::Sorting, 0, 0),
            running("app.more", BuildStep::Loading, 9, 8),
            running("app.hidden", BuildStep::Other, 0, 0),
        ];
        assert_eq!(
            building.line(),
            "3 of 1 200 built, now app.orders (scanning 41 %), app. [2J (sorting), app.more (loading 100 %) and 1 more"
        );
    }
}
