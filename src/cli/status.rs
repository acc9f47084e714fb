//! `pgstream status`: once, or again and again.

use std::io::Write as _;
use std::time::Duration;

use super::args::StatusArgs;
use super::command::{end, print};
use super::exit::{Exit, complain};
use super::misuse::Misuse;
use super::watch::Watch;
use crate::error::Result;
use crate::migrate::{DatabaseStatus, Look, Output, StatusOptions, look, report};
use crate::telemetry::Side;

/// Between the two looks that a rate takes, when nothing else was asked for.
const RATE_INTERVAL: Duration = Duration::from_secs(1);

/// Runs it.
pub(super) async fn status(args: StatusArgs, directives: Option<String>) -> Result<Exit> {
    let (source, target) = args.servers.some_dsns(|name| std::env::var(name).ok())?;
    let target = target.ok_or(Misuse::NoServer { side: Side::Target })?;
    let options = StatusOptions {
        source: source.map(|dsn| end(&dsn, Side::Source)).transpose()?,
        target: end(&target, Side::Target)?,
    };
    let watch = Watch::start(&args.talk, directives, None).await?;
    watch.finish().await;
    let output = args.talk.output();
    let mut before = look(&options).await?;
    match args.watch {
        None => {
            let mut now = before.clone();
            if options.source.is_some() {
                // A rate needs time to pass, and nothing else.
                tokio::time::sleep(RATE_INTERVAL).await;
                now = look(&options).await?;
            }
            show(&before, &now, output);
            Ok(Exit::Done)
        }
        Some(interval) => {
            show(&[], &before, output);
            let again = async {
                loop {
                    tokio::time::sleep(interval).await;
                    match look(&options).await {
                        Ok(now) => {
                            show(&before, &now, output);
                            before = now;
                        }
                        // Whoever watches wants to see it come back.
                        Err(error) => complain(&error),
                    }
                }
            };
            tokio::select! {
                () = again => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            Ok(Exit::Done)
        }
    }
}

fn show(before: &[Look], now: &[Look], output: Output) {
    let statuses = statuses(before, now);
    match output {
        Output::Human => {
            let lines: Vec<String> = statuses.iter().map(DatabaseStatus::lines).collect();
            // A reader that has gone away has seen enough.
            let _ = writeln!(std::io::stderr().lock(), "{}", lines.join("\n"));
        }
        Output::Json => print(&serde_json::json!({ "databases": statuses }).to_string()),
    }
}

fn statuses(before: &[Look], now: &[Look]) -> Vec<DatabaseStatus> {
    let earlier = |look: &Look| before.iter().find(|earlier| earlier.is_of_same_database(look));
    now.iter().map(|look| report(earlier(look), look)).collect()
}
