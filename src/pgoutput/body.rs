//! The fields of each message, after its tag.
//!
//! Hazard: flags and kinds without a meaning are refused, never masked out: a new bit may change what the
//! rest means. Every reader ends with `finish`, so that no byte goes unread.

use bytes::{Buf, Bytes};

use super::decode::Block;
use super::error::DecodeError;
use super::message::{
    Begin, Commit, Delete, Insert, LogicalMessage, Message, Origin, Relation, RelationColumn,
    ReplicaIdentity, StreamAbort, StreamCommit, StreamStart, Truncate, Type, Update,
};
use super::reader::{Reader, TupleSpan};
use super::tuple::{OldTuple, Tuple};
use crate::pg::{Oid, RelationId, Xid};

/// Bit of a relation's column: part of the replica identity.
pub(super) const COLUMN_IS_KEY: u8 = 1;
/// Bit of a truncate: `CASCADE`.
pub(super) const TRUNCATE_CASCADE: u8 = 1;
/// Bit of a truncate: `RESTART IDENTITY`.
pub(super) const TRUNCATE_RESTART_IDENTITY: u8 = 2;
/// Bit of a logical message: belongs to its transaction.
pub(super) const MESSAGE_TRANSACTIONAL: u8 = 1;

impl TupleSpan {
    /// The tuple, when more of the message is needed after it.
    fn of(self, message: &Bytes) -> Tuple {
        Tuple::checked(self.columns, message.slice(self.bytes))
    }

    /// The tuple that ends the message, which it takes over: no reference is counted up and down.
    #[inline]
    fn last_of(self, mut message: Bytes) -> Tuple {
        message.advance(self.bytes.start);
        Tuple::checked(self.columns, message)
    }
}

#[inline]
pub(super) fn insert(message: Bytes, block: Block) -> Result<Message, DecodeError> {
    let mut reader = Reader::new(&message)?;
    let xid = reader.xid_in(block)?;
    let relation = RelationId::new(reader.u32("relation")?);
    let new = new_tuple(&mut reader)?;
    reader.finish()?;
    Ok(Message::Insert(Insert { xid, relation, new: new.last_of(message) }))
}

#[inline]
pub(super) fn update(message: Bytes, block: Block) -> Result<Message, DecodeError> {
    let mut reader = Reader::new(&message)?;
    let xid = reader.xid_in(block)?;
    let relation = RelationId::new(reader.u32("relation")?);
    let (old, new) = match reader.u8("tuple kind")? {
        b'N' => (None, reader.tuple()?),
        kind => {
            let old = old_tuple(kind, &mut reader, &message)?;
            (Some(old), new_tuple(&mut reader)?)
        }
    };
    reader.finish()?;
    Ok(Message::Update(Update { xid, relation, old, new: new.last_of(message) }))
}

#[inline]
pub(super) fn delete(message: Bytes, block: Block) -> Result<Message, DecodeError> {
    let mut reader = Reader::new(&message)?;
    let xid = reader.xid_in(block)?;
    let relation = RelationId::new(reader.u32("relation")?);
    let kind = reader.u8("tuple kind")?;
    let old = old_tuple(kind, &mut reader, &message)?;
    reader.finish()?;
    Ok(Message::Delete(Delete { xid, relation, old }))
}

#[inline]
fn new_tuple(reader: &mut Reader<'_>) -> Result<TupleSpan, DecodeError> {
    match reader.u8("tuple kind")? {
        b'N' => reader.tuple(),
        kind => Err(reader.meaningless("tuple kind", 1, i64::from(kind))),
    }
}

#[inline]
fn old_tuple(kind: u8, reader: &mut Reader<'_>, message: &Bytes) -> Result<OldTuple, DecodeError> {
    match kind {
        b'K' => Ok(OldTuple::Key(reader.tuple()?.of(message))),
        b'O' => Ok(OldTuple::Full(reader.tuple()?.of(message))),
        _ => Err(reader.meaningless("tuple kind", 1, i64::from(kind))),
    }
}

pub(super) fn begin(message: &Bytes) -> Result<Message, DecodeError> {
    let mut reader = Reader::new(message)?;
    let final_lsn = reader.lsn("final LSN")?;
    let commit_time = reader.timestamp("commit time")?;
    let xid = Xid::new(reader.u32("xid")?);
    reader.finish()?;
    Ok(Message::Begin(Begin { final_lsn, commit_time, xid }))
}

pub(super) fn commit(message: &Bytes) -> Result<Message, DecodeError> {
    let mut reader = Reader::new(message)?;
    let flags = reader.flags("flags", 0)?;
    let commit_lsn = reader.lsn("commit LSN")?;
    let end_lsn = reader.lsn("end LSN")?;
    let commit_time = reader.timestamp("commit time")?;
    reader.finish()?;
    Ok(Message::Commit(Commit { flags, commit_lsn, end_lsn, commit_time }))
}

