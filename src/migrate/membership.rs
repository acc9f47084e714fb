//! The roles that ours on the target acts for while it makes and fills what they own.
//!
//! Hazard: a membership that stays is a right that nobody gave us, and one that goes too soon ends the work of
//! another database of the same run (P70). So what we are about to grant ourselves is written down on the target
//! first, in each database that needs it, and taken back when the last one has ended, however it ended.
//!
//! ```text
//! each database: owners ─► record ─► join … work …     all ended: records of all ─► leave ─► strike off
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio_postgres::types::Type;

use super::lock::{self, Taken};
use super::run::Run;
use super::state::failed;
use crate::catalog::{Owners, row};
use crate::error::{Error, Result, Side, describe};
use crate::pg::Conninfo;
use crate::schema::{join_roles, leave_roles, owners_in_use, roles_to_join};
use crate::wire::{Session, SessionSettings};

/// Made where it is needed; a superuser acts for everyone.
const DDL: &str = "
CREATE TABLE IF NOT EXISTS pgstream.joined_role (
    role text PRIMARY KEY,
    joined_at timestamptz NOT NULL DEFAULT now())";

/// Databases that are asked for their records at once.
const AT_ONCE: usize = 4;
/// How long the server may take to notice that our own run has ended.
const PATIENCE: Duration = Duration::from_secs(5);

/// Joins the owners that we cannot act for yet. Can be done twice.
pub(super) async fn join(run: &Run) -> Result<()> {
    if run.options.filters.owners == Owners::Dropped || !can_use(&run.target).await? {
        return Ok(());
    }
    let source = row(&run.source, "read the source database's name", DATABASE).await?;
    let owners = owners_in_use(&run.source, &[source.get(0)]).await;
    let owners = owners.map_err(|error| error.on(Side::Source))?;
    let wanted = roles_to_join(&run.target, &owners).await?;
    if wanted.is_empty() {
        return Ok(());
    }
    record(&run.target, &wanted).await?;
    let mut refusals = Vec::new();
    for role in &wanted {
        refusals.push((role, join_roles(&run.target, std::slice::from_ref(role)).await?));
    }
    // Another database of the run may have joined it at the same moment; then ours was refused, and is not needed.
    let without = roles_to_join(&run.target, &wanted).await?;
    for (_, refused) in refusals.iter().filter(|(role, _)| without.contains(role)) {
        for warning in refused {
            run.warn(warning).await?;
        }
    }
    Ok(())
}

const DATABASE: &str = "SELECT pg_catalog.current_database()::pg_catalog.text";

/// Whether a membership would let our sessions write what its role owns. Before 16 that is for our own role to say,
/// and where it does not inherit, what it has given away it could not fill.
async fn can_use(target: &Session) -> Result<bool> {
    let sql = "SELECT r.rolinherit OR r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user";
    let inherits = row(target, "ask whether our role inherits", sql).await?.get(0);
    Ok(inherits || target.version().major() >= 16)
}

async fn record(target: &Session, roles: &[String]) -> Result<()> {
    let doing = "write down which roles we act for";
    target
        .batch_execute(&format!("SET client_min_messages = warning; {DDL}"))
        .await
        .map_err(failed(doing))?;
    let sql =
        "INSERT INTO pgstream.joined_role (role) SELECT pg_catalog.unnest($1::text[]) ON CONFLICT DO NOTHING";
    target.execute(sql, &[&roles]).await.map(drop).map_err(failed(doing))
}

/// The roles that a run has joined, or was about to, for this database.
pub(super) async fn recorded(target: &Session) -> Result<Vec<String>> {
    let doing = "read which roles we act for";
    let exists = "SELECT pg_catalog.to_regclass('pgstream.joined_role') IS NOT NULL";
    if !row(target, doing, exists).await?.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    let rows = target.query("SELECT role FROM pgstream.joined_role ORDER BY role", &[]).await;
    Ok(rows.map_err(failed(doing))?.iter().map(|row| row.get(0)).collect())
}

/// Leaves one role and strikes it off the records; gives a warning if that is refused.
pub(super) async fn leave_one(records: &[&Session], role: &str) -> Result<Option<String>> {
    let Some(target) = records.first() else { return Ok(None) };
    if let Some(warning) = leave_roles(target, &[role.to_owned()]).await?.pop() {
        return Ok(Some(warning));
    }
    for session in records {
        let struck = session
            .query_typed("DELETE FROM pgstream.joined_role WHERE role = $1", &[(&role, Type::TEXT)])
            .await;
        struck.map_err(failed("strike a role off the record"))?;
    }
    Ok(None)
}

/// Leaves all that was joined for these databases, when no work is left to do in them; gives what is to be told.
/// What an engine at work in one of them has joined stays. A database that cannot be asked keeps its record, for the
/// next run or for `pgstream cleanup`.
pub(super) async fn leave(databases: Vec<Conninfo>) -> Vec<String> {
    let asked: Vec<Result<Option<Records>>> = stream::iter(databases)
        .map(|database| async move { ask(&database).await })
        .buffered(AT_ONCE)
        .collect()
        .await;
    let (mut ours, mut others) = (Vec::new(), BTreeSet::new());
    for records in asked {
        match records {
            Ok(None) => {}
            Ok(Some(records)) if records.taken == Taken::ByUs => ours.push(records),
            Ok(Some(records)) => others.extend(records.roles),
            // It may never have come to be.
            Err(error) => tracing::debug!(error = %describe(&error), "not asked which roles were joined"),
        }
    }
    let sessions: Vec<&Session> = ours.iter().map(|records| &records.session).collect();
    let roles: BTreeSet<&String> = ours.iter().flat_map(|records| &records.roles).collect();
    let mut warnings = Vec::new();
    for role in roles.into_iter().filter(|role| !others.contains(*role)) {
        match leave_one(&sessions, role).await {
            Ok(warning) => warnings.extend(warning),
            Err(error) => warnings.push(still_a_member(role, &error)),
        }
    }
    warnings
}

/// A database's records.
struct Records {
    session: Session,
    roles: Vec<String>,
    taken: Taken,
}

async fn ask(database: &Conninfo) -> Result<Option<Records>> {
    let session = Session::connect(database, &SessionSettings::role("control")).await?;
    let roles = recorded(&session).await?;
    if roles.is_empty() {
        return Ok(None);
    }
    let taken = lock::lock_soon(&session, PATIENCE).await?;
    Ok(Some(Records { session, roles, taken }))
}

fn still_a_member(role: &str, error: &Error) -> String {
    format!(
        "our role may still be a member of {role} on the target; `pgstream cleanup` ends that: {}",
        describe(error)
    )
}
