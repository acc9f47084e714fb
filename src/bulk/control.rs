//! A process's hand on a wave: opened by the conductor, joined by whoever copies, ended when nothing of it is under way.
//!
//! Hazard: the connection that this is done by may break like any other, and a wave must not be lost with it. So each
//! question can be asked twice: what an answer that was lost has told is told again by the ledger at the end.

use std::collections::HashSet;
use std::fmt::Display;
use std::time::Duration;

use super::copy::CopyPlan;
use super::ledger;
use super::partition::Part;
use super::queue;
use super::wave::PutOff;
use super::worker::{empty, load_settings};
use crate::error::{Error, ErrorKind, Recovery, Result, describe};
use crate::pg::{Conninfo, Identifier, SqlState, quote_literal};
use crate::wire::{Connection, ConnectionSettings, Row};

/// How often one question is asked.
const ATTEMPTS: u32 = 6;

/// For a last word before an error that a person waits for.
const SHUT_WAIT: Duration = Duration::from_secs(2);

/// How long one look waits for parts that others have: long enough not to be in the way, short enough to notice what
/// else comes up.
const HELD_WAIT: &str = "1s";

/// This process's hand on a wave.
pub(super) struct Control {
    target: Conninfo,
    settings: ConnectionSettings,
    connection: Option<Connection>,
    number: i64,
}

/// Where a wave stands, as far as parts are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// A part can be taken.
    Free,
    /// All that is left is taken by somebody.
    Held,
    /// Nothing is left, or the wave has ended.
    Over,
}

/// What somebody has loaded.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct News {
    pub(super) table: usize,
    /// COPY bytes of the part; zero for further tables of the same one.
    pub(super) part_bytes: u64,
    /// The whole table's, once it is complete.
    pub(super) complete: Option<Complete>,
}

/// A table as the ledger has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Complete {
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) elapsed: Duration,
}

impl Control {
    /// Writes the wave: empties what is copied in parts, queues all parts, and opens it, in one transaction.
    pub(super) async fn open(plan: &CopyPlan, parts: &[Part]) -> Result<Control> {
        let settings = load_settings(plan);
        let mut connection = Connection::connect(&plan.target, &settings).await?;
        plan.take_role(&mut connection).await?;
        let answer = connection.query(&opening(plan, parts)).await?;
        let number = answer.first().and_then(|row| read(row, "number")).ok_or_else(|| {
            Error::new(ErrorKind::Bug, "open a wave of the copy").because("it was given no number")
        })?;
        Ok(Control { target: plan.target.clone(), settings, connection: Some(connection), number })
    }

    /// Joins a wave that another process has opened.
    pub(super) fn join(target: &Conninfo, number: i64) -> Control {
        let settings = ConnectionSettings::sql("worker");
        Control { target: target.clone(), settings, connection: None, number }
    }

    pub(super) fn number(&self) -> i64 {
        self.number
    }

    /// Whether there is something to do, waiting a moment for parts that others have: they are done with the commit
    /// that is waited for, or free again.
    pub(super) async fn standing(&mut self) -> Result<Standing> {
        if !self.ask(&queue::free(self.number)).await?.is_empty() {
            return Ok(Standing::Free);
        }
        let settled = format!("SET lock_timeout = '{HELD_WAIT}'; {}", queue::settled(self.number));
        match self.ask(&settled).await {
            Ok(rows) if rows.is_empty() => Ok(Standing::Over),
            Ok(_) => Ok(Standing::Free),
            Err(error) if error.sqlstate() == Some(SqlState::LOCK_NOT_AVAILABLE) => Ok(Standing::Held),
            Err(error) => Err(error),
        }
    }

    /// What other processes have loaded since the last look.
    pub(super) async fn news(&mut self) -> Result<Vec<News>> {
        let sql = format!(
            "WITH news AS (DELETE FROM pgstream.copy_news RETURNING first_table, tables, bytes)
             SELECT w.number, CASE WHEN w.number = n.first_table THEN n.bytes ELSE 0 END AS part_bytes, {COMPLETE}
               FROM news n
               JOIN pgstream.copy_table w ON w.number >= n.first_table AND w.number < n.first_table + n.tables
               JOIN pgstream.copied_table t USING (schema_name, table_name)"
        );
        Ok(self.ask(&sql).await?.iter().filter_map(News::read).collect())
    }

    /// Every table of the wave that is complete.
    pub(super) async fn complete(&mut self) -> Result<Vec<News>> {
        let sql = format!(
            "SELECT w.number, 0 AS part_bytes, {COMPLETE}
               FROM pgstream.copy_table w JOIN pgstream.copied_table t USING (schema_name, table_name)
              WHERE t.state = 'copied' AND w.put_off IS NULL"
        );
        Ok(self.ask(&sql).await?.iter().filter_map(News::read).collect())
    }

    /// Takes out of the wave what nobody has begun; says how many parts that were.
    pub(super) async fn leave_unbegun(&mut self) -> Result<u64> {
        let rows = self.ask(&queue::leave_unbegun(self.number)).await?;
        Ok(rows.first().and_then(|row| read(row, "count")).unwrap_or(0))
    }

    /// Ends the wave for everyone if the target can be asked now, without waiting for what is under way; whoever takes
    /// the migration's lock next does it anyway.
    pub(super) async fn try_shut(&mut self) {
        let shut = queue::shut(self.number);
        match tokio::time::timeout(SHUT_WAIT, self.try_ask(&shut)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(error = %describe(&error), "the wave stays open"),
            Err(_) => tracing::debug!("the wave stays open: the target does not answer"),
        }
    }

