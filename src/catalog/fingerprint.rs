//! What a database looked like, kept to notice that somebody changed it (P25, P27, P66).
//!
//! Hazard: DDL is not in the stream. A column added on the source shows itself with the first row that
//! has it, a dropped enum label or a detached partition not at all. So the shape is read again from time
//! to time and compared with the one the copy began with.
//! Pure. Sizes, row counts and population come and go by themselves and take no part.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::catalog::{Catalog, Table};

/// The shape of every object that matters to the stream, by name; equal shapes are equal strings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fingerprint(BTreeMap<String, String>);

/// What happened to one object between two fingerprints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is new: "table public.t".
    Appeared(String),
    /// It is gone, or was renamed.
    Vanished(String),
    /// Its shape changed.
    Altered {
        /// The object.
        object: String,
        /// Its shape then.
        before: String,
        /// Its shape now.
        after: String,
    },
}

impl Fingerprint {
    /// Takes the shape of a catalog. Objects of extensions are left out: `ALTER EXTENSION` moves no rows.
    #[must_use]
    pub fn of(catalog: &Catalog) -> Fingerprint {
        let names = catalog.by_oid();
        let name = |oid| names.get(&oid).map_or_else(|| "?".to_owned(), |table| table.name.plain());
        let mut shapes = BTreeMap::new();
        for table in catalog.tables.iter().filter(|table| table.extension.is_none()) {
            let parents: Vec<String> = table.parents.iter().map(|parent| name(*parent)).collect();
            let shape = format!("{} of {parents:?}", describe(table));
            shapes.insert(format!("table {}", table.name.plain()), shape);
        }
        for key in &catalog.foreign_keys {
            let object =
                format!("foreign key {:?} of {} to {}", key.name, name(key.table), name(key.references));
            shapes.insert(object, String::new());
        }
        for sequence in &catalog.sequences {
            shapes.insert(format!("sequence {}", sequence.name.plain()), String::new());
        }
        for view in &catalog.materialized_views {
            shapes.insert(format!("materialized view {}", view.name.plain()), String::new());
        }
        for kind in &catalog.enums {
            shapes.insert(format!("enum type {}", kind.name.plain()), format!("{:?}", kind.labels));
        }
        Fingerprint(shapes)
    }

    /// What changed from `earlier` to this, by object.
    #[must_use]
    pub fn changes_since(&self, earlier: &Fingerprint) -> Vec<Change> {
        let gone = earlier.0.keys().filter(|object| !self.0.contains_key(*object));
        let mut changes: Vec<Change> = gone.map(|object| Change::Vanished(object.clone())).collect();
        for (object, after) in &self.0 {
            match earlier.0.get(object) {
                None => changes.push(Change::Appeared(object.clone())),
                Some(before) if before != after => changes.push(Change::Altered {
                    object: object.clone(),
                    before: before.clone(),
                    after: after.clone(),
                }),
                Some(_) => {}
            }
        }
        changes
    }
}

/// A table's shape in one line; any two tables that differ to the stream differ here.
fn describe(table: &Table) -> String {
    let mut shape = format!("{:?} {:?} identity {:?}", table.kind, table.persistence, table.replica_identity);
    for column in &table.columns {
        // Writing to a String cannot fail.
        let _ = write!(
            shape,
            "; {} {}{}, generated {:?}, identity {:?}",
            column.name,
            column.type_text,
            if column.not_null { " NOT NULL" } else { "" },
            column.generated,
            column.identity
        );
    }
    for index in &table.indexes {
        let _ = write!(
            shape,
            "; index {} {:?} on {:?}, partial {}, immediate {}, valid {}, replica identity {}",
            index.name,
            index.kind,
            index.key,
            index.is_partial,
            index.is_immediate,
            index.is_valid,
            index.is_replica_identity
        );
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::testing::{catalog, column, keyed};
    use crate::catalog::{EnumType, IndexKind};
    use crate::pg::QualifiedName;

    #[test]
    fn growth_is_not_a_change() {
        let mut grown = keyed(1, "t");
        (grown.blocks, grown.bytes, grown.rows_estimate) = (9, 9, 9.0);
        let (before, after) = (catalog([keyed(1, "t")]), catalog([grown]));
        assert_eq!(Fingerprint::of(&after).changes_since(&Fingerprint::of(&before)), []);
    }

    #[test]
    fn ddl_is_named() {
        let before = catalog([keyed(1, "t"), keyed(2, "gone")]);
        let mut wider = keyed(1, "t");
        wider.columns.push(column(2, "new"));
        let mut after = catalog([wider, keyed(3, "born")]);
        after
            .enums
            .push(EnumType { name: QualifiedName::new("public", "mood"), labels: vec!["ok".to_owned()] });
        let changes = Fingerprint::of(&after).changes_since(&Fingerprint::of(&before));
        assert_eq!(changes[0], Change::Vanished("table public.gone".to_owned()));
        assert_eq!(changes[1], Change::Appeared("enum type public.mood".to_owned()));
        assert_eq!(changes[2], Change::Appeared("table public.born".to_owned()));
        assert!(matches!(&changes[3], Change::Altered { object, .. } if object == "table public.t"));
        assert_eq!(changes.len(), 4);
    }

    #[test]
    fn an_index_that_became_invalid_is_a_change() {
        let before = catalog([keyed(1, "t")]);
        let mut broken = keyed(1, "t");
        assert_eq!(broken.indexes[0].kind, IndexKind::Primary);
        broken.indexes[0].is_valid = false;
        assert_eq!(Fingerprint::of(&catalog([broken])).changes_since(&Fingerprint::of(&before)).len(), 1);
    }
}
