//! What a cleanup found, and what became of it.

use serde::Serialize;

use crate::error::{Error, Side, describe};

/// What became of a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It is there, and would be removed: only a list was wanted.
    Found,
    /// It is gone.
    Removed,
    /// It is there, and not ours to remove now; the message says why.
    Kept,
    /// It should have been removed, and is still there; the message says why.
    Remains,
}

/// What kind of thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A replication slot.
    Slot,
    /// A publication.
    Publication,
    /// A table set to REPLICA IDENTITY FULL.
    ReplicaIdentity,
    /// A session of an engine that is gone.
    Session,
    /// A role that ours on the target was made a member of.
    Membership,
    /// Changes on a local disk; they stand with the target, which knows of them.
    Spool,
    /// Schema `pgstream`, the state of a migration.
    Schema,
    /// A scratch database.
    Database,
}

impl Kind {
    /// For people.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Kind::Slot => "slot",
            Kind::Publication => "publication",
            Kind::ReplicaIdentity => "replica identity",
            Kind::Session => "session",
            Kind::Membership => "membership",
            Kind::Spool => "spooled changes",
            Kind::Schema => "schema",
            Kind::Database => "database",
        }
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// On which server.
    #[serde(serialize_with = "side_label")]
    pub side: Side,
    /// In which database.
    pub database: String,
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// The migration that made it, where that is known.
    pub migration: Option<String>,
    /// What became of it.
    pub status: Fate,
    /// Why, if there is something to say.
    pub message: Option<String>,
}

/// Something that could not be looked at or done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// On which server.
    #[serde(serialize_with = "side_label")]
    pub side: Side,
    /// In which database, where that matters.
    pub database: Option<String>,
    /// What we were doing, and every cause.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Trouble {
    pub(super) fn new(side: Side, database: Option<&str>, error: &Error) -> Trouble {
        Trouble {
            side,
            database: database.map(str::to_owned),
            message: describe(error),
            hint: error.advice().map(str::to_owned),
        }
    }
}

/// What a cleanup came to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    /// Whether nothing is left that should have been removed, as far as could be seen.
    pub ok: bool,
    /// Whether only a list was wanted.
    pub dry_run: bool,
    /// What was found.
    pub found: Vec<Item>,
    /// What could not be looked at or done.
    pub errors: Vec<Trouble>,
}

impl Report {
    /// Draws the conclusion.
    pub(super) fn concluded(mut self) -> Report {
        self.found.sort_by(|a, b| {
            (a.side as u8, &a.database, a.kind, &a.name).cmp(&(b.side as u8, &b.database, b.kind, &b.name))
        });
        self.ok = self.errors.is_empty() && self.found.iter().all(|item| item.status != Fate::Remains);
        self
    }
}

fn side_label<S: serde::Serializer>(side: &Side, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(side.label())
}
