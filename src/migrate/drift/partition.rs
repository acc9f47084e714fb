//! Tables that the stream names and the target does not have: partitions made since, tables renamed or dropped.
//!
//! Hazard: rows of a partition that was *made* as one are all in the stream, those of a table that was filled
//! first and then attached are not (P27). The second kind is copied, under a snapshot of its own, like a table
//! of the beginning.

use super::amend::Step;
use super::find::name;
use crate::bulk::ledger::{self, TableState};
use crate::catalog::{self, Catalog, Table, TableKind};
use crate::error::{Error, Result};
use crate::migrate::run::Run;
use crate::migrate::unseen::ASIDE;
use crate::migrate::{load, open, state};
use crate::pg::{Identifier, Lsn, QualifiedName};
use crate::pgoutput::Relation;

/// What the target needs for changes of `relation`, which it does not have, or which is not in the ledger.
pub(super) async fn find(
    run: &Run,
    relation: &Relation,
    source: &Catalog,
    target: &Catalog,
    is_known: bool,
) -> Result<Vec<Step>> {
    let name = name(relation);
    let Some(now) = source.table(relation.id) else {
        return dropped(run, &name, target, is_known).await;
    };
    if now.name != name {
        // Renamed since: the stream will name it so.
        let rename = format!("ALTER TABLE {} RENAME TO {}", now.name, name.name);
        let why =
            format!("the table is {} by now: call it so for as long as the stream does", now.name.plain());
        return Ok(vec![Step::operator(
            why,
            if target.table_named(&now.name).is_some() { vec![rename] } else { vec![] },
        )]);
    }
    if now.is_partition {
        return missing(run, now, source, target).await;
    }
    renamed(run, now, source, target).await
}

/// The statements that make a partition, and those above it that are new, too.
async fn missing(run: &Run, new: &Table, source: &Catalog, target: &Catalog) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut current = new;
    while target.table_named(&current.name).is_none() {
        let parent = current.parents.first().and_then(|parent| source.table(*parent));
        let made = catalog::read_added_partition(&run.source, current.oid).await?;
        let (Some(parent), Some(made)) = (parent, made) else {
            let why = format!("{} is new: create it as it is on the source", current.name.plain());
            return Ok(vec![Step::operator(why, Vec::new())]);
        };
        let key = made.key.map(|key| format!(" PARTITION BY {key}")).unwrap_or_default();
        let mut statements =
            vec![format!("CREATE TABLE {} PARTITION OF {} {}{key}", current.name, parent.name, made.bound)];
        statements.push(format!(
            "ALTER TABLE {} OWNER TO {}",
            current.name,
            Identifier::new(&*current.owner)
        ));
        statements.extend(grants(run, current).await?);
        steps.push(Step::additive(format!("partition {} is new", current.name.plain()), statements));
        current = parent;
    }
    steps.reverse();
    Ok(steps)
}

async fn grants(run: &Run, table: &Table) -> Result<Vec<String>> {
    let sql = "SELECT format('GRANT %s ON %s TO %s%s', g.privilege_type, $2::text,
                      CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END,
                      CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
                 FROM pg_catalog.pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) g
                WHERE c.oid = $1 AND g.grantee <> c.relowner";
    let rows =
        run.source.query(sql, &[&table.oid.get(), &table.name.to_string()]).await.map_err(|error| {
            Error::from_postgres(format!("read the rights on {}", table.name.plain()), error)
        })?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// A table that is in the publication under another name than the ledger has for it.
