//! Reads messages.
//!
//! Hazard: inside a streamed block every change carries an xid first, and only there. The decoder
//! follows the blocks, and refuses a message that cannot stand where it is instead of misreading it.
//! See PostgreSQL docs, `protocol-logicalrep-message-formats`; server side: proto.c.

use std::fmt;

use bytes::Bytes;

use super::body;
use super::error::DecodeError;
use super::message::{Commit, Message};
use super::reader::Reader;
use crate::pg::Xid;

impl Commit {
    /// The commit that a message is, for whoever reads nothing else; none for every other, and for a broken one.
    #[must_use]
    pub fn peek(message: &Bytes) -> Option<Commit> {
        if message.first() != Some(&b'C') {
            return None;
        }
        match body::commit(message) {
            Ok(Message::Commit(commit)) => Some(commit),
            Ok(_) | Err(_) => None,
        }
    }
}

/// Where the decoder stands.
///
/// ```text
///   Outside ── StreamStart ──▶ Streaming ── StreamStop ──▶ Outside
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// Between streamed blocks, or in a transaction that is sent whole.
    Outside,
    /// Between `StreamStart` and `StreamStop`: changes carry an xid.
    Streaming {
        /// The top-level transaction of the block.
        xid: Xid,
    },
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Block::Outside => f.write_str("outside a streamed block"),
            Block::Streaming { xid } => write!(f, "in a streamed block of transaction {xid}"),
        }
    }
}

/// Reads the messages of one stream, in order.
#[derive(Debug, Clone)]
pub struct Decoder {
    version: u8,
    block: Block,
}

impl Decoder {
    /// Starts at the beginning of a stream that was asked for with this `proto_version`.
    #[must_use]
    pub const fn new(protocol_version: u8) -> Decoder {
        Decoder { version: protocol_version, block: Block::Outside }
    }

    /// Starts inside a block of `xid`: for changes of a streamed transaction that were laid aside.
    #[must_use]
    pub const fn inside(protocol_version: u8, xid: Xid) -> Decoder {
        Decoder { version: protocol_version, block: Block::Streaming { xid } }
    }

    /// Where it stands, after the last message.
    #[must_use]
    pub const fn block(&self) -> Block {
        self.block
    }

    /// Reads one message, the payload of one XLogData. Tuples are slices of it; nothing is copied.
    ///
    /// # Errors
    /// [`DecodeError`] says where the message breaks the protocol; the decoder stands where it stood before,
    /// but what follows on the stream is not to be trusted.
    #[inline]
    pub fn decode(&mut self, message: Bytes) -> Result<Message, DecodeError> {
        let tag = *message.first().ok_or(DecodeError::Empty)?;
        self.admit(tag)?;
        match tag {
            b'I' => body::insert(message, self.block),
            b'U' => body::update(message, self.block),
            b'D' => body::delete(message, self.block),
            b'B' => body::begin(&message),
            b'C' => body::commit(&message),
            b'R' => body::relation(&message, self.block),
            b'Y' => body::type_name(&message, self.block),
            b'T' => body::truncate(&message, self.block),
            b'M' => body::logical(&message, self.block),
            b'O' => body::origin(&message),
            b'S' => {
                let start = body::stream_start(&message)?;
                self.block = Block::Streaming { xid: start.xid };
                Ok(Message::StreamStart(start))
            }
            b'E' => {
                Reader::new(&message)?.finish()?;
                self.block = Block::Outside;
                Ok(Message::StreamStop)
            }
            b'c' => body::stream_commit(&message),
            b'A' => body::stream_abort(&message, self.version),
            _ => Err(DecodeError::UnknownMessage { tag: char::from(tag) }),
        }
    }

