//! Definitions: carried before the rows, completed after them.
//!
//! Hazard: a foreign key or a trigger that exists while changes are applied by a session without the replica
//! role fires a second time for what the source has already done (P47–P49); there these wait for the end.

use std::io::Write;
use std::path::Path;

use tokio::sync::mpsc;

use super::build::Builder;
use super::cutover::source_search_path;
use super::extension;
use super::run::Run;
use super::state;
use crate::catalog::{self, Filters, Owners, ReplicaRole};
use crate::error::{Error, ErrorKind, Result};
use crate::pg::Identifier;
use crate::schema::{
    self, Archive, Build, BuildSettings, Chosen, Definition, DumpEncoding, DumpId, DumpSettings, Entry,
    EventTriggers, FilterSettings, Flush, Plan, PrivateFile, RestoreSettings, RestoreWarning,
    RestoreWarningKind, Schema, Tablespaces, ToastCompression, Tools,
};
use crate::telemetry::Phase;
use crate::wire::{Session, SessionSettings};

/// The archive, and what is to be done with it.
#[derive(Debug)]
pub(super) struct Definitions {
    tools: Tools,
    archive: Archive,
    pub(super) plan: Plan,
}

/// Dumps the definitions, keeps them on the target, restores what rows need, and enters `SchemaReady`.
pub(super) async fn define(run: &Run) -> Result<()> {
    let tools = run.tools.clone();
    let into = private_file(run.options.work_dir.as_deref())?;
    run.progress.note(&format!("dumping definitions with pg_dump {}", tools.version));
    let settings = DumpSettings {
        lock_wait_timeout: run.options.lock_timeout,
        encoding: if run.encoding == "SQL_ASCII" { DumpEncoding::AsStored } else { DumpEncoding::Utf8 },
        toast_compression: toast_compression(&run.target).await?,
        without_schemas: schemas_left_out(&run.source, &source_database(run).await?, &run.options.filters)
            .await?,
    };
    if settings.toast_compression == ToastCompression::Drop {
        tell_of_compression(run).await?;
    }
    let archive = schema::dump_definitions(&tools, &run.options.source, into, settings).await?;
    let content = tokio::fs::read(archive.file.path())
        .await
        .map_err(|error| Error::new(ErrorKind::Local, "read the archive of definitions").because(error))?;
    state::save_archive(&run.target, &content).await?;
    drop(content);
    let plan = plan(run, &archive).await?;
    // What hangs on the database itself is carried beside the dump.
    let of_content = |entry: &str| !entry.starts_with("DATABASE ");
    for skipped in plan.skipped.iter().filter(|skipped| of_content(&skipped.entry)) {
        run.warn(&format!("{}: not carried over: {}", skipped.entry, skipped.why)).await?;
    }
    let ids = plan.pre_data.clone();
    let definitions = Definitions { tools, archive, plan };
    definitions.restore(run, &ids).await?;
    run.definitions.set(definitions).map_err(|_| Error::new(ErrorKind::Bug, "define the target once"))?;
    extension::carry_rows(run, extension::Moment::Beginning).await?;
    run.enter(Phase::SchemaReady, "").await
}

/// Completes the target: what remains of post-data, foreign keys, and what acts on rows. Enters `Following`.
pub(super) async fn finish(run: &Run) -> Result<()> {
    let definitions = Definitions::of(run).await?;
    let last = definitions.plan.last.clone();
    definitions.restore(run, &last).await?;
    // Only where our sessions can switch off what fires may it exist while we write.
    if run.target_may.replica_role != ReplicaRole::Denied {
        let quiet: Vec<DumpId> = definitions.armed(|entry| !fires_under_replica(entry));
        definitions.arm(run, &quiet).await?;
    }
    run.enter(Phase::Following, "").await
}

/// Creates whatever had to wait until no more changes are applied.
pub(super) async fn arm_at_last(run: &Run) -> Result<()> {
    let definitions = Definitions::of(run).await?;
    let all = definitions.armed(|_| true);
    definitions.arm(run, &all).await
}

/// All that is left of the definitions, at once: for a target that nothing of the source is written to any more.
pub(super) async fn complete(run: &Run) -> Result<()> {
    let definitions = Definitions::of(run).await?;
    let last = definitions.plan.last.clone();
    definitions.restore(run, &last).await?;
    let all = definitions.armed(|_| true);
    definitions.arm(run, &all).await
}

