//! A source's table bound to its twin on the target, column by column, by name.
//!
//! Hazard: `pg_dump` reorders columns, the two ends may hold more or fewer of them, and the key that finds a
//! row on the source may not be unique on the target. All of it is decided here, once per shape of the
//! table, so that nothing later has to ask.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::drift::{Drift, Fit, fit, type_text};
use super::key::is_canonical;
use super::operator::TargetFacts;
use crate::catalog::{Column, Generated, IdentityColumn, Index, IndexKind, Table, TableKind, TypeKind};
use crate::pg::{Identifier, Lsn, Oid, QualifiedName};
use crate::pgoutput::{Relation, RelationColumn, ReplicaIdentity};

/// How a column's values travel to the target, many rows in one parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Carrier {
    /// As an array of the column's type: the type's own input or receive function reads each value.
    Array { element: Oid, delimiter: char },
    /// As `text[]`, each value cast, or in binary inside a row of the table: `unnest` flattens arrays and spreads
    /// composite values over columns, and some types have no array type.
    Cast,
}

/// How two values of a column are compared on the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Comparison {
    /// By this operator; an index may serve it.
    Operator(String),
    /// By their text: there is no operator, or it holds different values equal (P09).
    Text,
}

/// A column of the source's tuples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BoundColumn {
    pub(super) name: Identifier,
    /// The target's type, quoted, never with a modifier: the assignment to the column checks that.
    pub(super) type_name: Arc<QualifiedName>,
    pub(super) carrier: Carrier,
    /// By the key's operator; several spellings may be equal.
    pub(super) key_comparison: Comparison,
    /// Whether equal values always have equal bytes: then `=` finds exactly the value that was meant.
    pub(super) is_canonical: bool,
    /// Generated on the target (P39), or gone from both ends since: never written, never compared.
    pub(super) is_generated: bool,
    /// `GENERATED ALWAYS AS IDENTITY` on the target: UPDATE may not name it (P40).
    pub(super) is_identity_always: bool,
}

/// A column of the target's table, in the order of its row type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RecordField {
    pub(super) type_oid: Oid,
    /// Where the stream has it.
    pub(super) column: Option<usize>,
}

/// How an old row is found on the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RowIdentity {
    /// By these columns of the tuple, in ascending order.
    Key(Vec<usize>),
    /// By all columns, and then exactly one of what may be several equal rows (P09).
    WholeRow,
    /// Not at all: the source sends only inserts.
    None,
}

/// How much of the order of changes may be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// Changes of a row are merged; one statement per kind. The key is unique on the target.
    Net,
    /// Rows are counted: there is no key, and each change has the whole of both images.
    Multiset,
    /// Runs of one kind become one statement; their order stays.
    Runs,
    /// One row per statement: triggers or rules of the target see each change (P47, P54).
    Single,
}

/// How many more changes of a table are told one by one, because a batch of it was refused.
///
/// Where rows take over each other's unique values, as in a swap, every batch is refused, and each time the
/// whole chunk has to be replayed, the changes of all other tables with it.
#[derive(Debug, Default)]
pub(super) struct Caution(AtomicU32);

impl Caution {
    /// After so many changes a batch is tried again.
    const CHANGES: u32 = 20_000;

    /// A batch was refused.
    pub(super) fn raise(&self) {
        self.0.store(Self::CHANGES, Ordering::Relaxed);
    }

