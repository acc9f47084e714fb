//! Tables that cannot tell their rows apart.
//!
//! Hazard: the moment such a table is published its UPDATE, DELETE and ON CONFLICT fail *on the source*,
//! for the application that knows nothing of us (P06). So each blocks until its owner has chosen.

use crate::catalog::{Generated, Index, IndexKind, RelReplIdent, Table};
use crate::precheck::facts::Facts;
use crate::precheck::options::FullIdentity;
use crate::precheck::table::{Finding, listing};

/// Rows from which on a search by the whole row is felt (P09).
const MANY_ROWS: f64 = 100_000.0;

/// One finding per table without a usable replica identity, and per choice that has a price.
pub(super) fn replica_identity(facts: &Facts) -> Vec<Finding> {
    facts.streamed_tables().filter_map(|table| judge(facts, table)).collect()
}

fn judge(facts: &Facts, table: &Table) -> Option<Finding> {
    if facts.choices.insert_only.contains(&table.oid) {
        return Some(insert_only(table));
    }
    match (obstacle(table), facts.choices.full) {
        (None, _) if table.replica_identity == RelReplIdent::Full => full_already(table),
        (None, _) => None,
        (Some(_), FullIdentity::Accepted) => Some(full_chosen(table)),
        (Some(obstacle), FullIdentity::Refused) => Some(blocked(table, obstacle)),
    }
}

/// Why the server would refuse UPDATE and DELETE of a published table, or send a useless key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    NoKey,
    DeferrableKey,
    InvalidKey,
    IdentityNothing,
    IdentityIndexLost,
    GeneratedKey,
}

impl Obstacle {
    fn reason(self) -> &'static str {
        match self {
            Obstacle::NoKey => "has no primary key",
            Obstacle::DeferrableKey => "has a DEFERRABLE primary key, which is not a replica identity",
            Obstacle::InvalidKey => "has an invalid primary key index",
            Obstacle::IdentityNothing => "has REPLICA IDENTITY NOTHING",
            Obstacle::IdentityIndexLost => "has a replica identity index that was dropped or is invalid",
            Obstacle::GeneratedKey => "is identified by a generated column, which is not published",
        }
    }

    fn consequence(self) -> &'static str {
        match self {
            // From 18 on the source refuses; before, it sends a key without the column that makes it one.
            Obstacle::GeneratedKey => "its changes would fail on the source, or name no row on the target",
            Obstacle::NoKey
            | Obstacle::DeferrableKey
            | Obstacle::InvalidKey
            | Obstacle::IdentityNothing
            | Obstacle::IdentityIndexLost => {
                "once published, UPDATE and DELETE on it would fail on the source"
            }
        }
    }
}

fn obstacle(table: &Table) -> Option<Obstacle> {
    if let Some(index) = table.identity_index() {
        return has_generated_column(table, index).then_some(Obstacle::GeneratedKey);
    }
    if !table.breaks_when_published() {
        return None;
    }
    let primary = table.indexes.iter().find(|index| index.kind == IndexKind::Primary);
    Some(match (table.replica_identity, primary) {
        (RelReplIdent::Nothing, _) => Obstacle::IdentityNothing,
        (RelReplIdent::Index, _) => Obstacle::IdentityIndexLost,
        (_, None) => Obstacle::NoKey,
        (_, Some(index)) if !index.is_immediate => Obstacle::DeferrableKey,
        (_, Some(_)) => Obstacle::InvalidKey,
    })
}

fn has_generated_column(table: &Table, index: &Index) -> bool {
    let generated = |number: &i16| {
        table.columns.iter().any(|column| column.number == *number && column.generated != Generated::No)
    };
    index.key.iter().any(generated)
}