    /// Whether a message of this kind may stand here, in this version.
    #[inline]
    fn admit(&self, tag: u8) -> Result<(), DecodeError> {
        let (version, block, tag) = (self.version, self.block, char::from(tag));
        match (tag, block) {
            ('I' | 'U' | 'D' | 'R' | 'Y' | 'T' | 'M' | 'O', _) => Ok(()),
            ('b' | 'P' | 'K' | 'r' | 'p', _) => Err(DecodeError::TwoPhase { tag }),
            ('S' | 'E' | 'c' | 'A', _) if version < 2 => Err(DecodeError::TooNew { tag, version }),
            ('B' | 'C' | 'S' | 'c' | 'A', Block::Outside) | ('E', Block::Streaming { .. }) => Ok(()),
            ('B' | 'C' | 'S' | 'c' | 'A', Block::Streaming { .. }) | ('E', Block::Outside) => {
                Err(DecodeError::Misplaced { tag, block })
            }
            _ => Err(DecodeError::UnknownMessage { tag }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sample::{STREAMED, plain_message, streamed_message};
    use super::super::{Begin, OldTuple, Value, encode};
    use super::*;
    use crate::pg::{Lsn, PgTimestamp, RelationId};

    /// Joins the fields of a message laid out one by one.
    fn message(fields: &[&[u8]]) -> Bytes {
        fields.concat().into()
    }

    fn decode(fields: &[&[u8]]) -> Result<Message, DecodeError> {
        Decoder::new(4).decode(message(fields))
    }

    #[test]
    fn reads_begin() {
        let begin = decode(&[
            b"B",
            &0x16_B374_D848_u64.to_be_bytes(), // final LSN
            &1_i64.to_be_bytes(),              // commit time
            &742_u32.to_be_bytes(),            // xid
        ]);
        let final_lsn = Lsn::new(0x16_B374_D848);
        let commit_time = PgTimestamp::from_micros(1);
        assert_eq!(begin, Ok(Message::Begin(Begin { final_lsn, commit_time, xid: Xid::new(742) })));
    }

    #[test]
    fn reads_an_update_with_its_old_key() {
        let update = decode(&[
            b"U",
            &16_385_u32.to_be_bytes(), // relation
            b"K\0\x02t\0\0\0\x011n",   // old key: '1', not sent
            b"N\0\x02t\0\0\0\x012u",   // new row: '2', unchanged
        ]);
        let Ok(Message::Update(update)) = update else { panic!("{update:?}") };
        let Some(OldTuple::Key(old)) = update.old else { panic!("no old key") };
        assert_eq!(old.values().collect::<Vec<_>>(), [Value::Text(b"1"), Value::Null]);
        assert_eq!(update.new.values().collect::<Vec<_>>(), [Value::Text(b"2"), Value::Unchanged]);
    }

    #[test]
    fn tuples_are_slices_of_the_message() {
        let message = message(&[b"I\0\0\0\x01N\0\x01t\0\0\0\x03", b"abc"]);
        let inside = message.as_ptr_range();
        let Ok(Message::Insert(insert)) = Decoder::new(1).decode(message) else { panic!() };
        assert!(inside.contains(&insert.new.body().as_ptr()));
    }

    #[test]
    fn an_empty_namespace_is_pg_catalog() {
        let Ok(Message::Type(type_name)) = decode(&[b"Y", &[0, 0, 0, 9], b"\0", b"t\0"]) else { panic!() };
        assert_eq!(type_name.namespace, "pg_catalog");
        let encoded = encode(&Message::Type(type_name)).unwrap();
        assert_eq!(encoded, &b"Y\0\0\0\x09\0t\0"[..]);
    }

    #[test]
    fn only_changes_inside_a_block_carry_an_xid() {
        let mut decoder = Decoder::new(2);
        let change = |decoder: &mut Decoder, fields: &[&[u8]]| match decoder.decode(message(fields)) {
            Ok(Message::Insert(insert)) => (insert.xid, insert.relation),
            other => panic!("{other:?}"),
        };
        let (xid, relation) = (5_u32.to_be_bytes(), 9_u32.to_be_bytes());
        decoder.decode(message(&[b"S", &xid, &[1]])).unwrap();
        assert_eq!(decoder.block(), Block::Streaming { xid: Xid::new(5) });
        let inside = change(&mut decoder, &[b"I", &xid, &relation, b"N\0\0"]);
        assert_eq!(inside, (Some(Xid::new(5)), RelationId::new(9)));
        decoder.decode(message(&[b"E"])).unwrap();
        let outside = change(&mut decoder, &[b"I", &relation, b"N\0\0"]);
        assert_eq!(outside, (None, RelationId::new(9)));
    }

    #[test]
    fn refuses_what_cannot_stand_where_it_is() {
        let in_block = Decoder::inside(4, Xid::new(5));
        for tag in ['B', 'C', 'S', 'c', 'A'] {
            let error = DecodeError::Misplaced { tag, block: in_block.block() };
            assert_eq!(in_block.clone().decode(message(&[&[tag as u8]])), Err(error));
        }
        assert_eq!(decode(&[b"E"]), Err(DecodeError::Misplaced { tag: 'E', block: Block::Outside }));
    }

    #[test]
    fn a_refused_message_leaves_the_block_as_it_was() {
        let mut decoder = Decoder::new(2);
        decoder.decode(message(&[b"S", &[0; 4]])).unwrap_err();
        assert_eq!(decoder.block(), Block::Outside);
    }

    #[test]
    fn names_what_we_never_ask_for() {
        for tag in ['b', 'P', 'K', 'r', 'p'] {
            assert_eq!(decode(&[&[tag as u8]]), Err(DecodeError::TwoPhase { tag }));
        }
        assert_eq!(decode(&[b"z"]), Err(DecodeError::UnknownMessage { tag: 'z' }));
        assert_eq!(decode(&[]), Err(DecodeError::Empty));
        let too_new = DecodeError::TooNew { tag: 'S', version: 1 };
        assert_eq!(Decoder::new(1).decode(message(&[b"S", &[0; 5]])), Err(too_new));
    }

    #[test]
    fn refuses_flags_and_kinds_without_a_meaning() {
        let flags = DecodeError::Meaningless { tag: 'C', field: "flags", offset: 1, value: 4 };
        assert_eq!(decode(&[b"C", &[4], &[0; 24]]), Err(flags));
        let kind = DecodeError::Meaningless { tag: 'I', field: "tuple kind", offset: 5, value: 0x4B };
        assert_eq!(decode(&[b"I", &[0; 4], b"K\0\0"]), Err(kind));
        let value = DecodeError::Meaningless { tag: 'I', field: "value kind", offset: 8, value: 0x78 };
        assert_eq!(decode(&[b"I", &[0; 4], b"N\0\x01x"]), Err(value));
    }

    #[test]
    fn an_announced_length_allocates_nothing() {
        let error = DecodeError::Truncated { tag: 'T', field: "relation", offset: 6 };
        assert_eq!(decode(&[b"T", &i32::MAX.to_be_bytes(), &[0]]), Err(error));
    }

    /// A shorter abort may be a whole one, of `streaming 'on'`; every other message has one length.
    fn is_whole_when_cut(tag: Option<&u8>, length: usize) -> bool {
        tag == Some(&b'A') && length == 9
    }

    fn refuses_every_cut(decoder: &Decoder, bytes: &Bytes) {
        for length in 0..bytes.len() {
            let cut = decoder.clone().decode(bytes.slice(..length));
            assert!(cut.is_err() || is_whole_when_cut(bytes.first(), length), "{length} of {bytes:?}");
        }
        let longer = Bytes::from([bytes.as_ref(), &[0]].concat());
        assert!(decoder.clone().decode(longer).is_err(), "one byte after {bytes:?}");
    }

    proptest! {
        #[test]
        fn reads_back_what_was_written(plain in plain_message(), streamed in streamed_message()) {
            prop_assert_eq!(Decoder::new(4).decode(encode(&plain).unwrap()), Ok(plain));
            let mut inside = Decoder { version: 4, block: STREAMED };
            prop_assert_eq!(inside.decode(encode(&streamed).unwrap()), Ok(streamed));
        }

        #[test]
        fn refuses_every_truncation(plain in plain_message(), streamed in streamed_message()) {
            refuses_every_cut(&Decoder::new(4), &encode(&plain).unwrap());
            refuses_every_cut(&Decoder { version: 4, block: STREAMED }, &encode(&streamed).unwrap());
        }

        #[test]
        fn never_panics(version in 1..=4_u8, tag in "[BCORYIUDTMSEcA]", tail in prop::collection::vec(any::<u8>(), 0..60)) {
            let bytes = message(&[tag.as_bytes(), &tail]);
            for block in [Block::Outside, STREAMED] {
                let decoded = Decoder { version, block }.decode(bytes.clone());
                if let Ok(decoded) = decoded {
                    prop_assert_eq!(encode(&decoded).unwrap(), bytes.clone());
                }
            }
        }
    }
}
