//! What of a database is moved, as the operator said it, and what that comes to in one database. Pure.
//!
//! Hazard: what is left behind by mistake is found missing after the cutover. So there are two ways to leave
//! something behind, and no third:
//! - `--skip-table` and `--with-table` speak of rows: every definition is carried, so that whatever refers to
//!   such a table still stands, and its rows are not;
//! - `--exclude-schema`, `--include-schema` and `--excluded-extensions` leave out definitions and rows alike; an
//!   extension whose schema is left out, or that needs one that is left out, goes with it.
//!
//! A selector that names nothing is refused, and what others still need of what is left out is a check.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Display;

use serde_json::{Value, json};

use crate::catalog::selector::{NameSelector, TableSelector, select_any, with_partitions};
use crate::catalog::{Catalog, Extension, Table};
use crate::error::{Error, ErrorKind, Result};
use crate::pg::RelationId;

/// Options that leave rows behind, and every definition as it is.
const ROWS_ONLY: [&str; 2] = ["--with-table", "--skip-table"];

/// What is moved of each database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filters {
    /// `--include-schema`: if any concerns a database, only these of its schemas are moved.
    pub include_schemas: Vec<NameSelector>,
    /// `--exclude-schema`: these are not, whatever else names them.
    pub exclude_schemas: Vec<NameSelector>,
    /// `--with-table`: if any concerns a database, only the rows of these of its tables are moved.
    pub with_tables: Vec<TableSelector>,
    /// `--skip-table`: the rows of these are not.
    pub skip_tables: Vec<TableSelector>,
    /// `--excluded-extensions`.
    pub excluded_extensions: Vec<NameSelector>,
    /// `--no-replicate-extension-tables`.
    pub extension_rows: ExtensionRows,
    /// `--no-owner`.
    pub owners: Owners,
    /// How many databases the selectors speak of.
    pub reach: Reach,
}

/// Whether rows that users put into extensions' configuration tables are carried (P44).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExtensionRows {
    /// They are.
    #[default]
    Carried,
    /// The target has what CREATE EXTENSION puts there.
    LeftOut,
}

/// Who owns what is created on the target. Grants are carried either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Owners {
    /// The roles that own it on the source.
    #[default]
    Kept,
    /// The role that we connect as.
    Dropped,
}

/// Where a selector without a database must find something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// One database is moved: every selector must name something in it.
    #[default]
    Database,
    /// Several are: one that names a database must name something there, any other somewhere
    /// ([`Filters::without_match`] tells, database by database, which has found nothing).
    Cluster,
}

/// What the filters leave behind in one database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeftBehind {
    /// Schemas that are left out.
    pub schemas: BTreeSet<String>,
    /// Extensions that are left out.
    pub extensions: BTreeSet<String>,
    /// Tables whose definitions are left out with their rows.
    pub definitions: HashSet<RelationId>,
    /// Tables of which nothing but the definition is carried.
    pub rows: HashSet<RelationId>,
}

impl LeftBehind {
    /// Whether no row of that table is moved.
    #[must_use]
    pub fn has(&self, table: RelationId) -> bool {
        self.rows.contains(&table) || self.definitions.contains(&table)
    }

    /// Every table of which no row is moved.
    #[must_use]
    pub fn tables(&self) -> HashSet<RelationId> {
        self.rows.union(&self.definitions).copied().collect()
    }

    /// Whether everything is moved.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.schemas.is_empty() && self.extensions.is_empty() && self.rows.is_empty()
    }
}

impl Filters {
    /// Whether that schema of that database is left out, definitions and all.
    #[must_use]
    pub fn leaves_out_schema(&self, database: &str, schema: &str) -> bool {
        let mut included = concerning(&self.include_schemas, database).peekable();
        let wanted = included.peek().is_none() || included.any(|selector| selector.matches(schema));
        !wanted || concerning(&self.exclude_schemas, database).any(|selector| selector.matches(schema))
    }

    /// Whether that extension, with its objects in `schema`, is left out on its own account.
    #[must_use]
    pub fn leaves_out_extension(&self, database: &str, extension: &str, schema: &str) -> bool {
        // Not its objects but the extension lives in a schema of the system, which is always there.
        let homeless = !schema.starts_with("pg_") && self.leaves_out_schema(database, schema);
        homeless
            || concerning(&self.excluded_extensions, database).any(|selector| selector.matches(extension))
    }

