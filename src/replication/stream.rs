//! The stream itself: `START_REPLICATION`, items in, positions out.
//!
//! Hazard: a walsender that hears nothing for `wal_sender_timeout` ends the connection, and on the next one
//! sends the same transaction again, for ever (P18). So reading and reporting are two halves that live in
//! two tasks; neither waits for the other, and neither waits for apply.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{BufMut, BytesMut};
use futures_util::FutureExt;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::reader_thread::ReaderThread;
use super::stream_item::{Reply, StreamItem};
use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Conninfo, Lsn, PgTimestamp, SlotName};
use crate::pgoutput::{Commit, StreamOptions};
use crate::wire::{Connection, ConnectionSettings, CopyBothReader, CopyBothWriter};

/// What we report to the walsender. All three are *end* positions: the byte after the last one handled.
///
/// Invariant: `flushed <= applied <= received`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FeedbackPositions {
    /// Bytes read from the walsender.
    pub received: Lsn,
    /// Durable on the target, or on a disk of ours that the target knows of: the source may discard WAL before it.
    pub flushed: Lsn,
    /// Committed on the target.
    pub applied: Lsn,
}

/// The reading half: items in batches, read on a thread of its own. Dropped, it reads no more.
#[derive(Debug)]
pub struct StreamReader {
    batches: mpsc::Receiver<Result<Vec<StreamItem>>>,
    _reading: JoinSet<()>,
    thread: ReaderThread,
}

/// The reporting half.
#[derive(Debug)]
pub struct FeedbackWriter {
    frames: CopyBothWriter,
    reply_wanted: Arc<Notify>,
    confirmed: Lsn,
    _thread: ReaderThread,
}

/// Connects to `source`, and begins streaming from `slot` at `start`, an end position; the server goes back no further than the
/// slot's confirmed position, whatever `start` says.
///
/// # Errors
/// `Slot` if the slot is missing, lost or active elsewhere; `Local` if no thread can be had; else as
/// [`Connection::connect`].
/// (docs: `protocol-replication`, START_REPLICATION)
pub async fn start_stream(
    source: &Conninfo,
    slot: &SlotName,
    start: Lsn,
    options: &StreamOptions<'_>,
) -> Result<(StreamReader, FeedbackWriter)> {
    let thread = ReaderThread::start()?;
    let connecting = {
        let source = source.clone();
        let settings = ConnectionSettings::replication("stream");
        async move { Connection::connect(&source, &settings).await }
    };
    // The socket belongs to the reactor on which it was opened.
    let connecting = thread.reactor().spawn(connecting.in_current_span());
    let connection = connecting
        .await
        .map_err(|cause| Error::new(ErrorKind::Bug, "connect to stream").because(cause))??;
    let command = format!("START_REPLICATION SLOT {slot} LOGICAL {start} {options}");
    let (frames, writer) = connection.copy_both(&command).await.map_err(|error| {
        let doing = format!("stream from slot {slot} at {start}");
        match error.kind() {
            // Another walsender may still hold the slot for the moment that our last connection takes to die.
            ErrorKind::Connect => Error::new(ErrorKind::Connect, doing).because(error),
            _ => Error::new(ErrorKind::Slot, doing)
                .hint(
                    "If the slot is gone or lost its WAL, the migration cannot go on from here: drop what was \
                     copied to the target, raise max_slot_wal_keep_size on the source, and start anew.",
                )
                .because(error),
        }
    })?;
    let reply_wanted = Arc::new(Notify::new());
    let (batches, received) = mpsc::channel(BATCHES_MAX);
    let gatherer = Gatherer {
        frames,
        reply_wanted: Arc::clone(&reply_wanted),
        last: None,
        nap: NAP_MIN,
        pace: Pace::new(),
    };
    let mut reading = JoinSet::new();
    reading.spawn_on(gatherer.run(batches).in_current_span(), thread.reactor());
    Ok((
        StreamReader { batches: received, _reading: reading, thread: thread.clone() },
        FeedbackWriter { frames: writer, reply_wanted, confirmed: Lsn::ZERO, _thread: thread },
    ))
}

impl StreamReader {
    /// The next items, at least one: those that had arrived. Empty once the walsender has ended the stream.
    ///
    /// # Errors
    /// `Connect` if the connection broke, `Protocol` for a malformed item; given after the items before it.
    /// # Cancel safety
    /// Safe.
    pub async fn next_batch(&mut self) -> Result<Vec<StreamItem>> {
        self.batches.recv().await.unwrap_or_else(|| Ok(Vec::new()))
    }

    /// The runtime of the reading thread: what takes the batches there need not be woken from another.
    #[must_use]
    pub fn runtime(&self) -> tokio::runtime::Handle {
        self.thread.reactor().clone()
    }
}

