//! Reads the first words of a definition: which table an index or a constraint stands on.
//!
//! Hazard: the tag of a CONSTRAINT entry is `table name`, joined by a blank that both names may contain, so it
//! cannot be taken apart. The statement can: pg_dump quotes what needs quoting and always writes the schema.

use crate::pg::{Identifier, QualifiedName};

/// What an `INDEX`, `CONSTRAINT`, `FK CONSTRAINT` or `INDEX ATTACH` entry makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Head {
    /// `CREATE [UNIQUE] INDEX name ON [ONLY] table …`
    Index { unique: Uniqueness, name: Identifier, table: QualifiedName },
    /// `ALTER TABLE [ONLY] table ADD CONSTRAINT name …`
    Constraint { kind: ConstraintKind, name: Identifier, table: QualifiedName },
    /// `ALTER INDEX parent ATTACH PARTITION child`
    Attach { child: QualifiedName },
}

/// Whether an index is unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Uniqueness {
    Unique,
    NotUnique,
}

/// What a constraint demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConstraintKind {
    PrimaryKey,
    Unique,
    Exclusion,
    ForeignKey,
    /// CHECK, NOT NULL, and what later versions add.
    Other,
}

/// Reads the head of a definition; `None` for anything else.
pub(super) fn read_head(sql: &str) -> Option<Head> {
    let mut words = Words { rest: sql };
    if words.keyword("CREATE") {
        let unique = if words.keyword("UNIQUE") { Uniqueness::Unique } else { Uniqueness::NotUnique };
        if !words.keyword("INDEX") {
            return None;
        }
        let name = words.identifier()?;
        if !words.keyword("ON") {
            return None;
        }
        words.keyword("ONLY");
        return Some(Head::Index { unique, name, table: words.qualified()? });
    }
    if !words.keyword("ALTER") {
        return None;
    }
    if words.keyword("INDEX") {
        words.qualified()?;
        let attach = words.keyword("ATTACH") && words.keyword("PARTITION");
        return if attach { Some(Head::Attach { child: words.qualified()? }) } else { None };
    }
    if !words.keyword("TABLE") {
        return None;
    }
    words.keyword("ONLY");
    let table = words.qualified()?;
    if !(words.keyword("ADD") && words.keyword("CONSTRAINT")) {
        return None;
    }
    let name = words.identifier()?;
    let kind = if words.keyword("PRIMARY") {
        ConstraintKind::PrimaryKey
    } else if words.keyword("UNIQUE") {
        ConstraintKind::Unique
    } else if words.keyword("EXCLUDE") {
        ConstraintKind::Exclusion
    } else if words.keyword("FOREIGN") {
        ConstraintKind::ForeignKey
    } else {
        ConstraintKind::Other
    };
    Some(Head::Constraint { kind, name, table })
}

/// The schema that `CREATE EXTENSION IF NOT EXISTS name WITH SCHEMA schema` puts an extension into.
pub(super) fn read_extension_schema(sql: &str) -> Option<Identifier> {
    let mut words = Words { rest: sql };
    let begins = ["CREATE", "EXTENSION", "IF", "NOT", "EXISTS"].into_iter().all(|word| words.keyword(word));
    let named = begins && words.identifier().is_some();
    let placed = named && words.keyword("WITH") && words.keyword("SCHEMA");
    if placed { words.identifier() } else { None }
}

/// Whether `sql` makes what the server describes as `definition` (`pg_get_indexdef`, `pg_get_constraintdef`).
///
/// pg_dump copies an index's text from the server, and may follow it with further statements; a key constraint
/// it writes itself, with the storage parameters that the server's description leaves out.
pub(super) fn makes(sql: &str, definition: &str) -> bool {
    let begins = |text: &str| text.strip_prefix(definition).is_some_and(|rest| rest.starts_with([';', '\n']));
    let mut words = Words { rest: sql };
    if words.keyword("CREATE") {
        return begins(sql);
    }
    let constraint = words.keyword("ALTER") && words.keyword("TABLE") && {
        words.keyword("ONLY");
        words.qualified().is_some()
            && words.keyword("ADD")
            && words.keyword("CONSTRAINT")
            && words.identifier().is_some()
    };
    let body = words.rest.trim_start();
    constraint && (begins(body) || begins(&without_storage(body)))
}

/// A constraint's text without its ` WITH (fillfactor='70')`.
fn without_storage(body: &str) -> String {
    let cut = body.find(" WITH (").and_then(|start| {
        let length = body.get(start..)?.find(')')? + 1;
        Some(format!("{}{}", body.get(..start)?, body.get(start + length..)?))
    });
    cut.unwrap_or_else(|| body.to_owned())
}

/// Walks the words of SQL that PostgreSQL itself wrote.
struct Words<'a> {
    rest: &'a str,
}

