//! Joins `COPY … TO STDOUT` on one server to `COPY … FROM STDIN` on another.
//!
//! Hazard: either side may fail while the other one is in full flow. The target's side is read all the while,
//! so its error is seen at once and two full socket buffers never wait for each other; and after any failure
//! both connections are either back at ReadyForQuery or refuse further use. A dropped future leaves them in
//! the middle of a COPY, which is refusal too.
//!
//! One task does both directions: the kernel's buffers overlap the work of the two servers, and what a core
//! can pass on is several times what a COPY can produce. Memory is one [`Ring`] whatever the size of a row.
//! Where there is a limit ([`Throttle`]) the source is not read for a while; it waits as it would for a slow target.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Sleep;

use crate::error::{Error, ErrorKind, Result};
use crate::wire::connection::{Connection, Phase, hung_up};
use crate::wire::copy::Direction;
use crate::wire::message::BackendMessage;
use crate::wire::ring::Ring;
use crate::wire::throttle::Throttle;

/// Bytes under way in one splice.
const RING_BYTES: usize = 256 << 10;

/// Read this much, if it is there, before writing: a TLS read brings one record at a time.
const BATCH_BYTES: usize = 128 << 10;

/// Beyond this many bytes the source is read by naps; a short copy ends before one would pay.
const WATCHED_BYTES: u64 = 1 << 20;

/// How long a connection may take to come back to ReadyForQuery after a failure of the other one.
const UNWIND_TIMEOUT: Duration = Duration::from_secs(30);

/// Progress of splices, for whoever watches, and the limit that they keep to.
#[derive(Debug, Default)]
pub struct Meter {
    bytes: AtomicU64,
    throttle: Throttle,
}

impl Meter {
    /// Counts from zero, and holds what it counts to that limit.
    #[must_use]
    pub fn throttled(throttle: Throttle) -> Meter {
        Meter { bytes: AtomicU64::new(0), throttle }
    }

    /// Adds bytes that went another way.
    pub(crate) fn count(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.throttle.spend(bytes);
    }

    /// Adds bytes that another process has let pass, by its own limit.
    pub(crate) fn count_others(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Waits until more may pass: for what goes another way than through a splice.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn until_more_may_pass(&self) {
        while let Some(pause) = self.throttle.pause() {
            tokio::time::sleep(pause).await;
        }
    }

    /// Payload bytes so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// A finished splice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spliced {
    /// Payload bytes.
    pub bytes: u64,
    /// Rows, as both servers counted them.
    pub rows: u64,
}

/// Copies rows from server to server without opening them.
///
/// Both statements must use the same format and the same columns in the same order.
///
/// # Errors
/// The first side's that failed, by its SQLSTATE, or `Connect`; `Copy` if the two do not fit or count
/// differently. Nothing is committed here: the target's transaction is the caller's.
/// # Cancel safety
/// Not safe: when dropped, both connections refuse further use.
pub async fn splice(
    source: &mut Connection,
    copy_out_sql: &str,
    target: &mut Connection,
    copy_in_sql: &str,
    meter: &Meter,
) -> Result<Spliced> {
    let (out, into) = tokio::join!(
        source.begin_copy(copy_out_sql, Direction::Out),
        target.begin_copy(copy_in_sql, Direction::In)
    );
    let mut pump = Pump { source, target, ring: Ring::new(RING_BYTES), meter, metered: 0, nap: None };
    match (out, into) {
        (Ok(out), Ok(into)) if out == into => {}
        (Ok(out), Ok(into)) => {
            let misfit = Error::new(ErrorKind::Copy, "join two COPYs")
                .because(format!("the source sends {out:?}, the target expects {into:?}"));
            return Err(pump.unwind(misfit).await);
        }
        (Err(error), _) | (_, Err(error)) => return Err(pump.unwind(error).await),
    }
    let ended = pump.run(copy_out_sql, copy_in_sql).await;
    let watched = pump.source.socket.watch().map_err(|error| pump.source.lost(error));
    match watched.and(ended) {
        Ok(spliced) => Ok(spliced),
        Err(error) => Err(pump.unwind(error).await),
    }
}

struct Pump<'a> {
    source: &'a mut Connection,
    target: &'a mut Connection,
    ring: Ring,
    meter: &'a Meter,
    metered: u64,
    /// Wakes us when the throttle may let more pass.
    nap: Option<Pin<Box<Sleep>>>,
}