/// Reads on the thread; what nobody takes away soon makes it wait, and with it the source.
struct Gatherer {
    frames: CopyBothReader,
    reply_wanted: Arc<Notify>,
    /// When the last batch was handed on.
    last: Option<Instant>,
    nap: Duration,
    pace: Pace,
}

/// Why gathering ended.
enum Source {
    Quiet,
    Full,
    /// By an error, or of its own accord.
    Ended(Result<()>),
}

impl Gatherer {
    async fn run(mut self, batches: mpsc::Sender<Result<Vec<StreamItem>>>) {
        loop {
            let mut batch = Batch::default();
            let ended = self.fill(&mut batch).await;
            if !batch.items.is_empty() {
                if batches.send(Ok(batch.items)).await.is_err() {
                    return;
                }
                // Whoever takes it may be on this thread, and a nap would keep it from that.
                tokio::task::yield_now().await;
            }
            match ended {
                Some(Ok(())) => return,
                Some(Err(error)) => {
                    // Nobody who listens is nobody whom it concerns.
                    let _ = batches.send(Err(error)).await;
                    return;
                }
                None => {}
            }
        }
    }

    /// A batch that follows hard on another gives more a moment to arrive; one after a rest does not, nor one that
    /// ends with a transaction of just now where little comes: somebody waits for that.
    async fn fill(&mut self, batch: &mut Batch) -> Option<Result<()>> {
        match self.next().await {
            Ok(Some(first)) => batch.push(first),
            Ok(None) => return Some(Ok(())),
            Err(error) => return Some(Err(error)),
        }
        let ended = loop {
            let before = batch.bytes;
            match self.gather(batch) {
                Source::Ended(how) => break Some(how),
                Source::Full => break None,
                Source::Quiet if batch.is_prompt && self.pace.is_slow() => break None,
                Source::Quiet => {}
            }
            let left = self.last.map(|last| self.pace.gathering().saturating_sub(last.elapsed()));
            let Some(left) = left.filter(|left| !left.is_zero()) else { break None };
            self.nap = match batch.bytes - before {
                // The rest of a transaction follows at once.
                _ if self.pace.is_slow() => NAP_SLOW,
                NAP_BYTES.. => NAP_MIN.max(self.nap / 2),
                _ => NAP_MAX.min(self.nap * 2),
            };
            // Not in the reactor: there each message would wake us.
            std::thread::sleep(self.nap.min(left));
            // What the reactor learnt meanwhile.
            tokio::task::yield_now().await;
        };
        let now = Instant::now();
        self.last = Some(now);
        self.pace.observe(batch.bytes, now);
        ended
    }

    /// Takes what has arrived, without waiting.
    fn gather(&mut self, batch: &mut Batch) -> Source {
        while !batch.is_full() {
            match self.next().now_or_never() {
                Some(Ok(Some(item))) => batch.push(item),
                Some(Ok(None)) => return Source::Ended(Ok(())),
                Some(Err(error)) => return Source::Ended(Err(error)),
                None => return Source::Quiet,
            }
        }
        Source::Full
    }

    async fn next(&mut self) -> Result<Option<StreamItem>> {
        let Some(payload) = self.frames.next().await? else {
            return Ok(None);
        };
        let (item, reply) = StreamItem::parse(payload)
            .map_err(|cause| Error::new(ErrorKind::Protocol, "read the stream").because(cause))?;
        if reply == Reply::AtOnce {
            self.reply_wanted.notify_one();
        }
        Ok(Some(item))
    }
}

/// Between two looks while a batch waits for company: less where one look finds so much, because a unix socket holds little more,
/// and a walsender that finds it full stands still.
const NAP_MIN: Duration = Duration::from_micros(250);
const NAP_MAX: Duration = Duration::from_millis(1);
const NAP_BYTES: usize = 8 << 10;
/// Where the end of a transaction is all that is waited for.
const NAP_SLOW: Duration = Duration::from_micros(100);
/// Batches that wait to be taken away.
const BATCHES_MAX: usize = 2;
/// Beyond this a batch saves nothing.
const BATCH_ITEMS: usize = 4096;
const BATCH_BYTES: usize = 256 << 10;

#[derive(Default)]
struct Batch {
    items: Vec<StreamItem>,
    bytes: usize,
    /// It ends with a transaction that had just committed when it was sent.
    is_prompt: bool,
}

impl Batch {
    fn push(&mut self, item: StreamItem) {
        if let StreamItem::Data { message, sent, .. } = &item {
            self.bytes += message.len();
            self.is_prompt =
                Commit::peek(message).is_some_and(|commit| sent.since(commit.commit_time) < LATE);
        }
        self.items.push(item);
    }

