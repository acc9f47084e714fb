//! Checks of constraints, triggers and indexes that do not travel as one would think.

use std::collections::HashSet;

use crate::catalog::{Table, TableKind};
use crate::pg::{QualifiedName, RelationId};
use crate::precheck::facts::Facts;
use crate::precheck::table::{Finding, listing};

/// P50.
pub(super) fn not_valid(facts: &Facts) -> Vec<Finding> {
    let left: HashSet<&QualifiedName> = facts
        .source
        .catalog
        .tables
        .iter()
        .filter(|table| facts.choices.skip.contains(&table.oid))
        .map(|table| &table.name)
        .collect();
    let constraints = facts.source.objects.not_valid.iter().filter(|(table, _)| !left.contains(table));
    let each: Vec<String> = constraints.map(|(table, name)| format!("{name} of {}", table.plain())).collect();
    if each.is_empty() {
        return Vec::new();
    }
    vec![
        Finding::warn(format!(
            "Constraints were never validated, so rows may break them; they stay NOT VALID on the target: {}.",
            listing(each)
        ))
        .fix("ALTER TABLE … VALIDATE CONSTRAINT …; on the source, to know"),
    ]
}

/// P51, P52.
pub(super) fn ordering(facts: &Facts) -> Vec<Finding> {
    let streamed: HashSet<RelationId> = facts.streamed_tables().map(|table| table.oid).collect();
    let constraints = facts.source.objects.ordering.iter().filter(|one| streamed.contains(&one.table));
    let each: Vec<String> = constraints
        .map(|one| {
            let kind = if one.is_exclusion { "exclusion" } else { "deferrable" };
            format!("{} of {} ({kind})", one.constraint, one.name.plain())
        })
        .collect();
    if each.is_empty() {
        return Vec::new();
    }
    vec![Finding::warn(format!(
        "Under these constraints rows cannot be written in any order, so changes to their tables are applied one by \
         one, more slowly than others: {}.",
        listing(each)
    ))]
}

/// P47.
pub(super) fn replica_triggers(facts: &Facts) -> Vec<Finding> {
    let with_triggers = facts.moved_tables().filter(|table| !table.replica_triggers.is_empty());
    let each: Vec<String> = with_triggers
        .map(|table| {
            let names: Vec<&str> = table.replica_triggers.iter().map(|trigger| trigger.raw()).collect();
            format!("{} of {}", names.join(", "), table.name.plain())
        })
        .collect();
    if each.is_empty() {
        return Vec::new();
    }
    vec![
        Finding::warn(format!(
            "ALWAYS and REPLICA triggers would fire again for what the source has already done; the target gets them \
             at the cutover, so until then it does without: {}.",
            listing(each)
        ))
        .fix("If a trigger need not be of that kind: ALTER TABLE … ENABLE TRIGGER …; on the source"),
    ]
}

/// P76: `pg_dump` leaves them out without a word.
pub(super) fn invalid_indexes(facts: &Facts) -> Vec<Finding> {
    let ordinary = facts.moved_tables().filter(|table| table.kind == TableKind::Ordinary);
    let invalid = |table: &Table| {
        let broken = table.indexes.iter().filter(|index| !index.is_valid);
        let schema = table.name.schema.clone();
        broken
            .map(move |index| QualifiedName { schema: schema.clone(), name: index.name.clone() })
            .collect::<Vec<_>>()
    };
    let names: Vec<QualifiedName> = ordinary.flat_map(invalid).collect();
    let Some(first) = names.first() else { return Vec::new() };
    vec![
        Finding::warn(format!(
            "Invalid indexes are not carried over: {}.",
            listing(names.iter().map(QualifiedName::plain))
        ))
        .fix(format!("REINDEX INDEX {first}; or DROP INDEX {first}; on the source, and so for each")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::testing::{catalog, index, keyed};
    use crate::catalog::{Index, IndexKind, Persistence};
    use crate::pg::Identifier;
    use crate::precheck::objects::OrderingConstraint;
    use crate::precheck::report::Verdict;
    use crate::precheck::testing::{facts, verdicts};

    #[test]
    fn what_was_never_validated_is_said_unless_it_is_left_behind() {
        let mut facts = facts();
        facts.source.objects.not_valid =
            vec![(QualifiedName::new("public", "orders"), "positive".to_owned())];
        assert!(not_valid(&facts)[0].message.contains("positive of public.orders"));
        facts.choices.skip.insert(RelationId::new(1));
        assert_eq!(not_valid(&facts), []);
    }

    #[test]
    fn order_matters_for_streamed_tables_only() {
        let mut facts = facts();
        facts.source.objects.ordering = vec![OrderingConstraint {
            table: RelationId::new(1),
            name: QualifiedName::new("public", "orders"),
            constraint: "no_overlap".to_owned(),
            is_exclusion: true,
        }];
        assert!(ordering(&facts)[0].message.contains("no_overlap of public.orders (exclusion)"));
        facts.source.catalog.tables[0].persistence = Persistence::Unlogged;
        assert_eq!(ordering(&facts), []);
    }

    #[test]
    fn triggers_that_fire_regardless_are_named() {
        let mut facts = facts();
        assert_eq!(replica_triggers(&facts), []);
        facts.source.catalog.tables[0].replica_triggers = vec![Identifier::new("audit")];
        assert!(replica_triggers(&facts)[0].message.contains("audit of public.orders"));
    }

    #[test]
    fn invalid_indexes_are_named_with_their_schema() {
        let mut facts = facts();
        assert_eq!(invalid_indexes(&facts), []);
        let mut table = keyed(1, "orders");
        table.indexes.push(Index { is_valid: false, ..index("half", IndexKind::Plain) });
        facts.source.catalog = catalog([table]);
        let found = invalid_indexes(&facts);
        assert!(found[0].fix.as_deref().unwrap().starts_with("REINDEX INDEX \"public\".\"half\";"));
        assert_eq!(verdicts(found), [Verdict::Warn]);
    }
}
