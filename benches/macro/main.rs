//! The engine on real servers, beside what one would use instead of it.
//!
//! Hazard: a figure without its rival, its machine and its settings is an advertisement. Each table holds the
//! rival's figures of the same run on the same servers, medians of several repetitions, and the CPU that every
//! party spent, which a busy machine spoils less than wall time.
//!
//!     cargo bench --bench macro                     # all; an hour on a small machine
//!     cargo bench --bench macro -- --quick          # small sizes; some minutes
//!     cargo bench --bench macro -- --only catch-up
//!
//! It needs PostgreSQL's server programs, pgbench, `pg_dump` and `pg_restore`, and Linux for `/proc`. The servers
//! are throwaway ones; they end with the bench, however it ends.

mod catch_up;
mod copy;
mod process;
mod stage;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use pgstream::demo::Durability;
use pgstream::error::{Result, describe};

use stage::Stage;

#[derive(Debug, Parser)]
struct Args {
    /// Small sizes: to see that it works, and to compare two builds roughly.
    #[arg(long)]
    quick: bool,
    /// Only this part.
    #[arg(long)]
    only: Option<Part>,
    /// Times that every contestant runs; medians are shown.
    #[arg(long)]
    repetitions: Option<usize>,
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
    CatchUp,
}

/// How much there is to do.
struct Size {
    repetitions: usize,
    copy_scale: u32,
    mixed_rows: u64,
    catch_up_scale: u32,
    transactions: u64,
}

impl Args {
    fn size(&self) -> Size {
        let size = match self.quick {
            true => Size {
                repetitions: 1,
                copy_scale: 5,
                mixed_rows: 200_000,
                catch_up_scale: 2,
                transactions: 20_000,
            },
            false => Size {
                repetitions: 3,
                copy_scale: 50,
                mixed_rows: 5_000_000,
                catch_up_scale: 20,
                transactions: 200_000,
            },
        };
        Size { repetitions: self.repetitions.unwrap_or(size.repetitions).max(1), ..size }
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
    let size = args.size();
    let durability = if args.careless { Durability::Careless } else { Durability::Real };
    println!("{}", machine());
    for part in
        [Part::Copy, Part::CatchUp].into_iter().filter(|part| args.only.is_none_or(|only| only == *part))
    {
        let stage = Stage::set(durability, &args.engine).await?;
        println!("\n{}, durability {durability:?}; medians of {}", stage.description(), size.repetitions);
        match part {
            Part::Copy => copy::measure(&stage, &size).await?,
            Part::CatchUp => catch_up::measure(&stage, &size).await?,
        }
    }
    println!("\n× compares wall time (copy) or drain time (catching up) with the first row.\n{}", machine());
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
