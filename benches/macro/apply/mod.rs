//! Changes carried over: behind, beside the drain and a native subscription; in step; and what one change costs.
//!
//! - The **drain** is `pg_recvlogical` into `/dev/null`: what one walsender can send, and so the limit of all others.
//! - The **native** subscription has its own defaults, but for the streaming, which is the best its server knows.
//! - `pgstream` is the program as released.
//!
//! Contestants take turns in going first.

mod arena;
mod contest;
mod curve;
mod following;
mod sheet;
mod workload;

use std::time::{Duration, Instant};

use pgstream::error::{Error, Result, describe};

use crate::fault::Proxy;
use crate::stage::Stage;
use arena::Arena;
use contest::{Contestant, once};
use sheet::Runs;
use workload::{Contest, Goals, Scale, Workload};

/// How much there is to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Multiplies rows and transactions.
    pub(crate) scale: f64,
    pub(crate) repetitions: usize,
    /// How long writers write while a follower is watched.
    pub(crate) following: Duration,
}

/// Each way between engine and target, for the row that has such a way.
const DELAY: Duration = Duration::from_millis(10);
/// The native subscriber takes a minute for it, so it gets this many turns and no more.
const GIANT_REPETITIONS_MAX: usize = 3;

/// Measures what is named, or all: the workloads' names, `following` and `curve`.
///
/// # Errors
/// The first failure; what can be measured besides is measured first.
pub(crate) async fn measure(stage: &Stage, size: Size, only: &[String]) -> Result<()> {
    let wanted = |name: &str| only.is_empty() || only.iter().any(|one| one == name);
    let scale = Scale(size.scale);
    let workloads: Vec<Workload> = workload::all(scale).into_iter().filter(|one| wanted(one.name)).collect();
    let mut failed: Option<Error> = None;
    let mut note = |what: &str, begun: Instant, outcome: Result<()>| {
        eprintln!("{what}: {:.0} s", begun.elapsed().as_secs_f64());
        if let Err(error) = outcome {
            println!("| {what} | failed: {} |", describe(&error).replace('\n', " "));
            failed.get_or_insert(error);
        }
    };
    if !workloads.is_empty() {
        sheet::heading();
    }
    for workload in &workloads {
        let begun = Instant::now();
        let outcome = compare(stage, workload, size.repetitions).await;
        note(workload.name, begun, outcome);
    }
    if wanted("following") {
        let begun = Instant::now();
        let outcome = following::measure(stage, size).await;
        note("following", begun, outcome);
    }
    if wanted("curve") {
        let begun = Instant::now();
        let outcome = curve::measure(stage, size).await;
        note("curve", begun, outcome);
    }
    failed.map_or(Ok(()), Err)
}

/// One row of the table, or two.
async fn compare(stage: &Stage, workload: &Workload, repetitions: usize) -> Result<()> {
    let arena = Arena::open(stage, workload).await?;
    let outcome = compare_in(&arena, workload, repetitions).await;
    arena.close().await?;
    outcome
}

async fn compare_in(arena: &Arena<'_>, workload: &Workload, repetitions: usize) -> Result<()> {
    let end = arena.write(&workload.backlog, workload.transactions, 1).await?;
    let repetitions = match workload.contest {
        Contest::BacklogAndCommit => repetitions.min(GIANT_REPETITIONS_MAX),
        Contest::Backlog | Contest::BacklogAndDelay => repetitions,
    };
    let mut runs = Runs::default();
    let contestants = [Contestant::Drain, Contestant::Native, Contestant::Pgstream];
    for repetition in 0..repetitions {
        let mut order = contestants;
        if repetition % 2 == 1 {
            order.reverse();
        }
        for contestant in order {
            let outcome = once(arena, contestant, &end).await?;
            match contestant {
                Contestant::Drain => runs.drain.push(outcome),
                Contestant::Native => runs.native.push(outcome),
                Contestant::Pgstream | Contestant::PgstreamThrough(_) => runs.pgstream.push(outcome),
            }
        }
    }
    let changes = workload.transactions * workload.changes_each;
    match workload.contest {
        Contest::Backlog => sheet::row(&workload.title, changes, &runs, workload.goals, |run| run.seconds),
        Contest::BacklogAndCommit => {
            sheet::row(&workload.title, changes, &runs, Goals::default(), |run| run.seconds);
            runs.drain.clear();
            let title = "the same, from its commit to visible";
            sheet::row(title, changes, &runs, workload.goals, |run| run.since_sent);
        }
        Contest::BacklogAndDelay => {
            sheet::row(&workload.title, changes, &runs, workload.goals, |run| run.seconds);
            delayed(arena, &end, changes, repetitions).await?;
        }
    }
    Ok(())
}

/// pgstream by way of a proxy, without delay and with it.
async fn delayed(arena: &Arena<'_>, end: &arena::End, changes: u64, repetitions: usize) -> Result<()> {
    let (near, far) =
        (Proxy::start(arena.stage.target.port()).await, Proxy::start(arena.stage.target.port()).await);
    far.delay(DELAY);
    let mut runs = Runs::default();
    for repetition in 0..repetitions {
        let mut order = [(Near::Yes, near.port()), (Near::No, far.port())];
        if repetition % 2 == 1 {
            order.reverse();
        }
        for (is_near, port) in order {
            let outcome = once(arena, Contestant::PgstreamThrough(port), end).await?;
            match is_near {
                Near::Yes => runs.drain.push(outcome),
                Near::No => runs.pgstream.push(outcome),
            }
        }
    }
    // Ten percent more time is the same as nine tenths of the rate, nearly.
    let goals = Goals { drain_max: Some(1.11), native_min: None };
    let title = format!(
        "the same with {} ms each way to the target; the drain is pgstream without",
        DELAY.as_millis()
    );
    sheet::row(&title, changes, &runs, goals, |run| run.seconds);
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum Near {
    Yes,
    No,
}
