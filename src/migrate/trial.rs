//! Restores the definitions once for trial, into a scratch database on the target (P80).
//!
//! Hazard: what we make there must be gone afterwards, however we end: when a definition fails, when the operator
//! interrupts, when this future is dropped between two steps. So the database belongs to a [`Scratch`], whose
//! drop takes it along; only a second interrupt and SIGKILL are faster.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant};

use super::check::Workplace;
use super::define::{private_file, schemas_left_out, toast_compression};
use crate::catalog::Filters;
use crate::error::{Error, ErrorKind, Recovery, Result, describe};
use crate::pg::{Conninfo, Identifier, quote_literal};
use crate::precheck::facts::{Facts, ServerFacts, TrialRestored};
use crate::schema::{
    self, Chosen, DumpEncoding, DumpId, DumpSettings, EventTriggers, FilterSettings, Flush, Plan, RestoreRun,
    RestoreSettings, Schema, Tablespaces,
};
use crate::wire::{Session, SessionSettings};

/// What the name of a scratch database begins with.
pub const SCRATCH_PREFIX: &str = "pgstream_trial_";
/// How long the trial waits for the lock on a table of the source (P26).
const LOCK_WAIT: Duration = Duration::from_secs(30);
/// How long a drop that nobody awaits may take.
const DROP_PATIENCE: Duration = Duration::from_secs(20);

/// Dumps the source's definitions and restores all of them into an empty database like the target's.
///
/// # Errors
/// `Connect` when a server went away, `Local` for this machine's own troubles.
/// # Cancel safety
/// The scratch database is dropped before the call gives way.
pub(super) async fn restore(
    facts: &Facts,
    source: &Conninfo,
    target: &Conninfo,
    filters: &Filters,
    workplace: Workplace<'_>,
) -> Result<TrialRestored> {
    let mut scratch = match Scratch::create(target, &facts.target.server).await {
        Ok(scratch) => scratch,
        Err(error) if error.kind() == ErrorKind::Sql => {
            return Ok(TrialRestored::Impossible { message: describe(&error) });
        }
        Err(error) => return Err(error),
    };
    let tried = restore_into(&scratch, facts, source, target, filters, workplace).await;
    scratch.remove().await?;
    match tried {
        Ok(()) => Ok(TrialRestored::Restored),
        Err(error) if error.recovery() == Recovery::Operator && error.kind() != ErrorKind::Local => {
            Ok(TrialRestored::Failed { message: describe(&error), advice: error.advice().map(str::to_owned) })
        }
        Err(error) => Err(error),
    }
}

async fn restore_into(
    scratch: &Scratch,
    facts: &Facts,
    source: &Conninfo,
    target: &Conninfo,
    filters: &Filters,
    workplace: Workplace<'_>,
) -> Result<()> {
    let (from, to) = (&facts.source.server, &facts.target.server);
    let tools = schema::find_tools(workplace.pgbin, from.may.version, to.may.version).await?;
    let into = private_file(workplace.work_dir)?;
    let settings = DumpSettings {
        lock_wait_timeout: LOCK_WAIT,
        encoding: if from.encoding == "SQL_ASCII" { DumpEncoding::AsStored } else { DumpEncoding::Utf8 },
        toast_compression: toast_compression(&scratch.session).await?,
        without_schemas: {
            let session = Session::connect(source, &SessionSettings::role("trial")).await?;
            schemas_left_out(&session, &from.database, filters).await?
        },
    };
    let archive = schema::dump_definitions(&tools, source, into, settings).await?;
    let event_triggers = if to.may.is_superuser { EventTriggers::Restore } else { EventTriggers::Skip };
    let settings = FilterSettings { public_schema: Schema::Exists, event_triggers };
    let plan = Plan::of(&archive.toc, settings, Chosen { filters, database: &from.database });
    let builds = |builds: &[schema::Build]| builds.iter().map(|build| build.id).collect::<Vec<DumpId>>();
    let ids = [
        plan.pre_data.clone(),
        builds(&plan.builds),
        plan.last.clone(),
        builds(&plan.foreign_keys),
        plan.armed,
    ]
    .concat();
    let settings = RestoreSettings {
        run: RestoreRun::First,
        tablespaces: Tablespaces::Default,
        owners: filters.owners,
        flush: Flush::of(&to.may),
        lanes: 1,
    };
    let database = target.with_database(scratch.name.raw());
    schema::restore(&tools, &archive, &database, &ids, settings).await.map(drop)
}