fn blocked(table: &Table, obstacle: Obstacle) -> Finding {
    let name = table.name.plain();
    let word = shell_word(&name);
    let choices = format!("--replica-identity full, --insert-only {word} or --skip-table {word}");
    let message = format!("{name} {}: {}", obstacle.reason(), obstacle.consequence());
    match remedy(table) {
        Some(command) => {
            Finding::block(format!("{message}; instead of the fix, {choices} would do.")).fix(command)
        }
        None => Finding::block(format!("{message}, and no index of it qualifies as replica identity."))
            .fix(format!("Add a primary key, or run with {choices}")),
    }
}

/// The command that gives the table an identity with the indexes it has.
fn remedy(table: &Table) -> Option<String> {
    let eligible = || table.indexes.iter().filter(|index| index.is_identity_eligible);
    if eligible().any(|index| index.kind == IndexKind::Primary) {
        return Some(format!("ALTER TABLE {} REPLICA IDENTITY DEFAULT;", table.name));
    }
    let narrowest = eligible().min_by_key(|index| index.key.len())?;
    Some(format!("ALTER TABLE {} REPLICA IDENTITY USING INDEX {};", table.name, narrowest.name))
}

fn insert_only(table: &Table) -> Finding {
    Finding::warn(format!(
        "{} is published for INSERT and TRUNCATE only, as chosen: an UPDATE or DELETE on it does not reach the \
         target.",
        table.name.plain()
    ))
}

fn full_chosen(table: &Table) -> Finding {
    let finding = Finding::warn(format!(
        "{} gets REPLICA IDENTITY FULL, as chosen: setting it takes a brief ACCESS EXCLUSIVE lock, each old row \
         goes whole into the WAL{}.",
        table.name.plain(),
        search_cost(table)
    ));
    match remedy(table) {
        Some(command) => finding.fix(format!("Cheaper: {command}")),
        None => finding,
    }
}

/// A table that came with FULL is fine unless finding its rows is dear (P09).
fn full_already(table: &Table) -> Option<Finding> {
    let keyless = !table.indexes.iter().any(|index| index.is_identity_eligible);
    (keyless && table.rows_estimate > MANY_ROWS).then(|| {
        Finding::warn(format!(
            "{} has REPLICA IDENTITY FULL and no unique index: its old rows go whole into the WAL{}.",
            table.name.plain(),
            search_cost(table)
        ))
    })
}

/// What UPDATE and DELETE cost on the target.
fn search_cost(table: &Table) -> String {
    let odd: Vec<String> = table
        .columns
        .iter()
        .filter(|column| !column.has_equality)
        .map(|column| column.name.raw().to_owned())
        .collect();
    let rows = match table.rows_estimate {
        unknown if unknown < 0.0 => "its rows".to_owned(),
        rows => format!("about {rows:.0} rows"),
    };
    let compared =
        if odd.is_empty() { String::new() } else { format!(" ({} compared as text)", listing(odd)) };
    match table.indexes.iter().any(|index| index.is_identity_eligible) {
        true => String::new(),
        false => format!(", and each UPDATE or DELETE searches {rows} by all columns{compared}"),
    }
}

