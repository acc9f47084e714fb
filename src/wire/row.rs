//! Rows of the simple query protocol: text, by position or by name.
//!
//! Hazard: `IDENTIFY_SYSTEM` does not have the same order of columns on every server (P32). Where a name
//! exists, read by it.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};

/// One row.
#[derive(Debug, Clone)]
pub struct Row {
    columns: Arc<[String]>,
    values: Vec<Option<Bytes>>,
}

/// A column, by position or by name.
#[derive(Debug, Clone, Copy)]
pub enum Column<'a> {
    /// Counted from zero.
    At(usize),
    /// By its name; of several, the first.
    Named(&'a str),
}

impl From<usize> for Column<'_> {
    fn from(index: usize) -> Self {
        Column::At(index)
    }
}

impl<'a> From<&'a str> for Column<'a> {
    fn from(name: &'a str) -> Self {
        Column::Named(name)
    }
}

impl Row {
    pub(super) fn new(columns: Arc<[String]>, values: Vec<Option<Bytes>>) -> Row {
        Row { columns, values }
    }

    /// The value's bytes; `None` for NULL and for a column that is not there.
    pub fn bytes<'a>(&self, column: impl Into<Column<'a>>) -> Option<&Bytes> {
        let index = match column.into() {
            Column::At(index) => index,
            Column::Named(name) => self.columns.iter().position(|known| known == name)?,
        };
        self.values.get(index)?.as_ref()
    }

    /// The value as text; `None` also for bytes that are not UTF-8.
    pub fn get<'a>(&self, column: impl Into<Column<'a>>) -> Option<&str> {
        std::str::from_utf8(self.bytes(column)?).ok()
    }

    /// The value as text where the server must have sent one.
    ///
    /// # Errors
    /// `Protocol`, naming the column.
    pub fn require<'a>(&self, column: impl Into<Column<'a>>) -> Result<&str> {
        let column = column.into();
        self.get(column).ok_or_else(|| {
            Error::new(ErrorKind::Protocol, "read the server's answer")
                .because(format!("column {column:?} is missing, NULL or not text"))
        })
    }

    /// Number of columns.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether the row has no column.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_column_wherever_it_stands() {
        let columns: Arc<[String]> = ["timeline".to_owned(), "systemid".to_owned()].into();
        let row = Row::new(columns, vec![None, Some(Bytes::from_static(b"42"))]);
        assert_eq!(row.get("systemid"), Some("42"));
        assert_eq!(row.get(1), Some("42"));
        assert_eq!((row.get("timeline"), row.get("dbname"), row.get(7)), (None, None, None));
        assert!(row.require("timeline").is_err());
    }
}