    /// What is left behind in this database.
    ///
    /// # Errors
    /// `Usage` for a selector that names nothing though it must.
    pub fn resolve(&self, catalog: &Catalog) -> Result<LeftBehind> {
        let lost = self.without_match(catalog).into_iter().find(|lost| match self.reach {
            Reach::Database => true,
            Reach::Cluster => lost.must_be_here,
        });
        if let Some(lost) = lost {
            return Err(lost.into_error(&format!("database {}", catalog.database)));
        }
        let database = &catalog.database;
        let schemas: BTreeSet<String> = catalog
            .schemas
            .iter()
            .filter(|schema| self.leaves_out_schema(database, schema))
            .cloned()
            .collect();
        let extensions = self.extensions_left_out(catalog);
        let is_out = |table: &Table| {
            schemas.contains(table.name.schema.raw())
                || table.extension.as_ref().is_some_and(|extension| extensions.contains(extension))
        };
        let definitions: HashSet<RelationId> =
            catalog.tables.iter().filter(|table| is_out(table)).map(|table| table.oid).collect();
        let mut rows = select_any(concerned(&self.skip_tables, database), catalog);
        with_partitions(&mut rows, catalog);
        if self.with_tables.iter().any(|selector| selector.concerns(database)) {
            let mut wanted = select_any(concerned(&self.with_tables, database), catalog);
            with_partitions(&mut wanted, catalog);
            rows.extend(catalog.tables.iter().map(|table| table.oid).filter(|oid| !wanted.contains(oid)));
        }
        rows.retain(|oid| !definitions.contains(oid));
        Ok(LeftBehind { schemas, extensions, definitions, rows })
    }

    /// The extensions that are left out, those included that need one of them.
    fn extensions_left_out(&self, catalog: &Catalog) -> BTreeSet<String> {
        let named = |one: &&Extension| self.leaves_out_extension(&catalog.database, &one.name, &one.schema);
        let mut out: BTreeSet<String> =
            catalog.extensions.iter().filter(named).map(|one| one.name.clone()).collect();
        loop {
            let needs_one = |one: &&Extension| one.requires.iter().any(|needed| out.contains(needed));
            let more: Vec<String> = catalog
                .extensions
                .iter()
                .filter(|one| !out.contains(&one.name))
                .filter(needs_one)
                .map(|one| one.name.clone())
                .collect();
            if more.is_empty() {
                return out;
            }
            out.extend(more);
        }
    }

    /// Selectors that name nothing in this database.
    #[must_use]
    pub fn without_match(&self, catalog: &Catalog) -> Vec<WithoutMatch> {
        let database = catalog.database.as_str();
        let mut lost = Vec::new();
        for (selectors, option, kind, names) in [
            (&self.include_schemas, "--include-schema", "schema", &catalog.schemas),
            (&self.exclude_schemas, "--exclude-schema", "schema", &catalog.schemas),
            (
                &self.excluded_extensions,
                "--excluded-extensions",
                "extension",
                &catalog.extensions.iter().map(|one| one.name.clone()).collect(),
            ),
        ] {
            for selector in selectors {
                let concerns = selector.concerns(database);
                if !(concerns && names.iter().any(|name| selector.matches(name))) {
                    let must_be_here = concerns && selector.names_database();
                    lost.push(WithoutMatch { option, kind, selector: selector.to_string(), must_be_here });
                }
            }
        }
        for (selectors, option) in [(&self.with_tables, "--with-table"), (&self.skip_tables, "--skip-table")]
        {
            for selector in selectors {
                let concerns = selector.concerns(database);
                if !(concerns && catalog.tables.iter().any(|table| selector.matches(&table.name))) {
                    let must_be_here = concerns && selector.names_database();
                    let selector = selector.to_string();
                    lost.push(WithoutMatch { option, kind: "table", selector, must_be_here });
                }
            }
        }
        lost
    }

