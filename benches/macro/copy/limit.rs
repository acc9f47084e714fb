//! What these two servers can do at all: psql reads every row and throws it away, psql loads every row from a file.
//!
//! Whoever moves rows from one server to the other has both to do. He can do them at the same time, but not faster
//! than the slower of the two, nor with less than their CPU over the cores there are.
//!
//! Hazard: a limit that anybody could beat is none. Parts are dealt out evenly, and both formats are tried.

use std::path::{Path, PathBuf};

use futures_util::future::try_join_all;
use pgstream::error::{Error, ErrorKind, Result};
use pgstream::wire::Session;

use super::contest::{dump_definitions, folder, jobs};
use super::{SOURCE, TARGET};
use crate::process::{Running, Usage};
use crate::stage::{Stage, run};

/// Larger tables are cut (bytes).
const PART_BYTES: i64 = 32 << 20;

/// The times that nobody can be under, in seconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limit {
    pub(super) binary: f64,
    pub(super) text: f64,
    /// The better of the two formats, and then the indexes and constraints by `pg_restore -j`.
    pub(super) all: f64,
}

impl Limit {
    pub(super) fn copy(&self) -> f64 {
        self.binary.min(self.text)
    }
}

#[derive(Debug, Clone, Copy)]
enum Format {
    Binary,
    Text,
}

/// The rows of the source in files, in both formats.
pub(super) struct Files {
    binary: tempfile::TempDir,
    text: tempfile::TempDir,
    /// For each psql its share.
    shares: Vec<Vec<Part>>,
    tables: Vec<String>,
}

#[derive(Debug, Clone)]
struct Part {
    table: String,
    condition: String,
    file: String,
    bytes: i64,
}

impl Files {
    /// Writes all rows out once; not measured.
    pub(super) async fn write(stage: &Stage) -> Result<Files> {
        let parts = parts(&stage.source.session(SOURCE).await?).await?;
        let mut tables: Vec<String> = parts.iter().map(|part| part.table.clone()).collect();
        tables.dedup();
        let files = Files { binary: folder()?, text: folder()?, shares: shares(parts), tables };
        for format in [Format::Binary, Format::Text] {
            files.copy_out(stage, format, Into::Files).await?;
        }
        Ok(files)
    }

    /// Measures anew.
    pub(super) async fn limit(&mut self, stage: &Stage) -> Result<Limit> {
        let text = self.copy_limit(stage, Format::Text).await?;
        let binary = self.copy_limit(stage, Format::Binary).await?;
        let built = self.build(stage).await?;
        Ok(Limit { binary, text, all: binary.min(text) + built.wall.as_secs_f64() })
    }

    async fn copy_limit(&self, stage: &Stage, format: Format) -> Result<f64> {
        stage.target.drop_database(TARGET).await?;
        stage.target.create_database(TARGET).await?;
        dump_definitions(stage, TARGET, &["--section=pre-data"]).await?;
        stage.settle().await?;
        let before = stage.cpu();
        let read = self.copy_out(stage, format, Into::Nothing).await?;
        run(&stage.target.session(TARGET).await?, &format!("TRUNCATE {}", self.tables.join(", "))).await?;
        let loaded = self.copy_in(stage, format).await?;
        let after = stage.cpu();
        let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
        let cpu = read.own_seconds + loaded.own_seconds + after.source - before.source + after.target
            - before.target;
        Ok(read.wall.max(loaded.wall).as_secs_f64().max(cpu / cores))
    }

    async fn copy_out(&self, stage: &Stage, format: Format, into: Into) -> Result<Usage> {
        let line = |part: &Part| {
            let to = match into {
                Into::Nothing => "/dev/null".to_owned(),
                Into::Files => self.folder(format).join(&part.file).display().to_string(),
            };
            format!(
                "\\copy (SELECT * FROM ONLY {}{}) TO '{to}' (FORMAT {})\n",
                part.table,
                part.condition,
                format.name()
            )
        };
        self.by_psql(stage, &stage.source_dsn(SOURCE), line).await
    }

    async fn copy_in(&self, stage: &Stage, format: Format) -> Result<Usage> {
        let line = |part: &Part| {
            let from = self.folder(format).join(&part.file);
            format!("\\copy {} FROM '{}' (FORMAT {})\n", part.table, from.display(), format.name())
        };
        self.by_psql(stage, &stage.target_dsn(TARGET), line).await
    }

