//! The writing end: records into blocks, blocks into segments, and the position that is safe.
//!
//! Hazard: three things must never be confused: what was appended, what was written, and what is durable. Only
//! the last is told to anyone ([`Synced`]), and only at a cut, where no transaction is half said. Whatever goes
//! wrong, a disk that is full or a connection that breaks, the log goes back to there ([`Log::restart`]) and the
//! stream is taken up from there: after a failed `fsync` nothing later can be believed to be on the disk.
//!
//! ```text
//!   file:  header │ shapes │ block │ block ┊ block        pending: ─────┊────
//!                                  ╰ synced ╰ written cut               ╰ cut
//! ```
//! Segments begin at cuts, and a block ends at one where it can: so readers, who stop at what is synced, never
//! see a byte that is taken back.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, BytesMut};

use super::directory::Directory;
use super::outline::Outline;
use super::record::{Record, write_item};
use super::segment::{
    HEADER_BYTES, Header, Kind, Origin, encode_block, pack_shapes, read_block, read_header,
};
use crate::error::{Error, ErrorKind, Result};
use crate::pg::Lsn;
use crate::replication::StreamItem;

/// Raw bytes of a block: enough to pack well, little to hold in memory.
const BLOCK_BYTES: usize = 256 << 10;
/// A segment of at least this size ends at the next cut.
pub(super) const SEGMENT_BYTES: u64 = 32 << 20;

/// What is durable, up to a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synced {
    /// Every transaction that commits before this is whole in the log, or concerns nobody.
    pub end: Lsn,
    /// The segment being written.
    pub(super) sequence: u64,
    /// Bytes of it that count.
    pub(super) bytes: u64,
}

/// Why a log cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// There is none.
    #[error("nothing is there")]
    Missing,
    /// It holds another stream.
    #[error("{} holds the changes of another migration", .0.display())]
    Foreign(PathBuf),
    /// A file is missing from the middle, or is not as it was written.
    #[error("{} is damaged or missing", .0.display())]
    Damaged(PathBuf),
    /// It ends too early.
    #[error("it ends at {end}, and the source was told that it holds everything up to {confirmed}")]
    Short {
        /// Where it ends.
        end: Lsn,
        /// What was confirmed.
        confirmed: Lsn,
    },
    /// The disk failed.
    #[error("the disk reports an error")]
    Disk(#[from] io::Error),
}

/// A log that is written to. It holds the folder's lock.
#[derive(Debug)]
pub struct Log {
    directory: Directory,
    _lock: File,
    origin: Origin,
    sequence: u64,
    file: File,
    /// Bytes in the file, blocks that may be taken back included.
    written: u64,
    /// The end of the last block in the file that ends at a cut, and the position there.
    written_cut: (u64, Lsn),
    synced: Synced,
    pending: BytesMut,
    /// The last cut in `pending`, and the position there.
    cut: (usize, Lsn),
    outline: Outline,
    bytes: Arc<AtomicU64>,
    segment_bytes: u64,
}

impl Log {
    /// Makes a new log in a folder of its own, in place of one that is there: everything that commits before
    /// `base` is elsewhere.
    ///
    /// # Errors
    /// What the disk reports.
    pub fn create(path: &Path, origin: Origin, base: Lsn) -> io::Result<Log> {
        let directory = Directory::create(path)?;
        let lock = directory.lock()?;
        for (sequence, _) in directory.segments()? {
            fs::remove_file(directory.segment(sequence))?;
        }
        directory.forget_trimming()?;
        let outline = Outline::starting_at(base, origin.protocol_version);
        let header = Header { origin, sequence: 1, base, previous_bytes: 0 };
        let (file, written) = begin_segment(&directory, &header, &outline)?;
        Ok(Log::over(directory, lock, header, file, written, written, base, outline))
    }

