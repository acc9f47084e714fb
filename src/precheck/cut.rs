//! What the filters cut through: objects that are carried and need something that is not.
//!
//! Hazard: a definition that needs what is left out does not restore, and a view over a table without rows
//! restores and is wrong. What would not be there for rows to go into blocks; the rest is said.

use std::collections::BTreeMap;

use crate::catalog::{Cause, Dependent, DependentKind, ExtensionRows, Table};
use crate::precheck::facts::Facts;
use crate::precheck::table::{Finding, listing};

/// What needs an object of a schema that is left out.
pub(super) fn schemas(facts: &Facts) -> Vec<Finding> {
    needing(facts, Cause::Schema)
        .into_iter()
        .map(|(needs, dependents)| {
            Finding::block(format!("Of what is moved, {} cannot be without {needs}, whose schema is left out.", names(&dependents)))
                .fix("Move that schema too, or leave out the schemas of all that needs it, or drop what needs it on the source.")
        })
        .collect()
}

/// What needs an extension that is left out, those extensions included that go with it.
pub(super) fn extensions(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    let left = &facts.choices.left.extensions;
    for extension in facts.source.catalog.extensions.iter().filter(|one| left.contains(&one.name)) {
        let needed: Vec<&String> = extension.requires.iter().filter(|name| left.contains(*name)).collect();
        if let Some(needed) = needed.first() {
            let name = &extension.name;
            found.push(Finding::warn(format!("Extension {name} needs {needed}, and is left out with it.")));
        }
    }
    for (needs, dependents) in needing(facts, Cause::Extension) {
        let (tables, others): (Vec<&Dependent>, Vec<&Dependent>) =
            dependents.into_iter().partition(|one| one.kind == DependentKind::Table);
        if !tables.is_empty() {
            let message = format!(
                "Of what is moved, {} cannot be without {needs}, whose extension is left out.",
                names(&tables)
            );
            let fix = "Move the extension too, or leave the schemas of these tables out with --exclude-schema, or alter \
                       the tables on the source.";
            found.push(Finding::block(message).fix(fix));
        }
        if !others.is_empty() {
            found.push(Finding::warn(format!(
                "{} cannot be without {needs}, whose extension is left out: it is not carried over.",
                names(&others)
            )));
        }
    }
    found
}

/// Views over tables that will be empty, and trees of tables of which some rows are not there.
pub(super) fn views(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    let views: Vec<&Dependent> =
        facts.source.dependents.iter().filter(|one| one.cause == Cause::Rows).collect();
    if !views.is_empty() {
        found.push(Finding::warn(format!(
            "Rows that are not moved will be missing from what is seen on the target through {}.",
            names(&views)
        )));
    }
    let tables = facts.source.catalog.by_oid();
    let mut below: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let left = |table: &Table| facts.choices.skip.contains(&table.oid) && table.extension.is_none();
    for table in facts.source.catalog.tables.iter().filter(|table| left(table)) {
        let parents = table.parents.iter().filter_map(|oid| tables.get(oid));
        for parent in parents.filter(|parent| !facts.choices.skip.contains(&parent.oid)) {
            below.entry(parent.name.plain()).or_default().push(table.name.plain());
        }
    }
    found.extend(below.into_iter().map(|(parent, children)| {
        Finding::warn(format!(
            "{parent} is moved without {}: on the target it shows none of the rows there.",
            listing(children)
        ))
    }));
    found
}

/// P44: what users put into extensions' tables is not streamed.
pub(super) fn extension_rows(facts: &Facts) -> Vec<Finding> {
    let is_carried = |extension: &String, oid| {
        !facts.choices.left.extensions.contains(extension) && !facts.choices.left.rows.contains(oid)
    };
    let tables: Vec<String> = facts
        .source
        .configuration
        .iter()
        .filter(|one| is_carried(&one.extension, &one.oid))
        .map(|one| one.name.plain())
        .collect();
    if tables.is_empty() {
        return Vec::new();
    }
    let finding = match facts.choices.extension_rows {
        ExtensionRows::Carried => Finding::warn(format!(
            "Extensions keep what users tell them in {}; that is not streamed, but copied before the tables and \
             again at cutover, while writes are stopped.",
            listing(tables)
        )),
        ExtensionRows::LeftOut => Finding::warn(format!(
            "What users have told extensions stays behind, as chosen: their rows in {}.",
            listing(tables)
        )),
    };
    vec![finding]
}

