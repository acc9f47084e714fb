//! The engine on real servers, beside what one would use instead of it.
//!
//! Hazard: a figure without its rival, its machine and its settings is an advertisement. Each table holds the
//! rival's figures of the same run on the same servers, medians of several repetitions, and the CPU that every
//! party spent, which a busy machine spoils less than wall time.
//!
//!     cargo bench --bench macro                     # all; an hour on a small machine
//!     cargo bench --bench macro -- --quick          # small sizes; some minutes
//!     cargo bench --bench macro -- --only apply     # `make bench-apply`; twenty minutes
//!     cargo bench --bench macro -- --only apply --workload tpcb,hot
//!     cargo bench --bench macro -- --only copy      # `make bench-copy`; half an hour
//!     cargo bench --bench macro -- --only copy --dataset mixed,many
//!
//! It needs PostgreSQL's server programs, pgbench, psql, `pg_dump` and `pg_restore`, and Linux for `/proc`. The servers
//! are throwaway ones; they end with the bench, however it ends.

mod apply;
mod copy;
#[path = "../../tests/it/support/fault.rs"]
#[allow(dead_code, reason = "shared with the scenarios, which do worse to it")]
mod fault;
mod figure;
mod process;
mod stage;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use pgstream::demo::Durability;
use pgstream::error::{Result, describe};

use stage::{Stage, Way};

#[derive(Debug, Parser)]
struct Args {
    /// Small sizes: to see that it works, and to compare two builds roughly.
    #[arg(long)]
    quick: bool,
    /// Only this part.
    #[arg(long)]
    only: Option<Part>,
    /// Of apply, only these: tpcb, inserts, updates, indexed, hot, deletes, giant, wide, keyless, tables; following;
    /// curve.
    #[arg(long, value_delimiter = ',', value_parser = WORKLOADS)]
    workload: Vec<String>,
    /// Of copy, only these: mixed, wide, pgbench, schema, many, partitions, lobs; ways; tenfold.
    #[arg(long, value_delimiter = ',', value_parser = DATASETS)]
    dataset: Vec<String>,
    /// Multiplies rows, tables and transactions.
    #[arg(long)]
    scale: Option<f64>,
    /// Times that every contestant runs; medians are shown.
    #[arg(long)]
    repetitions: Option<usize>,
    /// By what all contestants reach the servers; by default TCP for the copy, whose rows come by 8 kB, and sockets
    /// for the changes, which come one by one.
    #[arg(long, value_enum)]
    way: Option<Way>,
    /// Servers that do not sync; by default they do, as in production.
    #[arg(long)]
    careless: bool,
    /// Measure this build of pgstream instead of the one that was built with the bench.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_pgstream"))]
    engine: PathBuf,
    /// Given by `cargo bench`, and not by `cargo test`, which builds this as well.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Copy,
    Apply,
}

const WORKLOADS: [&str; 12] = [
    "tpcb",
    "inserts",
    "updates",
    "indexed",
    "hot",
    "deletes",
    "giant",
    "wide",
    "keyless",
    "tables",
    "following",
    "curve",
];

const DATASETS: [&str; 9] =
    ["mixed", "wide", "pgbench", "schema", "many", "partitions", "lobs", "ways", "tenfold"];

impl Args {
    fn wants(&self, part: Part) -> bool {
        let only = match (self.workload.is_empty(), self.dataset.is_empty()) {
            (false, true) => Some(Part::Apply),
            (true, false) => Some(Part::Copy),
            (true, true) | (false, false) => self.only,
        };
        only.is_none_or(|only| only == part)
    }

    fn copy_size(&self) -> copy::Size {
        let (repetitions, scale) = if self.quick { (1, 0.05) } else { (5, 1.0) };
        copy::Size {
            scale: self.scale.unwrap_or(scale),
            repetitions: self.repetitions.unwrap_or(repetitions).max(1),
        }
    }

    fn apply_size(&self) -> apply::Size {
        let (repetitions, scale, seconds) = if self.quick { (1, 0.05, 4) } else { (5, 1.0, 12) };
        apply::Size {
            scale: self.scale.unwrap_or(scale),
            repetitions: self.repetitions.unwrap_or(repetitions).max(1),
            following: Duration::from_secs(seconds),
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    if !args.bench {
        println!("nothing is measured outside `cargo bench --bench macro`");
        return ExitCode::SUCCESS;
    }
    // Whichever way it ends, servers and programs go as their owners are dropped.
    tokio::select! {
        outcome = measure(&args) => match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{}", describe(&error));
                ExitCode::FAILURE
            }
        },
        _ = tokio::signal::ctrl_c() => {
            eprintln!("interrupted");
            ExitCode::FAILURE
        }
    }
}

async fn measure(args: &Args) -> Result<()> {
    let durability = if args.careless { Durability::Careless } else { Durability::Real };
    println!("{}", machine());
    for part in [Part::Copy, Part::Apply].into_iter().filter(|part| args.wants(*part)) {
        let usual = match part {
            Part::Copy => Way::Tcp,
            Part::Apply => Way::Socket,
        };
        let stage = Stage::set(durability, &args.engine, args.way.unwrap_or(usual)).await?;
        println!("\n{}, durability {durability:?}", stage.description());
        match part {
            Part::Copy => copy::measure(&stage, args.copy_size(), &args.dataset).await?,
            Part::Apply => apply::measure(&stage, args.apply_size(), &args.workload).await?,
        }
    }
    println!("\n{}", machine());
    Ok(())
}

/// Cores, memory and how busy it is; at the beginning and at the end.
fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = read("/proc/meminfo");
    let memory = memory.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    let cpu = read("/proc/cpuinfo");
    let cpu =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let load = read("/proc/loadavg");
    let load: Vec<&str> = load.split_whitespace().take(3).collect();
    format!(
        "{cores} cores ({}), {:.0} GB of memory, load {}",
        cpu.unwrap_or("unknown"),
        memory.unwrap_or(0.0) / 1e6,
        load.join(" ")
    )
}
