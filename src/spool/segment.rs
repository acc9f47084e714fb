//! One file of the log: a header, what was announced before it, then blocks of records.
//!
//! Hazard: a crash leaves the last file with any tail, and a disk may change any byte of any file. Every block
//! carries its length and a checksum over everything in it, and nothing is allocated, or unpacked, before that
//! checksum was found right. A block that is not right ends what can be read.
//!
//! ```text
//!   header │ shapes │ block │ block │ …          block = kind, raw length, packed length, CRC-32, LZ4 bytes
//! ```
//! Integers are big-endian. LZ4 is the block format, without a frame of its own.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::pg::{Lsn, SystemIdentifier};
use crate::pgoutput::TupleFormat;

const MAGIC: &[u8; 8] = b"pgsspool";
const VERSION: u32 = 1;
/// Bytes of a header, its checksum included.
pub(super) const HEADER_BYTES: usize = 58;
/// Bytes before a block's content.
const BLOCK_HEADER_BYTES: usize = 13;

/// What stream a log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The source cluster.
    pub system: SystemIdentifier,
    /// The migration's id: eight ASCII characters.
    pub migration: [u8; 8],
    /// The protocol that the messages are of.
    pub protocol_version: u8,
    /// How values were asked for; each says for itself what it is.
    pub format: TupleFormat,
}

/// The head of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) origin: Origin,
    /// From 1, without a gap.
    pub(super) sequence: u64,
    /// Every transaction that commits before this is in an earlier segment, if anywhere.
    pub(super) base: Lsn,
    /// The length of the segment before this one; zero for the first.
    pub(super) previous_bytes: u64,
}

impl Header {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_BYTES);
        out.put_slice(MAGIC);
        out.put_u32(VERSION);
        out.put_u64(self.sequence);
        out.put_u64(self.base.offset());
        out.put_u64(self.previous_bytes);
        out.put_u64(self.origin.system.get());
        out.put_slice(&self.origin.migration);
        out.put_u8(self.origin.protocol_version);
        out.put_u8(match self.origin.format {
            TupleFormat::Text => b't',
            TupleFormat::Binary => b'b',
        });
        let sum = crc32fast::hash(&out);
        out.put_u32(sum);
        debug_assert_eq!(out.len(), HEADER_BYTES);
        out.freeze()
    }

    /// Reads a header; `None` if it is not one of this version, whole and unchanged.
    pub(super) fn decode(bytes: &[u8]) -> Option<Header> {
        let (mut fields, mut sum) = bytes.get(..HEADER_BYTES)?.split_at(HEADER_BYTES - 4);
        if crc32fast::hash(fields) != sum.get_u32()
            || fields.split_off(..8)? != MAGIC
            || fields.get_u32() != VERSION
        {
            return None;
        }
        let sequence = fields.get_u64();
        let base = Lsn::new(fields.get_u64());
        let previous_bytes = fields.get_u64();
        let system = SystemIdentifier::new(fields.get_u64());
        let migration = *fields.first_chunk::<8>()?;
        fields.advance(8);
        let protocol_version = fields.get_u8();
        let format = match fields.get_u8() {
            b't' => TupleFormat::Text,
            b'b' => TupleFormat::Binary,
            _ => return None,
        };
        Some(Header {
            origin: Origin { system, migration, protocol_version, format },
            sequence,
            base,
            previous_bytes,
        })
    }
}

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Messages that announce what rows refer to, each with its length.
    Shapes,
    /// Records.
    Records,
}

impl Kind {
    fn tag(self) -> u8 {
        match self {
            Kind::Shapes => b's',
            Kind::Records => b'r',
        }
    }
}

/// A block as it lies in the file.
pub(super) fn encode_block(kind: Kind, raw: &[u8]) -> Bytes {
    let packed = lz4_flex::block::compress(raw);
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("the server's messages are below 1 GB");
    let mut out = BytesMut::with_capacity(BLOCK_HEADER_BYTES + packed.len());
    out.put_u8(kind.tag());
    out.put_u32(length(raw));
    out.put_u32(length(&packed));
    let mut sum = crc32fast::Hasher::new();
    sum.update(&out);
    sum.update(&packed);
    out.put_u32(sum.finalize());
    out.put_slice(&packed);
    out.freeze()
}

/// A block that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) kind: Kind,
    pub(super) raw: Bytes,
    /// Where the next one begins.
    pub(super) next: u64,
}

