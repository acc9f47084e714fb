//! Runs a command: from what was typed, through the engine, to what is printed.
//!
//! Hazard: the operator's first Ctrl-C means "stop well", the second "stop now". The first is handed to the
//! engine as a wish; the second ends the process, and what is durable by then is what counts.

use std::io::Write as _;
use std::path::Path;

use super::args::{CheckArgs, MigrateArgs, Servers};
use super::exit::{Exit, Failure, complain};
use super::result::{DatabaseResult, Method, MigrateResult, Status};
use super::watch::Watch;
use crate::error::{Error, ErrorKind, Result, Side, describe};
use crate::migrate::{
    self, Ended, Ending, MethodTaken, Outcome, Output, ShutdownSender, Watchers, Workplace,
};
use crate::pg::{Conninfo, Environment, Secret};
use crate::precheck::CheckOptions;

/// `pgstream check`.
pub(super) async fn check(check: CheckArgs, directives: Option<String>) -> Result<Exit> {
    let (source, target) = ends(&check.servers)?;
    let output = check.talk.output();
    let (given, choice) = (check.identity.choice(), check.method.choice());
    let choice = given.method(choice);
    let identity = given.read()?;
    let filters = check.filters.choice()?;
    let watch = Watch::start(&check.talk, directives, None).await?;
    for directory in [&check.files.work_dir, &check.files.pgbin].into_iter().flatten() {
        is_directory(directory)?;
    }
    let options =
        CheckOptions { identity, filters, choice: check.checks.choice(), ..CheckOptions::default() };
    let workplace =
        Workplace { pgbin: check.files.pgbin.as_deref(), work_dir: check.files.work_dir.as_deref() };
    let (sender, mut shutdown) = migrate::shutdown();
    let listener = tokio::spawn(listen(sender));
    let decided = shutdown.or_stop(migrate::check(&source, &target, &options, choice, workplace)).await;
    listener.abort();
    watch.finish().await;
    let report = decided?.report;
    match output {
        Output::Human => eprintln!("{report}"),
        Output::Json => print(&serde_json::to_string(&report).expect("plain data always serializes")),
    }
    Ok(if report.ok { Exit::Done } else { Exit::Blocked })
}

/// `pgstream migrate`.
pub(super) async fn migrate(args: MigrateArgs, directives: Option<String>) -> Result<Exit> {
    let (source, target) = ends(&args.servers)?;
    for directory in [&args.files.work_dir, &args.files.pgbin].into_iter().flatten() {
        is_directory(directory)?;
    }
    let watch = Watch::start(&args.talk, directives, args.metrics_addr).await?;
    let options = args.options(source, target)?;
    let (sender, shutdown) = migrate::shutdown();
    let listener = tokio::spawn(listen(sender));
    let watchers = Watchers {
        progress: watch.progress.clone(),
        metrics: watch.metrics.database(options.source.database()),
        health: watch.health.clone(),
        log: watch.migration.clone(),
        shutdown,
        method: MethodTaken::default(),
    };
    let ended = migrate::migrate(&options, &watchers).await;
    listener.abort();
    if let Err(error) = &ended
        && error.kind() != ErrorKind::Cancelled
    {
        watch.metrics.error(error.kind());
        watch.health.fail();
    }
    watch.finish().await;
    Ok(match ended {
        Ok(outcome) => show(&outcome, &options.ending, options.output),
        Err(error) if error.kind() == ErrorKind::Cancelled => show_cancelled(&options, &watchers.method),
        Err(error) => show_failed(&error, &options, &watchers.method),
    })
}

/// Found now, not after hours of copying.
fn is_directory(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Usage, format!("use directory {}", path.display()))
        .because("it is not there, or is no directory")
        .hint("Name a directory that is there, with --work-dir and --pgbin."))
}

/// Both ends, by libpq's rules.
fn ends(servers: &Servers) -> Result<(Conninfo, Conninfo)> {
    let dsns = servers.dsns(|name| std::env::var(name).ok())?;
    Ok((end(&dsns.source, Side::Source)?, end(&dsns.target, Side::Target)?))
}

/// One end, by libpq's rules.
pub(super) fn end(dsn: &Secret, side: Side) -> Result<Conninfo> {
    Conninfo::resolve(dsn.reveal(), &Environment::from_process()).map_err(|cause| {
        Error::new(ErrorKind::Usage, format!("read the {side}'s connection string"))
            .hint(
                "Write it as libpq does: postgres://user@host:5432/dbname?sslmode=require, or \
                 'host=… port=5432 user=… dbname=…'.",
            )
            .because(cause)
    })
}

