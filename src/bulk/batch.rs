//! Small tables, many in one transaction: for a schema of thousands of tables the round trips and the commits are the
//! work, not the rows.
//!
//! Hazard: what one table meets (a lock, a rewrite since the snapshot, a refusal) must not be laid on its neighbours.
//! So this is only the short way: whatever is not as it should be ends both transactions, and each table is copied by
//! itself, with the patience and the words that belong to it.

use super::copy::CopyPlan;
use super::ledger;
use super::partition::{Freeze, Part, TableCopy};
use super::wave::Wave;
use super::worker::Ends;
use crate::error::{Error, ErrorKind, Result};
use crate::pg::quote_literal;

/// Rows held in memory; a table may be larger in transit than on disk, where it is compressed.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// Copies whole tables in the transaction that has claimed them; rows and bytes of each, or `None` if they cannot be
/// copied this way. The connections are fit for more only if it succeeds.
///
/// # Errors
/// Whatever either server refuses; nothing is committed then.
pub(super) async fn copy(ends: &mut Ends, wave: &Wave, part: &Part) -> Result<Option<Vec<(u64, u64)>>> {
    let plan = &wave.plan;
    let tables: Vec<&TableCopy> = plan.tables.iter().skip(part.table).take(part.count).collect();
    let Ends { source, target } = ends;
    let unchanged = source.query(&open(plan, &tables)).await?;
    if unchanged.first().and_then(|row| row.get(0)) != Some("t") {
        return Ok(None);
    }
    let out: Vec<String> = tables.iter().map(|table| table.copy_out(None)).collect();
    plan.meter.until_more_may_pass().await;
    let Some(copies) = source.copy_out_whole(&out.join("; "), BATCH_BYTES_MAX).await? else {
        return Ok(None);
    };
    let counts: Vec<(u64, u64)> = copies.iter().map(|copy| (copy.rows, copy.payload.len() as u64)).collect();
    // An empty table is emptied at no cost this way, where TRUNCATE makes new files.
    let into =
        tables.iter().map(|table| format!("DELETE FROM ONLY {}; {}", table.name, table.copy_in(Freeze::No)));
    let done = tables.iter().zip(&counts).map(|(table, (rows, bytes))| (&table.name, *rows, *bytes));
    let bytes = counts.iter().map(|(_, bytes)| bytes).sum();
    let script = format!(
        "{}; {}{}",
        into.collect::<Vec<_>>().join("; "),
        wave.news(part, bytes),
        ledger::tables_done(done, plan.watermark)
    );
    let stored = target.copy_in_whole(&script, &copies).await?;
    let sent: Vec<u64> = counts.iter().map(|(rows, _)| *rows).collect();
    if stored.copied != sent || stored.last != tables.len() as u64 {
        return Err(Error::new(ErrorKind::Copy, "compare the row counts of small tables")
            .because(format!("sent {sent:?}, stored {:?}, noted {}", stored.copied, stored.last)));
    }
    // The rows are there, whatever becomes of the other side: its connection shows that by itself.
    let (_, written) = tokio::join!(source.execute("COMMIT"), target.execute("COMMIT"));
    written?;
    plan.meter.count(bytes);
    Ok(Some(counts))
}

/// Joins the snapshot, locks the tables, and asks whether each is still the one that the snapshot shows (P15).
fn open(plan: &CopyPlan, tables: &[&TableCopy]) -> String {
    let locked: Vec<String> = tables.iter().map(|table| format!("ONLY {}", table.name)).collect();
    let shown: Vec<String> = tables
        .iter()
        .map(|table| {
            format!("({}, {}::pg_catalog.oid)", quote_literal(&table.name.to_string()), table.relation)
        })
        .collect();
    // SQL sees the snapshot's catalog, the two functions the present one.
    format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
         SET TRANSACTION SNAPSHOT {};
         LOCK TABLE {} IN ACCESS SHARE MODE;
         SELECT bool_and(pg_catalog.to_regclass(shown.name)::pg_catalog.oid IS NOT DISTINCT FROM shown.oid
                AND (SELECT relfilenode FROM pg_catalog.pg_class c WHERE c.oid = shown.oid)
                    IS NOT DISTINCT FROM pg_catalog.pg_relation_filenode(shown.oid))
           FROM (VALUES {}) AS shown (name, oid)",
        quote_literal(&plan.snapshot),
        locked.join(", "),
        shown.join(", ")
    )
}
