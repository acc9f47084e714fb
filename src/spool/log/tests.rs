//! Claims about the log and its reader: crashes, damage, cut connections, what may be removed.

use std::fs::OpenOptions;

use proptest::prelude::*;

use super::super::reader::{Delivery, Reader};
use super::super::sample::{
    ORIGIN, begin, commit, keepalive, relation, row, stream_abort, stream_commit, stream_start, stream_stop,
    streamed,
};
use super::*;

fn log_in(folder: &tempfile::TempDir, segment_bytes: u64) -> Log {
    let mut log = Log::create(&folder.path().join("spool"), ORIGIN, Lsn::new(10)).unwrap();
    log.segment_bytes = segment_bytes;
    log.restart().unwrap();
    log
}

fn open(folder: &tempfile::TempDir, confirmed: Lsn) -> Result<Log, Unusable> {
    Log::open(&folder.path().join("spool"), ORIGIN, confirmed)
}

fn reader(folder: &tempfile::TempDir) -> Reader {
    Reader::open(&folder.path().join("spool"), 2, Arc::default()).unwrap()
}

/// All that a reader gives, the marks left out.
fn items(folder: &tempfile::TempDir, synced: &Synced) -> Result<Vec<StreamItem>, Unusable> {
    let mut reader = reader(folder);
    let mut all = Vec::new();
    loop {
        let deliveries = reader.next(synced)?;
        if deliveries.is_empty() {
            return Ok(all);
        }
        for delivery in deliveries {
            if let Delivery::Items(items) = delivery {
                all.extend(items);
            }
        }
    }
}

/// A transaction of one row that commits at `end - 1`.
fn transaction(end: u64) -> [StreamItem; 3] {
    [begin(1, end - 1), row(7), commit(end - 1, end)]
}

#[test]
fn gives_back_what_was_synced_and_not_what_follows_the_last_cut() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = log_in(&folder, SEGMENT_BYTES);
    log.append(&transaction(20)).unwrap();
    log.append(&[begin(2, 29), row(7)]).unwrap();
    let synced = log.sync().unwrap();
    assert_eq!(synced.end, Lsn::new(20));
    assert_eq!(items(&folder, &synced).unwrap(), transaction(20));
    drop(log);
    let log = open(&folder, Lsn::new(20)).unwrap();
    assert_eq!(log.synced(), synced);
}

#[test]
fn a_new_connection_begins_where_everything_is_durable() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = log_in(&folder, SEGMENT_BYTES);
    log.append(&transaction(20)).unwrap();
    log.sync().unwrap();
    log.append(&transaction(30)).unwrap();
    assert_eq!(log.restart().unwrap(), Lsn::new(20), "what was appended since is sent again");
    log.append(&transaction(30)).unwrap();
    let synced = log.sync().unwrap();
    assert_eq!(items(&folder, &synced).unwrap(), [transaction(20), transaction(30)].concat());
}

#[test]
fn readers_hear_of_a_new_connection_and_of_shapes_told_before_their_segment() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = log_in(&folder, 1);
    log.append(&[begin(1, 19), relation(7), row(7), commit(19, 20)]).unwrap();
    log.append(&transaction(30)).unwrap();
    let synced = log.sync().unwrap();
    let mut reading = reader(&folder);
    while !reading.next(&synced).unwrap().is_empty() {}
    reading.trim(Lsn::new(30)).unwrap();
    let mut later = reader(&folder);
    let StreamItem::Data { message, .. } = relation(7) else { panic!("not data") };
    assert_eq!(later.next(&synced).unwrap(), [Delivery::Resume { shapes: vec![message] }]);
    log.restart().unwrap();
    let synced = log.append(&[keepalive(40)]).and_then(|()| log.sync()).unwrap();
    let mut last = later.next(&synced).unwrap();
    assert_eq!(last.remove(0), Delivery::Resume { shapes: Vec::new() });
    assert_eq!(last, [Delivery::Items(vec![keepalive(40)])]);
}

