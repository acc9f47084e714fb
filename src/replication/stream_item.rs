//! What arrives on a replication connection once streaming has begun.
//!
//! Hazard: `start` of several items may be the same (rows of one WAL record share it), so it never
//! identifies a change; only commit positions do.

use bytes::{Buf, Bytes};

use crate::pg::{Lsn, PgTimestamp};

/// One CopyData message from the walsender (docs: `protocol-replication`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamItem {
    /// `XLogData`: one pgoutput message.
    Data {
        /// Where in the WAL the message stems from; zero for some.
        start: Lsn,
        /// The walsender's position when it sent this.
        wal_end: Lsn,
        /// The source's clock when it sent this.
        sent: PgTimestamp,
        /// The pgoutput message.
        message: Bytes,
    },
    /// Primary keepalive.
    Keepalive {
        /// The walsender's position: everything before it that concerns us was sent before this.
        wal_end: Lsn,
        /// The source's clock when it sent this.
        sent: PgTimestamp,
    },
}

/// Whether the walsender wants a status update at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    AtOnce,
    InTime,
}

/// A CopyData payload that is neither `XLogData` nor a keepalive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed replication message (first byte {first:?}, {length} bytes)")]
pub(super) struct MalformedItem {
    first: Option<u8>,
    length: usize,
}

impl StreamItem {
    /// Reads one CopyData payload; the pgoutput message stays a slice of it.
    pub(super) fn parse(mut payload: Bytes) -> Result<(StreamItem, Reply), MalformedItem> {
        let malformed = MalformedItem { first: payload.first().copied(), length: payload.len() };
        match malformed.first {
            Some(b'w') if payload.len() >= 25 => {
                payload.advance(1);
                let start = Lsn::new(payload.get_u64());
                let wal_end = Lsn::new(payload.get_u64());
                let sent = PgTimestamp::from_micros(payload.get_i64());
                Ok((StreamItem::Data { start, wal_end, sent, message: payload }, Reply::InTime))
            }
            Some(b'k') if payload.len() == 18 => {
                payload.advance(1);
                let wal_end = Lsn::new(payload.get_u64());
                let sent = PgTimestamp::from_micros(payload.get_i64());
                let reply = if payload.get_u8() == 1 { Reply::AtOnce } else { Reply::InTime };
                Ok((StreamItem::Keepalive { wal_end, sent }, reply))
            }
            _ => Err(malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};

    use super::*;

    fn keepalive(reply: u8) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u8(b'k');
        bytes.put_u64(0x10); // wal_end
        bytes.put_i64(7); // clock
        bytes.put_u8(reply);
        bytes.freeze()
    }

    #[test]
    fn reads_a_keepalive_and_whether_it_wants_a_reply() {
        let item = StreamItem::Keepalive { wal_end: Lsn::new(0x10), sent: PgTimestamp::from_micros(7) };
        assert_eq!(StreamItem::parse(keepalive(1)), Ok((item.clone(), Reply::AtOnce)));
        assert_eq!(StreamItem::parse(keepalive(0)), Ok((item, Reply::InTime)));
    }

    #[test]
    fn reads_data_without_copying_the_message() {
        let mut bytes = BytesMut::new();
        bytes.put_u8(b'w');
        bytes.put_u64(1); // start
        bytes.put_u64(2); // wal_end
        bytes.put_i64(3); // clock
        bytes.put_slice(b"C!");
        let (item, _) = StreamItem::parse(bytes.freeze()).unwrap();
        let StreamItem::Data { start, wal_end, message, .. } = item else { panic!("not data") };
        assert_eq!((start, wal_end, message.as_ref()), (Lsn::new(1), Lsn::new(2), &b"C!"[..]));
    }

    #[test]
    fn rejects_every_truncation_and_unknown_kinds() {
        let whole = keepalive(0);
        for length in 0..whole.len() {
            assert!(StreamItem::parse(whole.slice(..length)).is_err(), "{length} bytes");
        }
        assert!(StreamItem::parse(Bytes::from_static(b"x...............................")).is_err());
    }
}
