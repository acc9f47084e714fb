//! `pgstream demo`: a live database moves between two throwaway servers, before the reader's eyes.
//!
//! Hazard: a demo is the first thing that a stranger runs. It must end by itself, leave nothing behind, and
//! show what is true: the writers never stop while the database moves, and both ends are compared row by row.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use super::args::DemoArgs;
use super::exit::Exit;
use super::watch::Watch;
use crate::demo::{Durability, SeedOptions, Stage, StageOptions, WorkloadOptions, WorkloadReport};
use crate::error::Result;
use crate::migrate::{self, Budgets, Ending, Full, Options, Outcome, Shutdown, ShutdownSender, Watchers};
use crate::telemetry::{HeldUp, text};
use crate::verify::{Comparison, compare_database};

/// Rows of the middling tables for each unit of `--size`.
const ROWS_PER_SIZE: u32 = 5_000;

/// Plays it, from the first server to the last comparison.
pub(super) async fn demo(args: DemoArgs, directives: Option<String>) -> Result<Exit> {
    let watch = Watch::start(&args.talk, directives, None).await?;
    let (sender, shutdown) = migrate::shutdown();
    let listener = tokio::spawn(super::command::listen(sender));
    let mut stop = shutdown.clone();
    // The stage is dropped with the play, and both servers with it.
    let played = stop.or_stop(play(&args, &watch, &shutdown)).await;
    listener.abort();
    watch.finish().await;
    let play = played?;
    // A reader that has gone away has seen enough.
    let _ = std::io::stderr().lock().write_all(play.report().as_bytes());
    Ok(if play.comparison.is_equal() { Exit::Done } else { Exit::Different })
}

/// What came of it.
struct Play {
    comparison: Comparison,
    written: WorkloadReport,
    moved: Outcome,
    moving: Duration,
    cutover: Duration,
}

async fn play(args: &DemoArgs, watch: &Watch, shutdown: &Shutdown) -> Result<Play> {
    watch.progress.note("starting two servers and seeding the source");
    let seed = SeedOptions { rows: args.size * ROWS_PER_SIZE, ..SeedOptions::default() };
    let mut options = StageOptions { seed, ..StageOptions::default() };
    options.source.durability = Durability::Real;
    options.target.durability = Durability::Real;
    let stage = Stage::set(options).await?;
    stage.target.create_database(&stage.dbname).await?;
    let workload = stage.start_workload(WorkloadOptions::default()).await?;
    watch.progress.note("four writers are at work on the source");

    let run = async |ending: Ending, shutdown: Shutdown| {
        let mut options =
            Options::new(stage.source.conninfo(&stage.dbname), stage.target.conninfo(&stage.dbname));
        options.ending = ending;
        // The database holds tables without a key, on purpose.
        options.identity.full = Full::Keyless;
        let metrics = watch.metrics.database(&stage.dbname);
        let watchers = Watchers {
            held_up: HeldUp::new(metrics.clone(), watch.progress.clone()),
            progress: watch.progress.clone(),
            metrics,
            health: watch.health.clone(),
            log: watch.migration.clone(),
            shutdown,
            method: migrate::MethodTaken::default(),
            budgets: Budgets::new(&options),
        };
        migrate::migrate(&options, &watchers).await
    };
    let begun = Instant::now();
    run(Ending::CaughtUp, shutdown.clone()).await?;
    let moving = begun.elapsed();
    watch.progress.note(&format!("caught up in {}; following the writers", text::duration(moving)));
    let (timer, timed) = migrate::shutdown();
    let timer = tokio::spawn(ring_after(timer, args.seconds));
    run(Ending::Interrupt, timed).await?;
    timer.abort();

    watch.progress.note("the writers stop; cutting over");
    let written = workload.stop().await?;
    stage.refresh_views().await?;
    let begun = Instant::now();
    let moved = run(Ending::Stop { max_lag_bytes: 0 }, shutdown.clone()).await?;
    let cutover = begun.elapsed();
    watch.progress.note("comparing both ends, row by row");
    let source = stage.source.session(&stage.dbname).await?;
    let target = stage.target.session(&stage.dbname).await?;
    let comparison = compare_database(&source, &target).await?;
    Ok(Play { comparison, written, moved, moving, cutover })
}

/// Ends the run that follows: here time itself is the condition.
async fn ring_after(timer: ShutdownSender, time: Duration) {
    tokio::time::sleep(time).await;
    timer.request();
}

impl Play {
    /// The table that the demo ends with.
    fn report(&self) -> String {
        let width = self.comparison.relations.iter().map(|relation| relation.name.plain().chars().count());
        let width = width.max().unwrap_or(0).max("table".len());
        let mut report = format!("\n{:width$}  {:>12}  {:>12}\n", "table", "source", "target");
        for relation in &self.comparison.relations {
            let rows = |digest: &Option<crate::verify::Digest>| {
                digest.as_ref().map_or_else(|| "missing".to_owned(), |digest| text::count(digest.rows))
            };
            let verdict = if relation.is_equal() { "equal" } else { "DIFFERENT" };
            let name = relation.name.plain();
            let _ = writeln!(
                report,
                "{name:width$}  {:>12}  {:>12}  {verdict}",
                rows(&relation.source),
                rows(&relation.target)
            );
        }
        let figures = &self.moved.figures;
        let sequences = self.comparison.sequences.len();
        let unequal = self.comparison.differing_sequences().count();
        let _ = write!(
            report,
            "{sequences} sequences, {unequal} different\n\n\
             copied      {} rows, {} of COPY data; in step after {}\n\
             written     {} transactions, {} rows, while the database moved\n\
             applied     {} transactions, {} changes\n\
             cut over    in {}, with a lag of {}\n\n{}\n",
            text::count(figures.rows_copied),
            text::bytes(figures.bytes_copied),
            text::duration(self.moving),
            text::count(self.written.counts.commits),
            text::count(self.written.counts.rows),
            text::count(figures.transactions_applied),
            text::count(figures.changes_applied),
            text::duration(self.cutover),
            text::bytes(figures.lag_bytes),
            if self.comparison.is_equal() { "Both ends are equal." } else { "The ends DIFFER." }
        );
        report
    }
}
