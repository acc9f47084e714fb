//! Which tables an option names: `orders`, `sales.orders`, `shop.sales.*`, `"Odd Name".t?`.
//!
//! Hazard: an option that names nothing is a typing error, and the table it meant would be moved, or
//! left behind, against the operator's word. So [`select`] refuses a selector without a match.
//! Rules are the server's (docs: `sql-syntax-lexical`): a bare part folds to lower case, a quoted one is
//! literal. `*` and `?` are patterns in bare parts only, as in psql's `\d`.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use crate::catalog::{Catalog, Reach};
use crate::error::{Error, ErrorKind, Result};
use crate::pg::{QualifiedName, RelationId};

/// One `[[database.]schema.]table` pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSelector {
    text: String,
    database: Option<Pattern>,
    schema: Option<Pattern>,
    table: Pattern,
}

/// One `[database.]name` pattern: of a schema or an extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameSelector {
    text: String,
    database: Option<Pattern>,
    name: Pattern,
}

/// Text that selects nothing by construction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSelector {
    /// `a.`, `..b`, `""`.
    #[error("an empty name in {0:?}")]
    EmptyPart(String),
    /// More than database, schema and table.
    #[error("more than three names in {0:?}: quote a name that holds a dot")]
    TooManyParts(String),
    /// More than a database and a name.
    #[error("more than two names in {0:?}: quote a name that holds a dot")]
    MoreThanTwoParts(String),
    /// A quote that is never closed.
    #[error("an unclosed double quote in {0:?}")]
    UnclosedQuote(String),
}

impl InvalidSelector {
    /// What is wrong, without the text, which may be a connection string typed in the wrong place.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        match self {
            InvalidSelector::EmptyPart(_) => "a name in it is empty",
            InvalidSelector::TooManyParts(_) => {
                "write at most database, schema and table, a name that holds a dot in double quotes"
            }
            InvalidSelector::MoreThanTwoParts(_) => {
                "write at most a database and a name, a name that holds a dot in double quotes"
            }
            InvalidSelector::UnclosedQuote(_) => "a double quote in it is not closed",
        }
    }
}

impl TableSelector {
    /// Whether a table of this name is meant, in a database that the selector [concerns](Self::concerns).
    #[must_use]
    pub fn matches(&self, name: &QualifiedName) -> bool {
        self.schema.as_ref().is_none_or(|schema| schema.matches(name.schema.raw()))
            && self.table.matches(name.name.raw())
    }

    /// Whether the selector speaks of this database; one that names no database speaks of every one.
    #[must_use]
    pub fn concerns(&self, database: &str) -> bool {
        self.database.as_ref().is_none_or(|pattern| pattern.matches(database))
    }

    /// Whether the selector names its database, so that what it names must be there.
    #[must_use]
    pub fn names_database(&self) -> bool {
        self.database.is_some()
    }
}

impl NameSelector {
    /// Whether a schema or extension of this name is meant, in a database that the selector
    /// [concerns](Self::concerns).
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.name.matches(name)
    }

    /// As [`TableSelector::concerns`].
    #[must_use]
    pub fn concerns(&self, database: &str) -> bool {
        self.database.as_ref().is_none_or(|pattern| pattern.matches(database))
    }

    /// As [`TableSelector::names_database`].
    #[must_use]
    pub fn names_database(&self) -> bool {
        self.database.is_some()
    }
}

impl fmt::Display for TableSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for NameSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for NameSelector {
    type Err = InvalidSelector;

    fn from_str(text: &str) -> Result<NameSelector, InvalidSelector> {
        let mut parts = split(text)?;
        let empty = || InvalidSelector::EmptyPart(text.to_owned());
        if parts.iter().any(|part| part.0.is_empty()) {
            return Err(empty());
        }
        let name = parts.pop().ok_or_else(empty)?;
        let database = parts.pop();
        if !parts.is_empty() {
            return Err(InvalidSelector::MoreThanTwoParts(text.to_owned()));
        }
        Ok(NameSelector { text: text.to_owned(), database, name })
    }
}

impl FromStr for TableSelector {
    type Err = InvalidSelector;

