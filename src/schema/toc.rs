//! Reads the table of contents of a custom-format archive.
//!
//! Hazard: an archive is bytes from elsewhere, often cut short by a full disk. Reading is total: every
//! truncation is an error, no length in the file is believed before the bytes are there, nothing panics.
//!
//! ```text
//! "PGDMP" major minor rev  int_size offset_size format  compression  date×7  dbname server pg_dump
//! count  ( id had_data table_oid oid tag desc section definition drop copy namespace tablespace
//!          table_am[1.14+] relkind[1.16+] owner with_oids dependency… NULL  offset )×count
//! ```
//! An integer is a sign byte and `int_size` bytes, low first; a string is an integer and as many bytes, -1 for
//! NULL. There is no specification but the code: `pg_backup_archiver.c` (`ReadHead`, `ReadToc`) and
//! `pg_backup_custom.c` (`_ReadExtraToc`), followed here for archive versions 1.12 (server 9.0) to 1.16 (18).

use std::sync::Arc;

use crate::pg::{Oid, TextPool};
use crate::schema::entry::{Definition, DumpId, Entry, Section};

/// The table of contents of one archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toc {
    /// Archive format version: 1.14 as `(1, 14)`.
    pub version: (u8, u8),
    /// The database dumped.
    pub database: String,
    /// The source's `server_version`, as it prints it.
    pub server_version: String,
    /// The `pg_dump` that wrote it.
    pub dump_version: String,
    /// Every entry, in an order that respects dependencies.
    pub entries: Vec<Entry>,
}

/// Bytes that are not an archive we can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TocError {
    /// No `PGDMP`.
    #[error("not a pg_dump archive in custom format")]
    Magic,
    /// Written by a `pg_dump` that we do not know.
    #[error("archive version {major}.{minor} is not one of 1.12 to 1.16")]
    Version {
        /// Major.
        major: u8,
        /// Minor.
        minor: u8,
    },
    /// A directory or tar archive.
    #[error("archive format {0} is not the custom format")]
    Format(u8),
    /// The bytes end too early.
    #[error("the archive ends inside {field} (byte {offset})")]
    Truncated {
        /// What was being read.
        field: &'static str,
        /// Where it begins.
        offset: usize,
    },
    /// A value that no writer writes.
    #[error("invalid {field} at byte {offset}")]
    Invalid {
        /// What was being read.
        field: &'static str,
        /// Where it begins.
        offset: usize,
    },
}

/// `archCustom`.
const FORMAT_CUSTOM: u8 = 1;

impl Toc {
    /// Reads an archive from its first byte; what follows the table of contents is not looked at.
    ///
    /// # Errors
    /// [`TocError`], by field and offset.
    pub fn parse(archive: &[u8]) -> Result<Toc, TocError> {
        let texts = TextPool::default();
        let mut reader = Reader { bytes: archive, offset: 0, int_size: 4, offset_size: 8, minor: 12, texts };
        let head = reader.head()?;
        let count = reader.int("entry count")?;
        let count = u32::try_from(count).map_err(|_| reader.invalid("entry count"))?;
        // Grows as entries are read: a forged count must not reserve anything.
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(reader.entry()?);
        }
        entries.shrink_to_fit();
        Ok(Toc { entries, ..head })
    }

    /// The entry of that number.
    #[must_use]
    pub fn entry(&self, id: DumpId) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.id == id)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
    int_size: u8,
    offset_size: u8,
    minor: u8,
    texts: TextPool,
}

impl<'a> Reader<'a> {
    fn head(&mut self) -> Result<Toc, TocError> {
        if self.take(5, "magic").map_err(|_| TocError::Magic)? != b"PGDMP" {
            return Err(TocError::Magic);
        }
        let (major, minor, _revision) = (self.byte("version")?, self.byte("version")?, self.byte("version")?);
        if major != 1 || !(12..=16).contains(&minor) {
            return Err(TocError::Version { major, minor });
        }
        self.minor = minor;
        self.int_size = self.byte("integer size")?;
        if !(1..=8).contains(&self.int_size) {
            return Err(self.invalid("integer size"));
        }
        self.offset_size = self.byte("offset size")?;
        let format = self.byte("format")?;
        if format != FORMAT_CUSTOM {
            return Err(TocError::Format(format));
        }
        if minor < 15 {
            self.int("compression level")?;
        } else {
            self.byte("compression algorithm")?;
        }
        for field in ["second", "minute", "hour", "day", "month", "year", "daylight saving time"] {
            self.int(field)?;
        }
        Ok(Toc {
            version: (major, minor),
            database: self.string("database name")?.unwrap_or_default(),
            server_version: self.string("server version")?.unwrap_or_default(),
            dump_version: self.string("pg_dump version")?.unwrap_or_default(),
            entries: Vec::new(),
        })
    }

