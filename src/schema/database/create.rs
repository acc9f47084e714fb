//! Makes a database like the source's, from template0.
//!
//! Hazard: from template1 it would come with whatever the target's operator put there, and in no other encoding or
//! locale than that has (P64). A database made with another locale than the source's sorts otherwise for ever: so
//! that is an error with a name, not a fallback.

use tokio_postgres::types::Type;

use super::load::read_databases;
use super::{DatabaseDefinition, DatabaseLocale, LocaleProvider};
use crate::catalog::field;
use crate::error::{Error, ErrorKind, Result, describe};
use crate::pg::{Identifier, SqlState, quote_literal};
use crate::wire::Session;

/// A database that is there now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedDatabase {
    /// Whether we made it.
    pub creation: Creation,
    /// In what it is not like the source's.
    pub warnings: Vec<String>,
}

/// How a database came to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Creation {
    /// We made it.
    Created,
    /// It was there.
    Exists,
}

/// Makes `name` on the target as `definition` says, unless it is there; then it is compared. The session must not
/// be in a transaction. Its owner should exist, and be one that we can act for.
///
/// # Errors
/// `Schema` if the target does not know the locale or the encoding, or does not let us make databases: with what
/// to do. `Connect` if the connection breaks; calling again is safe.
pub async fn create_database(
    target: &Session,
    definition: &DatabaseDefinition,
    name: &str,
) -> Result<CreatedDatabase> {
    let facts = facts(target, definition, name).await?;
    if facts.is_there {
        return exists(target, definition, name).await;
    }
    let mut warnings = Vec::new();
    let mut owner = None;
    if facts.owner_is_there {
        owner = Some(facts.owner.as_str());
    } else {
        warnings.push(format!("its owner {} is not on the target: ours owns it", definition.owner));
    }
    let tablespace = match definition.tablespace.as_str() {
        "pg_default" => None,
        named if facts.tablespace_is_there => Some(named),
        named => {
            warnings.push(format!("tablespace {named} is not on the target: it lies in the default one"));
            None
        }
    };
    let major = target.version().major();
    let mut ended = run(target, &statement(definition, name, owner, tablespace, major)).await;
    // It may be the owner that is refused us, and not the database.
    if let (Err(error), Some(refused)) = (&ended, owner)
        && error.sqlstate() == Some(SqlState::INSUFFICIENT_PRIVILEGE)
    {
        ended = run(target, &statement(definition, name, None, tablespace, major)).await;
        warnings.push(format!("our role may not give it to its owner {refused}: ours owns it"));
    }
    match ended {
        Ok(()) => Ok(CreatedDatabase { creation: Creation::Created, warnings }),
        Err(error) if error.sqlstate() == Some(SqlState::DUPLICATE_DATABASE) => {
            exists(target, definition, name).await
        }
        Err(error) => Err(explain(error, definition, name)),
    }
}

/// What CREATE DATABASE must know of the target.
struct Facts {
    is_there: bool,
    /// What the owner is called there.
    owner: String,
    owner_is_there: bool,
    tablespace_is_there: bool,
}

async fn facts(target: &Session, definition: &DatabaseDefinition, name: &str) -> Result<Facts> {
    let failed = |error| Error::from_postgres("look for a database on the target", error);
    let is_bootstrap = definition.owner == definition.bootstrap;
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 4] = [
        (&name, Type::TEXT),
        (&definition.owner, Type::TEXT),
        (&is_bootstrap, Type::BOOL),
        (&definition.tablespace, Type::TEXT),
    ];
    let row = target.query_typed_one(FACTS, &parameters).await.map_err(failed)?;
    let owner: Option<String> = field(&row, "owner")?;
    Ok(Facts {
        is_there: field(&row, "is_there")?,
        owner_is_there: owner.is_some(),
        owner: owner.unwrap_or_else(|| definition.owner.clone()),
        tablespace_is_there: field(&row, "tablespace_is_there")?,
    })
}