    /// Takes a log up again: cuts off what a crash left behind the last cut.
    ///
    /// # Errors
    /// [`Unusable::Short`] if it does not reach `confirmed`, which the source was told; else what else is wrong.
    pub fn open(path: &Path, origin: Origin, confirmed: Lsn) -> Result<Log, Unusable> {
        let directory = Directory::at(path);
        if !path.is_dir() {
            return Err(Unusable::Missing);
        }
        let lock = directory.lock()?;
        let Last { header, file, others, unborn } = last_segment(&directory, origin)?;
        let length = file.metadata()?.len();
        let damaged = || Unusable::Damaged(directory.segment(header.sequence));
        let mut outline = Outline::starting_at(header.base, origin.protocol_version);
        let (mut offset, mut cut) = (HEADER_BYTES as u64, None);
        while let Some(block) = read_block(&file, offset, length)? {
            offset = block.next;
            if block.kind == Kind::Records {
                let mut raw = block.raw;
                while !raw.is_empty() {
                    match Record::read(&mut raw).map_err(|_| damaged())? {
                        Record::Began => outline.restart(outline.end()),
                        Record::Item(item) => drop(outline.see(&item).map_err(|_| damaged())?),
                    }
                }
            }
            if outline.is_cut() {
                cut = Some((offset, outline.end()));
            }
        }
        // The shapes that a segment begins with were synced with its header.
        let (bytes, end) = cut.ok_or_else(damaged)?;
        if end < confirmed {
            return Err(Unusable::Short { end, confirmed });
        }
        file.set_len(bytes)?;
        file.sync_all()?;
        if let Some(unborn) = unborn {
            fs::remove_file(unborn)?;
        }
        Ok(Log::over(directory, lock, header, file, bytes, others + bytes, end, outline))
    }

    #[allow(clippy::too_many_arguments)]
    fn over(
        directory: Directory,
        lock: File,
        header: Header,
        file: File,
        written: u64,
        total: u64,
        end: Lsn,
        outline: Outline,
    ) -> Log {
        Log {
            directory,
            _lock: lock,
            origin: header.origin,
            sequence: header.sequence,
            file,
            written,
            written_cut: (written, end),
            synced: Synced { end, sequence: header.sequence, bytes: written },
            pending: BytesMut::new(),
            cut: (0, end),
            outline,
            bytes: Arc::new(AtomicU64::new(total)),
            segment_bytes: SEGMENT_BYTES,
        }
    }

    /// What is durable.
    #[must_use]
    pub fn synced(&self) -> Synced {
        self.synced
    }

    /// Bytes of all segments; readers that trim take theirs off.
    #[must_use]
    pub fn bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.bytes)
    }

    /// Goes back to what is durable, and notes that a connection begins. Returns the position that it begins at.
    ///
    /// # Errors
    /// What the disk reports; to be called again then.
    pub fn restart(&mut self) -> io::Result<Lsn> {
        let Synced { end, bytes, .. } = self.synced;
        self.pending.clear();
        self.file.set_len(bytes)?;
        // What was taken back must not come up again behind what is written next.
        self.file.sync_all()?;
        self.bytes.fetch_sub(self.written - bytes, Ordering::Relaxed);
        self.written = bytes;
        self.written_cut = (bytes, end);
        self.outline.restart(end);
        Record::Began.write(&mut self.pending);
        self.cut = (self.pending.len(), end);
        Ok(end)
    }

    /// Takes what came on the connection.
    ///
    /// # Errors
    /// `Local` for what the disk reports, `Protocol` for a message that breaks the protocol. After either,
    /// [`Log::restart`].
    pub fn append(&mut self, items: &[StreamItem]) -> Result<()> {
        for item in items {
            self.outline.see(item)?;
            write_item(item, &mut self.pending);
            if self.outline.is_cut() {
                self.cut = (self.pending.len(), self.outline.end());
                if self.written + self.pending.len() as u64 >= self.segment_bytes {
                    self.turn().map_err(|error| self.failed(error))?;
                }
            }
            if self.pending.len() >= BLOCK_BYTES {
                self.flush().map_err(|error| self.failed(error))?;
            }
        }
        Ok(())
    }

    /// Makes what was appended durable, up to the last cut.
    ///
    /// # Errors
    /// `Local` for what the disk reports; then [`Log::restart`].
    pub fn sync(&mut self) -> Result<Synced> {
        self.flush().and_then(|()| self.sync_file()).map_err(|error| self.failed(error))?;
        Ok(self.synced)
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::new(ErrorKind::Local, format!("keep changes in {}", self.directory.path().display()))
            .hint("Make room on that file system, or name another with --work-dir.")
            .because(error)
    }

    /// Writes what waits, as a block that ends at the last cut; what follows that only if it is much.
    fn flush(&mut self) -> io::Result<()> {
        let (length, end) = self.cut;
        if length > 0 {
            self.write(length)?;
            self.cut.0 = 0;
            self.written_cut = (self.written, end);
        }
        if self.pending.len() >= BLOCK_BYTES {
            self.write(self.pending.len())?;
        }
        Ok(())
    }

    fn write(&mut self, length: usize) -> io::Result<()> {
        let block = encode_block(Kind::Records, &self.pending[..length]);
        self.file.write_all_at(&block, self.written)?;
        self.written += block.len() as u64;
        self.bytes.fetch_add(block.len() as u64, Ordering::Relaxed);
        self.pending.advance(length);
        Ok(())
    }

    fn sync_file(&mut self) -> io::Result<()> {
        let (bytes, end) = self.written_cut;
        if bytes > self.synced.bytes {
            self.file.sync_data()?;
            self.synced = Synced { end, sequence: self.sequence, bytes };
        }
        Ok(())
    }

    /// Ends the segment, at a cut, and begins the next.
    fn turn(&mut self) -> io::Result<()> {
        self.flush()?;
        self.sync_file()?;
        let (base, previous_bytes, sequence) = (self.synced.end, self.written, self.sequence + 1);
        let header = Header { origin: self.origin, sequence, base, previous_bytes };
        let (file, written) = begin_segment(&self.directory, &header, &self.outline).inspect_err(|_| {
            // It is written over when there is room; should it stay, opening the log passes over it.
            let _ = fs::remove_file(self.directory.segment(sequence));
        })?;
        self.bytes.fetch_add(written, Ordering::Relaxed);
        (self.file, self.sequence, self.written) = (file, sequence, written);
        self.written_cut = (written, base);
        self.synced = Synced { end: base, sequence, bytes: written };
        Ok(())
    }
}

