//! Arbitrary messages, for properties.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::{
    Begin, Block, Commit, Delete, Insert, LogicalMessage, Message, OldTuple, Origin, Relation,
    RelationColumn, ReplicaIdentity, StreamAbort, StreamCommit, StreamStart, Truncate, Tuple, Type, Update,
    Value,
};
use crate::pg::{Lsn, Oid, PgTimestamp, RelationId, Xid};

/// The block that [`streamed_message`] stands in.
pub(super) const STREAMED: Block = Block::Streaming { xid: Xid::new(7) };

/// A message that may stand outside a streamed block.
pub(super) fn plain_message() -> impl Strategy<Value = Message> {
    prop_oneof![change(Just(None)), control()]
}

/// A message that may stand inside a streamed block and leaves it open.
pub(super) fn streamed_message() -> impl Strategy<Value = Message> {
    prop_oneof![change(xid().prop_map(Some)), origin()]
}

fn xid() -> impl Strategy<Value = Xid> + Clone {
    any::<u32>().prop_map(Xid::new)
}

fn lsn() -> impl Strategy<Value = Lsn> {
    any::<u64>().prop_map(Lsn::new)
}

fn time() -> impl Strategy<Value = PgTimestamp> {
    any::<i64>().prop_map(PgTimestamp::from_micros)
}

fn relation_id() -> impl Strategy<Value = RelationId> {
    any::<u32>().prop_map(RelationId::new)
}

/// A name as the catalogs may hold it: anything but a NUL.
fn name() -> impl Strategy<Value = String> {
    "[^\\x00]{1,12}"
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn tuple() -> impl Strategy<Value = Tuple> {
    vec((0..4_u8, vec(any::<u8>(), 0..20)), 0..6).prop_map(|values| {
        let value = |(kind, bytes): &'_ (u8, Vec<u8>)| match kind {
            0 => Tuple::from_iter([Value::Null]),
            1 => Tuple::from_iter([Value::Unchanged]),
            2 => Tuple::from_iter([Value::Text(bytes)]),
            _ => Tuple::from_iter([Value::Binary(bytes)]),
        };
        let single: Vec<Tuple> = values.iter().map(value).collect();
        single.iter().flatten().collect()
    })
}

fn old_tuple() -> impl Strategy<Value = OldTuple> {
    prop_oneof![tuple().prop_map(OldTuple::Key), tuple().prop_map(OldTuple::Full)]
}

fn relation(xid: impl Strategy<Value = Option<Xid>>) -> impl Strategy<Value = Message> {
    let replica_identity = prop_oneof![
        Just(ReplicaIdentity::Default),
        Just(ReplicaIdentity::Nothing),
        Just(ReplicaIdentity::Full),
        Just(ReplicaIdentity::Index),
    ];
    let column = (any::<bool>(), name(), any::<u32>(), any::<i32>());
    let column = column.prop_map(|(is_key, name, type_oid, type_modifier)| RelationColumn {
        is_key,
        name,
        type_oid: Oid::new(type_oid),
        type_modifier,
    });
    (xid, relation_id(), name(), name(), replica_identity, vec(column, 0..5)).prop_map(
        |(xid, id, namespace, name, replica_identity, columns)| {
            Message::Relation(Relation { xid, id, namespace, name, replica_identity, columns })
        },
    )
}

fn change(xid: impl Strategy<Value = Option<Xid>> + Clone + 'static) -> impl Strategy<Value = Message> {
    let type_name = (xid.clone(), any::<u32>(), name(), name()).prop_map(|(xid, oid, namespace, name)| {
        Message::Type(Type { xid, oid: Oid::new(oid), namespace, name })
    });
    let insert = (xid.clone(), relation_id(), tuple())
        .prop_map(|(xid, relation, new)| Message::Insert(Insert { xid, relation, new }));
    let update = (xid.clone(), relation_id(), option::of(old_tuple()), tuple())
        .prop_map(|(xid, relation, old, new)| Message::Update(Update { xid, relation, old, new }));
    let delete = (xid.clone(), relation_id(), old_tuple())
        .prop_map(|(xid, relation, old)| Message::Delete(Delete { xid, relation, old }));
    let truncate = (xid.clone(), any::<bool>(), any::<bool>(), vec(relation_id(), 0..5));
    let truncate = truncate.prop_map(|(xid, cascade, restart_identity, relations)| {
        Message::Truncate(Truncate { xid, cascade, restart_identity, relations })
    });
    let logical = (xid.clone(), any::<bool>(), lsn(), "[^\\x00]{0,9}", bytes());
    let logical = logical.prop_map(|(xid, transactional, lsn, prefix, content)| {
        Message::Logical(LogicalMessage { xid, transactional, lsn, prefix: prefix.into(), content })
    });
    prop_oneof![relation(xid), type_name, insert, update, delete, truncate, logical]
}

fn origin() -> impl Strategy<Value = Message> {
    let origin = (lsn(), name());
    origin.prop_map(|(commit_lsn, name)| Message::Origin(Origin { commit_lsn, name: name.into() }))
}

fn control() -> impl Strategy<Value = Message> {
    let begin = (lsn(), time(), xid())
        .prop_map(|(final_lsn, commit_time, xid)| Message::Begin(Begin { final_lsn, commit_time, xid }));
    let commit = (lsn(), lsn(), time()).prop_map(|(commit_lsn, end_lsn, commit_time)| {
        Message::Commit(Commit { flags: 0, commit_lsn, end_lsn, commit_time })
    });
    let stream_start = (xid(), any::<bool>())
        .prop_map(|(xid, first_segment)| Message::StreamStart(StreamStart { xid, first_segment }));
    let stream_commit = (xid(), lsn(), lsn(), time()).prop_map(|(xid, commit_lsn, end_lsn, commit_time)| {
        Message::StreamCommit(StreamCommit { xid, flags: 0, commit_lsn, end_lsn, commit_time })
    });
    let stream_abort = (xid(), xid(), option::of((lsn(), time())))
        .prop_map(|(xid, subxid, abort)| Message::StreamAbort(StreamAbort { xid, subxid, abort }));
    prop_oneof![begin, commit, origin(), stream_start, stream_commit, stream_abort]
}
