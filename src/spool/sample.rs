//! Items of a stream, for tests.

use bytes::{BufMut, Bytes, BytesMut};

use super::segment::Origin;
use crate::pg::{Lsn, PgTimestamp, SystemIdentifier};
use crate::pgoutput::TupleFormat;
use crate::replication::StreamItem;

pub(super) const ORIGIN: Origin = Origin {
    system: SystemIdentifier::new(7),
    migration: *b"0badcafe",
    protocol_version: 2,
    format: TupleFormat::Text,
};

pub(super) fn data(message: &[u8]) -> StreamItem {
    let (start, wal_end, sent) = (Lsn::ZERO, Lsn::ZERO, PgTimestamp::from_micros(0));
    StreamItem::Data { start, wal_end, sent, message: Bytes::copy_from_slice(message) }
}

fn message(tag: u8, fields: impl FnOnce(&mut BytesMut)) -> StreamItem {
    let mut out = BytesMut::new();
    out.put_u8(tag);
    fields(&mut out);
    data(&out)
}

pub(super) fn keepalive(wal_end: u64) -> StreamItem {
    StreamItem::Keepalive { wal_end: Lsn::new(wal_end), sent: PgTimestamp::from_micros(0) }
}

pub(super) fn begin(xid: u32, final_lsn: u64) -> StreamItem {
    message(b'B', |out| {
        out.put_u64(final_lsn);
        out.put_i64(0); // commit time
        out.put_u32(xid);
    })
}

pub(super) fn commit(commit_lsn: u64, end_lsn: u64) -> StreamItem {
    message(b'C', |out| {
        out.put_u8(0); // flags
        out.put_u64(commit_lsn);
        out.put_u64(end_lsn);
        out.put_i64(0); // commit time
    })
}

/// An insert, whose tuple nobody here reads.
pub(super) fn row(relation: u32) -> StreamItem {
    message(b'I', |out| {
        out.put_u32(relation);
        out.put_slice(b"N\0\0");
    })
}

pub(super) fn relation(id: u32) -> StreamItem {
    message(b'R', |out| {
        out.put_u32(id);
        out.put_slice(b"public\0t\0d\0\0");
    })
}

/// The same message as it stands in a streamed block.
pub(super) fn streamed(xid: u32, item: &StreamItem) -> StreamItem {
    let StreamItem::Data { message: plain, .. } = item else { panic!("not data") };
    message(plain[0], |out| {
        out.put_u32(xid);
        out.put_slice(&plain[1..]);
    })
}

pub(super) fn stream_start(xid: u32) -> StreamItem {
    message(b'S', |out| {
        out.put_u32(xid);
        out.put_u8(1); // first segment
    })
}

pub(super) fn stream_stop() -> StreamItem {
    data(b"E")
}

pub(super) fn stream_commit(xid: u32, commit_lsn: u64, end_lsn: u64) -> StreamItem {
    message(b'c', |out| {
        out.put_u32(xid);
        out.put_u8(0); // flags
        out.put_u64(commit_lsn);
        out.put_u64(end_lsn);
        out.put_i64(0); // commit time
    })
}

pub(super) fn stream_abort(xid: u32, subxid: u32) -> StreamItem {
    message(b'A', |out| {
        out.put_u32(xid);
        out.put_u32(subxid);
    })
}
