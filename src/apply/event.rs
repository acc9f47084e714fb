//! What the assembler tells the planner: committed transactions, one after another.

use crate::pg::{Lsn, PgTimestamp, RelationId, Xid};
use crate::pgoutput::{OldTuple, Relation, Truncate, Tuple, Type};

/// A transaction that committed on the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SourceTransaction {
    /// Its top-level xid.
    pub(super) xid: Xid,
    /// *Start* of its commit record.
    pub(super) final_lsn: Lsn,
    /// When it committed, by the source's clock.
    pub(super) commit_time: PgTimestamp,
}

/// A row's change as the source sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RowEvent {
    Insert { new: Tuple },
    Update { old: Option<OldTuple>, new: Tuple },
    Delete { old: OldTuple },
}

/// One step of the stream of committed transactions.
///
/// ```text
///   Begin (Type | Relation | Row | Truncate)* Commit
/// ```
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Event {
    Begin(SourceTransaction),
    Type(Type),
    Relation(Relation),
    Row { relation: RelationId, row: RowEvent },
    Truncate(Truncate),
    Commit { end_lsn: Lsn },
}