#[test]
fn segments_that_a_streamed_transaction_lies_in_stay_until_it_is_applied() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = log_in(&folder, 1);
    let path = folder.path().join("spool");
    let files = || Directory::at(&path).segments().unwrap().iter().map(|(at, _)| *at).collect::<Vec<_>>();
    log.append(&transaction(20)).unwrap();
    log.append(&[stream_start(5), streamed(5, &row(7)), stream_stop()]).unwrap();
    log.append(&[transaction(30), transaction(40)].concat()).unwrap();
    let synced = log.sync().unwrap();
    let mut reading = reader(&folder);
    while !reading.next(&synced).unwrap().is_empty() {}
    let all = files();
    reading.trim(Lsn::new(19)).unwrap();
    assert_eq!(files(), all);
    reading.trim(Lsn::new(40)).unwrap();
    assert_eq!(files()[0], 2, "the first block of transaction 5 lies there");
    assert!(files().len() > 3);
    log.append(&[stream_commit(5, 49, 50)]).unwrap();
    log.append(&[keepalive(60)]).unwrap();
    let synced = log.sync().unwrap();
    while !reading.next(&synced).unwrap().is_empty() {}
    reading.trim(Lsn::new(49)).unwrap();
    assert_eq!(files()[0], 2);
    reading.trim(Lsn::new(60)).unwrap();
    assert_eq!(files().len(), 1);
    drop(log);
    open(&folder, Lsn::new(60)).unwrap();
}

#[test]
fn what_was_confirmed_and_is_not_there_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(open(&folder, Lsn::ZERO), Err(Unusable::Missing)));
    let mut log = log_in(&folder, 1);
    log.append(&[transaction(20), transaction(30), transaction(40)].concat()).unwrap();
    let synced = log.sync().unwrap();
    drop(log);
    assert!(matches!(open(&folder, Lsn::new(41)), Err(Unusable::Short { .. })));
    let other = Origin { migration: *b"another0", ..ORIGIN };
    let opened = Log::open(&folder.path().join("spool"), other, Lsn::ZERO);
    assert!(matches!(opened, Err(Unusable::Foreign(_))));
    fs::remove_file(folder.path().join("spool/0000000002.spool")).unwrap();
    assert!(matches!(open(&folder, Lsn::ZERO), Err(Unusable::Damaged(_))));
    assert!(matches!(items(&folder, &synced), Err(Unusable::Damaged(_))));
    fs::remove_file(folder.path().join("spool/0000000001.spool")).unwrap();
    assert!(matches!(open(&folder, Lsn::ZERO), Err(Unusable::Damaged(_))), "the first was not trimmed");
}

#[test]
fn only_its_owner_may_read_it() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let log = log_in(&folder, 1);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(log.directory.path()), 0o700);
    assert_eq!(mode(&log.directory.segment(1)), 0o600);
}

#[test]
fn one_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let log = log_in(&folder, 1);
    let second = std::thread::scope(|scope| {
        let second = scope.spawn(|| open(&folder, Lsn::ZERO).map(|log| log.synced()));
        drop(log);
        second.join().unwrap()
    });
    assert_eq!(second.unwrap().end, Lsn::new(10));
}

/// What a connection may bring at a cut.
#[derive(Debug, Clone, Copy)]
enum Piece {
    Transaction { rows: usize },
    Keepalive,
    Block { xid: u32, rows: usize },
    StreamCommit { xid: u32 },
    StreamAbort { xid: u32 },
    Sync,
}

fn piece() -> impl Strategy<Value = Piece> {
    let xid = 5_u32..8;
    prop_oneof![
        3 => (0_usize..40).prop_map(|rows| Piece::Transaction { rows }),
        1 => Just(Piece::Keepalive),
        2 => (xid.clone(), 0_usize..40).prop_map(|(xid, rows)| Piece::Block { xid, rows }),
        1 => xid.clone().prop_map(|xid| Piece::StreamCommit { xid }),
        1 => xid.prop_map(|xid| Piece::StreamAbort { xid }),
        2 => Just(Piece::Sync),
    ]
}

