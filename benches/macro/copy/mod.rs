//! The copy of a database at rest: definitions, rows, indexes, constraints; beside the tools that one would use
//! instead, and beside what these two servers can do at all.
//!
//! - `-Fd` is `pg_dump -Fd -j` to disk and `pg_restore -j` from there; `pipe` is `pg_dump -Fc | pg_restore`.
//! - `native` is a subscription's initial copy. Its definitions are restored beforehand and not counted.
//! - `pgcopydb` is `pgcopydb clone`, where it is installed.
//! - The [`limit`] is what several psql need to read the rows and to load them, and nothing else.
//! - `pgstream` is the program as released. It takes a slot as well, and streams what changed meanwhile, which here is
//!   nothing.
//!
//! Then pgstream beside itself: the same rows by other [`ways`], and [`tenfold`].
//!
//! All have the same jobs. Contestants take turns in going first; one that takes twice as long as the fastest rival
//! has lost, and is not asked again.

mod contest;
mod dataset;
mod limit;
mod mixture;
mod sheet;
mod tenfold;
mod ways;
mod witness;

use std::time::Instant;

use pgstream::error::{Error, Result, describe};

use crate::stage::{Stage, run};
use contest::{Contestant, clear, once};
use dataset::{DataSet, Start};
use sheet::Runs;

/// The database that is copied, and the one it is copied to.
const SOURCE: &str = "origin";
const TARGET: &str = "arrived";
/// A rival that is so many times slower than the fastest one.
const LOST: f64 = 2.0;

/// How much there is to copy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Multiplies rows, tables and large objects.
    pub(crate) scale: f64,
    pub(crate) repetitions: usize,
}

impl Size {
    /// That many at the scale wanted, and at least one.
    fn of(self, number: u64) -> u64 {
        ((number as f64 * self.scale) as u64).max(1)
    }
}

/// Measures the data sets that are named, or all.
///
/// # Errors
/// The first failure; what can be measured besides is measured first.
pub(crate) async fn measure(stage: &Stage, size: Size, only: &[String]) -> Result<()> {
    let wanted = |name: &str| only.is_empty() || only.iter().any(|one| one == name);
    let mut failed: Option<Error> = None;
    let mut note = |what: &str, begun: Instant, outcome: Result<()>| {
        eprintln!("{what}: {:.0} s", begun.elapsed().as_secs_f64());
        if let Err(error) = outcome {
            println!("| {what} | failed: {} |", describe(&error).replace('\n', " "));
            failed.get_or_insert(error);
        }
    };
    let sets: Vec<DataSet> = dataset::all(size).into_iter().filter(|set| wanted(set.name)).collect();
    if !sets.is_empty() {
        sheet::heading();
    }
    for set in sets {
        let begun = Instant::now();
        let outcome = compare(stage, &set, size.repetitions.min(set.repetitions_max)).await;
        clear(stage).await?;
        note(&set.title, begun, outcome);
    }
    if wanted("ways") {
        let begun = Instant::now();
        let outcome = ways::measure(stage, size).await;
        clear(stage).await?;
        note("ways", begun, outcome);
    }
    if wanted("tenfold") {
        let begun = Instant::now();
        let outcome = tenfold::measure(stage, size).await;
        clear(stage).await?;
        note("tenfold", begun, outcome);
    }
    failed.map_or(Ok(()), Err)
}

/// One row of the table.
async fn compare(stage: &Stage, set: &DataSet, repetitions: usize) -> Result<()> {
    fill(stage, set).await?;
    let witness = witness::of(&stage.source.session(SOURCE).await?).await?;
    let mut limit = match set.limit {
        dataset::Limit::Measured => Some(limit::Files::write(stage).await?),
        dataset::Limit::No => None,
    };
    let mut contestants = contest::rivals(set);
    contestants.push(Contestant::Pgstream);
    let mut runs = Runs::default();
    for repetition in 0..repetitions {
        for contestant in &contestants {
            let outcome = once(stage, set, *contestant).await?;
            witness.compare(&stage.target.session(TARGET).await?, *contestant).await?;
            runs.add(*contestant, outcome);
        }
        if let Some(files) = &mut limit {
            runs.limits.push(files.limit(stage).await?);
        }
        if repetition == 0 {
            let best = runs.best_rival();
            contestants.retain(|one| *one == Contestant::Pgstream || runs.median(*one) < best * LOST);
        }
        contestants.reverse();
    }
    sheet::row(set, &runs);
    Ok(())
}

async fn fill(stage: &Stage, set: &DataSet) -> Result<()> {
    stage.source.create_database(SOURCE).await?;
    match &set.start {
        Start::Pgbench { scale } => {
            stage.pgbench(SOURCE, &["-i", "-q", "-s", &scale.to_string()]).await?;
        }
        Start::Sql(statements) => {
            let session = stage.source.session(SOURCE).await?;
            run(&session, "SET synchronous_commit = off").await?;
            // One by one: a DO block that commits cannot stand among others.
            for statement in statements {
                run(&session, statement).await?;
            }
        }
    }
    run(&stage.source.session(SOURCE).await?, "VACUUM ANALYZE").await
}
