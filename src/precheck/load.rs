//! Reads the [`Facts`]: a short session on each end, and on the source what must be tried to be known.
//!
//! Hazard: facts read one after another belong to different moments. What describes the database's content
//! is read in one snapshot; what describes the cluster changes under our eyes and is only ever advice.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::catalog::{self, Capabilities, EXTENSION_OF_RELATION, USER_SCHEMA, field, row, rows, select};
use crate::error::{Error, Result, Side};
use crate::pg::{Conninfo, QualifiedName, RelationId, SystemIdentifier};
use crate::precheck::connect::connect;
use crate::precheck::facts::{
    Choices, Facts, Installable, PreparedTransaction, RelationRights, ServerFacts, SlotFacts, SourceFacts,
    TargetFacts, Trial, TrialRestored, Writer,
};
use crate::precheck::options::{CheckOptions, Method};
use crate::precheck::provider::{Provider, Signs};
use crate::precheck::trial::{Slot, try_publication, try_replication};
use crate::wire::Session;

mod extensions;
mod objects;
mod query;
mod roles;
mod surroundings;

/// Reads both ends.
///
/// # Errors
/// `Connect` or `Auth` if an end is not reached; `Usage` if a selector names no table; `Sql` otherwise.
pub async fn load(source: &Conninfo, target: &Conninfo, options: &CheckOptions) -> Result<Facts> {
    let (source_session, target_session) =
        tokio::try_join!(connect(Side::Source, source), connect(Side::Target, target))?;
    let (source, target) = tokio::try_join!(
        load_source(&source_session, source, options),
        load_target(&target_session, target)
    )?;
    join(source, target, &target_session, options).await
}

/// Reads the target beside a source that was read a moment ago, by the same method and filters.
///
/// # Errors
/// As [`load`].
pub async fn load_beside(source: SourceFacts, target: &Conninfo, options: &CheckOptions) -> Result<Facts> {
    let session = connect(Side::Target, target).await?;
    let target = load_target(&session, target).await?;
    join(source, target, &session, options).await
}

async fn join(
    source: SourceFacts,
    mut target: TargetFacts,
    target_session: &Session,
    options: &CheckOptions,
) -> Result<Facts> {
    target.extension_trials = extensions::tried(target_session, &source, &target).await?;
    let left = options.filters.resolve(&source.catalog)?;
    let choices = Choices {
        resuming: options.resuming,
        method: options.method,
        full: options.identity.full,
        insert_only: select(&options.identity.insert_only, options.filters.reach, &source.catalog)?,
        skip: left.tables(),
        left,
        extension_rows: options.filters.extension_rows,
        checks: options.choice,
        others: options.others,
        roles: options.roles,
        database_settings: options.database_settings,
    };
    Ok(Facts { source, target, choices, tools: Trial::NotTried, trial_restore: TrialRestored::NotAsked })
}

