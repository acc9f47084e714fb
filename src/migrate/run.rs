//! One migration from wherever it stands to wherever it is told to go.
//!
//! Hazard: after any broken connection we cannot know what the servers have done. So nothing is carried
//! over in memory: an attempt reads the durable state on the target and goes on from there, exactly as a new
//! process would, and a retry is simply the next attempt.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::config::{Ending, Options};
use super::outcome::{Ended, Figures, Outcome};
use super::shutdown::Shutdown;
use super::state::{self, Made, MigrationId, State};
use super::tables::TableGauge;
use super::{abandon, cutover, define, follow, load, lock, monitor, open};
use crate::apply::{self, LaneId};
use crate::bulk::ledger::{self, TableState as TableCopyState};
use crate::error::{Error, ErrorKind, Recovery, Result, Side, describe};
use crate::pg::{Conninfo, Identifier, Lsn, QualifiedName, ServerVersion, SqlState};
use crate::precheck::{self, CheckOptions, IdentityChoice, Report, Resuming, Verdict};
use crate::replication::{SourceIdentity, identify};
use crate::schema::{self, RestoreRun};
use crate::telemetry::{self, DatabaseMetrics, Health, Phase, Progress, Readiness, TableState};
use crate::wire::{Connection, ConnectionSettings, Session, SessionSettings};

/// Who watches a run, and who may stop it.
#[derive(Debug, Clone)]
pub struct Watchers {
    /// Progress for people.
    pub progress: Progress,
    /// Metrics of this database.
    pub metrics: DatabaseMetrics,
    /// What `/healthz` and `/readyz` answer.
    pub health: Health,
    /// Names the migration in every log line.
    pub log: telemetry::MigrationId,
    /// The operator's wish to stop.
    pub shutdown: Shutdown,
}

/// What an attempt works with. Sessions are the control sessions: short statements only.
pub(super) struct Run {
    pub(super) options: Options,
    pub(super) progress: Progress,
    pub(super) source: Session,
    pub(super) target: Session,
    pub(super) source_version: ServerVersion,
    pub(super) target_version: ServerVersion,
    /// `client_encoding` of both ends of the copy (P63).
    pub(super) encoding: String,
    pub(super) id: MigrationId,
    pub(super) identity: IdentityChoice,
    pub(super) restore: RestoreRun,
    pub(super) metrics: DatabaseMetrics,
    pub(super) health: Health,
    pub(super) tables: TableGauge,
    pub(super) headway: Arc<AtomicBool>,
    /// What the journal says, for when the target cannot be asked.
    made: Mutex<Vec<Made>>,
    shown: Mutex<Phase>,
}

/// How long attempts may fail one after the other, none of them getting any further, before the error
/// counts. A server's restart on a large machine takes minutes.
const PATIENCE: Duration = Duration::from_secs(10 * 60);
/// Between two attempts, at first and at the most.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// Between two signs of life during a long step.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long the work may go on without the lock, only to be heard: less than another engine needs to begin.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What an attempt came to, beside its result.
#[derive(Default)]
struct Attempt {
    /// It found or made the migration's state: both servers can be reached, and every check has passed.
    adopted: bool,
    /// It left the migration further than it was.
    headway: bool,
}

/// Runs a migration until its end, trying again while the errors are of the kind that passes.
///
/// # Errors
/// `Check` when a check blocks it; `Cancelled` when the operator stopped it before it followed; else what
/// went wrong. Running again is safe in every case.
pub async fn migrate(options: &Options, watchers: &Watchers) -> Result<Outcome> {
    let started = Instant::now();
    let mut adopted = false;
    let mut last_headway = started;
    let mut pause = PAUSE_MIN;
    loop {
        let mut attempt = Attempt::default();
        let ended = attempt_once(options, watchers, &mut attempt).await;
        let error = match ended {
            Ok(mut outcome) => {
                outcome.figures.elapsed = started.elapsed();
                return Ok(outcome);
            }
            Err(error) => error,
        };
        adopted |= attempt.adopted;
        if attempt.headway {
            last_headway = Instant::now();
            pause = PAUSE_MIN;
        }
        // The lock may be held by our own last session, which the server has not yet seen to be gone.
        let ours = adopted && !attempt.adopted && error.sqlstate() == Some(SqlState::LOCK_NOT_AVAILABLE);
        let passes = error.recovery() == Recovery::Retry || ours;
        if !adopted || !passes || watchers.shutdown.is_requested() {
            return Err(error);
        }
        if last_headway.elapsed() > PATIENCE {
            return Err(out_of_patience(error));
        }
        tracing::warn!(error = %describe(&error), pause_ms = pause.as_millis() as u64, "broke off; trying again");
        watchers.progress.note(&format!("{}; trying again", describe(&error)));
        watchers.metrics.survived(error.kind());
        watchers.metrics.reconnected(error.side().unwrap_or(Side::Source));
        watchers.health.set_readiness(Readiness::Behind);
        let mut stop = watchers.shutdown.clone();
        // Nothing to wait for but time: a server is away.
        let waited = async {
            tokio::time::sleep(pause).await;
            Ok(())
        };
        stop.or_stop(waited).await?;
        pause = PAUSE_MAX.min(pause * 2);
    }
}