    fn entry(&mut self) -> Result<Entry, TocError> {
        let id = self.int("entry id")?;
        let id = u32::try_from(id).ok().filter(|id| *id > 0).ok_or_else(|| self.invalid("entry id"))?;
        self.int("data flag")?;
        let table_oid = self.oid("catalog OID")?;
        let oid = self.oid("OID")?;
        let tag = self.string("tag")?.unwrap_or_default();
        let desc = self.shared("description")?.unwrap_or_default();
        let section = match self.int("section")? {
            1 => Section::None,
            2 => Section::PreData,
            3 => Section::Data,
            4 => Section::PostData,
            _ => return Err(self.invalid("section")),
        };
        let definition = match self.raw("definition")? {
            None => Definition::Absent,
            Some(bytes) => match std::str::from_utf8(bytes) {
                Ok(sql) => Definition::Sql(sql.into()),
                Err(_) => Definition::Opaque,
            },
        };
        self.raw("drop statement")?;
        self.raw("copy statement")?;
        let namespace = self.shared("schema")?;
        let tablespace = self.shared("tablespace")?;
        if self.minor >= 14 {
            self.raw("table access method")?;
        }
        if self.minor >= 16 {
            self.int("relation kind")?;
        }
        let owner = self.shared("owner")?.unwrap_or_default();
        self.raw("WITH OIDS flag")?;
        let dependencies = self.dependencies()?;
        self.data_offset()?;
        Ok(Entry {
            id: DumpId::new(id),
            section,
            desc,
            tag,
            namespace,
            owner,
            tablespace,
            definition,
            dependencies,
            table_oid,
            oid,
        })
    }

    fn dependencies(&mut self) -> Result<Box<[DumpId]>, TocError> {
        let mut dependencies = Vec::new();
        while let Some(number) = self.string("dependency")? {
            // A negative number is one that pg_dump itself could not resolve; it names nothing.
            if let Ok(id) = number.parse::<u32>() {
                dependencies.push(DumpId::new(id));
            } else if number.parse::<i64>().is_err() {
                return Err(self.invalid("dependency"));
            }
        }
        Ok(dependencies.into())
    }

    /// Where the entry's rows begin; a schema-only archive has none.
    fn data_offset(&mut self) -> Result<(), TocError> {
        if !(1..=3).contains(&self.byte("data offset")?) {
            return Err(self.invalid("data offset"));
        }
        self.take(usize::from(self.offset_size), "data offset").map(|_| ())
    }

    fn oid(&mut self, field: &'static str) -> Result<Oid, TocError> {
        let text = self.string(field)?.unwrap_or_default();
        text.parse().map(Oid::new).map_err(|_| self.invalid(field))
    }

