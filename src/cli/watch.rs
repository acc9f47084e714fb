//! Sets up all that watches a run: log, progress, metrics.

use std::io::IsTerminal as _;
use std::net::SocketAddr;

use super::args::Talk;
use crate::error::Result;
use crate::telemetry::{
    Display, Exporter, Health, LogFormat, LogOptions, Metrics, MigrationId, Progress, Verbosity, init_log,
};

/// What a command hands to its engine, and ends when the engine has ended.
#[derive(Debug)]
pub struct Watch {
    /// Progress on stderr.
    pub progress: Progress,
    /// Names the migration in every log line, once it is known.
    pub migration: MigrationId,
    /// Metrics; recorded only when somebody may scrape them.
    pub metrics: Metrics,
    /// What `/healthz` and `/readyz` answer.
    pub health: Health,
    exporter: Option<Exporter>,
}

impl Watch {
    /// Starts the log for the whole process, and the exporter if it has an address. Called once.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Usage`]: `directives` make no sense, or the address cannot be had.
    pub async fn start(
        talk: &Talk,
        directives: Option<String>,
        metrics_addr: Option<SocketAddr>,
    ) -> Result<Watch> {
        let (format, verbosity) = (talk.log_format(), talk.verbosity());
        let progress = Progress::new(display(format, verbosity));
        let migration = init_log(&LogOptions { format, verbosity, directives }, &progress)?;
        if let Some(id) = &talk.migration_id {
            migration.set(id);
        }
        let exporter = match metrics_addr {
            Some(address) => Some(Exporter::start(address).await?),
            None => None,
        };
        if let Some(exporter) = &exporter {
            tracing::info!(address = %exporter.local_addr(), "metrics are served");
        }
        let metrics = exporter.as_ref().map_or_else(Metrics::off, Exporter::metrics);
        let health = exporter.as_ref().map_or_else(Health::default, Exporter::health);
        Ok(Watch { progress, migration, metrics, health, exporter })
    }

    /// Takes the bars away and frees the port.
    pub async fn finish(self) {
        self.progress.finish();
        if let Some(exporter) = self.exporter {
            exporter.shutdown().await;
        }
    }
}

fn display(format: LogFormat, verbosity: Verbosity) -> Display {
    match (format, verbosity) {
        (LogFormat::Json, _) => Display::Events,
        (LogFormat::Text, Verbosity::Quiet) => Display::Quiet,
        (LogFormat::Text, _) if std::io::stderr().is_terminal() => Display::Bars,
        (LogFormat::Text, _) => Display::Lines,
    }
}
