//! Assembles decoded messages into transactions, in commit order.
//!
//! Hazard: streamed blocks of several transactions interleave, and a subtransaction may abort after its
//! changes were sent. Nothing of a streamed transaction leaves here until its commit has been seen; then it
//! is replayed without what was rolled back. Other transactions are sent only once they have committed and
//! pass straight through.
//!
//! Shapes (`Relation`, `Type`) are never cut out: the server sends a shape once per top-level transaction,
//! from whichever subtransaction needed it first, and does not send it again when that one aborts.
//! See PostgreSQL docs, `protocol-logical-replication`; server side: reorderbuffer.c, pgoutput.c.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;

use bytes::Bytes;

use super::event::{Event, RowEvent, SourceTransaction};
use super::stash::Stash;
use crate::error::{Error, ErrorKind, Result};
use crate::pg::Xid;
use crate::pgoutput::{Decoder, Message, StreamCommit};

/// Takes what the assembler gives out.
pub(super) trait Sink {
    /// Takes one step; an error stops the assembler.
    fn event(&mut self, event: Event) -> Result<()>;
}

/// Where transactions that are still streamed may wait.
#[derive(Debug, Clone)]
pub(super) struct StashLimits {
    /// Bytes of memory for all of them.
    pub(super) memory_bytes: usize,
    /// Where files are made beyond that.
    pub(super) directory: PathBuf,
}

/// A transaction still in progress on the source.
#[derive(Debug, Default)]
struct Stream {
    stash: Stash,
    /// Rolled-back subtransactions of which something was sent. The server announces only those, so the set
    /// is as small as the number of savepoints open when blocks were cut, not as that of all rollbacks.
    aborted: HashSet<Xid>,
}

/// Where the stream of messages stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// Between transactions.
    Idle,
    /// Between `Begin` and `Commit`.
    Transaction,
    /// Between `StreamStart` and `StreamStop`.
    Block { xid: Xid },
}

/// Turns messages into [`Event`]s of committed transactions.
#[derive(Debug)]
pub(super) struct Assembler {
    version: u8,
    decoder: Decoder,
    position: Position,
    streams: HashMap<Xid, Stream>,
    memory: usize,
    limits: StashLimits,
}

impl Assembler {
    pub(super) fn new(protocol_version: u8, limits: StashLimits) -> Assembler {
        Assembler {
            version: protocol_version,
            decoder: Decoder::new(protocol_version),
            position: Position::Idle,
            streams: HashMap::new(),
            memory: 0,
            limits,
        }
    }

    /// Whether a committed transaction has been begun and not finished.
    ///
    /// Streamed transactions do not count: theirs is a commit that lies ahead of everything sent so far.
    pub(super) fn in_transaction(&self) -> bool {
        self.position == Position::Transaction
    }

    /// Begins with another stream: forgets the transactions that were still streamed, as they will come again, and
    /// tells `sink` of the shapes that were announced before it.
    ///
    /// # Errors
    /// `Protocol` in the middle of a transaction, or for a message that is no shape.
    pub(super) fn resume(&mut self, shapes: Vec<Bytes>, sink: &mut impl Sink) -> Result<()> {
        if self.position != Position::Idle {
            return Err(broken("begin another stream in the middle of a transaction"));
        }
        self.streams.clear();
        self.memory = 0;
        for raw in shapes {
            match self.decode(raw)? {
                Message::Relation(relation) => sink.event(Event::Relation(relation))?,
                Message::Type(announced) => sink.event(Event::Type(announced))?,
                _ => return Err(broken("be told of tables by what is no description of one")),
            }
        }
        Ok(())
    }

    /// Takes the next message of the stream.
    ///
    /// # Errors
    /// `Protocol` for a message that breaks the protocol, `Local` if the stash cannot be written, and
    /// whatever `sink` reports.
    pub(super) fn push(&mut self, raw: Bytes, sink: &mut impl Sink) -> Result<()> {
        match self.position {
            Position::Block { xid } => {
                let message = self.decode(raw.clone())?;
                self.in_block(xid, &raw, message)
            }
            Position::Idle | Position::Transaction => {
                let message = self.decode(raw)?;
                self.outside(message, sink)
            }
        }
    }

    fn decode(&mut self, raw: Bytes) -> Result<Message> {
        self.decoder.decode(raw).map_err(|error| broken("decode the stream").because(error))
    }

    fn in_block(&mut self, top: Xid, raw: &Bytes, message: Message) -> Result<()> {
        match message {
            Message::StreamStop => {
                self.position = Position::Idle;
                Ok(())
            }
            Message::Relation(_)
            | Message::Type(_)
            | Message::Insert(_)
            | Message::Update(_)
            | Message::Delete(_)
            | Message::Truncate(_) => self.keep(top, raw),
            Message::Logical(_) | Message::Origin(_) => Ok(()),
            Message::Begin(_)
            | Message::Commit(_)
            | Message::StreamStart(_)
            | Message::StreamCommit(_)
            | Message::StreamAbort(_) => Err(broken("follow a streamed block that holds no changes")),
        }
    }

