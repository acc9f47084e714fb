//! Reads the [`Objects`] of the source's database: one query for each kind, however many there are.

use std::collections::{HashMap, HashSet};

use tokio_postgres::Row;

use super::query;
use crate::catalog::{Catalog, field, row, rows};
use crate::error::{Error, Result};
use crate::pg::{Identifier, QualifiedName, RelationId, ServerVersion};
use crate::precheck::objects::{Jobs, LanguageUse, Objects, OpenFunction, OrderingConstraint};
use crate::wire::Session;

/// Reads them, in the snapshot that the session is in.
pub(super) async fn load(
    session: &Session,
    catalog: &Catalog,
    extension_schemas: &HashMap<String, String>,
) -> Result<Objects> {
    let version = catalog.version;
    let list = |sql: String| async move { strings(session, &sql).await };
    let sizes = row(session, "measure the database", &query::sizes()).await?;
    let bytes = |column| field::<i64>(&sizes, column).map(|bytes| bytes.max(0).unsigned_abs());
    Ok(Objects {
        database_bytes: bytes("database_bytes")?,
        large_object_bytes: bytes("large_object_bytes")?,
        lockable: bytes("lockable")?,
        unreadable_large_objects: bytes("unreadable")?,
        index_bytes: index_bytes(session).await?,
        languages: languages(session).await?,
        for_superusers: list(query::for_superusers()).await?,
        event_triggers: list(query::event_triggers()).await?,
        not_valid: named(session, &query::not_valid()).await?,
        ordering: ordering(session).await?,
        open_functions: open_functions(session, version).await?,
        names: list(query::names()).await?.into_iter().collect(),
        collations: list(query::collations()).await?.into_iter().collect::<HashSet<_>>(),
        changed_collations: list(query::changed_collations()).await?,
        text_ranges: relations(session, &query::text_ranges()).await?,
        elsewhere: named(session, &query::elsewhere()).await?,
        label_providers: list(query::LABEL_PROVIDERS.to_owned()).await?,
        postfix_operators: list(query::POSTFIX_OPERATORS.to_owned()).await?,
        with_oids: match version.major() {
            ..12 => relations(session, &query::with_oids()).await?,
            _ => Vec::new(),
        },
        hypertables: match extension_schemas.contains_key("timescaledb") {
            true => count(session, "_timescaledb_catalog.hypertable").await?,
            false => Some(0),
        },
        jobs: jobs(session, extension_schemas).await?,
    })
}

const DOING: &str = "read what the source holds beside its tables";

async fn strings(session: &Session, sql: &str) -> Result<Vec<String>> {
    rows(session, DOING, sql).await?.iter().map(|row| field(row, "name")).collect()
}

fn relation(row: &Row) -> Result<QualifiedName> {
    Ok(QualifiedName::new(field::<&str>(row, "nspname")?, field::<&str>(row, "relname")?))
}

async fn relations(session: &Session, sql: &str) -> Result<Vec<QualifiedName>> {
    rows(session, DOING, sql).await?.iter().map(relation).collect()
}

async fn named(session: &Session, sql: &str) -> Result<Vec<(QualifiedName, String)>> {
    rows(session, DOING, sql).await?.iter().map(|row| Ok((relation(row)?, field(row, "name")?))).collect()
}

async fn index_bytes(session: &Session) -> Result<HashMap<RelationId, u64>> {
    let found = rows(session, "measure the indexes", &query::index_pages()).await?;
    let read = |row| {
        Ok((RelationId::new(field(row, "indrelid")?), field::<i64>(row, "bytes")?.max(0).unsigned_abs()))
    };
    found.iter().map(read).collect()
}

async fn languages(session: &Session) -> Result<Vec<LanguageUse>> {
    let found = rows(session, "list the languages of functions", &query::language_uses()).await?;
    let read = |row| {
        Ok(LanguageUse {
            name: field(row, "lanname")?,
            is_trusted: field(row, "lanpltrusted")?,
            functions: field::<i64>(row, "functions")?.unsigned_abs(),
            example: field(row, "example")?,
        })
    };
    found.iter().map(read).collect()
}

async fn ordering(session: &Session) -> Result<Vec<OrderingConstraint>> {
    let found = rows(session, DOING, &query::ordering_constraints()).await?;
    let read = |row| {
        Ok(OrderingConstraint {
            table: RelationId::new(field(row, "oid")?),
            name: relation(row)?,
            constraint: field(row, "name")?,
            is_exclusion: field(row, "is_exclusion")?,
        })
    };
    found.iter().map(read).collect()
}

async fn open_functions(session: &Session, version: ServerVersion) -> Result<Vec<OpenFunction>> {
    let found = rows(session, DOING, &query::functions_called_by_rows(version)).await?;
    found
        .iter()
        .map(|row| Ok(OpenFunction { name: field(row, "name")?, body: field(row, "prosrc")? }))
        .collect()
}

/// Extensions with jobs: what they call them, where these stand (`{}` is the extension's schema), how to stop them.
const WITH_JOBS: [(&str, &str, &str, &str); 3] = [
    (
        "pg_cron",
        "jobs",
        "cron.job",
        "ALTER SYSTEM SET cron.launch_active_jobs = off; SELECT pg_reload_conf(); on the target, or UPDATE cron.job SET \
         active = false; there, until the cutover",
    ),
    (
        "pg_partman",
        "partition sets",
        "{}.part_config",
        "Make the partitions of the whole migration beforehand, and leave pg_partman_bgw and run_maintenance() off on \
         the target until the cutover",
    ),
    ("pgagent", "jobs", "pgagent.pga_job", "Start no pgagent on the target before the cutover"),
];

async fn jobs(session: &Session, schemas: &HashMap<String, String>) -> Result<Vec<Jobs>> {
    let mut found = Vec::new();
    for (extension, what, table, stop) in WITH_JOBS {
        let Some(schema) = schemas.get(extension) else { continue };
        let table = table.replace("{}", &Identifier::new(schema.as_str()).to_string());
        let count = count(session, &table).await?;
        found.push(Jobs { extension: extension.to_owned(), what, count, stop });
    }
    Ok(found)
}

/// `None` where there is no such table, or we may not read it. In a savepoint: a refusal must not end the snapshot.
async fn count(session: &Session, table: &str) -> Result<Option<u64>> {
    let doing = "count what an extension runs";
    let run = |sql: &'static str| async move {
        session.batch_execute(sql).await.map_err(|error| Error::from_postgres(doing, error))
    };
    run("SAVEPOINT counting").await?;
    let counted = row(session, doing, &format!("SELECT pg_catalog.count(*) AS count FROM {table}")).await;
    match counted {
        Ok(row) => {
            run("RELEASE SAVEPOINT counting").await?;
            Ok(Some(field::<i64>(&row, "count")?.unsigned_abs()))
        }
        Err(error) if error.sqlstate().is_some_and(|state| state.class() == "42") => {
            run("ROLLBACK TO SAVEPOINT counting").await?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