async fn renamed(run: &Run, now: &Table, source: &Catalog, target: &Catalog) -> Result<Vec<Step>> {
    let ledger = ledger::read(&run.target).await?;
    let lost: Vec<&QualifiedName> = ledger.keys().filter(|name| source.table_named(name).is_none()).collect();
    let new = now.name.plain();
    let [old] = lost.as_slice() else {
        let why =
            format!("{new} is not among the tables that are migrated: it was renamed, or published by hand");
        return Ok(vec![Step::operator(why, Vec::new())]);
    };
    if target.table_named(&now.name).is_some() {
        run.target
            .execute(
                "UPDATE pgstream.copied_table SET schema_name = $1, table_name = $2
                  WHERE schema_name = $3 AND table_name = $4",
                &[&now.name.schema.raw(), &now.name.name.raw(), &old.schema.raw(), &old.name.raw()],
            )
            .await
            .map_err(|error| Error::from_postgres("note a table's new name", error))?;
        run.warn(&format!("table {} was renamed to {new}", old.plain())).await?;
        return Ok(Vec::new());
    }
    let mut statements = Vec::new();
    if old.schema != now.name.schema {
        statements.push(format!("ALTER TABLE {old} SET SCHEMA {}", now.name.schema));
    }
    if old.name != now.name.name {
        let old = QualifiedName { schema: now.name.schema.clone(), name: old.name.clone() };
        statements.push(format!("ALTER TABLE {old} RENAME TO {}", now.name.name));
    }
    Ok(vec![Step::operator(format!("table {} is called {new} by now", old.plain()), statements)])
}

/// A table that is gone from the source. What was never on the target need not come there any more.
async fn dropped(run: &Run, name: &QualifiedName, target: &Catalog, is_known: bool) -> Result<Vec<Step>> {
    let plain = name.plain();
    if is_known && target.table_named(name).is_none() {
        let why = format!(
            "{plain} is on neither end any more, and its changes of before are still to come: create it once more"
        );
        return Ok(vec![Step::operator(why, Vec::new())]);
    }
    enter(run, name, ASIDE).await?;
    run.warn(&format!(
        "{plain} was made and dropped on the source while we followed: it was never on the target"
    ))
    .await?;
    Ok(Vec::new())
}

/// Takes partitions that were made on both ends since into the ledger, and copies those that were attached.
pub(in crate::migrate) async fn adopt_new(run: &Run, target: &[Table]) -> Result<()> {
    let known = ledger::read(&run.target).await?;
    let is_new = |table: &&Table| {
        table.is_partition && table.kind == TableKind::Ordinary && !known.contains_key(&table.name)
    };
    let new: Vec<&Table> = target.iter().filter(is_new).collect();
    let is_whole = known.values().all(|state| *state != TableState::Unfinished);
    if new.is_empty() && is_whole {
        return Ok(());
    }
    // What is not published is in no stream: a partition of a root without a key, a table that is not logged.
    let published = open::published(run).await?;
    let source = catalog::load(&run.source).await?;
    let begun = state::find(&run.target).await?.and_then(|state| state.consistent_point).unwrap_or(Lsn::ZERO);
    for table in new.into_iter().filter(|table| published.contains(&table.name)) {
        let Some(twin) = source.table_named(&table.name) else { continue };
        match catalog::read_added_partition(&run.source, twin.oid).await? {
            Some(made) if made.is_born => enter(run, &table.name, begun).await?,
            Some(_) => {
                let enter = ledger::enter([&table.name].into_iter()).unwrap_or_default();
                let failed = |error| Error::from_postgres("enter a partition that was attached", error);
                run.target.batch_execute(&enter).await.map_err(failed)?;
            }
            None => {}
        }
    }
    let unfinished: Vec<QualifiedName> =
        load::unfinished(run).await?.into_iter().filter(|name| published.contains(name)).collect();
    if unfinished.is_empty() { Ok(()) } else { load::copy_late(run, &unfinished).await }
}

async fn enter(run: &Run, name: &QualifiedName, watermark: Lsn) -> Result<()> {
    run.target
        .execute(
            "INSERT INTO pgstream.copied_table (schema_name, table_name, state, watermark, copied_at)
             VALUES ($1, $2, 'copied', $3::text::pg_lsn, pg_catalog.now()) ON CONFLICT DO NOTHING",
            &[&name.schema.raw(), &name.name.raw(), &watermark.to_string()],
        )
        .await
        .map(drop)
        .map_err(|error| Error::from_postgres(format!("note table {}", name.plain()), error))
}
