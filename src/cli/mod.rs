//! The command line: what is asked for, and how the answer leaves.
//!
//! Hazard: scripts read the exit status and stdout. Stdout carries one JSON document under `--json` and
//! nothing else ever but help; everything for people goes to stderr.

mod args;
mod choice;
mod cleanup;
mod command;
mod demo;
mod environment;
mod exit;
mod misuse;
mod pg_migrate;
mod quantity;
mod report;
mod resolve;
mod result;
mod selection;
mod status;
mod watch;
mod worker;

use std::io::Write as _;

pub use args::{
    Args, CheckArgs, CleanupArgs, Command, DemoArgs, EndingArgs, Files, Identity, LogFormatArg, MigrateArgs,
    Pace, Parsed, ReplicaIdentity, Servers, StatusArgs, Talk, Until,
};
pub use exit::{Exit, Failure, fail};
pub use misuse::Misuse;
pub use pg_migrate::PgMigrateArgs;
pub use quantity::{QuantityError, TableList};
pub use resolve::Dsns;
pub use result::{DatabaseResult, Method, MigrateResult, RoleResult, RoleStatus, Status};
pub use selection::{Databases, NameList, RoleArgs, RoleList};
pub use watch::Watch;
pub use worker::WorkerArgs;

use self::pg_migrate::Meant;
use crate::error::{Error, ErrorKind, Result};
use crate::migrate::Output;

/// Reads the process's command line, runs it, and says how to exit.
#[must_use]
pub fn main() -> Exit {
    // A script that asked for a document gets one, also when nothing else of the line can be read.
    let asks_for_json = std::env::args_os().any(|word| word == "--json");
    let args = match Args::read(std::env::args_os()) {
        Ok(Parsed::Run(args)) => args,
        Ok(Parsed::Show(text)) => {
            // `pgstream --help | head` closes early, and that is no failure.
            let _ = write!(std::io::stdout().lock(), "{text}");
            return Exit::Done;
        }
        Err(error) => return fail(&error, if asks_for_json { Output::Json } else { Output::Human }),
    };
    let output = args.command.talk().output();
    let done = runtime().and_then(|runtime| runtime.block_on(run(args.command)));
    done.unwrap_or_else(|error| fail(&error, output))
}

/// Runs one command to its end.
async fn run(command: Command) -> Result<Exit> {
    let directives = std::env::var("PGSTREAM_LOG").ok();
    match command {
        Command::Check(args) => command::check(*args, directives).await,
        Command::Migrate(args) => command::migrate(*args, directives).await,
        Command::Worker(args) => worker::worker(args, directives).await,
        Command::Status(args) => status::status(args, directives).await,
        Command::Cleanup(args) => cleanup::cleanup(args, directives).await,
        Command::PgMigrate(args) => match args.meant(|name| std::env::var(name).ok()) {
            Meant::Check(args) => command::check(*args, directives).await,
            Meant::Migrate(args) => command::migrate(*args, directives).await,
        },
        Command::Demo(args) => demo::demo(args, directives).await,
    }
}

/// What the main thread has: a database's whole migration is one task, whose frames are large without
/// optimization. Memory that no frame touches is never given.
const THREAD_STACK_BYTES: usize = 8 << 20;

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("pgstream-io")
        .thread_stack_size(THREAD_STACK_BYTES)
        .build()
        .map_err(|error| Error::new(ErrorKind::Local, "start worker threads").because(error))
}
