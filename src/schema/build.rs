//! Builds one index or constraint over a session.
//!
//! A foreign key is made in two steps: NOT VALID, for which both tables are locked for a moment, and VALIDATE, which
//! reads all rows under a lock that keeps only other builds on the same table out (docs: `sql-altertable`, Notes).
//! So the keys of many tables to one parent are validated side by side, and not one after the other.
//!
//! A primary key is made in one, not as a unique index that ADD CONSTRAINT … USING INDEX takes over. That would let
//! the other indexes of its table be built beside it, but not earlier: taking it over needs the table alone, and so
//! waits for them, with a connection of its own, while whatever else is to be built on the table waits behind it. Alone,
//! the build has the parallel workers instead ([`crate::schema::Schedule`] keeps the others away without blocking
//! anyone), and cores are as busy.
//!
//! Hazard: a build may have been made by a run that died before it could write that down, and be made twice
//! (P52), or found half made. So we look first, by name and definition; and a build whose functions need the
//! source's own `search_path` (P58) is given it, once, and only after it failed without.

use crate::error::{Error, ErrorKind, Result};
use crate::pg::{SqlState, quote_literal};
use crate::schema::allowance::Allowance;
use crate::schema::definition::makes;
use crate::schema::plan::{Build, BuildForm, BuildKind};
use crate::wire::Session;

/// How often a build that lost a deadlock is tried.
const ATTEMPTS_MAX: u32 = 5;
/// Foreign keys that are made in one transaction, before their rows are looked at.
const ANNOUNCED_TOGETHER: usize = 32;

/// What every build of a database is given.
#[derive(Debug, Clone)]
pub struct BuildSettings {
    /// Memory and workers for each; `None` leaves the server's.
    pub allowance: Option<Allowance>,
    /// The `search_path` in force in the source database, for functions that depend on it; `None` never tries it.
    pub source_search_path: Option<String>,
    /// Whether indexes go to the tablespaces they had.
    pub tablespaces: Tablespaces,
}

/// Where objects are stored (P74).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tablespaces {
    /// In the target database's default tablespace.
    Default,
    /// In a tablespace of the same name as on the source, which must exist.
    Keep,
}

/// How a build came to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Built {
    /// It was built.
    Now,
    /// It was built, under the source's `search_path`: its functions will need that on the target too.
    WithSourceSearchPath,
    /// An earlier run had built it.
    Earlier,
}

/// Which `search_path` a build runs under.
#[derive(Clone, Copy)]
enum SearchPath<'a> {
    Empty,
    Sources(&'a str),
}

/// Builds an index, constraint or foreign key, unless it is there; its statements take effect together or not
/// at all. The session must not be in a transaction.
///
/// # Errors
/// `Connect` if the server stopped or the connection broke, `Drift` if something else has its name, `Schema` if
/// the server refuses it: duplicate keys are named by the cause (P50).
/// # Cancel safety
/// Drop the session as well: the server may finish the build, and the next call finds it.
pub async fn build(session: &Session, build: &Build, settings: &BuildSettings) -> Result<Built> {
    let mut attempt = 1;
    loop {
        let found = find(session, build).await?;
        if found == Found::Whole {
            return Ok(Built::Earlier);
        }
        let steps = steps(build, found);
        let Err(error) = execute(session, build, &steps, settings, SearchPath::Empty).await else {
            return Ok(Built::Now);
        };
        match (error.sqlstate(), settings.source_search_path.as_deref()) {
            (Some(SqlState::DEADLOCK_DETECTED), _) if attempt < ATTEMPTS_MAX => attempt += 1,
            (Some(state), Some(path)) if state.is_unresolved() => {
                execute(session, build, &steps, settings, SearchPath::Sources(path))
                    .await
                    .map_err(|_| error)?;
                return Ok(Built::WithSourceSearchPath);
            }
            (None, _) => return Err(error),
            // A build of a run before ours may have ended on the server after we looked.
            (Some(_), _) => {
                return match find(session, build).await {
                    Ok(Found::Whole) => Ok(Built::Earlier),
                    Ok(Found::Nothing | Found::NotValid) | Err(_) => Err(error),
                };
            }
        }
    }
}

/// Builds several at once in one transaction, with `note`, a statement that says so; for tables so small that the
/// commit is the work. None of them is looked for: if one is there, or fails, none is built, and each is for [`build`].
///
/// # Errors
/// As [`Error::from_postgres`] classes them.
/// # Cancel safety
/// As [`build`].
pub async fn build_together(
    session: &Session,
    builds: &[Build],
    settings: &BuildSettings,
    note: &str,
) -> Result<()> {
    let mut script = "BEGIN; ".to_owned();
    for build in builds {
        script += &statements(build, &build.sql, settings, SearchPath::Empty);
        script += "; ";
    }
    script += note;
    script += "; COMMIT";
    let Err(error) = session.batch_execute(&script).await else { return Ok(()) };
    // The session is used again; if it is gone, the first error is the one that tells.
    let _ = session.batch_execute("ROLLBACK").await;
    Err(Error::from_postgres("build indexes of small tables", error))
}

