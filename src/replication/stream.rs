//! The stream itself: `START_REPLICATION`, items in, positions out.
//!
//! Hazard: a walsender that hears nothing for `wal_sender_timeout` ends the connection, and on the next one
//! sends the same transaction again, for ever (P18). So reading and reporting are two halves that live in
//! two tasks; neither waits for the other, and neither waits for apply.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{BufMut, BytesMut};
use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::stream_item::{Reply, StreamItem};
use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Lsn, PgTimestamp, SlotName};
use crate::pgoutput::StreamOptions;
use crate::wire::{Connection, CopyBothReader, CopyBothWriter};

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

/// The reading half.
#[derive(Debug)]
pub struct StreamReader {
    frames: CopyBothReader,
    reply_wanted: Arc<Notify>,
    deferred: Option<Error>,
    last_batch: Option<Instant>,
}

/// The reporting half.
#[derive(Debug)]
pub struct FeedbackWriter {
    frames: CopyBothWriter,
    reply_wanted: Arc<Notify>,
    confirmed: Lsn,
}

/// Begins streaming from `slot` at `start`, an end position; the server goes back no further than the
/// slot's confirmed position, whatever `start` says.
///
/// # Errors
/// `Slot` if the slot is missing, lost or active elsewhere; else `Connect`.
/// (docs: `protocol-replication`, START_REPLICATION)
pub async fn start_stream(
    connection: Connection,
    slot: &SlotName,
    start: Lsn,
    options: &StreamOptions<'_>,
) -> Result<(StreamReader, FeedbackWriter)> {
    let command = format!("START_REPLICATION SLOT {slot} LOGICAL {start} {options}");
    let (reader, writer) = connection.copy_both(&command).await.map_err(|error| {
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
    Ok((
        StreamReader {
            frames: reader,
            reply_wanted: Arc::clone(&reply_wanted),
            deferred: None,
            last_batch: None,
        },
        FeedbackWriter { frames: writer, reply_wanted, confirmed: Lsn::ZERO },
    ))
}

impl StreamReader {
    /// The next item; `None` once the walsender has ended the stream.
    ///
    /// # Errors
    /// `Connect` if the connection broke, `Protocol` for a malformed item.
    /// # Cancel safety
    /// Safe: a half-read frame stays in the reader.
    pub async fn next(&mut self) -> Result<Option<StreamItem>> {
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

impl StreamReader {
    /// The next item, and with it those that have arrived already, up to about `items_max` and `bytes_max`.
    /// Empty once the walsender has ended the stream.
    ///
    /// The walsender sends message by message, and waking somebody for each costs more than the message. So a
    /// batch that follows hard on another waits a moment for more to arrive; one after a rest does not.
    ///
    /// # Errors
    /// As [`StreamReader::next`]; items read before the error are given first, and the error with the next call.
    /// # Cancel safety
    /// Not safe: items of an unfinished batch are lost, and come again only on a new stream.
    pub async fn next_batch(&mut self, items_max: usize, bytes_max: usize) -> Result<Vec<StreamItem>> {
        let mut batch = Batch { items: Vec::new(), bytes: 0, items_max, bytes_max };
        let first = match self.deferred.take() {
            Some(error) => return Err(error),
            None => self.next().await?,
        };
        let Some(first) = first else { return Ok(Vec::new()) };
        batch.push(first);
        if self.gather(&mut batch) == Source::Quiet {
            let gathering = self.last_batch.map(|last| last + GATHER).filter(|end| *end > Instant::now());
            if let Some(end) = gathering {
                tokio::time::sleep_until(end).await;
                self.gather(&mut batch);
            }
        }
        self.last_batch = Some(Instant::now());
        Ok(batch.items)
    }

    /// Takes what has arrived, without waiting.
    fn gather(&mut self, batch: &mut Batch) -> Source {
        while !batch.is_full() {
            match self.next().now_or_never() {
                Some(Ok(Some(item))) => batch.push(item),
                Some(Ok(None)) => return Source::Ended,
                Some(Err(error)) => {
                    self.deferred = Some(error);
                    return Source::Ended;
                }
                None => return Source::Quiet,
            }
        }
        Source::More
    }
}

/// How long a batch waits for more after the one before it.
const GATHER: Duration = Duration::from_millis(1);

/// Why gathering ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Quiet,
    More,
    Ended,
}

struct Batch {
    items: Vec<StreamItem>,
    bytes: usize,
    items_max: usize,
    bytes_max: usize,
}

impl Batch {
    fn push(&mut self, item: StreamItem) {
        if let StreamItem::Data { message, .. } = &item {
            self.bytes += message.len();
        }
        self.items.push(item);
    }

    fn is_full(&self) -> bool {
        self.items.len() >= self.items_max || self.bytes >= self.bytes_max
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
