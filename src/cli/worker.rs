//! `pgstream worker`: what it copied, for people and for scripts.
//!
//! Hazard: a worker that ends is no sign that the copy is over, unless it says so: only then is its status 0, or when
//! the operator has ended it.

use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use serde::Serialize;

use super::args::{Servers, Talk, address};
use super::command::{ends, listen, print};
use super::exit::{Exit, Failure, complain};
use super::quantity;
use super::result::Status;
use super::watch::Watch;
use crate::error::{ErrorKind, Result};
use crate::migrate::{self, Options, Output, WorkerOptions, WorkerOutcome, WorkerWatchers};
use crate::telemetry::text;

/// `pgstream worker`.
#[derive(Debug, Clone, clap::Args)]
pub struct WorkerArgs {
    /// The two ends, the same as migrate's. Without a database in the target's, every copy that runs there.
    #[command(flatten)]
    pub servers: Servers,
    /// Connections that copy rows [default: two for each core of this machine, at most 8].
    #[arg(short = 'j', long, value_name = "N", value_parser = quantity::jobs)]
    pub copy_jobs: Option<NonZeroUsize>,
    /// Copy no more than this a second, beside what other processes copy [default: as fast as it goes].
    #[arg(long, value_name = "SIZE", value_parser = quantity::rate)]
    pub copy_rate: Option<NonZeroU64>,
    /// Wait this long for any one lock [default: 60s].
    #[arg(long, value_name = "TIME", value_parser = quantity::duration)]
    pub lock_timeout: Option<Duration>,
    /// Wait this long for a copy to begin, or for migrate to be run again.
    #[arg(long, value_name = "TIME", default_value = "1min", value_parser = quantity::duration)]
    pub wait: Duration,
    /// Serve Prometheus metrics, /healthz and /readyz here, such as 127.0.0.1:9187.
    #[arg(long, value_name = "ADDRESS", help_heading = "Output", value_parser = address)]
    pub metrics_addr: Option<SocketAddr>,
    /// What is said.
    #[command(flatten)]
    pub talk: Talk,
}

/// Runs it.
pub(super) async fn worker(args: WorkerArgs, directives: Option<String>) -> Result<Exit> {
    let (source, target) = ends(&args.servers)?;
    let options = WorkerOptions {
        source,
        target,
        copy_jobs: args.copy_jobs.unwrap_or_else(Options::default_copy_jobs),
        copy_rate: args.copy_rate,
        lock_timeout: args.lock_timeout.unwrap_or(Options::LOCK_TIMEOUT_DEFAULT),
        patience: args.wait,
    };
    let watch = Watch::start(&args.talk, directives, args.metrics_addr).await?;
    let (sender, shutdown) = migrate::shutdown();
    let listener = tokio::spawn(listen(sender));
    let watchers = WorkerWatchers {
        progress: watch.progress.clone(),
        metrics: watch.metrics.clone(),
        health: watch.health.clone(),
        shutdown,
    };
    let outcome = migrate::work(&options, &watchers).await;
    listener.abort();
    watch.finish().await;
    let result = WorkerResult::of(&outcome);
    if let (Status::Failed, Err(error)) = (result.status, &outcome.ended) {
        complain(error);
    }
    match args.talk.output() {
        Output::Human => eprint!("{}", result.lines()),
        Output::Json => print(&serde_json::to_string(&result).expect("plain data always serializes")),
    }
    Ok(match &outcome.ended {
        Err(error) if error.kind() != ErrorKind::Cancelled => Exit::from(error),
        Ok(()) | Err(_) => Exit::Done,
    })
}

/// The document that `worker --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct WorkerResult {
    status: Status,
    databases: Vec<WorkedDatabase>,
    seconds: f64,
    error: Option<Failure>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct WorkedDatabase {
    dbname: String,
    parts: u64,
    rows_copied: u64,
    bytes_copied: u64,
}

impl WorkerResult {
    fn of(outcome: &WorkerOutcome) -> WorkerResult {
        let (status, error) = match &outcome.ended {
            Ok(()) => (Status::Done, None),
            Err(error) if error.kind() == ErrorKind::Cancelled => (Status::Cancelled, None),
            Err(error) => (Status::Failed, Some(Failure::from(error))),
        };
        let databases = outcome.databases.iter().map(|worked| WorkedDatabase {
            dbname: worked.database.clone(),
            parts: worked.loaded.parts(),
            rows_copied: worked.loaded.rows(),
            bytes_copied: worked.loaded.bytes(),
        });
        WorkerResult { status, databases: databases.collect(), seconds: outcome.elapsed.as_secs_f64(), error }
    }

    fn lines(&self) -> String {
        let mut lines = String::new();
        for WorkedDatabase { dbname, parts, rows_copied, bytes_copied } in &self.databases {
            let (parts, rows) = (text::counted(*parts, "part"), text::counted(*rows_copied, "row"));
            let name = text::printable(dbname);
            lines += &format!("{name}: copied {parts}, {rows}, {}\n", text::bytes(*bytes_copied));
        }
        lines += match self.status {
            Status::Done => "the copy is over\n",
            Status::Cancelled => "interrupted; what was under way is copied by others\n",
            Status::Failed | Status::Running => "",
        };
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_what_was_copied_and_whether_all_is() {
        let worked = WorkedDatabase {
            dbname: "sh\u{1b}op".to_owned(),
            parts: 1,
            rows_copied: 12,
            bytes_copied: 1 << 20,
        };
        let result =
            WorkerResult { status: Status::Done, databases: vec![worked], seconds: 1.0, error: None };
        let lines = result.lines();
        assert!(lines.starts_with("sh op: copied 1 part, 12 rows, "), "{lines}");
        assert!(lines.ends_with("the copy is over\n"), "{lines}");
    }
}
