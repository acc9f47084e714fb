//! Ten times the rows: ten times the time, and the same memory.

use super::contest::{Own, pgstream};
use super::dataset::mixed;
use super::{SOURCE, Size, TARGET, clear, fill};
use crate::figure::{figure, median};
use crate::stage::Stage;
use pgstream::error::Result;

const FACTOR: u64 = 10;
const REPETITIONS_MAX: usize = 3;
/// How far from ten times the time it may be, either way.
const GOAL: f64 = 0.15;

/// What one size shows.
#[derive(Debug, Default)]
struct Runs {
    seconds: Vec<f64>,
    own: Vec<Own>,
}

pub(super) async fn measure(stage: &Stage, size: Size) -> Result<()> {
    println!("\n| rows | copy s | all s | engine CPU s/GB | peak MB |\n|---|---:|---:|---:|---:|");
    let few = size.of(400_000);
    let mut sizes: [Runs; 2] = Default::default();
    for (rows, runs) in [few, few * FACTOR].into_iter().zip(&mut sizes) {
        fill(stage, &mixed(rows)).await?;
        for _ in 0..size.repetitions.min(REPETITIONS_MAX) {
            stage.target.drop_database(TARGET).await?;
            stage.target.create_database(TARGET).await?;
            stage.settle().await?;
            let (usage, own) = pgstream(stage.migrate(SOURCE, TARGET, None)).await?;
            runs.seconds.push(usage.wall.as_secs_f64());
            runs.own.push(own);
        }
        clear(stage).await?;
        println!(
            "| {rows} mixed | {} | {} | {} | {} |",
            figure(runs.own(|own| own.copy_seconds)),
            figure(runs.seconds()),
            figure(runs.own(|own| own.cpu / (own.bytes / 1e9))),
            figure(runs.own(|own| own.memory_bytes) / 1e6)
        );
    }
    let [few, many] = sizes;
    let ratio = |of: fn(&Own) -> f64| figure(many.own(of) / few.own(of));
    println!(
        "| times (10 ± {:.1}; memory 1) | {} | {} | {} | {} |",
        GOAL * 10.0,
        ratio(|own| own.copy_seconds),
        figure(many.seconds() / few.seconds()),
        ratio(|own| own.cpu / own.bytes),
        ratio(|own| own.memory_bytes)
    );
    Ok(())
}

impl Runs {
    fn own(&self, of: fn(&Own) -> f64) -> f64 {
        median(self.own.iter().map(of))
    }

    fn seconds(&self) -> f64 {
        median(self.seconds.iter().copied())
    }
}