async fn load_source(session: &Session, conninfo: &Conninfo, options: &CheckOptions) -> Result<SourceFacts> {
    let mut server = load_server(session, conninfo).await?;
    // A dump asks for none of these rights, and leaves the source's WAL alone.
    let publication = match options.method {
        Method::Replication => try_publication(session, &server.may).await?,
        Method::Dump => Trial::NotTried,
    };
    let aiven_extras = match options.method {
        Method::Replication => extensions::aiven_extras(session, &server.may).await?,
        Method::Dump => Installable::No,
    };
    let doing = "read the source in one snapshot";
    let run = |sql| async move {
        session.batch_execute(sql).await.map_err(|error| Error::from_postgres(doing, error))
    };
    run("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
    let catalog = catalog::load(session).await?;
    let left = options.filters.resolve(&catalog)?;
    let dependents = catalog::read_dependents(session, &catalog, &left).await?;
    let configuration = catalog::read_configuration(session).await?;
    let rights = load_rights(session).await?;
    let installed = extensions::installed(session).await?;
    let extension_schemas =
        installed.iter().map(|(name, there)| (name.clone(), there.schema.clone())).collect();
    let objects = objects::load(session, &catalog, &extension_schemas).await?;
    let roles = roles::in_use(session).await?;
    run("COMMIT").await?;
    let cluster = row(session, "read the source's WAL level and slots", CLUSTER).await?;
    let wal_level: String = field(&cluster, "wal_level")?;
    let effective: Option<String> = field(&cluster, "effective_wal_level")?;
    let raises_wal_level = effective.is_some() && wal_level == "replica";
    let wal_level = effective.unwrap_or(wal_level);
    let slots = SlotFacts {
        slots_max: count(field::<i32>(&cluster, "slots_max")?.into()),
        slots_used: count(field(&cluster, "slots_used")?),
        senders_max: count(field::<i32>(&cluster, "senders_max")?.into()),
        senders_used: count(field(&cluster, "senders_used")?),
        inactive: load_inactive_slots(session).await?,
    };
    let slot = match options.method {
        Method::Replication => slot_to_try(&server, &wal_level, &slots),
        Method::Dump => Slot::Spare,
    };
    let replication = try_replication(conninfo, slot).await;
    server.system_identifier = server.system_identifier.or(replication.system);
    Ok(SourceFacts {
        raises_wal_level,
        wal_level,
        slots,
        replication: replication.trial,
        publication,
        rights,
        prepared: load_prepared(session).await?,
        writers: load_writers(session).await?,
        extensions: installed
            .into_iter()
            .filter(|(name, _)| !left.extensions.contains(name))
            .map(|(name, there)| (name, there.version))
            .collect(),
        extension_schemas,
        aiven_extras,
        dependents,
        configuration,
        roles_in_use: roles.names,
        exalted_roles: roles.exalted,
        login_roles: roles.login,
        reads_passwords: roles.reads_passwords,
        age: roles::age(session).await?,
        objects,
        server,
        catalog,
    })
}

/// On a standby a slot waits for the primary to say something, and a first logical slot may raise the WAL
/// level of the whole cluster (19+): neither is for a check to bring about.
fn slot_to_try(server: &ServerFacts, wal_level: &str, slots: &SlotFacts) -> Slot {
    let has_room = slots.slots_used < slots.slots_max;
    if has_room && wal_level == "logical" && !server.may.in_recovery { Slot::Try } else { Slot::Spare }
}

async fn load_target(session: &Session, conninfo: &Conninfo) -> Result<TargetFacts> {
    let server = load_server(session, conninfo).await?;
    let relations = rows(session, "list what the target already holds", &user_relations()).await?;
    let total = relations.first().map_or(Ok(0), |row| field::<i64>(row, "total"))?;
    let names = |sql| async move {
        let found = rows(session, "list what the target has to offer", sql).await?;
        found.iter().map(|row| field(row, "name")).collect::<Result<HashSet<String>>>()
    };
    Ok(TargetFacts {
        extensions: extensions::available(session, server.may.version).await?,
        installed: extensions::installed(session).await?.into_iter().collect(),
        extension_trials: HashMap::new(),
        languages: names("SELECT l.lanname::pg_catalog.text AS name FROM pg_catalog.pg_language l").await?,
        collations: names(COLLATIONS).await?,
        parameters: names("SELECT pg_catalog.lower(s.name) AS name FROM pg_catalog.pg_settings s").await?,
        roles: names(ROLES).await?,
        relations: total.unsigned_abs(),
        relation_examples: relations
            .iter()
            .map(|row| Ok(QualifiedName::new(field::<&str>(row, "nspname")?, field::<&str>(row, "relname")?)))
            .collect::<Result<_>>()?,
        server,
    })
}

async fn load_server(session: &Session, conninfo: &Conninfo) -> Result<ServerFacts> {
    let may = Capabilities::probe(session).await?;
    let database = row(session, "read the database's encoding", DATABASE).await?;
    Ok(ServerFacts {
        database: field(&database, "datname")?,
        encoding: field(&database, "encoding")?,
        system_identifier: load_system_identifier(session).await?,
        provider: load_provider(session).await?,
        surroundings: surroundings::load(session, conninfo, &may).await?,
        may,
    })
}

async fn load_provider(session: &Session) -> Result<Provider> {
    let found = rows(session, "look for signs of a service", SIGNS).await?;
    let mut signs = Signs::default();
    for row in &found {
        signs.add(field(row, "kind")?, field(row, "name")?);
    }
    Ok(Provider::of(&signs))
}

/// The cluster's identity. Some services keep the function to themselves (P31).
async fn load_system_identifier(session: &Session) -> Result<Option<SystemIdentifier>> {
    let sql = "SELECT c.system_identifier FROM pg_catalog.pg_control_system() c";
    match row(session, "identify the cluster", sql).await {
        Ok(row) => {
            let number: i64 = field(&row, "system_identifier")?;
            Ok(Some(SystemIdentifier::new(number.cast_unsigned())))
        }
        Err(error) if error.sqlstate().is_some_and(|state| state.class() == "42") => Ok(None),
        Err(error) => Err(error),
    }
}

async fn load_inactive_slots(session: &Session) -> Result<Vec<(String, u64)>> {
    let found = rows(session, "list inactive replication slots", INACTIVE_SLOTS).await?;
    found
        .iter()
        .map(|row| Ok((field(row, "slot_name")?, field::<i64>(row, "retained")?.max(0).unsigned_abs())))
        .collect()
}

async fn load_rights(session: &Session) -> Result<Vec<RelationRights>> {
    let found = rows(session, "read our rights on each table", &relation_rights()).await?;
    found
        .iter()
        .map(|row| {
            Ok(RelationRights {
                oid: RelationId::new(field(row, "oid")?),
                name: QualifiedName::new(field::<&str>(row, "nspname")?, field::<&str>(row, "relname")?),
                is_sequence: field(row, "is_sequence")?,
                owner: field(row, "owner")?,
                owner_is_superuser: field(row, "owner_is_superuser")?,
                is_readable: field(row, "is_readable")?,
                is_owned: field(row, "is_owned")?,
                hides_rows: field(row, "hides_rows")?,
            })
        })
        .collect()
}

async fn load_prepared(session: &Session) -> Result<Vec<PreparedTransaction>> {
    let sql = "SELECT p.gid, p.database FROM pg_catalog.pg_prepared_xacts p ORDER BY p.prepared LIMIT 100";
    let found = rows(session, "list prepared transactions", sql).await?;
    found
        .iter()
        .map(|row| Ok(PreparedTransaction { gid: field(row, "gid")?, database: field(row, "database")? }))
        .collect()
}

async fn load_writers(session: &Session) -> Result<Vec<Writer>> {
    let found = rows(session, "list open transactions that have written", WRITERS).await?;
    found
        .iter()
        .map(|row| {
            let seconds: Option<f64> = field(row, "seconds")?;
            Ok(Writer {
                pid: field(row, "pid")?,
                database: field(row, "datname")?,
                role: field(row, "usename")?,
                age: seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok()),
            })
        })
        .collect()
}

