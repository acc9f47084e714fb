//! Carries over what the stream does not: sequences, materialized views, large objects.
//!
//! Hazard: a sequence set from `max(column)` hands out values again that were burned or belong to no
//! column; it is read from the sequence itself, `is_called` included (P33). A view refreshed before the one
//! it reads from is empty (P36).

use std::collections::HashSet;

use super::analyze::analyze;
use super::release::release_source;
use super::run::Run;
use super::{extension, load};
use crate::bulk::{self, Keeper, LoadRole};
use crate::catalog::{self, Catalog, MaterializedView, ReplicaRole, SequenceValue};
use crate::error::{Error, Result, describe};
use crate::pg::{QualifiedName, quote_literal};
use crate::wire::Session;

/// Copies the rows that the stream does not carry: unlogged tables, large objects, what was set aside. Can be done twice.
pub(super) async fn carry_unstreamed(run: &Run, source: &Catalog) -> Result<()> {
    load::copy_unstreamed(run, source, load_role(run)).await?;
    // What an earlier run has brought goes if the source has none any more.
    if source.large_objects == 0 && catalog::count_large_objects(&run.target).await? == 0 {
        return Ok(());
    }
    let keeper = Keeper::open(&run.options.source).await?;
    carry_large_objects(run, &keeper, source.large_objects).await
}

/// How rows are loaded into tables that have their foreign keys by now.
pub(super) fn load_role(run: &Run) -> LoadRole {
    match run.target_may.replica_role {
        ReplicaRole::Settable => LoadRole::Replica,
        ReplicaRole::ThroughAivenExtras => LoadRole::ReplicaThroughAivenExtras,
        // Nothing that fires is there yet.
        ReplicaRole::Denied => LoadRole::Origin,
    }
}

/// Everything between the last change and the hand-over; `seen` is the source since that change, if this run has looked
/// at it. Can be done twice.
pub(super) async fn carry_the_rest(run: &Run, seen: Option<Catalog>) -> Result<()> {
    // Nothing more is streamed, so the source need not keep anything for us, however long the rest takes.
    release_source(&run.source, &run.target).await?;
    let source = match seen {
        Some(source) => source,
        None => catalog::load(&run.source).await?,
    };
    set_sequences(run, &source).await?;
    complete_target(run, &source).await
}

/// Fills what the target computes for itself from the rows.
pub(super) async fn complete_target(run: &Run, source: &Catalog) -> Result<()> {
    refresh_views(run, source).await?;
    // Jobs that run by what extensions hold find everything else in place.
    extension::carry_rows(run, extension::Moment::End).await?;
    analyze(run).await
}

/// Makes the target's large objects those that the snapshot shows; some `count` of them.
pub(super) async fn carry_large_objects(run: &Run, keeper: &Keeper, count: u64) -> Result<()> {
    if count > 0 {
        run.progress.note(&format!("copying {count} large objects"));
    }
    let plan = bulk::ObjectPlan {
        source: run.options.source.clone(),
        target: run.options.target.clone(),
        snapshot: keeper.snapshot().to_owned(),
        jobs: run.options.copy_jobs.get(),
    };
    for warning in bulk::carry_large_objects(plan).await?.warnings {
        run.warn(&warning).await?;
    }
    Ok(())
}

/// Sets the sequences that both ends have; one that was made on the source since is named in the result.
pub(super) async fn set_sequences(run: &Run, source: &Catalog) -> Result<()> {
    let on_target: HashSet<QualifiedName> =
        catalog::read_sequences(&run.target).await?.into_iter().map(|value| value.name).collect();
    let left = run.wishes(source)?.left;
    let (values, missing): (Vec<SequenceValue>, Vec<SequenceValue>) = catalog::read_sequences(&run.source)
        .await?
        .into_iter()
        .filter(|value| !left.schemas.contains(value.name.schema.raw()))
        .partition(|value| on_target.contains(&value.name));
    for value in &missing {
        run.warn(&format!(
            "sequence {} is not on the target: it was made after the migration began",
            value.name.plain()
        ))
        .await?;
    }
    run.progress.note(&format!("setting {} sequences", values.len()));
    for statement in catalog::set_sequences(&values) {
        run.target
            .batch_execute(&statement)
            .await
            .map_err(|error| Error::from_postgres("set the sequences on the target", error))?;
    }
    Ok(())
}

/// Fills each view that is filled on the source. One that fails is named in the result; the rest go on.
async fn refresh_views(run: &Run, source: &Catalog) -> Result<()> {
    let search_path = source_search_path(&run.source).await?;
    let left = run.wishes(source)?.left;
    let carried =
        |view: &&MaterializedView| view.is_populated && !left.schemas.contains(view.name.schema.raw());
    for view in source.materialized_views.iter().filter(carried) {
        run.progress.note(&format!("refreshing materialized view {}", view.name.plain()));
        let refresh = format!("REFRESH MATERIALIZED VIEW {}", view.name);
        let Err(first) = run.target.batch_execute(&refresh).await else { continue };
        if run.target.is_closed() {
            return Err(Error::from_postgres(format!("refresh {}", view.name.plain()), first));
        }
        // Its functions may rely on the search_path that the application has (P58).
        // Several statements in one query are one transaction.
        let path = quote_literal(&search_path);
        let again = format!("SELECT pg_catalog.set_config('search_path', {path}, true); {refresh}");
        if let Err(error) = run.target.batch_execute(&again).await {
            let error =
                Error::from_postgres(format!("refresh materialized view {}", view.name.plain()), error);
            run.warn(&format!("{}: it is empty on the target until it is refreshed", describe(&error)))
                .await?;
        }
    }
    Ok(())
}

/// The search_path that the database, not our session, would give to an application.
pub(super) async fn source_search_path(source: &Session) -> Result<String> {
    let row = source
        .query_one(
            "SELECT coalesce(
               (SELECT substr(setting, length('search_path=') + 1)
                  FROM pg_catalog.pg_db_role_setting s, unnest(s.setconfig) AS setting
                 WHERE s.setdatabase = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
                   AND s.setrole = 0 AND setting LIKE 'search\\_path=%' LIMIT 1),
               '\"$user\", public')",
            &[],
        )
        .await
        .map_err(|error| Error::from_postgres("read the source database's search_path", error))?;
    Ok(row.get(0))
}
