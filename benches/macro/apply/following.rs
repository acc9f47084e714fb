//! In step, not behind: from a commit on the source to its visibility on the target.
//!
//! The source is written to at half of the rate that it reaches alone. Beside the writers a prober commits small
//! rows and notes when each COMMIT returned; a watcher asks the target for them, once a millisecond, whoever follows.

use std::time::{Duration, Instant};

use pgstream::error::{Error, ErrorKind, Result};
use pgstream::wire::Session;

use super::arena::{Arena, TARGET};
use super::contest::Contestant;
use super::workload::{Scale, tpcb};
use super::{Size, arena};
use crate::figure::{figure, median, quantile};
use crate::process::{Running, cpu_seconds};
use crate::stage::{Stage, number, run};

const PROBE_INTERVAL: Duration = Duration::from_millis(10);
const WATCH_INTERVAL: Duration = Duration::from_millis(1);
/// How long anything may be behind.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the source shows what it can do.
const SPRINT_SECONDS: u64 = 4;
const REPETITIONS_MAX: usize = 3;

/// What one run shows, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Latency {
    median: f64,
    p99: f64,
    worst: f64,
    engine_cpu: f64,
    target_cpu: f64,
    memory_bytes: u64,
}

pub(super) async fn measure(stage: &Stage, size: Size) -> Result<()> {
    let workload = tpcb(Scale(size.scale));
    let arena = Arena::open(stage, &workload).await?;
    let outcome = measure_in(&arena, size).await;
    arena.close().await?;
    outcome
}

async fn measure_in(arena: &Arena<'_>, size: Size) -> Result<()> {
    run(&arena.source, "ALTER DATABASE origin RESET synchronous_commit").await?;
    let history = "SELECT count(*) FROM public.pgbench_history";
    let before = number(&arena.source, history).await?;
    arena.writers(SPRINT_SECONDS, None)?.finish().await?;
    let rate = (number(&arena.source, history).await? - before) as f64 / SPRINT_SECONDS as f64;
    let mut runs: [Vec<Latency>; 2] = Default::default();
    for repetition in 0..size.repetitions.min(REPETITIONS_MAX) {
        for step in 0..2 {
            let at = (step + repetition) % 2;
            // The next one begins where this one ended.
            arena.move_base().await?;
            let contestant = [Contestant::Native, Contestant::Pgstream][at];
            runs[at]
                .push(follow(arena, contestant, size, rate / 2.0, (2 * repetition + step) as i64 + 1).await?);
        }
    }
    println!(
        "\nFollowing TPC-B at {:.0} transactions/s, half of what the source does alone; from COMMIT to visible\n\n\
         | | median ms | p99 ms | worst ms | peak MB | engine CPU s | target CPU s |\n|---|---:|---:|---:|---:|---:|---:|",
        rate / 2.0
    );
    for (name, runs) in ["native subscription", "pgstream"].iter().zip(&runs) {
        let of = |value: fn(&Latency) -> f64| figure(median(runs.iter().map(value)));
        println!(
            "| {name} | {} | {} | {} | {} | {} | {} |",
            of(|run| run.median),
            of(|run| run.p99),
            of(|run| run.worst),
            of(|run| run.memory_bytes as f64 / 1e6),
            of(|run| run.engine_cpu),
            of(|run| run.target_cpu)
        );
    }
    Ok(())
}