/// Gives objects the owners that they could not be given before every right was there (P70, P72). What is given away
/// may be out of our hands: nothing is written after this.
pub(super) async fn settle_owners(run: &Run) -> Result<()> {
    if run.options.filters.owners == Owners::Dropped {
        return Ok(());
    }
    for warning in schema::settle_owners(&run.source, &run.target).await? {
        run.warn(&warning).await?;
    }
    Ok(())
}

/// Whether an entry makes something that fires whatever `session_replication_role` says (P47).
fn fires_under_replica(entry: &Entry) -> bool {
    let Definition::Sql(definition) = &entry.definition else { return false };
    definition.contains(" ENABLE ALWAYS") || definition.contains(" ENABLE REPLICA")
}

/// How builds run.
pub(super) async fn build_settings(run: &Run) -> Result<BuildSettings> {
    let share = schema::TargetSize::read(&run.target).await?.share(run.options.index_jobs.get());
    let wanted = run.options.build_allowance;
    let allowance = schema::Allowance {
        memory_bytes: wanted.memory_bytes.unwrap_or(share.memory_bytes),
        // A server that does not have the setting would refuse it.
        parallel_workers: share.parallel_workers.map(|share| wanted.parallel_workers.unwrap_or(share)),
    };
    tracing::info!(
        memory_bytes = allowance.memory_bytes,
        parallel_workers = allowance.parallel_workers,
        "each build may use"
    );
    Ok(BuildSettings {
        allowance: Some(allowance),
        source_search_path: Some(source_search_path(&run.source).await?),
        tablespaces: Tablespaces::Default,
    })
}

impl Definitions {
    /// The archive as it was dumped when the migration began, wherever that was.
    pub(super) async fn of(run: &Run) -> Result<&Definitions> {
        run.definitions.get_or_try_init(|| Definitions::fetch(run)).await
    }

    async fn fetch(run: &Run) -> Result<Definitions> {
        let tools = run.tools.clone();
        let mut file = private_file(run.options.work_dir.as_deref())?;
        let content = state::load_archive(&run.target).await?;
        file.write_all(&content).map_err(|error| {
            Error::new(ErrorKind::Local, "write the archive of definitions").because(error)
        })?;
        drop(content);
        let archive = Archive::open(file).await?;
        let plan = plan(run, &archive).await?;
        Ok(Definitions { tools, archive, plan })
    }

    /// Builds that are still to be done.
    pub(super) async fn pending(run: &Run, builds: Vec<Build>) -> Result<Vec<Build>> {
        let done = state::restored(&run.target).await?;
        Ok(builds.into_iter().filter(|build| !done.contains(&build.id)).collect())
    }

    async fn restore(&self, run: &Run, ids: &[DumpId]) -> Result<()> {
        let done = state::restored(&run.target).await?;
        let ids: Vec<DumpId> = ids.iter().copied().filter(|id| !done.contains(id)).collect();
        // One connection is every database's own; further ones are for it if no other builds with them now.
        let further = run.options.index_jobs.get() - 1;
        let turns: Vec<_> = (0..further).map_while(|_| run.budgets.builds.try_take()).collect();
        let settings = RestoreSettings {
            run: run.restore,
            tablespaces: Tablespaces::Default,
            owners: run.options.filters.owners,
            flush: Flush::of(&run.target_may),
            lanes: 1 + turns.len(),
        };
        let restored =
            schema::restore(&self.tools, &self.archive, &run.options.target, &ids, settings).await?;
        // Owners are looked at again in the end, and so is what became of them.
        let is_final = |warning: &RestoreWarning| warning.kind != RestoreWarningKind::Owner;
        let warnings = schema::restore_privileges(&run.target, &self.archive.toc, restored.warnings).await?;
        for warning in warnings.into_iter().filter(is_final) {
            run.warn(&warning.to_string()).await?;
        }
        state::mark_restored(&run.target, &ids).await
    }

    fn armed(&self, wanted: impl Fn(&Entry) -> bool) -> Vec<DumpId> {
        let is_wanted = |id: &DumpId| self.archive.toc.entry(*id).is_none_or(&wanted);
        self.plan.armed.iter().copied().filter(is_wanted).collect()
    }

