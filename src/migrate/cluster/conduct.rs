//! Runs every database of an order side by side, each to its own end.
//!
//! Hazard: an error that ends one database must be heard at once, for the others may go on for weeks; and it
//! must not be the last word while they do. So it is told where it happens, and decides only the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::super::adopt::passed;
use super::super::budgets::Budgets;
use super::super::config::{Options, Records};
use super::super::outcome::{Ended, Outcome};
use super::super::run::{MethodTaken, Watchers};
use super::super::shutdown::Shutdown;
use super::super::{membership, retry, state};
use super::Order;
use super::check::{Looked, looks};
use super::choice::{Pair, Wanted};
use super::create::{self, Creation, Definitions};
use super::rights;
use super::survey::{Stand, Standing, Survey, survey};
use crate::bulk::Budget;
use crate::error::{Error, ErrorKind, Result, describe};
use crate::pg::Conninfo;
use crate::precheck::facts::SourceFacts;
use crate::precheck::{CheckChoice, Method, TrialRestore};
use crate::schema::CarriedRole;
use crate::telemetry::{self, Health, HeldUp, Metrics, Phase, Progress};
use crate::wire::{Session, SessionSettings};

/// Databases that are looked at, or cleared up, at once.
const AT_ONCE: usize = 4;

/// Who watches a command, and who may stop it.
#[derive(Debug, Clone)]
pub struct ClusterWatchers {
    /// Progress for people.
    pub progress: Progress,
    /// Metrics of every database.
    pub metrics: Metrics,
    /// What `/healthz` and `/readyz` answer.
    pub health: Health,
    /// Names the migration in every log line.
    pub log: telemetry::MigrationId,
    /// The operator's wish to stop.
    pub shutdown: Shutdown,
}

/// What became of one database.
#[derive(Debug)]
pub struct Moved {
    /// Its names.
    pub pair: Pair,
    /// How its rows move, once that is decided.
    pub method: Option<Method>,
    /// How it ended.
    pub ended: Result<Outcome>,
    /// The time spent in each phase.
    pub phases: Vec<(Phase, Duration)>,
    /// From the command's beginning to this database's end.
    pub elapsed: Duration,
    /// What of the database itself, not of its content, is not as on the source.
    pub warnings: Vec<String>,
}

/// What became of an order.
#[derive(Debug)]
pub struct ClusterOutcome {
    /// Every database, in the order of names.
    pub databases: Vec<Moved>,
    /// Every role of the source, unless they were not to be carried.
    pub roles: Vec<CarriedRole>,
    /// What concerns no one database.
    pub warnings: Vec<String>,
}

impl ClusterOutcome {
    fn is_complete(&self) -> bool {
        self.databases
            .iter()
            .all(|moved| matches!(&moved.ended, Ok(outcome) if outcome.ended == Ended::Stopped))
    }
}

