//! One attempt: the phases, from wherever the durable state stands to the ending that is wanted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::budgets::Budgets;
use super::config::{Ending, Options, Records, Spooling};
use super::define::Definitions;
use super::outcome::{Decisive, Ended, Figures, Outcome};
use super::selection::Wishes;
use super::shutdown::Shutdown;
use super::state::{self, Made, MigrationId};
use super::tables::TableGauge;
use super::{
    abandon, cutover, define, drift, dump, follow, load, membership, monitor, open, quarantine, spooling,
    throttle, unseen,
};
use crate::apply;
use crate::bulk::ledger::{self, TableState as TableCopyState};
use crate::catalog::{self, Capabilities, Catalog};
use crate::error::{Error, ErrorKind, Result, describe};
use crate::pg::{Identifier, Lsn, QualifiedName, ServerVersion, SystemIdentifier};
use crate::precheck::{IdentityChoice, Method};
use crate::schema::{RestoreRun, Tools};
use crate::telemetry::{self, DatabaseMetrics, Health, HeldUp, Phase, Progress, TableState};
use crate::wire::{Meter, Session};
use tokio::sync::OnceCell;

/// Who watches a run, and who may stop it.
#[derive(Debug, Clone)]
pub struct Watchers {
    /// Progress for people.
    pub progress: Progress,
    /// Metrics of this database.
    pub metrics: DatabaseMetrics,
    /// What is waited for on the servers.
    pub held_up: HeldUp,
    /// What `/healthz` and `/readyz` answer.
    pub health: Health,
    /// Names the migration in every log line.
    pub log: telemetry::MigrationId,
    /// The operator's wish to stop.
    pub shutdown: Shutdown,
    /// Learns which method is taken.
    pub method: MethodTaken,
    /// What it shares with other databases of the same command.
    pub budgets: Budgets,
}

/// How the rows move, for whoever speaks of a run that has ended without a result. A clone is a reference.
#[derive(Debug, Clone, Default)]
pub struct MethodTaken(Arc<Mutex<Option<Method>>>);

impl MethodTaken {
    /// The method, once it is decided.
    #[must_use]
    pub fn get(&self) -> Option<Method> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, method: Method) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(method);
    }
}

/// What an attempt works with. Sessions are the control sessions: short statements only.
pub(super) struct Run {
    pub(super) options: Options,
    pub(super) progress: Progress,
    pub(super) source: Session,
    pub(super) target: Session,
    pub(super) source_system: SystemIdentifier,
    pub(super) source_version: ServerVersion,
    pub(super) target_version: ServerVersion,
    /// What our role may do on the target, as it was checked.
    pub(super) target_may: Capabilities,
    /// Chosen for these two servers.
    pub(super) tools: Tools,
    /// As they were dumped, once they are needed.
    pub(super) definitions: OnceCell<Definitions>,
    /// `client_encoding` of both ends of the copy (P63).
    pub(super) encoding: String,
    pub(super) id: MigrationId,
    pub(super) method: Method,
    pub(super) decided_by: Option<Decisive>,
    pub(super) identity: IdentityChoice,
    pub(super) restore: RestoreRun,
    pub(super) metrics: DatabaseMetrics,
    pub(super) held_up: HeldUp,
    pub(super) health: Health,
    pub(super) budgets: Budgets,
    pub(super) tables: TableGauge,
    pub(super) headway: Arc<AtomicBool>,
    /// No spool can be had, or a transaction does not fit into it.
    pub(super) spool_given_up: Arc<AtomicBool>,
    /// What the journal says, for when the target cannot be asked.
    pub(super) made: Mutex<Vec<Made>>,
    pub(super) shown: Mutex<Phase>,
}

/// Between two signs of life during a long step.
const HEARTBEAT: Duration = Duration::from_secs(5);

impl Run {
    /// From the phase the state names to the ending the operator wants.
    pub(super) async fn go_on(&self, stop: &mut Shutdown) -> Result<Outcome> {
        if self.phase().await? < Phase::CutOver {
            stop.or_stop(membership::join(self)).await?;
        }
        match self.method {
            Method::Replication => self.replicate(stop).await,
            Method::Dump => dump::go_on(self, stop).await,
        }
    }

