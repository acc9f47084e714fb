//! Finds the migration that the target's state tells of, or begins one.
//!
//! Hazard: a state adopted from another source, or begun without its checks, ends as half of two databases.

use std::sync::{Arc, Mutex};

use super::config::Options;
use super::lock;
use super::run::{Run, Watchers};
use super::state::{self, MigrationId, State};
use super::tables::TableGauge;
use crate::error::{Error, ErrorKind, Result, Side};
use crate::pg::Conninfo;
use crate::precheck::{self, CheckOptions, Report, Resuming, Verdict};
use crate::replication::{SourceIdentity, identify};
use crate::schema::{self, RestoreRun};
use crate::telemetry::Phase;
use crate::wire::{Connection, ConnectionSettings, Session, SessionSettings};

/// Connects, and finds or begins the migration's state.
pub(super) async fn adopt(options: &Options, watchers: &Watchers) -> Result<Run> {
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
        share: watchers.share.clone(),
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
