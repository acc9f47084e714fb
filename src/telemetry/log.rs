//! Logs on stderr, as text or JSON, every line with the migration it belongs to.
//!
//! Hazard: libraries below us print bound parameters at DEBUG, and those are column values. So nothing but
//! pgstream's own events passes below WARN, whatever `PGSTREAM_LOG` asks for.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, OnceLock};

use tracing::{Level, Subscriber};
use tracing_subscriber::filter::{EnvFilter, FilterExt, FilterFn};
use tracing_subscriber::fmt::format::{DefaultFields, Format, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

use super::progress::Progress;
use crate::error::{Error, ErrorKind, Result};

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// How much is said on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Verbosity {
    /// Warnings and errors; no progress.
    Quiet,
    /// Progress, warnings and errors.
    #[default]
    Normal,
    /// Phase edges and reconnects.
    Info,
    /// Per transaction and per table.
    Debug,
    /// Everything.
    Trace,
}

impl Verbosity {
    /// The level of pgstream's own events. Progress travels as INFO events when the log is JSON.
    fn level(self, format: LogFormat) -> Level {
        match (self, format) {
            (Verbosity::Quiet, _) | (Verbosity::Normal, LogFormat::Text) => Level::WARN,
            (Verbosity::Normal, LogFormat::Json) | (Verbosity::Info, _) => Level::INFO,
            (Verbosity::Debug, _) => Level::DEBUG,
            (Verbosity::Trace, _) => Level::TRACE,
        }
    }
}

/// What the log needs to know.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Text or JSON.
    pub format: LogFormat,
    /// How much.
    pub verbosity: Verbosity,
    /// `PGSTREAM_LOG`: directives that replace the verbosity, such as `pgstream::apply=debug`.
    pub directives: Option<String>,
}

/// Names the migration that lines belong to, once it is known.
#[derive(Debug, Clone, Default)]
pub struct MigrationId {
    id: Arc<OnceLock<String>>,
}

impl MigrationId {
    /// Sets the id that every line from now on carries. The first one stays.
    pub fn set(&self, id: &str) {
        // A process runs one migration: a second name would tear its log in two.
        let _ = self.id.set(id.to_owned());
    }

    /// The id, once it is known.
    #[must_use]
    pub fn get(&self) -> Option<&str> {
        self.id.get().map(String::as_str)
    }
}

/// Starts logging for the whole process, in step with the progress on the same screen. Called once.
///
/// # Errors
/// [`ErrorKind::Usage`] if the directives make no sense; [`ErrorKind::Bug`] if called twice.
pub fn init(options: &LogOptions, progress: &Progress) -> Result<MigrationId> {
    let id = MigrationId::default();
    let subscriber = subscriber(options, id.clone(), Stderr(progress.clone()))?;
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|error| Error::new(ErrorKind::Bug, "start logging").because(error))?;
    Ok(id)
}

fn subscriber<W>(options: &LogOptions, id: MigrationId, writer: W) -> Result<impl Subscriber>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let level = options.verbosity.level(options.format);
    let directives = options.directives.clone().unwrap_or_else(|| format!("warn,pgstream={level}"));
    let wanted = EnvFilter::builder().parse(directives).map_err(|error| {
        Error::new(ErrorKind::Usage, "read PGSTREAM_LOG")
            .hint("Write a level, or directives such as `pgstream=info,pgstream::apply=debug`.")
            .because(error)
    })?;
    let ours = FilterFn::new(|metadata| {
        let target = metadata.target();
        target == "pgstream" || target.starts_with("pgstream::") || *metadata.level() <= Level::WARN
    });
    let format = Format::default().with_ansi(false);
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer);
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match options.format {
        LogFormat::Text => layer
            .fmt_fields(DefaultFields::new())
            .event_format(Labelled { inner: format, label: Label::Suffix, id })
            .with_filter(wanted.and(ours))
            .boxed(),
        LogFormat::Json => layer
            .fmt_fields(JsonFields::new())
            .event_format(Labelled { inner: format.json().flatten_event(true), label: Label::Member, id })
            .with_filter(wanted.and(ours))
            .boxed(),
    };
    Ok(tracing_subscriber::registry().with(layer))
}

/// Where the id goes in a line.
#[derive(Clone, Copy)]
enum Label {
    /// ` migration_id=…` at the end.
    Suffix,
    /// `"migration_id":"…"`, the object's first member.
    Member,
}

