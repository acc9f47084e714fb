//! The rows and sequences of extensions that belong to users: their configuration (P44).
//!
//! Hazard: CREATE EXTENSION fills these tables, too. What is the user's in them is what the extension's script
//! said to `pg_extension_config_dump`, a condition in SQL; an empty one means every row.
//! Docs: `extend-extensions`, Extension Configuration Tables.

use crate::catalog::query::{self, field};
use crate::error::Result;
use crate::pg::{Identifier, QualifiedName, RelationId};
use crate::wire::Session;

/// A table or sequence that an extension has declared to hold what users put there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// The extension.
    pub extension: String,
    /// The OID, as a table's.
    pub oid: RelationId,
    /// Its name.
    pub name: QualifiedName,
    /// What it is.
    pub kind: ConfigurationKind,
}

/// What holds the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigurationKind {
    /// A table.
    Table {
        /// Which rows are the user's: `WHERE …`, or nothing for all.
        condition: String,
        /// Columns that can be written, in order.
        columns: Vec<Identifier>,
        /// Columns of the primary key; none if there is no such key.
        key: Vec<Identifier>,
    },
    /// A sequence.
    Sequence,
}

/// Reads what every extension has declared, in its own order: what others refer to comes first.
///
/// # Errors
/// `Sql` or `Connect`.
pub async fn read_configuration(session: &Session) -> Result<Vec<Configuration>> {
    let sql = configuration(session.version().major() >= 12);
    let found = query::rows(session, "list the configuration tables of extensions", &sql).await?;
    found
        .iter()
        .map(|row| {
            let names = |column| -> Result<Vec<Identifier>> {
                let names: Vec<String> = field(row, column)?;
                Ok(names.into_iter().map(Identifier::new).collect())
            };
            Ok(Configuration {
                extension: field(row, "extname")?,
                oid: RelationId::new(field(row, "oid")?),
                name: QualifiedName::new(field::<&str>(row, "nspname")?, field::<&str>(row, "relname")?),
                kind: match field(row, "is_table")? {
                    true => ConfigurationKind::Table {
                        condition: field(row, "condition")?,
                        columns: names("columns")?,
                        key: names("key")?,
                    },
                    false => ConfigurationKind::Sequence,
                },
            })
        })
        .collect()
}

fn configuration(has_generated: bool) -> String {
    let written = if has_generated { "AND a.attgenerated = ''" } else { "" };
    format!(
        "
SELECT e.extname, c.oid, n.nspname, c.relname, c.relkind = 'r' AS is_table, coalesce(o.condition, '') AS condition,
       ARRAY(SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped {written}
             ORDER BY a.attnum) AS columns,
       ARRAY(SELECT a.attname::pg_catalog.text
             FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
             WHERE i.indrelid = c.oid AND i.indisprimary ORDER BY a.attnum) AS key
FROM pg_catalog.pg_extension e
  CROSS JOIN LATERAL unnest(e.extconfig, e.extcondition) WITH ORDINALITY AS o(relation, condition, position)
  JOIN pg_catalog.pg_class c ON c.oid = o.relation
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'S')
ORDER BY e.extname, o.position"
    )
}
