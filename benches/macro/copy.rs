//! The copy of a database at rest, beside `pg_dump` and `pg_restore`.
//!
//! Every contestant moves the same database whole: definitions, rows, indexes, constraints. pgstream also
//! takes a slot and streams what changed meanwhile, which here is nothing.

use std::process::Stdio;

use pgstream::error::{Error, ErrorKind, Result};
use pgstream::migrate::Options;

use crate::CopySize;
use crate::process::{Running, Usage};
use crate::stage::{Stage, number, run};
use crate::table::{Run, Table};

const HEADING: [&str; 9] = [
    "wall s",
    "rows/s",
    "MB/s",
    "tool CPU s",
    "CPU s/GB",
    "source CPU s",
    "target CPU s",
    "all CPU s",
    "peak MB",
];

const TARGET: &str = "arrived";
/// The one database without pgbench's tables.
const MIXED: &str = "mixed";

/// Types of every width, a tenth of one column NULL, no two rows alike.
const MIXED_DDL: &str = "
CREATE TABLE public.mixed (
    id bigint NOT NULL, customer integer NOT NULL, amount numeric(12, 2) NOT NULL, at timestamptz NOT NULL,
    status text NOT NULL, note text, document jsonb NOT NULL, token uuid NOT NULL, score double precision,
    paid boolean NOT NULL);
INSERT INTO public.mixed
SELECT n, n % 100000, (n % 1000000) / 100.0, timestamptz '2024-01-01 00:00:00+00' + n * interval '1 second',
    (ARRAY['new', 'paid', 'sent', 'back'])[1 + n % 4], CASE WHEN n % 10 > 0 THEN 'note ' || md5(n::text) END,
    jsonb_build_object('n', n, 'even', n % 2 = 0), md5(n::text)::uuid, sqrt(n), n % 3 = 0
FROM generate_series(1, $ROWS::bigint) AS n;
ALTER TABLE public.mixed ADD PRIMARY KEY (id);
ANALYZE public.mixed";

#[derive(Clone, Copy)]
enum Contestant {
    Pgstream,
    DumpDirectory,
    DumpPipe,
}

const CONTESTANTS: [Contestant; 3] = [Contestant::Pgstream, Contestant::DumpDirectory, Contestant::DumpPipe];

/// What is to be moved.
struct Database {
    name: &'static str,
    rows: f64,
    /// Of tables with TOAST, without indexes.
    bytes: f64,
}

/// Measures, and gives one table for each database.
pub(crate) async fn measure(stage: &Stage, size: &CopySize) -> Result<()> {
    let scale = size.scale.to_string();
    stage.source.create_database("bank").await?;
    stage.pgbench("bank", &["-i", "-q", "-s", &scale]).await?;
    stage.source.create_database(MIXED).await?;
    let mixed = stage.source.session(MIXED).await?;
    run(&mixed, &MIXED_DDL.replace("$ROWS", &size.mixed_rows.to_string())).await?;
    for name in ["bank", MIXED] {
        let database = Database::weighed(stage, name).await?;
        let mut runs: [Vec<Run<9>>; 3] = Default::default();
        for repetition in 0..size.repetitions {
            // Each in its turn goes first.
            for step in 0..CONTESTANTS.len() {
                let at = (step + repetition) % CONTESTANTS.len();
                runs[at].push(once(stage, &database, CONTESTANTS[at]).await?);
            }
        }
        let mut table = Table::new(HEADING, 0);
        for (contestant, runs) in CONTESTANTS.iter().zip(&runs) {
            table.add(&contestant.name(), runs);
        }
        let megabytes = database.bytes / 1e6;
        println!(
            "\nCopy of `{name}`: {:.0} rows, {megabytes:.0} MB of tables; medians of {}; × compares wall time with the \
             first row\n\n{table}",
            database.rows, size.repetitions
        );
    }
    Ok(())
}

impl Database {
    async fn weighed(stage: &Stage, name: &'static str) -> Result<Database> {
        let session = stage.source.session(name).await?;
        run(&session, "VACUUM ANALYZE").await?;
        let tables = "FROM pg_catalog.pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
        let bytes = format!("SELECT sum(pg_catalog.pg_table_size(oid))::int8 {tables}");
        let rows = format!("SELECT sum(greatest(reltuples, 0))::int8 {tables}");
        Ok(Database {
            name,
            rows: number(&session, &rows).await? as f64,
            bytes: number(&session, &bytes).await? as f64,
        })
    }
}

