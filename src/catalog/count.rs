//! How many objects of each kind a database holds, for reports.
//!
//! Hazard: a count that includes the system's or our own objects tells the operator of a loss or a gain that
//! is none; extensions' members come with the extension, and count with it.

use serde::Serialize;

use crate::catalog::{USER_SCHEMA, field, row};
use crate::error::Result;
use crate::wire::Session;

/// The user's objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[allow(missing_docs, reason = "each is the number of what its name says")]
pub struct ObjectCounts {
    pub schemas: i64,
    pub extensions: i64,
    pub tables: i64,
    pub foreign_tables: i64,
    pub indexes: i64,
    pub constraints: i64,
    pub triggers: i64,
    pub sequences: i64,
    pub views: i64,
    pub materialized_views: i64,
    pub functions: i64,
    pub types: i64,
    pub large_objects: i64,
}

/// Counts them, in one query.
///
/// # Errors
/// `Connect` or `Sql`.
pub async fn count_objects(session: &Session) -> Result<ObjectCounts> {
    let counts = row(session, "count the database's objects", &counts_query()).await?;
    let count = |column| field::<i64>(&counts, column);
    Ok(ObjectCounts {
        schemas: count("schemas")?,
        extensions: count("extensions")?,
        tables: count("tables")?,
        foreign_tables: count("foreign_tables")?,
        indexes: count("indexes")?,
        constraints: count("constraints")?,
        triggers: count("triggers")?,
        sequences: count("sequences")?,
        views: count("views")?,
        materialized_views: count("materialized_views")?,
        functions: count("functions")?,
        types: count("types")?,
        large_objects: count("large_objects")?,
    })
}

/// Counts the large objects alone.
///
/// # Errors
/// `Connect` or `Sql`.
pub async fn count_large_objects(session: &Session) -> Result<u64> {
    let sql = "SELECT pg_catalog.count(*) AS large_objects FROM pg_catalog.pg_largeobject_metadata";
    let counted = row(session, "count the large objects", sql).await?;
    Ok(field::<i64>(&counted, "large_objects")?.unsigned_abs())
}

/// Everything that belongs to no extension; `plpgsql` comes with every database.
fn counts_query() -> String {
    let own = |class: &str, oid: &str| {
        format!(
            "NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
               WHERE d.classid = 'pg_catalog.{class}'::pg_catalog.regclass AND d.objid = {oid} AND d.deptype = 'e')"
        )
    };
    let (relation, function, data_type) =
        (own("pg_class", "c.oid"), own("pg_proc", "p.oid"), own("pg_type", "t.oid"));
    let schema = own("pg_namespace", "n.oid");
    format!(
        "WITH spaces AS (SELECT n.oid FROM pg_catalog.pg_namespace n WHERE {USER_SCHEMA}),
              relations AS (SELECT c.oid, c.relkind FROM pg_catalog.pg_class c JOIN spaces s ON s.oid = c.relnamespace
                             WHERE {relation})
         SELECT (SELECT count(*) FROM pg_catalog.pg_namespace n
                  WHERE {USER_SCHEMA} AND n.nspname <> 'public' AND {schema}) AS schemas,
                (SELECT count(*) FROM pg_catalog.pg_extension WHERE extname <> 'plpgsql') AS extensions,
                count(*) FILTER (WHERE r.relkind IN ('r', 'p')) AS tables,
                count(*) FILTER (WHERE r.relkind = 'f') AS foreign_tables,
                count(*) FILTER (WHERE r.relkind IN ('i', 'I')) AS indexes,
                (SELECT count(*) FROM pg_catalog.pg_constraint k JOIN relations o ON o.oid = k.conrelid) AS constraints,
                (SELECT count(*) FROM pg_catalog.pg_trigger g JOIN relations o ON o.oid = g.tgrelid
                  WHERE NOT g.tgisinternal) AS triggers,
                count(*) FILTER (WHERE r.relkind = 'S') AS sequences,
                count(*) FILTER (WHERE r.relkind = 'v') AS views,
                count(*) FILTER (WHERE r.relkind = 'm') AS materialized_views,
                (SELECT count(*) FROM pg_catalog.pg_proc p JOIN spaces s ON s.oid = p.pronamespace
                  WHERE {function}) AS functions,
                (SELECT count(*) FROM pg_catalog.pg_type t JOIN spaces s ON s.oid = t.typnamespace
                  WHERE t.typtype IN ('d', 'e', 'r') AND {data_type}) AS types,
                (SELECT count(*) FROM pg_catalog.pg_largeobject_metadata) AS large_objects
           FROM relations r"
    )
}
