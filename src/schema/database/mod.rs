//! Databases: what one is made with, and what is hung on it afterwards.
//!
//! Hazards:
//! - Encoding and locale are given when a database is made, and never again; what the target's machine does not
//!   know refuses the whole database (P63, P64).
//! - The rest (rights, settings, limits) is in no dump of the database's content (P73), and part of it would end or
//!   refuse our own work: that part waits for the last [`Stage`].

mod access;
mod create;
mod load;
mod property;
#[cfg(test)]
mod testing;

pub use create::{CreatedDatabase, Creation, create_database};
pub use load::read_databases;
pub use property::{Stage, carry_database_properties};

use crate::schema::setting::Setting;

/// One database of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseDefinition {
    /// Its name.
    pub name: String,
    /// Its owner.
    pub owner: String,
    /// The server's bootstrap superuser, whose name differs from server to server.
    pub bootstrap: String,
    /// `UTF8`.
    pub encoding: String,
    /// Its locale.
    pub locale: DatabaseLocale,
    /// The tablespace it lies in.
    pub tablespace: String,
    /// Whether it lets anybody in; from one that does not, nothing can be carried.
    pub allow_connections: bool,
    /// Whether it is a template.
    pub is_template: bool,
    /// -1 for none.
    pub connection_limit: i32,
    /// Its comment.
    pub comment: Option<String>,
    /// Its rights, with the server's defaults filled in.
    pub rights: Vec<DatabaseRight>,
    /// Whether anybody has ever granted or revoked something.
    pub rights_kind: RightsKind,
    /// `ALTER DATABASE SET` and `ALTER ROLE … IN DATABASE SET`.
    pub settings: Vec<DatabaseSetting>,
    /// Security labels: provider and label (P74).
    pub labels: Vec<(String, String)>,
}

/// How a database orders and classifies text (P64).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseLocale {
    /// Whose rules.
    pub provider: LocaleProvider,
    /// `LC_COLLATE`.
    pub collate: String,
    /// `LC_CTYPE`.
    pub ctype: String,
    /// The locale of a provider other than libc.
    pub name: Option<String>,
    /// Rules added to an ICU locale (16+).
    pub rules: Option<String>,
}

/// Who knows a locale (docs: `locale-providers`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocaleProvider {
    /// The operating system.
    Libc,
    /// The ICU library (15+).
    Icu,
    /// PostgreSQL itself (17+).
    Builtin,
}

impl LocaleProvider {
    /// The word for it in CREATE DATABASE.
    #[must_use]
    pub const fn keyword(self) -> &'static str {
        match self {
            LocaleProvider::Libc => "libc",
            LocaleProvider::Icu => "icu",
            LocaleProvider::Builtin => "builtin",
        }
    }
}

/// One right on a database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DatabaseRight {
    /// Who granted it.
    pub grantor: String,
    /// Who has it; `None` for PUBLIC.
    pub grantee: Option<String>,
    /// `CONNECT`, `CREATE` or `TEMPORARY`.
    pub privilege: String,
    /// WITH GRANT OPTION.
    pub grantable: bool,
}

/// Whether rights are the server's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RightsKind {
    /// Nobody has changed them.
    Default,
    /// Somebody has.
    Explicit,
}

/// A setting of a database, or of a role in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseSetting {
    /// The role, if it is one's.
    pub role: Option<String>,
    /// The setting.
    pub setting: Setting,
}
