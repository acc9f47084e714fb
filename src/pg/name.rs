//! Names of SQL objects, and the only place that quotes them.
//!
//! Hazard: a name pasted into SQL unquoted is an injection when it is hostile and a wrong table when it
//! is mixed-case. `Identifier` holds the raw name; its `Display` is the quoted form, always.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// One name, raw inside, quoted when displayed (docs: `sql-syntax-lexical`). A clone is a reference.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identifier(Arc<str>);

impl Identifier {
    /// Takes the name as a catalog holds it, unquoted and case kept.
    #[must_use]
    pub fn new(raw: impl AsRef<str>) -> Identifier {
        Identifier(raw.as_ref().into())
    }

    /// Takes a name that others hold, too, as [`TextPool`](super::TextPool) gives it.
    #[must_use]
    pub fn shared(raw: Arc<str>) -> Identifier {
        Identifier(raw)
    }

    /// The name as the catalog holds it.
    #[must_use]
    pub fn raw(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.replace('"', "\"\""))
    }
}

impl fmt::Debug for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A name with its schema. Displayed quoted; [`QualifiedName::plain`] is for people.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QualifiedName {
    /// The schema.
    pub schema: Identifier,
    /// The object within it.
    pub name: Identifier,
}

impl QualifiedName {
    /// Joins two raw names.
    #[must_use]
    pub fn new(schema: impl AsRef<str>, name: impl AsRef<str>) -> QualifiedName {
        QualifiedName { schema: Identifier::new(schema), name: Identifier::new(name) }
    }

    /// `schema.name` for messages, quoted only where PostgreSQL would have to.
    #[must_use]
    pub fn plain(&self) -> String {
        let part = |name: &Identifier| {
            let mut bytes = name.raw().bytes();
            let bare = bytes.next().is_some_and(|first| first.is_ascii_lowercase() || first == b'_')
                && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
            if bare { name.raw().to_owned() } else { name.to_string() }
        };
        format!("{}.{}", part(&self.schema), part(&self.name))
    }
}

impl fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

impl fmt::Debug for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A string as an SQL literal that reads the same whatever `standard_conforming_strings` says.
#[must_use]
pub fn quote_literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// A replication slot's name: 1–63 bytes of `[a-z0-9_]` (P29).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SlotName(String);

/// A name that the server would refuse for a slot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid replication slot name {0:?}: 1 to 63 lower-case letters, digits and underscores")]
pub struct InvalidSlotName(String);

impl SlotName {
    /// The name, which needs no quoting anywhere.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SlotName {
    type Err = InvalidSlotName;

    fn from_str(text: &str) -> Result<SlotName, InvalidSlotName> {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if (1..=63).contains(&text.len()) && text.bytes().all(legal) {
            Ok(SlotName(text.to_owned()))
        } else {
            Err(InvalidSlotName(text.to_owned()))
        }
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_every_identifier() {
        assert_eq!(Identifier::new("a").to_string(), "\"a\"");
        assert_eq!(Identifier::new("My \"odd\"").to_string(), "\"My \"\"odd\"\"\"");
        assert_eq!(QualifiedName::new("S", "t.u").to_string(), "\"S\".\"t.u\"");
    }

    #[test]
    fn plain_names_stay_readable() {
        assert_eq!(QualifiedName::new("public", "orders_2").plain(), "public.orders_2");
        assert_eq!(QualifiedName::new("public", "2x").plain(), "public.\"2x\"");
        assert_eq!(QualifiedName::new("", "Ä").plain(), "\"\".\"Ä\"");
    }

    #[test]
    fn literals_survive_quotes_and_backslashes() {
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal("a\\'b"), "E'a\\\\''b'");
    }

    #[test]
    fn slot_names_follow_the_servers_rule() {
        assert!("pgstream_1a2b".parse::<SlotName>().is_ok());
        for bad in ["", "My-DB", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<SlotName>().is_err(), "{bad:?}");
        }
    }
}