/// Dependents by what they need.
fn needing(facts: &Facts, cause: Cause) -> BTreeMap<&str, Vec<&Dependent>> {
    let mut groups: BTreeMap<&str, Vec<&Dependent>> = BTreeMap::new();
    for one in facts.source.dependents.iter().filter(|one| one.cause == cause) {
        groups.entry(&one.needs).or_default().push(one);
    }
    groups
}

fn names(dependents: &[&Dependent]) -> String {
    listing(dependents.iter().map(|one| one.object.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::testing::{catalog, keyed};
    use crate::catalog::{Configuration, ConfigurationKind, Extension};
    use crate::pg::{QualifiedName, RelationId};
    use crate::precheck::report::Verdict;
    use crate::precheck::testing::{facts, verdicts};
    use std::collections::{BTreeSet, HashSet};

    fn dependent(object: &str, kind: DependentKind, cause: Cause) -> Dependent {
        Dependent { object: object.to_owned(), kind, cause, needs: "type x".to_owned() }
    }

    #[test]
    fn what_needs_a_schema_left_out_blocks() {
        let mut facts = facts();
        assert_eq!(schemas(&facts), []);
        facts.source.dependents = vec![
            dependent("view app.v", DependentKind::View, Cause::Schema),
            dependent("table app.t", DependentKind::Table, Cause::Schema),
        ];
        let found = schemas(&facts);
        assert_eq!(verdicts(found.clone()), [Verdict::Block]);
        assert!(found[0].message.contains("view app.v, table app.t cannot be without type x"), "{found:?}");
        assert_eq!((extensions(&facts), views(&facts)), (vec![], vec![]));
    }

    #[test]
    fn a_table_needs_its_extension_and_a_view_goes_with_it() {
        let mut facts = facts();
        facts.source.dependents = vec![dependent("table app.t", DependentKind::Table, Cause::Extension)];
        assert_eq!(verdicts(extensions(&facts)), [Verdict::Block]);
        facts.source.dependents = vec![dependent("index app.i", DependentKind::Other, Cause::Extension)];
        assert_eq!(verdicts(extensions(&facts)), [Verdict::Warn]);
        facts.source.dependents.clear();
        facts.choices.left.extensions = BTreeSet::from(["cube".to_owned(), "earthdistance".to_owned()]);
        let (public, cube) = ("public".to_owned(), "cube".to_owned());
        facts.source.catalog.extensions = vec![
            Extension { name: cube.clone(), schema: public.clone(), requires: vec![] },
            Extension { name: "earthdistance".to_owned(), schema: public, requires: vec![cube] },
        ];
        assert_eq!(
            extensions(&facts)[0].message,
            "Extension earthdistance needs cube, and is left out with it."
        );
    }

    #[test]
    fn a_tree_with_a_gap_is_said() {
        let mut facts = facts();
        let mut child = keyed(2, "child");
        child.parents = vec![RelationId::new(1)];
        facts.source.catalog = catalog([keyed(1, "parent"), child]);
        assert_eq!(views(&facts), []);
        facts.choices.skip = HashSet::from([RelationId::new(2)]);
        assert!(views(&facts)[0].message.starts_with("public.parent is moved without public.child"));
        facts.choices.skip.insert(RelationId::new(1));
        assert_eq!(views(&facts), []);
    }

    #[test]
    fn what_extensions_keep_is_said() {
        let mut facts = facts();
        facts.source.configuration = vec![Configuration {
            extension: "gis".to_owned(),
            oid: RelationId::new(7),
            name: QualifiedName::new("public", "spatial_ref_sys"),
            kind: ConfigurationKind::Sequence,
        }];
        assert!(extension_rows(&facts)[0].message.contains("again at cutover"));
        facts.choices.extension_rows = ExtensionRows::LeftOut;
        assert!(extension_rows(&facts)[0].message.contains("stays behind"));
        facts.choices.left.extensions.insert("gis".to_owned());
        assert_eq!(extension_rows(&facts), []);
    }
}
