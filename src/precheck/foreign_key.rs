//! Foreign keys that lead out of what is moved (P49).
//!
//! Hazard: the target checks no foreign key while we write, so damage would show only when the keys are
//! validated at cutover, or never. Keys are judged by table, not by name: a name is unique within its table
//! only, and partitions carry copies of their parents' keys.

use std::collections::{HashMap, HashSet};

use crate::catalog::{ForeignKey, Table};
use crate::pg::{Identifier, RelationId};
use crate::precheck::facts::{Choices, Facts};
use crate::precheck::table::Finding;

/// P49, P41: a row that refers to a table left behind would refer to nothing on the target.
pub(super) fn foreign_keys(facts: &Facts) -> Vec<Finding> {
    let tables = facts.source.catalog.by_oid();
    let keys = facts.source.catalog.foreign_keys.iter().filter_map(|key| {
        let crossing = crossing(facts, key)?;
        Some((key, crossing, *tables.get(&key.table)?, *tables.get(&key.references)?))
    });
    // Partitions inherit the keys of their parents: the parent's speaks for all of them.
    let (inherited, declared): (Vec<_>, Vec<_>) =
        keys.partition(|(_, _, table, references)| table.is_partition || references.is_partition);
    let mut told: HashSet<(RelationId, RelationId, Crossing)> = HashSet::new();
    let mut found = Vec::new();
    for (key, crossing, table, references) in declared.into_iter().chain(inherited) {
        let is_new = told.insert((root(&tables, table), root(&tables, references), crossing));
        if is_new || !(table.is_partition || references.is_partition) {
            found.push(crossed(crossing, key, table, references));
        }
    }
    found
}

/// How a foreign key leaves the set of tables whose every change reaches the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Crossing {
    ToSkipped,
    FromSkipped,
    FromInsertOnly,
}

fn crossing(facts: &Facts, key: &ForeignKey) -> Option<Crossing> {
    let Choices { skip, insert_only, left, .. } = &facts.choices;
    match (skip.contains(&key.table), skip.contains(&key.references)) {
        (false, true) => Some(Crossing::ToSkipped),
        // What is left out with its definition takes its foreign keys along.
        (true, false) if left.definitions.contains(&key.table) => None,
        (true, false) => Some(Crossing::FromSkipped),
        (false, false) if insert_only.contains(&key.table) && !insert_only.contains(&key.references) => {
            Some(Crossing::FromInsertOnly)
        }
        (false, false) | (true, true) => None,
    }
}

fn crossed(crossing: Crossing, key: &ForeignKey, table: &Table, references: &Table) -> Finding {
    let (from, to, name) = (table.name.plain(), references.name.plain(), &key.name);
    match crossing {
        Crossing::ToSkipped => Finding::block(format!(
            "{from} refers to {to} ({name}), which is left behind: its rows would refer to nothing on the target."
        ))
        .fix(format!(
            "Move {to} too, or ALTER TABLE {} DROP CONSTRAINT {};",
            table.name,
            Identifier::new(name.as_str())
        )),
        Crossing::FromSkipped => Finding::warn(format!(
            "{from} is left behind and refers to {to} ({name}): what a DELETE or TRUNCATE of {to} does to it happens \
             on the source only."
        )),
        Crossing::FromInsertOnly => Finding::warn(format!(
            "{from} is published for INSERT only and refers to {to} ({name}): rows deleted on both will stay in \
             {from} on the target, where the foreign key may then not validate."
        )),
    }
}

/// The partitioned table at the top of a partition's tree; the table itself for any other.
fn root(tables: &HashMap<RelationId, &Table>, table: &Table) -> RelationId {
    const DEPTH_MAX: usize = 1000;
    let above = |table: &&Table| {
        let parent = table.parents.first().filter(|_| table.is_partition)?;
        tables.get(parent).copied()
    };
    std::iter::successors(Some(table), above).take(DEPTH_MAX).last().map_or(table.oid, |top| top.oid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::TableKind;
    use crate::catalog::testing::{catalog, keyed};
    use crate::precheck::report::Verdict;
    use crate::precheck::testing::{facts, verdicts};

    fn with_tables(tables: impl IntoIterator<Item = Table>) -> Facts {
        let mut facts = facts();
        facts.source.catalog = catalog(tables);
        facts
    }

    #[test]
    fn a_foreign_key_must_not_lead_to_a_table_left_behind() {
        let mut facts = with_tables([keyed(1, "orders"), keyed(2, "customers")]);
        let (orders, customers) = (RelationId::new(1), RelationId::new(2));
        facts.source.catalog.foreign_keys = vec![foreign_key("fk", 1, 2)];
        assert_eq!(foreign_keys(&facts), []);
        facts.choices.skip = HashSet::from([customers]);
        assert_eq!(verdicts(foreign_keys(&facts)), [Verdict::Block]);
        facts.choices.skip = HashSet::from([orders]);
        assert_eq!(verdicts(foreign_keys(&facts)), [Verdict::Warn]);
        facts.choices.left.definitions.insert(orders);
        assert_eq!(foreign_keys(&facts), []);
        facts.choices.left.definitions.clear();
        facts.choices.skip = HashSet::from([orders, customers]);
        assert_eq!(foreign_keys(&facts), []);
        facts.choices.skip.clear();
        facts.choices.insert_only = HashSet::from([orders]);
        assert_eq!(verdicts(foreign_keys(&facts)), [Verdict::Warn]);
        facts.choices.insert_only = HashSet::from([customers]);
        assert_eq!(foreign_keys(&facts), []);
    }

    fn foreign_key(name: &str, table: u32, references: u32) -> ForeignKey {
        let (table, references) = (RelationId::new(table), RelationId::new(references));
        ForeignKey { name: name.to_owned(), table, references }
    }

    #[test]
    fn partitions_do_not_repeat_their_parents_key() {
        let partition = |oid: u32, name: &str, parent: u32| Table {
            is_partition: true,
            parents: vec![RelationId::new(parent)],
            ..keyed(oid, name)
        };
        let root = Table { kind: TableKind::Partitioned, ..keyed(1, "events") };
        let mut facts = with_tables([
            root,
            partition(2, "events_a", 1),
            partition(3, "events_b", 1),
            keyed(4, "users"),
            keyed(5, "other"),
        ]);
        // Names of constraints are unique within a table only.
        facts.source.catalog.foreign_keys = vec![
            foreign_key("fk", 2, 4),
            foreign_key("fk", 3, 4),
            foreign_key("fk", 1, 4),
            foreign_key("fk", 5, 4),
            foreign_key("fk2", 5, 4),
        ];
        facts.choices.skip = HashSet::from([RelationId::new(4)]);
        let found = foreign_keys(&facts);
        assert_eq!(found.len(), 3);
        assert!(found[0].message.starts_with("public.events refers"), "{}", found[0].message);
        assert!(found[1].message.starts_with("public.other refers"), "{}", found[1].message);
        // Only one partition left behind: its own copy of the key is the one to name.
        facts.choices.skip = HashSet::from([RelationId::new(2)]);
        assert!(foreign_keys(&facts)[0].message.starts_with("public.events_a is left behind"));
    }
}