    fn is_full(&self) -> bool {
        self.items.len() >= BATCH_ITEMS || self.bytes >= BATCH_BYTES
    }
}

/// A stream that is so late is caught up with, and batches are what that is quick by.
const LATE: Duration = Duration::from_millis(50);

/// How much comes: what is much comes cheaper in large batches, for the walsender, too.
struct Pace {
    since: Instant,
    bytes: usize,
    /// Bytes a second, of late.
    rate: f64,
}

impl Pace {
    /// Some three thousand small transactions a second: a walsender that goes through a backlog is several times as
    /// fast.
    const SLOW: f64 = 1e6;
    const DENSE: f64 = 4e6;
    /// What is looked back at.
    const WINDOW: Duration = Duration::from_millis(10);

    fn new() -> Pace {
        Pace { since: Instant::now(), bytes: 0, rate: 0.0 }
    }

    fn observe(&mut self, bytes: usize, now: Instant) {
        self.bytes += bytes;
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= Pace::WINDOW {
            *self = Pace { since: now, bytes: 0, rate: self.bytes as f64 / elapsed.as_secs_f64() };
        }
    }

    fn is_slow(&self) -> bool {
        self.rate < Pace::SLOW
    }

    /// How long a batch waits for company after the one before it.
    fn gathering(&self) -> Duration {
        Duration::from_millis(if self.rate > Pace::DENSE { 4 } else { 1 })
    }
}

impl FeedbackWriter {
    /// Waits until the walsender wants a status update at once.
    ///
    /// # Cancel safety
    /// Safe: a wish that was not awaited is kept.
    pub async fn reply_wanted(&self) {
        self.reply_wanted.notified().await;
    }

    /// Reports positions, and asks for a keepalive in return: it tells where the walsender stands, which is
    /// how an idle database keeps its slot moving (P19).
    ///
    /// `flushed` lets the source discard WAL, so it never runs ahead of a COMMIT that the target has made durable.
    ///
    /// # Errors
    /// `Connect` if the stream is gone; safe to report the same positions on the next one.
    /// (docs: `protocol-replication`, Standby status update)
    pub async fn report(&mut self, positions: FeedbackPositions) -> Result<()> {
        let FeedbackPositions { received, flushed, applied } = positions;
        assert!(flushed <= applied && applied <= received, "feedback out of order: {positions:?}");
        assert!(
            flushed >= self.confirmed,
            "confirmed position moved back to {flushed} from {}",
            self.confirmed
        );
        self.confirmed = flushed;
        let mut message = BytesMut::with_capacity(34);
        message.put_u8(b'r');
        for position in [received, flushed, applied] {
            message.put_u64(position.offset());
        }
        message.put_i64(PgTimestamp::from(SystemTime::now()).micros());
        message.put_u8(1);
        self.frames.send(&message).await
    }

    /// Ends the stream from our side.
    ///
    /// # Errors
    /// `Connect` if it is gone already.
    pub async fn finish(self) -> Result<()> {
        self.frames.finish().await
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn batch(messages: &[&'static [u8]], late: Duration) -> Batch {
        let sent = PgTimestamp::from_micros(i64::try_from(late.as_micros()).unwrap_or(i64::MAX));
        let mut batch = Batch::default();
        for message in messages {
            let message = Bytes::from_static(message);
            batch.push(StreamItem::Data { start: Lsn::ZERO, wal_end: Lsn::ZERO, sent, message });
        }
        batch
    }

    #[test]
    fn a_batch_is_prompt_where_a_transaction_of_just_now_ends() {
        const COMMIT: &[u8] = b"C\0--------++++++++\0\0\0\0\0\0\0\x01";
        assert!(batch(&[b"B", b"I", COMMIT], Duration::from_millis(2)).is_prompt);
        assert!(!batch(&[b"B", b"I", COMMIT], LATE * 2).is_prompt);
        assert!(!batch(&[COMMIT, b"B"], Duration::ZERO).is_prompt);
        assert!(!batch(&[b"C\0"], Duration::ZERO).is_prompt);
    }

    #[test]
    fn the_pace_is_that_of_late() {
        let mut pace = Pace::new();
        let mut now = pace.since;
        assert!(pace.is_slow());
        for (bytes, is_slow, gathering) in
            [(1_000, true, 1), (30_000, false, 1), (60_000, false, 4), (1_000, true, 1)]
        {
            for _ in 0..2 {
                now += Pace::WINDOW / 2;
                pace.observe(bytes / 2, now);
            }
            assert_eq!((pace.is_slow(), pace.gathering().as_millis()), (is_slow, gathering), "{bytes} bytes");
        }
    }
}
