//! Finds the migration that the target's state tells of, or begins one.
//!
//! Hazard: a state adopted from another source, or begun without its checks, ends as half of two databases.

use std::sync::{Arc, Mutex};

use super::check::{self, Workplace};
use super::config::Options;
use super::lock;
use super::outcome::Decisive;
use super::run::{Run, Watchers};
use super::spooling;
use super::state::{self, MigrationId, State};
use super::tables::TableGauge;
use crate::bulk;
use crate::error::{Error, ErrorKind, Result, Side};
use crate::pg::{Conninfo, Lsn, SystemIdentifier, Timeline};
use crate::precheck::facts::SourceFacts;
use crate::precheck::{
    self, CheckChoice, CheckOptions, Decision, Globals, Method, MethodChoice, Report, Resuming, TrialRestore,
    Verdict,
};
use crate::replication::{SourceIdentity, identify};
use crate::schema::{self, RestoreRun};
use crate::telemetry::Phase;
use crate::wire::{Connection, ConnectionSettings, Session, SessionSettings};
use tokio::sync::OnceCell;

/// Whether this run has already found or begun the migration that it is to go on with.
#[derive(Debug)]
pub(super) enum Known {
    /// Not yet; the source may have been looked at for it a moment ago.
    No {
        seen: Option<Box<SourceFacts>>,
    },
    ByThisRun,
}