/// Reads the block at `offset` of a file, of which `end` bytes count. `None` if there is no whole and unchanged one.
///
/// # Errors
/// What the disk reports.
pub(super) fn read_block(file: &File, offset: u64, end: u64) -> io::Result<Option<Block>> {
    let Some(room) = end.checked_sub(offset).and_then(|left| left.checked_sub(BLOCK_HEADER_BYTES as u64))
    else {
        return Ok(None);
    };
    let mut head = [0; BLOCK_HEADER_BYTES];
    if !read_whole(file, &mut head, offset)? {
        return Ok(None);
    }
    let mut fields = &head[..];
    let kind = match fields.get_u8() {
        b's' => Kind::Shapes,
        b'r' => Kind::Records,
        _ => return Ok(None),
    };
    let (raw_length, packed_length, expected) = (fields.get_u32(), fields.get_u32(), fields.get_u32());
    // A length that was changed must not make us ask for memory.
    if u64::from(packed_length) > room {
        return Ok(None);
    }
    let mut packed = vec![0; packed_length as usize];
    if !read_whole(file, &mut packed, offset + BLOCK_HEADER_BYTES as u64)? {
        return Ok(None);
    }
    let mut sum = crc32fast::Hasher::new();
    sum.update(&head[..BLOCK_HEADER_BYTES - 4]);
    sum.update(&packed);
    if sum.finalize() != expected {
        return Ok(None);
    }
    let next = offset + BLOCK_HEADER_BYTES as u64 + u64::from(packed_length);
    let raw = lz4_flex::block::decompress(&packed, raw_length as usize).ok();
    Ok(raw.map(|raw| Block { kind, raw: raw.into(), next }))
}

/// Fills `buffer`, or says that the file is too short.
fn read_whole(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
    match file.read_exact_at(buffer, offset) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// The header at the beginning of a file; `None` if there is no whole and unchanged one.
///
/// # Errors
/// What the disk reports.
pub(super) fn read_header(file: &File) -> io::Result<Option<Header>> {
    let mut bytes = [0; HEADER_BYTES];
    Ok(if read_whole(file, &mut bytes, 0)? { Header::decode(&bytes) } else { None })
}

/// Lays shapes end to end, each with its length.
pub(super) fn pack_shapes<'a>(shapes: impl Iterator<Item = &'a Bytes>) -> BytesMut {
    let mut out = BytesMut::new();
    for shape in shapes {
        out.put_u32(u32::try_from(shape.len()).expect("the server's messages are below 1 GB"));
        out.put_slice(shape);
    }
    out
}

/// Takes them apart again; `None` if they do not come out even.
pub(super) fn unpack_shapes(mut raw: Bytes) -> Option<Vec<Bytes>> {
    let mut shapes = Vec::new();
    while !raw.is_empty() {
        let length = raw.try_get_u32().ok()? as usize;
        if length > raw.len() {
            return None;
        }
        shapes.push(raw.split_to(length));
    }
    Some(shapes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    const HEADER: Header = Header {
        origin: Origin {
            system: SystemIdentifier::new(7),
            migration: *b"0badcafe",
            protocol_version: 4,
            format: TupleFormat::Binary,
        },
        sequence: 3,
        base: Lsn::new(0x1_0000_0002),
        previous_bytes: 99,
    };

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn a_header_is_read_as_written_and_no_byte_of_it_may_change() {
        let bytes = HEADER.encode();
        assert_eq!(Header::decode(&bytes), Some(HEADER));
        for at in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[at] ^= 0x10;
            assert_eq!(Header::decode(&changed), None, "byte {at}");
            assert_eq!(Header::decode(&bytes[..at]), None, "{at} bytes");
        }
    }

    #[test]
    fn shapes_come_apart_as_they_went_together() {
        let shapes: Vec<Bytes> = vec![Bytes::from_static(b"Rone"), Bytes::new(), Bytes::from_static(b"Y")];
        let packed = pack_shapes(shapes.iter()).freeze();
        assert_eq!(unpack_shapes(packed.clone()), Some(shapes));
        assert_eq!(unpack_shapes(packed.slice(..packed.len() - 2)), None);
    }

    proptest! {
        /// Every truncation, and every changed byte, is noticed.
        #[test]
        fn a_block_is_read_whole_and_unchanged_or_not_at_all(
            raw in proptest::collection::vec(0_u8..4, 0..400),
            at in any::<proptest::sample::Index>(),
            bit in 0_u8..8,
        ) {
            let bytes = encode_block(Kind::Records, &raw);
            let length = bytes.len() as u64;
            let block = read_block(&file_of(&bytes), 0, length).unwrap();
            prop_assert_eq!(block, Some(Block { kind: Kind::Records, raw: raw.into(), next: length }));
            let at = at.index(bytes.len());
            prop_assert_eq!(read_block(&file_of(&bytes[..at]), 0, length).unwrap(), None);
            prop_assert_eq!(read_block(&file_of(&bytes), 0, at as u64).unwrap(), None);
            let mut changed = bytes.to_vec();
            changed[at] ^= 1 << bit;
            prop_assert_eq!(read_block(&file_of(&changed), 0, length).unwrap(), None);
        }
    }
}
