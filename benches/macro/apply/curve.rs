//! What one change costs, against everything that should not matter: how many there are, how many tables are
//! known, how many rows they hold, for how long the engine has run.
//!
//! CPU tells it better than time on a machine that does other things, too.

use std::time::{Duration, Instant};

use pgstream::error::{Error, ErrorKind, Result};

use super::Size;
use super::arena::{Arena, TARGET};
use super::contest::{Contestant, Outcome, once};
use super::workload::{
    Backlog, Contest, Goals, ITEMS_WITNESS, Scale, UPDATE_ONE, Workload, count, items, keyless_of, tables_of,
};
use crate::figure::figure;
use crate::process::cpu_seconds;
use crate::stage::{Stage, number};

/// Parts of a long run.
const AGES: i64 = 6;

pub(super) async fn measure(stage: &Stage, size: Size) -> Result<()> {
    let scale = Scale(size.scale);
    println!(
        "\nWhat a change costs, in µs\n\n| what grows | to | time | engine CPU | target CPU |\n|---|---:|---:|---:|---:|"
    );
    for factor in [1, 2, 4, 8] {
        let workload = updates(scale.of(50_000, 8) * factor, scale.of(200_000, 64));
        let changes = workload.transactions;
        point(stage, "changes, by key", changes, &workload).await?;
    }
    for factor in [1, 4, 16] {
        let rows = scale.of(100_000, 1000);
        let workload = keyless_of(rows, scale.of(50, 1) * factor);
        point(stage, "changes, without a key", 100 * workload.transactions, &workload).await?;
    }
    for rows in [10_000, 100_000, 1_000_000] {
        let rows = scale.of(rows, 64);
        point(stage, "rows of the table", rows, &updates(scale.of(100_000, 8), rows)).await?;
    }
    for tables in [10, 100, 1000] {
        let workload = tables_of(tables, 10, scale.of(50_000, 8));
        point(stage, "tables known", tables, &workload).await?;
    }
    ages(stage, scale).await
}

fn updates(transactions: u64, rows: u64) -> Workload {
    Workload {
        name: "curve",
        title: String::new(),
        start: items(rows),
        backlog: Backlog::Script { text: UPDATE_ONE, protocol: "prepared", rows },
        transactions,
        changes_each: 1,
        witness: ITEMS_WITNESS,
        goals: Goals::default(),
        contest: Contest::Backlog,
    }
}

async fn point(stage: &Stage, what: &str, to: u64, workload: &Workload) -> Result<()> {
    let arena = Arena::open(stage, workload).await?;
    let outcome = async {
        let end = arena.write(&workload.backlog, workload.transactions, 1).await?;
        once(&arena, Contestant::Pgstream, &end).await
    };
    let outcome = outcome.await;
    arena.close().await?;
    print(what, &count(to), outcome?, workload.transactions * workload.changes_each);
    Ok(())
}

fn print(what: &str, to: &str, outcome: Outcome, changes: u64) {
    let each = |seconds: f64| figure(seconds * 1e6 / changes as f64);
    let Outcome { seconds, engine_cpu, target_cpu, .. } = outcome;
    println!("| {what} | {to} | {} | {} | {} |", each(seconds), each(engine_cpu), each(target_cpu));
}

/// One engine, one backlog after the other.
async fn ages(stage: &Stage, scale: Scale) -> Result<()> {
    let workload = updates(scale.of(40_000, 8), scale.of(200_000, 64));
    let arena = Arena::open(stage, &workload).await?;
    let outcome = ages_in(&arena, &workload).await;
    arena.close().await?;
    outcome
}

async fn ages_in(arena: &Arena<'_>, workload: &Workload) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(120);
    let target = arena.fresh_target().await?;
    arena.take(&arena.slot).await?;
    let mut engine = arena.migrate(TARGET, None, &[])?;
    for age in 1..=AGES {
        let (started, target_before) = (Instant::now(), arena.stage.cpu().target);
        let engine_before = cpu_seconds(engine.pid()).unwrap_or(0.0);
        let end = arena.write(&workload.backlog, workload.transactions, age).await?;
        let marked = format!("SELECT count(*) FROM public.bench_mark WHERE id = {age}");
        while number(&target, &marked).await? == 0 || !arena.is_whole(&target, &end).await? {
            engine.expect_no_failure()?;
            if started.elapsed() > PATIENCE {
                return Err(Error::new(ErrorKind::Apply, "see a part of a long run in time"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let outcome = Outcome {
            seconds: started.elapsed().as_secs_f64(),
            engine_cpu: cpu_seconds(engine.pid()).unwrap_or(0.0) - engine_before,
            target_cpu: arena.stage.cpu().target - target_before,
            ..Outcome::default()
        };
        // The first holds the engine's start, too.
        if age > 1 {
            let to = count(age.unsigned_abs() * workload.transactions);
            print("age of a run, in changes (while they are written)", &to, outcome, workload.transactions);
        }
    }
    Ok(())
}