/// A server that stays away may come back, and then the slot is what lets us go on: so it stays, and is named.
fn out_of_patience(error: Error) -> Error {
    let advice = error.advice().map(|advice| format!("{advice}\n")).unwrap_or_default();
    Error::new(error.kind(), format!("go on after {} minutes without headway", PATIENCE.as_secs() / 60))
        .hint(format!(
            "{advice}Run the same command again once both servers answer. Until then the source keeps WAL for the \
             slot pgstream_… that stays there."
        ))
        .because(error)
}

async fn attempt_once(options: &Options, watchers: &Watchers, attempt: &mut Attempt) -> Result<Outcome> {
    let mut stop = watchers.shutdown.clone();
    let run = stop.or_stop(adopt(options, watchers)).await?;
    attempt.adopted = true;
    // With this session the lock is lost, and another engine may be at work.
    let ended = {
        let mut work = std::pin::pin!(run.go_on(&mut stop));
        tokio::select! {
            ended = &mut work => ended,
            reason = run.target.until_closed() => {
                let lost = Error::new(ErrorKind::Connect, "keep the lock on the target database");
                // A server that dies tells one of us why: that its disk is full, say.
                tokio::time::timeout(LAST_WORDS, work)
                    .await
                    .unwrap_or_else(|_| Err(lost.because(reason.to_string())))
            }
        }
    };
    attempt.headway = run.headway.load(Ordering::Relaxed);
    let error = match ended {
        Ok(outcome) => return Ok(outcome),
        Err(error) => error,
    };
    match (error.kind(), error.recovery()) {
        (ErrorKind::Cancelled, _) => abandon::hang_up(&run).await,
        (_, Recovery::Operator) => abandon::abandon(&run).await,
        (_, Recovery::Retry | Recovery::Bug) => {}
    }
    // A server that went away took our own session with it.
    let side = if run.target.is_closed() { Side::Target } else { Side::Source };
    Err(error.on(side))
}

/// Connects, and finds or begins the migration's state.
async fn adopt(options: &Options, watchers: &Watchers) -> Result<Run> {
    let settings = SessionSettings::role("control");
    let source = reach(Side::Source, &options.source, &settings).await?;
    let target = reach(Side::Target, &options.target, &settings).await?;
    lock::lock(&target).await?;
    let found = state::find(&target).await?;
    let resuming = if found.is_some() { Resuming::Yes } else { Resuming::No };
    let identity_choice = options.identity.read()?;
    let checks = CheckOptions { resuming, identity: identity_choice.clone(), ..CheckOptions::default() };
    let report = precheck::check(&options.source, &options.target, &checks).await?;
    match &found {
        None => passed(&report)?,
        // What would keep a migration from beginning need not keep it from going on.
        Some(_) => {
            for outcome in report.with(Verdict::Block) {
                watchers.progress.warn(&format!("{}: {}", outcome.id, outcome.message));
            }
        }
    }
    let identity = identify_source(options).await?;
    let id = match &found {
        Some(state) => {
            same_source(state, &identity, options.source.database())?;
            watchers.progress.note(&format!(
                "going on with migration {} (phase: {})",
                state.id.as_str(),
                state.phase.label()
            ));
            state.id.clone()
        }
        None => MigrationId::random(),
    };
    watchers.log.set(id.as_str());
    let made = match &found {
        Some(_) => state::journalled(&target).await?,
        None => Vec::new(),
    };
    // Without the tools nothing is begun.
    schema::find_tools(options.pgbin.as_deref(), source.version(), target.version()).await?;
    let run = Run {
        encoding: copy_encoding(&source).await?,
        options: options.clone(),
        progress: watchers.progress.clone(),
        metrics: watchers.metrics.clone(),
        health: watchers.health.clone(),
        tables: TableGauge::new(watchers.metrics.clone()),
        made: Mutex::new(made),
        shown: Mutex::new(found.as_ref().map_or(Phase::Planned, |state| state.phase)),
        source_version: source.version(),
        target_version: target.version(),
        source,
        target,
        id,
        identity: identity_choice,
        restore: if found.is_some() { RestoreRun::Resumed } else { RestoreRun::First },
        headway: Arc::default(),
    };
    if found.is_none() {
        let state = State {
            id: run.id.clone(),
            source_system: identity.system,
            source_timeline: identity.timeline,
            source_database: run.options.source.database().to_owned(),
            phase: Phase::Planned,
            consistent_point: None,
        };
        state::begin(&run.target, &state).await?;
        for outcome in report.with(Verdict::Warn) {
            run.warn(&outcome.message).await?;
        }
    }
    Ok(run)
}

