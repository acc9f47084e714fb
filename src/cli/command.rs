//! Runs a command: from what was typed, through the engine, to what is printed.
//!
//! Hazard: the operator's first Ctrl-C means "stop well", the second "stop now". The first is handed to the
//! engine as a wish; the second ends the process, and what is durable by then is what counts.

use std::io::Write as _;
use std::path::Path;

use super::args::{CheckArgs, MigrateArgs, Servers};
use super::exit::{Exit, Failure, complain, complain_of};
use super::report::Report;
use super::result::{DatabaseResult, Method, MigrateResult, RoleResult, RoleStatus, Status};
use super::watch::Watch;
use crate::error::{Error, ErrorKind, Result, Side, describe};
use crate::migrate::cluster::{self, ClusterOutcome, ClusterWatchers, Moved, Order, Wanted};
use crate::migrate::state::MigrationId;
use crate::migrate::{self, Ended, Ending, MethodChoice, Options, Output, ShutdownSender};
use crate::pg::{Conninfo, Environment, Secret};
use crate::schema::{self, CarriedRole};

/// `pgstream check`.
pub(super) async fn check(check: CheckArgs, directives: Option<String>) -> Result<Exit> {
    let (source, target) = ends(&check.servers)?;
    for directory in [&check.files.work_dir, &check.files.pgbin].into_iter().flatten() {
        is_directory(directory)?;
    }
    let (output, talk) = (check.talk.output(), check.talk.clone());
    let order = check.order(source, target)?;
    order.options.identity.read()?;
    let watch = Watch::start(&talk, directives, None).await?;
    let (sender, mut shutdown) = migrate::shutdown();
    let listener = tokio::spawn(listen(sender));
    let report = shutdown.or_stop(cluster::check(&order)).await;
    listener.abort();
    watch.finish().await;
    let report = report?;
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
    let (talk, metrics_addr, report) = (args.talk.clone(), args.metrics_addr, args.report.clone());
    let passwords = if args.roles.show_passwords { Passwords::Shown } else { Passwords::Hidden };
    let order = args.order(source, target)?;
    let report = report.map(|file| Report::new(file, &order)).transpose()?;
    let watch = Watch::start(&talk, directives, metrics_addr).await?;
    if !matches!(order.wanted, Wanted::One(_)) {
        // One database's own id names the run; several need one that is none of theirs.
        watch.migration.set(MigrationId::random().as_str());
    }
    let (sender, shutdown) = migrate::shutdown();
    let listener = tokio::spawn(listen(sender));
    let watchers = ClusterWatchers {
        progress: watch.progress.clone(),
        metrics: watch.metrics.clone(),
        health: watch.health.clone(),
        log: watch.migration.clone(),
        shutdown,
    };
    let ended = cluster::migrate(&order, &watchers).await;
    listener.abort();
    let id = watch.migration.get().map(str::to_owned);
    watch.finish().await;
    let (result, exit) = match &ended {
        Ok(outcome) => {
            (whole(outcome, passwords, &order.options), exit_of_all(&outcome.databases, &order.options))
        }
        Err(error) => nothing(error, &order),
    };
    let written =
        report.map_or(Ok(()), |report| report.write(id.as_deref(), &result, ended.as_ref().ok(), exit));
    match &ended {
        Ok(outcome) => show(result, outcome, &order),
        Err(error) => show_nothing(result, error, order.options.output),
    }
    match written {
        Ok(()) => Ok(exit),
        Err(error) => {
            complain(&error);
            Ok(if exit == Exit::Done { Exit::from(&error) } else { exit })
        }
    }
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
pub(super) fn ends(servers: &Servers) -> Result<(Conninfo, Conninfo)> {
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

/// The result of databases that were at least begun.
fn whole(outcome: &ClusterOutcome, passwords: Passwords, options: &Options) -> MigrateResult {
    let several = outcome.databases.len() > 1;
    let of = |moved: &Moved, warning: &String| match several {
        true => format!("{}: {warning}", moved.pair.source),
        false => warning.clone(),
    };
    let warnings = outcome.databases.iter().flat_map(|moved| {
        let warnings = moved.ended.iter().flat_map(|outcome| &outcome.warnings);
        warnings.chain(&moved.warnings).map(move |warning| of(moved, warning))
    });
    let databases: Vec<DatabaseResult> =
        outcome.databases.iter().map(|moved| entry(moved, options)).collect();
    let failed = |moved: &Moved| {
        moved.ended.as_ref().err().filter(|error| error.kind() != ErrorKind::Cancelled).map(Failure::from)
    };
    MigrateResult {
        status: Status::worst(databases.iter().map(|database| database.status)),
        roles: outcome.roles.iter().map(|carried| role(carried, passwords)).collect(),
        warnings: warnings.chain(outcome.warnings.iter().cloned()).collect(),
        error: outcome.databases.iter().find_map(failed),
        databases,
    }
}

/// Whether passwords that were made up are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passwords {
    Shown,
    Hidden,
}

fn role(carried: &CarriedRole, passwords: Passwords) -> RoleResult {
    let password = carried.placeholder.as_ref().filter(|_| passwords == Passwords::Shown);
    RoleResult {
        rolname: carried.name.clone(),
        status: match carried.status {
            schema::RoleStatus::Created => RoleStatus::Created,
            schema::RoleStatus::Exists => RoleStatus::Exists,
            schema::RoleStatus::Failed => RoleStatus::Failed,
            schema::RoleStatus::Skipped => RoleStatus::Skipped,
        },
        message: carried.message.clone(),
        rolpassword: password.map(|password| password.reveal().to_owned()),
    }
}

/// One database; without figures if it did not get there: they are on the target, for the next run to count on.
fn entry(moved: &Moved, options: &Options) -> DatabaseResult {
    let name = moved.pair.source.as_str();
    let method = Method::from(moved.method.unwrap_or_else(|| expected(options)));
    match &moved.ended {
        Ok(outcome) => {
            let position = outcome.position;
            let (status, message) = match outcome.ended {
                Ended::Stopped => (Status::Done, None),
                Ended::CaughtUp => (
                    Status::Done,
                    Some(format!(
                        "everything up to {position} is on the target; the slot stays, and the same command goes on"
                    )),
                ),
                Ended::Interrupted => (
                    Status::Running,
                    Some(format!("applied up to {position}; run the same command again to go on from there")),
                ),
            };
            let decided = outcome.decided_by.as_ref().map(|decisive| {
                let migrate::Decisive { check, message } = decisive;
                format!("moved by a plain dump, not by replication, because of [{check}]: {message}")
            });
            let figures = &outcome.figures;
            DatabaseResult {
                method,
                tables: figures.tables,
                rows_copied: figures.rows_copied,
                bytes_copied: figures.bytes_copied,
                transactions_applied: figures.transactions_applied,
                changes_applied: figures.changes_applied,
                lag_bytes: (method == Method::Replication).then_some(figures.lag_bytes),
                seconds: figures.elapsed.as_secs_f64(),
                ..DatabaseResult::short(name, status, decided.or(message))
            }
        }
        Err(error) => {
            let (status, message) = unfinished(error);
            let seconds = moved.elapsed.as_secs_f64();
            DatabaseResult { method, seconds, ..DatabaseResult::short(name, status, Some(message)) }
        }
    }
}

fn unfinished(error: &Error) -> (Status, String) {
    match error.kind() {
        ErrorKind::Cancelled => (
            Status::Cancelled,
            "interrupted before the target was in step; run the same command again to go on".to_owned(),
        ),
        _ => (Status::Failed, describe(error)),
    }
}

/// The result of an order that came to no database.
fn nothing(error: &Error, order: &Order) -> (MigrateResult, Exit) {
    let (status, message) = unfinished(error);
    let pairs = match &order.wanted {
        Wanted::One(pair) => std::slice::from_ref(pair),
        Wanted::Named(pairs) => pairs.as_slice(),
        Wanted::All { .. } => &[],
    };
    let method = Method::from(expected(&order.options));
    let short =
        |name: &str| DatabaseResult { method, ..DatabaseResult::short(name, status, Some(message.clone())) };
    let result = MigrateResult {
        status,
        roles: Vec::new(),
        databases: pairs.iter().map(|pair| short(&pair.source)).collect(),
        warnings: Vec::new(),
        error: (status == Status::Failed).then(|| Failure::from(error)),
    };
    let exit = match status {
        Status::Cancelled => exit_of_cancelled(expected(&order.options), &order.options.ending),
        _ => Exit::from(error),
    };
    (result, exit)
}

/// What went wrong, for people on stderr, then the result; the document says both.
fn show(mut result: MigrateResult, outcome: &ClusterOutcome, order: &Order) {
    let alone = matches!(order.wanted, Wanted::One(_));
    for moved in &outcome.databases {
        match &moved.ended {
            Err(error) if error.kind() != ErrorKind::Cancelled => {
                if alone {
                    complain(error)
                } else {
                    complain_of(&moved.pair.source, error)
                }
            }
            Ok(_) | Err(_) => {}
        }
    }
    if order.options.output == Output::Human {
        if alone && result.status == Status::Failed {
            return;
        }
        // Its message stands above, with what to do about it.
        for database in result.databases.iter_mut().filter(|database| database.status == Status::Failed) {
            database.message = None;
        }
    }
    tell(&result, order.options.output);
}

fn show_nothing(result: MigrateResult, error: &Error, output: Output) {
    if result.status == Status::Failed {
        complain(error);
        if output == Output::Human {
            return;
        }
    }
    tell(&result, output);
}

/// One way to end for all is that way; else, unless all is well, it is a failure.
fn exit_of_all(databases: &[Moved], options: &Options) -> Exit {
    let mut exits = databases.iter().map(|moved| match &moved.ended {
        Ok(outcome) => exit_of(outcome.ended, &options.ending),
        Err(error) if error.kind() == ErrorKind::Cancelled => {
            exit_of_cancelled(moved.method.unwrap_or_else(|| expected(options)), &options.ending)
        }
        Err(error) => Exit::from(error),
    });
    let first = exits.next().unwrap_or(Exit::Done);
    if exits.all(|exit| exit == first) { first } else { Exit::Failed }
}

/// The method of a database that did not come so far that it was decided.
fn expected(options: &Options) -> migrate::Method {
    match options.method_wanted() {
        MethodChoice::Dump => migrate::Method::Dump,
        MethodChoice::Auto | MethodChoice::Fallback | MethodChoice::Replication => {
            migrate::Method::Replication
        }
    }
}

fn exit_of_cancelled(method: migrate::Method, wanted: &Ending) -> Exit {
    match method {
        // Half a dump is not what anyone asked for.
        migrate::Method::Dump => Exit::Failed,
        migrate::Method::Replication => exit_of(Ended::Interrupted, wanted),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn order(method: MethodChoice) -> Order {
        let conninfo = |name| Conninfo::resolve(name, &Environment::from_process()).unwrap();
        let options = Options::new(conninfo("host=a user=u dbname=d"), conninfo("host=b user=u dbname=d"));
        Order::one(Options { method, ..options })
    }

    #[test]
    fn a_dump_that_was_interrupted_is_no_success_however_early() {
        let cancelled = Error::new(ErrorKind::Cancelled, "stop");
        for (method, named, exit) in [
            (MethodChoice::Dump, Method::Dump, Exit::Failed),
            (MethodChoice::Auto, Method::Replication, Exit::Done),
        ] {
            let order = order(method);
            let (result, ended) = nothing(&cancelled, &order);
            assert_eq!((result.databases[0].method, ended), (named, exit));
            let moved = Moved {
                pair: crate::migrate::cluster::Pair { source: "d".to_owned(), target: "d".to_owned() },
                method: None,
                ended: Err(Error::new(ErrorKind::Cancelled, "stop")),
                phases: Vec::new(),
                elapsed: std::time::Duration::ZERO,
                warnings: Vec::new(),
            };
            assert_eq!(entry(&moved, &order.options).method, named);
            assert_eq!(exit_of_all(&[moved], &order.options), exit);
        }
    }
}
