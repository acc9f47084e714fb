//! Streams captured from real servers (`tests/golden/README.md`): decoded, rendered, written back, cut short.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{Decoder, Message, OldTuple, ReplicaIdentity, Tuple, Value, encode};
use crate::pg::Xid;

/// One capture: `MAJOR-vN-FORMAT.hex`.
struct Capture {
    path: PathBuf,
    major: u32,
    version: u8,
    messages: Vec<Bytes>,
}

/// Why a capture cannot be read, as a file or as a stream.
type Unread = Box<dyn std::error::Error>;

fn captures() -> Result<Vec<Capture>, Unread> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut captures = Vec::new();
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "hex") {
            captures.push(Capture::read(path)?);
        }
    }
    captures.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(captures)
}

impl Capture {
    fn read(path: PathBuf) -> Result<Capture, Unread> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let mut parts = name.split('-');
        let mut part = || parts.next().ok_or("a capture is named MAJOR-vN-FORMAT");
        let (major, version) = (part()?.parse()?, part()?.trim_start_matches('v').parse()?);
        let text = fs::read_to_string(&path)?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let messages = lines.map(from_hex).collect::<Result<_, _>>()?;
        Ok(Capture { path, major, version, messages })
    }

    fn rendering(&self) -> Result<String, Unread> {
        let mut decoder = Decoder::new(self.version);
        let lines = self.messages.iter().map(|bytes| match decoder.decode(bytes.clone()) {
            Ok(message) => Ok(render(&message) + "\n"),
            Err(error) => Err(format!("{}: {error}: {bytes:?}", self.path.display()).into()),
        });
        lines.collect()
    }
}

fn from_hex(line: &str) -> Result<Bytes, Unread> {
    let byte = |at| -> Result<u8, Unread> {
        Ok(u8::from_str_radix(line.get(at..at + 2).ok_or("a digit is missing")?, 16)?)
    };
    (0..line.len()).step_by(2).map(byte).collect()
}

/// One line that shows everything a message holds.
fn render(message: &Message) -> String {
    match message {
        Message::Begin(m) => format!("Begin xid={} final={} time={}", m.xid, m.final_lsn, m.commit_time),
        Message::Commit(m) => format!("Commit at={} end={} time={}", m.commit_lsn, m.end_lsn, m.commit_time),
        Message::Origin(m) => format!("Origin {:?} at={}", m.name, m.commit_lsn),
        Message::Relation(m) => {
            let identity = match m.replica_identity {
                ReplicaIdentity::Default => "default",
                ReplicaIdentity::Nothing => "nothing",
                ReplicaIdentity::Full => "full",
                ReplicaIdentity::Index => "index",
            };
            let columns = m.columns.iter().map(|column| {
                let key = if column.is_key { "key " } else { "" };
                format!(" ({key}{:?} {}:{})", column.name, column.type_oid, column.type_modifier)
            });
            let columns: String = columns.collect();
            let (namespace, name) = (&m.namespace, &m.name);
            format!("Relation{} {} {namespace:?}.{name:?} identity={identity}{columns}", within(m.xid), m.id)
        }
        Message::Type(m) => format!("Type{} {} {:?}.{:?}", within(m.xid), m.oid, m.namespace, m.name),
        Message::Insert(m) => format!("Insert{} {} {}", within(m.xid), m.relation, row(&m.new)),
        Message::Update(m) => {
            let old = m.old.as_ref().map_or(String::new(), |old| old_row(old) + " ");
            format!("Update{} {} {old}new={}", within(m.xid), m.relation, row(&m.new))
        }
        Message::Delete(m) => format!("Delete{} {} {}", within(m.xid), m.relation, old_row(&m.old)),
        Message::Truncate(m) => {
            let cascade = if m.cascade { " cascade" } else { "" };
            let restart = if m.restart_identity { " restart-identity" } else { "" };
            let relations: Vec<String> = m.relations.iter().map(ToString::to_string).collect();
            format!("Truncate{} {}{cascade}{restart}", within(m.xid), relations.join(","))
        }
        Message::Logical(m) => {
            let kind = if m.transactional { "transactional" } else { "at once" };
            format!("Message{} {kind} at={} {:?} {:?}", within(m.xid), m.lsn, m.prefix, m.content)
        }
        Message::StreamStart(m) => {
            format!("StreamStart xid={}{}", m.xid, if m.first_segment { " first" } else { "" })
        }
        Message::StreamStop => "StreamStop".to_owned(),
        Message::StreamCommit(m) => {
            format!("StreamCommit xid={} at={} end={} time={}", m.xid, m.commit_lsn, m.end_lsn, m.commit_time)
        }
        Message::StreamAbort(m) => {
            let abort = m.abort.map_or(String::new(), |(lsn, time)| format!(" at={lsn} time={time}"));
            format!("StreamAbort xid={} subxid={}{abort}", m.xid, m.subxid)
        }
    }
}

