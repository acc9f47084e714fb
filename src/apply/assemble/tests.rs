//! Claims about assembling: interleaved blocks, aborts, spilled transactions.

use proptest::prelude::*;

use super::*;
use crate::pg::{Lsn, Oid, PgTimestamp, RelationId};
use crate::pgoutput::{
    Begin, Commit, Insert, Relation, RelationColumn, ReplicaIdentity, StreamAbort, StreamStart, Tuple, Value,
    encode,
};

const VERSION: u8 = 2;

/// What came out: per committed transaction its xid, end, shapes and inserted texts.
#[derive(Debug, Default, PartialEq, Eq)]
struct Committed {
    xid: u32,
    end_lsn: u64,
    relations: usize,
    rows: Vec<u32>,
}

#[derive(Debug, Default)]
struct Collector {
    open: Option<Committed>,
    committed: Vec<Committed>,
}

impl Sink for Collector {
    fn event(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Begin(transaction) => {
                assert!(self.open.is_none(), "transactions come one after another");
                self.open = Some(Committed { xid: transaction.xid.get(), ..Committed::default() });
            }
            Event::Type(_) | Event::Truncate(_) => {}
            Event::Relation(_) => self.open.as_mut().unwrap().relations += 1,
            Event::Row { row: RowEvent::Insert { new }, .. } => {
                let text = new.values().next().and_then(Value::bytes).unwrap();
                let number = std::str::from_utf8(text).unwrap().trim_end_matches('x').parse().unwrap();
                self.open.as_mut().unwrap().rows.push(number);
            }
            Event::Row { .. } => unreachable!("only inserts are sent"),
            Event::Commit { end_lsn } => {
                let open = self.open.take().unwrap();
                self.committed.push(Committed { end_lsn: end_lsn.offset(), ..open });
            }
        }
        Ok(())
    }
}

fn insert(xid: Option<u32>, number: u32) -> Message {
    let text = format!("{number}{}", "x".repeat(40));
    let new: Tuple = [Value::Text(text.as_bytes())].into_iter().collect();
    Message::Insert(Insert { xid: xid.map(Xid::new), relation: RelationId::new(1), new })
}

fn relation(xid: u32) -> Message {
    let (namespace, name) = ("s".to_owned(), "t".to_owned());
    let column =
        RelationColumn { is_key: true, name: "id".into(), type_oid: Oid::new(23), type_modifier: -1 };
    Message::Relation(Relation {
        xid: Some(Xid::new(xid)),
        id: RelationId::new(1),
        namespace,
        name,
        replica_identity: ReplicaIdentity::Default,
        columns: vec![column],
    })
}

fn start(xid: u32, first_segment: bool) -> Message {
    Message::StreamStart(StreamStart { xid: Xid::new(xid), first_segment })
}

fn abort(xid: u32, subxid: u32) -> Message {
    Message::StreamAbort(StreamAbort { xid: Xid::new(xid), subxid: Xid::new(subxid), abort: None })
}

fn stream_commit(xid: u32, lsn: u64) -> Message {
    Message::StreamCommit(StreamCommit {
        xid: Xid::new(xid),
        flags: 0,
        commit_lsn: Lsn::new(lsn),
        end_lsn: Lsn::new(lsn + 1),
        commit_time: PgTimestamp::from_micros(0),
    })
}

fn begin(xid: u32, lsn: u64) -> Message {
    let (final_lsn, commit_time) = (Lsn::new(lsn), PgTimestamp::from_micros(0));
    Message::Begin(Begin { final_lsn, commit_time, xid: Xid::new(xid) })
}

fn commit(lsn: u64) -> Message {
    let (commit_lsn, end_lsn) = (Lsn::new(lsn), Lsn::new(lsn + 1));
    Message::Commit(Commit { flags: 0, commit_lsn, end_lsn, commit_time: PgTimestamp::from_micros(0) })
}

fn assemble(memory_bytes: usize, messages: impl IntoIterator<Item = Message>) -> Result<Vec<Committed>> {
    let limits = StashLimits { memory_bytes, directory: std::env::temp_dir() };
    let mut assembler = Assembler::new(VERSION, limits);
    let mut collector = Collector::default();
    for message in messages {
        assembler.push(encode(&message).unwrap(), &mut collector)?;
        assert!(assembler.memory <= memory_bytes, "memory stays below its bound");
    }
    Ok(collector.committed)
}

#[test]
fn aborted_subtransaction_leaves_no_rows_but_its_shapes() {
    let committed = assemble(
        1 << 20,
        [
            start(10, true),
            insert(Some(10), 1),
            relation(11),
            insert(Some(11), 2),
            insert(Some(12), 3),
            Message::StreamStop,
            abort(10, 12),
            abort(10, 11),
            start(10, false),
            insert(Some(10), 4),
            Message::StreamStop,
            stream_commit(10, 100),
        ],
    );
    let expected = Committed { xid: 10, end_lsn: 101, relations: 1, rows: vec![1, 4] };
    assert_eq!(committed.unwrap(), [expected]);
}

#[test]
fn an_aborted_transaction_leaves_nothing() {
    let messages =
        [start(10, true), insert(Some(10), 1), Message::StreamStop, abort(10, 10), begin(11, 5), commit(5)];
    let committed = assemble(1 << 20, messages).unwrap();
    assert_eq!(committed, [Committed { xid: 11, end_lsn: 6, ..Committed::default() }]);
}