    /// Whether one more change is to be told by itself.
    pub(super) fn spend(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

/// Whether long runs of inserts may be copied in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copying {
    /// They may.
    Allowed,
    /// The target would refuse it or do something else: row security (P53), rules (P54), foreign tables.
    Avoided,
}

/// A table's shape on both ends.
#[derive(Debug)]
pub(super) struct BoundTable {
    /// Distinguishes shapes of one table that follow each other.
    pub(super) serial: u64,
    pub(super) name: QualifiedName,
    /// "ONLY " for tables that may have inheritance children, whose rows the stream names by themselves.
    pub(super) only: &'static str,
    pub(super) columns: Vec<BoundColumn>,
    /// The target's row type.
    pub(super) record: Vec<RecordField>,
    pub(super) identity: RowIdentity,
    pub(super) pace: Pace,
    pub(super) caution: Caution,
    pub(super) copying: Copying,
    /// Transactions whose commit record starts before this are in the table's copy.
    pub(super) watermark: Lsn,
}

/// What a relation message is bound with.
pub(super) struct Binder<'a> {
    pub(super) facts: &'a TargetFacts,
    /// Names of the source's types that are not built in.
    pub(super) types: &'a HashMap<Oid, QualifiedName>,
    /// The table as it is on the source since, if the shape to bind is known to be of before.
    pub(super) since: Option<&'a Table>,
}

impl Binder<'_> {
    /// Binds what the source says of a table to what the target's catalog says.
    ///
    /// # Errors
    /// [`Drift`] if a column is on one end only or has another type there, or if the target's primary key is
    /// another; unless the target is what the source has become since.
    pub(super) fn bind(
        &self,
        relation: &Relation,
        table: &Table,
        watermark: Lsn,
    ) -> Result<Arc<BoundTable>, Drift> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let columns = relation
            .columns
            .iter()
            .map(|column| self.column(column, table))
            .collect::<Result<Vec<_>, Drift>>()?;
        self.nothing_more(relation, table)?;
        let (identity, uniqueness) = identity(relation, table);
        if uniqueness == Uniqueness::Unknown {
            self.same_key(relation, table)?;
        }
        let watched = !table.replica_triggers.is_empty() || table.has_rules;
        // An update told as one row out and one in would reset what the source does not have.
        let is_whole = table.writable_columns().count() == columns.len() && table.kind != TableKind::Foreign;
        let pace = match (&identity, uniqueness) {
            _ if watched => Pace::Single,
            (_, Uniqueness::Proven) => Pace::Net,
            (RowIdentity::WholeRow, Uniqueness::Unknown) if is_whole => Pace::Multiset,
            (_, Uniqueness::Unknown) => Pace::Runs,
        };
        let plain = !table.row_security && !watched && table.kind != TableKind::Foreign;
        Ok(Arc::new(BoundTable {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            name: table.name.clone(),
            only: if table.kind == TableKind::Ordinary { "ONLY " } else { "" },
            record: record(relation, table),
            columns,
            identity,
            pace,
            caution: Caution::default(),
            copying: if plain { Copying::Allowed } else { Copying::Avoided },
            watermark,
        }))
    }

    fn column(&self, source: &RelationColumn, table: &Table) -> Result<BoundColumn, Drift> {
        let announced = self.types.get(&source.type_oid);
        let source_type = || type_text(source, announced);
        let Some(target) = table.column(&source.name) else {
            // The key finds rows, or nothing does.
            if !source.is_key && self.since.is_some_and(|since| since.column(&source.name).is_none()) {
                return Ok(gone(&source.name));
            }
            return Err(Drift::MissingColumn {
                table: table.name.clone(),
                column: Identifier::new(source.name.as_str()),
                source_type: source_type(),
            });
        };
        let fits = match fit(source, announced, target, self.facts.base(target)) {
            Fit::Same => true,
            Fit::Wider => {
                let now = self.since.and_then(|since| since.column(&source.name));
                now.is_some_and(|now| now.type_text == target.type_text)
            }
            Fit::Other => false,
        };
        if !fits {
            return Err(Drift::OtherType {
                table: table.name.clone(),
                column: target.name.clone(),
                source_type: source_type(),
                target_type: target.type_text.to_string(),
            });
        }
        let equality = self.facts.equality(target);
        Ok(BoundColumn {
            name: target.name.clone(),
            type_name: Arc::clone(&target.type_name),
            carrier: self.carrier(target),
            key_comparison: equality.map_or(Comparison::Text, Comparison::Operator),
            is_canonical: is_canonical(target, self.facts.is_loose(table, target)),
            is_generated: target.generated != Generated::No,
            is_identity_always: target.identity == IdentityColumn::Always,
        })
    }

    /// Whether each column of the target's is one of the source's, which fills it.
    fn nothing_more(&self, relation: &Relation, table: &Table) -> Result<(), Drift> {
        let is_known = |column: &Column| {
            column.generated != Generated::No
                || relation.columns.iter().any(|source| source.name == column.name.raw())
                || self.since.is_some_and(|since| since.column(column.name.raw()).is_some())
        };
        match table.columns.iter().find(|column| !is_known(column)) {
            Some(extra) => Err(Drift::ExtraColumn { table: table.name.clone(), column: extra.name.clone() }),
            None => Ok(()),
        }
    }

    /// Whether the primary keys are the same, where both ends have one.
    fn same_key(&self, relation: &Relation, table: &Table) -> Result<(), Drift> {
        let of_primary = |table: &Table| {
            let primary = table.indexes.iter().find(|index| index.kind == IndexKind::Primary)?;
            index_positions(relation, table, primary)
        };
        let key = positions(relation, |column| column.is_key);
        let is_by_primary = relation.replica_identity == ReplicaIdentity::Default && !key.is_empty();
        let has_primary = table.indexes.iter().any(|index| index.kind == IndexKind::Primary);
        let is_of_before = || self.since.is_some_and(|since| of_primary(since) == of_primary(table));
        if !is_by_primary || !has_primary || of_primary(table).as_ref() == Some(&key) || is_of_before() {
            return Ok(());
        }
        let names = key.iter().filter_map(|at| relation.columns.get(*at));
        let key = names.map(|column| Identifier::new(column.name.as_str())).collect();
        Err(Drift::OtherKey { table: table.name.clone(), key })
    }

    fn carrier(&self, target: &Column) -> Carrier {
        let is_spread = matches!(target.base_kind, TypeKind::Array | TypeKind::Composite)
            || target.type_kind == TypeKind::Array;
        match target.array_oid {
            Some(_) if !is_spread => {
                Carrier::Array { element: target.type_oid, delimiter: self.facts.delimiter(target) }
            }
            Some(_) | None => Carrier::Cast,
        }
    }
}

