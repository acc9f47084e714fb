//! Which tables move, and how each is published. Pure.
//!
//! Hazard: a table that is neither published nor copied is lost, one that is published twice is doubled.
//! Every table of the catalog gets exactly one lot here.

use std::collections::HashSet;

use crate::catalog::{
    self, Catalog, Filters, IndexKind, LeftBehind, Persistence, RelReplIdent, Table, TableKind,
};
use crate::error::Result;
use crate::pg::{QualifiedName, RelationId};
use crate::precheck::{FullIdentity, IdentityChoice};
use crate::replication::{Publication, PublishedActions, PublishedTable};

use super::state::{Made, MigrationId};

/// What the operator decided about tables without a usable identity, and about what is left behind.
#[derive(Debug, Clone)]
pub struct Wishes {
    /// What becomes of tables that have no identity and no wish of their own.
    pub full: FullIdentity,
    /// Publish inserts and truncates only.
    pub insert_only: HashSet<RelationId>,
    /// What is not moved.
    pub left: LeftBehind,
}

impl Wishes {
    /// Finds the tables that the choices name.
    ///
    /// # Errors
    /// `Usage` for a name that fits no table.
    pub fn of(choice: &IdentityChoice, filters: &Filters, catalog: &Catalog) -> Result<Wishes> {
        Ok(Wishes {
            full: choice.full,
            insert_only: catalog::select(&choice.insert_only, filters.reach, catalog)?,
            left: filters.resolve(catalog)?,
        })
    }
}

/// The lots.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Tables whose rows are copied and whose changes are applied.
    pub moved: Vec<QualifiedName>,
    /// Published with everything.
    pub published: Vec<PublishedTable>,
    /// Published with inserts and truncates only.
    pub insert_only: Vec<PublishedTable>,
    /// Identities to set to FULL before publishing.
    pub made_full: Vec<Made>,
    /// Tables that would be published although their UPDATE and DELETE would then fail on the source (P06):
    /// nothing may be published as long as there are any.
    pub breaking: Vec<QualifiedName>,
    /// What is carried as a definition only, and why.
    pub definitions_only: Vec<(QualifiedName, &'static str)>,
}

/// Casts the lots.
#[must_use]
pub fn select(catalog: &Catalog, wishes: &Wishes) -> Selection {
    let mut selection = Selection::default();
    let mut whole_roots = HashSet::new();
    if catalog.version.major() >= 13 {
        whole_roots = catalog
            .tables
            .iter()
            .filter(|table| {
                table.kind == TableKind::Partitioned && !table.is_partition && table.extension.is_none()
            })
            // A partition made tomorrow inherits the root's primary key, and nothing else that identifies rows.
            .filter(|table| table.identity_index().is_some_and(|index| index.kind == IndexKind::Primary))
            .map(|table| table.oid)
            .collect();
        // A root is published as a whole only if all its leaves share its lot.
        for table in &catalog.tables {
            let apart = table.kind == TableKind::Foreign
                || table.persistence == Persistence::Unlogged
                || table.extension.is_some()
                || wishes.left.has(table.oid)
                || wishes.insert_only.contains(&table.oid);
            if let Some(root) = root_of(catalog, table).filter(|_| apart) {
                whole_roots.remove(&root);
            }
        }
    }
    for table in &catalog.tables {
        if table.extension.is_some() || wishes.left.definitions.contains(&table.oid) {
            continue;
        }
        match table.kind {
            TableKind::Foreign => {
                selection
                    .definitions_only
                    .push((table.name.clone(), "a foreign table holds no rows of its own"));
            }
            TableKind::Partitioned => {
                if whole_roots.contains(&table.oid) {
                    selection.published.push(PublishedTable::WithPartitions(table.name.clone()));
                }
            }
            TableKind::Ordinary if wishes.left.rows.contains(&table.oid) => {
                selection.definitions_only.push((table.name.clone(), "left behind, as chosen"));
            }
            TableKind::Ordinary if table.persistence == Persistence::Unlogged => {
                // Copied at the cutover: nothing of it is in the stream (P35).
            }
            TableKind::Ordinary => {
                selection.moved.push(table.name.clone());
                let entry = PublishedTable::Only(table.name.clone());
                if wishes.insert_only.contains(&table.oid) {
                    selection.insert_only.push(entry);
                    continue;
                }
                if table.breaks_when_published() {
                    match wishes.full {
                        FullIdentity::Accepted => selection.made_full.push(Made::ReplicaIdentity {
                            table: table.name.clone(),
                            before: identity_clause(table),
                        }),
                        FullIdentity::Refused => selection.breaking.push(table.name.clone()),
                    }
                }
                if !root_of(catalog, table).is_some_and(|root| whole_roots.contains(&root)) {
                    selection.published.push(entry);
                }
            }
        }
    }
    selection
}

impl Selection {
    /// The publications to make, for a server of that version. The second only if it has tables.
    #[must_use]
    pub fn publications(&self, id: &MigrationId) -> Vec<Publication> {
        let mut publications = vec![Publication {
            name: id.publication(),
            actions: PublishedActions::All,
            tables: self.published.clone(),
        }];
        if !self.insert_only.is_empty() {
            publications.push(Publication {
                name: id.insert_publication(),
                actions: PublishedActions::InsertOnly,
                tables: self.insert_only.clone(),
            });
        }
        publications
    }
}

/// The topmost partitioned table above a partition.
fn root_of(catalog: &Catalog, table: &Table) -> Option<RelationId> {
    let mut current = table;
    let mut root = None;
    while current.is_partition {
        let parent = current.parents.first().and_then(|parent| catalog.table(*parent))?;
        root = Some(parent.oid);
        current = parent;
    }
    root
}

fn identity_clause(table: &Table) -> String {
    match table.replica_identity {
        RelReplIdent::Default => "DEFAULT".to_owned(),
        RelReplIdent::Nothing => "NOTHING".to_owned(),
        RelReplIdent::Full => "FULL".to_owned(),
        // An index that is no longer fit; naming it again may fail, and then says so.
        RelReplIdent::Index => table
            .indexes
            .iter()
            .find(|index| index.is_replica_identity)
            .map_or_else(|| "DEFAULT".to_owned(), |index| format!("USING INDEX {}", index.name)),
    }
}
