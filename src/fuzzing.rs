//! What the fuzz targets in `fuzz/` call: one function per parser, from any bytes to claims that must hold.
//!
//! Hazard: a fuzzer that only looks for panics passes a parser that reads wrongly. Each function also
//! demands that what was read says the same when it is written and read again.
//! Not part of the program; it stands in the library so that `cargo test` replays the corpus.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use ::bytes::Bytes;

use crate::pg::{Conninfo, Environment, Files, Passfile};
use crate::pgoutput::{Decoder, Message, encode};
use crate::wire::{BackendMessage, FRAME_BYTES_MAX, Frame, FrameBuffer, FrameError};

/// Cuts frames from a stream that arrives in reads of the size in the first byte, and reads each as a message.
///
/// # Panics
/// If the cut depends on how the bytes arrived.
pub fn frames(data: &[u8]) {
    let Some((size, bytes)) = data.split_first() else { return };
    let at_once = cut(bytes, bytes.len());
    let in_pieces = cut(bytes, usize::from(*size));
    assert_eq!(at_once, in_pieces, "the same frames, however they arrive");
    for frame in at_once.0 {
        // Total: a message or an error, never a panic.
        let _ = BackendMessage::parse(frame);
    }
}

fn cut(bytes: &[u8], size: usize) -> (Vec<Frame>, Option<FrameError>) {
    let mut buffer = FrameBuffer::new(FRAME_BYTES_MAX);
    let mut frames = Vec::new();
    for piece in bytes.chunks(size.max(1)) {
        buffer.space().extend_from_slice(piece);
        loop {
            match buffer.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

/// Decodes a stream: the protocol version in the first byte, then messages, each after its length in two bytes.
///
/// # Panics
/// If a message that was accepted is not the same after encoding, or is accepted when cut short.
pub fn pgoutput(data: &[u8]) {
    let Some((version, mut rest)) = data.split_first() else { return };
    let mut decoder = Decoder::new(version % 5);
    while let Some((length, tail)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(tail.len());
        let (message, tail) = tail.split_at(length);
        rest = tail;
        decode_one(&mut decoder, &Bytes::copy_from_slice(message));
    }
}

fn decode_one(decoder: &mut Decoder, bytes: &Bytes) {
    let before = decoder.clone();
    let Ok(message) = decoder.decode(bytes.clone()) else { return };
    let written = encode(&message).expect("what was decoded can be encoded");
    assert_eq!(before.clone().decode(written.clone()).as_ref(), Ok(&message), "encoded and decoded");
    // pg_catalog may be spelled out, though no server does; then the bytes differ.
    let respelled = match &message {
        Message::Relation(relation) => relation.namespace == "pg_catalog",
        Message::Type(type_name) => type_name.namespace == "pg_catalog",
        _ => false,
    };
    assert!(respelled || written == *bytes, "written as it was read: {bytes:?}");
    let last = bytes.len().saturating_sub(1);
    let aborts = matches!(message, Message::StreamAbort(_));
    assert!(aborts || before.clone().decode(bytes.slice(..last)).is_err(), "accepted when cut: {bytes:?}");
    if let Message::Insert(insert) = &message {
        assert_eq!(insert.new.values().count(), insert.new.len(), "every value is there");
    }
}

/// Makes out a connection string in an environment that adds only a user's name.
///
/// # Panics
/// If `pg_dump` would be told another place or another password than the one that was made out.
pub fn conninfo(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(conninfo) = Conninfo::resolve(text, &environment(BTreeMap::new())) else { return };
    let variables = conninfo.environment_for_tools().into_iter();
    let variables = variables.map(|(name, value)| (name.to_owned(), value)).collect();
    let told = Conninfo::resolve("", &environment(variables));
    let same = Conninfo {
        dbname: Some(conninfo.database().to_owned()),
        // These have no variable, or travel in a file.
        password: None,
        keepalives_idle: told.as_ref().ok().and_then(|told| told.keepalives_idle),
        tcp_user_timeout: None,
        ..conninfo.clone()
    };
    assert_eq!(told, Ok(same), "told to the tools");
    let file = conninfo.passfile_text();
    let passfile = Passfile::parse(file.as_ref().map_or("", |text| text.reveal()));
    let told = Conninfo { password: None, passfile, ..conninfo.clone() };
    for host in &conninfo.hosts {
        assert_eq!(told.password_for(host), conninfo.password_for(host), "in the password file");
    }
}

fn environment(variables: BTreeMap<String, String>) -> Environment {
    Environment { variables, home: None, user: Some("me".to_owned()), files: Box::new(NoFiles) }
}

struct NoFiles;

impl Files for NoFiles {
    fn exists(&self, _: &Path) -> bool {
        false
    }

    fn read(&self, _: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn read_private(&self, _: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    /// Runs every file of `fuzz/corpus/<target>/`.
    fn replay(target: &str, run: fn(&[u8])) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!files.is_empty(), "no corpus in {}", folder.display());
        for path in files {
            // Shown if the test fails.
            println!("{}", path.display());
            run(&fs::read(path).unwrap());
        }
    }

    #[test]
    fn the_frames_corpus_holds() {
        replay("frames", super::frames);
    }

    #[test]
    fn the_pgoutput_corpus_holds() {
        replay("pgoutput", super::pgoutput);
    }

    #[test]
    fn the_conninfo_corpus_holds() {
        replay("conninfo", super::conninfo);
    }

    proptest! {
        #[test]
        fn any_bytes_hold_as_frames(data in prop::collection::vec(any::<u8>(), 0..200)) {
            super::frames(&data);
        }

        #[test]
        fn any_bytes_hold_as_pgoutput(data in prop::collection::vec(any::<u8>(), 0..200)) {
            super::pgoutput(&data);
        }

        #[test]
        fn any_words_hold_as_conninfo(
            scheme in "(postgres(ql)?://)?",
            words in prop::collection::vec("host=|user=|password=|hostaddr=|port=|dbname=|[a-z1-9:/@,.'\\\\=?&#%* ]|\\PC", 0..20),
        ) {
            super::conninfo((scheme + &words.concat()).as_bytes());
        }
    }
}
