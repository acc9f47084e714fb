//! Whether rows of the source fit the target's tables: what differs, as values.
//!
//! Hazard: columns are matched by name, never by position; a restored dump reorders the columns of
//! inheritance children (P67). OIDs are never compared, they mean nothing on the other server.
//! Pure: two catalogs in, a list out; what each difference is worth is the caller's to say.

use std::fmt;

use crate::catalog::{Catalog, Column, Generated, Table, TableKind};
use crate::pg::{Identifier, QualifiedName};

/// One way in which a table of the target does not fit the source's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The table, by the name that both ends share.
    pub table: QualifiedName,
    /// What differs.
    pub what: Mismatch,
}

/// What differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// The target has no table of that name.
    MissingTable,
    /// A table here, a partitioned or foreign one there.
    Kind {
        /// On the source.
        source: TableKind,
        /// On the target.
        target: TableKind,
    },
    /// The target's table lacks this column.
    MissingColumn(Identifier),
    /// The target's table has this column more; harmless if it may be NULL or has a default.
    ExtraColumn {
        /// The column.
        column: Identifier,
        /// Whether it is NOT NULL, so that rows without it need a default.
        not_null: bool,
    },
    /// The column has another type, as `format_type` writes both.
    Type {
        /// The column.
        column: Identifier,
        /// On the source.
        source: String,
        /// On the target.
        target: String,
    },
    /// NOT NULL on the target, not on the source: a NULL would be refused.
    NotNullOnTarget(Identifier),
    /// Generated on one end only, or in another way (P39).
    Generated {
        /// The column.
        column: Identifier,
        /// On the source.
        source: Generated,
        /// On the target.
        target: Generated,
    },
}

/// Compares what matters for moving rows. Tables only the target has, foreign tables and members of
/// extensions are left out.
#[must_use]
pub fn compare(source: &Catalog, target: &Catalog) -> Vec<Difference> {
    let there = target.by_name();
    let moved =
        source.tables.iter().filter(|table| table.kind != TableKind::Foreign && table.extension.is_none());
    moved
        .flat_map(|table| {
            let found = match there.get(&table.name) {
                Some(twin) => compare_tables(table, twin),
                None => vec![Mismatch::MissingTable],
            };
            found.into_iter().map(|what| Difference { table: table.name.clone(), what })
        })
        .collect()
}

/// How one table of the target differs from the source's.
#[must_use]
pub fn compare_tables(source: &Table, target: &Table) -> Vec<Mismatch> {
    if source.kind != target.kind {
        return vec![Mismatch::Kind { source: source.kind, target: target.kind }];
    }
    let mut found: Vec<Mismatch> = source
        .columns
        .iter()
        .flat_map(|column| match target.column(column.name.raw()) {
            Some(twin) => compare_columns(column, twin),
            // A generated column is computed, not sent: nothing is lost without it.
            None if column.generated != Generated::No => Vec::new(),
            None => vec![Mismatch::MissingColumn(column.name.clone())],
        })
        .collect();
    let extra = target
        .columns
        .iter()
        .filter(|column| column.generated == Generated::No && source.column(column.name.raw()).is_none());
    found.extend(
        extra.map(|column| Mismatch::ExtraColumn { column: column.name.clone(), not_null: column.not_null }),
    );
    found
}

