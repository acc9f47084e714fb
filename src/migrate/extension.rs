//! Carries what users put into extensions' own tables (P44).
//!
//! Hazard: CREATE EXTENSION has filled these tables on the target, so copying whole tables makes duplicates;
//! and an extension's table may set off jobs the moment it has rows (P46). So only the rows that the extension
//! calls the user's are replaced, by those of the source; a row of the extension's own that bears the key of one
//! of them gives way to it. Extensions' tables are never published: what they hold is copied before the tables,
//! whose indexes may need it, and again when writes have stopped; what runs jobs is copied at the end only.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use futures_util::{SinkExt as _, TryStreamExt as _};

use super::run::Run;
use crate::catalog::{self, Configuration, ConfigurationKind, ExtensionRows, ReplicaRole};
use crate::error::{Error, ErrorKind, Result, describe};
use crate::pg::{Identifier, SqlState, quote_literal};
use crate::wire::{Session, SessionSettings};

/// Extensions that act on their tables by themselves.
const RUNS_JOBS: [&str; 5] = ["pg_cron", "pg_partman", "pgagent", "pg_timetable", "timescaledb"];

/// When the rows are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// Once the extensions are there.
    Beginning,
    /// When nothing more is written on the source.
    End,
}

/// Makes the user's rows and sequences in extensions' tables those of the source. Can be done twice.
///
/// # Errors
/// `Drift` when the target's extension has no such table or column; `Sql` when the rows do not fit. Rights that
/// our role lacks are a warning: what provider's extensions hold is often nobody's to write.
pub(super) async fn carry_rows(run: &Run, moment: Moment) -> Result<()> {
    if run.options.filters.extension_rows == ExtensionRows::LeftOut {
        return Ok(());
    }
    let source = Session::connect(&run.options.source, &SessionSettings::role("extensions")).await?;
    let mut extensions: BTreeMap<String, Vec<Configuration>> = BTreeMap::new();
    let found = catalog::read_configuration(&source).await?;
    if found.is_empty() {
        return Ok(());
    }
    let left = run.wishes(&catalog::load(&run.source).await?)?.left;
    for one in found {
        let waits = moment == Moment::Beginning && RUNS_JOBS.contains(&one.extension.as_str());
        if !(waits || left.extensions.contains(&one.extension) || left.has(one.oid)) {
            extensions.entry(one.extension.clone()).or_default().push(one);
        }
    }
    let target = Session::connect(&run.options.target, &SessionSettings::role("load")).await?;
    let there: HashMap<_, _> =
        catalog::read_configuration(&target).await?.into_iter().map(|one| (one.name, one.kind)).collect();
    let quiet = run.target_may.replica_role == ReplicaRole::Settable;
    for (extension, holders) in extensions {
        for holder in &holders {
            fits(holder, there.get(&holder.name))?;
        }
        let Err(error) = carry_extension(&source, &target, &holders, quiet).await else { continue };
        if error.sqlstate() != Some(SqlState::INSUFFICIENT_PRIVILEGE) {
            return Err(error);
        }
        for session in [&source, &target] {
            session
                .batch_execute("ROLLBACK")
                .await
                .map_err(|error| Error::from_postgres("roll back", error))?;
        }
        let names: Vec<String> = holders.iter().map(|one| one.name.plain()).collect();
        run.warn(&format!(
            "extension {extension}: what users put into {} is not carried: {}",
            names.join(", "),
            describe(&error)
        ))
        .await?;
    }
    Ok(())
}

/// Whether the target's extension can hold what the source's does.
fn fits(holder: &Configuration, there: Option<&ConfigurationKind>) -> Result<()> {
    let missing = match (&holder.kind, there) {
        (ConfigurationKind::Table { columns, .. }, Some(ConfigurationKind::Table { columns: found, .. })) => {
            let missing: Vec<String> = columns
                .iter()
                .filter(|column| !found.contains(column))
                .map(|column| format!("column {column} of {}", holder.name.plain()))
                .collect();
            missing.join(", ")
        }
        (ConfigurationKind::Sequence, Some(ConfigurationKind::Sequence)) => String::new(),
        (_, _) => holder.name.plain(),
    };
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Drift, format!("carry the configuration of extension {}", holder.extension))
        .because(format!("the target's version of it has no {missing}"))
        .hint(
            "Bring the extension to one version on both ends with ALTER EXTENSION … UPDATE, or give \
             --no-replicate-extension-tables.",
        ))
}