/// Another format, with the migration's id put into each line.
///
/// A span would do, if every task and thread of ours were inside it; a line from outside would go unnamed.
struct Labelled<F> {
    inner: F,
    label: Label,
    id: MigrationId,
}

impl<S, N, F> FormatEvent<S, N> for Labelled<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> fmt::Result {
        let Some(id) = self.id.id.get() else {
            return self.inner.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.inner.format_event(context, Writer::new(&mut line), event)?;
        let line = line.trim_end();
        match (self.label, line.strip_prefix('{')) {
            (Label::Member, Some(members)) => {
                let id = serde_json::Value::from(id.as_str());
                writeln!(writer, "{{\"migration_id\":{id},{members}")
            }
            (Label::Suffix | Label::Member, _) => writeln!(writer, "{line} migration_id={id}"),
        }
    }
}

/// stderr, with the bars out of the way. The layer writes a whole line at a time.
struct Stderr(Progress);

impl<'w> MakeWriter<'w> for Stderr {
    type Writer = StderrLine<'w>;

    fn make_writer(&'w self) -> StderrLine<'w> {
        StderrLine(&self.0)
    }
}

struct StderrLine<'w>(&'w Progress);

impl Write for StderrLine<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().lock().write_all(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// What `emit` logs under the options.
    fn logged(options: &LogOptions, id: &MigrationId, emit: fn()) -> String {
        let buffer = Arc::new(Mutex::new(Vec::new()));
        let writer = {
            let buffer = Arc::clone(&buffer);
            move || Memory(Arc::clone(&buffer))
        };
        tracing::subscriber::with_default(subscriber(options, id.clone(), writer).unwrap(), emit);
        let bytes = buffer.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn named(id: &str) -> MigrationId {
        let migration = MigrationId::default();
        migration.set(id);
        migration
    }

    fn chatter() {
        tracing::debug!(target: "tokio_postgres", parameters = "['secret value']", "executing");
        tracing::trace!(target: "rustls::client", "hello");
        tracing::warn!(target: "hyper", "theirs at warn");
        let span = tracing::info_span!("phase", phase = "copying");
        span.in_scope(|| tracing::info!(lsn = "0/1", "ours at info"));
        tracing::debug!("ours at debug");
    }

    #[test]
    fn every_text_line_names_the_migration() {
        let options = LogOptions { verbosity: Verbosity::Debug, ..LogOptions::default() };
        let text = logged(&options, &named("m1"), chatter);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.lines().all(|line| line.ends_with(" migration_id=m1")), "{text}");
        assert!(text.contains("ours at info") && text.contains("lsn=\"0/1\""), "{text}");
        assert!(text.contains("phase{phase=\"copying\"}"), "{text}");
    }

    #[test]
    fn every_json_line_is_an_object_that_names_the_migration() {
        let options = LogOptions { format: LogFormat::Json, ..LogOptions::default() };
        let text = logged(&options, &named("m\"1"), chatter);
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines.iter().all(|line| line["migration_id"] == "m\"1"), "{text}");
        assert_eq!(lines[1]["message"], "ours at info");
        assert_eq!(lines[1]["lsn"], "0/1");
        assert_eq!(lines[1]["span"]["phase"], "copying");
    }

    #[test]
    fn other_crates_stay_silent_even_when_asked_for() {
        let options = LogOptions { directives: Some("trace".to_owned()), ..LogOptions::default() };
        let text = logged(&options, &MigrationId::default(), chatter);
        assert!(!text.contains("secret value") && !text.contains("rustls"), "{text}");
        assert!(text.contains("theirs at warn") && text.contains("ours at debug"), "{text}");
    }

    #[test]
    fn verbosity_sets_the_level() {
        let lines = |verbosity| {
            let options = LogOptions { verbosity, ..LogOptions::default() };
            logged(&options, &MigrationId::default(), chatter).lines().count()
        };
        assert_eq!([Verbosity::Quiet, Verbosity::Normal, Verbosity::Info].map(lines), [1, 1, 2]);
        assert_eq!([Verbosity::Debug, Verbosity::Trace].map(lines), [3, 3]);
    }

    #[test]
    fn senseless_directives_are_a_usage_error() {
        let options = LogOptions { directives: Some("pgstream=loud".to_owned()), ..LogOptions::default() };
        let error = subscriber(&options, MigrationId::default(), io::sink).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Usage);
    }
}
