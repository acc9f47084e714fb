//! Checks of what the source holds: what we may not see, what is left behind, and what travels another way.

use std::collections::{BTreeMap, HashSet};

use crate::catalog::{Persistence, Table, TableKind};
use crate::pg::{Identifier, RelationId};
use crate::precheck::facts::{Facts, RelationRights};
use crate::precheck::options::Method;
use crate::precheck::table::{Finding, NAMED, listing};

/// A choice, but one to be seen in the report: rows stay on the source.
pub(super) fn skipped(facts: &Facts) -> Vec<Finding> {
    let left = &facts.choices.left;
    let tables = facts.source.catalog.tables.iter();
    let skipped: Vec<String> = tables
        .filter(|table| left.rows.contains(&table.oid) && table.extension.is_none())
        .map(|table| table.name.plain())
        .collect();
    let mut found = Vec::new();
    if !skipped.is_empty() {
        let names = listing(skipped);
        found.push(Finding::warn(format!("Rows of {names} are not moved, as chosen; the definitions are.")));
    }
    for (kind, names) in [("schemas", &left.schemas), ("extensions", &left.extensions)] {
        if !names.is_empty() {
            let names = listing(names.iter().cloned());
            found
                .push(Finding::warn(format!("Left out, as chosen, with all their objects: {kind} {names}.")));
        }
    }
    found
}

/// P82, and for sequences P33. One finding per schema and kind, with one command for all it names.
pub(super) fn readable(facts: &Facts) -> Vec<Finding> {
    let raw = &facts.source.server.may.role;
    let role = Identifier::new(raw);
    let mut groups: BTreeMap<(&Identifier, bool), Vec<&RelationRights>> = BTreeMap::new();
    for right in facts.source.rights.iter().filter(|right| !right.is_readable) {
        let schema = right.name.schema.raw();
        // pg_dump locks, so must be able to read, whatever it describes: a table left without its rows, too.
        if !facts.choices.left.schemas.contains(schema) {
            groups.entry((&right.name.schema, right.is_sequence)).or_default().push(right);
        }
    }
    let finding = |((schema, is_sequence), rights): ((&Identifier, bool), Vec<&RelationRights>)| {
        let (what, kind) = if is_sequence { ("sequences", "SEQUENCE") } else { ("tables", "TABLE") };
        let names = listing(rights.iter().map(|right| right.name.plain()));
        let on = match rights.len() {
            ..=NAMED => {
                let each: Vec<String> = rights.iter().map(|right| right.name.to_string()).collect();
                format!("{kind} {}", each.join(", "))
            }
            _ => format!("ALL {kind}S IN SCHEMA {schema}"),
        };
        Finding::block(format!("Role {raw} may not read {what} {names}."))
            .fix(format!("GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT ON {on} TO {role};"))
    };
    groups.into_iter().map(finding).collect()
}

/// P53: without the bypass COPY fails, or with row_security on gives some of the rows.
pub(super) fn row_security(facts: &Facts) -> Vec<Finding> {
    let moved: HashSet<RelationId> = facts.moved_tables().map(|table| table.oid).collect();
    let hides = |right: &&RelationRights| right.hides_rows && moved.contains(&right.oid);
    let hidden: Vec<String> =
        facts.source.rights.iter().filter(hides).map(|right| right.name.plain()).collect();
    if hidden.is_empty() {
        return Vec::new();
    }
    let raw = &facts.source.server.may.role;
    let role = Identifier::new(raw);
    vec![
        Finding::block(format!("Row security hides rows of {} from role {raw}.", listing(hidden)))
            .fix(format!("ALTER ROLE {role} BYPASSRLS;")),
    ]
}

/// P34.
pub(super) fn large_objects(facts: &Facts) -> Vec<Finding> {
    match facts.source.catalog.large_objects {
        0 => Vec::new(),
        count => vec![Finding::warn(format!(
            "There are {count} large objects; the stream does not carry them, so they are copied at cutover, while \
             writes are stopped."
        ))],
    }
}

/// P34: neither `pg_read_all_data` nor a right on any table reads them.
pub(super) fn large_object_rights(facts: &Facts) -> Vec<Finding> {
    let raw = &facts.source.server.may.role;
    match facts.source.objects.unreadable_large_objects {
        0 => Vec::new(),
        count => vec![
            Finding::block(format!("Role {raw} may not read {count} large objects.")).fix(format!(
                "GRANT SELECT ON LARGE OBJECT … TO {}; for each of pg_largeobject_metadata, or membership in their \
                 owners' roles",
                Identifier::new(raw)
            )),
        ],
    }
}

/// P35.
pub(super) fn unlogged(facts: &Facts) -> Vec<Finding> {
    let unlogged = facts.moved_tables().filter(|table| table.persistence == Persistence::Unlogged);
    about(unlogged, |names| {
        format!(
            "{names} unlogged, so the stream does not carry changes: copied again at cutover, while writes are stopped."
        )
    })
}

/// P35.
pub(super) fn foreign_tables(facts: &Facts) -> Vec<Finding> {
    let foreign = facts.source.catalog.tables.iter().filter(|table| {
        table.kind == TableKind::Foreign
            && table.extension.is_none()
            && !facts.choices.skip.contains(&table.oid)
    });
    about(foreign, |names| {
        format!(
            "{names} foreign: the definition is carried over, the rows stay where they are; user mappings hold passwords that only you know."
        )
    })
}