impl BoundTable {
    /// The key's columns, in ascending order; empty when the table has none.
    pub(super) fn key(&self) -> &[usize] {
        match &self.identity {
            RowIdentity::Key(columns) => columns,
            RowIdentity::WholeRow | RowIdentity::None => &[],
        }
    }

    pub(super) fn is_key(&self, column: usize) -> bool {
        self.key().contains(&column)
    }

    /// Whether the target refuses to update a column that is not part of the key (P40).
    pub(super) fn has_fixed_column(&self) -> bool {
        let mut columns = self.columns.iter().enumerate();
        columns.any(|(at, column)| column.is_identity_always && !self.is_key(at))
    }
}

fn record(relation: &Relation, table: &Table) -> Vec<RecordField> {
    let position =
        |column: &Column| relation.columns.iter().position(|other| other.name == column.name.raw());
    let field = |column: &Column| RecordField { type_oid: column.type_oid, column: position(column) };
    table.columns.iter().map(field).collect()
}

/// A column that neither end has any more.
fn gone(name: &str) -> BoundColumn {
    BoundColumn {
        name: Identifier::new(name),
        type_name: QualifiedName::new("pg_catalog", "text").into(),
        carrier: Carrier::Cast,
        key_comparison: Comparison::Text,
        is_canonical: false,
        is_generated: true,
        is_identity_always: false,
    }
}

/// Whether an index of the target proves that a key names one row at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Uniqueness {
    Proven,
    Unknown,
}

