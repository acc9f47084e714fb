//! Follows a stream closely enough to know where it may be cut, and what a reader must have been told by then.
//!
//! Hazard: a position may be confirmed only if every transaction that commits before it has come whole (P19).
//! So the position moves with commits, and with keepalives between transactions; and a cut is where nothing is
//! half said. Rows are not decoded: this runs beside the copy, on its processors.
//!
//! The walsender announces a table (`Relation`, `Type`) once per connection, before its first row; within a
//! streamed transaction for that transaction, and for all that follow once it has committed.
//! Server side: pgoutput.c, `maybe_send_schema` and `cleanup_rel_sync_cache`.

use std::collections::{BTreeMap, HashMap};

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Lsn, Xid};
use crate::pgoutput::{Decoder, Message};
use crate::replication::StreamItem;

/// Where the stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Between transactions: the stream may be cut here.
    Idle,
    /// Between `Begin` and `Commit`.
    Transaction,
    /// Between `StreamStart` and `StreamStop`.
    Block(Xid),
}

/// What an item did to the transactions that are streamed before they end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Streamed {
    /// Nothing, or it only went on.
    None,
    /// A block of it begins.
    Block(Xid),
    /// It has committed, or aborted as a whole.
    Ended(Xid),
}

/// The kind of a shape and its object: what a later one takes the place of.
type ShapeKey = (u8, [u8; 4]);

/// Follows one connection's items.
#[derive(Debug)]
pub(super) struct Outline {
    version: u8,
    decoder: Decoder,
    place: Place,
    end: Lsn,
    shapes: BTreeMap<ShapeKey, Bytes>,
    streamed: HashMap<Xid, Vec<(ShapeKey, Bytes)>>,
}

impl Outline {
    /// Before the first item of a stream that goes on from `end`.
    pub(super) fn starting_at(end: Lsn, protocol_version: u8) -> Outline {
        Outline {
            version: protocol_version,
            decoder: Decoder::new(protocol_version),
            place: Place::Idle,
            end,
            shapes: BTreeMap::new(),
            streamed: HashMap::new(),
        }
    }

    /// A new connection begins at `end`; it says everything anew.
    pub(super) fn restart(&mut self, end: Lsn) {
        *self = Outline::starting_at(end, self.version);
    }

    /// Whether nothing is half said.
    pub(super) fn is_cut(&self) -> bool {
        self.place == Place::Idle
    }

    /// Every transaction that commits before this has come whole. Of use at a cut.
    pub(super) fn end(&self) -> Lsn {
        self.end
    }

    /// What was announced, as a connection outside of any streamed block would say it.
    pub(super) fn shapes(&self) -> impl Iterator<Item = &Bytes> {
        self.shapes.values()
    }

    /// The next item.
    ///
    /// # Errors
    /// `Protocol` for a message that breaks the protocol.
    pub(super) fn see(&mut self, item: &StreamItem) -> Result<Streamed> {
        match item {
            StreamItem::Keepalive { wal_end, .. } => {
                if self.is_cut() {
                    self.reach(*wal_end);
                }
                Ok(Streamed::None)
            }
            StreamItem::Data { message, .. } => match message.first() {
                Some(b'I' | b'U' | b'D' | b'T' | b'M' | b'O') => Ok(Streamed::None),
                Some(tag @ (b'R' | b'Y')) => self.shape(*tag, message),
                _ => self.frame(message),
            },
        }
    }

    fn reach(&mut self, end: Lsn) {
        self.end = self.end.max(end);
    }

    /// A message that begins or ends something.
    fn frame(&mut self, message: &Bytes) -> Result<Streamed> {
        let decoded = self.decoder.decode(message.clone());
        let decoded =
            decoded.map_err(|cause| Error::new(ErrorKind::Protocol, "spool the stream").because(cause))?;
        match (decoded, self.place) {
            (Message::Begin(_), Place::Idle) => {
                self.place = Place::Transaction;
                Ok(Streamed::None)
            }
            (Message::Commit(commit), Place::Transaction) => {
                self.place = Place::Idle;
                self.reach(commit.end_lsn);
                Ok(Streamed::None)
            }
            (Message::StreamStart(start), Place::Idle) => {
                self.place = Place::Block(start.xid);
                Ok(Streamed::Block(start.xid))
            }
            (Message::StreamStop, Place::Block(_)) => {
                self.place = Place::Idle;
                Ok(Streamed::None)
            }
            (Message::StreamCommit(commit), Place::Idle) => {
                self.reach(commit.end_lsn);
                self.shapes.extend(self.streamed.remove(&commit.xid).unwrap_or_default());
                Ok(Streamed::Ended(commit.xid))
            }
            (Message::StreamAbort(abort), Place::Idle) if abort.subxid == abort.xid => {
                self.streamed.remove(&abort.xid);
                Ok(Streamed::Ended(abort.xid))
            }
            (Message::StreamAbort(_), Place::Idle) => Ok(Streamed::None),
            _ => Err(Error::new(ErrorKind::Protocol, "spool a message that cannot stand where it does")),
        }
    }

