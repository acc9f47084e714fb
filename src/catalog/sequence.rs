//! Sequence values, which no stream carries (P33).
//!
//! Hazard: `pg_sequences.last_value` is NULL for a sequence never called and hides `is_called`; a value
//! guessed from `max(column)` loses what rollbacks burned. So each sequence is asked itself, and told by
//! `setval` with the same `is_called`. Neither reading nor `setval` is transactional: read when writes
//! have stopped, and run the statements again if in doubt.

use crate::catalog::query::{self, field};
use crate::error::{Error, ErrorKind, Result};
use crate::pg::{QualifiedName, quote_literal};
use crate::wire::Session;

/// Sequences per statement: a lock on each is held until the statement's transaction ends (P88).
const CHUNK: usize = 200;

/// Where a sequence stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceValue {
    /// The sequence.
    pub name: QualifiedName,
    /// `last_value`.
    pub last_value: i64,
    /// Whether `last_value` was given out; if not, it is the next to be.
    pub is_called: bool,
}

/// Reads every sequence of the database that no extension owns. Run it outside a transaction, so that
/// the locks of a chunk go with the chunk.
///
/// # Errors
/// `Sql` if one may not be read or was dropped meanwhile: a sequence is never skipped.
pub async fn read_sequences(session: &Session) -> Result<Vec<SequenceValue>> {
    let found = query::rows(session, "list sequences", &query::sequences()).await?;
    let names = found
        .iter()
        .map(|row| Ok(QualifiedName::new(field::<&str>(row, "nspname")?, field::<&str>(row, "relname")?)))
        .collect::<Result<Vec<_>>>()?;
    let mut values = Vec::with_capacity(names.len());
    for chunk in names.chunks(CHUNK) {
        for row in query::rows(session, "read sequence values", &read_statement(chunk)).await? {
            let position: i32 = field(&row, "position")?;
            let name = usize::try_from(position).ok().and_then(|position| chunk.get(position));
            let name = name.ok_or_else(|| Error::new(ErrorKind::Protocol, "read sequence values"))?;
            values.push(SequenceValue {
                name: name.clone(),
                last_value: field(&row, "last_value")?,
                is_called: field(&row, "is_called")?,
            });
        }
    }
    Ok(values)
}

fn read_statement(names: &[QualifiedName]) -> String {
    let one = |(position, name)| format!("SELECT {position} AS position, last_value, is_called FROM {name}");
    names.iter().enumerate().map(one).collect::<Vec<_>>().join(" UNION ALL ")
}

/// The statements that put the target's sequences where the source's stand.
#[must_use]
pub fn set_sequences(values: &[SequenceValue]) -> Vec<String> {
    let one = |value: &SequenceValue| {
        let name = quote_literal(&value.name.to_string());
        format!("pg_catalog.setval({name}::pg_catalog.regclass, {}, {})", value.last_value, value.is_called)
    };
    values
        .chunks(CHUNK)
        .map(|chunk| format!("SELECT {}", chunk.iter().map(one).collect::<Vec<_>>().join(", ")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str, last_value: i64, is_called: bool) -> SequenceValue {
        SequenceValue { name: QualifiedName::new("s", name), last_value, is_called }
    }

    #[test]
    fn a_sequence_never_called_stays_so() {
        assert_eq!(
            set_sequences(&[value("a", 1, false), value("it's \\", -5, true)]),
            ["SELECT pg_catalog.setval('\"s\".\"a\"'::pg_catalog.regclass, 1, false), \
              pg_catalog.setval(E'\"s\".\"it''s \\\\\"'::pg_catalog.regclass, -5, true)"]
        );
    }

    #[test]
    fn many_sequences_come_in_chunks() {
        let values: Vec<_> = (0..CHUNK + 1).map(|n| value(&n.to_string(), 1, true)).collect();
        let statements = set_sequences(&values);
        assert_eq!(statements.len(), 2);
        assert_eq!(statements[0].matches("setval").count(), CHUNK);
        assert!(set_sequences(&[]).is_empty());
    }
}