    fn string(&mut self, field: &'static str) -> Result<Option<String>, TocError> {
        Ok(self.raw(field)?.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
    }

    /// A string that many entries have.
    fn shared(&mut self, field: &'static str) -> Result<Option<Arc<str>>, TocError> {
        let Some(bytes) = self.raw(field)? else { return Ok(None) };
        Ok(Some(self.texts.get(&String::from_utf8_lossy(bytes))))
    }

    fn raw(&mut self, field: &'static str) -> Result<Option<&'a [u8]>, TocError> {
        match self.int(field)? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| self.invalid(field))?;
                self.take(length, field).map(Some)
            }
        }
    }

    fn int(&mut self, field: &'static str) -> Result<i64, TocError> {
        let sign = self.byte(field)?;
        let mut magnitude = 0u64;
        for (place, byte) in self.take(usize::from(self.int_size), field)?.iter().enumerate() {
            magnitude |= u64::from(*byte) << (8 * place);
        }
        let magnitude = i64::try_from(magnitude).map_err(|_| self.invalid(field))?;
        match sign {
            0 => Ok(magnitude),
            _ => Ok(-magnitude),
        }
    }

    fn byte(&mut self, field: &'static str) -> Result<u8, TocError> {
        self.take(1, field)?.first().copied().ok_or_else(|| self.invalid(field))
    }

    fn take(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], TocError> {
        let end = self.offset.checked_add(length);
        let taken = end.and_then(|end| self.bytes.get(self.offset..end));
        let taken = taken.ok_or(TocError::Truncated { field, offset: self.offset })?;
        self.offset += length;
        Ok(taken)
    }

    fn invalid(&self, field: &'static str) -> TocError {
        TocError::Invalid { field, offset: self.offset }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Writes what [`Reader`] reads, as `WriteInt` and `WriteStr` do.
    struct Writer(Vec<u8>);

    impl Writer {
        fn int(mut self, number: i32) -> Writer {
            self.0.push(u8::from(number < 0));
            self.0.extend(number.unsigned_abs().to_le_bytes());
            self
        }

        fn string(self, text: Option<&[u8]>) -> Writer {
            let Some(text) = text else { return self.int(-1) };
            let mut written = self.int(i32::try_from(text.len()).unwrap());
            written.0.extend(text);
            written
        }

        fn text(self, text: &str) -> Writer {
            self.string(Some(text.as_bytes()))
        }
    }

    fn head(minor: u8) -> Writer {
        let mut written = Writer(b"PGDMP".to_vec());
        written.0.extend([1, minor, 0, 4, 8, FORMAT_CUSTOM]);
        written = if minor < 15 {
            written.int(-1)
        } else {
            written.0.push(1);
            written
        };
        for part in [0, 0, 12, 1, 0, 126, 0] {
            written = written.int(part);
        }
        written.text("db").text("15.20").text("16.14")
    }

    /// An archive of one index, as `minor` would write it.
    fn archive(minor: u8, definition: &[u8]) -> Vec<u8> {
        let mut written = head(minor).int(1);
        written = written.int(3823).int(0).text("1259").text("17919").text("ix").text("INDEX").int(4);
        written = written.string(Some(definition)).string(None).string(None);
        written = written.text("app").text("");
        written = if minor >= 14 { written.string(None) } else { written };
        written = if minor >= 16 { written.int(0) } else { written };
        written = written.text("me").text("false").text("223").text("-1").string(None);
        written.0.push(3);
        written.0.extend([0; 8]);
        written.0
    }

    #[test]
    fn reads_every_version_alike() {
        for minor in 12..=16 {
            let toc = Toc::parse(&archive(minor, b"CREATE INDEX")).unwrap();
            assert_eq!((toc.database.as_str(), toc.dump_version.as_str()), ("db", "16.14"));
            let [entry] = toc.entries.as_slice() else { panic!("{toc:?}") };
            assert_eq!(
                (entry.id, entry.oid, entry.section),
                (DumpId::new(3823), Oid::new(17919), Section::PostData)
            );
            assert_eq!(entry.definition.sql(), Some("CREATE INDEX"));
            assert_eq!((entry.name().as_str(), &*entry.owner), ("INDEX app.ix", "me"));
            assert_eq!(*entry.dependencies, [DumpId::new(223)]);
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        let whole = archive(16, b"CREATE INDEX");
        for length in 0..whole.len() {
            assert!(Toc::parse(&whole[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn names_what_it_cannot_read() {
        assert_eq!(Toc::parse(b"PK\x03\x04zip"), Err(TocError::Magic));
        assert_eq!(Toc::parse(&head(17).0), Err(TocError::Version { major: 1, minor: 17 }));
        let mut directory = head(16).0;
        directory[10] = 5;
        assert_eq!(Toc::parse(&directory), Err(TocError::Format(5)));
    }

    #[test]
    fn a_forged_count_or_length_reserves_nothing() {
        let count = head(14).int(i32::MAX).0;
        assert!(matches!(Toc::parse(&count), Err(TocError::Truncated { field: "entry id", .. })));
        let length = head(14).int(1).int(1).int(0).int(i32::MAX).0;
        assert!(matches!(Toc::parse(&length), Err(TocError::Truncated { field: "catalog OID", .. })));
    }

    #[test]
    fn a_definition_that_is_not_utf8_stays_out_of_our_hands() {
        let toc = Toc::parse(&archive(14, b"COMMENT 'caf\xe9'")).unwrap();
        assert_eq!(toc.entries[0].definition, Definition::Opaque);
    }

    proptest! {
        #[test]
        fn reading_is_total(tail in proptest::collection::vec(any::<u8>(), 0..400), minor in 12u8..=16) {
            let mut bytes = head(minor).0;
            bytes.extend(&tail);
            let _ = Toc::parse(&bytes);
            let _ = Toc::parse(&tail);
        }

        #[test]
        fn a_changed_byte_never_panics(at in 0usize..200, byte in any::<u8>()) {
            let mut bytes = archive(16, b"CREATE INDEX");
            if let Some(changed) = bytes.get_mut(at) {
                *changed = byte;
            }
            let _ = Toc::parse(&bytes);
        }
    }
}
