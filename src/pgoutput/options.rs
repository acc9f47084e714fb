//! What we ask the plugin for when a stream starts.
//!
//! Hazard: the list is parsed by the replication grammar, not by SQL: a string there knows `''` and no
//! backslash, and `publication_names` is in turn a list of identifiers. An option unknown to the server's
//! version is an error, so each is sent only where it exists.
//! See PostgreSQL docs, `protocol-logical-replication`; server side: repl_scanner.l, pgoutput.c.

use std::fmt;

use crate::pg::{Identifier, ServerVersion};

/// How the values of tuples are to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TupleFormat {
    /// Every value in its type's text form.
    Text,
    /// In binary where the type has a send function (14+); before that, text.
    Binary,
}

/// The option list of `START_REPLICATION … LOGICAL …`, parentheses included, as its `Display`.
///
/// Asks for the newest protocol the server speaks: streaming of transactions in progress from 14 on,
/// `'parallel'` from 16 on (it adds position and time to aborts), logical messages from 14 on.
/// `origin` is left at the server's default, so changes from everywhere are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamOptions<'a> {
    /// The source's version.
    pub server: ServerVersion,
    /// How values are to be sent.
    pub format: TupleFormat,
    /// The publications whose changes are wanted.
    pub publications: &'a [Identifier],
}

impl StreamOptions<'_> {
    /// The protocol version asked for: what [`super::Decoder::new`] wants to know.
    #[must_use]
    pub const fn protocol_version(&self) -> u8 {
        self.server.pgoutput_version()
    }
}

impl fmt::Display for StreamOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(proto_version '{}'", self.protocol_version())?;
        match self.server.major() {
            ..14 => {}
            14 | 15 => f.write_str(", streaming 'on', messages 'true'")?,
            _ => f.write_str(", streaming 'parallel', messages 'true'")?,
        }
        match self.format {
            TupleFormat::Binary if self.server.major() >= 14 => f.write_str(", binary 'true'")?,
            TupleFormat::Binary | TupleFormat::Text => {}
        }
        let names: Vec<String> = self.publications.iter().map(Identifier::to_string).collect();
        write!(f, ", publication_names '{}')", names.join(",").replace('\'', "''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(major: u32, format: TupleFormat, publications: &[&str]) -> String {
        let publications: Vec<_> = publications.iter().map(|name| Identifier::new(*name)).collect();
        let server = ServerVersion::new(major * 10_000);
        StreamOptions { server, format, publications: &publications }.to_string()
    }

    #[test]
    fn asks_each_server_for_what_it_knows() {
        let plain = |major| options(major, TupleFormat::Binary, &["p"]);
        assert_eq!(plain(10), r#"(proto_version '1', publication_names '"p"')"#);
        assert_eq!(
            plain(14),
            r#"(proto_version '2', streaming 'on', messages 'true', binary 'true', publication_names '"p"')"#
        );
        assert!(plain(15).starts_with("(proto_version '3', streaming 'on',"));
        assert!(plain(18).starts_with("(proto_version '4', streaming 'parallel',"));
        assert!(!options(18, TupleFormat::Text, &["p"]).contains("binary"));
    }

    #[test]
    fn quotes_names_for_both_grammars() {
        let text = options(10, TupleFormat::Text, &["A b", "it's", "a\"b", "a\\b"]);
        assert_eq!(text, r#"(proto_version '1', publication_names '"A b","it''s","a""b","a\b"')"#);
    }
}