    fn shape(&mut self, tag: u8, message: &Bytes) -> Result<Streamed> {
        let short = || Error::new(ErrorKind::Protocol, "spool a table's description that is cut short");
        let body = match self.place {
            // In a streamed block an xid comes first.
            Place::Block(_) => message.get(5..),
            Place::Idle | Place::Transaction => message.get(1..),
        };
        let body = body.ok_or_else(short)?;
        let object = *body.first_chunk::<4>().ok_or_else(short)?;
        // A copy: the message is a slice of a much larger buffer, and this is kept for long.
        let mut plain = BytesMut::with_capacity(1 + body.len());
        plain.put_u8(tag);
        plain.put_slice(body);
        let (key, plain) = ((tag, object), plain.freeze());
        match self.place {
            Place::Block(xid) => self.streamed.entry(xid).or_default().push((key, plain)),
            Place::Idle | Place::Transaction => drop(self.shapes.insert(key, plain)),
        }
        Ok(Streamed::None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::sample::{
        begin, commit, data, keepalive, relation, row, stream_abort, stream_commit, stream_start,
        stream_stop, streamed,
    };

    fn follow(outline: &mut Outline, items: &[StreamItem]) {
        for item in items {
            outline.see(item).unwrap();
        }
    }

    #[test]
    fn the_position_moves_only_where_no_transaction_is_open() {
        let mut outline = Outline::starting_at(Lsn::new(10), 2);
        follow(&mut outline, &[begin(1, 90), row(7)]);
        assert!(!outline.is_cut());
        follow(&mut outline, &[keepalive(300)]);
        assert_eq!(outline.end(), Lsn::new(10), "the commit may lie before the keepalive");
        follow(&mut outline, &[commit(90, 100)]);
        assert!(outline.is_cut());
        assert_eq!(outline.end(), Lsn::new(100));
        follow(&mut outline, &[keepalive(120), keepalive(110)]);
        assert_eq!(outline.end(), Lsn::new(120));
    }

    #[test]
    fn a_streamed_block_may_be_cut_off_after_it_but_not_within() {
        let mut outline = Outline::starting_at(Lsn::new(10), 2);
        assert_eq!(outline.see(&stream_start(5)).unwrap(), Streamed::Block(Xid::new(5)));
        assert!(!outline.is_cut());
        follow(&mut outline, &[stream_stop()]);
        assert!(outline.is_cut());
        assert_eq!(outline.end(), Lsn::new(10), "nothing has committed");
        assert_eq!(outline.see(&stream_commit(5, 50, 60)).unwrap(), Streamed::Ended(Xid::new(5)));
        assert_eq!(outline.end(), Lsn::new(60));
    }

    #[test]
    fn a_shape_told_in_a_streamed_transaction_counts_once_that_has_committed() {
        let mut outline = Outline::starting_at(Lsn::new(10), 2);
        let told = |outline: &Outline| outline.shapes().cloned().collect::<Vec<_>>();
        let StreamItem::Data { message: plain, .. } = relation(7) else { panic!("not data") };
        follow(&mut outline, &[stream_start(5), streamed(5, &relation(7)), stream_stop()]);
        assert!(told(&outline).is_empty());
        follow(
            &mut outline,
            &[stream_start(6), streamed(6, &relation(8)), stream_stop(), stream_abort(6, 6)],
        );
        follow(&mut outline, &[stream_commit(5, 50, 60)]);
        assert_eq!(told(&outline), [plain]);
    }

    #[test]
    fn what_cannot_stand_where_it_does_is_refused() {
        for items in
            [vec![commit(1, 2)], vec![begin(1, 2), begin(1, 2)], vec![data(b"?")], vec![data(b"R\0\0")]]
        {
            let mut outline = Outline::starting_at(Lsn::ZERO, 2);
            assert!(items.iter().any(|item| outline.see(item).is_err()), "{items:?}");
        }
    }
}