/// A database of ours on the target that goes when this does.
struct Scratch {
    name: Identifier,
    target: Conninfo,
    /// In the target's own database; what is dropped cannot be connected to.
    session: Session,
    is_there: bool,
}

impl Scratch {
    /// As the target's database is: its encoding, its locale.
    async fn create(target: &Conninfo, server: &ServerFacts) -> Result<Scratch> {
        let random = RandomState::new().build_hasher().finish();
        let session = Session::connect(target, &SessionSettings::role("trial")).await?;
        let scratch = Scratch {
            name: Identifier::new(format!("{SCRATCH_PREFIX}{random:016x}")),
            target: target.clone(),
            session,
            is_there: true,
        };
        let sql = creation(&scratch.name, server);
        let created = scratch.session.batch_execute(&sql).await;
        created.map_err(|error| Error::from_postgres("create a scratch database on the target", error))?;
        Ok(scratch)
    }

    /// Drops it, and waits until it is gone.
    async fn remove(&mut self) -> Result<()> {
        remove(&self.session, &self.name).await?;
        self.is_there = false;
        Ok(())
    }
}

impl Drop for Scratch {
    /// A thread of its own, for nobody awaits anything here; and waited for, for the process may be about to end.
    fn drop(&mut self) {
        if !self.is_there {
            return;
        }
        let (name, target, pid) = (self.name.clone(), self.target.clone(), self.session.backend_pid());
        let removing = std::thread::Builder::new()
            .name("scratch".to_owned())
            .spawn(move || -> Result<()> {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let failed = |error| Error::new(ErrorKind::Local, "start a runtime").because(error);
                runtime.map_err(failed)?.block_on(async {
                    let late = |_| {
                        Error::new(ErrorKind::Connect, "drop the scratch database")
                            .because("no answer in time")
                    };
                    let removed = tokio::time::timeout(DROP_PATIENCE, remove_after(&target, pid, &name));
                    removed.await.map_err(late)?
                })
            })
            .map(std::thread::JoinHandle::join);
        match removing {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => {
                tracing::warn!(database = self.name.raw(), error = %describe(&error), "scratch database left behind");
            }
            Ok(Err(_)) | Err(_) => {
                tracing::warn!(database = self.name.raw(), "scratch database left behind");
            }
        }
    }
}

/// Ends the process that may still be creating it, so that there is something to drop, or never will be.
async fn remove_after(target: &Conninfo, pid: i32, name: &Identifier) -> Result<()> {
    let session = Session::connect(target, &SessionSettings::role("trial")).await?;
    let failed = |error| Error::from_postgres("end the trial's session", error);
    session
        .query_typed(&format!("SELECT pg_catalog.pg_terminate_backend({pid})"), &[])
        .await
        .map_err(failed)?;
    let sql = format!("SELECT FROM pg_catalog.pg_stat_activity a WHERE a.pid = {pid}");
    let started = Instant::now();
    while started.elapsed() < DROP_PATIENCE
        && !session.query_typed(&sql, &[]).await.map_err(failed)?.is_empty()
    {
        // Nothing announces that a process has ended.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    remove(&session, name).await
}

async fn remove(session: &Session, name: &Identifier) -> Result<()> {
    let failed = |error| Error::from_postgres(format!("drop the scratch database {name}"), error);
    // A pg_restore that was killed may not have been missed yet.
    let sql = match session.version().major() {
        13.. => format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
        _ => {
            let others = format!(
                "SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a WHERE a.datname = {}",
                quote_literal(name.raw())
            );
            session.query_typed(&others, &[]).await.map_err(failed)?;
            format!("DROP DATABASE IF EXISTS {name}")
        }
    };
    session.batch_execute(&sql).await.map_err(failed)
}

fn creation(name: &Identifier, server: &ServerFacts) -> String {
    let locale = &server.surroundings.locale;
    let provider = match (locale.provider.as_str(), &locale.provider_locale) {
        ("i", Some(locale)) => format!(" LOCALE_PROVIDER icu ICU_LOCALE {}", quote_literal(locale)),
        ("b", Some(locale)) => format!(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {}", quote_literal(locale)),
        _ => String::new(),
    };
    format!(
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}{provider}",
        quote_literal(&server.encoding),
        quote_literal(&locale.collate),
        quote_literal(&locale.ctype)
    )
}