/// Carries out an order: checks, creates what the target lacks, and moves every database.
///
/// # Errors
/// Only what concerns the whole: `Usage` for a choice that cannot be met, `Connect` or `Auth` for a server that
/// lets us in nowhere, `Cancelled`. What befalls a database stands in its own result.
pub async fn migrate(order: &Order, watchers: &ClusterWatchers) -> Result<ClusterOutcome> {
    let started = Instant::now();
    let mut stop = watchers.shutdown.clone();
    let survey = stop.or_stop(survey(order)).await?;
    let databases = survey.stands.len();
    let alone = matches!(order.wanted, Wanted::One(_));
    if !alone {
        watchers
            .progress
            .note(&format!("moving {}", crate::telemetry::text::counted(databases as u64, "database")));
    }
    let checked = stop.or_stop(check_new(order, &survey)).await?;
    let mut outcome = ClusterOutcome { databases: Vec::new(), roles: Vec::new(), warnings: Vec::new() };
    let mut definitions = None;
    // Nothing is made for databases of which none can move.
    if checked.iter().any(|checked| checked.refusal.is_none()) {
        let roles = create::roles(order, &survey.source, &survey.target);
        let read = Definitions::read(&survey.source, &survey.target);
        let both = async { tokio::try_join!(roles, read) };
        let (carried, read) = stop.or_stop(both).await?;
        outcome.roles = carried.roles;
        outcome.warnings = carried.warnings;
        definitions = Some(read);
    }
    let conductor = Arc::new(Conductor {
        options: Options {
            records: Records::Keep,
            // Each database has been tried above.
            checks: CheckChoice { trial_restore: TrialRestore::No, ..order.options.checks },
            ..order.options.clone()
        },
        budgets: Budgets::new(&order.options),
        stage: Budget::new(Budgets::stage_seats(&order.options)),
        target: survey.target,
        creation: order.creation,
        definitions,
        company: if alone { Company::Alone } else { Company::Others },
    });
    let healths = watchers.health.divide(databases);
    let mut tasks = JoinSet::new();
    for ((stand, checked), health) in survey.stands.into_iter().zip(checked).zip(healths) {
        let name = &stand.pair.source;
        let progress =
            if alone { watchers.progress.clone() } else { watchers.progress.of_database(name, databases) };
        // ERROR, so that it is there whatever the log's level.
        let span =
            if alone { tracing::Span::none() } else { tracing::error_span!("database", database = name) };
        let voices = ClusterWatchers { progress, health, ..watchers.clone() };
        let work = conduct(Arc::clone(&conductor), stand, checked, voices, started);
        // A future of this size is better not moved about.
        tasks.spawn(Box::pin(work.instrument(span)));
    }
    while let Some(ended) = tasks.join_next().await {
        let moved = ended.map_err(|cause| Error::new(ErrorKind::Bug, "move a database").because(cause))?;
        outcome.databases.push(moved);
    }
    outcome.databases.sort_by(|one, other| one.pair.cmp(&other.pair));
    // Before the records go, and also when a database needs a person: the next run joins them again.
    let target = |moved: &Moved| conductor.target.with_database(&moved.pair.target);
    outcome.warnings.extend(membership::leave(outcome.databases.iter().map(target).collect()).await);
    close(&conductor, &mut outcome).await;
    Ok(outcome)
}

/// What the checks of one database came to.
#[derive(Default)]
struct Checked {
    refusal: Option<Error>,
    /// The source, if its run may rely on that.
    seen: Option<Box<SourceFacts>>,
}

/// Checks what is not begun yet, so that nothing is made on the target, be it a role, for a database that
/// cannot move. Its own run checks it again under its lock, and one that has begun is past being checked.
///
/// # Errors
/// `Usage` for a filter that names nothing in any database.
async fn check_new(order: &Order, survey: &Survey) -> Result<Vec<Checked>> {
    let is_new = |stand: &&Stand| match (stand.progress, order.creation) {
        (Standing::Begun(_), _) => stand.closed.is_some(),
        // Without the database its own run says so, and how to make it.
        (Standing::Missing, Creation::Never) => stand.closed.is_some(),
        (Standing::Missing, Creation::Missing) | (Standing::Untouched, _) => true,
    };
    let new: Vec<&Stand> = survey.stands.iter().filter(is_new).collect();
    let mut looked = looks(order, &survey.target, new).await?.into_iter();
    let alone = matches!(order.wanted, Wanted::One(_));
    let checked = |looked: Result<Looked>| match looked {
        Ok(Looked { report, source }) => Checked {
            refusal: passed(&report).err(),
            // Of several, some may wait for their turn until it is no longer true.
            seen: alone.then(|| Box::new(source)),
        },
        Err(error) => Checked { refusal: Some(error), seen: None },
    };
    let check = |stand: &Stand| if is_new(&stand) { looked.next().map(checked) } else { None };
    Ok(survey.stands.iter().map(check).map(Option::unwrap_or_default).collect())
}

/// What all databases' tasks share.
struct Conductor {
    options: Options,
    budgets: Budgets,
    /// Databases on their way to a full target.
    stage: Budget,
    target: Conninfo,
    creation: Creation,
    definitions: Option<Definitions>,
    company: Company,
}

/// Whether a database's end is the command's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Company {
    Alone,
    Others,
}