    fn from_str(text: &str) -> Result<TableSelector, InvalidSelector> {
        let mut parts = split(text)?;
        if parts.iter().any(|part| part.0.is_empty()) {
            return Err(InvalidSelector::EmptyPart(text.to_owned()));
        }
        let too_many = || InvalidSelector::TooManyParts(text.to_owned());
        let table = parts.pop().ok_or_else(|| InvalidSelector::EmptyPart(text.to_owned()))?;
        let schema = parts.pop();
        let database = parts.pop();
        if !parts.is_empty() {
            return Err(too_many());
        }
        Ok(TableSelector { text: text.to_owned(), database, schema, table })
    }
}

/// Cuts at the dots that stand outside quotes.
fn split(text: &str) -> Result<Vec<Pattern>, InvalidSelector> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut quote = Quote::Outside;
    let mut chars = text.trim().chars().peekable();
    while let Some(next) = chars.next() {
        match (quote, next) {
            (Quote::Inside, '"') if chars.next_if_eq(&'"').is_some() => part.push(Glob::Exactly('"')),
            (Quote::Inside, '"') => quote = Quote::Outside,
            (Quote::Inside, other) => part.push(Glob::Exactly(other)),
            (Quote::Outside, '"') => quote = Quote::Inside,
            (Quote::Outside, '.') => parts.push(Pattern(std::mem::take(&mut part))),
            (Quote::Outside, '*') => part.push(Glob::AnyRun),
            (Quote::Outside, '?') => part.push(Glob::AnyOne),
            (Quote::Outside, other) => part.push(Glob::Exactly(other.to_ascii_lowercase())),
        }
    }
    if quote == Quote::Inside {
        return Err(InvalidSelector::UnclosedQuote(text.to_owned()));
    }
    parts.push(Pattern(part));
    Ok(parts)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Quote {
    Outside,
    Inside,
}

/// One name with its wildcards.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern(Vec<Glob>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Glob {
    Exactly(char),
    AnyOne,
    AnyRun,
}

impl Pattern {
    /// Keeps the set of pattern positions that the text read so far can have reached.
    fn matches(&self, text: &str) -> bool {
        let mut reached = vec![false; self.0.len() + 1];
        reached[0] = true;
        self.slide(&mut reached);
        for letter in text.chars() {
            let mut next = vec![false; reached.len()];
            for (position, glob) in self.0.iter().enumerate().filter(|(position, _)| reached[*position]) {
                match glob {
                    Glob::Exactly(expected) => next[position + 1] |= *expected == letter,
                    Glob::AnyOne => next[position + 1] = true,
                    Glob::AnyRun => next[position] = true,
                }
            }
            self.slide(&mut next);
            reached = next;
        }
        reached.last().copied().unwrap_or(false)
    }

    /// A `*` may stand for nothing.
    fn slide(&self, reached: &mut [bool]) {
        for (position, glob) in self.0.iter().enumerate() {
            if *glob == Glob::AnyRun && reached[position] {
                reached[position + 1] = true;
            }
        }
    }
}

/// The tables that `selectors` name in this database; a partitioned table stands for its partitions too.
///
/// # Errors
/// `Usage` if a selector that concerns this database matches none of its tables, unless it may find them in
/// another database of the run.
pub fn select(selectors: &[TableSelector], reach: Reach, catalog: &Catalog) -> Result<HashSet<RelationId>> {
    let mut chosen = HashSet::new();
    for selector in selectors.iter().filter(|selector| selector.concerns(&catalog.database)) {
        let matched: Vec<RelationId> = catalog
            .tables
            .iter()
            .filter(|table| selector.matches(&table.name))
            .map(|table| table.oid)
            .collect();
        if matched.is_empty() && reach == Reach::Database {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("find a table that matches {selector} in database {}", catalog.database),
            )
            .hint(
                "Names fold to lower case unless double-quoted, as in SQL; `schema.*` names a whole schema.",
            ));
        }
        chosen.extend(matched);
    }
    with_partitions(&mut chosen, catalog);
    Ok(chosen)
}

/// The tables that any of the selectors matches.
pub(super) fn select_any<'a>(
    selectors: impl Iterator<Item = &'a TableSelector>,
    catalog: &Catalog,
) -> HashSet<RelationId> {
    let matched = |selector: &'a TableSelector| {
        catalog.tables.iter().filter(|table| selector.matches(&table.name)).map(|table| table.oid)
    };
    selectors.flat_map(matched).collect()
}