async fn once(stage: &Stage, database: &Database, contestant: Contestant) -> Result<Run<9>> {
    stage.target.create_database(TARGET).await?;
    stage.settle().await?;
    let before = stage.cpu();
    let usage = contestant.run(stage, database.name).await?;
    let after = stage.cpu();
    let session = stage.target.session(TARGET).await?;
    let counted = match database.name {
        MIXED => number(&session, "SELECT count(*) FROM public.mixed").await?,
        _ => number(&session, "SELECT count(*) FROM public.pgbench_accounts").await?,
    };
    drop(session);
    if (counted as f64) < database.rows * 0.99 {
        return Err(Error::new(ErrorKind::Copy, format!("copy {counted} of {} rows", database.rows)));
    }
    stage.target.drop_database(TARGET).await?;
    let (wall, tool) = (usage.wall.as_secs_f64(), usage.own_seconds + usage.children_seconds);
    let (source, target) = (after.source - before.source, after.target - before.target);
    Ok([
        wall,
        database.rows / wall,
        database.bytes / 1e6 / wall,
        tool,
        tool / (database.bytes / 1e9),
        source,
        target,
        source + tool + target,
        usage.memory_bytes as f64 / 1e6,
    ])
}

impl Contestant {
    fn name(self) -> String {
        let jobs = Options::default_copy_jobs();
        match self {
            Contestant::Pgstream => format!("pgstream -j {jobs}"),
            Contestant::DumpDirectory => format!("pg_dump -Fd, restore -j {jobs}"),
            Contestant::DumpPipe => "pg_dump -Fc | pg_restore".to_owned(),
        }
    }

    async fn run(self, stage: &Stage, dbname: &str) -> Result<Usage> {
        let jobs = Options::default_copy_jobs().to_string();
        let (from, to) = (stage.source.dsn(dbname), stage.target.dsn(TARGET));
        let mut dump = stage.program("pg_dump");
        let mut restore = stage.program("pg_restore");
        match self {
            Contestant::Pgstream => {
                let mut migrate = stage.migrate(dbname, TARGET, None);
                migrate.args(["--stop-replication", "-j", &jobs]);
                if dbname != MIXED {
                    // It has no key, and only ever grows.
                    migrate.args(["--insert-only", "public.pgbench_history"]);
                }
                Running::start(migrate)?.finish().await
            }
            // Uncompressed: between two servers of one machine compression only costs.
            Contestant::DumpDirectory => {
                let folder = tempfile::tempdir().map_err(|cause| {
                    Error::new(ErrorKind::Local, "make a directory to dump to").because(cause)
                })?;
                let archive = folder.path().join("dump");
                dump.args(["-Fd", "-Z0", "-j", &jobs, "-f"]).arg(&archive).args(["-d", &from]);
                let dumped = Running::start(dump)?.finish().await?;
                restore.args(["-j", &jobs, "-d", &to]).arg(&archive);
                let restored = Running::start(restore)?.finish().await?;
                Ok(both(dumped, restored, dumped.wall + restored.wall))
            }
            Contestant::DumpPipe => {
                let broken = |cause| Error::new(ErrorKind::Local, "make a pipe").because(cause);
                let (reader, writer) = std::io::pipe().map_err(broken)?;
                dump.args(["-Fc", "-Z0", "-d", &from]).stdout(Stdio::from(writer));
                let dump = Running::start(dump)?;
                restore.args(["-d", &to]);
                let restore = Running::start_reading(restore, reader)?;
                let (dumped, restored) = tokio::try_join!(dump.finish(), restore.finish())?;
                Ok(both(dumped, restored, dumped.wall.max(restored.wall)))
            }
        }
    }
}

fn both(one: Usage, other: Usage, wall: std::time::Duration) -> Usage {
    Usage {
        wall,
        own_seconds: one.own_seconds + other.own_seconds,
        children_seconds: one.children_seconds + other.children_seconds,
        memory_bytes: one.memory_bytes.max(other.memory_bytes),
    }
}
