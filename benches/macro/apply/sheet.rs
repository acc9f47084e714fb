//! The table of all workloads, in Markdown.

use super::contest::Outcome;
use super::workload::Goals;
use crate::figure::{figure, median};

const HEADING: [&str; 11] = [
    "workload",
    "drain s",
    "pgstream s",
    "native s",
    "× drain",
    "native ×",
    "changes/s",
    "peak MB",
    "engine CPU s",
    "target CPU s",
    "engine/target",
];

/// Runs of one workload; those of one index were made one after the other.
#[derive(Debug, Default)]
pub(super) struct Runs {
    pub(super) drain: Vec<Outcome>,
    pub(super) native: Vec<Outcome>,
    pub(super) pgstream: Vec<Outcome>,
}

/// Prints the heading.
pub(super) fn heading() {
    println!("\n| {} |", HEADING.join(" | "));
    println!("|---|{}", "---:|".repeat(HEADING.len() - 1));
}

/// Prints a row. Ratios are medians of the ratios of runs that stood side by side.
pub(super) fn row(title: &str, changes: u64, runs: &Runs, goals: Goals, seconds: fn(&Outcome) -> f64) {
    let of = |runs: &[Outcome], value: &dyn Fn(&Outcome) -> f64| median(runs.iter().map(value));
    let ratio = |over: &[Outcome], under: &[Outcome]| {
        median(over.iter().zip(under).map(|(over, under)| seconds(over) / seconds(under)))
    };
    let goal =
        |sign: char, goal: Option<f64>| goal.map(|goal| format!(" ({sign} {goal})")).unwrap_or_default();
    let ours = of(&runs.pgstream, &seconds);
    let (engine, target) =
        (of(&runs.pgstream, &|run| run.engine_cpu), of(&runs.pgstream, &|run| run.target_cpu));
    println!(
        "| {title} | {} | {} | {} | {}{} | {}{} | {} | {} | {} | {} | {} |",
        figure(of(&runs.drain, &seconds)),
        figure(ours),
        figure(of(&runs.native, &seconds)),
        figure(ratio(&runs.pgstream, &runs.drain)),
        goal('≤', goals.drain_max),
        figure(ratio(&runs.native, &runs.pgstream)),
        goal('≥', goals.native_min),
        rate(changes as f64 / ours),
        figure(of(&runs.pgstream, &|run| run.memory_bytes) / 1e6),
        figure(engine),
        figure(target),
        figure(engine / target),
    );
}

/// To the thousand, as people read it.
fn rate(value: f64) -> String {
    if value.is_finite() { format!("{:.0}k", value / 1e3) } else { "–".to_owned() }
}
