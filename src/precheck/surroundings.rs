//! What surrounds a database: the server's settings, what is set for us, its locale, and the way there.
//!
//! Hazard: a stored setting may hold an application's secret (`app.jwt_key`). Values are kept as
//! [`Secret`]s, and messages name settings without them.

use std::collections::HashMap;

use crate::pg::Secret;

/// What surrounds a database.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Settings that checks ask for, as `pg_settings` gives them; those that the server has and shows to us.
    pub settings: HashMap<String, String>,
    /// Settings stored for roles and databases that concern this database or us.
    pub stored: Vec<StoredSetting>,
    /// The database's locale.
    pub locale: Locale,
    /// The way there.
    pub route: Route,
}

/// A row of `pg_db_role_setting`, taken apart (P73, P90).
#[derive(Debug, Clone, PartialEq)]
pub struct StoredSetting {
    /// The role, if it is for one.
    pub role: Option<String>,
    /// Whether it is for this database, not for all.
    pub is_of_database: bool,
    /// Whether sessions of our role in this database start with it.
    pub is_ours: bool,
    /// The setting.
    pub name: String,
    /// Its value.
    pub value: Secret,
}

/// The locale of a database (P64).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locale {
    /// `datcollate`.
    pub collate: String,
    /// `datctype`.
    pub ctype: String,
    /// `datlocprovider`: `c` libc, `i` ICU, `b` built in; before 15 always `c`.
    pub provider: String,
    /// The provider's own name of the locale, where it has one.
    pub provider_locale: Option<String>,
    /// The version of the collation that the database was made with, and the one in use (15+).
    pub versions: Option<(String, String)>,
}

/// How a session reached its server (P91).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Route {
    /// Names of the hosts, as they were given.
    pub hosts: Vec<String>,
    /// Ports, as they were given.
    pub ports: Vec<u16>,
    /// The process that the login named.
    pub greeted_by: i32,
    /// The processes that ran two statements, one after the other.
    pub served_by: [i32; 2],
}

impl Surroundings {
    /// A setting that is a number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<i64> {
        self.settings.get(name)?.parse().ok()
    }

    /// The members of a setting that is a list, such as `shared_preload_libraries`.
    #[must_use]
    pub fn list(&self, name: &str) -> Option<Vec<&str>> {
        let text = self.settings.get(name)?;
        let parts = text.split(',').map(|part| part.trim().trim_matches('"'));
        Some(parts.filter(|part| !part.is_empty()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_the_server_reads_them() {
        let with = |value: &str| Surroundings {
            settings: HashMap::from([("x".to_owned(), value.to_owned())]),
            ..Surroundings::default()
        };
        assert_eq!(with(" pg_cron, \"pgaudit\" ,").list("x"), Some(vec!["pg_cron", "pgaudit"]));
        assert_eq!(with("").list("x"), Some(vec![]));
        assert_eq!(with("").list("y"), None);
        assert_eq!((with("-1").number("x"), with("a").number("x")), (Some(-1), None));
    }
}
