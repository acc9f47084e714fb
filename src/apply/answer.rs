//! Columns of the target's answers.

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::error::{Error, ErrorKind, Result};

/// A column of an answer.
///
/// # Errors
/// `Protocol` if it is not of the type that the query asks for.
pub(super) fn field<'r, T: FromSql<'r>>(row: &'r Row, at: usize) -> Result<T> {
    row.try_get(at).map_err(|error| {
        Error::new(ErrorKind::Protocol, format!("read column {at} of the target's answer")).because(error)
    })
}
