//! What our role may do on a server, found by trying where trying is harmless.
//!
//! Hazard: attributes lie. Managed services give some of a superuser's rights without the attribute, and
//! withhold others from roles that have it; so what can be tried is tried (P48). Each try is one
//! statement outside a transaction block, and ends with it.

use crate::catalog::query::{self, field};
use crate::error::{Error, Result};
use crate::pg::{ServerVersion, SqlState};
use crate::wire::Session;

/// How triggers and foreign keys can be kept from firing while we write (P47, P48).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaRole {
    /// `SET session_replication_role = replica` is allowed.
    Settable,
    /// Only through `aiven_extras.session_replication_role(text)`.
    ThroughAivenExtras,
    /// Not at all: triggers and foreign keys are created at cutover instead.
    Denied,
}

/// Connections a server has left for our role (P03).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// `max_connections`.
    pub max: u32,
    /// How many more our role may open into this database, by whichever limit is reached first.
    pub free: u32,
}

/// What our role may do in one database of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// The server's version.
    pub version: ServerVersion,
    /// `current_user`.
    pub role: String,
    /// `rolsuper`.
    pub is_superuser: bool,
    /// `rolreplication`, or membership in a service's own role that stands for it.
    pub may_replicate: bool,
    /// `rolbypassrls` (a superuser bypasses too) (P53).
    pub bypasses_row_security: bool,
    /// `rolcreaterole`.
    pub may_create_roles: bool,
    /// `rolcreatedb`.
    pub may_create_databases: bool,
    /// CREATE on the database: for schemas and publications (P05).
    pub may_create_in_database: bool,
    /// May call `aiven_extras.pg_create_publication`, for tables that it does not own (P05).
    pub publishes_through_aiven_extras: bool,
    /// Has the rights of `pg_read_all_data` (14+).
    pub reads_all_data: bool,
    /// `pg_is_in_recovery()`.
    pub in_recovery: bool,
    /// Whether `session_replication_role` can be set.
    pub replica_role: ReplicaRole,
    /// Whether `synchronous_commit` can be switched off for a session, and no other server relies on it.
    pub asynchronous_commit: bool,
    /// Connections left.
    pub connections: Connections,
}

