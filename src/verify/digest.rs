//! The content of a table in a few numbers, whatever the order of its rows.

use std::fmt::Write as _;

use crate::error::{Error, Result};
use crate::pg::ServerVersion;
use crate::verify::inventory::{ColumnFacts, Relation};
use crate::wire::Session;

/// How rows are turned into numbers; both sides of a comparison use the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipe {
    /// The hash of a row's text.
    pub hash: RowHash,
    /// What becomes of floats inside composites and their like.
    pub nested_floats: NestedFloats,
}

/// A hash of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowHash {
    /// `hashtextextended` (11+), which hash partitioning keeps stable across versions. About 1 µs a row.
    Extended,
    /// `md5` of the text in UTF-8: on every server, in any encoding, four times as slow.
    Md5,
}

/// How floats print where they are part of another value; by themselves they go by their bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NestedFloats {
    /// To the last bit.
    Exact,
    /// To 15 digits, the most that servers before and since 12 agree on (P61).
    Rounded,
}

/// What a table holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// The columns that were read, by name: all but generated ones (P39).
    pub columns: Vec<String>,
    /// How many rows.
    pub rows: u64,
    /// Two sums over all rows, exact and in decimal.
    pub sums: [String; 2],
}

/// What a server can hash with, and what would make its hashes differ from another's.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hasher {
    version: ServerVersion,
    encoding: String,
    /// `hashtextextended` of a constant; byte order would change it.
    sample: Option<i64>,
}

impl Recipe {
    /// The quickest recipe that gives equal rows equal hashes on both servers.
    ///
    /// # Errors
    /// As [`Error::from_postgres`].
    pub async fn common(source: &Session, target: &Session) -> Result<Recipe> {
        let (source, target) = (Hasher::of(source).await?, Hasher::of(target).await?);
        let alike = source.encoding == target.encoding && source.sample == target.sample;
        let oldest = source.version.min(target.version);
        Ok(Recipe {
            hash: if alike && source.sample.is_some() { RowHash::Extended } else { RowHash::Md5 },
            nested_floats: if oldest.major() < 12 { NestedFloats::Rounded } else { NestedFloats::Exact },
        })
    }

    /// The settings under which both sides print alike (P59).
    pub(super) fn settings(self) -> String {
        let digits = match self.nested_floats {
            NestedFloats::Exact => 3,
            NestedFloats::Rounded => 0,
        };
        format!("{SETTINGS}; SET LOCAL extra_float_digits = {digits}")
    }
}

const SETTINGS: &str = "SET LOCAL datestyle = 'ISO, MDY'; SET LOCAL intervalstyle = 'postgres'; \
    SET LOCAL timezone = 'UTC'; SET LOCAL bytea_output = 'hex'; SET LOCAL lc_monetary = 'C'; \
    SET LOCAL xmloption = 'content'; SET LOCAL search_path = ''; SET LOCAL row_security = off; \
    SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0";

impl RowHash {
    /// The two hashes of the text expression `row`, each a bigint.
    pub(super) fn hashes(self, row: &str) -> [String; 2] {
        match self {
            // "C", since a column's own collation may be one that hashing refuses or that equates strings.
            RowHash::Extended => ["0", "7046029254386353131"]
                .map(|seed| format!("pg_catalog.hashtextextended(({row}) COLLATE pg_catalog.\"C\", {seed})")),
            RowHash::Md5 => [1, 17].map(|from| {
                format!(
                    "('x' OPERATOR(pg_catalog.||) pg_catalog.substr(pg_catalog.md5(\
                     pg_catalog.convert_to({row}, 'UTF8')), {from}, 16))::pg_catalog.bit(64)::pg_catalog.int8"
                )
            }),
        }
    }
}