fn identity(relation: &Relation, table: &Table) -> (RowIdentity, Uniqueness) {
    match relation.replica_identity {
        ReplicaIdentity::Nothing => (RowIdentity::None, Uniqueness::Unknown),
        ReplicaIdentity::Default | ReplicaIdentity::Index => {
            let key = positions(relation, |column| column.is_key);
            let unique = |index: &Index| index_positions(relation, table, index).as_ref() == Some(&key);
            if key.is_empty() {
                (RowIdentity::None, Uniqueness::Unknown)
            } else if unique_indexes(table).any(unique) {
                (RowIdentity::Key(key), Uniqueness::Proven)
            } else {
                (RowIdentity::Key(key), Uniqueness::Unknown)
            }
        }
        // The old image has every value, so any unique key of the target's finds the row.
        ReplicaIdentity::Full => unique_indexes(table)
            .filter(|index| index.key.iter().all(|number| is_not_null(table, *number)))
            .find_map(|index| index_positions(relation, table, index))
            .map_or((RowIdentity::WholeRow, Uniqueness::Unknown), |key| {
                (RowIdentity::Key(key), Uniqueness::Proven)
            }),
    }
}

/// Indexes that hold every row and are checked at once; the primary key first.
fn unique_indexes(table: &Table) -> impl Iterator<Item = &Index> {
    let of = |kind: IndexKind| table.indexes.iter().filter(move |index| index.kind == kind);
    of(IndexKind::Primary)
        .chain(of(IndexKind::Unique))
        .filter(|index| index.is_valid && index.is_immediate && !index.is_partial && !index.key.is_empty())
}

/// Where an index's columns stand in the source's tuples; none if one of them is not there.
fn index_positions(relation: &Relation, table: &Table, index: &Index) -> Option<Vec<usize>> {
    let position = |number: &i16| {
        let column = table.columns.iter().find(|column| column.number == *number)?;
        let usable = column.generated == Generated::No;
        relation.columns.iter().position(|source| usable && source.name == column.name.raw())
    };
    let mut positions = index.key.iter().map(position).collect::<Option<Vec<usize>>>()?;
    positions.sort_unstable();
    positions.dedup();
    Some(positions)
}

fn is_not_null(table: &Table, number: i16) -> bool {
    table.columns.iter().any(|column| column.number == number && column.not_null)
}