    /// Ends the wave, waits for what is under way, and says which tables were put off.
    pub(super) async fn end(&mut self) -> Result<Vec<(usize, PutOff)>> {
        self.ask(&queue::shut(self.number)).await?;
        // Deleting a part that somebody has taken waits for the end of his transaction.
        self.ask("SET lock_timeout = 0; DELETE FROM pgstream.copy_part").await?;
        let rows =
            self.ask("SELECT number, put_off FROM pgstream.copy_table WHERE put_off IS NOT NULL").await?;
        Ok(rows
            .iter()
            .filter_map(|row| Some((read(row, "number")?, PutOff::named(row.get("put_off")?)?)))
            .collect())
    }

    async fn ask(&mut self, sql: &str) -> Result<Vec<Row>> {
        let mut attempt = 1;
        loop {
            let error = match self.try_ask(sql).await {
                Ok(rows) => return Ok(rows),
                Err(error) => error,
            };
            if error.recovery() != Recovery::Retry || attempt == ATTEMPTS {
                return Err(error);
            }
            self.connection = None;
            // Nothing to wait for but time: the server is away.
            tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
            attempt += 1;
        }
    }

    async fn try_ask(&mut self, sql: &str) -> Result<Vec<Row>> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::connect(&self.target, &self.settings).await?,
        };
        self.connection.insert(connection).query(sql).await
    }
}

/// From the first part's transaction to now.
const COMPLETE: &str = "
    t.state = 'copied' AS is_complete, t.rows, t.bytes,
    extract(epoch FROM pg_catalog.clock_timestamp() - coalesce(
        (SELECT pg_catalog.min(p.copied_at) FROM pgstream.copied_part p
          WHERE p.schema_name = t.schema_name AND p.table_name = t.table_name), t.copied_at)) AS seconds";

impl News {
    fn read(row: &Row) -> Option<News> {
        let complete = (row.get("is_complete") == Some("t")).then(|| Complete {
            rows: read(row, "rows").unwrap_or(0),
            bytes: read(row, "bytes").unwrap_or(0),
            elapsed: seconds(row),
        });
        Some(News { table: read(row, "number")?, part_bytes: read(row, "part_bytes").unwrap_or(0), complete })
    }
}

/// The column `seconds`, by the target's clock.
pub(super) fn seconds(row: &Row) -> Duration {
    let seconds = read::<f64>(row, "seconds").unwrap_or(0.0);
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

pub(super) fn read<T: std::str::FromStr>(row: &Row, column: &str) -> Option<T> {
    row.get(column)?.parse().ok()
}

fn opening(plan: &CopyPlan, parts: &[Part]) -> String {
    let tables = plan.tables.iter().enumerate().map(|(number, table)| {
        let columns: Vec<&str> = table.columns.iter().map(Identifier::raw).collect();
        let columns = serde_json::to_string(&columns).expect("a list of texts is JSON");
        let texts = [table.name.schema.raw(), table.name.name.raw(), &columns].map(quote_literal);
        format!(
            "({number}, {}, {}, '{}', {})",
            texts.join(", "),
            table.relation,
            queue::format_label(table.format),
            table.bytes
        )
    });
    let tables = list(
        "pgstream.copy_table (number, schema_name, table_name, column_names, relation, format, bytes)",
        tables,
    );
    let null = |number: Option<u64>| number.map_or_else(|| "NULL".to_owned(), |number| number.to_string());
    let queued = (0_i64..).step_by(queue::ORDINAL_STEP as usize).zip(parts).map(|(ordinal, part)| {
        let Part { table, count, range, bytes } = part;
        let (first, end) = (null(range.map(|range| range.first)), null(range.and_then(|range| range.end)));
        format!("({ordinal}, {table}, {count}, {first}, {end}, {bytes})")
    });
    let queued =
        list("pgstream.copy_part (ordinal, first_table, tables, first_block, end_block, bytes)", queued);
    let cut: HashSet<usize> =
        parts.iter().filter(|part| part.range.is_some()).map(|part| part.table).collect();
    let begun = plan.tables.iter().enumerate().filter(|(number, _)| cut.contains(number));
    let begun: String = begun
        .map(|(_, table)| ledger::begin_parts(&table.name, &empty(plan, table).0, plan.watermark) + ";")
        .collect();
    let columns = "format, is_open, snapshot, watermark, encoding, search_path, load_role, on_rewrite";
    let texts = [
        plan.snapshot.as_str(),
        &plan.watermark.to_string(),
        &plan.encoding,
        &plan.search_path,
        queue::role_label(plan.replica_role),
        queue::on_rewrite_label(plan.rewritten),
    ];
    let values = format!("{}, true, {}", queue::FORMAT, texts.map(quote_literal).join(", "));
    format!(
        "BEGIN;
         DELETE FROM pgstream.copy_part; DELETE FROM pgstream.copy_table; DELETE FROM pgstream.copy_news;
         {tables}; {queued}; {begun}
         INSERT INTO pgstream.copy_wave AS w (number, {columns}) VALUES (1, {values})
             ON CONFLICT (only_row) DO UPDATE SET (number, {columns}) = ROW (w.number + 1, {values}), opened_at = now()
         RETURNING number;
         COMMIT"
    )
}

/// One INSERT of all rows; nothing where there is none.
fn list(into: &str, rows: impl Iterator<Item = impl Display>) -> String {
    let rows: Vec<String> = rows.map(|row| row.to_string()).collect();
    if rows.is_empty() {
        return String::new();
    }
    format!("INSERT INTO {into} VALUES {}", rows.join(", "))
}