fn count(number: i64) -> u32 {
    u32::try_from(number.max(0)).unwrap_or(u32::MAX)
}

const DATABASE: &str = "
SELECT d.datname, pg_catalog.pg_encoding_to_char(d.encoding) AS encoding
FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()";

const ROLES: &str = "SELECT r.rolname::pg_catalog.text AS name FROM pg_catalog.pg_roles r";

const COLLATIONS: &str = "
SELECT o.collname::pg_catalog.text AS name FROM pg_catalog.pg_collation o
WHERE o.collnamespace = 'pg_catalog'::pg_catalog.regnamespace";

/// What services put into every database of theirs.
const SIGNS: &str = "
SELECT 'role' AS kind, r.rolname::pg_catalog.text AS name FROM pg_catalog.pg_roles r
UNION ALL SELECT 'schema', n.nspname::pg_catalog.text FROM pg_catalog.pg_namespace n
UNION ALL SELECT 'function', p.proname::pg_catalog.text FROM pg_catalog.pg_proc p WHERE p.proname = 'aurora_version'";

const CLUSTER: &str = "
SELECT pg_catalog.current_setting('wal_level') AS wal_level,
       pg_catalog.current_setting('effective_wal_level', true) AS effective_wal_level,
       pg_catalog.current_setting('max_replication_slots')::pg_catalog.int4 AS slots_max,
       (SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots) AS slots_used,
       pg_catalog.current_setting('max_wal_senders')::pg_catalog.int4 AS senders_max,
       (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication) AS senders_used";

const INACTIVE_SLOTS: &str = "
SELECT s.slot_name, coalesce(pg_catalog.pg_wal_lsn_diff(
         CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
              ELSE pg_catalog.pg_current_wal_lsn() END, s.restart_lsn), 0)::pg_catalog.int8 AS retained
FROM pg_catalog.pg_replication_slots s WHERE NOT s.active ORDER BY 2 DESC, 1";

/// Writers older than five seconds, or of unknown age; shorter ones end before they can hold us up.
const WRITERS: &str = "
SELECT a.pid, coalesce(a.datname, '') AS datname, coalesce(a.usename, '') AS usename,
       extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::pg_catalog.float8 AS seconds
FROM pg_catalog.pg_stat_activity a
WHERE a.backend_xid IS NOT NULL AND a.pid <> pg_catalog.pg_backend_pid()
  AND (a.xact_start IS NULL OR a.xact_start < pg_catalog.clock_timestamp() - '5 seconds'::pg_catalog.interval)
ORDER BY a.xact_start LIMIT 100";

/// Tables and sequences on which a right is missing, and tables that hide rows from us.
fn relation_rights() -> String {
    format!(
        "
SELECT * FROM (
  SELECT c.oid, n.nspname, c.relname, c.relkind = 'S' AS is_sequence,
         pg_catalog.pg_get_userbyid(c.relowner) AS owner, coalesce(o.rolsuper, false) AS owner_is_superuser,
         coalesce(pg_catalog.has_table_privilege(c.oid, 'SELECT'), true)
           AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS is_readable,
         pg_catalog.pg_has_role(c.relowner, 'USAGE') AS is_owned,
         CASE WHEN c.relrowsecurity THEN pg_catalog.row_security_active(c.oid) ELSE false END AS hides_rows
  FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_roles o ON o.oid = c.relowner
    {EXTENSION_OF_RELATION}
  WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't' AND e.oid IS NULL AND {USER_SCHEMA}
) r
WHERE NOT r.is_readable OR NOT r.is_owned OR r.hides_rows
ORDER BY r.nspname, r.relname"
    )
}

/// The first few relations of the user's, with their total number.
fn user_relations() -> String {
    format!(
        "
SELECT n.nspname, c.relname, pg_catalog.count(*) OVER () AS total
FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  {EXTENSION_OF_RELATION}
WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S') AND c.relpersistence <> 't' AND e.oid IS NULL AND {USER_SCHEMA}
ORDER BY n.nspname, c.relname LIMIT 10"
    )
}