fn positions(relation: &Relation, wanted: impl Fn(&RelationColumn) -> bool) -> Vec<usize> {
    let columns = relation.columns.iter().enumerate();
    columns.filter(|(_, column)| wanted(column)).map(|(at, _)| at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::sample::{self, column, index, relation, table};

    fn bind(relation: &Relation, table: &Table) -> Result<Arc<BoundTable>, Drift> {
        sample::bind(relation, table)
    }

    #[test]
    fn columns_meet_by_name() {
        let target =
            table(vec![column("b", "text"), column("a", "int4")], vec![index(IndexKind::Primary, &[2])]);
        let bound =
            bind(&relation(ReplicaIdentity::Default, &[("a", 23, true), ("b", 25, false)]), &target).unwrap();
        assert_eq!(bound.identity, RowIdentity::Key(vec![0]));
        assert_eq!(bound.pace, Pace::Net);
        assert_eq!(bound.columns[1].name.raw(), "b");
    }

    #[test]
    fn a_key_that_is_not_unique_on_the_target_keeps_its_order() {
        let target = table(vec![column("a", "int4")], vec![]);
        let bound = bind(&relation(ReplicaIdentity::Default, &[("a", 23, true)]), &target).unwrap();
        assert_eq!((&bound.identity, bound.pace), (&RowIdentity::Key(vec![0]), Pace::Runs));
    }

    #[test]
    fn a_deferrable_or_partial_index_proves_nothing() {
        let mut deferrable = index(IndexKind::Primary, &[1]);
        deferrable.is_immediate = false;
        let mut partial = index(IndexKind::Unique, &[1]);
        partial.is_partial = true;
        let target = table(vec![column("a", "int4")], vec![deferrable, partial]);
        let bound = bind(&relation(ReplicaIdentity::Default, &[("a", 23, true)]), &target).unwrap();
        assert_eq!(bound.pace, Pace::Runs);
    }

    #[test]
    fn a_full_identity_uses_the_targets_key_if_there_is_one() {
        let full = relation(ReplicaIdentity::Full, &[("a", 23, true), ("b", 25, true)]);
        let mut columns = vec![column("a", "int4"), column("b", "text")];
        let without = bind(&full, &table(columns.clone(), vec![])).unwrap();
        assert_eq!((&without.identity, without.pace), (&RowIdentity::WholeRow, Pace::Multiset));
        let nullable = bind(&full, &table(columns.clone(), vec![index(IndexKind::Unique, &[1])])).unwrap();
        assert_eq!(nullable.identity, RowIdentity::WholeRow);
        columns[0].not_null = true;
        let with = bind(&full, &table(columns, vec![index(IndexKind::Unique, &[1])])).unwrap();
        assert_eq!((&with.identity, with.pace), (&RowIdentity::Key(vec![0]), Pace::Net));
    }

    #[test]
    fn triggers_of_the_target_see_every_row() {
        let mut target = table(vec![column("a", "int4")], vec![index(IndexKind::Primary, &[1])]);
        target.replica_triggers.push(Identifier::new("audit"));
        let bound = bind(&relation(ReplicaIdentity::Default, &[("a", 23, true)]), &target).unwrap();
        assert_eq!((bound.pace, bound.copying), (Pace::Single, Copying::Avoided));
    }

    #[test]
    fn a_column_of_the_targets_own_is_drift_unless_it_is_the_sources_to_come() {
        let target = table(vec![column("a", "int4"), column("b", "text")], vec![]);
        let before = relation(ReplicaIdentity::Nothing, &[("a", 23, false)]);
        let extra = bind(&before, &target).unwrap_err();
        assert!(matches!(extra, Drift::ExtraColumn { column, .. } if column.raw() == "b"));
        assert!(sample::bind_since(&before, &target, &target).is_ok());
    }

    #[test]
    fn a_shape_of_before_fits_what_both_ends_have_become() {
        let target = table(vec![column("a", "int8")], vec![]);
        let before = relation(ReplicaIdentity::Nothing, &[("a", 23, false), ("gone", 25, false)]);
        assert!(matches!(bind(&before, &target), Err(Drift::OtherType { .. })));
        let bound = sample::bind_since(&before, &target, &target).unwrap();
        assert_eq!((bound.columns[0].is_generated, bound.columns[1].is_generated), (false, true));
        let narrower = relation(ReplicaIdentity::Nothing, &[("a", 25, false)]);
        assert!(sample::bind_since(&narrower, &target, &target).is_err(), "a text may be no number");
        let key = relation(ReplicaIdentity::Default, &[("a", 23, false), ("gone", 25, true)]);
        assert!(sample::bind_since(&key, &target, &target).is_err(), "no row is found without its key");
    }

    #[test]
    fn another_primary_key_is_drift() {
        let columns = vec![column("a", "int4"), column("b", "int4")];
        let target = table(columns.clone(), vec![index(IndexKind::Primary, &[1])]);
        let other = relation(ReplicaIdentity::Default, &[("a", 23, false), ("b", 23, true)]);
        assert!(matches!(bind(&other, &target), Err(Drift::OtherKey { .. })));
        let both = vec![index(IndexKind::Primary, &[1]), index(IndexKind::Unique, &[2])];
        assert!(bind(&other, &table(columns, both)).is_ok());
    }

    #[test]
    fn a_missing_column_and_another_type_are_drift() {
        let target = table(vec![column("a", "int4")], vec![]);
        let missing = bind(&relation(ReplicaIdentity::Nothing, &[("b", 23, false)]), &target).unwrap_err();
        assert!(matches!(missing, Drift::MissingColumn { source_type: Some(text), .. } if text == "int4"));
        let other = bind(&relation(ReplicaIdentity::Nothing, &[("a", 20, false)]), &target).unwrap_err();
        assert!(matches!(other, Drift::OtherType { source_type: Some(text), .. } if text == "int8"));
    }
}
