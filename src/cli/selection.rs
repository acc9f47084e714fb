//! Which databases and roles move: options of `check` and `migrate`.
//!
//! Hazard: a connection string without a database means the role's own to libpq, and the whole server to us;
//! so the reading stands in one place, and help tells it.

use std::path::PathBuf;

use super::misuse::Misuse;
use crate::migrate::cluster::choice::{self, InvalidName, twice};
use crate::migrate::cluster::{Creation, Pair, Roles, Wanted};
use crate::pg::Conninfo;
use crate::schema::{RolePattern, RoleSettings};

/// Which databases.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Databases (by default: the one that --source names; all, if it names none)")]
pub struct Databases {
    /// Move this database, under another name if one follows the colon; repeatable. Names are taken as they
    /// are; in double quotes one may hold a colon.
    #[arg(long = "database", value_name = "SRC[:DST]", value_parser = pair)]
    pub database: Vec<Pair>,
    /// Move all databases; a name in a connection string then only says where to connect first.
    #[arg(long)]
    pub all_databases: bool,
    /// Of all databases, leave these out; repeatable.
    #[arg(short = 'f', long, visible_alias = "filtered-db", value_name = "NAME,…", value_parser = names)]
    pub exclude_db: Vec<NameList>,
    /// Do not create databases that the target lacks.
    #[arg(long)]
    pub no_createdb: bool,
}

/// Which roles.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Roles")]
pub struct RoleArgs {
    /// Do not carry roles over.
    #[arg(long)]
    pub no_roles: bool,
    /// Leave these roles out; * and ? are patterns; repeatable.
    #[arg(long, visible_alias = "filtered-roles", value_name = "NAME,…", value_parser = roles)]
    pub excluded_roles: Vec<RoleList>,
    /// Show the passwords of roles whose own could not be read, and which were given a new one.
    #[arg(long)]
    pub show_passwords: bool,
    /// Write these passwords to this file, for its owner alone.
    #[arg(long, value_name = "FILE")]
    pub role_passwords: Option<PathBuf>,
}

/// Patterns of roles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleList(pub Vec<RolePattern>);

impl RoleArgs {
    pub(super) fn contradiction(&self) -> Option<Misuse> {
        let about_roles =
            !self.excluded_roles.is_empty() || self.show_passwords || self.role_passwords.is_some();
        (self.no_roles && about_roles).then_some(Misuse::NoRolesAndRoles)
    }

    /// What becomes of the source's roles.
    #[must_use]
    pub fn roles(&self) -> Roles {
        if self.no_roles {
            return Roles::Leave;
        }
        let excluded = self.excluded_roles.iter().flat_map(|list| list.0.clone()).collect();
        Roles::Carry(RoleSettings { excluded, password_file: self.role_passwords.clone() })
    }
}

#[allow(clippy::unnecessary_wraps)] // clap asks for a Result
pub(super) fn roles(text: &str) -> Result<RoleList, std::convert::Infallible> {
    Ok(RoleList(RolePattern::list(text)))
}

/// Names parted by commas, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameList(pub Vec<String>);

impl Databases {
    /// What contradicts itself, whatever the connection strings say.
    pub(super) fn contradiction(&self) -> Option<Misuse> {
        if self.database.is_empty() {
            return None;
        }
        if self.all_databases {
            return Some(Misuse::NamedAndAll);
        }
        if !self.exclude_db.is_empty() {
            return Some(Misuse::NamedAndExcluded);
        }
        twice(&self.database).map(|name| Misuse::DatabaseTwice { name: name.to_owned() })
    }

