//! Where the messages of one streamed transaction wait for its commit: memory first, then a file.
//!
//! Hazard: a transaction may be larger than memory. Messages are laid end to end in one buffer, each with
//! its length; when the assembler's bound is reached, the buffer goes to an unlinked temporary file, which
//! the kernel removes with us. Reading back holds one buffer, and one message if that is larger.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes read from the file at a time.
const READ_BYTES: usize = 256 * 1024;
/// Bytes of the length before each message.
const HEADER_BYTES: usize = 4;

/// Messages in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Stash {
    /// What came since the last spill.
    tail: BytesMut,
    file: Option<File>,
}

impl Stash {
    /// Adds a message; returns how many bytes of memory it took.
    pub(super) fn push(&mut self, message: &[u8]) -> usize {
        let length = u32::try_from(message.len()).expect("the server's messages are below 1 GB");
        let before = self.tail.len();
        self.tail.put_u32(length);
        self.tail.put_slice(message);
        self.tail.len() - before
    }

    /// Bytes held in memory.
    pub(super) fn memory(&self) -> usize {
        self.tail.len()
    }

    /// Moves what is in memory to the file, made in `directory` when there is none yet.
    pub(super) fn spill(&mut self, directory: &Path) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(tempfile::tempfile_in(directory)?);
        }
        if let Some(file) = &mut self.file {
            file.write_all(&self.tail)?;
        }
        // A new buffer: the old one may have grown to the whole bound.
        self.tail = BytesMut::new();
        Ok(())
    }

    /// Reads the messages back, in order.
    pub(super) fn replay(self) -> io::Result<Replay> {
        let Stash { tail, mut file } = self;
        if let Some(file) = &mut file {
            file.seek(SeekFrom::Start(0))?;
        }
        Ok(Replay { buffer: BytesMut::new(), file, tail: Some(tail) })
    }
}

/// Walks the messages of a [`Stash`].
#[derive(Debug)]
pub(super) struct Replay {
    buffer: BytesMut,
    file: Option<File>,
    /// Read after the file.
    tail: Option<BytesMut>,
}

impl Replay {
    /// The next message; `None` after the last.
    pub(super) fn next(&mut self) -> io::Result<Option<Bytes>> {
        if !self.fill(HEADER_BYTES)? {
            return Ok(None);
        }
        let length = self.buffer.get_u32() as usize;
        if !self.fill(length)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// Sees to it that the buffer holds `wanted` bytes; false at the end.
    fn fill(&mut self, wanted: usize) -> io::Result<bool> {
        while self.buffer.len() < wanted {
            if let Some(file) = &mut self.file {
                let missing = (wanted - self.buffer.len()).max(READ_BYTES) as u64;
                let read = io::copy(&mut file.take(missing), &mut (&mut self.buffer).writer())?;
                if read == 0 {
                    self.file = None;
                }
            } else if let Some(tail) = self.tail.take() {
                self.buffer.unsplit(tail);
            } else if self.buffer.is_empty() {
                return Ok(false);
            } else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(stash: Stash) -> Vec<Bytes> {
        let mut replay = stash.replay().unwrap();
        std::iter::from_fn(|| replay.next().unwrap()).collect()
    }

    #[test]
    fn gives_back_what_was_spilled_before_what_was_not() {
        let messages: Vec<Vec<u8>> =
            [0, 1, 70_000, 600_000, 3].iter().map(|length| vec![b'x'; *length]).collect();
        let mut stash = Stash::default();
        for (at, message) in messages.iter().enumerate() {
            stash.push(message);
            if at == 1 || at == 3 {
                stash.spill(&std::env::temp_dir()).unwrap();
                assert_eq!(stash.memory(), 0);
            }
        }
        assert_eq!(read_all(stash), messages);
    }

    #[test]
    fn an_empty_stash_has_no_messages() {
        assert!(read_all(Stash::default()).is_empty());
    }
}
