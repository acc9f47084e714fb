//! One run of one contestant, from the start of the stream to the last row.

use std::time::{Duration, Instant};

use pgstream::error::{Error, ErrorKind, Result};
use pgstream::wire::Session;

use super::arena::{Arena, End, NATIVE, TARGET};
use crate::process::{Running, cpu_seconds};
use crate::stage::number;

/// Between two looks at how far a run has come. Each costs both servers something.
const POLL: Duration = Duration::from_millis(20);
/// A run that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(900);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contestant {
    Drain,
    Native,
    Pgstream,
    /// To the target by this port.
    PgstreamThrough(u16),
}

/// How a run went.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Outcome {
    /// From a walsender at work to the last row on the target; the drain's is from its command to its end.
    pub(super) seconds: f64,
    /// From the moment when the walsender had sent everything.
    pub(super) since_sent: f64,
    pub(super) engine_cpu: f64,
    pub(super) target_cpu: f64,
    pub(super) memory_bytes: f64,
}

/// Carries the backlog to a target of its own.
pub(super) async fn once(arena: &Arena<'_>, contestant: Contestant, end: &End) -> Result<Outcome> {
    match contestant {
        Contestant::Drain => {
            let usage = arena.drain(end).await?.finish().await?;
            Ok(Outcome { seconds: usage.wall.as_secs_f64(), ..Outcome::default() })
        }
        Contestant::Native => {
            let target = arena.fresh_target().await?;
            let before = arena.stage.cpu().target;
            arena.subscribe(&target).await?;
            let outcome = watch(arena, &target, NATIVE, end, before, None).await?;
            arena.unsubscribe(&target).await?;
            Ok(outcome)
        }
        Contestant::Pgstream => pgstream(arena, None, end).await,
        Contestant::PgstreamThrough(port) => pgstream(arena, Some(port), end).await,
    }
}

async fn pgstream(arena: &Arena<'_>, port: Option<u16>, end: &End) -> Result<Outcome> {
    let target = arena.fresh_target().await?;
    arena.take(&arena.slot).await?;
    let mut engine = arena.migrate(TARGET, port, &["--until", "caught-up"])?;
    let before = arena.stage.cpu().target;
    let outcome = watch(arena, &target, &arena.slot, end, before, Some(&mut engine)).await?;
    let usage = engine.finish().await?;
    Ok(Outcome { memory_bytes: usage.memory_bytes as f64, ..outcome })
}

/// Follows a run from its walsender's start to its last row.
async fn watch(
    arena: &Arena<'_>,
    target: &Session,
    slot: &str,
    end: &End,
    target_cpu_before: f64,
    mut engine: Option<&mut Running>,
) -> Result<Outcome> {
    let sent = format!(
        "SELECT count(*) FROM pg_catalog.pg_stat_replication JOIN pg_catalog.pg_replication_slots \
         ON active_pid = pid WHERE slot_name = '{slot}' AND sent_lsn >= '{}'",
        end.lsn
    );
    let marked = format!("SELECT count(*) FROM public.bench_mark WHERE id = {}", end.mark);
    wait_for_walsender(arena, slot, engine.as_deref_mut()).await?;
    let (started, mut all_sent) = (Instant::now(), None);
    let mut outcome = Outcome::default();
    loop {
        if all_sent.is_none() && number(&arena.source, &sent).await? > 0 {
            all_sent = Some(Instant::now());
        }
        let is_marked = number(target, &marked).await? > 0;
        let now = Instant::now();
        if let Some(engine) = &mut engine {
            engine.weigh();
            outcome.engine_cpu = cpu_seconds(engine.pid()).unwrap_or(outcome.engine_cpu);
        }
        // Several writers may be at work, and the mark be there before the rest.
        if is_marked && arena.is_whole(target, end).await? {
            outcome.seconds = (now - started).as_secs_f64();
            outcome.since_sent = (now - all_sent.unwrap_or(now)).as_secs_f64();
            outcome.target_cpu = arena.stage.cpu().target - target_cpu_before;
            return Ok(outcome);
        }
        if started.elapsed() > PATIENCE {
            let what = if is_marked { "hold the same rows" } else { "see the end of a backlog" };
            return Err(Error::new(ErrorKind::Apply, format!("{what} in time")));
        }
        if let Some(engine) = &mut engine {
            engine.expect_no_failure()?;
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn wait_for_walsender(arena: &Arena<'_>, slot: &str, mut engine: Option<&mut Running>) -> Result<()> {
    let active =
        format!("SELECT count(active_pid) FROM pg_catalog.pg_replication_slots WHERE slot_name = '{slot}'");
    let begun = Instant::now();
    while number(&arena.source, &active).await? == 0 {
        if let Some(engine) = &mut engine {
            engine.expect_no_failure()?;
        }
        if begun.elapsed() > Duration::from_secs(60) {
            return Err(Error::new(ErrorKind::Slot, "see the stream begin"));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
