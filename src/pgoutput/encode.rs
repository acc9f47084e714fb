//! Writes messages: the decoder's mirror, for tests, fuzzing and benches.
//!
//! What [`encode`] writes, a [`super::Decoder`] in the same block reads back as the same message, and
//! what a server sent, decoded and encoded, is the same bytes again.

use bytes::{BufMut, Bytes, BytesMut};

use super::body::{COLUMN_IS_KEY, MESSAGE_TRANSACTIONAL, TRUNCATE_CASCADE, TRUNCATE_RESTART_IDENTITY};
use super::message::{Message, Relation, ReplicaIdentity, Truncate};
use super::tuple::{OldTuple, Tuple};
use crate::pg::Xid;

/// The schema whose name travels as an empty string.
pub(super) const PG_CATALOG: &str = "pg_catalog";

/// A list that is longer than the number before it can say; no server sends one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message has more {0} than it can count")]
pub struct TooMany(&'static str);

/// The message as it travels. A change that has an xid is written as inside a streamed block.
///
/// # Errors
/// [`TooMany`] for a message that no decoder has made.
pub fn encode(message: &Message) -> Result<Bytes, TooMany> {
    let mut out = BytesMut::new();
    put_message(&mut out, message)?;
    Ok(out.freeze())
}

fn put_message(out: &mut BytesMut, message: &Message) -> Result<(), TooMany> {
    match message {
        Message::Begin(begin) => {
            out.put_u8(b'B');
            out.put_u64(begin.final_lsn.offset());
            out.put_i64(begin.commit_time.micros());
            out.put_u32(begin.xid.get());
        }
        Message::Commit(commit) => {
            out.put_u8(b'C');
            out.put_u8(commit.flags);
            out.put_u64(commit.commit_lsn.offset());
            out.put_u64(commit.end_lsn.offset());
            out.put_i64(commit.commit_time.micros());
        }
        Message::Origin(origin) => {
            out.put_u8(b'O');
            out.put_u64(origin.commit_lsn.offset());
            put_c_bytes(out, &origin.name);
        }
        Message::Relation(relation) => put_relation(out, relation)?,
        Message::Type(type_name) => {
            put_tag(out, b'Y', type_name.xid);
            out.put_u32(type_name.oid.get());
            put_namespace(out, &type_name.namespace);
            put_c_bytes(out, type_name.name.as_bytes());
        }
        Message::Insert(insert) => {
            put_tag(out, b'I', insert.xid);
            out.put_u32(insert.relation.get());
            put_tuple(out, b'N', &insert.new);
        }
        Message::Update(update) => {
            put_tag(out, b'U', update.xid);
            out.put_u32(update.relation.get());
            if let Some(old) = &update.old {
                put_old(out, old);
            }
            put_tuple(out, b'N', &update.new);
        }
        Message::Delete(delete) => {
            put_tag(out, b'D', delete.xid);
            out.put_u32(delete.relation.get());
            put_old(out, &delete.old);
        }
        Message::Truncate(truncate) => put_truncate(out, truncate)?,
        Message::Logical(logical) => {
            put_tag(out, b'M', logical.xid);
            out.put_u8(if logical.transactional { MESSAGE_TRANSACTIONAL } else { 0 });
            out.put_u64(logical.lsn.offset());
            put_c_bytes(out, &logical.prefix);
            out.put_i32(i32::try_from(logical.content.len()).map_err(|_| TooMany("bytes"))?);
            out.put_slice(&logical.content);
        }
        Message::StreamStart(start) => {
            out.put_u8(b'S');
            out.put_u32(start.xid.get());
            out.put_u8(u8::from(start.first_segment));
        }
        Message::StreamStop => out.put_u8(b'E'),
        Message::StreamCommit(commit) => {
            out.put_u8(b'c');
            out.put_u32(commit.xid.get());
            out.put_u8(commit.flags);
            out.put_u64(commit.commit_lsn.offset());
            out.put_u64(commit.end_lsn.offset());
            out.put_i64(commit.commit_time.micros());
        }
        Message::StreamAbort(abort) => {
            out.put_u8(b'A');
            out.put_u32(abort.xid.get());
            out.put_u32(abort.subxid.get());
            if let Some((lsn, time)) = abort.abort {
                out.put_u64(lsn.offset());
                out.put_i64(time.micros());
            }
        }
    }
    Ok(())
}

fn put_tag(out: &mut BytesMut, tag: u8, xid: Option<Xid>) {
    out.put_u8(tag);
    if let Some(xid) = xid {
        out.put_u32(xid.get());
    }
}

fn put_relation(out: &mut BytesMut, relation: &Relation) -> Result<(), TooMany> {
    put_tag(out, b'R', relation.xid);
    out.put_u32(relation.id.get());
    put_namespace(out, &relation.namespace);
    put_c_bytes(out, relation.name.as_bytes());
    out.put_u8(match relation.replica_identity {
        ReplicaIdentity::Default => b'd',
        ReplicaIdentity::Nothing => b'n',
        ReplicaIdentity::Full => b'f',
        ReplicaIdentity::Index => b'i',
    });
    out.put_u16(u16::try_from(relation.columns.len()).map_err(|_| TooMany("columns"))?);
    for column in &relation.columns {
        out.put_u8(if column.is_key { COLUMN_IS_KEY } else { 0 });
        put_c_bytes(out, column.name.as_bytes());
        out.put_u32(column.type_oid.get());
        out.put_i32(column.type_modifier);
    }
    Ok(())
}

fn put_truncate(out: &mut BytesMut, truncate: &Truncate) -> Result<(), TooMany> {
    let cascade = if truncate.cascade { TRUNCATE_CASCADE } else { 0 };
    let restart_identity = if truncate.restart_identity { TRUNCATE_RESTART_IDENTITY } else { 0 };
    put_tag(out, b'T', truncate.xid);
    out.put_i32(i32::try_from(truncate.relations.len()).map_err(|_| TooMany("tables"))?);
    out.put_u8(cascade | restart_identity);
    for relation in &truncate.relations {
        out.put_u32(relation.get());
    }
    Ok(())
}

fn put_old(out: &mut BytesMut, old: &OldTuple) {
    match old {
        OldTuple::Key(tuple) => put_tuple(out, b'K', tuple),
        OldTuple::Full(tuple) => put_tuple(out, b'O', tuple),
    }
}

fn put_tuple(out: &mut BytesMut, kind: u8, tuple: &Tuple) {
    out.put_u8(kind);
    out.put_u16(tuple.columns());
    out.put_slice(tuple.body());
}

fn put_namespace(out: &mut BytesMut, namespace: &str) {
    put_c_bytes(out, if namespace == PG_CATALOG { b"" } else { namespace.as_bytes() });
}

/// A name of the server's cannot hold a NUL: it would end there.
fn put_c_bytes(out: &mut BytesMut, bytes: &[u8]) {
    debug_assert!(!bytes.contains(&0), "names end at a NUL");
    out.put_slice(bytes);
    out.put_u8(0);
}