impl Words<'_> {
    /// Steps over `word` if it is next.
    fn keyword(&mut self, word: &str) -> bool {
        let text = self.rest.trim_start();
        match text.strip_prefix(word) {
            Some(rest) if !rest.starts_with(is_bare) => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn qualified(&mut self) -> Option<QualifiedName> {
        let schema = self.identifier()?;
        self.rest = self.rest.strip_prefix('.')?;
        let name = self.identifier()?;
        Some(QualifiedName { schema, name })
    }

    fn identifier(&mut self) -> Option<Identifier> {
        let text = self.rest.trim_start();
        if let Some(quoted) = text.strip_prefix('"') {
            let mut raw = String::new();
            let mut chars = quoted.char_indices().peekable();
            while let Some((at, char)) = chars.next() {
                match char {
                    '"' if chars.next_if(|(_, next)| *next == '"').is_some() => raw.push('"'),
                    '"' => {
                        self.rest = quoted.get(at + 1..)?;
                        return Some(Identifier::new(raw));
                    }
                    other => raw.push(other),
                }
            }
            return None;
        }
        let end = text.find(|char| !is_bare(char)).unwrap_or(text.len());
        let (name, rest) = text.split_at_checked(end).filter(|(name, _)| !name.is_empty())?;
        self.rest = rest;
        Some(Identifier::new(name))
    }
}

/// What an unquoted identifier or keyword is made of.
fn is_bare(char: char) -> bool {
    char.is_alphanumeric() || char == '_' || char == '$' || !char.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(schema: &str, name: &str) -> QualifiedName {
        QualifiedName::new(schema, name)
    }

    #[test]
    fn reads_an_index_through_odd_names() {
        let sql = "CREATE UNIQUE INDEX \"ix ON y\" ON ONLY \"S.\"\"x\".\"Ta ON ONLY b\" USING btree (a);\n";
        let expected = Head::Index {
            unique: Uniqueness::Unique,
            name: Identifier::new("ix ON y"),
            table: table("S.\"x", "Ta ON ONLY b"),
        };
        assert_eq!(read_head(sql), Some(expected));
    }

    #[test]
    fn a_name_that_begins_like_a_keyword_is_a_name() {
        let sql = "CREATE INDEX only_x ON app.only_one USING gin (h);";
        let Some(Head::Index { name, table, .. }) = read_head(sql) else { panic!("{sql}") };
        assert_eq!((name.raw(), table.plain().as_str()), ("only_x", "app.only_one"));
    }

    #[test]
    fn tells_constraints_apart() {
        for (text, kind) in [
            ("PRIMARY KEY (a)", ConstraintKind::PrimaryKey),
            ("UNIQUE NULLS NOT DISTINCT (a)", ConstraintKind::Unique),
            ("EXCLUDE USING gist (a WITH =)", ConstraintKind::Exclusion),
            ("FOREIGN KEY (a) REFERENCES s.u(a)", ConstraintKind::ForeignKey),
            ("CHECK ((a > 0)) NOT VALID", ConstraintKind::Other),
        ] {
            let sql = format!("ALTER TABLE ONLY s.t\n    ADD CONSTRAINT \"u ADD CONSTRAINT\" {text};\n");
            let name = Identifier::new("u ADD CONSTRAINT");
            assert_eq!(read_head(&sql), Some(Head::Constraint { kind, name, table: table("s", "t") }));
        }
    }

    #[test]
    fn reads_an_attachment_and_leaves_the_rest_alone() {
        let attach = read_head("ALTER INDEX s.p ATTACH PARTITION s.\"c\";\n");
        assert_eq!(attach, Some(Head::Attach { child: table("s", "c") }));
        for other in ["", "CREATE TABLE a.b ();", "ALTER TABLE a.b OWNER TO c;", "CREATE INDEX \"x", "-- x"] {
            assert_eq!(read_head(other), None, "{other}");
        }
    }

    #[test]
    fn reads_where_an_extension_goes() {
        let sql = "CREATE EXTENSION IF NOT EXISTS \"uuid-ossp\" WITH SCHEMA \"My ext\";\n";
        assert_eq!(read_extension_schema(sql), Some(Identifier::new("My ext")));
        assert_eq!(read_extension_schema("CREATE EXTENSION IF NOT EXISTS plpgsql;"), None);
    }

    #[test]
    fn knows_its_own_work_again() {
        let index = "CREATE INDEX i ON s.t USING btree (a);\n\nALTER TABLE s.t CLUSTER ON i;\n";
        assert!(makes(index, "CREATE INDEX i ON s.t USING btree (a)"));
        assert!(!makes(index, "CREATE INDEX i ON s.t USING btree"));
        let unique =
            "ALTER TABLE ONLY s.t\n    ADD CONSTRAINT c UNIQUE (a) WITH (fillfactor='70') DEFERRABLE;\n";
        assert!(makes(unique, "UNIQUE (a) DEFERRABLE"));
        assert!(!makes(unique, "UNIQUE (a)"));
        assert!(!makes(unique, "UNIQUE (b) DEFERRABLE"));
    }
}