/// Moves one database, and tells how it ended.
async fn conduct(
    conductor: Arc<Conductor>,
    stand: Stand,
    checked: Checked,
    watchers: ClusterWatchers,
    started: Instant,
) -> Moved {
    let (mut warnings, method) = (Vec::new(), MethodTaken::default());
    let ended = match checked.refusal {
        Some(error) => Err(error),
        None => conductor.run(&stand, checked.seen, &watchers, &method, &mut warnings).await,
    };
    let ClusterWatchers { progress, metrics, health, .. } = watchers;
    match &ended {
        Ok(_) => health.rest(),
        Err(error) if error.kind() == ErrorKind::Cancelled => health.rest(),
        Err(error) => {
            metrics.error(error.kind());
            health.fail();
            // Alone it is the end, and told there; of several the others may go on for weeks.
            if conductor.company == Company::Others {
                progress.warn(&describe(error));
            }
        }
    }
    let phases = progress.phases();
    progress.finish();
    Moved { pair: stand.pair, method: method.get(), ended, phases, elapsed: started.elapsed(), warnings }
}

impl Conductor {
    async fn run(
        &self,
        stand: &Stand,
        seen: Option<Box<SourceFacts>>,
        watchers: &ClusterWatchers,
        method: &MethodTaken,
        warnings: &mut Vec<String>,
    ) -> Result<Outcome> {
        let mut stop = watchers.shutdown.clone();
        // One that has its rows goes on at once: the source keeps WAL for it.
        let turn = match stand.progress {
            Standing::Begun(phase) if phase > Phase::Building => None,
            Standing::Begun(_) | Standing::Missing | Standing::Untouched => {
                Some(stop.or_stop(async { Ok(self.stage.take().await) }).await?)
            }
        };
        let definitions = self.definitions.as_ref();
        let is_to_be_made = match stand.progress {
            Standing::Missing => self.creation == Creation::Missing,
            // It may be less like the source's than the operator thinks.
            Standing::Untouched => true,
            Standing::Begun(_) => false,
        };
        if let Some(definitions) = definitions.filter(|_| is_to_be_made) {
            warnings.extend(stop.or_stop(definitions.create(stand)).await?);
        }
        let options =
            Options { source: stand.source.clone(), target: stand.target.clone(), ..self.options.clone() };
        let metrics = watchers.metrics.database(&stand.pair.source);
        let watchers = Watchers {
            held_up: HeldUp::new(metrics.clone(), watchers.progress.clone()),
            progress: watchers.progress.clone(),
            metrics,
            health: watchers.health.clone(),
            log: watchers.log.clone(),
            shutdown: watchers.shutdown.clone(),
            budgets: self.budgets.with_stage(turn),
            method: method.clone(),
        };
        let outcome = Box::pin(retry::migrate_seen(&options, &watchers, seen)).await?;
        if let Some(definitions) = definitions.filter(|_| outcome.ended == Ended::Stopped) {
            warnings.extend(definitions.complete(stand).await?);
        }
        if outcome.ended == Ended::Stopped {
            warnings.extend(rights::differences(stand, self.options.filters.owners).await);
        }
        Ok(outcome)
    }
}

/// Once every database is complete, the records that a second run would have needed go.
async fn close(conductor: &Conductor, outcome: &mut ClusterOutcome) {
    let complete = |moved: &&Moved| matches!(&moved.ended, Ok(outcome) if outcome.ended == Ended::Stopped);
    if !outcome.is_complete() {
        if outcome.databases.iter().any(|moved| complete(&moved)) {
            outcome.warnings.push(
                "schema pgstream stays on the target of databases that are complete until all are, so that the same \
                 command knows them again"
                    .to_owned(),
            );
        }
        return;
    }
    let removal = |moved: &Moved| {
        let name = moved.pair.target.clone();
        let target = conductor.target.with_database(&name);
        async move {
            let error = remove(&target).await.err()?;
            Some(format!(
                "schema pgstream may be left in database {name} on the target: {}",
                describe(&error)
            ))
        }
    };
    let removals: Vec<_> = outcome.databases.iter().map(removal).collect();
    let left: Vec<Option<String>> = stream::iter(removals).buffered(AT_ONCE).collect().await;
    outcome.warnings.extend(left.into_iter().flatten());
}

async fn remove(target: &Conninfo) -> Result<()> {
    let session = Session::connect(target, &SessionSettings::role("control")).await?;
    // Another run may have begun here the moment ours ended.
    match state::find(&session).await? {
        Some(state) if state.phase == Phase::CutOver => state::remove(&session).await,
        Some(_) | None => Ok(()),
    }
}
