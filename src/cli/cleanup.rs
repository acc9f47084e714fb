//! `pgstream cleanup`: what was found and what became of it, for people and for scripts.

use super::args::CleanupArgs;
use super::command::{end, print};
use super::exit::Exit;
use super::misuse::Misuse;
use super::watch::Watch;
use crate::error::Result;
use crate::migrate::{self, CleanupFate, CleanupOptions, CleanupReport, CleanupWanted, Engines, Output};
use crate::telemetry::Side;
use crate::telemetry::text;

/// Runs it.
pub(super) async fn cleanup(args: CleanupArgs, directives: Option<String>) -> Result<Exit> {
    let dsns = args.servers.some_dsns(|name| std::env::var(name).ok())?;
    if dsns.0.is_none() && dsns.1.is_none() {
        return Err(Misuse::NoServerAtAll.into());
    }
    let options = CleanupOptions {
        source: dsns.0.map(|dsn| end(&dsn, Side::Source)).transpose()?,
        target: dsns.1.map(|dsn| end(&dsn, Side::Target)).transpose()?,
        wanted: if args.dry_run { CleanupWanted::List } else { CleanupWanted::Removal },
        engines: if args.force { Engines::End } else { Engines::Respect },
    };
    let watch = Watch::start(&args.talk, directives, None).await?;
    let report = migrate::cleanup(&options).await;
    watch.finish().await;
    match args.talk.output() {
        Output::Human => eprint!("{}", lines(&report)),
        Output::Json => print(&serde_json::to_string(&report).expect("plain data always serializes")),
    }
    Ok(if report.ok { Exit::Done } else { Exit::Failed })
}

/// A table of what was found, then what went wrong.
fn lines(report: &CleanupReport) -> String {
    let rows: Vec<[String; 5]> = report
        .found
        .iter()
        .map(|item| {
            let status = match item.status {
                CleanupFate::Found => "found",
                CleanupFate::Removed => "removed",
                CleanupFate::Kept => "kept",
                CleanupFate::Remains => "REMAINS",
            };
            let words = [item.side.label(), &item.database, item.kind.label(), &item.name, status];
            words.map(|word| text::printable(word).into_owned())
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3)];
    let mut lines = String::new();
    for (row, item) in rows.iter().zip(&report.found) {
        for (cell, width) in row.iter().zip(widths) {
            lines += &format!("{cell:width$}  ");
        }
        lines += &row[4];
        if let Some(message) = &item.message {
            lines += &format!(": {}", text::printable(message));
        }
        lines.push('\n');
    }
    for trouble in &report.errors {
        let database = trouble.database.as_ref().map(|name| format!(" database {name}")).unwrap_or_default();
        let message = format!("{}{database}: {}", trouble.side.label(), trouble.message);
        lines += &format!("error: {}\n", text::printable(&message));
        if let Some(hint) = &trouble.hint {
            lines += &format!("hint: {}\n", text::printable_lines(hint, "      "));
        }
    }
    if report.found.is_empty() && report.errors.is_empty() {
        lines += "nothing of pgstream's is there\n";
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::{CleanupItem, CleanupKind, CleanupTrouble};

    fn item(name: &str, status: CleanupFate, message: Option<&str>) -> CleanupItem {
        CleanupItem {
            side: Side::Source,
            database: "shop".to_owned(),
            kind: CleanupKind::Slot,
            name: name.to_owned(),
            migration: None,
            status,
            message: message.map(str::to_owned),
        }
    }

    #[test]
    fn nothing_found_is_said() {
        assert_eq!(lines(&CleanupReport::default()), "nothing of pgstream's is there\n");
    }

    #[test]
    fn every_thing_has_its_line_and_every_trouble_its_advice() {
        let report = CleanupReport {
            found: vec![
                item("pgstream_0123abcd", CleanupFate::Removed, None),
                item("p\u{1b}[2J", CleanupFate::Remains, Some("in use")),
            ],
            errors: vec![CleanupTrouble {
                side: Side::Target,
                database: None,
                message: "no answer".to_owned(),
                hint: Some("Start it.".to_owned()),
            }],
            ..CleanupReport::default()
        };
        assert_eq!(
            lines(&report),
            "source  shop  slot  pgstream_0123abcd  removed\n\
             source  shop  slot  p [2J              REMAINS: in use\n\
             error: target: no answer\nhint: Start it.\n"
        );
    }
}
