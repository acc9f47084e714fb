//! What we make on the source, written down on the target before it is made.
//!
//! Hazard: a crash may come between the note and the deed, and between the deed and its undoing (P30). So an entry
//! says what may be there, and whoever undoes it finds it done, undone or half done.

use super::state::failed;
use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Identifier, QualifiedName, SlotName};
use crate::wire::Session;

/// Something on the source that is ours to undo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// A publication.
    Publication(Identifier),
    /// A replication slot.
    Slot(SlotName),
    /// `REPLICA IDENTITY FULL` on a table, with the clause that sets it back: `DEFAULT`, `USING INDEX "i"`.
    ReplicaIdentity {
        /// The table.
        table: QualifiedName,
        /// What it was.
        before: String,
    },
}

impl Made {
    /// Whether both are of one and the same object.
    pub(super) fn is_of_same_object(&self, other: &Made) -> bool {
        let ((kind, schema, name, _), (other_kind, other_schema, other_name, _)) =
            (self.columns(), other.columns());
        (kind, schema, name) == (other_kind, other_schema, other_name)
    }

    fn columns(&self) -> (&'static str, &str, &str, &str) {
        match self {
            Made::Publication(name) => ("publication", "", name.raw(), ""),
            Made::Slot(name) => ("slot", "", name.as_str(), ""),
            Made::ReplicaIdentity { table, before } => {
                ("replica_identity", table.schema.raw(), table.name.raw(), before)
            }
        }
    }

    fn from_columns(kind: &str, schema: &str, name: &str, detail: &str) -> Option<Made> {
        match kind {
            "publication" => Some(Made::Publication(Identifier::new(name))),
            "slot" => name.parse().ok().map(Made::Slot),
            "replica_identity" => Some(Made::ReplicaIdentity {
                table: QualifiedName::new(schema, name),
                before: detail.to_owned(),
            }),
            _ => None,
        }
    }
}

/// Writes down what is about to be made on the source, before it is made.
///
/// # Errors
/// `Connect` or `Sql`.
pub async fn journal(target: &Session, made: &Made) -> Result<()> {
    let (kind, schema, name, detail) = made.columns();
    // What a table's identity was before is what it was before the *first* time.
    target
        .execute(
            "INSERT INTO pgstream.journal (kind, schema_name, object_name, detail)
             VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            &[&kind, &schema, &name, &detail],
        )
        .await
        .map(drop)
        .map_err(failed("write the journal"))
}

/// What has been made on the source, latest first.
///
/// # Errors
/// `Connect` or `Sql`; `State` for an entry of a kind that we do not know.
pub async fn journalled(target: &Session) -> Result<Vec<Made>> {
    let rows = target
        .query("SELECT kind, schema_name, object_name, detail FROM pgstream.journal ORDER BY seq DESC", &[])
        .await
        .map_err(failed("read the journal"))?;
    rows.iter()
        .map(|row| {
            Made::from_columns(row.get(0), row.get(1), row.get(2), row.get(3))
                .ok_or_else(|| Error::new(ErrorKind::State, "read the journal"))
        })
        .collect()
}

/// Forgets an entry that was undone.
///
/// # Errors
/// `Connect` or `Sql`.
pub async fn forget(target: &Session, made: &Made) -> Result<()> {
    let (kind, schema, name, _) = made.columns();
    target
        .execute(
            "DELETE FROM pgstream.journal WHERE kind = $1 AND schema_name = $2 AND object_name = $3",
            &[&kind, &schema, &name],
        )
        .await
        .map(drop)
        .map_err(failed("write the journal"))
}