async fn follow(
    arena: &Arena<'_>,
    contestant: Contestant,
    size: Size,
    per_second: f64,
    round: i64,
) -> Result<Latency> {
    let target = arena.fresh_target().await?;
    let mut engine = match contestant {
        Contestant::Native => {
            arena.subscribe(&target).await?;
            None
        }
        Contestant::Drain | Contestant::Pgstream | Contestant::PgstreamThrough(_) => {
            arena.take(&arena.slot).await?;
            Some(arena.migrate(TARGET, None, &[])?)
        }
    };
    let base = round * 1_000_000;
    let end = arena.mark(base).await?;
    see(arena, &target, &end).await?;
    let (target_before, engine_before) = (arena.stage.cpu().target, engine_cpu(engine.as_ref()));
    let seconds = size.following.as_secs().max(1);
    let mut writers = arena.writers(seconds, Some(per_second))?;
    let probes = tokio::spawn(probe(arena.source_session().await?, base, size.following));
    let watched = tokio::spawn(watch(target, base, size.following));
    let (committed, seen) = (joined(probes.await)?, joined(watched.await)?);
    writers.weigh();
    writers.finish().await?;
    let mut latencies: Vec<f64> = committed
        .iter()
        .filter_map(|(id, at)| {
            let seen = seen.iter().find(|(last, _)| last >= id)?.1;
            Some(seen.saturating_duration_since(*at).as_secs_f64() * 1e3)
        })
        .collect();
    if latencies.len() < committed.len() {
        return Err(Error::new(ErrorKind::Apply, "see every row of the prober on the target"));
    }
    latencies.sort_by(f64::total_cmp);
    let engine_after = engine_cpu(engine.as_ref());
    let target_cpu = arena.stage.cpu().target - target_before;
    let mut memory_bytes = 0;
    if let Some(engine) = &mut engine {
        engine.weigh();
        engine.expect_no_failure()?;
        memory_bytes = engine.memory_bytes();
    } else {
        let target = arena.stage.target.session(TARGET).await?;
        arena.unsubscribe(&target).await?;
    }
    Ok(Latency {
        median: quantile(&latencies, 0.5),
        p99: quantile(&latencies, 0.99),
        worst: quantile(&latencies, 1.0),
        engine_cpu: engine_after - engine_before,
        target_cpu,
        memory_bytes,
    })
}

fn joined<T>(outcome: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    outcome.map_err(|cause| Error::new(ErrorKind::Bug, "wait for a probe").because(cause))?
}

fn engine_cpu(engine: Option<&Running>) -> f64 {
    engine.and_then(|engine| cpu_seconds(engine.pid())).unwrap_or(0.0)
}

/// Waits until the mark is visible.
async fn see(arena: &Arena<'_>, target: &Session, end: &arena::End) -> Result<()> {
    let marked = format!("SELECT count(*) FROM public.bench_mark WHERE id = {}", end.mark);
    let begun = Instant::now();
    while number(target, &marked).await? == 0 || !arena.is_whole(target, end).await? {
        if begun.elapsed() > PATIENCE {
            return Err(Error::new(ErrorKind::Apply, "see a follower in step"));
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
    Ok(())
}

/// Commits rows, each after the one before; gives the moment at which each COMMIT returned.
async fn probe(source: Session, base: i64, lasting: Duration) -> Result<Vec<(i64, Instant)>> {
    let mut committed = Vec::new();
    let mut tick = tokio::time::interval(PROBE_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let begun = Instant::now();
    while begun.elapsed() < lasting {
        tick.tick().await;
        let id = base + committed.len() as i64 + 1;
        run(&source, &format!("INSERT INTO public.bench_mark VALUES ({id})")).await?;
        committed.push((id, Instant::now()));
    }
    // The watcher's cue.
    run(&source, &format!("INSERT INTO public.bench_mark VALUES ({})", base + 999_999)).await?;
    Ok(committed)
}

/// Looks for the rows; gives each new one with the moment at which it, and all before it, were seen.
async fn watch(target: Session, base: i64, lasting: Duration) -> Result<Vec<(i64, Instant)>> {
    let last = format!(
        "SELECT coalesce(max(id), 0)::int8 FROM public.bench_mark WHERE id BETWEEN {base} AND {base} + 999999"
    );
    let (mut seen, mut known) = (Vec::new(), base);
    let begun = Instant::now();
    loop {
        let now_last = number(&target, &last).await?;
        if now_last > known {
            known = now_last;
            seen.push((known, Instant::now()));
        }
        if known == base + 999_999 {
            return Ok(seen);
        }
        if begun.elapsed() > lasting + PATIENCE {
            return Err(Error::new(ErrorKind::Apply, "see the end of the prober's rows on the target"));
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}