const FACTS: &str = "
SELECT EXISTS (SELECT FROM pg_catalog.pg_database d WHERE d.datname = $1) AS is_there,
       (SELECT r.rolname::pg_catalog.text FROM pg_catalog.pg_roles r
        WHERE CASE WHEN $3 THEN r.oid = 10 ELSE r.rolname = $2 END) AS owner,
       EXISTS (SELECT FROM pg_catalog.pg_tablespace s WHERE s.spcname = $4) AS tablespace_is_there";

async fn run(target: &Session, sql: &str) -> Result<()> {
    target.batch_execute(sql).await.map_err(|error| Error::from_postgres("create a database", error))
}

/// CREATE DATABASE, in the words of a server of that major (docs: `sql-createdatabase`).
fn statement(
    definition: &DatabaseDefinition,
    name: &str,
    owner: Option<&str>,
    tablespace: Option<&str>,
    major: u32,
) -> String {
    let mut sql = format!(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING {}",
        Identifier::new(name),
        quote_literal(&definition.encoding)
    );
    sql += &locale_options(&definition.locale, major);
    if let Some(owner) = owner {
        sql += &format!(" OWNER {}", Identifier::new(owner));
    }
    if let Some(tablespace) = tablespace {
        sql += &format!(" TABLESPACE {}", Identifier::new(tablespace));
    }
    sql
}

/// The collation's version is not carried: the indexes are built by the target's own libraries.
fn locale_options(locale: &DatabaseLocale, major: u32) -> String {
    let mut options =
        format!(" LC_COLLATE {} LC_CTYPE {}", quote_literal(&locale.collate), quote_literal(&locale.ctype));
    // Said aloud, because template0's own provider would be the default.
    if major >= 15 {
        options += &format!(" LOCALE_PROVIDER {}", locale.provider.keyword());
    }
    let keyword = match locale.provider {
        LocaleProvider::Libc => return options,
        LocaleProvider::Icu => "ICU_LOCALE",
        LocaleProvider::Builtin => "BUILTIN_LOCALE",
    };
    for (keyword, value) in [(keyword, &locale.name), ("ICU_RULES", &locale.rules)] {
        if let Some(value) = value {
            options += &format!(" {keyword} {}", quote_literal(value));
        }
    }
    options
}

/// Compares what is there with what would have been made.
async fn exists(target: &Session, definition: &DatabaseDefinition, name: &str) -> Result<CreatedDatabase> {
    let found = read_databases(target).await?.into_iter().find(|one| one.name == name);
    let warnings = found.map_or_else(Vec::new, |found| mismatches(definition, &found));
    Ok(CreatedDatabase { creation: Creation::Exists, warnings })
}

fn mismatches(source: &DatabaseDefinition, target: &DatabaseDefinition) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |what: &str, source: String, target: String| {
        if source != target {
            found.push(format!("its {what} is {target} on the target, and {source} on the source"));
        }
    };
    compare("encoding", source.encoding.clone(), target.encoding.clone());
    compare(
        "locale provider",
        source.locale.provider.keyword().to_owned(),
        target.locale.provider.keyword().to_owned(),
    );
    compare("LC_COLLATE", spelled(&source.locale.collate), spelled(&target.locale.collate));
    compare("LC_CTYPE", spelled(&source.locale.ctype), spelled(&target.locale.ctype));
    let name = |one: &DatabaseDefinition| one.locale.name.clone().unwrap_or_else(|| "none".to_owned());
    compare("locale", name(source), name(target));
    let owner = |one: &DatabaseDefinition| match one.owner == one.bootstrap {
        true => "the bootstrap superuser".to_owned(),
        false => one.owner.clone(),
    };
    compare("owner", owner(source), owner(target));
    found
}

/// `en_US.UTF-8` and `en_US.utf8` are one.
fn spelled(locale: &str) -> String {
    match locale.split_once('.') {
        Some((language, codeset)) => format!("{language}.{}", codeset.to_ascii_lowercase().replace('-', "")),
        None => locale.to_owned(),
    }
}

