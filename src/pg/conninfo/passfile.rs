//! Password files: `host:port:database:user:password` (docs: `libpq-pgpass`).
//!
//! Hazard: which line applies depends on the database as much as on the host, so a password found for
//! one database is not carried to the next; it is looked up again.

use std::fmt;

use super::Secret;

/// The lines of a password file.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Passfile {
    entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, Eq)]
struct Entry {
    /// Host, port, database, user; `None` stands for `*`.
    fields: [Option<String>; 4],
    password: Secret,
}

impl Passfile {
    /// Reads the text of a file. Lines that make no sense match nothing, as in libpq.
    #[must_use]
    pub fn parse(text: &str) -> Passfile {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Passfile { entries: lines.filter_map(Entry::parse).collect() }
    }

    /// The password of the first line that matches.
    #[must_use]
    pub fn password(&self, host: &str, port: u16, database: &str, user: &str) -> Option<&Secret> {
        let port = port.to_string();
        let wanted = [host, &port, database, user];
        let matches = |entry: &&Entry| {
            let mut pairs = entry.fields.iter().zip(wanted);
            pairs.all(|(field, wanted)| field.as_ref().is_none_or(|field| field == wanted))
        };
        self.entries
            .iter()
            .find(matches)
            .map(|entry| &entry.password)
            .filter(|secret| !secret.reveal().is_empty())
    }
}

/// Shows how many lines there are, and none of them.
impl fmt::Debug for Passfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Passfile({} lines)", self.entries.len())
    }
}

impl Entry {
    fn parse(line: &str) -> Option<Entry> {
        let mut rest = line.chars();
        let mut fields = [const { None }; 4];
        for field in &mut fields {
            let plain = rest.as_str();
            let text = next_field(&mut rest)?;
            *field = if plain.starts_with("*:") { None } else { Some(text) };
        }
        Some(Entry { fields, password: last_field(rest) })
    }
}

/// The text up to a colon; a backslash keeps the next character from meaning anything.
fn next_field(rest: &mut std::str::Chars<'_>) -> Option<String> {
    let mut field = String::new();
    loop {
        match rest.next()? {
            ':' => return Some(field),
            '\\' => field.push(rest.next()?),
            other => field.push(other),
        }
    }
}

/// The password: up to a colon or the end, where a lone backslash stands for itself.
fn last_field(mut rest: std::str::Chars<'_>) -> Secret {
    let mut password = String::new();
    while let Some(next) = rest.next() {
        match next {
            ':' => break,
            '\\' => password.push(rest.next().unwrap_or('\\')),
            other => password.push(other),
        }
    }
    Secret::new(password)
}

/// One line of a password file, its ends included.
pub(super) fn line(host: &str, port: u16, database: &str, user: &str, password: &Secret) -> String {
    let [host, database, user, password] = [host, database, user, password.reveal()].map(escaped);
    format!("{host}:{port}:{database}:{user}:{password}\n")
}

/// A field that reads as itself: neither as `*`, nor as a comment, nor as two lines.
fn escaped(field: &str) -> String {
    if field.contains(['\n', '\r']) {
        // A line cannot hold it; the other fields still tell the connection apart.
        return "*".to_owned();
    }
    let escaped = field.replace('\\', "\\\\").replace(':', "\\:");
    if field == "*" || field.starts_with('#') { format!("\\{escaped}") } else { escaped }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, host: &str, database: &str) -> Option<String> {
        let passfile = Passfile::parse(text);
        passfile.password(host, 5432, database, "u").map(|secret| secret.reveal().to_owned())
    }

    #[test]
    fn the_first_line_that_matches_wins() {
        let text = "#h:*:*:*:comment\nh:5433:*:*:port\nh:5432:a:u:exact\nh:*:*:*:any\n\nbroken\n";
        assert_eq!(found(text, "h", "a").as_deref(), Some("exact"));
        assert_eq!(found(text, "h", "b").as_deref(), Some("any"));
        assert_eq!(found(text, "i", "a"), None);
    }

    #[test]
    fn backslashes_escape_colons_and_themselves() {
        assert_eq!(found(r"\:\:1:*:a\\b:u:p\:w\\:rest", "::1", r"a\b").as_deref(), Some(r"p:w\"));
        assert_eq!(found(r"*:*:*:*:end\", "h", "d").as_deref(), Some(r"end\"));
        assert_eq!(found(r"\*:*:*:*:star", "h", "d"), None);
    }

    #[test]
    fn reads_back_what_it_writes() {
        for odd in ["*", r"a:b\", ":", r"\:", "ä b", "#", "**", "two\nlines"] {
            let text = line(odd, 5432, odd, "u", &Secret::new("p:*"));
            assert_eq!(found(&text, odd, odd).as_deref(), Some("p:*"), "{text}");
        }
    }

    #[test]
    fn shows_none_of_its_lines() {
        assert_eq!(format!("{:?}", Passfile::parse("*:*:*:*:secret")), "Passfile(1 lines)");
    }
}
