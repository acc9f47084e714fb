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
use crate::pgoutput::StreamOptions;
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
    let gatherer =
        Gatherer { frames, reply_wanted: Arc::clone(&reply_wanted), gathers_until: None, nap: NAP_MIN };
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
    /// The next batch waits for company until then.
    gathers_until: Option<Instant>,
    nap: Duration,
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

    /// A batch that follows hard on another gives more a moment to arrive; one after a rest does not.
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
                Source::Quiet => {}
            }
            let left = self.gathers_until.map(|end| end.saturating_duration_since(Instant::now()));
            let Some(left) = left.filter(|left| !left.is_zero()) else { break None };
            self.nap = match batch.bytes - before {
                NAP_BYTES.. => NAP_MIN.max(self.nap / 2),
                _ => NAP_MAX.min(self.nap * 2),
            };
            // Not in the reactor: there each message would wake us.
            std::thread::sleep(self.nap.min(left));
            // What the reactor learnt meanwhile.
            tokio::task::yield_now().await;
        };
        let gathering = if batch.bytes >= DENSE_BYTES { GATHER_DENSE } else { GATHER };
        self.gathers_until = Some(Instant::now() + gathering);
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

/// How long a batch waits for company after the one before it; and after one that held much.
const GATHER: Duration = Duration::from_millis(1);
const GATHER_DENSE: Duration = Duration::from_millis(4);
const DENSE_BYTES: usize = 16 << 10;
/// How much of that between two looks: less where one look finds so much, because a unix socket holds little more,
/// and a walsender that finds it full stands still.
const NAP_MIN: Duration = Duration::from_micros(250);
const NAP_MAX: Duration = Duration::from_millis(1);
const NAP_BYTES: usize = 8 << 10;
/// Batches that wait to be taken away.
const BATCHES_MAX: usize = 2;
/// Beyond this a batch saves nothing.
const BATCH_ITEMS: usize = 4096;
const BATCH_BYTES: usize = 256 << 10;

#[derive(Default)]
struct Batch {
    items: Vec<StreamItem>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, item: StreamItem) {
        if let StreamItem::Data { message, .. } = &item {
            self.bytes += message.len();
        }
        self.items.push(item);
    }

    fn is_full(&self) -> bool {
        self.items.len() >= BATCH_ITEMS || self.bytes >= BATCH_BYTES
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