#[test]
fn another_stream_makes_void_what_was_being_streamed() {
    let limits = StashLimits { memory_bytes: 1 << 20, directory: std::env::temp_dir() };
    let mut assembler = Assembler::new(VERSION, limits);
    let mut collector = Collector::default();
    for message in [start(10, true), insert(Some(10), 1), Message::StreamStop] {
        assembler.push(encode(&message).unwrap(), &mut collector).unwrap();
    }
    assembler.resume(Vec::new(), &mut collector).unwrap();
    assert_eq!(assembler.memory, 0);
    // It comes again, this time whole.
    for message in [begin(10, 100), insert(None, 1), commit(100)] {
        assembler.push(encode(&message).unwrap(), &mut collector).unwrap();
    }
    let expected = Committed { xid: 10, end_lsn: 101, relations: 0, rows: vec![1] };
    assert_eq!(collector.committed, [expected]);
    assembler.push(encode(&begin(11, 200)).unwrap(), &mut collector).unwrap();
    let refused = assembler.resume(Vec::new(), &mut collector);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Protocol);
}

#[test]
fn a_change_outside_a_transaction_breaks_the_protocol() {
    let error = assemble(0, [insert(None, 1)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    let error = assemble(0, [begin(1, 1), begin(2, 2)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
}

/// What one source session does next.
#[derive(Debug, Clone, Copy)]
enum Act {
    Insert,
    Savepoint,
    RollbackTo,
    Release,
    Commit,
    Abort,
}

/// A source session with an open transaction: what its commit would leave, by subtransaction.
#[derive(Debug, Default)]
struct Session {
    /// Open subtransactions, the top-level transaction first.
    nest: Vec<u32>,
    rows: Vec<(Vec<u32>, u32)>,
    sent: bool,
}

/// Runs sessions as a server would: every change is streamed in a block of its own or with the one before.
fn simulate(acts: &[(usize, Act)]) -> (Vec<Message>, Vec<Committed>) {
    let mut sessions: Vec<Session> = (0..3).map(|_| Session::default()).collect();
    let (mut next_xid, mut next_row, mut lsn) = (100, 0, 1_000);
    let (mut messages, mut expected) = (Vec::new(), Vec::new());
    for (who, act) in acts {
        let session = &mut sessions[who % 3];
        if session.nest.is_empty() {
            session.nest.push(next_xid);
            next_xid += 1;
        }
        let top = session.nest[0];
        match act {
            Act::Insert => {
                next_row += 1;
                let xid = *session.nest.last().unwrap();
                session.rows.push((session.nest.clone(), next_row));
                messages.extend([
                    start(top, !session.sent),
                    insert(Some(xid), next_row),
                    Message::StreamStop,
                ]);
                session.sent = true;
            }
            Act::Savepoint => {
                session.nest.push(next_xid);
                next_xid += 1;
            }
            Act::Release if session.nest.len() > 1 => {
                session.nest.pop();
            }
            Act::RollbackTo if session.nest.len() > 1 => {
                let gone = session.nest.pop().unwrap();
                // The server announces each subtransaction below it of which something was sent.
                let mut sub: Vec<u32> = session
                    .rows
                    .iter()
                    .filter(|(nest, _)| nest.contains(&gone))
                    .map(|(nest, _)| *nest.last().unwrap())
                    .collect();
                sub.dedup();
                messages.extend(sub.into_iter().map(|sub| abort(top, sub)));
                session.rows.retain(|(nest, _)| !nest.contains(&gone));
            }
            Act::Release | Act::RollbackTo => {}
            Act::Commit if session.sent => {
                lsn += 10;
                messages.push(stream_commit(top, lsn));
                let rows = session.rows.iter().map(|(_, row)| *row).collect();
                expected.push(Committed { xid: top, end_lsn: lsn + 1, relations: 0, rows });
                *session = Session::default();
            }
            Act::Commit => {
                // Nothing of it was streamed: it comes whole.
                lsn += 10;
                next_row += 1;
                messages.extend([begin(top, lsn), insert(None, next_row), commit(lsn)]);
                let rows = vec![next_row];
                expected.push(Committed { xid: top, end_lsn: lsn + 1, relations: 0, rows });
                *session = Session::default();
            }
            Act::Abort => {
                if session.sent {
                    messages.push(abort(top, top));
                }
                *session = Session::default();
            }
        }
    }
    (messages, expected)
}

proptest! {
    /// Each committed transaction comes once, whole, in commit order; what was rolled back never.
    #[test]
    fn any_legal_interleaving_comes_out_in_commit_order(
        acts in proptest::collection::vec(
            (0..3_usize, prop_oneof![
                6 => Just(Act::Insert), 2 => Just(Act::Savepoint), 1 => Just(Act::RollbackTo),
                1 => Just(Act::Release), 1 => Just(Act::Commit), 1 => Just(Act::Abort),
            ]),
            0..80,
        ),
        memory in 0..400_usize,
    ) {
        let (messages, expected) = simulate(&acts);
        prop_assert_eq!(assemble(memory, messages).unwrap(), expected);
    }
}
