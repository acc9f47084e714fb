//! Gives objects the owners that they could not be given while they were restored.
//!
//! Hazard: pg_restore sets an owner as soon as an object is there, and grants rights on its schema at the end. To
//! anybody but a superuser the server refuses an owner who may not create in that schema yet (P70), which on 15 and
//! later is every owner of a table in `public` (P72). So owners are looked at again once rights are there.

use std::collections::BTreeMap;

use tokio_postgres::types::Type;

use crate::catalog::{EXTENSION_OF_RELATION, USER_SCHEMA, field};
use crate::error::{Error, Result, Side};
use crate::pg::Identifier;
use crate::schema::attempt::refusal;
use crate::wire::Session;

/// Sets on the target each owner that is not the source's, where that role exists; gives a warning for each that is
/// refused. Objects of the bootstrap superuser stay as they are. To be called after the last privileges, by a
/// session that may act for the owners; calling again is safe.
///
/// # Errors
/// `Connect` if a connection breaks; `Sql` if the catalogs cannot be read.
pub async fn settle_owners(source: &Session, target: &Session) -> Result<Vec<String>> {
    let (wanted, found) =
        tokio::try_join!(async { owners(source).await.map_err(|error| error.on(Side::Source)) }, async {
            owners(target).await.map_err(|error| error.on(Side::Target))
        },)?;
    let mut names: Vec<&String> = wanted.values().flatten().collect();
    names.sort();
    names.dedup();
    let there = target.query_typed(ROLES, &[(&names, Type::TEXT_ARRAY)]).await;
    let there = there.map_err(|error| Error::from_postgres("look which owners are there", error))?;
    let there = there.iter().map(|row| field(row, "rolname")).collect::<Result<Vec<String>>>()?;
    let mut warnings = Vec::new();
    for (object, owner) in &found {
        let Some(Some(wanted)) = wanted.get(object) else { continue };
        if owner.as_ref() == Some(wanted) || !there.contains(wanted) {
            continue;
        }
        // ROUTINE came with 11, and so did all that is no function.
        let altered = match object.strip_prefix("ROUTINE ") {
            Some(routine) if target.version().major() < 11 => format!("FUNCTION {routine}"),
            _ => object.clone(),
        };
        let sql = format!("ALTER {altered} OWNER TO {}", Identifier::new(wanted.as_str()));
        if let Err(error) = target.batch_execute(&sql).await {
            let refused = refusal("set an owner", error).map_err(|error| error.on(Side::Target))?;
            warnings.push(format!("{object}: its owner {wanted} could not be set: {refused}"));
        }
    }
    Ok(warnings)
}

/// Each object, as ALTER takes it, and its owner unless that is one of PostgreSQL's own roles.
async fn owners(session: &Session) -> Result<BTreeMap<String, Option<String>>> {
    let rows = session.query_typed(&owners_query(), &[]).await;
    let rows = rows.map_err(|error| Error::from_postgres("read the owners of objects", error))?;
    rows.iter().map(|row| Ok((field(row, "object")?, field(row, "owner")?))).collect()
}

const ROLES: &str = "SELECT r.rolname FROM pg_catalog.pg_roles r WHERE r.rolname::pg_catalog.text = ANY ($1)";

/// Sequences that belong to a column follow its table.
fn owners_query() -> String {
    let not_extension = |catalog: &str, object: &str| {
        format!(
            "NOT EXISTS (SELECT FROM pg_catalog.pg_depend x
               WHERE x.classid = 'pg_catalog.{catalog}'::pg_catalog.regclass AND x.objid = {object}.oid
                 AND x.deptype = 'e')"
        )
    };
    let (free_schema, free_routine, free_type) =
        (not_extension("pg_namespace", "n"), not_extension("pg_proc", "p"), not_extension("pg_type", "t"));
    format!(
        "
SELECT o.object, CASE WHEN r.oid <> 10 AND r.rolname !~ '^pg_' THEN r.rolname END AS owner FROM (
  SELECT pg_catalog.concat('SCHEMA ', pg_catalog.quote_ident(n.nspname)) AS object, n.nspowner AS owner
  FROM pg_catalog.pg_namespace n WHERE {USER_SCHEMA} AND {free_schema}
UNION ALL
  SELECT pg_catalog.concat(
           CASE c.relkind WHEN 'f' THEN 'FOREIGN TABLE ' WHEN 'v' THEN 'VIEW ' WHEN 'm' THEN 'MATERIALIZED VIEW '
                WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END,
           pg_catalog.quote_ident(n.nspname), '.', pg_catalog.quote_ident(c.relname)), c.relowner
  FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    {EXTENSION_OF_RELATION}
  WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S') AND c.relpersistence <> 't' AND e.oid IS NULL AND {USER_SCHEMA}
    AND NOT (c.relkind = 'S' AND EXISTS (
      SELECT FROM pg_catalog.pg_depend d
      WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
        AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjsubid > 0))
UNION ALL
  SELECT pg_catalog.concat('ROUTINE ', p.oid::pg_catalog.regprocedure::text), p.proowner
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
  WHERE {USER_SCHEMA} AND {free_routine}
UNION ALL
  SELECT pg_catalog.concat('TYPE ', pg_catalog.quote_ident(n.nspname), '.', pg_catalog.quote_ident(t.typname)), t.typowner
  FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
  WHERE {USER_SCHEMA} AND t.typtype IN ('b', 'c', 'd', 'e', 'r') AND {free_type}
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.typarray = t.oid)
    AND (t.typrelid = 0 OR EXISTS (
      SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))
) o JOIN pg_catalog.pg_roles r ON r.oid = o.owner"
    )
}
