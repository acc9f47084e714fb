//! The table of all data sets, in Markdown.

use std::collections::HashMap;

use super::contest::{Contestant, Outcome, Own};
use super::dataset::DataSet;
use super::limit::Limit;
use crate::figure::{figure, median};

const HEADING: [&str; 15] = [
    "data set",
    "-Fd s",
    "pipe s",
    "native s",
    "pgcopydb s",
    "pgstream s",
    "× best",
    "copy s",
    "limit, binary s",
    "limit, text s",
    "copy × limit",
    "all × limit",
    "engine CPU s/GB",
    "all CPU s, pgstream / best",
    "peak MB",
];

const RIVALS: [Contestant; 4] =
    [Contestant::DumpDirectory, Contestant::DumpPipe, Contestant::Native, Contestant::Pgcopydb];

/// All runs on one data set.
#[derive(Debug, Default)]
pub(super) struct Runs {
    runs: HashMap<Contestant, Vec<Outcome>>,
    pub(super) limits: Vec<Limit>,
}

impl Runs {
    pub(super) fn add(&mut self, contestant: Contestant, outcome: Outcome) {
        self.runs.entry(contestant).or_default().push(outcome);
    }

    /// Seconds; NaN of nobody.
    pub(super) fn median(&self, contestant: Contestant) -> f64 {
        median(self.of(contestant).iter().map(|run| run.seconds))
    }

    /// Seconds of the fastest rival.
    pub(super) fn best_rival(&self) -> f64 {
        self.best().map_or(f64::NAN, |rival| self.median(rival))
    }

    fn best(&self) -> Option<Contestant> {
        let there = RIVALS.into_iter().filter(|rival| !self.of(*rival).is_empty());
        there.min_by(|one, other| self.median(*one).total_cmp(&self.median(*other)))
    }

    fn of(&self, contestant: Contestant) -> &[Outcome] {
        self.runs.get(&contestant).map_or(&[], Vec::as_slice)
    }
}

/// Prints the heading.
pub(super) fn heading() {
    println!("\n| {} |", HEADING.join(" | "));
    println!("|---|{}", "---:|".repeat(HEADING.len() - 1));
}

/// Prints a row: medians, and medians of the ratios of runs that stood side by side.
pub(super) fn row(set: &DataSet, runs: &Runs) {
    let ours = runs.of(Contestant::Pgstream);
    let best = runs.best();
    let rival = best.map_or(&[][..], |best| runs.of(best));
    let own = |value: fn(&Own) -> f64| median(ours.iter().filter_map(|run| run.own.as_ref().map(value)));
    let limits = |value: fn(&Limit) -> f64| median(runs.limits.iter().map(value));
    let copy = |run: &Outcome| run.own.map_or(f64::NAN, |own| own.copy_seconds);
    let beside = median(ours.iter().zip(rival).map(|(ours, rival)| ours.seconds / rival.seconds));
    let copy_limit = median(ours.iter().zip(&runs.limits).map(|(ours, limit)| copy(ours) / limit.copy()));
    let all_limit = median(ours.iter().zip(&runs.limits).map(|(ours, limit)| ours.seconds / limit.all));
    let cpu = |runs: &[Outcome]| median(runs.iter().map(|run| run.cpu));
    let goal = |goal: Option<f64>| goal.map(|goal| format!(" (≤ {goal})")).unwrap_or_default();
    let mut cells = vec![set.title.clone()];
    cells.extend(RIVALS.map(|rival| figure(runs.median(rival))));
    cells.extend([
        figure(runs.median(Contestant::Pgstream)),
        figure(beside) + &goal(set.goals.best),
        figure(own(|own| own.copy_seconds)),
        figure(limits(|limit| limit.binary)),
        figure(limits(|limit| limit.text)),
        figure(copy_limit) + &goal(set.goals.copy_limit),
        figure(all_limit) + &goal(set.goals.all_limit),
        figure(own(|own| own.cpu / (own.bytes / 1e9))),
        format!("{} / {}", figure(cpu(ours)), figure(cpu(rival))),
        figure(own(|own| own.memory_bytes) / 1e6),
    ]);
    println!("| {} |", cells.join(" | "));
}