    /// The choice as a document of one form, to be kept and compared; what names the same in another order is
    /// the same.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "--include-schema": texts(&self.include_schemas),
            "--exclude-schema": texts(&self.exclude_schemas),
            "--with-table": texts(&self.with_tables),
            "--skip-table": texts(&self.skip_tables),
            "--excluded-extensions": texts(&self.excluded_extensions),
            "--no-replicate-extension-tables": self.extension_rows == ExtensionRows::LeftOut,
            "--no-owner": self.owners == Owners::Dropped,
        })
    }

    /// Whether the choice differs from one kept earlier at most in whose rows are moved.
    #[must_use]
    pub fn carries_definitions_of(&self, earlier: &Value) -> bool {
        let now = self.to_json();
        let options = now.as_object().into_iter().flatten();
        options
            .filter(|(option, _)| !ROWS_ONLY.contains(&option.as_str()))
            .all(|(option, value)| earlier.get(option) == Some(value))
    }

    /// How the choice differs from one kept earlier: one clause per option, none if they are the same.
    #[must_use]
    pub fn changes_since(&self, earlier: &Value) -> Vec<String> {
        let (now, nothing) = (self.to_json(), Value::Null);
        let options = now.as_object().into_iter().flatten();
        options
            .map(|(option, value)| (option, earlier.get(option).unwrap_or(&nothing), value))
            .filter(|(_, before, value)| before != value)
            .map(|(option, before, value)| format!("{option} was {} and is {}", shown(before), shown(value)))
            .collect()
    }
}

/// A selector that names nothing in a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WithoutMatch {
    /// The option it was given to.
    pub option: &'static str,
    /// What it should name.
    pub kind: &'static str,
    /// As it was written.
    pub selector: String,
    /// Whether it names this very database.
    pub must_be_here: bool,
}

impl WithoutMatch {
    /// The usage error that it is; `place` is where nothing was found: "database shop", "any database".
    #[must_use]
    pub fn into_error(self, place: &str) -> Error {
        let WithoutMatch { option, kind, selector, .. } = self;
        let article = if kind.starts_with('e') { "an" } else { "a" };
        Error::new(
            ErrorKind::Usage,
            format!("find {article} {kind} that matches {selector} of {option} in {place}"),
        )
        .hint("Names fold to lower case unless double-quoted, as in SQL; * and ? are patterns.")
    }
}

fn concerning<'a>(
    selectors: &'a [NameSelector],
    database: &'a str,
) -> impl Iterator<Item = &'a NameSelector> {
    selectors.iter().filter(move |selector| selector.concerns(database))
}

fn concerned<'a>(
    selectors: &'a [TableSelector],
    database: &'a str,
) -> impl Iterator<Item = &'a TableSelector> {
    selectors.iter().filter(move |selector| selector.concerns(database))
}

fn texts(selectors: &[impl Display]) -> BTreeSet<String> {
    selectors.iter().map(ToString::to_string).collect()
}