/// P36.
pub(super) fn materialized_views(facts: &Facts) -> Vec<Finding> {
    let views = &facts.source.catalog.materialized_views;
    let left = &facts.choices.left.schemas;
    let populated: Vec<String> = views
        .iter()
        .filter(|view| view.is_populated && !left.contains(view.name.schema.raw()))
        .map(|view| view.name.plain())
        .collect();
    if populated.is_empty() {
        return Vec::new();
    }
    let when = match facts.choices.method {
        Method::Replication => "not streamed; they are refreshed on the target at cutover",
        Method::Dump => "not copied; they are refreshed on the target at the end",
    };
    vec![Finding::warn(format!("Materialized views are {when}, in this order: {}.", listing(populated)))]
}

/// One warning about several tables: "a, b are …", "a is …".
fn about<'a>(tables: impl Iterator<Item = &'a Table>, message: impl Fn(String) -> String) -> Vec<Finding> {
    let names: Vec<String> = tables.map(|table| table.name.plain()).collect();
    let verb = if names.len() == 1 { "is" } else { "are" };
    match names.is_empty() {
        true => Vec::new(),
        false => vec![Finding::warn(message(format!("{} {verb}", listing(names))))],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::MaterializedView;
    use crate::catalog::testing::{catalog, keyed};
    use crate::pg::{Oid, QualifiedName};
    use crate::precheck::report::Verdict;
    use crate::precheck::testing::{facts, rights, verdicts};

    fn with_tables(tables: impl IntoIterator<Item = Table>) -> Facts {
        let mut facts = facts();
        facts.source.catalog = catalog(tables);
        facts
    }

    #[test]
    fn tables_left_behind_are_said() {
        let mut facts = facts();
        assert_eq!(skipped(&facts), []);
        facts.choices.left.rows.insert(RelationId::new(1));
        assert_eq!(verdicts(skipped(&facts)), [Verdict::Warn]);
        facts.choices.left.schemas.insert("archive".to_owned());
        assert!(skipped(&facts)[1].message.ends_with("schemas archive."));
    }

    #[test]
    fn what_we_may_not_read_blocks_with_its_grant() {
        let mut facts = facts();
        facts.source.rights = vec![rights(1, "orders"), rights(9, "seq")];
        facts.source.rights[0].is_readable = false;
        (facts.source.rights[1].is_readable, facts.source.rights[1].is_sequence) = (false, true);
        let found = readable(&facts);
        assert_eq!(verdicts(found.clone()), [Verdict::Block, Verdict::Block]);
        assert!(
            found[0]
                .fix
                .as_deref()
                .unwrap()
                .contains("GRANT SELECT ON TABLE \"public\".\"orders\" TO \"mover\"")
        );
        assert!(found[1].fix.as_deref().unwrap().contains("ON SEQUENCE"));
        facts.choices.skip.insert(RelationId::new(1));
        assert_eq!(readable(&facts).len(), 2, "its definition is still to be read");
        facts.choices.left.schemas.insert("public".to_owned());
        assert_eq!(readable(&facts), []);
    }

    #[test]
    fn many_unreadable_tables_are_one_finding() {
        let mut facts = facts();
        facts.source.rights = (1..=30).map(|n| rights(n, &format!("t{n}"))).collect();
        facts.source.rights.iter_mut().for_each(|right| right.is_readable = false);
        let found = readable(&facts);
        assert_eq!(found.len(), 1);
        assert!(found[0].fix.as_deref().unwrap().contains("ON ALL TABLES IN SCHEMA \"public\""));
    }

    #[test]
    fn large_objects_have_rights_of_their_own() {
        let mut facts = facts();
        assert_eq!(large_object_rights(&facts), []);
        facts.source.objects.unreadable_large_objects = 2;
        assert_eq!(verdicts(large_object_rights(&facts)), [Verdict::Block]);
    }

    #[test]
    fn hidden_rows_block() {
        let mut facts = facts();
        facts.source.rights = vec![rights(1, "orders")];
        assert_eq!(row_security(&facts), []);
        facts.source.rights[0].hides_rows = true;
        assert_eq!(verdicts(row_security(&facts)), [Verdict::Block]);
    }

    #[test]
    fn what_the_stream_does_not_carry_is_said() {
        let unlogged_table = Table { persistence: Persistence::Unlogged, ..keyed(1, "cache") };
        let foreign = Table { kind: TableKind::Foreign, ..keyed(2, "remote") };
        let mut facts = with_tables([unlogged_table, foreign]);
        facts.source.catalog.large_objects = 3;
        facts.source.catalog.materialized_views = vec![MaterializedView {
            oid: Oid::new(5),
            name: QualifiedName::new("public", "m"),
            is_populated: true,
        }];
        for check in [large_objects, unlogged, foreign_tables, materialized_views] {
            assert_eq!(verdicts(check(&facts)), [Verdict::Warn]);
        }
        assert!(unlogged(&facts)[0].message.starts_with("public.cache is unlogged"));
        let sound = crate::precheck::testing::facts();
        for check in [large_objects, unlogged, foreign_tables, materialized_views] {
            assert_eq!(check(&sound), []);
        }
    }
}
