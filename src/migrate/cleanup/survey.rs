//! Looks at both servers, database by database, for whatever may be ours.
//!
//! Hazard: a database that could not be looked at is not one without anything of ours: each is named.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use super::plan::{DropSchema, Engines, OnSource, OnTarget, Seen};
use super::report::Trouble;
use super::{CleanupOptions, END_GRACE, GRACE, Wanted, settings};
use crate::apply;
use crate::error::{Error, Result, Side};
use crate::migrate::databases;
use crate::migrate::lock::{self, Holder, Taken};
use crate::migrate::mark::{self, Mark};
use crate::migrate::membership;
use crate::migrate::spooling::{self, Found};
use crate::migrate::state::{self, Made, MigrationId};
use crate::pg::{Conninfo, QualifiedName};
use crate::precheck::explain;
use crate::replication::{find_publications, find_slots, identify};
use crate::wire::{Connection, ConnectionSettings, Session};

/// What was found.
pub(super) struct Survey {
    pub(super) source: Seen<OnSource>,
    pub(super) target: Seen<OnTarget>,
    /// Sessions into target databases that hold something; those that removal is wanted from hold the lock.
    pub(super) sessions: HashMap<String, Session>,
    /// The roles that ours was made a member of for those databases.
    pub(super) joined: HashMap<String, Vec<String>>,
    /// What is spooled of those databases.
    pub(super) spools: HashMap<String, Found>,
    /// Scratch databases of ours on the target.
    pub(super) scratch: Vec<String>,
}

impl Survey {
    /// Roles to leave before that database's schema goes: those that no database needs whose schema stays.
    pub(super) fn to_leave(&self, database: &str, going: &[DropSchema]) -> Vec<&String> {
        let goes = |name: &String| going.iter().any(|drop| drop.database == *name);
        let needed: HashSet<&String> =
            self.joined.iter().filter(|(name, _)| !goes(name)).flat_map(|(_, roles)| roles).collect();
        self.joined.get(database).into_iter().flatten().filter(|role| !needed.contains(role)).collect()
    }

    /// A session where the journal of that migration is.
    pub(super) fn journal_of(&self, id: &MigrationId) -> Option<&Session> {
        let of_it = |database: &&OnTarget| database.state.as_ref().is_some_and(|state| state.id == *id);
        self.target.databases().iter().find(of_it).and_then(|database| self.sessions.get(&database.database))
    }
}

/// Looks. The target first: its journals tell what to look for on the source.
pub(super) async fn look(options: &CleanupOptions, errors: &mut Vec<Trouble>) -> Survey {
    let mut sessions = HashMap::new();
    let mut scratch = Vec::new();
    let target = match &options.target {
        None => Seen::NotNamed,
        Some(conninfo) => look_at_target(options, conninfo, &mut sessions, &mut scratch, errors).await,
    };
    let source = match &options.source {
        None => Seen::NotNamed,
        Some(conninfo) => look_at_source(options, conninfo, &target, errors).await,
    };
    let (mut joined, mut spools) = (HashMap::new(), HashMap::new());
    for (database, session) in &sessions {
        match membership::recorded(session).await {
            Ok(roles) => drop(joined.insert(database.clone(), roles)),
            Err(error) => errors.push(Trouble::new(Side::Target, Some(database), &error)),
        }
        match spooling::found(session).await {
            Ok(found) => spools.extend(found.map(|found| (database.clone(), found))),
            Err(error) => errors.push(Trouble::new(Side::Target, Some(database), &error)),
        }
    }
    Survey { source, target, sessions, joined, spools, scratch }
}

async fn look_at_target(
    options: &CleanupOptions,
    conninfo: &Conninfo,
    sessions: &mut HashMap<String, Session>,
    scratch: &mut Vec<String>,
    errors: &mut Vec<Trouble>,
) -> Seen<OnTarget> {
    let away = Seen::Away(conninfo.dbname.clone());
    let databases = match databases::meant(conninfo, &settings()).await {
        Ok(databases) => databases,
        Err(error) => {
            errors.push(Trouble::new(Side::Target, None, &explain(Side::Target, conninfo, error)));
            return away;
        }
    };
    let mut found = Vec::new();
    let mut reached = false;
    for conninfo in &databases {
        let database = conninfo.database().to_owned();
        let session = match Session::connect(conninfo, &settings()).await {
            Ok(session) => session,
            Err(error) => {
                let error = explain(Side::Target, conninfo, error);
                errors.push(Trouble::new(Side::Target, Some(&database), &error));
                continue;
            }
        };
        if !reached {
            match scratch_databases(&session).await {
                Ok(databases) => *scratch = databases,
                Err(error) => errors.push(Trouble::new(Side::Target, Some(&database), &error)),
            }
        }
        reached = true;
        match on_target(options, &session, &database).await {
            Ok(one) => {
                if one.schema {
                    sessions.insert(database, session);
                }
                found.push(one);
            }
            Err(error) => errors.push(Trouble::new(Side::Target, Some(&database), &error)),
        }
    }
    if reached { Seen::Here(found) } else { away }
}

