//! What the source calls its tables, and what they are on the target.
//!
//! Hazard: a shape counts from the moment it was sent, also when the transaction it came in is skipped, as
//! the server will not send it again. But what is skipped must not fail: a table is bound to its twin on the
//! target at its first change that is really applied.

use std::collections::HashMap;
use std::sync::Arc;

use super::drift::{Drift, SourceNow};
use super::format::{NotInBinary, ValueFormat};
use super::operator::TargetFacts;
use super::table::{Binder, BoundTable};
use crate::catalog::Table;
use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Lsn, Oid, QualifiedName, RelationId};
use crate::pgoutput::{Relation, Type};

/// Per table that is migrated: transactions whose commit record starts before this are in its copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableWatermarks(HashMap<QualifiedName, Lsn>);

impl TableWatermarks {
    /// The watermark of a table; none if it is not migrated.
    #[must_use]
    pub fn get(&self, table: &QualifiedName) -> Option<Lsn> {
        self.0.get(table).copied()
    }
}

impl FromIterator<(QualifiedName, Lsn)> for TableWatermarks {
    fn from_iter<I: IntoIterator<Item = (QualifiedName, Lsn)>>(tables: I) -> TableWatermarks {
        TableWatermarks(tables.into_iter().collect())
    }
}

/// A table as last announced.
#[derive(Debug)]
enum Known {
    Announced(Arc<Relation>),
    Bound {
        relation: Arc<Relation>,
        table: Arc<BoundTable>,
    },
    /// A shape of before what both ends have become: it must not be bound so once it comes again.
    BoundAsPast(Arc<BoundTable>),
}

/// Tables by the source's OIDs.
#[derive(Debug)]
pub(super) struct Relations {
    known: HashMap<RelationId, Known>,
    types: HashMap<Oid, QualifiedName>,
    target: HashMap<QualifiedName, Table>,
    facts: TargetFacts,
    watermarks: TableWatermarks,
    source: SourceNow,
    values: ValueFormat,
}

impl Relations {
    pub(super) fn new(
        target: Vec<Table>,
        facts: TargetFacts,
        watermarks: TableWatermarks,
        source: SourceNow,
    ) -> Relations {
        let target = target.into_iter().map(|table| (table.name.clone(), table)).collect();
        let (known, types) = (HashMap::new(), HashMap::new());
        Relations { known, types, target, facts, watermarks, source, values: ValueFormat::Text }
    }

    /// Reads a stream whose values come in this format.
    pub(super) fn in_format(self, values: ValueFormat) -> Relations {
        Relations { values, ..self }
    }

    /// A type's name.
    pub(super) fn announce_type(&mut self, announced: Type) {
        self.types.insert(announced.oid, QualifiedName::new(announced.namespace, announced.name));
    }

    /// A table's shape. The same shape again changes nothing; another one ends what is bound to the old.
    pub(super) fn announce(&mut self, mut relation: Relation) {
        relation.xid = None;
        match self.known.get(&relation.id) {
            Some(Known::Announced(known) | Known::Bound { relation: known, .. }) if **known == relation => {}
            Some(Known::Announced(_) | Known::Bound { .. } | Known::BoundAsPast(_)) | None => {
                self.known.insert(relation.id, Known::Announced(Arc::new(relation)));
            }
        }
    }

    /// The table, bound to its twin, if a transaction whose commit record starts at `final_lsn` is to be
    /// applied to it; none if the table's copy has that transaction already.
    ///
    /// # Errors
    /// `Protocol` if the table was never announced, `Drift` if it is not migrated (P27), does not fit or cannot
    /// be read in the stream's format.
    pub(super) fn table(&mut self, id: RelationId, final_lsn: Lsn) -> Result<Option<Arc<BoundTable>>> {
        let relation = match self.known(id)? {
            Known::Bound { table, .. } | Known::BoundAsPast(table) => {
                return Ok((final_lsn >= table.watermark).then(|| Arc::clone(table)));
            }
            Known::Announced(relation) => Arc::clone(relation),
        };
        let name = name(&relation);
        let Some(watermark) = self.watermarks.get(&name) else {
            return Err(Drift::UnknownTable { table: name }.into_error(&relation));
        };
        if final_lsn < watermark {
            return Ok(None);
        }
        let Some(target) = self.target.get(&name) else {
            return Err(Drift::MissingTable { table: name }.into_error(&relation));
        };
        let bind = |since| {
            let binder = Binder { facts: &self.facts, types: &self.types, since };
            binder.bind(&relation, target, watermark).map_err(|drift| drift.into_error(&relation))
        };
        let (table, known) = match (bind(None), self.source.since(&name, final_lsn)) {
            (Ok(table), _) => (Arc::clone(&table), Known::Bound { relation: Arc::clone(&relation), table }),
            (Err(_), Some(since)) => {
                let table = bind(Some(since))?;
                (Arc::clone(&table), Known::BoundAsPast(table))
            }
            (Err(drift), None) => return Err(drift),
        };
        // What does not fit is drift, whatever the format.
        self.values.check(&relation, target).map_err(NotInBinary::into_error)?;
        self.known.insert(id, known);
        Ok(Some(table))
    }

