//! Publications: explicit lists of tables, made before the slot (P10).
//!
//! Hazard: publishing updates of a table that has no replica identity makes the *source application's*
//! UPDATE and DELETE fail at once (P06). Callers have checked that; this room never publishes
//! `FOR ALL TABLES`, which would also catch tables created later.

use std::collections::HashSet;

use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Identifier, QualifiedName, ServerVersion, quote_literal};
use crate::wire::Session;

/// What a publication publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishedActions {
    /// Everything the server can.
    All,
    /// `insert` and `truncate`: for tables whose rows have no identity and are only ever added.
    InsertOnly,
}

/// One entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishedTable {
    /// This table alone, not its inheritance children: they are listed themselves (P38).
    Only(QualifiedName),
    /// A partitioned table with every partition, those of the future included (P27, 13+).
    WithPartitions(QualifiedName),
}

/// A publication to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Its name.
    pub name: Identifier,
    /// What it publishes.
    pub actions: PublishedActions,
    /// The tables.
    pub tables: Vec<PublishedTable>,
}

/// With whose rights publications are made on this source (P05).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publisher {
    /// Ours: we own every table, or are superuser.
    Owner,
    /// The extension's: `aiven_extras.pg_create_publication`, which hands the publication over to us.
    AivenExtras,
}

impl Publication {
    /// The statement that makes it, without its tables.
    fn declaration(&self, version: ServerVersion) -> String {
        format!("CREATE PUBLICATION {} WITH (publish = '{}')", self.name, self.published(version))
    }

    /// The statement that adds its tables; `None` when there are none.
    fn addition(&self) -> Option<String> {
        let mut tables = String::new();
        for table in &self.tables {
            tables += if tables.is_empty() { " ADD TABLE " } else { ", " };
            tables += &match table {
                PublishedTable::Only(name) => format!("ONLY {name}"),
                PublishedTable::WithPartitions(name) => name.to_string(),
            };
        }
        (!tables.is_empty()).then(|| format!("ALTER PUBLICATION {}{tables}", self.name))
    }

    /// The call that makes it with `tables` through the extension, which takes one text for each table.
    fn call(&self, tables: &[PublishedTable], version: ServerVersion) -> String {
        let tables: Vec<String> = tables
            .iter()
            .map(|table| match table {
                PublishedTable::Only(name) | PublishedTable::WithPartitions(name) => {
                    quote_literal(&name.to_string())
                }
            })
            .collect();
        format!(
            "SELECT aiven_extras.pg_create_publication({}, '{}', VARIADIC ARRAY[{}]::pg_catalog.text[])",
            quote_literal(self.name.raw()),
            self.published(version),
            tables.join(", ")
        )
    }

    /// TRUNCATE is published from 11 on (P41).
    fn published(&self, version: ServerVersion) -> &'static str {
        match (self.actions, version.major()) {
            (PublishedActions::All, ..11) => "insert, update, delete",
            (PublishedActions::All, _) => "insert, update, delete, truncate",
            (PublishedActions::InsertOnly, ..11) => "insert",
            (PublishedActions::InsertOnly, _) => "insert, truncate",
        }
    }
}

/// Says with whose rights these tables can be published.
///
/// # Errors
/// `Check` when neither way is open to our role (P05), else as the server has it.
pub async fn publisher(source: &Session, tables: &[QualifiedName]) -> Result<Publisher> {
    let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
    let row = source
        .query_one(
            "SELECT coalesce(pg_catalog.bool_and(pg_catalog.pg_has_role(c.relowner, 'USAGE')), true)
                      AND pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'),
                    EXISTS (SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
                             WHERE n.nspname = 'aiven_extras' AND p.proname = 'pg_create_publication'
                               AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
                               AND pg_catalog.has_function_privilege(p.oid, 'EXECUTE'))
               FROM pg_catalog.unnest($1::text[]) AS named (name)
               JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(named.name)",
            &[&names],
        )
        .await
        .map_err(|error| Error::from_postgres("ask who may publish the tables", error))?;
    match (row.get(0), row.get(1)) {
        (true, _) => Ok(Publisher::Owner),
        (false, true) => Ok(Publisher::AivenExtras),
        (false, false) => Err(Error::new(ErrorKind::Check, "publish the source's tables").hint(
            "The source role must own every table it publishes and hold CREATE on the database, or have \
             aiven_extras there: CREATE EXTENSION aiven_extras CASCADE.",
        )),
    }
}