/// Waits for SIGINT and SIGTERM: the first is a wish, the second an order.
pub(super) async fn listen(sender: ShutdownSender) {
    use tokio::signal::unix::{SignalKind, signal};

    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        tracing::error!("signals cannot be caught; an interrupt ends the process at once");
        return;
    };
    for patience in [Patience::Drain, Patience::None] {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        match patience {
            Patience::Drain => {
                tracing::info!("stopping; a second signal stops at once");
                sender.request();
            }
            Patience::None => std::process::exit(130),
        }
    }
}

enum Patience {
    Drain,
    None,
}

fn show(outcome: &Outcome, wanted: &Ending, output: Output) -> Exit {
    let (status, message) = match outcome.ended {
        Ended::Stopped => (Status::Done, None),
        Ended::CaughtUp => (
            Status::Done,
            Some(format!(
                "everything up to {} is on the target; the slot stays, and the same command goes on",
                outcome.position
            )),
        ),
        Ended::Interrupted => (
            Status::Running,
            Some(format!(
                "applied up to {}; run the same command again to go on from there",
                outcome.position
            )),
        ),
    };
    let decided = outcome.decided_by.as_ref().map(|decisive| {
        let migrate::Decisive { check, message } = decisive;
        format!("moved by a plain dump, not by replication, because of [{check}]: {message}")
    });
    let method = Method::from(outcome.method);
    let result = MigrateResult {
        status,
        roles: Vec::new(),
        databases: vec![DatabaseResult {
            dbname: outcome.database.clone(),
            method,
            status,
            message: decided.or(message),
            tables: outcome.figures.tables,
            rows_copied: outcome.figures.rows_copied,
            bytes_copied: outcome.figures.bytes_copied,
            transactions_applied: outcome.figures.transactions_applied,
            changes_applied: outcome.figures.changes_applied,
            lag_bytes: (method == Method::Replication).then_some(outcome.figures.lag_bytes),
            seconds: outcome.figures.elapsed.as_secs_f64(),
        }],
        warnings: outcome.warnings.clone(),
        error: None,
    };
    tell(&result, output);
    exit_of(outcome.ended, wanted)
}

/// Interrupted before the target was in step.
fn show_cancelled(options: &migrate::Options, method: &MethodTaken) -> Exit {
    let message = "interrupted before the target was in step; run the same command again to go on";
    tell(&short(options, method, Status::Cancelled, message.to_owned()), options.output);
    match method.get() {
        // Half a dump is not what anyone asked for.
        Some(migrate::Method::Dump) => Exit::Failed,
        Some(migrate::Method::Replication) | None => exit_of(Ended::Interrupted, &options.ending),
    }
}

/// What went wrong, for people on stderr; the document has the shape of any other result, with the error.
fn show_failed(error: &Error, options: &migrate::Options, method: &MethodTaken) -> Exit {
    complain(error);
    match options.output {
        Output::Human => {}
        Output::Json => {
            let result = short(options, method, Status::Failed, describe(error));
            print(&MigrateResult { error: Some(Failure::from(error)), ..result }.to_json());
        }
    }
    Exit::from(error)
}

/// A result without figures: they are on the target, for the next run to count on.
fn short(options: &migrate::Options, method: &MethodTaken, status: Status, message: String) -> MigrateResult {
    let chosen = match options.method {
        migrate::MethodChoice::Dump => Method::Dump,
        migrate::MethodChoice::Auto | migrate::MethodChoice::Replication => Method::Replication,
    };
    MigrateResult {
        status,
        roles: Vec::new(),
        databases: vec![DatabaseResult {
            dbname: options.source.database().to_owned(),
            method: method.get().map_or(chosen, Method::from),
            status,
            message: Some(message),
            tables: 0,
            rows_copied: 0,
            bytes_copied: 0,
            transactions_applied: 0,
            changes_applied: 0,
            lag_bytes: None,
            seconds: 0.0,
        }],
        warnings: Vec::new(),
        error: None,
    }
}

/// An interrupt is the regular end of a run that was told of no other. Of one that was, it is not: what
/// follows in a script must not take half a database for a whole one.
fn exit_of(ended: Ended, wanted: &Ending) -> Exit {
    match (ended, wanted) {
        (Ended::Stopped | Ended::CaughtUp, _) | (Ended::Interrupted, Ending::Interrupt) => Exit::Done,
        (Ended::Interrupted, Ending::CaughtUp | Ending::Stop { .. }) => Exit::Failed,
    }
}

fn tell(result: &MigrateResult, output: Output) {
    match output {
        Output::Human => eprint!("{}", result.to_table()),
        Output::Json => print(&result.to_json()),
    }
}

/// One document on stdout; a reader that has gone away is no failure of ours.
pub(super) fn print(document: &str) {
    if let Err(error) = writeln!(std::io::stdout().lock(), "{document}") {
        tracing::warn!(error = %describe(&error), "result not written");
    }
}