    /// Whether a table that was announced is migrated at all.
    ///
    /// # Errors
    /// `Protocol` if the table was never announced.
    pub(super) fn is_migrated(&self, id: RelationId) -> Result<bool> {
        match self.known(id)? {
            Known::Bound { .. } | Known::BoundAsPast(_) => Ok(true),
            Known::Announced(relation) => Ok(self.watermarks.get(&name(relation)).is_some()),
        }
    }

    fn known(&self, id: RelationId) -> Result<&Known> {
        self.known.get(&id).ok_or_else(|| {
            Error::new(
                ErrorKind::Protocol,
                format!("follow a change of table {id}, which was never announced"),
            )
        })
    }
}

fn name(relation: &Relation) -> QualifiedName {
    QualifiedName::new(relation.namespace.as_str(), relation.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::sample::{column, relation, table};
    use crate::catalog::IndexKind;
    use crate::pgoutput::ReplicaIdentity;

    fn relations(watermarks: &[(&str, u64)]) -> Relations {
        let target =
            table(vec![column("id", "int4")], vec![crate::apply::sample::index(IndexKind::Primary, &[1])]);
        let of = |(name, lsn): &(&str, u64)| (QualifiedName::new("s", *name), Lsn::new(*lsn));
        let source = SourceNow::default();
        Relations::new(vec![target], TargetFacts::default(), watermarks.iter().map(of).collect(), source)
    }

    fn announced(columns: &[(&str, u32, bool)]) -> Relation {
        relation(ReplicaIdentity::Default, columns)
    }

    #[test]
    fn the_same_shape_again_keeps_what_is_bound() {
        let mut relations = relations(&[("t", 5)]);
        let shape = announced(&[("id", 23, true)]);
        relations.announce(shape.clone());
        let bound = |relations: &mut Relations| relations.table(shape.id, Lsn::new(5)).unwrap().unwrap();
        let first = bound(&mut relations);
        relations.announce(Relation { xid: Some(crate::pg::Xid::new(3)), ..shape.clone() });
        assert_eq!(bound(&mut relations).serial, first.serial);
        relations.announce(announced(&[("id", 23, false)]));
        assert_ne!(bound(&mut relations).serial, first.serial);
    }

    #[test]
    fn what_the_copy_has_is_not_applied_again_and_need_not_fit() {
        let mut relations = relations(&[("t", 5)]);
        let shape = announced(&[("id", 23, true), ("dropped", 25, false)]);
        relations.announce(shape.clone());
        assert!(relations.table(shape.id, Lsn::new(4)).unwrap().is_none());
        assert_eq!(relations.table(shape.id, Lsn::new(5)).unwrap_err().kind(), ErrorKind::Drift);
    }

    #[test]
    fn only_a_shape_from_before_the_look_at_the_source_may_be_an_old_one() {
        let wider = table(vec![column("id", "int4"), column("new", "text")], vec![]);
        let of = (QualifiedName::new("s", "t"), Lsn::new(5));
        let source = SourceNow::new(vec![wider.clone()], Lsn::new(100));
        let mut relations =
            Relations::new(vec![wider], TargetFacts::default(), [of].into_iter().collect(), source);
        let shape = announced(&[("id", 23, false)]);
        relations.announce(shape.clone());
        assert!(relations.table(shape.id, Lsn::new(99)).unwrap().is_some());
        // The same again, after DDL: what was concluded from the look counts no longer.
        relations.announce(shape.clone());
        let drift = relations.table(shape.id, Lsn::new(100)).unwrap_err();
        assert_eq!(drift.kind(), ErrorKind::Drift);
    }

    #[test]
    fn a_table_outside_the_migration_is_drift_only_when_it_is_used() {
        let mut relations = relations(&[]);
        let shape = announced(&[("id", 23, true)]);
        relations.announce(shape.clone());
        assert!(!relations.is_migrated(shape.id).unwrap());
        assert_eq!(relations.table(shape.id, Lsn::ZERO).unwrap_err().kind(), ErrorKind::Drift);
    }

    #[test]
    fn a_table_never_announced_breaks_the_protocol() {
        let error = relations(&[]).table(RelationId::new(1), Lsn::ZERO).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
    }
}