/// The word as a shell takes it.
fn shell_word(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
    if word.bytes().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::testing::{catalog, column, index, keyed, table};
    use crate::catalog::{Column, Persistence};
    use crate::precheck::report::Verdict;
    use crate::precheck::testing::{facts, verdicts};

    fn facts_with(table: Table) -> Facts {
        let mut facts = facts();
        facts.source.catalog = catalog([table]);
        facts
    }

    fn found(table: Table) -> Vec<Finding> {
        replica_identity(&facts_with(table))
    }

    #[test]
    fn each_obstacle_blocks_and_says_why() {
        let mut deferrable = keyed(1, "t");
        deferrable.indexes[0].is_immediate = false;
        deferrable.indexes[0].is_identity_eligible = false;
        let mut invalid = keyed(1, "t");
        invalid.indexes[0].is_valid = false;
        invalid.indexes[0].is_identity_eligible = false;
        let mut generated = keyed(1, "t");
        generated.columns[0].generated = Generated::Stored;
        generated.indexes[0].is_identity_eligible = false;
        let cases = [
            (table(1, "t"), "has no primary key"),
            (deferrable, "DEFERRABLE"),
            (invalid, "invalid primary key"),
            (generated, "generated column"),
            (Table { replica_identity: RelReplIdent::Nothing, ..keyed(1, "t") }, "REPLICA IDENTITY NOTHING"),
            (Table { replica_identity: RelReplIdent::Index, ..keyed(1, "t") }, "was dropped or is invalid"),
        ];
        for (table, reason) in cases {
            let found = found(table);
            assert_eq!(verdicts(found.clone()), [Verdict::Block], "{reason}");
            assert!(found[0].message.contains(reason), "{}", found[0].message);
            assert!(found[0].message.starts_with("public.t "));
            let fails = found[0].message.contains("UPDATE and DELETE on it would fail on the source");
            assert_eq!(fails, reason != "generated column");
        }
    }

    #[test]
    fn the_fix_names_the_narrowest_eligible_index() {
        let mut wide = index("wide", IndexKind::Unique);
        wide.key = vec![1, 2];
        let narrow = index("Narrow", IndexKind::Unique);
        let partial =
            Index { is_partial: true, is_identity_eligible: false, ..index("partial", IndexKind::Unique) };
        let found = found(Table { indexes: vec![partial, wide, narrow], ..table(1, "t") });
        assert_eq!(
            found[0].fix.as_deref(),
            Some("ALTER TABLE \"public\".\"t\" REPLICA IDENTITY USING INDEX \"Narrow\";")
        );
        assert!(found[0].message.contains("--skip-table public.t "));
    }

    #[test]
    fn a_key_that_nothing_hides_is_given_back() {
        let found = found(Table { replica_identity: RelReplIdent::Nothing, ..keyed(1, "t") });
        assert_eq!(found[0].fix.as_deref(), Some("ALTER TABLE \"public\".\"t\" REPLICA IDENTITY DEFAULT;"));
    }

    #[test]
    fn tables_that_are_not_streamed_do_not_matter() {
        assert_eq!(found(keyed(1, "t")), []);
        assert_eq!(found(Table { persistence: Persistence::Unlogged, ..table(1, "t") }), []);
        assert_eq!(found(Table { extension: Some("postgis".to_owned()), ..table(1, "t") }), []);
        let mut facts = facts_with(table(1, "t"));
        facts.choices.skip.insert(facts.source.catalog.tables[0].oid);
        assert_eq!(replica_identity(&facts), []);
    }

    #[test]
    fn choices_pass_and_name_their_price() {
        let mut keyless = table(1, "t");
        keyless.columns = vec![Column { has_equality: false, ..column(1, "doc") }];
        keyless.rows_estimate = 5000.0;
        let mut facts = facts_with(keyless);
        facts.choices.full = FullIdentity::Accepted;
        let found = replica_identity(&facts);
        assert_eq!(verdicts(found.clone()), [Verdict::Warn]);
        assert!(found[0].message.contains("about 5000 rows by all columns (doc compared as text)"));
        facts.choices.insert_only.insert(facts.source.catalog.tables[0].oid);
        assert!(replica_identity(&facts)[0].message.contains("INSERT and TRUNCATE only"));
    }

    #[test]
    fn full_without_any_key_is_felt_only_when_large() {
        let full =
            |rows_estimate| Table { replica_identity: RelReplIdent::Full, rows_estimate, ..table(1, "t") };
        assert_eq!(found(full(10.0)), []);
        assert_eq!(verdicts(found(full(1e6))), [Verdict::Warn]);
    }

    #[test]
    fn odd_names_survive_the_shell() {
        assert_eq!(shell_word("public.t"), "public.t");
        assert_eq!(shell_word("public.\"It's\""), "'public.\"It'\\''s\"'");
    }
}