async fn on_target(options: &CleanupOptions, session: &Session, database: &str) -> Result<OnTarget> {
    let row = session
        .query_one(
            "SELECT n.oid IS NOT NULL AND (m.oid IS NOT NULL
                      OR coalesce(pg_catalog.obj_description(n.oid, 'pg_namespace') LIKE '%by pgstream%', false)),
                    m.oid IS NOT NULL, j.oid IS NOT NULL
               FROM (SELECT pg_catalog.to_regnamespace('pgstream')::oid) n (oid),
                    (SELECT pg_catalog.to_regclass('pgstream.migration')::oid) m (oid),
                    (SELECT pg_catalog.to_regclass('pgstream.journal')::oid) j (oid)",
            &[],
        )
        .await
        .map_err(|error| Error::from_postgres("look for schema pgstream", error))?;
    let (schema, journal): (bool, bool) = (row.get(0), row.get(2));
    let live = match (schema, options.wanted) {
        (false, _) => None,
        (true, Wanted::List) => lock::holder(session).await?,
        (true, Wanted::Removal) => take_over(session, options.engines).await?,
    };
    let state = state::find(session).await?;
    let parked = match &state {
        Some(state) => apply::parked(session, &state.id.slot()).await?,
        None => Vec::new(),
    };
    Ok(OnTarget {
        database: database.to_owned(),
        system: databases::system(session).await?,
        schema,
        state,
        journal: if journal { state::journalled(session).await? } else { Vec::new() },
        live,
        parked: parked.iter().map(|table| table.changes).sum(),
    })
}

/// How often an engine's session is ended before we give up: it connects again, and may be quicker than we are.
const ENDS: u32 = 20;

/// Takes the lock of an engine; says who has it if that cannot be.
async fn take_over(session: &Session, engines: Engines) -> Result<Option<Holder>> {
    let (tries, patience) = match engines {
        Engines::Respect => (1, GRACE),
        Engines::End => (ENDS, END_GRACE),
    };
    let mut last = None;
    for _ in 0..tries {
        last = match lock::lock_soon(session, patience).await? {
            Taken::ByUs => return Ok(None),
            Taken::By(holder) => holder,
        };
        if let (Engines::End, Some(holder)) = (engines, &last) {
            super::end(session, holder.pid).await?;
        }
    }
    let unknown = || Holder { pid: 0, application: "unknown".to_owned(), address: None, since: None };
    Ok(Some(last.unwrap_or_else(unknown)))
}