/// Connects, and finds or begins the migration's state.
///
/// # Errors
/// `State` when an earlier attempt of this run had found or begun it, and it is gone: nothing may be begun anew
/// where somebody has cleaned up.
pub(super) async fn adopt(options: &Options, watchers: &Watchers, known: Known) -> Result<Run> {
    let settings = SessionSettings::role("control");
    let (source, target) = tokio::try_join!(
        reach(Side::Source, &options.source, &settings),
        reach(Side::Target, &options.target, &settings)
    )?;
    lock::lock(&target).await?;
    bulk::settle_wave(&target).await?;
    let found = state::find(&target).await?;
    let is_known = matches!(known, Known::ByThisRun);
    let seen = match known {
        Known::No { seen } => seen.filter(|_| found.is_none()),
        Known::ByThisRun => None,
    };
    if is_known && found.is_none() {
        return Err(Error::new(ErrorKind::State, "find the state of this migration on the target again")
            .hint("Somebody removed it, perhaps with `pgstream cleanup`. Empty the target database and begin anew."));
    }
    let (resuming, choice) = match &found {
        Some(state) => (Resuming::Yes, recorded(state, options.method)?),
        None => (Resuming::No, options.method_wanted()),
    };
    let identity_choice = options.identity.read()?;
    let checks = CheckOptions {
        resuming,
        identity: identity_choice.clone(),
        filters: options.filters.clone(),
        choice: match resuming {
            Resuming::No => options.checks,
            // What has begun to be restored is past a trial.
            Resuming::Yes => CheckChoice { trial_restore: TrialRestore::No, ..options.checks },
        },
        // Roles are carried by now, if at all: what is missing is missed.
        roles: Globals::Left,
        database_settings: Globals::Carried,
        ..CheckOptions::default()
    };
    let workplace = Workplace { pgbin: options.pgbin.as_deref(), work_dir: options.work_dir.as_deref() };
    let (facts, tools) = tokio::join!(
        check::load(&options.source, &options.target, &checks, choice, workplace, seen.map(|seen| *seen)),
        schema::find_tools(options.pgbin.as_deref(), source.version(), target.version())
    );
    let facts = facts?;
    let Decision { method, against, report } = precheck::decide(&facts, choice);
    match &found {
        None => passed(&report)?,
        // What would keep a migration from beginning need not keep it from going on.
        Some(_) => {
            for outcome in report.with(Verdict::Block) {
                watchers.progress.warn(&format!("{}: {}", outcome.id, outcome.message));
            }
        }
    }
    let identity = match method {
        Method::Replication => identify_source(options).await?,
        Method::Dump => identify_for_dump(&source).await?,
    };
    let id = match &found {
        Some(state) => {
            same_source(state, &identity, options.source.database())?;
            state::adopt_filters(&target, state, &options.filters).await?;
            watchers.progress.note(&format!(
                "going on with migration {} by {} (phase: {})",
                state.id.as_str(),
                state::method_label(state.method),
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
    let tools = tools?;
    let run = Run {
        tools,
        encoding: copy_encoding(&source).await?,
        options: options.clone(),
        progress: watchers.progress.clone(),
        metrics: watchers.metrics.clone(),
        held_up: watchers.held_up.clone(),
        health: watchers.health.clone(),
        budgets: watchers.budgets.clone(),
        tables: TableGauge::new(watchers.metrics.clone()),
        made: Mutex::new(made),
        shown: Mutex::new(found.as_ref().map_or(Phase::Planned, |state| state.phase)),
        source_system: identity.system,
        source_version: source.version(),
        target_version: target.version(),
        target_may: facts.target.server.may,
        definitions: OnceCell::new(),
        source,
        target,
        id,
        method,
        decided_by: match &found {
            Some(state) => state.decided_by.clone(),
            None => against.first().map(decisive),
        },
        identity: identity_choice,
        restore: if found.is_some() { RestoreRun::Resumed } else { RestoreRun::First },
        headway: Arc::default(),
        spool_given_up: Arc::default(),
    };
    if found.as_ref().is_some_and(|state| (Phase::Copying..Phase::Fenced).contains(&state.phase)) {
        spooling::whole(&run).await?;
    }
    if found.is_none() {
        let state = State {
            id: run.id.clone(),
            source_system: identity.system,
            source_timeline: identity.timeline,
            source_database: run.options.source.database().to_owned(),
            phase: Phase::Planned,
            consistent_point: None,
            filters: options.filters.to_json(),
            method,
            decided_by: run.decided_by.clone(),
        };
        state::begin(&run.target, &state).await?;
        for outcome in report.with(Verdict::Warn) {
            // Who reads why it is a dump wants to know what would make it replication (P98).
            let spoke_against = against.iter().any(|against| against.message == outcome.message);
            match outcome.fix.as_ref().filter(|_| spoke_against) {
                Some(fix) => run.warn(&format!("[{}] {} {fix}", outcome.id, outcome.message)).await?,
                None => run.warn(&outcome.message).await?,
            }
        }
    }
    Ok(run)
}

/// The method the migration began with: it never changes, and nobody is left to think that it has (P98).
fn recorded(state: &State, wanted: MethodChoice) -> Result<MethodChoice> {
    match (state.method, wanted) {
        (Method::Replication, MethodChoice::Auto | MethodChoice::Fallback | MethodChoice::Replication) => {
            Ok(MethodChoice::Replication)
        }
        (Method::Dump, MethodChoice::Auto | MethodChoice::Fallback | MethodChoice::Dump) => {
            Ok(MethodChoice::Dump)
        }
        (Method::Replication, MethodChoice::Dump) | (Method::Dump, MethodChoice::Replication) => {
            let begun = state::method_label(state.method);
            Err(Error::new(ErrorKind::Usage, format!("change the method of migration {}", state.id.as_str()))
                .hint(format!(
                    "It was begun by {begun}, and the target is filled that way. Run without --method to go on, or \
                     give an empty target database to begin anew."
                )))
        }
    }
}

fn decisive(outcome: &precheck::Outcome) -> Decisive {
    Decisive { check: outcome.id.to_owned(), message: outcome.message.clone() }
}

/// Turns checks that block into the one error that names them all.
pub(super) fn passed(report: &Report) -> Result<()> {
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
    // Where the error is one line, it says at least what to look at.
    let mut ids: Vec<&str> = report.with(Verdict::Block).map(|outcome| outcome.id).collect();
    ids.dedup();
    Err(Error::new(ErrorKind::Check, doing)
        .because(ids.join(", "))
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

/// The source as SQL alone can tell, without a replication connection; zero for what a service keeps to itself.
async fn identify_for_dump(source: &Session) -> Result<SourceIdentity> {
    let sql = "SELECT (SELECT c.system_identifier FROM pg_catalog.pg_control_system() c),
                      (SELECT c.timeline_id FROM pg_catalog.pg_control_checkpoint() c)";
    let (system, timeline) = match source.query_one(sql, &[]).await {
        Ok(row) => (row.get::<_, i64>(0).cast_unsigned(), row.get::<_, i32>(1).unsigned_abs()),
        Err(error) => {
            let error = Error::from_postgres("identify the source", error);
            if error.sqlstate().is_none_or(|state| state.class() != "42") {
                return Err(error);
            }
            (UNKNOWN, 0)
        }
    };
    Ok(SourceIdentity {
        system: SystemIdentifier::new(system),
        timeline: Timeline::new(timeline),
        position: Lsn::ZERO,
    })
}

/// Stands for a system identifier that we may not read.
pub(super) const UNKNOWN: u64 = 0;

/// Refuses to go on from another server, database or timeline than the one the state came from (P23).
fn same_source(state: &State, now: &SourceIdentity, database: &str) -> Result<()> {
    let differs = |what: &str| {
        Err(Error::new(ErrorKind::State, format!("go on with migration {}", state.id.as_str())).hint(format!(
            "The source {what} is not the one this target was being filled from. Point --source at that one, or \
             drop the target database and begin anew."
        )))
    };
    let unknown = [state.source_system, now.system].iter().any(|system| system.get() == UNKNOWN);
    if state.source_system != now.system && !unknown {
        return differs("server");
    }
    if state.source_database != database {
        return differs("database");
    }
    // A dump follows no stream that could have forked.
    if state.method == Method::Replication && state.source_timeline != now.timeline {
        return differs("server was promoted: its timeline");
    }
    Ok(())
}