    async fn replicate(&self, stop: &mut Shutdown) -> Result<Outcome> {
        let mut phase = abandon::notice(self, self.phase().await?).await?;
        self.show(phase);
        if phase == Phase::CutOver {
            // An earlier run has ended here. The target may long be in use: nothing is carried again.
            return self.close(follow::position(self).await.unwrap_or(Lsn::ZERO)).await;
        }
        if phase == Phase::Planned {
            stop.or_stop(self.alive(define::define(self))).await?;
            self.made_headway();
            phase = Phase::SchemaReady;
        }
        if phase <= Phase::Building {
            stop.or_stop(self.alive(throttle::beside(self, load::load(self, phase)))).await?;
            phase = Phase::CatchingUp;
        }
        self.budgets.leave_stage();
        self.tables.set(ledger::read(&self.target).await?.keys(), TableState::Ready);
        if phase <= Phase::Following {
            stop.or_stop(self.alive(quarantine::settle(self))).await?;
        }
        if phase == Phase::CatchingUp {
            let followed = follow::catch_up(self, stop).await?;
            if followed.ended == follow::Ended::Interrupted {
                return self.outcome(Ended::Interrupted, &followed).await;
            }
            stop.or_stop(self.alive(spooling::meanwhile(self, define::finish(self)))).await?;
            self.made_headway();
            phase = Phase::Following;
        }
        let mut source = None;
        if phase == Phase::Following {
            let followed = follow::follow(self, stop).await?;
            let now = catalog::load(&self.source).await?;
            drift::warn_of_new_tables(self, &now).await?;
            match (followed.ended, &self.options.ending) {
                (follow::Ended::Interrupted, _) => return self.outcome(Ended::Interrupted, &followed).await,
                (follow::Ended::Reached, Ending::Stop { .. }) => {
                    self.fence(&now, stop).await?;
                    source = Some(now);
                }
                (follow::Ended::Reached, Ending::CaughtUp | Ending::Interrupt) => {
                    // An emergency cutover would otherwise hand out numbers again (P33).
                    stop.or_stop(cutover::set_sequences(self, &now)).await?;
                    return self.outcome(Ended::CaughtUp, &followed).await;
                }
            }
        }
        // What fires when a row is written comes after the phase: never again is a change applied.
        stop.or_stop(self.alive(define::arm_at_last(self))).await?;
        stop.or_stop(self.alive(cutover::carry_the_rest(self, source))).await?;
        stop.or_stop(define::settle_owners(self)).await?;
        let position = follow::position(self).await?;
        self.enter(Phase::CutOver, "").await?;
        self.close(position).await
    }

    /// The last page: what it came to, and the records away unless they are to stay.
    pub(super) async fn close(&self, position: Lsn) -> Result<Outcome> {
        let end = follow::Followed { ended: follow::Ended::Reached, position, lag_bytes: 0 };
        let mut outcome = self.outcome(Ended::Stopped, &end).await?;
        spooling::discard(self).await?;
        if self.options.records == Records::Keep {
            return Ok(outcome);
        }
        // All is done; a connection that breaks now must not make it look undone.
        if let Err(error) = state::remove(&self.target).await {
            let warning = format!("schema pgstream may be left on the target: {}", describe(&error));
            self.progress.warn(&warning);
            outcome.warnings.push(warning);
        }
        Ok(outcome)
    }

    /// The last change is on the target. From here on the stream is not needed again, if it carried everything.
    async fn fence(&self, source: &Catalog, stop: &mut Shutdown) -> Result<()> {
        let tables = ledger::read(&self.target).await?;
        // Tables without a watermark are not in the stream: unlogged ones, entered by an earlier try.
        let streamed = |state: &TableCopyState| matches!(state, TableCopyState::Copied { watermark, .. } if *watermark > Lsn::ZERO);
        let moved: Vec<QualifiedName> =
            tables.into_iter().filter(|(_, state)| streamed(state)).map(|(name, _)| name).collect();
        quarantine::none_left(self).await?;
        open::still_published(self, &moved).await?;
        unseen::set_aside(self).await?;
        // While this fails, following can go on.
        let carry = cutover::carry_unstreamed(self, source);
        stop.or_stop(self.alive(monitor::beside(self, carry))).await?;
        self.enter(Phase::Fenced, "").await
    }

    /// What the operator wants of the source's tables.
    pub(super) fn wishes(&self, catalog: &Catalog) -> Result<Wishes> {
        Wishes::of(&self.identity, &self.options.filters, catalog)
    }

    /// Counts what is copied from now on, and holds it to the limit that all databases share.
    pub(super) fn meter(&self) -> Meter {
        Meter::throttled(self.budgets.brake.throttle())
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
        self.held_up.made_headway();
        Ok(())
    }

    pub(super) fn show(&self, phase: Phase) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = phase;
        self.progress.phase(phase);
        self.metrics.phase(phase);
    }

    /// The phase as it was last shown, for when the target cannot be asked.
    pub(super) fn shown_phase(&self) -> Phase {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a spool may be begun.
    pub(super) fn may_spool(&self) -> bool {
        self.options.spooling != Spooling::Off && !self.spool_given_up.load(Ordering::Relaxed)
    }

    /// Begins no more of them: what does not fit would fill the next one, too.
    pub(super) fn stop_spooling(&self) {
        self.spool_given_up.store(true, Ordering::Relaxed);
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
    pub(super) async fn alive<T>(&self, step: impl Future<Output = T>) -> T {
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
        let progress = apply::read_progress(&self.target, &self.id.slot()).await?;
        if let Some(progress) = progress {
            figures.transactions_applied = progress.transactions.unsigned_abs();
            figures.changes_applied = progress.changes.unsigned_abs();
        }
        let mut warnings = state::warnings(&self.target).await?;
        warnings.extend(quarantine::warnings(self).await?);
        Ok(Outcome {
            database: self.options.source.database().to_owned(),
            method: self.method,
            decided_by: self.decided_by.clone(),
            ended,
            position: followed.position,
            consistent_point: state::find(&self.target).await?.and_then(|state| state.consistent_point),
            objects: catalog::count_objects(&self.target).await?,
            figures,
            warnings,
        })
    }
}