/// Creates it without its tables, and with `mark` as its comment, in one transaction.
///
/// # Errors
/// `Check` when rights are missing (P05), else as the server has it.
pub async fn declare_publication(
    source: &Session,
    publication: &Publication,
    version: ServerVersion,
    publisher: Publisher,
    mark: &str,
) -> Result<()> {
    let declare = match publisher {
        Publisher::Owner => publication.declaration(version),
        Publisher::AivenExtras => publication.call(&[], version),
    };
    // Several statements in one query are one transaction.
    let sql = format!("{declare}; {}", comment(publication, mark));
    source.batch_execute(&sql).await.map_err(|error| refused(publication, error))
}

/// Adds its tables. `lock_timeout` of the session bounds the wait for SHARE UPDATE EXCLUSIVE on each (P26).
///
/// The extension can only make a publication, and names a table without ONLY: there it is made anew, and
/// kept only if it publishes nothing beyond `moved`, and if we may drop it again.
///
/// # Errors
/// `Check` when rights are missing (P05) or more than `moved` would be published, else as the server has it.
pub async fn fill_publication(
    source: &Session,
    publication: &Publication,
    version: ServerVersion,
    publisher: Publisher,
    mark: &str,
    moved: &[QualifiedName],
) -> Result<()> {
    match publisher {
        Publisher::Owner => match publication.addition() {
            None => Ok(()),
            Some(add) => source.batch_execute(&add).await.map_err(|error| refused(publication, error)),
        },
        Publisher::AivenExtras => {
            let filled = fill_through_extension(source, publication, version, mark, moved).await;
            let end = if filled.is_ok() { "COMMIT" } else { "ROLLBACK" };
            let ended = source.batch_execute(end).await.map_err(|error| refused(publication, error));
            filled.and(ended)
        }
    }
}

async fn fill_through_extension(
    source: &Session,
    publication: &Publication,
    version: ServerVersion,
    mark: &str,
    moved: &[QualifiedName],
) -> Result<()> {
    let name = &publication.name;
    let make = publication.call(&publication.tables, version);
    let sql = format!("BEGIN; DROP PUBLICATION {name}; {make}; {}", comment(publication, mark));
    source.batch_execute(&sql).await.map_err(|error| refused(publication, error))?;
    let moved: HashSet<&QualifiedName> = moved.iter().collect();
    let published = published_tables(source, std::slice::from_ref(name)).await?;
    let mut more: Vec<String> =
        published.iter().filter(|table| !moved.contains(table)).map(QualifiedName::plain).collect();
    if more.is_empty() {
        return Ok(());
    }
    more.sort();
    Err(Error::new(ErrorKind::Check, format!("publish no other tables than those that move: {}", more.join(", "))).hint(
        "Through aiven_extras a table is published with all that inherit from it. Let these move, too, or connect \
         to the source as the tables' owner.",
    ))
}

/// Whoever may comment on it may drop it: a publication that stays another's is never kept (P30).
fn comment(publication: &Publication, mark: &str) -> String {
    format!("COMMENT ON PUBLICATION {} IS {}", publication.name, quote_literal(mark))
}

fn refused(publication: &Publication, error: tokio_postgres::Error) -> Error {
    let error = Error::from_postgres(format!("create publication {}", publication.name), error);
    if error.sqlstate() == Some(crate::pg::SqlState::INSUFFICIENT_PRIVILEGE) {
        return error.into_kind(ErrorKind::Check).hint(
            "The source role must own every table it publishes and hold CREATE on the database, or have \
             aiven_extras there.",
        );
    }
    error
}