/// Turns checks that block into the one error that names them all.
fn passed(report: &Report) -> Result<()> {
    let blocked: Vec<String> = report
        .with(Verdict::Block)
        .map(|outcome| match &outcome.fix {
            Some(fix) => format!("{}: {}\n    {fix}", outcome.id, outcome.message),
            None => format!("{}: {}", outcome.id, outcome.message),
        })
        .collect();
    if blocked.is_empty() {
        return Ok(());
    }
    let doing = match blocked.len() {
        1 => "start the migration, which a check blocks".to_owned(),
        count => format!("start the migration, which {count} checks block"),
    };
    Err(Error::new(ErrorKind::Check, doing)
        .hint(format!("Mend this and run again:\n  {}", blocked.join("\n  "))))
}

/// A SQL_ASCII database cannot convert, so its bytes pass as they are; any other gives UTF-8.
async fn copy_encoding(source: &Session) -> Result<String> {
    let row = source
        .query_one("SELECT pg_catalog.current_setting('server_encoding')", &[])
        .await
        .map_err(|error| Error::from_postgres("read the source's encoding", error))?;
    Ok(if row.get::<_, &str>(0) == "SQL_ASCII" { "SQL_ASCII".to_owned() } else { "UTF8".to_owned() })
}

async fn reach(side: Side, conninfo: &Conninfo, settings: &SessionSettings) -> Result<Session> {
    Session::connect(conninfo, settings).await.map_err(|error| precheck::explain(side, conninfo, error))
}

async fn identify_source(options: &Options) -> Result<SourceIdentity> {
    let settings = ConnectionSettings::replication("identify");
    let mut connection = Connection::connect(&options.source, &settings)
        .await
        .map_err(|error| precheck::explain(Side::Source, &options.source, error))?;
    identify(&mut connection).await
}

/// Refuses to go on from another server, database or timeline than the one the state came from (P23).
fn same_source(state: &State, now: &SourceIdentity, database: &str) -> Result<()> {
    let differs = |what: &str| {
        Err(Error::new(ErrorKind::State, format!("go on with migration {}", state.id.as_str())).hint(format!(
            "The source {what} is not the one this target was being filled from. Point --source at that one, or \
             drop the target database and begin anew."
        )))
    };
    if state.source_system != now.system {
        return differs("server");
    }
    if state.source_database != database {
        return differs("database");
    }
    if state.source_timeline != now.timeline {
        return differs("server was promoted: its timeline");
    }
    Ok(())
}

impl Run {
    /// From the phase the state names to the ending the operator wants.
    async fn go_on(&self, stop: &mut Shutdown) -> Result<Outcome> {
        let mut phase = abandon::notice(self, self.phase().await?).await?;
        self.show(phase);
        if phase == Phase::Planned {
            stop.or_stop(self.alive(define::define(self))).await?;
            self.made_headway();
            phase = Phase::SchemaReady;
        }
        if phase <= Phase::Building {
            stop.or_stop(self.alive(load::load(self, phase))).await?;
            phase = Phase::CatchingUp;
        }
        self.tables.set(ledger::read(&self.target).await?.keys(), TableState::Ready);
        if phase == Phase::CatchingUp {
            let followed = follow::catch_up(self, stop).await?;
            if followed.ended == follow::Ended::Interrupted {
                return self.outcome(Ended::Interrupted, &followed).await;
            }
            stop.or_stop(self.alive(monitor::beside(self, define::finish(self)))).await?;
            self.made_headway();
            phase = Phase::Following;
        }
        if phase == Phase::Following {
            let followed = follow::follow(self, stop).await?;
            match (followed.ended, &self.options.ending) {
                (follow::Ended::Interrupted, _) => return self.outcome(Ended::Interrupted, &followed).await,
                (follow::Ended::Reached, Ending::Stop { .. }) => self.fence(stop).await?,
                (follow::Ended::Reached, Ending::CaughtUp | Ending::Interrupt) => {
                    // An emergency cutover would otherwise hand out numbers again (P33).
                    stop.or_stop(cutover::set_sequences(self)).await?;
                    return self.outcome(Ended::CaughtUp, &followed).await;
                }
            }
        }
        // What fires when a row is written comes after the phase: never again is a change applied.
        stop.or_stop(self.alive(define::arm_at_last(self))).await?;
        stop.or_stop(self.alive(cutover::carry_the_rest(self))).await?;
        let position = follow::position(self).await?;
        let end = follow::Followed { ended: follow::Ended::Reached, position, lag_bytes: 0 };
        let mut outcome = self.outcome(Ended::Stopped, &end).await?;
        self.show(Phase::CutOver);
        // All is done; a connection that breaks now must not make it look undone.
        if let Err(error) = state::remove(&self.target).await {
            let warning = format!("schema pgstream may be left on the target: {}", describe(&error));
            self.progress.warn(&warning);
            outcome.warnings.push(warning);
        }
        Ok(outcome)
    }

