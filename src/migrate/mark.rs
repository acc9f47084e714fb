//! The mark on our publications: proof that they are ours, and a second journal. Pure.
//!
//! Hazard: the journal is on the target, and the target may be lost for good. Who then leaves the source's
//! tables at REPLICA IDENTITY FULL harms it for ever, and who sets back whatever is FULL harms it, too (P30).
//! So the comment of a publication says of which migration it is and what it has changed; it is written
//! before the change.

use serde::{Deserialize, Serialize};

use super::state::{Made, MigrationId};
use crate::pg::QualifiedName;

/// What every name of ours on a source begins with.
pub(super) const PREFIX: &str = "pgstream_";

/// What a migration writes on its publications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) id: MigrationId,
    pub(super) note: Note,
}

/// The part of a mark that is not for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// The cluster that the database moves to, where that may be known.
    pub(super) target_system: Option<String>,
    /// The database that it moves to.
    pub(super) target_database: String,
    /// Tables set to FULL.
    full: Vec<Full>,
}

/// A table set to FULL, and what sets it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Full {
    schema: String,
    table: String,
    before: String,
}

impl Mark {
    /// The mark of a migration that sets the identities among `made`.
    pub(super) fn new(
        id: MigrationId,
        target_system: Option<String>,
        target_database: &str,
        made: &[Made],
    ) -> Mark {
        let full = made.iter().filter_map(|made| match made {
            Made::ReplicaIdentity { table, before } => Some(Full {
                schema: table.schema.raw().to_owned(),
                table: table.name.raw().to_owned(),
                before: before.clone(),
            }),
            Made::Slot(_) | Made::Publication(_) => None,
        });
        let note = Note { target_system, target_database: target_database.to_owned(), full: full.collect() };
        Mark { id, note }
    }

    /// The comment: a line for people, a line for us.
    pub(super) fn comment(&self) -> String {
        let note = serde_json::to_string(&self.note).expect("plain data always serializes");
        format!("{}; `pgstream cleanup` removes it\n{note}", made_by(self.id.as_str()))
    }

    /// Reads the comment of the publication `name`; `None` unless it is a mark, and of that publication's migration.
    pub(super) fn read(name: &str, comment: &str) -> Option<Mark> {
        let id = migration_of(name)?;
        let (line, note) = comment.split_once('\n')?;
        let rest = line.strip_prefix(&made_by(id.as_str()))?;
        rest.starts_with(';').then_some(())?;
        Some(Mark { id, note: serde_json::from_str(note).ok()? })
    }

    /// The identities it tells of.
    pub(super) fn identities(&self) -> impl Iterator<Item = Made> + '_ {
        self.note.full.iter().map(|full| Made::ReplicaIdentity {
            table: QualifiedName::new(&full.schema, &full.table),
            before: full.before.clone(),
        })
    }
}

/// How the comment of anything of ours begins.
fn made_by(id: &str) -> String {
    format!("made by pgstream, migration {id}")
}

/// The migration that a slot or publication of exactly our form of name belongs to.
pub(super) fn migration_of(name: &str) -> Option<MigrationId> {
    let rest = name.strip_prefix(PREFIX)?;
    let id = rest.strip_suffix("_snapshot").or_else(|| rest.strip_suffix("_insert")).unwrap_or(rest);
    MigrationId::read(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark() -> Mark {
        let made = Made::ReplicaIdentity {
            table: QualifiedName::new("My \"odd\"\nschema", "ä"),
            before: "USING INDEX \"i\"".to_owned(),
        };
        let id = MigrationId::read("0123abcd").unwrap();
        Mark::new(id, Some("7391".to_owned()), "shop", &[made])
    }

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        let mark = mark();
        for name in ["pgstream_0123abcd", "pgstream_0123abcd_insert"] {
            assert_eq!(Mark::read(name, &mark.comment()), Some(mark.clone()));
        }
        assert!(mark.comment().starts_with("made by pgstream, migration 0123abcd; "));
        assert_eq!(mark.identities().count(), 1);
    }

    #[test]
    fn a_mark_of_another_publication_proves_nothing() {
        let comment = mark().comment();
        for name in ["pgstream_0123abce", "pgstream_cdc", "reporting", "pgstream_0123abcd_x", "pgstream_"] {
            assert_eq!(Mark::read(name, &comment), None, "{name}");
        }
    }

    #[test]
    fn what_is_no_mark_is_none() {
        for comment in
            ["", "made by pgstream, migration 0123abcd", "made by pgstream, migration 0123abcd; x\n{}"]
        {
            assert_eq!(Mark::read("pgstream_0123abcd", comment), None, "{comment}");
        }
    }

    #[test]
    fn only_exactly_our_form_of_name_is_of_a_migration() {
        for name in ["pgstream_0123abcd", "pgstream_0123abcd_snapshot", "pgstream_0123abcd_insert"] {
            assert_eq!(migration_of(name), MigrationId::read("0123abcd"), "{name}");
        }
        for name in ["pgstream_0123ABCD", "pgstream_0123abcde", "pgstream_check_0123abcd", "pgstream0123abcd"]
        {
            assert_eq!(migration_of(name), None, "{name}");
        }
    }
}
