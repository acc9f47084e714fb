//! What a message says.
//!
//! Hazard: `xid` on a change is the *sub*transaction's and stands there only inside a streamed block;
//! outside one it is `None`, and the transaction is the one that `Begin` named.

use bytes::Bytes;

use super::tuple::{OldTuple, Tuple};
use crate::pg::{Lsn, Oid, PgTimestamp, RelationId, Xid};

/// `REPLICA IDENTITY` of a table, as its Relation message carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReplicaIdentity {
    /// `d`: the primary key.
    Default,
    /// `n`: nothing.
    Nothing,
    /// `f`: the whole old row.
    Full,
    /// `i`: a chosen unique index.
    Index,
}

/// A transaction begins; v1 sends it only once the transaction has committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// Start of the commit record.
    pub final_lsn: Lsn,
    /// When the source committed.
    pub commit_time: PgTimestamp,
    /// The transaction.
    pub xid: Xid,
}

/// The transaction that `Begin` opened is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// Zero so far: the decoder refuses any other value, as the built-in subscriber does.
    pub flags: u8,
    /// Start of the commit record: equal to `Begin::final_lsn`.
    pub commit_lsn: Lsn,
    /// The byte after the commit record: what progress is compared with.
    pub end_lsn: Lsn,
    /// When the source committed.
    pub commit_time: PgTimestamp,
}

/// Where a transaction came from, if not from this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Commit position on the origin.
    pub commit_lsn: Lsn,
    /// The origin's name.
    pub name: Bytes,
}

/// A table's shape, sent before its first change and after each change of shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// Inside a streamed block, the (sub)transaction that saw this shape.
    pub xid: Option<Xid>,
    /// The table, by its OID on the source.
    pub id: RelationId,
    /// Schema; `pg_catalog` travels as an empty string and is put back here.
    pub namespace: String,
    /// Table name.
    pub name: String,
    /// Which old values the source sends.
    pub replica_identity: ReplicaIdentity,
    /// Published columns, in the order of every tuple.
    pub columns: Vec<RelationColumn>,
}

/// One published column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationColumn {
    /// Whether it belongs to the replica identity.
    pub is_key: bool,
    /// Its name.
    pub name: String,
    /// Its type, by OID on the source.
    pub type_oid: Oid,
    /// `atttypmod`.
    pub type_modifier: i32,
}

/// The name of a type that is not built in. For a domain, its OID with the name of the type below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type {
    /// Inside a streamed block, the (sub)transaction.
    pub xid: Option<Xid>,
    /// OID on the source.
    pub oid: Oid,
    /// Schema.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// A row was inserted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Insert {
    /// Inside a streamed block, the (sub)transaction.
    pub xid: Option<Xid>,
    /// The table.
    pub relation: RelationId,
    /// The row.
    pub new: Tuple,
}

/// A row was updated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Inside a streamed block, the (sub)transaction.
    pub xid: Option<Xid>,
    /// The table.
    pub relation: RelationId,
    /// Present when the key changed, was TOASTed, or the identity is FULL.
    pub old: Option<OldTuple>,
    /// The new row.
    pub new: Tuple,
}

/// A row was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delete {
    /// Inside a streamed block, the (sub)transaction.
    pub xid: Option<Xid>,
    /// The table.
    pub relation: RelationId,
    /// The old row, or its key.
    pub old: OldTuple,
}

/// Tables were truncated by one statement (P41).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truncate {
    /// Inside a streamed block, the (sub)transaction.
    pub xid: Option<Xid>,
    /// `CASCADE`.
    pub cascade: bool,
    /// `RESTART IDENTITY`.
    pub restart_identity: bool,
    /// The tables, all of them.
    pub relations: Vec<RelationId>,
}

/// `pg_logical_emit_message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogicalMessage {
    /// Inside a streamed block, the top-level transaction, even when a subtransaction emitted it:
    /// no abort of that subtransaction can take it back.
    pub xid: Option<Xid>,
    /// Whether it belongs to the transaction around it.
    pub transactional: bool,
    /// Its position.
    pub lsn: Lsn,
    /// Its prefix.
    pub prefix: Bytes,
    /// Its content.
    pub content: Bytes,
}

/// A block of a transaction still in progress begins (v2+).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamStart {
    /// The top-level transaction.
    pub xid: Xid,
    /// Whether this is its first block.
    pub first_segment: bool,
}

/// A streamed transaction committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamCommit {
    /// The transaction.
    pub xid: Xid,
    /// Zero so far, as in [`Commit`].
    pub flags: u8,
    /// Start of the commit record.
    pub commit_lsn: Lsn,
    /// The byte after it.
    pub end_lsn: Lsn,
    /// When the source committed.
    pub commit_time: PgTimestamp,
}

/// A streamed transaction, or a subtransaction of it, was rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamAbort {
    /// The top-level transaction.
    pub xid: Xid,
    /// What was rolled back: equal to `xid` when it was all of it.
    pub subxid: Xid,
    /// Position and time of the abort (v4, `streaming 'parallel'`).
    pub abort: Option<(Lsn, PgTimestamp)>,
}

/// One pgoutput message (docs: `protocol-logicalrep-message-formats`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// `B`
    Begin(Begin),
    /// `C`
    Commit(Commit),
    /// `O`
    Origin(Origin),
    /// `R`
    Relation(Relation),
    /// `Y`
    Type(Type),
    /// `I`
    Insert(Insert),
    /// `U`
    Update(Update),
    /// `D`
    Delete(Delete),
    /// `T`
    Truncate(Truncate),
    /// `M`
    Logical(LogicalMessage),
    /// `S`
    StreamStart(StreamStart),
    /// `E`
    StreamStop,
    /// `c`
    StreamCommit(StreamCommit),
    /// `A`
    StreamAbort(StreamAbort),
}