    /// The last change is on the target. From here on the stream is not needed again, if it carried everything.
    async fn fence(&self, stop: &mut Shutdown) -> Result<()> {
        let tables = ledger::read(&self.target).await?;
        // Tables without a watermark are not in the stream: unlogged ones, entered by an earlier try.
        let streamed = |state: &TableCopyState| matches!(state, TableCopyState::Copied { watermark, .. } if *watermark > Lsn::ZERO);
        let moved: Vec<QualifiedName> =
            tables.into_iter().filter(|(_, state)| streamed(state)).map(|(name, _)| name).collect();
        open::still_published(self, &moved).await?;
        // While this fails, following can go on.
        stop.or_stop(self.alive(monitor::beside(self, cutover::carry_unstreamed(self)))).await?;
        self.enter(Phase::Fenced, "").await
    }

    /// The publications that the stream is made of.
    pub(super) async fn publications(&self) -> Result<Vec<Identifier>> {
        let made = state::journalled(&self.target).await?;
        Ok(made
            .into_iter()
            .filter_map(|made| match made {
                Made::Publication(name) => Some(name),
                Made::Slot(_) | Made::ReplicaIdentity { .. } => None,
            })
            .collect())
    }

    pub(super) async fn phase(&self) -> Result<Phase> {
        let state = state::find(&self.target).await?;
        state
            .map(|state| state.phase)
            .ok_or_else(|| Error::new(ErrorKind::State, "read the migration's phase"))
    }

    /// Enters a phase, durably and then for all to see; `also` is done in the same transaction.
    pub(super) async fn enter(&self, phase: Phase, also: &str) -> Result<()> {
        state::enter(&self.target, phase, also).await?;
        self.show(phase);
        Ok(())
    }

    fn show(&self, phase: Phase) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = phase;
        self.progress.phase(phase);
        self.metrics.phase(phase);
    }

    /// The phase as it was last shown, for when the target cannot be asked.
    pub(super) fn shown_phase(&self) -> Phase {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the durable state has moved: what fails after this is a new trouble, not the old one.
    pub(super) fn made_headway(&self) {
        self.headway.store(true, Ordering::Relaxed);
    }

    /// Writes down what is about to be made on the source.
    pub(super) async fn journal(&self, made: &Made) -> Result<()> {
        state::journal(&self.target, made).await?;
        let mut all = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        // What a table's identity was before is what it was before the first time.
        let known = |entry: &Made| entry.is_of_same_object(made);
        if !all.iter().any(known) {
            all.push(made.clone());
        }
        Ok(())
    }

    /// All that the journal holds.
    pub(super) fn made(&self) -> Vec<Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs a step that may take hours, such as an index build, and says meanwhile that we are alive.
    async fn alive<T>(&self, step: impl Future<Output = T>) -> T {
        let mut tick = tokio::time::interval(HEARTBEAT);
        let mut step = std::pin::pin!(step);
        loop {
            tokio::select! {
                done = &mut step => return done,
                _ = tick.tick() => self.health.beat(Instant::now()),
            }
        }
    }

    /// Tells the operator at once and keeps it for the result.
    pub(super) async fn warn(&self, message: &str) -> Result<()> {
        self.progress.warn(message);
        state::warn(&self.target, message).await
    }

    async fn outcome(&self, ended: Ended, followed: &follow::Followed) -> Result<Outcome> {
        let tables = ledger::read(&self.target).await?;
        let mut figures =
            Figures { tables: tables.len() as u64, lag_bytes: followed.lag_bytes, ..Figures::default() };
        for state in tables.values() {
            if let ledger::TableState::Copied { rows, bytes, .. } = state {
                figures.rows_copied += rows;
                figures.bytes_copied += bytes;
            }
        }
        let progress = apply::read_progress(&self.target, &self.id.slot(), LaneId::FIRST).await?;
        if let Some(progress) = progress {
            figures.transactions_applied = progress.transactions.unsigned_abs();
            figures.changes_applied = progress.changes.unsigned_abs();
        }
        Ok(Outcome {
            database: self.options.source.database().to_owned(),
            ended,
            position: followed.position,
            figures,
            warnings: state::warnings(&self.target).await?,
        })
    }
}