/// Writes the head of a segment, durably; returns the file and its length.
fn begin_segment(directory: &Directory, header: &Header, outline: &Outline) -> io::Result<(File, u64)> {
    let file = directory.create_segment(header.sequence)?;
    let shapes = encode_block(Kind::Shapes, &pack_shapes(outline.shapes()));
    let head = [&header.encode()[..], &shapes].concat();
    file.write_all_at(&head, 0)?;
    file.sync_all()?;
    directory.sync()?;
    Ok((file, head.len() as u64))
}

/// The segment that is being written.
struct Last {
    header: Header,
    file: File,
    /// Bytes of those before it.
    others: u64,
    /// One after it that a crash came upon before its head was durable: nothing rests on it.
    unborn: Option<PathBuf>,
}

/// Finds it; each of those before it must be there and fit the next.
fn last_segment(directory: &Directory, origin: Origin) -> Result<Last, Unusable> {
    let oldest = directory.oldest()?;
    let mut segments = directory.segments()?;
    segments.retain(|(sequence, _)| *sequence >= oldest);
    let mut last: Option<(Header, File, u64)> = None;
    let (mut others, mut unborn) = (0, None);
    for (index, (sequence, length)) in segments.iter().enumerate() {
        let expected = oldest + index as u64;
        if *sequence != expected {
            return Err(Unusable::Damaged(directory.segment(expected)));
        }
        let file = directory.open_segment(*sequence)?;
        let previous = last.as_ref().map(|(_, _, bytes)| *bytes);
        match read_head(&file)? {
            Some(header)
                if header.origin.migration != origin.migration || header.origin.system != origin.system =>
            {
                return Err(Unusable::Foreign(directory.path().to_owned()));
            }
            Some(header)
                if header.sequence == *sequence
                    && header.origin.protocol_version == origin.protocol_version
                    && previous.is_none_or(|bytes| bytes == header.previous_bytes) =>
            {
                others += previous.unwrap_or(0);
                last = Some((header, file, *length));
            }
            None if index + 1 == segments.len() => unborn = Some(directory.segment(*sequence)),
            Some(_) | None => return Err(Unusable::Damaged(directory.segment(*sequence))),
        }
    }
    last.map(|(header, file, _)| Last { header, file, others, unborn }).ok_or(Unusable::Missing)
}

/// The header of a segment whose shapes are whole, too: they are written at one stroke.
fn read_head(file: &File) -> io::Result<Option<Header>> {
    let Some(header) = read_header(file)? else { return Ok(None) };
    let shapes = read_block(file, HEADER_BYTES as u64, file.metadata()?.len())?;
    Ok(shapes.filter(|block| block.kind == Kind::Shapes).map(|_| header))
}

#[cfg(test)]
mod tests;