fn items_of(piece: Piece, end: u64) -> Vec<StreamItem> {
    let rows = |rows: usize| std::iter::repeat_with(|| row(7)).take(rows);
    match piece {
        Piece::Transaction { rows: count } => {
            std::iter::once(begin(1, end - 1)).chain(rows(count)).chain([commit(end - 1, end)]).collect()
        }
        Piece::Keepalive => vec![keepalive(end)],
        Piece::Block { xid, rows: count } => std::iter::once(stream_start(xid))
            .chain(rows(count).map(|row| streamed(xid, &row)))
            .chain([stream_stop()])
            .collect(),
        Piece::StreamCommit { xid } => vec![stream_commit(xid, end - 1, end)],
        Piece::StreamAbort { xid } => vec![stream_abort(xid, xid)],
        Piece::Sync => Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// A crash may leave any tail behind what was synced, also one whose bytes were changed: what is read then
    /// begins with all that was synced, and is a beginning of what was appended.
    #[test]
    fn a_crash_loses_nothing_that_was_synced(
        pieces in proptest::collection::vec(piece(), 1..40),
        segment_bytes in 1_u64..2_000,
        keep in any::<proptest::sample::Index>(),
        flip in any::<proptest::sample::Index>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut log = log_in(&folder, segment_bytes);
        let (mut appended, mut durable, mut confirmed) = (Vec::new(), 0, Lsn::new(10));
        for (at, piece) in pieces.into_iter().enumerate() {
            if let Piece::Sync = piece {
                confirmed = log.sync().unwrap().end;
                durable = appended.len();
            } else {
                let items = items_of(piece, 20 + at as u64 * 10);
                log.append(&items).unwrap();
                appended.extend(items);
            }
        }
        // Written, not synced; then the crash.
        log.flush().unwrap();
        let (synced, written, path) = (log.synced(), log.written, log.directory.segment(log.sequence));
        drop(log);
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let tail = written - synced.bytes;
        if tail > 0 {
            file.set_len(synced.bytes + keep.index(tail as usize + 1) as u64).unwrap();
            let at = synced.bytes + flip.index(tail as usize) as u64;
            let mut byte = [0];
            if at < file.metadata().unwrap().len() {
                file.read_exact_at(&mut byte, at).unwrap();
                file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            }
        }
        let log = open(&folder, confirmed).unwrap();
        prop_assert!(log.synced().end >= confirmed);
        let read = items(&folder, &log.synced()).unwrap();
        prop_assert!(read.len() >= durable);
        prop_assert_eq!(&read[..], &appended[..read.len()]);
    }

    /// A byte changed in what was synced is never read as something else.
    #[test]
    fn a_changed_byte_is_noticed(
        pieces in proptest::collection::vec(piece(), 1..20),
        segment_bytes in 1_u64..1_000,
        which in any::<proptest::sample::Index>(),
        flip in any::<proptest::sample::Index>(),
        bit in 0_u8..8,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut log = log_in(&folder, segment_bytes);
        for (at, piece) in pieces.into_iter().enumerate() {
            log.append(&items_of(piece, 20 + at as u64 * 10)).unwrap();
        }
        let synced = log.sync().unwrap();
        let segments = log.directory.segments().unwrap();
        let (sequence, length) = segments[which.index(segments.len())];
        let path = log.directory.segment(sequence);
        drop(log);
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let at = flip.index(length as usize) as u64;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ (1 << bit)], at).unwrap();
        prop_assert!(matches!(items(&folder, &synced), Err(Unusable::Damaged(_))));
        // The last segment is cut off at the damage: what was confirmed beyond it is then missed.
        match open(&folder, synced.end) {
            Err(_) => {}
            Ok(log) => prop_assert!(log.synced().end >= synced.end, "nothing is missing by its position"),
        }
    }
}
