//! Hangs on a database what it had on the source: rights, settings, limit, comment.
//!
//! Hazard: a timeout, a limit of connections or a REVOKE that takes effect while we fill the database ends our own
//! work (P73, P90). So what bites comes with the last stage; rights come early, unless they would lock us out.
//! Hazard: what somebody has set on the target already was meant; it is reported and stays.

use std::collections::BTreeSet;

use tokio_postgres::types::Type;

use super::access::plan_access;
use super::load::read_databases;
use super::{DatabaseDefinition, DatabaseSetting};
use crate::catalog::{field, rows};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::pg::{Identifier, quote_literal};
use crate::schema::attempt::{attempt, in_transaction, run};
use crate::wire::Session;

/// When properties are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// As soon as the database is there: what can do our own work no harm.
    Early,
    /// When nothing more is written by us: the rest.
    Last,
}

/// Carries what a dump of a database's content does not hold; gives a warning for whatever is refused, or is there
/// and is another. The session must not be in a transaction; calling again is safe.
///
/// # Errors
/// `Connect` if the connection breaks: nothing has been done. `State` if the database is not on the target.
/// # Cancel safety
/// Drop the session as well: its transaction is open.
pub async fn carry_database_properties(
    target: &Session,
    definition: &DatabaseDefinition,
    name: &str,
    stage: Stage,
) -> Result<Vec<String>> {
    let found = read_databases(target).await?.into_iter().find(|one| one.name == name);
    let Some(found) = found else {
        return Err(Error::new(
            ErrorKind::State,
            format!("look for database {} on the target", Identifier::new(name)),
        )
        .hint("It was dropped after the migration began. Begin anew."));
    };
    let roles =
        rows(target, "list the target's roles", "SELECT r.rolname FROM pg_catalog.pg_roles r").await?;
    let roles = roles.iter().map(|row| field(row, "rolname")).collect::<Result<BTreeSet<String>>>()?;
    let carried = in_transaction(target, "carry a database's properties", async {
        let (steps, mut warnings) = plan(definition, &found, &roles, stage);
        for (what, sql) in steps {
            let refused = attempt(target, "carry a database's properties", &sql).await?;
            warnings.extend(refused.map(|message| format!("{what}: {message}")));
        }
        warnings.extend(rights(target, definition, &found, &roles, stage).await?);
        Ok(warnings)
    });
    carried.await.map_err(|error| error.on(Side::Target))
}

async fn rights(
    target: &Session,
    definition: &DatabaseDefinition,
    found: &DatabaseDefinition,
    roles: &BTreeSet<String>,
    stage: Stage,
) -> Result<Vec<String>> {
    let doing = "carry the rights on a database";
    let plan = plan_access(definition, found, roles);
    if plan.steps.is_empty() {
        return Ok(plan.warnings);
    }
    run(target, doing, "SAVEPOINT rights").await?;
    let mut warnings = plan.warnings;
    for (what, sql) in &plan.steps {
        let refused = attempt(target, doing, sql).await?;
        warnings.extend(refused.map(|message| format!("{what}: {message}")));
    }
    if stage == Stage::Early && !may_work(target, &found.name).await? {
        // The last stage does it, when we need not come back.
        run(target, doing, "ROLLBACK TO SAVEPOINT rights").await?;
        return Ok(Vec::new());
    }
    Ok(warnings)
}

/// Whether we can still connect to it and make our own schema in it.
async fn may_work(target: &Session, database: &str) -> Result<bool> {
    let sql = "SELECT pg_catalog.has_database_privilege($1, 'CONNECT')
                  AND pg_catalog.has_database_privilege($1, 'CREATE') AS may";
    let failed = |error| Error::from_postgres("read our rights on a database", error);
    let row = target.query_typed_one(sql, &[(&database, Type::TEXT)]).await.map_err(failed)?;
    field(&row, "may")
}

/// Statements, each with what it is called in a message; and what stays as it is.
fn plan(
    source: &DatabaseDefinition,
    target: &DatabaseDefinition,
    roles: &BTreeSet<String>,
    stage: Stage,
) -> (Vec<(String, String)>, Vec<String>) {
    let database = Identifier::new(&target.name);
    let (mut steps, mut warnings) = (Vec::new(), Vec::new());
    for one in source.settings.iter().filter(|one| one.setting.bites() == (stage == Stage::Last)) {
        let DatabaseSetting { role, setting } = one;
        let whose = role.as_ref().map(|role| format!(" of {role}")).unwrap_or_default();
        let what = format!("setting {}{whose}", setting.name);
        let is_same = |own: &&DatabaseSetting| own.role == *role && own.setting.is_of(&setting.name);
        match (target.settings.iter().find(is_same), role) {
            (Some(own), _) if own.setting.value == setting.value => {}
            (Some(_), _) => warnings.push(format!("{what}: another value on the target, which stays")),
            (None, Some(role)) if !roles.contains(role) => {
                warnings.push(format!("{what}: the role is not on the target"));
            }
            (None, Some(role)) => {
                let role = Identifier::new(role.as_str());
                steps.push((what, format!("ALTER ROLE {role} IN DATABASE {database} {setting}")));
            }
            (None, None) => steps.push((what, format!("ALTER DATABASE {database} {setting}"))),
        }
    }
    match stage {
        Stage::Early => {
            match (&source.comment, &target.comment) {
                (Some(comment), None) => {
                    let sql = format!("COMMENT ON DATABASE {database} IS {}", quote_literal(comment));
                    steps.push(("comment".to_owned(), sql));
                }
                (source, target) if source == target => {}
                _ => warnings.push("comment: another one on the target, which stays".to_owned()),
            }
            for (provider, label) in source.labels.iter().filter(|label| !target.labels.contains(label)) {
                let provider = Identifier::new(provider);
                let sql = format!(
                    "SECURITY LABEL FOR {provider} ON DATABASE {database} IS {}",
                    quote_literal(label)
                );
                steps.push((format!("security label of {provider}"), sql));
            }
        }
        Stage::Last => {
            match (source.connection_limit, target.connection_limit) {
                (source, target) if source == target => {}
                (limit, -1) => {
                    let sql = format!("ALTER DATABASE {database} CONNECTION LIMIT {limit}");
                    steps.push(("connection limit".to_owned(), sql));
                }
                (_, other) => warnings.push(format!("connection limit: {other} on the target, which stays")),
            }
            if source.is_template && !target.is_template {
                let sql = format!("ALTER DATABASE {database} IS_TEMPLATE true");
                steps.push(("being a template".to_owned(), sql));
            }
        }
    }
    (steps, warnings)
}