    /// Foreign keys, and those of the entries that act when a row is written.
    async fn arm(&self, run: &Run, entries: &[DumpId]) -> Result<()> {
        let foreign_keys = Self::pending(run, self.plan.foreign_keys.clone()).await?;
        let settings = build_settings(run).await?;
        if !foreign_keys.is_empty() {
            let session = Session::connect(&run.options.target, &SessionSettings::role("build")).await?;
            schema::announce(&session, &foreign_keys, &settings).await?;
        }
        let (_, nothing_to_wait_for) = mpsc::channel(1);
        Builder::new(run, foreign_keys, |_| None, settings).await?.run(nothing_to_wait_for).await?;
        self.restore(run, entries).await
    }
}

/// Where each definition goes that the operator wants.
async fn plan(run: &Run, archive: &Archive) -> Result<Plan> {
    let settings = filter_settings(run).await?;
    let database = source_database(run).await?;
    Ok(Plan::of(&archive.toc, settings, Chosen { filters: &run.options.filters, database: &database }))
}

/// The database as its server calls it; a pooler may have another name for it.
async fn source_database(run: &Run) -> Result<String> {
    let row = run
        .source
        .query_one("SELECT pg_catalog.current_database()::text", &[])
        .await
        .map_err(|error| Error::from_postgres("read the source database's name", error))?;
    Ok(row.get(0))
}

/// The schemas of the source that the filters leave out.
pub(super) async fn schemas_left_out(
    source: &Session,
    database: &str,
    filters: &Filters,
) -> Result<Vec<Identifier>> {
    let schemas = catalog::read_schemas(source).await?;
    let is_out = |schema: &String| filters.leaves_out_schema(database, schema);
    Ok(schemas.into_iter().filter(is_out).map(Identifier::new).collect())
}

/// A file for definitions.
///
/// # Errors
/// `Local` if it cannot be made in `work_dir`, or in the folder for temporary files.
pub(super) fn private_file(work_dir: Option<&Path>) -> Result<PrivateFile> {
    let folder = work_dir.map_or_else(std::env::temp_dir, Path::to_owned);
    PrivateFile::create_in(&folder).map_err(|error| {
        Error::new(ErrorKind::Local, format!("create a file in {}", folder.display()))
            .hint("Name a directory that exists and may be written to, with `--work-dir`.")
            .because(error)
    })
}

async fn filter_settings(run: &Run) -> Result<FilterSettings> {
    let row = run
        .target
        .query_one("SELECT pg_catalog.to_regnamespace('public') IS NOT NULL", &[])
        .await
        .map_err(|error| Error::from_postgres("look for the schema public", error))?;
    let public_schema = if row.get(0) { Schema::Exists } else { Schema::Missing };
    let event_triggers =
        if run.target_may.is_superuser { EventTriggers::Restore } else { EventTriggers::Skip };
    Ok(FilterSettings { public_schema, event_triggers })
}

/// Names what is lost where the target cannot compress as the source does.
async fn tell_of_compression(run: &Run) -> Result<()> {
    if run.source_version.major() < 14 {
        return Ok(());
    }
    let row = run
        .source
        .query_one(
            "SELECT count(*) FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
              WHERE a.attcompression <> '' AND NOT a.attisdropped AND a.attnum > 0
                AND c.relkind IN ('r', 'p', 'm') AND c.oid >= 16384",
            &[],
        )
        .await
        .map_err(|error| Error::from_postgres("look for columns with a compression of their own", error))?;
    match row.get::<_, i64>(0) {
        0 => Ok(()),
        columns => {
            run.warn(&format!(
                "{columns} columns choose how they are compressed; the target lacks lz4, and they get its default"
            ))
            .await
        }
    }
}

/// Keeps each column's method unless the target was built without one (P74).
pub(super) async fn toast_compression(target: &Session) -> Result<ToastCompression> {
    let row = target
        .query_opt(
            "SELECT 'lz4' = ANY (enumvals) FROM pg_catalog.pg_settings WHERE name = 'default_toast_compression'",
            &[],
        )
        .await
        .map_err(|error| Error::from_postgres("read what the target can compress with", error))?;
    let knows_lz4 = row.is_some_and(|row| row.get(0));
    Ok(if knows_lz4 { ToastCompression::Keep } else { ToastCompression::Drop })
}
