//! What one column or one partition was made with: what an ALTER that makes its twin must say.
//!
//! Hazard: `ADD COLUMN … DEFAULT` fills the rows that are there without a word in the stream. What it filled
//! them with stands in `attmissingval` (11+) as long as the table is not rewritten; the default of today may
//! be another, and after a rewrite nothing tells any more.

use crate::catalog::query::{field, rows};
use crate::error::Result;
use crate::pg::{Identifier, RelationId, ServerVersion, quote_literal};
use crate::wire::Session;

/// A column, beyond what [`crate::catalog::Column`] knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AddedColumn {
    /// Its collation, quoted, if it is not its type's.
    pub collation: Option<String>,
    /// The expression of its default.
    pub default: Option<String>,
    /// What rows from before it was added read as.
    pub fill: Fill,
}

/// What a column reads as in rows that are older than it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Fill {
    /// Nothing is noted: NULL, unless the table was rewritten since.
    #[default]
    NotNoted,
    /// This value, as text.
    Value(String),
    /// A value that cannot be told.
    Unreadable,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedPartition {
    /// "FOR VALUES …" or "DEFAULT".
    pub bound: String,
    /// "RANGE (a)", if it is partitioned itself.
    pub key: Option<String>,
    /// Whether it was made as a partition, so that each of its rows was published; else it was attached.
    pub is_born: bool,
}

/// Reads what a column was made with; none if it is gone.
///
/// # Errors
/// `Sql` or `Connect`.
pub async fn read_added_column(
    session: &Session,
    version: ServerVersion,
    table: RelationId,
    column: &Identifier,
) -> Result<Option<AddedColumn>> {
    let (has_fill, fills) = match version.major() {
        11.. => ("a.atthasmissing", "a.attmissingval::pg_catalog.text::pg_catalog.text[]"),
        _ => ("false", "NULL::pg_catalog.text[]"),
    };
    let sql = format!(
        "
SELECT CASE WHEN a.attcollation <> t.typcollation
            THEN pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(k.collname) END AS collation,
       pg_catalog.pg_get_expr(d.adbin, d.adrelid) AS default_text,
       {has_fill} AS has_fill,
       -- A box is separated by another sign than the comma; then this reads more than the one value there is.
       CASE WHEN pg_catalog.cardinality({fills}) = 1 THEN ({fills})[1] END AS fill
FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_catalog.pg_collation k ON k.oid = a.attcollation
  LEFT JOIN pg_catalog.pg_namespace n ON n.oid = k.collnamespace
  LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = {table} AND a.attname = {} AND NOT a.attisdropped",
        quote_literal(column.raw())
    );
    let rows = rows(session, "read what a column was made with", &sql).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let fill = match (field::<bool>(row, "has_fill")?, field::<Option<String>>(row, "fill")?) {
        (false, _) => Fill::NotNoted,
        (true, Some(value)) => Fill::Value(value),
        (true, None) => Fill::Unreadable,
    };
    Ok(Some(AddedColumn { collation: field(row, "collation")?, default: field(row, "default_text")?, fill }))
}

/// Reads what a partition was made with; none if it is gone, or none.
///
/// # Errors
/// `Sql` or `Connect`.
pub async fn read_added_partition(session: &Session, table: RelationId) -> Result<Option<AddedPartition>> {
    // The system columns' rows are written once, by CREATE TABLE; the row in pg_inherits by CREATE TABLE …
    // PARTITION OF two steps later in that very statement, or by ATTACH PARTITION whenever that came.
    let sql = format!(
        "
SELECT pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS bound,
       CASE WHEN c.relkind = 'p' THEN pg_catalog.pg_get_partkeydef(c.oid) END AS key,
       i.xmin = a.xmin
         AND i.cmin::pg_catalog.text::pg_catalog.int8 - a.cmin::pg_catalog.text::pg_catalog.int8 <= 2 AS is_born
FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = 'ctid'
WHERE c.oid = {table} AND c.relispartition"
    );
    let rows = rows(session, "read what a partition was made with", &sql).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some(AddedPartition {
        bound: field(row, "bound")?,
        key: field(row, "key")?,
        is_born: field(row, "is_born")?,
    }))
}