/// Makes foreign keys that are not there, for rows to come: the first of the two steps of each. Taken for all before
/// any is validated, no step waits for the second one of another. What fails is for [`build`] to tell.
///
/// # Errors
/// `Connect` if the server stopped or the connection broke.
/// # Cancel safety
/// As [`build`].
pub async fn announce(session: &Session, foreign_keys: &[Build], settings: &BuildSettings) -> Result<()> {
    let keys: Vec<&Build> = foreign_keys.iter().filter(|build| may_be_validated_later(build)).collect();
    for some in keys.chunks(ANNOUNCED_TOGETHER) {
        // Each locks two tables for a moment, and all of them until the last is made.
        let all: Vec<String> = some
            .iter()
            .map(|build| statements(build, &not_valid(build), settings, SearchPath::Empty))
            .collect();
        let script = format!("BEGIN; {}; COMMIT", all.join("; "));
        if session.batch_execute(&script).await.is_ok() {
            continue;
        }
        let _ = session.batch_execute("ROLLBACK").await;
        for build in some {
            match announce_one(session, build, settings).await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Connect => return Err(error),
                Err(error) => {
                    tracing::debug!(error = %crate::error::describe(&error), "foreign key not made yet");
                }
            }
        }
    }
    Ok(())
}

async fn announce_one(session: &Session, build: &Build, settings: &BuildSettings) -> Result<()> {
    if find(session, build).await? != Found::Nothing {
        return Ok(());
    }
    execute(session, build, &[not_valid(build)], settings, SearchPath::Empty).await
}

/// What is left to run, each in a transaction of its own.
fn steps(build: &Build, found: Found) -> Vec<String> {
    let validate = || format!("ALTER TABLE ONLY {} VALIDATE CONSTRAINT {}", build.table, build.name);
    match found {
        Found::NotValid => vec![validate()],
        Found::Nothing if may_be_validated_later(build) => vec![not_valid(build), validate()],
        Found::Nothing | Found::Whole => vec![build.sql.to_string()],
    }
}

/// Whether a foreign key can be made without a look at the rows, and is meant to have had one.
fn may_be_validated_later(build: &Build) -> bool {
    let is_key = build.kind == BuildKind::ForeignKey && build.form == BuildForm::Constraint;
    // A partitioned table refuses NOT VALID before 18; of these pg_dump does not write ONLY.
    let is_checked = [" NOT VALID", " NOT ENFORCED"].iter().all(|end| !body(build).ends_with(end));
    is_key && is_checked && build.sql.starts_with("ALTER TABLE ONLY ")
}

fn not_valid(build: &Build) -> String {
    format!("{} NOT VALID", body(build))
}

fn body(build: &Build) -> &str {
    build.sql.trim_end().trim_end_matches(';')
}

async fn execute(
    session: &Session,
    build: &Build,
    steps: &[String],
    settings: &BuildSettings,
    path: SearchPath<'_>,
) -> Result<()> {
    for step in steps {
        let script = format!("BEGIN; {}; COMMIT", statements(build, step, settings, path));
        let Err(error) = session.batch_execute(&script).await else { continue };
        // The session is used again; if it is gone, the first error is the one that tells.
        let _ = session.batch_execute("ROLLBACK").await;
        return Err(explain(build, error));
    }
    Ok(())
}

/// A step of a build, for a transaction with which its settings end.
fn statements(build: &Build, step: &str, settings: &BuildSettings, path: SearchPath<'_>) -> String {
    let mut script = String::new();
    let mut set = |name: &str, value: &str| {
        script += &format!("SELECT pg_catalog.set_config('{name}', {}, true); ", quote_literal(value));
    };
    set(
        "search_path",
        match path {
            SearchPath::Empty => "",
            SearchPath::Sources(path) => path,
        },
    );
    if let Some(allowance) = settings.allowance {
        set("maintenance_work_mem", &format!("{}kB", allowance.memory_bytes >> 10));
        if let Some(workers) = allowance.parallel_workers {
            set("max_parallel_maintenance_workers", &workers.to_string());
        }
    }
    set(
        "default_tablespace",
        match settings.tablespaces {
            Tablespaces::Default => "",
            Tablespaces::Keep => build.tablespace.as_deref().unwrap_or_default(),
        },
    );
    script + step
}

fn explain(build: &Build, error: tokio_postgres::Error) -> Error {
    let doing = format!("build {}", describe(build));
    let error = Error::from_postgres(doing, error);
    let error = if error.kind() == ErrorKind::Sql { error.into_kind(ErrorKind::Schema) } else { error };
    let Some(state) = error.sqlstate() else { return error };
    match state {
        SqlState::UNIQUE_VIOLATION => error.hint(
            "The source holds this key more than once (a damaged index there, or another collation here): \
             remove all but one of the rows on the source, and run again.",
        ),
        SqlState::EXCLUSION_VIOLATION => {
            error.hint("Two rows of the source exclude each other: mend them there, and run again.")
        }
        _ if state.code() == "23503" => error.hint(
            "The source holds rows without a parent: remove them there, or mark the constraint NOT VALID there, \
             and run again.",
        ),
        // 17+ builds indexes under a safe search_path whatever the session's is (P58).
        _ if state.is_unresolved() => error.hint(
            "A function used here relies on search_path: ALTER FUNCTION … SET search_path on source and target, \
             and run again.",
        ),
        _ => error,
    }
}