    fn keep(&mut self, top: Xid, raw: &Bytes) -> Result<()> {
        self.memory += self.streams.entry(top).or_default().stash.push(raw);
        while self.memory > self.limits.memory_bytes {
            let Some(largest) = self.streams.values_mut().max_by_key(|stream| stream.stash.memory()) else {
                break;
            };
            self.memory -= largest.stash.memory();
            largest.stash.spill(&self.limits.directory).map_err(|error| self.cannot_stash(error))?;
        }
        Ok(())
    }

    fn outside(&mut self, message: Message, sink: &mut impl Sink) -> Result<()> {
        match (message, self.position) {
            (Message::Begin(begin), Position::Idle) => {
                self.position = Position::Transaction;
                let (xid, final_lsn, commit_time) = (begin.xid, begin.final_lsn, begin.commit_time);
                sink.event(Event::Begin(SourceTransaction { xid, final_lsn, commit_time }))
            }
            (Message::Commit(commit), Position::Transaction) => {
                self.position = Position::Idle;
                sink.event(Event::Commit { end_lsn: commit.end_lsn })
            }
            (Message::StreamStart(start), Position::Idle) => {
                self.position = Position::Block { xid: start.xid };
                if start.first_segment {
                    // A first block of a transaction that is already known can only be a resend.
                    self.forget(start.xid);
                }
                Ok(())
            }
            (Message::StreamCommit(commit), Position::Idle) => self.replay(commit, sink),
            (Message::StreamAbort(abort), Position::Idle) => {
                if abort.subxid == abort.xid {
                    self.forget(abort.xid);
                } else if let Some(stream) = self.streams.get_mut(&abort.xid) {
                    stream.aborted.insert(abort.subxid);
                }
                Ok(())
            }
            // An origin is named between Begin and the first change; a logical message concerns no table.
            (Message::Origin(_) | Message::Logical(_), _) => Ok(()),
            (message, Position::Transaction) => match change(message) {
                Some((_, event)) => sink.event(event),
                None => Err(broken("follow a transaction that holds what is not a change")),
            },
            (_, Position::Idle | Position::Block { .. }) => {
                Err(broken("follow a change outside a transaction"))
            }
        }
    }

    fn forget(&mut self, xid: Xid) -> Option<Stream> {
        let stream = self.streams.remove(&xid)?;
        self.memory -= stream.stash.memory();
        Some(stream)
    }

    fn replay(&mut self, commit: StreamCommit, sink: &mut impl Sink) -> Result<()> {
        // A transaction whose every block was empty has nothing kept; its commit still moves the positions.
        let Stream { stash, aborted } = self.forget(commit.xid).unwrap_or_default();
        let (xid, final_lsn, commit_time) = (commit.xid, commit.commit_lsn, commit.commit_time);
        sink.event(Event::Begin(SourceTransaction { xid, final_lsn, commit_time }))?;
        let mut decoder = Decoder::inside(self.version, commit.xid);
        let mut replay = stash.replay().map_err(|error| self.cannot_stash(error))?;
        while let Some(raw) = replay.next().map_err(|error| self.cannot_stash(error))? {
            let message =
                decoder.decode(raw).map_err(|error| broken("decode what was laid aside").because(error))?;
            let Some((subxid, event)) = change(message) else {
                return Err(broken("replay what is not a change"));
            };
            if subxid.is_none_or(|subxid| !aborted.contains(&subxid)) {
                sink.event(event)?;
            }
        }
        sink.event(Event::Commit { end_lsn: commit.end_lsn })
    }

    fn cannot_stash(&self, error: io::Error) -> Error {
        Error::new(
            ErrorKind::Local,
            format!("lay streamed transactions aside in {}", self.limits.directory.display()),
        )
        .hint("Give it more disk space, or point TMPDIR at a larger file system.")
        .because(error)
    }
}

/// A change as an event, and the subtransaction that an abort would cut it out with.
fn change(message: Message) -> Option<(Option<Xid>, Event)> {
    match message {
        Message::Relation(relation) => Some((None, Event::Relation(relation))),
        Message::Type(type_name) => Some((None, Event::Type(type_name))),
        Message::Insert(insert) => {
            let row = RowEvent::Insert { new: insert.new };
            Some((insert.xid, Event::Row { relation: insert.relation, row }))
        }
        Message::Update(update) => {
            let row = RowEvent::Update { old: update.old, new: update.new };
            Some((update.xid, Event::Row { relation: update.relation, row }))
        }
        Message::Delete(delete) => {
            let row = RowEvent::Delete { old: delete.old };
            Some((delete.xid, Event::Row { relation: delete.relation, row }))
        }
        Message::Truncate(truncate) => Some((truncate.xid, Event::Truncate(truncate))),
        Message::Begin(_)
        | Message::Commit(_)
        | Message::Origin(_)
        | Message::Logical(_)
        | Message::StreamStart(_)
        | Message::StreamStop
        | Message::StreamCommit(_)
        | Message::StreamAbort(_) => None,
    }
}

fn broken(doing: &str) -> Error {
    Error::new(ErrorKind::Protocol, doing)
}

#[cfg(test)]
mod tests;