impl Hasher {
    async fn of(session: &Session) -> Result<Hasher> {
        let failed = |cause| Error::from_postgres("ask how a server hashes", cause);
        let facts = "SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4, \
                     pg_catalog.current_setting('server_encoding')";
        let row = session.query_one(facts, &[]).await.map_err(failed)?;
        let version = ServerVersion::new(u32::try_from(row.get::<_, i32>(0)).unwrap_or_default());
        let encoding = row.get(1);
        let sample = if version.major() >= 11 {
            let sql = "SELECT pg_catalog.hashtextextended('pgstream', 0)";
            Some(session.query_one(sql, &[]).await.map_err(failed)?.get(0))
        } else {
            None
        };
        Ok(Hasher { version, encoding, sample })
    }
}

impl Digest {
    /// Reads the whole relation, by itself: not its partitions or heirs.
    pub(super) async fn of(session: &Session, relation: &Relation, recipe: Recipe) -> Result<Digest> {
        let sql = digest_sql(relation, recipe.hash);
        let row = session
            .query_one(sql.as_str(), &[])
            .await
            .map_err(|cause| Error::from_postgres(format!("digest {}", relation.name.plain()), cause))?;
        Ok(Digest {
            columns: relation.columns.iter().map(|column| column.name.raw().to_owned()).collect(),
            rows: u64::try_from(row.get::<_, i64>(0)).unwrap_or_default(),
            sums: [row.get(1), row.get(2)],
        })
    }
}

fn digest_sql(relation: &Relation, hash: RowHash) -> String {
    let [first, second] = hash.hashes("r");
    let total = |hash| format!("coalesce(pg_catalog.sum({hash}), 0)::pg_catalog.text");
    // OFFSET 0 keeps the planner from pasting the long text expression in twice.
    format!(
        "SELECT pg_catalog.count(*), {}, {} FROM (SELECT {} AS r FROM ONLY {} OFFSET 0) AS rows",
        total(&first),
        total(&second),
        row_text(&relation.columns),
        relation.name
    )
}

/// Every column as `length:text`, or `-` for NULL: no two different rows have the same.
fn row_text(columns: &[ColumnFacts]) -> String {
    // A function call takes 100 arguments, a table has up to 1600 columns; `||` has no such limit. An
    // empty table-width (P67) leaves only the row count to compare.
    let mut text = "''::pg_catalog.text".to_owned();
    for column in columns {
        let value = canonical(column);
        let _ = write!(
            text,
            " OPERATOR(pg_catalog.||) coalesce(pg_catalog.length({value})::pg_catalog.text \
             OPERATOR(pg_catalog.||) ':' OPERATOR(pg_catalog.||) {value}, '-')"
        );
    }
    text
}

/// The value as text that is the same on every version: floats by their bits (P61), the rest as printed.
fn canonical(column: &ColumnFacts) -> String {
    let name = &column.name;
    match &column.send_function {
        Some(send) => format!("pg_catalog.encode(pg_catalog.{send}({name}), 'hex')"),
        None => format!("{name}::pg_catalog.text COLLATE pg_catalog.\"C\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::{Identifier, QualifiedName};
    use crate::verify::inventory::RelationKind;

    fn column(name: &str, send_function: Option<&str>) -> ColumnFacts {
        ColumnFacts { name: Identifier::new(name), send_function: send_function.map(str::to_owned) }
    }

    #[test]
    fn floats_go_by_their_bits_and_names_are_quoted() {
        assert_eq!(
            canonical(&column("x\"y", Some("float8send"))),
            "pg_catalog.encode(pg_catalog.float8send(\"x\"\"y\"), 'hex')"
        );
        assert!(canonical(&column("Ü", None)).starts_with("\"Ü\"::pg_catalog.text"));
    }

    #[test]
    fn a_table_without_columns_still_counts() {
        let name = QualifiedName::new("public", "nothing");
        let relation = Relation { name, kind: RelationKind::Table, columns: Vec::new() };
        let sql = digest_sql(&relation, RowHash::Extended);
        assert!(sql.contains("FROM ONLY \"public\".\"nothing\"") && sql.contains("count(*)"), "{sql}");
    }
}