/// Why the flow stands still for a moment, or for good.
enum Pause {
    /// The source sent something other than data.
    SourceSpoke,
    /// The target's socket broke under a write.
    TargetBroke(io::Error),
    /// Either side failed.
    Failed(Error),
}

impl Pump<'_> {
    async fn run(&mut self, copy_out_sql: &str, copy_in_sql: &str) -> Result<Spliced> {
        let doing = self.source.doing(copy_out_sql);
        loop {
            match poll_fn(|cx| self.poll_flow(cx)).await {
                Pause::SourceSpoke => {}
                Pause::TargetBroke(error) => return Err(self.target.last_words(error).await),
                Pause::Failed(error) => return Err(error),
            }
            if let Err(error) = self.ring.take_other(self.source.input.raw()) {
                return Err(self.source.nonsense(error));
            }
            let message = self.source.receive_one().await?;
            let Some(message) = message else { continue };
            // No more data: what follows is the connection's to read again.
            self.ring.take_rest(self.source.input.raw());
            match message {
                BackendMessage::CopyDone => break,
                BackendMessage::Error(error) => {
                    self.source.drain().await?;
                    return Err(error.during(doing));
                }
                other => return Err(self.source.unexpected(&other, &doing)),
            }
        }
        // The target hears of the end only when the source has vouched for it.
        let sent = self.source.end_copy(&doing).await?;
        frontend::copy_done(&mut self.target.output);
        self.target.flush().await?;
        let stored = self.target.end_copy(&self.target.doing(copy_in_sql)).await?;
        if sent != stored {
            return Err(Error::new(ErrorKind::Copy, "compare the row counts of two COPYs")
                .hint("A rule, a trigger or a row filter on the target drops or adds rows.")
                .because(format!("the source sent {sent} rows, the target stored {stored}")));
        }
        Ok(Spliced { bytes: self.ring.payload(), rows: stored })
    }

    /// Moves bytes while any can be moved.
    fn poll_flow(&mut self, cx: &mut Context<'_>) -> Poll<Pause> {
        loop {
            if let Err(error) = self.hear_target(cx) {
                return Poll::Ready(Pause::Failed(error));
            }
            let drawn = match self.draw(cx) {
                Ok(drawn) => drawn,
                Err(error) => return Poll::Ready(Pause::Failed(error)),
            };
            let poured = match self.pour(cx) {
                Ok(poured) => poured,
                Err(error) => return Poll::Ready(Pause::TargetBroke(error)),
            };
            if self.ring.is_at_other() {
                return Poll::Ready(Pause::SourceSpoke);
            }
            if drawn == Moved::Nothing {
                // There is nothing to read just now, so what the TLS layer still holds must go out.
                if let Poll::Ready(Err(error)) = Pin::new(&mut self.target.socket).poll_flush(cx) {
                    return Poll::Ready(Pause::TargetBroke(error));
                }
            }
            if let (Moved::Nothing, Moved::Nothing) = (drawn, poured) {
                return Poll::Pending;
            }
        }
    }

    /// Reads what the target has to say: an error before the end, or notices.
    fn hear_target(&mut self, cx: &mut Context<'_>) -> Result<()> {
        loop {
            // First what is here already: an error may have come along with CopyInResponse.
            while let Some(frame) = self.target.next_frame()? {
                let doing = format!("store rows on {}", self.target.peer);
                match self.target.absorb(frame)? {
                    None => {}
                    Some(BackendMessage::Error(error)) => return Err(error.during(doing)),
                    Some(other) => return Err(self.target.unexpected(&other, &doing)),
                }
            }
            match pin!(self.target.socket.read_buf(self.target.input.space())).poll(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(self.target.lost(hung_up())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Err(self.target.lost(error)),
            }
        }
    }

    /// Reads from the source into the ring.
    fn draw(&mut self, cx: &mut Context<'_>) -> Result<Moved> {
        let mut drawn = 0;
        if self.must_wait(cx) {
            return Ok(Moved::Nothing);
        }
        if self.metered > WATCHED_BYTES {
            self.source.socket.unwatch().map_err(|error| self.source.lost(error))?;
        }
        while drawn < BATCH_BYTES && self.ring.held() < RING_BYTES / 2 {
            let early = self.source.input.raw();
            let space = self.ring.space();
            if space.is_empty() {
                break;
            }
            let count = if early.is_empty() {
                let mut buffer = ReadBuf::new(space);
                match Pin::new(&mut self.source.socket).poll_read(cx, &mut buffer) {
                    Poll::Pending => break,
                    Poll::Ready(Err(error)) => return Err(self.source.lost(error)),
                    Poll::Ready(Ok(())) => buffer.filled().len(),
                }
            } else {
                // What came with the server's answer, or after a notice, is in the connection's own buffer.
                let head = early.split_to(early.len().min(space.len()));
                if let Some(front) = space.get_mut(..head.len()) {
                    front.copy_from_slice(&head);
                }
                head.len()
            };
            if count == 0 {
                return Err(self.source.lost(hung_up()));
            }
            if let Err(error) = self.ring.filled(count) {
                return Err(self.source.nonsense(error));
            }
            drawn += count;
        }
        self.report();
        self.meter.throttle.spend(drawn as u64);
        Ok(if drawn == 0 { Moved::Nothing } else { Moved::Bytes })
    }

    /// Whether the throttle lets nothing pass now; then this task is woken when it may.
    fn must_wait(&mut self, cx: &mut Context<'_>) -> bool {
        while let Some(pause) = self.meter.throttle.pause() {
            let nap = self.nap.insert(Box::pin(tokio::time::sleep(pause)));
            if nap.as_mut().poll(cx).is_pending() {
                return true;
            }
        }
        self.nap = None;
        false
    }

    /// Writes from the ring to the target.
    fn pour(&mut self, cx: &mut Context<'_>) -> io::Result<Moved> {
        let mut moved = Moved::Nothing;
        while !self.ring.ready().is_empty() {
            match Pin::new(&mut self.target.socket).poll_write(cx, self.ring.ready()) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => self.ring.wrote(count),
            }
            moved = Moved::Bytes;
        }
        Ok(moved)
    }

    fn report(&mut self) {
        let payload = self.ring.payload();
        self.meter.bytes.fetch_add(payload - self.metered, Ordering::Relaxed);
        self.metered = payload;
    }

    /// Brings both connections back to ReadyForQuery, or marks them broken; gives back the error that led here.
    async fn unwind(&mut self, error: Error) -> Error {
        let Pump { source, target, ring, .. } = self;
        if ring.is_inside_frame() {
            // The rest of that row could be gigabytes; a new connection is cheaper.
            source.phase = Phase::Broken;
            target.phase = Phase::Broken;
        } else {
            ring.take_rest(source.input.raw());
        }
        let (stopped, failed) = tokio::join!(
            tokio::time::timeout(UNWIND_TIMEOUT, stop_source(source)),
            tokio::time::timeout(UNWIND_TIMEOUT, fail_target(target, ring, &error))
        );
        for (connection, outcome) in [(source, stopped), (target, failed)] {
            if !matches!(outcome, Ok(Ok(()))) {
                tracing::debug!(peer = %connection.peer, "connection given up after a failed copy");
                connection.phase = Phase::Broken;
            }
        }
        error
    }
}

/// Interrupts a `COPY … TO` and reads away what is left of it.
async fn stop_source(source: &mut Connection) -> Result<()> {
    if source.phase != Phase::Copying {
        return Ok(());
    }
    source.cancel_token().cancel().await?;
    source.drain().await
}

/// Ends a `COPY … FROM` with a failure and reads away what is left of it.
async fn fail_target(target: &mut Connection, ring: &mut Ring, error: &Error) -> Result<()> {
    if target.phase != Phase::Copying {
        return Ok(());
    }
    // The target may have been given half a frame already; the other half is in the ring.
    while !ring.ready().is_empty() {
        let count = target.socket.write(ring.ready()).await.map_err(|error| target.lost(error))?;
        ring.wrote(count);
    }
    frontend::copy_fail(&format!("{error}"), &mut target.output)
        .map_err(|error| Error::new(ErrorKind::Bug, "end a COPY").because(error))?;
    target.flush().await?;
    target.drain().await
}

/// Whether a step got anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moved {
    Nothing,
    Bytes,
}