fn shown(value: &Value) -> String {
    match value {
        Value::Array(names) if names.is_empty() => "not given".to_owned(),
        Value::Array(names) => {
            let name = |name: &Value| name.as_str().unwrap_or_default().to_owned();
            names.iter().map(name).collect::<Vec<_>>().join(",")
        }
        Value::Bool(true) => "given".to_owned(),
        _ => "not given".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::testing::{catalog, table};
    use crate::pg::QualifiedName;

    fn names<T: std::str::FromStr<Err: std::fmt::Debug>>(list: &[&str]) -> Vec<T> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn sales() -> Catalog {
        let mut old = table(3, "old");
        old.name = QualifiedName::new("archive", "old");
        let mut member = table(4, "spatial");
        member.extension = Some("gis".to_owned());
        let mut catalog = catalog([table(1, "orders"), table(2, "items"), old, member]);
        catalog.schemas = names(&["archive", "public"]);
        let extension = |name: &str, schema: &str, requires: &[&str]| Extension {
            name: name.to_owned(),
            schema: schema.to_owned(),
            requires: names(requires),
        };
        catalog.extensions = vec![
            extension("gis", "public", &[]),
            extension("gis_more", "public", &["gis"]),
            extension("trgm", "archive", &[]),
        ];
        catalog
    }

    fn oids<const N: usize>(oids: [u32; N]) -> HashSet<RelationId> {
        oids.map(RelationId::new).into()
    }

    #[test]
    fn nothing_said_leaves_nothing_behind() {
        assert!(Filters::default().resolve(&sales()).unwrap().is_nothing());
    }

    #[test]
    fn a_schema_goes_with_its_definitions_and_its_extensions() {
        for filters in [
            Filters { exclude_schemas: names(&["ARCH*"]), ..Filters::default() },
            Filters { include_schemas: names(&["public"]), ..Filters::default() },
            Filters {
                include_schemas: names(&["*"]),
                exclude_schemas: names(&["archive"]),
                ..Filters::default()
            },
        ] {
            let left = filters.resolve(&sales()).unwrap();
            assert_eq!((left.definitions.clone(), left.rows.clone()), (oids([3]), oids([])), "{filters:?}");
            assert_eq!(left.extensions, BTreeSet::from(["trgm".to_owned()]));
        }
    }

    #[test]
    fn tables_are_chosen_or_left_with_their_definitions() {
        let skip = Filters { skip_tables: names(&["o*"]), ..Filters::default() };
        assert_eq!(skip.resolve(&sales()).unwrap().rows, oids([1, 3]));
        let with = Filters { with_tables: names(&["public.orders"]), ..Filters::default() };
        assert_eq!(with.resolve(&sales()).unwrap().rows, oids([2, 3, 4]));
        let both = Filters { exclude_schemas: names(&["archive"]), ..skip };
        let left = both.resolve(&sales()).unwrap();
        assert_eq!(
            (left.definitions.clone(), left.rows.clone(), left.tables()),
            (oids([3]), oids([1]), oids([1, 3]))
        );
    }

    #[test]
    fn an_extension_takes_along_what_needs_it() {
        let filters = Filters { excluded_extensions: names(&["gis"]), ..Filters::default() };
        let left = filters.resolve(&sales()).unwrap();
        assert_eq!(left.extensions, names(&["gis", "gis_more"]).into_iter().collect());
        assert_eq!(left.definitions, oids([4]));
    }

    #[test]
    fn a_selector_that_names_nothing_is_refused() {
        for filters in [
            Filters { include_schemas: names(&["publik"]), ..Filters::default() },
            Filters { exclude_schemas: names(&["other.public"]), ..Filters::default() },
            Filters { with_tables: names(&["order"]), ..Filters::default() },
            Filters { skip_tables: names(&["archive.orders"]), ..Filters::default() },
            Filters { excluded_extensions: names(&["postgis"]), ..Filters::default() },
        ] {
            assert_eq!(filters.resolve(&sales()).unwrap_err().kind(), ErrorKind::Usage, "{filters:?}");
        }
    }

    #[test]
    fn in_a_cluster_only_a_named_database_must_have_it() {
        let cluster =
            |skip: &[&str]| Filters { skip_tables: names(skip), reach: Reach::Cluster, ..Filters::default() };
        assert!(cluster(&["order", "elsewhere.public.order"]).resolve(&sales()).unwrap().is_nothing());
        assert!(cluster(&["shop.public.order"]).resolve(&sales()).is_err());
        assert_eq!(cluster(&["order", "items"]).without_match(&sales()).len(), 1);
        // Tables wanted elsewhere only: none of this database's.
        let with = Filters { with_tables: names(&["order"]), ..cluster(&[]) };
        assert_eq!(with.resolve(&sales()).unwrap().rows, oids([1, 2, 3, 4]));
        let elsewhere = Filters { with_tables: names(&["elsewhere.public.order"]), ..cluster(&[]) };
        assert!(elsewhere.resolve(&sales()).unwrap().is_nothing());
    }

    #[test]
    fn a_choice_is_known_again_in_any_order() {
        let first = Filters { skip_tables: names(&["a", "b"]), ..Filters::default() };
        let again = Filters { skip_tables: names(&["b", "a", "b"]), ..Filters::default() };
        assert!(again.changes_since(&first.to_json()).is_empty());
        let other = Filters { owners: Owners::Dropped, ..Filters::default() };
        assert_eq!(
            other.changes_since(&first.to_json()),
            ["--no-owner was not given and is given", "--skip-table was a,b and is not given"]
        );
    }
}