/// Adds the partitions of partitioned tables that are chosen, at every level below them.
pub(super) fn with_partitions(chosen: &mut HashSet<RelationId>, catalog: &Catalog) {
    // Partitions may be partitioned in turn; each round goes one level down, and levels are finite.
    loop {
        let below: Vec<RelationId> = catalog
            .tables
            .iter()
            .filter(|table| table.is_partition && !chosen.contains(&table.oid))
            .filter(|table| table.parents.iter().any(|parent| chosen.contains(parent)))
            .map(|table| table.oid)
            .collect();
        if below.is_empty() {
            return;
        }
        chosen.extend(below);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::testing::{catalog, table};

    fn matches(selector: &str, schema: &str, name: &str) -> bool {
        selector.parse::<TableSelector>().unwrap().matches(&QualifiedName::new(schema, name))
    }

    #[test]
    fn bare_names_fold_and_quoted_ones_do_not() {
        assert!(matches("Orders", "any", "orders"));
        assert!(!matches("Orders", "any", "Orders"));
        assert!(matches("\"Orders\"", "any", "Orders"));
        assert!(matches("S.\"a.\"\"b\"", "s", "a.\"b"));
        assert!(!matches("other.orders", "s", "orders"));
        // The server folds ASCII only in UTF8.
        assert!(matches("ÄB", "s", "Äb"));
    }

    #[test]
    fn patterns_stand_in_bare_parts_only() {
        assert!(matches("s.log_*", "s", "log_2026"));
        assert!(matches("*.t?", "s", "t1"));
        assert!(!matches("*.t?", "s", "t12"));
        assert!(matches("a*b*c", "s", "axxbxbxc"));
        assert!(!matches("a*b*c", "s", "axxbxbx"));
        assert!(matches("\"log_*\"", "s", "log_*"));
        assert!(!matches("\"log_*\"", "s", "log_1"));
    }

    #[test]
    fn a_database_narrows_the_selector() {
        let selector: TableSelector = "shop.s.t".parse().unwrap();
        assert!(selector.concerns("shop") && !selector.concerns("other"));
        assert!("s.t".parse::<TableSelector>().unwrap().concerns("other"));
    }

    #[test]
    fn malformed_selectors_are_refused() {
        for text in ["", ".", "a.", "\"\"", "a..b"] {
            assert!(matches!(text.parse::<TableSelector>(), Err(InvalidSelector::EmptyPart(_))), "{text:?}");
        }
        assert!(matches!("a.b.c.d".parse::<TableSelector>(), Err(InvalidSelector::TooManyParts(_))));
        assert!(matches!("\"a".parse::<TableSelector>(), Err(InvalidSelector::UnclosedQuote(_))));
        assert!(matches!("a.b.c".parse::<NameSelector>(), Err(InvalidSelector::MoreThanTwoParts(_))));
        assert!(matches!("a.".parse::<NameSelector>(), Err(InvalidSelector::EmptyPart(_))));
    }

    #[test]
    fn a_schema_is_named_as_a_table_is() {
        let selector: NameSelector = "Shop.\"Sales.EU\"".parse().unwrap();
        assert!(selector.matches("Sales.EU") && !selector.matches("sales.eu"));
        assert!(selector.concerns("shop") && !selector.concerns("other") && selector.names_database());
        assert!("log_*".parse::<NameSelector>().unwrap().matches("log_2026"));
    }

    #[test]
    fn a_partitioned_table_stands_for_its_partitions() {
        let mut leaf = table(3, "leaf");
        (leaf.is_partition, leaf.parents) = (true, vec![RelationId::new(2)]);
        let mut middle = table(2, "middle");
        (middle.is_partition, middle.parents) = (true, vec![RelationId::new(1)]);
        let catalog = catalog([table(1, "root"), middle, leaf, table(4, "apart")]);
        let chosen = select(&["root".parse().unwrap()], Reach::Database, &catalog).unwrap();
        assert_eq!(chosen, HashSet::from([1, 2, 3].map(RelationId::new)));
    }

    #[test]
    fn a_selector_without_a_match_is_a_usage_error() {
        let catalog = catalog([table(1, "orders")]);
        let error = select(&["order".parse().unwrap()], Reach::Database, &catalog).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(
            select(&["elsewhere.s.order".parse().unwrap()], Reach::Database, &catalog).unwrap().is_empty()
        );
        // Two selectors may name the same table.
        assert!(
            select(&["orders".parse().unwrap(), "o*".parse().unwrap()], Reach::Database, &catalog).is_ok()
        );
    }
}
