//! Lets our role act for the owners of what is restored, for as long as that takes.
//!
//! Hazard: `ALTER … OWNER TO x` asks that we may become x. A superuser may; whoever created x may not, from 16 on,
//! before he grants himself that (P70). What we grant ourselves we take back, and nothing that we had before.

use std::collections::BTreeSet;

use tokio_postgres::types::Type;

use crate::catalog::field;
use crate::error::{Error, Result};
use crate::pg::Identifier;
use crate::schema::attempt::refusal;
use crate::wire::Session;

/// The roles that own something in these databases of a server, or the databases themselves, or have set default
/// privileges there. The bootstrap superuser is not among them: the server records nothing of his.
///
/// # Errors
/// What the server or the connection says.
pub async fn owners_in_use(source: &Session, databases: &[String]) -> Result<Vec<String>> {
    let failed = |error| Error::from_postgres("list the roles that own something", error);
    let found = source.query_typed(OWNERS, &[(&databases, Type::TEXT_ARRAY)]).await.map_err(failed)?;
    found.iter().map(|row| field(row, "rolname")).collect()
}

/// Those of these roles that our role on the target cannot act for yet. To be written down before
/// [`join_roles`] is called, so that an interrupted run can still take back what it took.
///
/// # Errors
/// What the server or the connection says.
pub async fn roles_to_join(target: &Session, roles: &[String]) -> Result<Vec<String>> {
    let sql = roles_to_join_query(target.version().major());
    let failed = |error| Error::from_postgres("look which roles we can act for", error);
    let found = target.query_typed(&sql, &[(&roles, Type::TEXT_ARRAY)]).await.map_err(failed)?;
    found.iter().map(|row| field(row, "rolname")).collect()
}

/// Grants our role membership in each; gives a warning for each that is refused.
///
/// # Errors
/// `Connect` if the connection breaks; calling again is safe.
pub async fn join_roles(target: &Session, roles: &[String]) -> Result<Vec<String>> {
    let options = if target.version().major() >= 16 { " WITH INHERIT TRUE, SET TRUE" } else { "" };
    let sql = |role: &Identifier| format!("GRANT {role} TO CURRENT_USER{options}");
    let warn = |role: &str, refused: String| {
        format!("our role may not act for {role} ({refused}): what {role} owns will be owned by ours")
    };
    each(target, roles, "act for a role", sql, warn).await
}

/// Takes back what [`join_roles`] granted; a role that is gone, or that we are no member of, is no matter.
///
/// # Errors
/// As [`join_roles`].
pub async fn leave_roles(target: &Session, roles: &[String]) -> Result<Vec<String>> {
    // From 16 on there may be a membership that came with the role's creation: that one stays.
    let by = if target.version().major() >= 16 { " GRANTED BY CURRENT_USER" } else { "" };
    let failed = |error| Error::from_postgres("look which roles are there", error);
    let found = target.query_typed(THERE, &[(&roles, Type::TEXT_ARRAY)]).await.map_err(failed)?;
    let there: BTreeSet<String> = found.iter().map(|row| field(row, "rolname")).collect::<Result<_>>()?;
    let sql = |role: &Identifier| format!("REVOKE {role} FROM CURRENT_USER{by}");
    let warn = |role: &str, refused: String| {
        format!(
            "our role is still a member of {role} ({refused}): REVOKE {} FROM it by hand",
            Identifier::new(role)
        )
    };
    let there: Vec<String> = there.into_iter().collect();
    each(target, &there, "leave a role", sql, warn).await
}

async fn each(
    session: &Session,
    roles: &[String],
    doing: &str,
    sql: impl Fn(&Identifier) -> String,
    warn: impl Fn(&str, String) -> String,
) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for role in roles {
        if let Err(error) = session.batch_execute(&sql(&Identifier::new(role.as_str()))).await {
            warnings.push(warn(role, refusal(doing, error)?));
        }
    }
    Ok(warnings)
}

/// Default privileges are recorded as owned by the role whose objects they are for.
const OWNERS: &str = "
SELECT DISTINCT r.rolname
FROM pg_catalog.pg_shdepend d
  JOIN pg_catalog.pg_roles r ON r.oid = d.refobjid
  JOIN pg_catalog.pg_database b
    ON b.oid = d.dbid OR d.classid = 'pg_catalog.pg_database'::pg_catalog.regclass AND b.oid = d.objid
WHERE d.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND d.deptype = 'o'
  AND b.datname::pg_catalog.text = ANY ($1) AND r.rolname !~ '^pg_'
ORDER BY r.rolname";

const THERE: &str = "
SELECT r.rolname FROM pg_catalog.pg_roles r WHERE r.rolname::pg_catalog.text = ANY ($1)";

/// A superuser acts for everyone. Before 16, membership is all there is to have: whether it is inherited is an
/// attribute of our own role.
fn roles_to_join_query(major: u32) -> String {
    let can_act = match major {
        ..16 => "pg_catalog.pg_has_role(r.oid, 'MEMBER')",
        16.. => "pg_catalog.pg_has_role(r.oid, 'SET') AND pg_catalog.pg_has_role(r.oid, 'USAGE')",
    };
    format!(
        "
SELECT r.rolname FROM pg_catalog.pg_roles r
WHERE r.rolname::pg_catalog.text = ANY ($1) AND r.rolname <> current_user AND NOT ({can_act})
ORDER BY r.rolname"
    )
}