/// Says what the target lacks.
fn explain(error: Error, definition: &DatabaseDefinition, name: &str) -> Error {
    let doing = format!("create database {} on the target", Identifier::new(name));
    let locale = &definition.locale;
    let named = match (&locale.name, locale.provider) {
        (Some(named), provider) => format!("{} locale {named}", provider.keyword()),
        (None, _) if locale.collate == locale.ctype => format!("locale {}", locale.collate),
        (None, _) => format!("locale {} or {}", locale.collate, locale.ctype),
    };
    let hint = match error.sqlstate() {
        Some(SqlState::INSUFFICIENT_PRIVILEGE) => format!(
            "Give the target's role the right to (ALTER ROLE … CREATEDB), or create {} by hand with ENCODING {}, LC_COLLATE \
             {}, LC_CTYPE {} from template0 and run again with `--no-createdb`.",
            Identifier::new(name),
            quote_literal(&definition.encoding),
            quote_literal(&locale.collate),
            quote_literal(&locale.ctype),
        ),
        // wrong_object_type is what an unknown locale has been since ever (dbcommands.c).
        Some(state) if matches!(state.code(), "42809" | "22023" | "0A000" | "42704") => format!(
            "The target does not know {named} with encoding {}. Install it on the target's machine (locale-gen, or the \
             provider's settings) and restart the server there, or create the database by hand from template0 with a \
             locale that it knows and run again with `--no-createdb`; text then sorts by that one's rules.",
            definition.encoding
        ),
        _ => return Error::new(error.kind_or(ErrorKind::Schema), doing).because(error),
    };
    let cause = std::error::Error::source(&error).map_or_else(String::new, describe);
    let state = error.sqlstate();
    let explained = Error::new(error.kind_or(ErrorKind::Schema), doing).hint(hint).because(cause);
    match state {
        Some(state) => explained.with_sqlstate(state),
        None => explained,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{definition, libc};
    use super::*;

    #[test]
    fn says_the_provider_only_to_servers_that_have_one() {
        let sql = |major| locale_options(&libc("C"), major);
        assert_eq!(sql(14), " LC_COLLATE 'C' LC_CTYPE 'C'");
        assert_eq!(sql(15), " LC_COLLATE 'C' LC_CTYPE 'C' LOCALE_PROVIDER libc");
        let icu = DatabaseLocale {
            provider: LocaleProvider::Icu,
            name: Some("de-AT".to_owned()),
            rules: Some("&a < g".to_owned()),
            ..libc("C")
        };
        assert!(
            locale_options(&icu, 16).ends_with("LOCALE_PROVIDER icu ICU_LOCALE 'de-AT' ICU_RULES '&a < g'")
        );
        let builtin = DatabaseLocale {
            provider: LocaleProvider::Builtin,
            name: Some("C.UTF-8".to_owned()),
            ..libc("C")
        };
        assert!(locale_options(&builtin, 17).ends_with("LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'"));
    }

    #[test]
    fn names_are_quoted() {
        let sql = statement(&definition(), "a\"b", Some("My role"), Some("fast"), 15);
        assert!(sql.starts_with("CREATE DATABASE \"a\"\"b\" TEMPLATE template0 ENCODING 'UTF8' "), "{sql}");
        assert!(sql.ends_with(" OWNER \"My role\" TABLESPACE \"fast\""), "{sql}");
    }

    #[test]
    fn one_locale_in_two_spellings_is_one() {
        let (mut source, mut target) = (definition(), definition());
        (source.locale, target.locale) = (libc("de_DE.UTF-8"), libc("de_DE.utf8"));
        assert!(mismatches(&source, &target).is_empty());
        target.locale = libc("C");
        target.encoding = "LATIN1".to_owned();
        assert_eq!(mismatches(&source, &target).len(), 3);
    }

    #[test]
    fn the_bootstrap_superusers_are_one_owner() {
        let (mut source, mut target) = (definition(), definition());
        (source.owner, target.owner, target.bootstrap) =
            ("postgres".to_owned(), "admin".to_owned(), "admin".to_owned());
        assert!(mismatches(&source, &target).is_empty());
    }
}
