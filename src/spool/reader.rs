//! The reading end: what is durable, in order, and what is no longer needed.
//!
//! Hazard: a segment may go only when the target has, durably, every transaction of which a part lies in it. A
//! streamed transaction begins long before it commits: as long as one is open, or its commit is not on the
//! target, everything from its first block on stays.
//!
//! A reader begins at the oldest segment, wherever the target stands: what the target has is skipped whole by
//! the applier, and streamed transactions are read from their beginning.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::directory::Directory;
use super::log::{Synced, Unusable};
use super::outline::{Outline, Streamed};
use super::record::Record;
use super::segment::{HEADER_BYTES, Kind, read_block, read_header, unpack_shapes};
use crate::pg::{Lsn, Xid};
use crate::replication::StreamItem;

/// What the log gives back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// A connection begins, or the reading: transactions still being streamed are void, and will come again.
    Resume {
        /// What was announced before, as a connection outside of any streamed block would say it.
        shapes: Vec<Bytes>,
    },
    /// What came next.
    Items(Vec<StreamItem>),
}

/// Reads a log from its oldest segment on, while it is written or not.
#[derive(Debug)]
pub struct Reader {
    directory: Directory,
    sequence: u64,
    file: Option<File>,
    offset: u64,
    outline: Outline,
    begun: Begun,
    /// Where the first block of each streamed transaction lies that is open.
    open: HashMap<Xid, u64>,
    /// From which segment on things are needed, once the target is at a position.
    needed: VecDeque<(Lsn, u64)>,
    /// Segments before this one are gone.
    trimmed: u64,
    bytes: Arc<AtomicU64>,
}

/// Whether something has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begun {
    No,
    Yes,
}

impl Reader {
    /// Begins at the oldest segment; `bytes` is the log's own count, for what will be trimmed.
    ///
    /// # Errors
    /// What the disk reports.
    pub fn open(path: &Path, protocol_version: u8, bytes: Arc<AtomicU64>) -> Result<Reader, Unusable> {
        let directory = Directory::at(path);
        let sequence = directory.oldest()?;
        Ok(Reader {
            directory,
            sequence,
            file: None,
            offset: 0,
            outline: Outline::starting_at(Lsn::ZERO, protocol_version),
            begun: Begun::No,
            open: HashMap::new(),
            needed: VecDeque::new(),
            trimmed: sequence,
            bytes,
        })
    }

    /// Bytes that are durable and not yet read; those of whole segments in between are guessed.
    #[must_use]
    pub fn unread(&self, synced: &Synced) -> u64 {
        match synced.sequence.checked_sub(self.sequence) {
            Some(0) | None => synced.bytes.saturating_sub(self.offset),
            Some(segments) => segments * super::log::SEGMENT_BYTES + synced.bytes,
        }
    }

    /// The next block's worth of what is durable; empty when all of it has been read.
    ///
    /// # Errors
    /// [`Unusable::Damaged`] with the file that is not as it was written; else what the disk reports.
    pub fn next(&mut self, synced: &Synced) -> Result<Vec<Delivery>, Unusable> {
        loop {
            let file = match self.file.take() {
                Some(file) => file,
                None => self.enter()?,
            };
            let is_last = self.sequence >= synced.sequence;
            let end = if is_last { synced.bytes } else { file.metadata()?.len() };
            if self.offset >= end {
                if is_last {
                    self.file = Some(file);
                    return Ok(Vec::new());
                }
                self.sequence += 1;
                self.note_needed();
                continue;
            }
            let block = read_block(&file, self.offset, end)?.ok_or_else(|| self.damaged())?;
            self.offset = block.next;
            self.file = Some(file);
            match block.kind {
                Kind::Shapes if self.begun == Begun::No => {
                    self.begun = Begun::Yes;
                    let shapes = unpack_shapes(block.raw).ok_or_else(|| self.damaged())?;
                    return Ok(vec![Delivery::Resume { shapes }]);
                }
                Kind::Shapes => {}
                Kind::Records => return self.records(block.raw),
            }
        }
    }

    /// Opens the segment whose turn it is, and sees to it that none of the one before is missing.
    fn enter(&mut self) -> Result<File, Unusable> {
        let file = match self.directory.open_segment(self.sequence) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(self.damaged()),
            opened => opened?,
        };
        let header = read_header(&file)?.ok_or_else(|| self.damaged())?;
        if self.begun == Begun::No {
            self.outline.restart(header.base);
        } else if header.previous_bytes != self.offset {
            return Err(Unusable::Damaged(self.directory.segment(self.sequence - 1)));
        }
        self.offset = HEADER_BYTES as u64;
        Ok(file)
    }

    fn damaged(&self) -> Unusable {
        Unusable::Damaged(self.directory.segment(self.sequence))
    }

    fn records(&mut self, mut raw: Bytes) -> Result<Vec<Delivery>, Unusable> {
        let mut deliveries = Vec::new();
        let mut items = Vec::new();
        while !raw.is_empty() {
            match Record::read(&mut raw).map_err(|_| self.damaged())? {
                Record::Began => {
                    self.outline.restart(self.outline.end());
                    self.open.clear();
                    if !items.is_empty() {
                        deliveries.push(Delivery::Items(std::mem::take(&mut items)));
                    }
                    deliveries.push(Delivery::Resume { shapes: Vec::new() });
                }
                Record::Item(item) => {
                    match self.outline.see(&item).map_err(|_| self.damaged())? {
                        Streamed::Block(xid) => drop(self.open.entry(xid).or_insert(self.sequence)),
                        Streamed::Ended(xid) => drop(self.open.remove(&xid)),
                        Streamed::None => {}
                    }
                    items.push(item);
                }
            }
        }
        if !items.is_empty() {
            deliveries.push(Delivery::Items(items));
        }
        self.note_needed();
        Ok(deliveries)
    }

    /// Notes from where on things are needed, once the target is here.
    fn note_needed(&mut self) {
        if self.outline.is_cut() {
            let needed = self.open.values().copied().min().unwrap_or(self.sequence);
            if self.needed.back().is_none_or(|(_, before)| *before < needed) {
                self.needed.push_back((self.outline.end(), needed));
            }
        }
    }

    /// Removes what the target has no more need of, `durable` being where it stands.
    ///
    /// # Errors
    /// What the disk reports; what was not removed will be the next time.
    pub fn trim(&mut self, durable: Lsn) -> Result<(), Unusable> {
        let mut oldest = None;
        while let Some((end, needed)) = self.needed.front()
            && *end <= durable
        {
            oldest = Some(*needed);
            // The last one stays, or the same would be noted again.
            if self.needed.len() == 1 {
                break;
            }
            self.needed.pop_front();
        }
        if let Some(oldest) = oldest.filter(|oldest| *oldest > self.trimmed) {
            self.trimmed = oldest;
            let freed = self.directory.trim(oldest)?;
            self.bytes.fetch_sub(freed, Ordering::Relaxed);
        }
        Ok(())
    }
}