    /// The databases asked for, between these two servers.
    ///
    /// # Errors
    /// [`Misuse::ExceptionFromOne`] when databases are left out of one; [`Misuse::BadValue`] for a name that the
    /// server would cut.
    pub fn wanted(&self, source: &Conninfo, target: &Conninfo) -> Result<Wanted, Misuse> {
        if !self.database.is_empty() {
            return Ok(Wanted::Named(self.database.clone()));
        }
        let except: Vec<String> = self.exclude_db.iter().flat_map(|list| list.0.clone()).collect();
        match &source.dbname {
            Some(name) if !self.all_databases => {
                if !except.is_empty() {
                    return Err(Misuse::ExceptionFromOne);
                }
                let target = target.dbname.as_ref().unwrap_or(name).clone();
                for (option, name) in [("--source", name), ("--target", &target)] {
                    if name.len() > choice::NAME_BYTES {
                        let expected = "a database's name has at most 63 bytes".to_owned();
                        return Err(Misuse::BadValue { option: option.to_owned(), expected });
                    }
                }
                Ok(Wanted::One(Pair { source: name.clone(), target }))
            }
            Some(_) | None => Ok(Wanted::All { except }),
        }
    }

    /// What is done about databases that the target lacks.
    #[must_use]
    pub fn creation(&self) -> Creation {
        if self.no_createdb { Creation::Never } else { Creation::Missing }
    }
}

fn pair(text: &str) -> Result<Pair, InvalidName> {
    text.parse()
}

pub(super) fn names(text: &str) -> Result<NameList, InvalidName> {
    choice::names(text).map(NameList)
}

/// Reads what names a run in logs: anything that needs no quoting there.
pub(super) fn migration_id(text: &str) -> Result<String, &'static str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if (1..=64).contains(&text.len()) && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("write up to 64 letters, digits and - _ . :")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::Environment;

    fn conninfo(text: &str) -> Conninfo {
        let environment = Environment { variables: Default::default(), ..Environment::from_process() };
        Conninfo::resolve(&format!("user=u {text}"), &environment).unwrap()
    }

    fn pair_of(source: &str, target: &str) -> Pair {
        Pair { source: source.to_owned(), target: target.to_owned() }
    }

    #[test]
    fn the_connection_strings_decide_unless_an_option_does() {
        let wanted = |databases: &Databases, source: &str, target: &str| {
            databases.wanted(&conninfo(source), &conninfo(target))
        };
        let nothing = Databases::default();
        let one = |target| Ok(Wanted::One(pair_of("shop", target)));
        assert_eq!(wanted(&nothing, "dbname=shop", "dbname=new"), one("new"));
        assert_eq!(wanted(&nothing, "dbname=shop", ""), one("shop"), "not the role's own");
        let too_long = format!("dbname={}", "x".repeat(64));
        let long = wanted(&nothing, "dbname=shop", &too_long);
        assert!(matches!(long, Err(Misuse::BadValue { .. })), "{long:?}");
        let all = |except: &[&str]| {
            Ok(Wanted::All { except: except.iter().map(|name| (*name).to_owned()).collect() })
        };
        assert_eq!(wanted(&nothing, "", "dbname=new"), all(&[]));
        let every = Databases { all_databases: true, ..Databases::default() };
        assert_eq!(wanted(&every, "dbname=shop", "dbname=new"), all(&[]));
        let lists = vec![NameList(vec!["a".to_owned(), "b".to_owned()]), NameList(vec!["c".to_owned()])];
        let some = Databases { exclude_db: lists, ..Databases::default() };
        assert_eq!(wanted(&some, "", ""), all(&["a", "b", "c"]));
        assert_eq!(wanted(&some, "dbname=shop", ""), Err(Misuse::ExceptionFromOne));
        let named = Databases { database: vec![pair_of("a", "b")], ..Databases::default() };
        assert_eq!(wanted(&named, "dbname=shop", ""), Ok(Wanted::Named(vec![pair_of("a", "b")])));
    }

    #[test]
    fn an_id_needs_no_quoting_in_a_log() {
        assert_eq!(migration_id("Run-7.a"), Ok("Run-7.a".to_owned()));
        for text in ["", "a b", "a\"", "a\n", &"x".repeat(65)] {
            assert!(migration_id(text).is_err(), "{text:?}");
        }
    }
}
