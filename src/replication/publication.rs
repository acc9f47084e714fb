//! Publications: explicit lists of tables, made before the slot (P10).
//!
//! Hazard: publishing updates of a table that has no replica identity makes the *source application's*
//! UPDATE and DELETE fail at once (P06). Callers have checked that; this room never publishes
//! `FOR ALL TABLES`, which would also catch tables created later.

use std::collections::HashSet;

use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Identifier, QualifiedName, ServerVersion};
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

impl Publication {
    /// The statement that makes it, for a server of that version.
    #[must_use]
    pub fn sql(&self, version: ServerVersion) -> String {
        let mut tables = String::new();
        for table in &self.tables {
            tables += if tables.is_empty() { " FOR TABLE " } else { ", " };
            tables += &match table {
                PublishedTable::Only(name) => format!("ONLY {name}"),
                PublishedTable::WithPartitions(name) => name.to_string(),
            };
        }
        // TRUNCATE is published from 11 on (P41).
        let actions = match (self.actions, version.major()) {
            (PublishedActions::All, ..11) => "insert, update, delete",
            (PublishedActions::All, _) => "insert, update, delete, truncate",
            (PublishedActions::InsertOnly, ..11) => "insert",
            (PublishedActions::InsertOnly, _) => "insert, truncate",
        };
        format!("CREATE PUBLICATION {}{tables} WITH (publish = '{actions}')", self.name)
    }
}

/// Creates it. `lock_timeout` of the session bounds the wait for SHARE UPDATE EXCLUSIVE on each table (P26).
///
/// # Errors
/// `Check` when rights are missing (P05), else as the server has it.
pub async fn create_publication(
    source: &Session,
    publication: &Publication,
    version: ServerVersion,
) -> Result<()> {
    source.batch_execute(&publication.sql(version)).await.map_err(|error| {
        let error = Error::from_postgres(format!("create publication {}", publication.name), error);
        if error.sqlstate() == Some(crate::pg::SqlState::INSUFFICIENT_PRIVILEGE) {
            return error
                .into_kind(ErrorKind::Check)
                .hint("The source role must own every table it publishes and hold CREATE on the database.");
        }
        error
    })
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

    #[test]
    fn lists_tables_one_by_one_and_partitions_by_their_root() {
        let publication = Publication {
            name: Identifier::new("p"),
            actions: PublishedActions::All,
            tables: vec![
                PublishedTable::Only(QualifiedName::new("s", "T")),
                PublishedTable::WithPartitions(QualifiedName::new("s", "parted")),
            ],
        };
        assert_eq!(
            publication.sql(ServerVersion::new(150_000)),
            r#"CREATE PUBLICATION "p" FOR TABLE ONLY "s"."T", "s"."parted" WITH (publish = 'insert, update, delete, truncate')"#
        );
    }

    #[test]
    fn a_server_without_published_truncate_is_not_asked_for_it() {
        let empty = Publication {
            name: Identifier::new("p"),
            actions: PublishedActions::InsertOnly,
            tables: Vec::new(),
        };
        assert_eq!(
            empty.sql(ServerVersion::new(100_023)),
            r#"CREATE PUBLICATION "p" WITH (publish = 'insert')"#
        );
    }
}