fn compare_columns(source: &Column, target: &Column) -> Vec<Mismatch> {
    let mut found = Vec::new();
    // format_type writes the modifier too, and under search_path = '' the schema of every user type.
    if source.type_text != target.type_text {
        found.push(Mismatch::Type {
            column: source.name.clone(),
            source: source.type_text.to_string(),
            target: target.type_text.to_string(),
        });
    }
    if target.not_null && !source.not_null {
        found.push(Mismatch::NotNullOnTarget(source.name.clone()));
    }
    if source.generated != target.generated {
        found.push(Mismatch::Generated {
            column: source.name.clone(),
            source: source.generated,
            target: target.generated,
        });
    }
    found
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.table.plain(), self.what)
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::MissingTable => f.write_str("the table is missing on the target"),
            Mismatch::Kind { source, target } => {
                write!(f, "{} on the source, {} on the target", kind_name(*source), kind_name(*target))
            }
            Mismatch::MissingColumn(column) => write!(f, "column {column} is missing on the target"),
            Mismatch::ExtraColumn { column, not_null: false } => {
                write!(f, "column {column} exists only on the target")
            }
            Mismatch::ExtraColumn { column, not_null: true } => {
                write!(f, "column {column} exists only on the target and is NOT NULL")
            }
            Mismatch::Type { column, source, target } => {
                write!(f, "column {column} is {source} on the source, {target} on the target")
            }
            Mismatch::NotNullOnTarget(column) => write!(f, "column {column} is NOT NULL only on the target"),
            Mismatch::Generated { column, source, target } => write!(
                f,
                "column {column} is {} on the source, {} on the target",
                generated_name(*source),
                generated_name(*target)
            ),
        }
    }
}

fn kind_name(kind: TableKind) -> &'static str {
    match kind {
        TableKind::Ordinary => "an ordinary table",
        TableKind::Partitioned => "a partitioned table",
        TableKind::Foreign => "a foreign table",
    }
}

fn generated_name(generated: Generated) -> &'static str {
    match generated {
        Generated::No => "an ordinary column",
        Generated::Stored => "generated and stored",
        Generated::Virtual => "generated on reading",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::testing::{catalog, column, keyed, table};

    fn differ(source: Table, target: Table) -> Vec<Mismatch> {
        compare(&catalog([source]), &catalog([target])).into_iter().map(|found| found.what).collect()
    }

    #[test]
    fn equal_tables_with_other_oids_and_order_do_not_differ() {
        let mut source = keyed(1, "t");
        source.columns.push(column(2, "b"));
        let mut target = keyed(77, "t");
        target.columns.insert(0, column(9, "b"));
        assert_eq!(differ(source, target), []);
    }

    #[test]
    fn each_mismatch_is_found() {
        assert_eq!(differ(keyed(1, "t"), keyed(1, "u")), [Mismatch::MissingTable]);

        let partitioned = Table { kind: TableKind::Partitioned, ..keyed(1, "t") };
        assert!(matches!(differ(keyed(1, "t"), partitioned)[..], [Mismatch::Kind { .. }]));

        let id = Identifier::new("id");
        assert_eq!(differ(keyed(1, "t"), table(1, "t")), [Mismatch::MissingColumn(id.clone())]);
        assert_eq!(
            differ(table(1, "t"), keyed(1, "t")),
            [Mismatch::ExtraColumn { column: id.clone(), not_null: true }]
        );

        let mut other = keyed(1, "t");
        other.columns[0].type_text = "bigint".into();
        assert!(matches!(differ(keyed(1, "t"), other)[..], [Mismatch::Type { .. }]));

        let mut loose = keyed(1, "t");
        loose.columns[0].not_null = false;
        assert_eq!(differ(loose.clone(), keyed(1, "t")), [Mismatch::NotNullOnTarget(id)]);
        assert_eq!(differ(keyed(1, "t"), loose), []);

        let mut generated = keyed(1, "t");
        generated.columns[0].generated = Generated::Stored;
        assert!(matches!(differ(keyed(1, "t"), generated)[..], [Mismatch::Generated { .. }]));
    }

    #[test]
    fn members_of_extensions_and_foreign_tables_are_not_moved() {
        let member = Table { extension: Some("postgis".to_owned()), ..keyed(1, "spatial_ref_sys") };
        let foreign = Table { kind: TableKind::Foreign, ..keyed(2, "remote") };
        assert_eq!(compare(&catalog([member, foreign]), &catalog([])), []);
    }
}
