//! Settings that a role or a database carries, and the statements that give them to another.
//!
//! Hazard: some settings are lists of names, stored with each name quoted. Given back as one literal,
//! `"$user", public` becomes the name of a single schema that nobody has (P73).

use std::fmt;

use crate::pg::{Identifier, quote_literal};

/// One entry of `pg_db_role_setting.setconfig`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Setting {
    /// The parameter, as it was spelled when it was set.
    pub name: String,
    /// Its value as the server keeps it.
    pub value: String,
}

/// Parameters whose value is a list of quoted names (`GUC_LIST_QUOTE`).
const LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// Parameters that end or refuse work, or decide what is loaded into it: no help to a database that is still
/// being filled (P73, P90).
const BITING: [&str; 9] = [
    "default_transaction_read_only",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "local_preload_libraries",
    "lock_timeout",
    "session_preload_libraries",
    "session_replication_role",
    "statement_timeout",
    "transaction_timeout",
];

impl Setting {
    /// Reads `name=value`.
    pub(super) fn from_config(config: &str) -> Option<Setting> {
        let (name, value) = config.split_once('=')?;
        Some(Setting { name: name.to_owned(), value: value.to_owned() })
    }

    /// Whether this is the parameter of that name: case does not count.
    pub(super) fn is_of(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// Whether it may end or refuse our work, or an application's before its time.
    pub(super) fn bites(&self) -> bool {
        BITING.iter().any(|name| self.is_of(name))
    }
}

/// `SET "name" TO value`, to follow ALTER ROLE or ALTER DATABASE.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name: Vec<String> = self.name.split('.').map(|part| Identifier::new(part).to_string()).collect();
        let is_list = LISTS.iter().any(|list| self.is_of(list));
        let values: Vec<String> = match is_list.then(|| names(&self.value)).flatten() {
            Some(names) if names.is_empty() => vec![quote_literal("")],
            Some(names) => names.iter().map(|name| quote_literal(name)).collect(),
            None => vec![quote_literal(&self.value)],
        };
        write!(f, "SET {} TO {}", name.join("."), values.join(", "))
    }
}

/// The names in a list; `None` if it is not one.
fn names(list: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = list.trim();
    while !rest.is_empty() {
        let name;
        (name, rest) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_name(quoted)?,
            None => {
                let (name, rest) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
                (name.trim().to_owned(), rest)
            }
        };
        names.push(name);
        rest = match rest.trim_start().strip_prefix(',') {
            Some(rest) => rest.trim_start(),
            None if rest.trim().is_empty() => "",
            None => return None,
        };
    }
    Some(names)
}

/// What stands before the closing quote, and what after it.
fn quoted_name(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' if chars.next_if(|(_, next)| *next == '"').is_some() => name.push('"'),
            '"' => return Some((name, text.get(at + 1..)?)),
            other => name.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(config: &str) -> String {
        Setting::from_config(config).unwrap().to_string()
    }

    #[test]
    fn a_list_stays_a_list() {
        assert_eq!(
            statement(r#"search_path="$user", public, "a ""b"", c""#),
            r#"SET "search_path" TO '$user', 'public', 'a "b", c'"#
        );
        assert_eq!(statement(r#"search_path="""#), r#"SET "search_path" TO ''"#);
        assert_eq!(statement("search_path="), r#"SET "search_path" TO ''"#);
        assert_eq!(statement(r#"Search_Path="a"#), r#"SET "Search_Path" TO '"a'"#);
    }

    #[test]
    fn anything_else_is_one_literal() {
        assert_eq!(statement("app.tenant=it's, a=b"), r#"SET "app"."tenant" TO 'it''s, a=b'"#);
        assert_eq!(statement("DateStyle=ISO, DMY"), r#"SET "DateStyle" TO 'ISO, DMY'"#);
    }

    #[test]
    fn what_bites_waits() {
        assert!(Setting::from_config("Statement_Timeout=1s").unwrap().bites());
        assert!(!Setting::from_config("work_mem=1MB").unwrap().bites());
    }
}