/// A publication that the source has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundPublication {
    /// Its name.
    pub name: Identifier,
    /// Its comment.
    pub comment: Option<String>,
}

/// The publications of this database whose names begin with `prefix`.
///
/// # Errors
/// As the server has it.
pub async fn find_publications(source: &Session, prefix: &str) -> Result<Vec<FoundPublication>> {
    let rows = source
        .query(
            "SELECT pubname::text, pg_catalog.obj_description(oid, 'pg_publication')
               FROM pg_catalog.pg_publication
              WHERE pg_catalog.left(pubname::text, pg_catalog.length($1::text)) = $1 ORDER BY 1",
            &[&prefix],
        )
        .await
        .map_err(|error| Error::from_postgres("look for publications", error))?;
    let found = |row: &tokio_postgres::Row| FoundPublication {
        name: Identifier::new(row.get::<_, &str>(0)),
        comment: row.get(1),
    };
    Ok(rows.iter().map(found).collect())
}

/// The tables that the publications publish, partitions by their own names.
///
/// # Errors
/// As the server has it.
pub async fn published_tables(source: &Session, names: &[Identifier]) -> Result<HashSet<QualifiedName>> {
    let names: Vec<&str> = names.iter().map(Identifier::raw).collect();
    let rows = source
        .query(
            "SELECT schemaname::text, tablename::text FROM pg_catalog.pg_publication_tables
              WHERE pubname = ANY ($1)",
            &[&names],
        )
        .await
        .map_err(|error| Error::from_postgres("read what is published", error))?;
    Ok(rows.iter().map(|row| QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1))).collect())
}

/// Drops it if it is there.
///
/// # Errors
/// As the server has it.
pub async fn drop_publication(source: &Session, name: &Identifier) -> Result<()> {
    source
        .batch_execute(&format!("DROP PUBLICATION IF EXISTS {name}"))
        .await
        .map_err(|error| Error::from_postgres(format!("drop publication {name}"), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(actions: PublishedActions, tables: Vec<PublishedTable>) -> Publication {
        Publication { name: Identifier::new("p"), actions, tables }
    }

    fn two_tables() -> Vec<PublishedTable> {
        vec![
            PublishedTable::Only(QualifiedName::new("s", "T")),
            PublishedTable::WithPartitions(QualifiedName::new("s", "it's")),
        ]
    }

    #[test]
    fn adds_tables_one_by_one_and_partitions_by_their_root() {
        let expected = r#"ALTER PUBLICATION "p" ADD TABLE ONLY "s"."T", "s"."it's""#;
        let publication = publication(PublishedActions::All, two_tables());
        assert_eq!(publication.addition().as_deref(), Some(expected));
    }

    #[test]
    fn nothing_is_added_to_a_publication_without_tables() {
        assert_eq!(publication(PublishedActions::All, Vec::new()).addition(), None);
    }

    #[test]
    fn a_server_without_published_truncate_is_not_asked_for_it() {
        let growing = publication(PublishedActions::InsertOnly, Vec::new());
        let whole = publication(PublishedActions::All, Vec::new());
        for (publication, version, actions) in [
            (&growing, 100_023, "insert"),
            (&growing, 110_000, "insert, truncate"),
            (&whole, 100_023, "insert, update, delete"),
            (&whole, 150_000, "insert, update, delete, truncate"),
        ] {
            let expected = format!(r#"CREATE PUBLICATION "p" WITH (publish = '{actions}')"#);
            assert_eq!(publication.declaration(ServerVersion::new(version)), expected);
        }
    }

    #[test]
    fn the_extension_gets_one_quoted_text_for_each_table() {
        let publication = publication(PublishedActions::InsertOnly, two_tables());
        assert_eq!(
            publication.call(&publication.tables, ServerVersion::new(150_000)),
            "SELECT aiven_extras.pg_create_publication('p', 'insert, truncate', \
             VARIADIC ARRAY['\"s\".\"T\"', '\"s\".\"it''s\"']::pg_catalog.text[])"
        );
    }
}
