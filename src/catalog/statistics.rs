//! What ANALYZE is for.
//!
//! Hazard: naming a partition as well as its parent would analyze it twice, for a parent is analyzed together with its
//! partitions.

use super::query::{USER_SCHEMA, field, rows};
use crate::error::Result;
use crate::pg::QualifiedName;
use crate::wire::Session;

/// A table or materialized view to be analyzed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Analyzable {
    /// Its name.
    pub name: QualifiedName,
    /// Its own size, as an index build found it; a parent's is zero.
    pub blocks: u32,
}

/// Lists what the user has that can hold statistics, the largest first.
///
/// # Errors
/// `Connect` or `Sql`.
pub async fn read_analyzable(session: &Session) -> Result<Vec<Analyzable>> {
    let sql = format!(
        "SELECT n.nspname, c.relname, c.relpages
           FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition AND c.relpersistence <> 't' AND {USER_SCHEMA}
          ORDER BY c.relpages DESC, n.nspname, c.relname"
    );
    let found = rows(session, "list what to analyze", &sql).await?;
    found
        .iter()
        .map(|row| {
            Ok(Analyzable {
                name: QualifiedName::new(field::<&str>(row, "nspname")?, field::<&str>(row, "relname")?),
                blocks: u32::try_from(field::<i32>(row, "relpages")?).unwrap_or(0),
            })
        })
        .collect()
}
