//! An awkward database: small, deterministic, with one of everything that migrations stumble over.
//!
//! The SQL lies beside this file, in sections that say which servers they are for:
//! `--# always`, `--# since 12`, `--# before 11`, `--# extension hstore` (when the server has it),
//! `--# optional` (the server may have been built without).

use crate::error::{Error, Result};
use crate::pg::{Identifier, ServerVersion, SqlState, quote_literal};
use crate::wire::Session;

/// In this order: triggers come after the rows, so that seeding does not fire them.
const SCRIPTS: [&str; 3] =
    [include_str!("seed/schema.sql"), include_str!("seed/rows.sql"), include_str!("seed/code.sql")];

const FEATURE_NOT_SUPPORTED: &str = "0A000";

/// How much, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeedOptions {
    /// Rows of the middling tables; the largest has nine times as many. 1000 make about 9 MB.
    pub rows: u32,
    /// The same number gives the same rows, on every version of PostgreSQL.
    pub seed: u64,
}

impl Default for SeedOptions {
    fn default() -> SeedOptions {
        SeedOptions { rows: 1000, seed: 1 }
    }
}

/// Fills an empty database.
///
/// # Errors
/// [`crate::error::ErrorKind::Sql`] when the server refuses a statement, with the section it is in.
pub async fn seed(session: &Session, options: SeedOptions) -> Result<()> {
    let failed = |cause| Error::from_postgres("prepare to seed a database", cause);
    let version = "SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4";
    let version = session.query_one(version, &[]).await.map_err(failed)?.get::<_, i32>(0);
    let version = ServerVersion::new(u32::try_from(version).unwrap_or_default());
    let SeedOptions { rows, seed } = options;
    let settings = format!("SET demo.rows = '{rows}'; SET demo.seed = '{seed}'; SET timezone = 'UTC'");
    session.batch_execute(&settings).await.map_err(failed)?;
    for section in SCRIPTS.iter().flat_map(|script| sections(script)) {
        if section.condition.holds(session, version).await? {
            section.run(session).await?;
        }
    }
    Ok(())
}

/// On which servers a section runs.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    Always,
    Since(u32),
    Before(u32),
    Extension(String),
    Optional,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Section<'a> {
    condition: Condition,
    sql: &'a str,
}

/// # Panics
/// When a header is none of those above: the scripts are part of the program.
fn sections(script: &str) -> Vec<Section<'_>> {
    let parts = script.split("\n--# ").skip(1);
    parts
        .map(|part| {
            let (header, sql) = part.split_once('\n').unwrap_or((part, ""));
            Section { condition: Condition::parse(header), sql }
        })
        .collect()
}

impl Condition {
    fn parse(header: &str) -> Condition {
        let words: Vec<&str> = header.split_whitespace().collect();
        let major = |text: &str| text.parse().expect("a section's major version is a number");
        match words[..] {
            ["always"] => Condition::Always,
            ["since", text] => Condition::Since(major(text)),
            ["before", text] => Condition::Before(major(text)),
            ["extension", name] => Condition::Extension(name.to_owned()),
            ["optional"] => Condition::Optional,
            _ => panic!("a seed script has a section {header:?}"),
        }
    }

    async fn holds(&self, session: &Session, version: ServerVersion) -> Result<bool> {
        Ok(match self {
            Condition::Always | Condition::Optional => true,
            Condition::Since(major) => version.major() >= *major,
            Condition::Before(major) => version.major() < *major,
            Condition::Extension(name) => {
                let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_available_extensions WHERE name = $1)";
                let row = session.query_one(sql, &[name]).await;
                row.map_err(|cause| Error::from_postgres("look for an extension", cause))?.get(0)
            }
        })
    }
}

impl Section<'_> {
    async fn run(&self, session: &Session) -> Result<()> {
        let before = match &self.condition {
            Condition::Extension(name) => {
                format!("CREATE EXTENSION {} SCHEMA public;", Identifier::new(name.as_str()))
            }
            _ => String::new(),
        };
        let path = quote_literal("pg_catalog");
        let sql = format!("SET search_path = {path}; {before} {}; SET search_path = ''", self.sql);
        match session
            .batch_execute(&sql)
            .await
            .map_err(|cause| Error::from_postgres(format!("seed a database ({:?})", self.condition), cause))
        {
            Err(error)
                if self.condition == Condition::Optional
                    && error.sqlstate() == SqlState::from_code(FEATURE_NOT_SUPPORTED) =>
            {
                Ok(())
            }
            outcome => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_know_their_servers() {
        let script = "-- heading\n--# always\nSELECT 1;\n--# since 12\nSELECT 2;\n--# extension hstore\n";
        let parsed = sections(script);
        let conditions: Vec<_> = parsed.iter().map(|section| section.condition.clone()).collect();
        assert_eq!(
            conditions,
            [Condition::Always, Condition::Since(12), Condition::Extension("hstore".into())]
        );
        assert_eq!(parsed[0].sql, "SELECT 1;");
    }

    #[test]
    fn every_script_has_well_formed_sections() {
        for script in SCRIPTS {
            let parsed = sections(script);
            assert!(!parsed.is_empty() && parsed.iter().all(|section| section.sql.contains(';')));
        }
    }
}