    /// One psql for each share, all at once.
    async fn by_psql(&self, stage: &Stage, dsn: &str, line: impl Fn(&Part) -> String) -> Result<Usage> {
        let scripts = folder()?;
        let mut running = Vec::new();
        for (number, share) in self.shares.iter().enumerate() {
            let script = scripts.path().join(number.to_string());
            write(&script, &share.iter().map(&line).collect::<String>())?;
            let mut psql = stage.program("psql");
            psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", dsn, "-f"]).arg(&script);
            running.push(Running::start(psql)?);
        }
        let usages = try_join_all(running.into_iter().map(Running::finish)).await?;
        Ok(Usage {
            wall: usages.iter().map(|usage| usage.wall).max().unwrap_or_default(),
            own_seconds: usages.iter().map(|usage| usage.own_seconds).sum(),
            ..Usage::default()
        })
    }

    async fn build(&self, stage: &Stage) -> Result<Usage> {
        let archive = self.binary.path().join("definitions");
        let mut dump = stage.program("pg_dump");
        dump.args(["-Fc", "-s", "-d", &stage.source_dsn(SOURCE), "-f"]).arg(&archive);
        Running::start(dump)?.finish().await?;
        let mut restore = stage.program("pg_restore");
        restore.args(["-j", &jobs(), "--section=post-data", "-d", &stage.target_dsn(TARGET)]).arg(&archive);
        Running::start(restore)?.finish().await
    }

    fn folder(&self, format: Format) -> PathBuf {
        match format {
            Format::Binary => self.binary.path().to_owned(),
            Format::Text => self.text.path().to_owned(),
        }
    }
}

/// Where rows go that are read.
#[derive(Debug, Clone, Copy)]
enum Into {
    Nothing,
    Files,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Format::Binary => "binary",
            Format::Text => "text",
        }
    }
}

/// Every table, large ones in pieces, in the order of tables.
async fn parts(source: &Session) -> Result<Vec<Part>> {
    let sql =
        "SELECT format('%I.%I', n.nspname, c.relname), pg_table_size(c.oid), pg_relation_size(c.oid) / 8192
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE c.relkind = 'r' AND n.nspname = 'public' ORDER BY 1";
    let rows =
        source.query(sql, &[]).await.map_err(|cause| Error::from_postgres("list the tables", cause))?;
    let mut parts = Vec::new();
    for row in rows {
        let (table, bytes, blocks): (String, i64, i64) = (row.get(0), row.get(1), row.get(2));
        let pieces = (bytes / PART_BYTES + 1).min(blocks.max(1));
        for piece in 0..pieces {
            let edge = |piece: i64| format!("'({},0)'", blocks * piece / pieces);
            let condition = match piece {
                _ if pieces == 1 => String::new(),
                _ if piece + 1 == pieces => format!(" WHERE ctid >= {}", edge(piece)),
                _ => format!(" WHERE ctid >= {} AND ctid < {}", edge(piece), edge(piece + 1)),
            };
            let file = parts.len().to_string();
            parts.push(Part { table: table.clone(), condition, file, bytes: bytes / pieces });
        }
    }
    Ok(parts)
}

/// As many shares as there are jobs: the largest parts first, each to whom has least.
fn shares(mut parts: Vec<Part>) -> Vec<Vec<Part>> {
    parts.sort_by_key(|part| std::cmp::Reverse(part.bytes));
    let mut shares: Vec<(i64, Vec<Part>)> = vec![(0, Vec::new()); jobs().parse().unwrap_or(1)];
    for part in parts {
        if let Some((bytes, share)) = shares.iter_mut().min_by_key(|(bytes, _)| *bytes) {
            *bytes += part.bytes;
            share.push(part);
        }
    }
    shares.into_iter().map(|(_, share)| share).filter(|share| !share.is_empty()).collect()
}

fn write(path: &Path, text: &str) -> Result<()> {
    let failed = |cause| Error::new(ErrorKind::Local, "write a script for psql").because(cause);
    std::fs::write(path, text).map_err(failed)
}
