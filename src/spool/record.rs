//! One entry of the log: what arrived on the replication connection, byte for byte, or that a connection began.
//!
//! Hazard: a record is read back by another process, perhaps another version. So it is laid out by hand, and
//! reading is total.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::pg::{Lsn, PgTimestamp};
use crate::replication::StreamItem;

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    /// A connection began: whatever had not ended before it comes again.
    Began,
    /// What came on it.
    Item(StreamItem),
}

/// A record that makes no sense, though its block's checksum is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record of the spool cannot be read")]
pub(super) struct MalformedRecord;

impl Record {
    /// Appends it.
    pub(super) fn write(&self, out: &mut BytesMut) {
        match self {
            Record::Began => out.put_u8(b'n'),
            Record::Item(item) => write_item(item, out),
        }
    }

    /// Takes the next record off `from`; the message stays a slice of it.
    pub(super) fn read(from: &mut Bytes) -> Result<Record, MalformedRecord> {
        match from.try_get_u8().map_err(|_| MalformedRecord)? {
            b'n' => Ok(Record::Began),
            b'k' => {
                let wal_end = lsn(from)?;
                Ok(Record::Item(StreamItem::Keepalive { wal_end, sent: clock(from)? }))
            }
            b'w' => {
                let (start, wal_end, sent) = (lsn(from)?, lsn(from)?, clock(from)?);
                let length = from.try_get_u32().map_err(|_| MalformedRecord)? as usize;
                if length > from.len() {
                    return Err(MalformedRecord);
                }
                let message = from.split_to(length);
                Ok(Record::Item(StreamItem::Data { start, wal_end, sent, message }))
            }
            _ => Err(MalformedRecord),
        }
    }
}

/// Appends an item, without making a record of it first.
pub(super) fn write_item(item: &StreamItem, out: &mut BytesMut) {
    match item {
        StreamItem::Keepalive { wal_end, sent } => {
            out.put_u8(b'k');
            out.put_u64(wal_end.offset());
            out.put_i64(sent.micros());
        }
        StreamItem::Data { start, wal_end, sent, message } => {
            out.put_u8(b'w');
            out.put_u64(start.offset());
            out.put_u64(wal_end.offset());
            out.put_i64(sent.micros());
            out.put_u32(u32::try_from(message.len()).expect("the server's messages are below 1 GB"));
            out.put_slice(message);
        }
    }
}

fn lsn(from: &mut Bytes) -> Result<Lsn, MalformedRecord> {
    from.try_get_u64().map(Lsn::new).map_err(|_| MalformedRecord)
}

fn clock(from: &mut Bytes) -> Result<PgTimestamp, MalformedRecord> {
    from.try_get_i64().map(PgTimestamp::from_micros).map_err(|_| MalformedRecord)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> impl Strategy<Value = Record> {
        let message = proptest::collection::vec(any::<u8>(), 0..60);
        prop_oneof![
            Just(Record::Began),
            (any::<u64>(), any::<i64>()).prop_map(|(end, sent)| Record::Item(StreamItem::Keepalive {
                wal_end: Lsn::new(end),
                sent: PgTimestamp::from_micros(sent)
            })),
            (any::<u64>(), any::<u64>(), any::<i64>(), message).prop_map(|(start, end, sent, message)| {
                Record::Item(StreamItem::Data {
                    start: Lsn::new(start),
                    wal_end: Lsn::new(end),
                    sent: PgTimestamp::from_micros(sent),
                    message: message.into(),
                })
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(records in proptest::collection::vec(record(), 0..20)) {
            let mut bytes = BytesMut::new();
            for record in &records {
                record.write(&mut bytes);
            }
            let mut bytes = bytes.freeze();
            let mut read = Vec::new();
            while !bytes.is_empty() {
                read.push(Record::read(&mut bytes).unwrap());
            }
            prop_assert_eq!(read, records);
        }

        #[test]
        fn reading_is_total(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut bytes = Bytes::from(bytes);
            while !bytes.is_empty() && Record::read(&mut bytes).is_ok() {}
        }
    }
}