pub(super) fn origin(message: &Bytes) -> Result<Message, DecodeError> {
    let mut reader = Reader::new(message)?;
    let commit_lsn = reader.lsn("commit LSN")?;
    let name = message.slice_ref(reader.c_bytes("origin name")?);
    reader.finish()?;
    Ok(Message::Origin(Origin { commit_lsn, name }))
}

pub(super) fn relation(message: &Bytes, block: Block) -> Result<Message, DecodeError> {
    let mut reader = Reader::new(message)?;
    let xid = reader.xid_in(block)?;
    let id = RelationId::new(reader.u32("relation")?);
    let namespace = reader.namespace()?;
    let name = reader.name("relation name")?.to_owned();
    let replica_identity = match reader.u8("replica identity")? {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        other => return Err(reader.meaningless("replica identity", 1, i64::from(other))),
    };
    let count = usize::from(reader.u16("column count")?);
    // A column takes at least ten bytes; the count alone is not worth an allocation.
    let mut columns = Vec::with_capacity(count.min(reader.remaining() / 10));
    for _ in 0..count {
        let is_key = reader.flags("column flags", COLUMN_IS_KEY)? != 0;
        let name = reader.name("column name")?.to_owned();
        let type_oid = Oid::new(reader.u32("column type")?);
        let type_modifier = reader.i32("type modifier")?;
        columns.push(RelationColumn { is_key, name, type_oid, type_modifier });
    }
    reader.finish()?;
    Ok(Message::Relation(Relation { xid, id, namespace, name, replica_identity, columns }))
}

pub(super) fn type_name(message: &Bytes, block: Block) -> Result<Message, DecodeError> {
    let mut reader = Reader::new(message)?;
    let xid = reader.xid_in(block)?;
    let oid = Oid::new(reader.u32("type")?);
    let namespace = reader.namespace()?;
    let name = reader.name("type name")?.to_owned();
    reader.finish()?;
    Ok(Message::Type(Type { xid, oid, namespace, name }))
}

pub(super) fn truncate(message: &Bytes, block: Block) -> Result<Message, DecodeError> {
    let mut reader = Reader::new(message)?;
    let xid = reader.xid_in(block)?;
    let announced = reader.i32("relation count")?;
    let Ok(count) = usize::try_from(announced) else {
        return Err(reader.meaningless("relation count", 4, i64::from(announced)));
    };
    let flags = reader.flags("flags", TRUNCATE_CASCADE | TRUNCATE_RESTART_IDENTITY)?;
    let mut relations = Vec::with_capacity(count.min(reader.remaining() / 4));
    for _ in 0..count {
        relations.push(RelationId::new(reader.u32("relation")?));
    }
    reader.finish()?;
    Ok(Message::Truncate(Truncate {
        xid,
        cascade: flags & TRUNCATE_CASCADE != 0,
        restart_identity: flags & TRUNCATE_RESTART_IDENTITY != 0,
        relations,
    }))
}

pub(super) fn logical(message: &Bytes, block: Block) -> Result<Message, DecodeError> {
    let mut reader = Reader::new(message)?;
    let xid = reader.xid_in(block)?;
    let transactional = reader.flags("flags", MESSAGE_TRANSACTIONAL)? != 0;
    let lsn = reader.lsn("LSN")?;
    let prefix = message.slice_ref(reader.c_bytes("prefix")?);
    let content = message.slice_ref(reader.sized("content")?);
    reader.finish()?;
    Ok(Message::Logical(LogicalMessage { xid, transactional, lsn, prefix, content }))
}

pub(super) fn stream_start(message: &Bytes) -> Result<StreamStart, DecodeError> {
    let mut reader = Reader::new(message)?;
    let xid = Xid::new(reader.u32("xid")?);
    let first_segment = reader.flags("first segment", 1)? != 0;
    reader.finish()?;
    Ok(StreamStart { xid, first_segment })
}

pub(super) fn stream_commit(message: &Bytes) -> Result<Message, DecodeError> {
    let mut reader = Reader::new(message)?;
    let xid = Xid::new(reader.u32("xid")?);
    let flags = reader.flags("flags", 0)?;
    let commit_lsn = reader.lsn("commit LSN")?;
    let end_lsn = reader.lsn("end LSN")?;
    let commit_time = reader.timestamp("commit time")?;
    reader.finish()?;
    Ok(Message::StreamCommit(StreamCommit { xid, flags, commit_lsn, end_lsn, commit_time }))
}

/// The position and time stand there only with `streaming 'parallel'`, which the version does not tell.
pub(super) fn stream_abort(message: &Bytes, version: u8) -> Result<Message, DecodeError> {
    let mut reader = Reader::new(message)?;
    let xid = Xid::new(reader.u32("xid")?);
    let subxid = Xid::new(reader.u32("subtransaction xid")?);
    let abort = if version >= 4 && reader.remaining() > 0 {
        Some((reader.lsn("abort LSN")?, reader.timestamp("abort time")?))
    } else {
        None
    };
    reader.finish()?;
    Ok(Message::StreamAbort(StreamAbort { xid, subxid, abort }))
}