fn within(xid: Option<Xid>) -> String {
    xid.map_or(String::new(), |xid| format!("[{xid}]"))
}

fn old_row(old: &OldTuple) -> String {
    match old {
        OldTuple::Key(tuple) => format!("key={}", row(tuple)),
        OldTuple::Full(tuple) => format!("old={}", row(tuple)),
    }
}

fn row(tuple: &Tuple) -> String {
    let value = |value| match value {
        Value::Null => "null".to_owned(),
        Value::Unchanged => "unchanged".to_owned(),
        Value::Text(text) if text.len() > 100 => format!("<{} bytes>", text.len()),
        Value::Text(text) => format!("{:?}", String::from_utf8_lossy(text)),
        Value::Binary(bytes) if bytes.len() > 100 => format!("<{} bytes of binary>", bytes.len()),
        Value::Binary(bytes) => bytes.iter().fold("\\x".to_owned(), |hex, byte| format!("{hex}{byte:02x}")),
    };
    let values: Vec<String> = tuple.values().map(value).collect();
    format!("({})", values.join(", "))
}

#[test]
fn captures_read_as_they_did() -> Result<(), Unread> {
    let write = std::env::var_os("PGSTREAM_GOLDEN").is_some_and(|mode| mode == "write");
    for capture in captures()? {
        let expected = capture.path.with_extension("txt");
        if write {
            fs::write(&expected, capture.rendering()?)?;
        }
        let expected = fs::read_to_string(&expected)?;
        for (line, (read, expected)) in capture.rendering()?.lines().zip(expected.lines()).enumerate() {
            assert_eq!(read, expected, "{} line {}", capture.path.display(), line + 1);
        }
        assert_eq!(expected.lines().count(), capture.messages.len(), "{}", capture.path.display());
    }
    Ok(())
}

#[test]
fn captures_are_written_back_byte_for_byte() -> Result<(), Unread> {
    for capture in captures()? {
        let mut decoder = Decoder::new(capture.version);
        for bytes in &capture.messages {
            let message = decoder.decode(bytes.clone())?;
            assert_eq!(encode(&message)?, bytes, "{}", capture.path.display());
        }
    }
    Ok(())
}

#[test]
fn captures_cut_short_are_refused() -> Result<(), Unread> {
    for capture in captures()? {
        let mut decoder = Decoder::new(capture.version);
        for bytes in &capture.messages {
            for length in 0..bytes.len() {
                // An abort without position and time is whole, if `streaming` is not 'parallel'.
                if bytes.first() == Some(&b'A') && length == 9 {
                    continue;
                }
                let cut = decoder.clone().decode(bytes.slice(..length));
                assert!(cut.is_err(), "{length} of {bytes:?} in {}", capture.path.display());
            }
            decoder.decode(bytes.clone())?;
        }
    }
    Ok(())
}

#[test]
fn captures_hold_every_kind_of_message() -> Result<(), Unread> {
    let captures = captures()?;
    for expected in [10, 14, 15, 16, 18] {
        assert!(captures.iter().any(|capture| capture.major == expected), "no capture from {expected}");
    }
    for capture in captures {
        let mut tags: Vec<u8> = capture.messages.iter().filter_map(|bytes| bytes.first().copied()).collect();
        tags.sort_unstable();
        tags.dedup();
        let expected = match (capture.major, capture.version) {
            (..11, _) => "BCDIORUY",
            (11..14, _) => "BCDIORTUY",
            (_, 1) => "BCDIMORTUY",
            (_, _) => "ABCDEIMORSTUYc",
        };
        assert_eq!(String::from_utf8(tags)?, expected, "{}", capture.path.display());
    }
    Ok(())
}