/// Databases of our form of name that also say that they are ours.
async fn scratch_databases(session: &Session) -> Result<Vec<String>> {
    let rows = session
        .query(
            "SELECT datname::text FROM pg_catalog.pg_database
              WHERE datname ~ '^pgstream_[a-z]+_[0-9a-f]{8}$'
                AND pg_catalog.shobj_description(oid, 'pg_database') LIKE 'made by pgstream%' ORDER BY 1",
            &[],
        )
        .await
        .map_err(|error| Error::from_postgres("look for scratch databases", error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn look_at_source(
    options: &CleanupOptions,
    conninfo: &Conninfo,
    target: &Seen<OnTarget>,
    errors: &mut Vec<Trouble>,
) -> Seen<OnSource> {
    let away = Seen::Away(conninfo.dbname.clone());
    let mut databases = match databases::meant(conninfo, &settings()).await {
        Ok(databases) => databases,
        Err(error) => {
            errors.push(Trouble::new(Side::Source, None, &explain(Side::Source, conninfo, error)));
            return away;
        }
    };
    // A migration may come from another database than the one to connect to.
    for state in target.databases().iter().filter_map(|database| database.state.as_ref()) {
        if databases.iter().all(|known| known.database() != state.source_database) {
            databases.push(conninfo.with_database(&state.source_database));
        }
    }
    let mut found = Vec::new();
    let mut reached = false;
    for conninfo in &databases {
        match on_source(options, conninfo, target).await {
            Ok(one) => {
                reached = true;
                found.push(one);
            }
            Err(error) => {
                let error = explain(Side::Source, conninfo, error);
                errors.push(Trouble::new(Side::Source, Some(conninfo.database()), &error));
            }
        }
    }
    if reached { Seen::Here(found) } else { away }
}

async fn on_source(
    options: &CleanupOptions,
    conninfo: &Conninfo,
    target: &Seen<OnTarget>,
) -> Result<OnSource> {
    let session = Session::connect(conninfo, &settings()).await?;
    let database = conninfo.database().to_owned();
    let slots = find_slots(&session, mark::PREFIX).await?;
    let publications: Vec<_> = find_publications(&session, mark::PREFIX)
        .await?
        .into_iter()
        .map(|found| {
            let mark = found.comment.as_deref().and_then(|comment| Mark::read(found.name.raw(), comment));
            (found.name, mark)
        })
        .collect();
    let journals = target
        .databases()
        .iter()
        .filter(|found| found.state.as_ref().is_some_and(|state| state.source_database == database));
    let mut identities: Vec<Made> = journals.flat_map(|found| found.journal.clone()).collect();
    identities.extend(publications.iter().filter_map(|(_, mark)| mark.as_ref()).flat_map(Mark::identities));
    let full = still_full(&session, &identities).await?;
    let is_bare = slots.is_empty() && publications.is_empty() && identities.is_empty();
    // Sessions of an engine that was killed a moment ago go by themselves.
    let wait = !is_bare && options.engines == Engines::Respect && options.wanted == Wanted::Removal;
    let sessions = if wait { lasting_sessions(&session).await? } else { engine_sessions(&session).await? };
    let system = match databases::system(&session).await? {
        None if !is_bare => identified(conninfo).await,
        system => system,
    };
    Ok(OnSource { database, system, slots, publications, full, sessions })
}

/// Asks by the replication protocol, which tells also where the function is kept from us.
async fn identified(conninfo: &Conninfo) -> Option<String> {
    let settings = ConnectionSettings::replication("cleanup");
    let mut connection = Connection::connect(conninfo, &settings).await.ok()?;
    let identity = identify(&mut connection).await.ok()?;
    connection.close().await;
    Some(identity.system.to_string())
}

/// Which of the tables that were set to FULL still are.
async fn still_full(session: &Session, made: &[Made]) -> Result<HashSet<QualifiedName>> {
    let tables: Vec<&QualifiedName> = made
        .iter()
        .filter_map(|made| match made {
            Made::ReplicaIdentity { table, .. } => Some(table),
            Made::Slot(_) | Made::Publication(_) => None,
        })
        .collect();
    let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
    let rows = session
        .query(
            "SELECT named.at FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY AS named (name, at)
               JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(named.name)
              WHERE c.relreplident = 'f'",
            &[&names],
        )
        .await
        .map_err(|error| Error::from_postgres("look for tables with REPLICA IDENTITY FULL", error))?;
    let at = |row: &tokio_postgres::Row| usize::try_from(row.get::<_, i64>(0) - 1).ok();
    Ok(rows.iter().filter_map(at).filter_map(|at| tables.get(at)).map(|name| (*name).clone()).collect())
}

async fn lasting_sessions(session: &Session) -> Result<Vec<Holder>> {
    let deadline = Instant::now() + GRACE;
    loop {
        let sessions = engine_sessions(session).await?;
        if sessions.is_empty() || Instant::now() > deadline {
            return Ok(sessions);
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// Sessions of engines in this database.
async fn engine_sessions(session: &Session) -> Result<Vec<Holder>> {
    let rows = session
        .query(
            "SELECT pid, application_name, pg_catalog.host(client_addr),
                    pg_catalog.to_char(backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS UTC')
               FROM pg_catalog.pg_stat_activity
              WHERE datname = pg_catalog.current_database() AND application_name ~ '^pgstream '
                AND application_name !~ '^pgstream (cleanup|status|check|verify|demo)' ORDER BY backend_start",
            &[],
        )
        .await
        .map_err(|error| Error::from_postgres("look for sessions of an engine", error))?;
    let session = |row: &tokio_postgres::Row| Holder {
        pid: row.get(0),
        application: row.get(1),
        address: row.get(2),
        since: row.get(3),
    };
    Ok(rows.iter().map(session).collect())
}
