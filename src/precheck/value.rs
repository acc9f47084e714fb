//! Checks of values and features that mean something else on the target, or nothing any more.

use crate::catalog::Column;
use crate::precheck::facts::Facts;
use crate::precheck::table::{Finding, listing};

/// P60: such a value names an object of the source. Text travels by name, numbers do not travel at all.
pub(super) fn object_references(facts: &Facts) -> Vec<Finding> {
    let named = |column: &Column| is_builtin(column, |name| name.starts_with("reg") || name == "aclitem");
    // Where there are large objects a column of OIDs most likely holds theirs, and they keep them (P34).
    let numbers = facts.source.catalog.large_objects == 0;
    let numbered = |column: &Column| numbers && is_builtin(column, |name| name == "oid");
    let mut found = Vec::new();
    let by_name = columns(facts, named);
    if !by_name.is_empty() {
        found.push(Finding::warn(format!(
            "These columns hold names of objects or roles; one that the target does not have stops the copy: {}.",
            listing(by_name)
        )));
    }
    let by_number = columns(facts, numbered);
    if !by_number.is_empty() {
        found.push(Finding::warn(format!(
            "These columns hold OIDs; those of catalog objects mean something else on the target: {}.",
            listing(by_number)
        )));
    }
    found
}

/// P65, P80: what a newer server no longer knows.
pub(super) fn retired(facts: &Facts) -> Vec<Finding> {
    let target = facts.target.server.may.version.major();
    let objects = &facts.source.objects;
    let mut found = Vec::new();
    let mut gone = |since: u32, what: Vec<String>, message: &str, fix: &str| {
        if target >= since && !what.is_empty() {
            found.push(
                Finding::block(format!(
                    "{message}, which PostgreSQL {since} did away with: {}.",
                    listing(what)
                ))
                .fix(fix),
            );
        }
    };
    let times =
        |column: &Column| is_builtin(column, |name| matches!(name, "abstime" | "reltime" | "tinterval"));
    gone(
        12,
        columns(facts, times),
        "Columns are of types",
        "ALTER TABLE … ALTER COLUMN … TYPE timestamptz; or interval, or tstzrange, on the source",
    );
    gone(
        12,
        objects.with_oids.iter().map(|table| table.plain()).collect(),
        "Tables have hidden OIDs",
        "ALTER TABLE … SET WITHOUT OIDS; on the source, after copying them into a column of their own if they are used",
    );
    gone(
        10,
        columns(facts, |column| is_builtin(column, |name| name == "unknown")),
        "Columns are of type unknown",
        "ALTER TABLE … ALTER COLUMN … TYPE text; on the source",
    );
    gone(
        14,
        objects.postfix_operators.clone(),
        "Operators stand behind their operand",
        "DROP OPERATOR …; on the source, and call the function",
    );
    found
}

fn is_builtin(column: &Column, is: impl Fn(&str) -> bool) -> bool {
    column.type_name.schema.raw() == "pg_catalog" && is(column.type_name.name.raw())
}

/// `public.t.c`, for the columns of moved tables that are so.
fn columns(facts: &Facts, is: impl Fn(&Column) -> bool) -> Vec<String> {
    let mut names = Vec::new();
    for table in facts.moved_tables() {
        let found = table.columns.iter().filter(|column| is(column));
        names.extend(found.map(|column| format!("{}.{}", table.name.plain(), column.name.raw())));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::testing::{catalog, column, table};
    use crate::pg::{QualifiedName, ServerVersion};
    use crate::precheck::report::Verdict;
    use crate::precheck::testing::{facts, verdicts};

    fn with_column(type_name: &str) -> Facts {
        let mut facts = facts();
        let mut table = table(1, "t");
        table.columns =
            vec![Column { type_name: QualifiedName::new("pg_catalog", type_name).into(), ..column(1, "c") }];
        facts.source.catalog = catalog([table]);
        facts
    }

    #[test]
    fn names_and_numbers_of_objects_are_said() {
        assert!(object_references(&with_column("regclass"))[0].message.contains("public.t.c"));
        let mut numbers = with_column("oid");
        assert_eq!(verdicts(object_references(&numbers)), [Verdict::Warn]);
        numbers.source.catalog.large_objects = 1;
        assert_eq!(object_references(&numbers), []);
        assert_eq!(object_references(&with_column("int4")), []);
    }

    #[test]
    fn what_is_gone_blocks_from_the_version_on_that_did_away_with_it() {
        let mut facts = with_column("abstime");
        facts.source.objects.postfix_operators = vec!["!!!".to_owned()];
        facts.source.objects.with_oids = vec![QualifiedName::new("public", "t")];
        for (major, expected) in [(11, 0), (12, 2), (14, 3)] {
            facts.target.server.may.version = ServerVersion::new(major * 10_000);
            assert_eq!(verdicts(retired(&facts)), vec![Verdict::Block; expected], "{major}");
        }
        assert_eq!(retired(&with_column("timestamptz")), []);
        assert_eq!(verdicts(retired(&with_column("unknown"))), [Verdict::Block]);
    }
}