/// The build for people: `unique index app.orders_key on app.orders`.
fn describe(build: &Build) -> String {
    let Build { name, table, .. } = build;
    let what = match (build.kind, build.form) {
        (BuildKind::PrimaryKey, _) => "primary key",
        (BuildKind::Unique, BuildForm::Constraint) => "unique constraint",
        (BuildKind::Unique, _) => "unique index",
        (BuildKind::Exclusion, _) => "exclusion constraint",
        (BuildKind::ForeignKey, _) => "foreign key",
        (BuildKind::ReplicaIdentity, BuildForm::Constraint) => "replica identity constraint",
        (BuildKind::ReplicaIdentity, _) => "replica identity index",
        (BuildKind::Attach, _) => "link to the parent's index",
        (BuildKind::Index, _) => "index",
    };
    format!("{what} {name} on {}", table.plain())
}

/// What the target has by the build's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    /// A foreign key whose rows nobody has looked at yet.
    NotValid,
    Whole,
}

async fn find(session: &Session, build: &Build) -> Result<Found> {
    match build.form {
        BuildForm::Constraint => find_constraint(session, build).await,
        BuildForm::Index => find_index(session, build).await,
        // ATTACH PARTITION of an index that is attached does nothing.
        BuildForm::Attachment => Ok(Found::Nothing),
    }
}

async fn find_constraint(session: &Session, build: &Build) -> Result<Found> {
    const SQL: &str = "SELECT pg_get_constraintdef(k.oid) FROM pg_constraint k \
         JOIN pg_class r ON r.oid = k.conrelid JOIN pg_namespace n ON n.oid = r.relnamespace \
         WHERE n.nspname = $1 AND r.relname = $2 AND k.conname = $3";
    let names = [build.table.schema.raw(), build.table.name.raw(), build.name.raw()];
    match look(session, build, SQL, &names).await? {
        Some(row) => {
            let definition: String = column(build, &row, 0)?;
            match definition.strip_suffix(" NOT VALID") {
                Some(valid) if may_be_validated_later(build) && makes(&build.sql, valid) => {
                    Ok(Found::NotValid)
                }
                Some(_) | None => same(build, &definition),
            }
        }
        None => Ok(Found::Nothing),
    }
}

async fn find_index(session: &Session, build: &Build) -> Result<Found> {
    // A partitioned index (relkind I) is invalid until its last partition is attached: that is no damage.
    const SQL: &str = "SELECT coalesce(pg_get_indexdef(i.indexrelid), 'another relation'), \
         coalesce(i.indisvalid OR c.relkind = 'I', true) FROM pg_class c \
         JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_index i ON i.indexrelid = c.oid \
         WHERE n.nspname = $1 AND c.relname = $2";
    let Some(row) = look(session, build, SQL, &[build.table.schema.raw(), build.name.raw()]).await? else {
        return Ok(Found::Nothing);
    };
    let found = same(build, &column(build, &row, 0)?)?;
    if column::<bool>(build, &row, 1)? {
        return Ok(found);
    }
    // Left by a CREATE INDEX CONCURRENTLY that failed; ours are all or nothing.
    let drop = format!("DROP INDEX {}.{}", build.table.schema, build.name);
    let doing = || format!("drop the invalid {}", describe(build));
    session.batch_execute(&drop).await.map_err(|error| Error::from_postgres(doing(), error))?;
    Ok(Found::Nothing)
}

async fn look(
    session: &Session,
    build: &Build,
    sql: &str,
    names: &[&str],
) -> Result<Option<tokio_postgres::Row>> {
    let doing = || format!("look for {}", describe(build));
    let names: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> =
        names.iter().map(|name| name as &(dyn tokio_postgres::types::ToSql + Sync)).collect();
    session.query_opt(sql, &names).await.map_err(|error| Error::from_postgres(doing(), error))
}

fn column<'a, T: tokio_postgres::types::FromSql<'a>>(
    build: &Build,
    row: &'a tokio_postgres::Row,
    at: usize,
) -> Result<T> {
    row.try_get(at).map_err(|error| Error::from_postgres(format!("look for {}", describe(build)), error))
}

/// Something has the name: is it what we would make?
fn same(build: &Build, definition: &String) -> Result<Found> {
    if makes(&build.sql, definition) {
        return Ok(Found::Whole);
    }
    Err(Error::new(ErrorKind::Drift, format!("build {}", describe(build)))
        .hint("Something else on the target has this name: drop or rename it there, and run again.")
        .because(format!("the target has: {definition}")))
}