/// One extension's rows, in one snapshot of the source and one transaction of the target.
async fn carry_extension(
    source: &Session,
    target: &Session,
    holders: &[Configuration],
    quiet: bool,
) -> Result<()> {
    execute(source, "take a snapshot", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    // Triggers and foreign keys of the extension are there already (P47).
    let begin = if quiet { "BEGIN; SET LOCAL session_replication_role = replica" } else { "BEGIN" };
    execute(target, "begin to write", begin).await?;
    let mut incoming = Vec::new();
    for (position, holder) in holders.iter().enumerate() {
        match &holder.kind {
            ConfigurationKind::Table { condition, columns, key } => {
                let stage =
                    Stage { holder, condition, columns, key, name: format!("pgstream_incoming_{position}") };
                stage.fill(source, target).await?;
                // Where there is nothing to do, the right to do it is not needed.
                if stage.has_work(target).await? {
                    incoming.push(stage);
                }
            }
            ConfigurationKind::Sequence => set_sequence(source, target, holder).await?,
        }
    }
    // An extension declares first what its other tables refer to.
    for stage in incoming.iter().rev() {
        execute(target, &stage.doing(), &stage.empty()).await?;
    }
    for stage in &incoming {
        execute(target, &stage.doing(), &stage.insert()).await?;
    }
    execute(target, "commit what extensions hold", "COMMIT").await?;
    execute(source, "end the snapshot", "COMMIT").await
}

async fn execute(session: &Session, doing: &str, sql: &str) -> Result<()> {
    session.batch_execute(sql).await.map_err(|error| Error::from_postgres(doing, error))
}

async fn set_sequence(source: &Session, target: &Session, holder: &Configuration) -> Result<()> {
    let doing = format!("carry sequence {}", holder.name.plain());
    let failed = |error| Error::from_postgres(doing.as_str(), error);
    let read = format!("SELECT last_value, is_called FROM {}", holder.name);
    let row = source.query_one(&read, &[]).await.map_err(failed)?;
    let (value, is_called): (i64, bool) = (row.get(0), row.get(1));
    let name = quote_literal(&holder.name.to_string());
    let set = format!("SELECT pg_catalog.setval({name}::pg_catalog.regclass, {value}, {is_called})");
    execute(target, &doing, &set).await
}

/// A temporary table on the target that holds the source's rows until they take their place.
struct Stage<'a> {
    holder: &'a Configuration,
    condition: &'a str,
    columns: &'a [Identifier],
    key: &'a [Identifier],
    name: String,
}

impl Stage<'_> {
    fn doing(&self) -> String {
        format!("carry the user's rows of {}", self.holder.name.plain())
    }

    fn list(&self) -> String {
        self.columns.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    async fn fill(&self, source: &Session, target: &Session) -> Result<()> {
        let Stage { holder, condition, name, .. } = self;
        let (doing, list) = (self.doing(), self.list());
        let failed = |error| Error::from_postgres(doing.as_str(), error);
        let create = format!(
            "CREATE TEMP TABLE {name} ON COMMIT DROP AS SELECT {list} FROM ONLY {} WITH NO DATA",
            holder.name
        );
        execute(target, &doing, &create).await?;
        let out = format!("COPY (SELECT {list} FROM ONLY {} {condition}) TO STDOUT", holder.name);
        let rows = source.copy_out(&out).await.map_err(failed)?;
        let into = format!("COPY pg_temp.{name} ({list}) FROM STDIN");
        let sink = target.copy_in::<_, Bytes>(&into).await.map_err(failed)?;
        let (mut rows, mut sink) = (Box::pin(rows), Box::pin(sink));
        while let Some(chunk) = rows.try_next().await.map_err(failed)? {
            sink.send(chunk).await.map_err(failed)?;
        }
        sink.as_mut().finish().await.map(drop).map_err(failed)
    }

    async fn has_work(&self, target: &Session) -> Result<bool> {
        let Stage { holder, condition, name, .. } = self;
        let ask = format!(
            "SELECT EXISTS (SELECT FROM pg_temp.{name}) OR EXISTS (SELECT FROM ONLY {} {condition})",
            holder.name
        );
        let row =
            target.query_one(&ask, &[]).await.map_err(|error| Error::from_postgres(self.doing(), error))?;
        Ok(row.get(0))
    }

    /// Removes what the source's rows replace.
    fn empty(&self) -> String {
        let Stage { holder, condition, key, name, .. } = self;
        let same: Vec<String> = key.iter().map(|column| format!("t.{column} = i.{column}")).collect();
        let replaced = match same.is_empty() {
            true => String::new(),
            false => format!(
                "; DELETE FROM ONLY {} AS t USING pg_temp.{name} AS i WHERE {}",
                holder.name,
                same.join(" AND ")
            ),
        };
        format!("DELETE FROM ONLY {} {condition}{replaced}", holder.name)
    }

    fn insert(&self) -> String {
        let (list, name) = (self.list(), &self.name);
        format!(
            "INSERT INTO {} ({list}) OVERRIDING SYSTEM VALUE SELECT {list} FROM pg_temp.{name}",
            self.holder.name
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::{QualifiedName, RelationId};

    fn holder(columns: &[&str]) -> Configuration {
        Configuration {
            extension: "gis".to_owned(),
            oid: RelationId::new(1),
            name: QualifiedName::new("public", "srs"),
            kind: table(columns),
        }
    }

    fn table(columns: &[&str]) -> ConfigurationKind {
        ConfigurationKind::Table {
            condition: "WHERE mine".to_owned(),
            columns: columns.iter().copied().map(Identifier::new).collect(),
            key: vec![Identifier::new("id")],
        }
    }

    #[test]
    fn a_key_of_the_extensions_own_gives_way() {
        let holder = holder(&["id", "mine"]);
        let ConfigurationKind::Table { condition, columns, key } = &holder.kind else { panic!("a table") };
        let stage = Stage { holder: &holder, condition, columns, key, name: "incoming".to_owned() };
        assert_eq!(
            stage.empty(),
            "DELETE FROM ONLY \"public\".\"srs\" WHERE mine; \
             DELETE FROM ONLY \"public\".\"srs\" AS t USING pg_temp.incoming AS i WHERE t.\"id\" = i.\"id\""
        );
    }

    #[test]
    fn an_older_extension_on_the_target_is_refused() {
        assert!(fits(&holder(&["id"]), Some(&table(&["more", "id"]))).is_ok());
        assert_eq!(
            fits(&holder(&["id", "new"]), Some(&table(&["id"]))).unwrap_err().kind(),
            ErrorKind::Drift
        );
        assert!(fits(&holder(&["id"]), None).is_err());
        assert!(fits(&holder(&["id"]), Some(&ConfigurationKind::Sequence)).is_err());
    }
}