impl Capabilities {
    /// Asks and tries. To be called outside a transaction block: a refused try would abort it.
    ///
    /// # Errors
    /// What the server says to the plain questions; a refused try is an answer, not an error.
    pub async fn probe(session: &Session) -> Result<Capabilities> {
        let row = query::row(session, "read what our role may do", CAPABILITIES).await?;
        let replica_role = match attempt(session, TRY_REPLICA_ROLE).await? {
            Attempt::Allowed => ReplicaRole::Settable,
            Attempt::Denied if field(&row, "aiven_extras")? => ReplicaRole::ThroughAivenExtras,
            Attempt::Denied => ReplicaRole::Denied,
        };
        // A coordinator that commits on other servers first must not forget that it did.
        let asynchronous_commit = !field::<bool>(&row, "commits_elsewhere")?
            && attempt(session, TRY_ASYNCHRONOUS_COMMIT).await? == Attempt::Allowed;
        let is_superuser: bool = field(&row, "rolsuper")?;
        Ok(Capabilities {
            version: ServerVersion::new(field::<i32>(&row, "version")?.unsigned_abs()),
            role: field(&row, "rolname")?,
            is_superuser,
            may_replicate: is_superuser || field(&row, "may_replicate")?,
            bypasses_row_security: is_superuser || field(&row, "rolbypassrls")?,
            may_create_roles: is_superuser || field(&row, "rolcreaterole")?,
            may_create_databases: is_superuser || field(&row, "rolcreatedb")?,
            may_create_in_database: field(&row, "may_create")?,
            publishes_through_aiven_extras: field(&row, "aiven_extras_publish")?,
            reads_all_data: field(&row, "reads_all_data")?,
            in_recovery: field(&row, "in_recovery")?,
            replica_role,
            asynchronous_commit,
            connections: Connections {
                max: field::<i32>(&row, "max_connections")?.unsigned_abs(),
                free: u32::try_from(field::<i64>(&row, "free")?.max(0)).unwrap_or(u32::MAX),
            },
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Allowed,
    Denied,
}

/// Runs a statement that only changes what ends with it. The server's refusal is an answer; a lost
/// connection is not.
async fn attempt(session: &Session, sql: &str) -> Result<Attempt> {
    let Err(error) = session.query_typed(sql, &[]).await else { return Ok(Attempt::Allowed) };
    match error.code().and_then(|code| SqlState::from_code(code.code())) {
        // An engine that does not know the setting refuses with another state than a lack of rights.
        Some(state) if matches!(state.class(), "22" | "42" | "0A" | "55") => Ok(Attempt::Denied),
        _ => Err(Error::from_postgres("try what our role may set", error)),
    }
}

/// `is_local`: the setting ends with the statement's own transaction.
const TRY_REPLICA_ROLE: &str = "SELECT pg_catalog.set_config('session_replication_role', 'replica', true)";
const TRY_ASYNCHRONOUS_COMMIT: &str = "SELECT pg_catalog.set_config('synchronous_commit', 'off', true)";

/// Superusers may use reserved connections and are not bound by the limits of roles and databases.
/// Walsenders count as connections before 12. `backend_type` is NULL for sessions we may not look at; of
/// those, all that are in a database are counted, which errs on the careful side.
/// `pg_read_all_data` exists from 14 on.
const CAPABILITIES: &str = "
WITH me AS (
  SELECT r.oid, r.rolname, r.rolsuper, r.rolbypassrls, r.rolcreaterole, r.rolcreatedb, r.rolreplication,
         r.rolconnlimit
  FROM pg_catalog.pg_roles r WHERE r.rolname = current_user
), settings AS (
  SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4 AS version,
         pg_catalog.current_setting('max_connections')::pg_catalog.int4 AS max_connections,
         pg_catalog.current_setting('superuser_reserved_connections')::pg_catalog.int4
           + coalesce(pg_catalog.current_setting('reserved_connections', true), '0')::pg_catalog.int4 AS reserved
), used AS (
  SELECT pg_catalog.count(*) AS overall,
         pg_catalog.count(*) FILTER (WHERE a.usesysid = (SELECT me.oid FROM me)) AS by_role,
         pg_catalog.count(*) FILTER (WHERE a.datname = pg_catalog.current_database()) AS in_database
  FROM pg_catalog.pg_stat_activity a
  WHERE a.backend_type = 'client backend'
     OR a.backend_type IS NULL AND a.datid IS NOT NULL
     OR a.backend_type = 'walsender' AND (SELECT settings.version FROM settings) < 120000
)
SELECT settings.version, settings.max_connections, me.rolname, me.rolsuper, me.rolbypassrls, me.rolcreaterole,
       me.rolcreatedb, pg_catalog.pg_is_in_recovery() AS in_recovery,
       me.rolreplication OR EXISTS (
         SELECT FROM pg_catalog.pg_roles r
         WHERE r.rolname = 'rds_replication' AND pg_catalog.pg_has_role(r.oid, 'MEMBER')) AS may_replicate,
       pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE') AS may_create,
       EXISTS (SELECT FROM pg_catalog.pg_roles r
               WHERE r.rolname = 'pg_read_all_data' AND pg_catalog.pg_has_role(r.oid, 'USAGE')) AS reads_all_data,
       EXISTS (SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
               WHERE n.nspname = 'aiven_extras' AND p.proname = 'session_replication_role'
                 AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
                 AND pg_catalog.has_function_privilege(p.oid, 'EXECUTE')) AS aiven_extras,
       EXISTS (SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
               WHERE n.nspname = 'aiven_extras' AND p.proname = 'pg_create_publication'
                 AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
                 AND pg_catalog.has_function_privilege(p.oid, 'EXECUTE')) AS aiven_extras_publish,
       EXISTS (SELECT FROM pg_catalog.pg_extension x WHERE x.extname = 'citus') AS commits_elsewhere,
       CASE WHEN me.rolsuper THEN settings.max_connections - used.overall
            ELSE least(settings.max_connections - settings.reserved - used.overall,
                       CASE WHEN me.rolconnlimit >= 0 THEN me.rolconnlimit - used.by_role END,
                       CASE WHEN d.datconnlimit >= 0 THEN d.datconnlimit - used.in_database END) END AS free
FROM settings CROSS JOIN me CROSS JOIN used
  JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()";
