//! Waits where the source's definitions have left the target's behind, and goes on when they are even again.
//!
//! Hazards:
//! - DDL is not in the stream (P25). The first change that the target has no place for ends the stream before
//!   it is applied; nothing beyond is confirmed, and a new stream brings it again.
//! - The source keeps its WAL meanwhile (P16): the wait is shown, in a metric and to whoever asks, and the slot
//!   is looked after.
//! - An ALTER of ours must not lose what an operator would have seen. Only what adds is done by itself, and
//!   only with `--auto-ddl additive`; each statement is named in the result.
//!
//! ```text
//!   stream ─▶ drift ─▶ find ─▶ nothing lacks ──────────────────▶ stream
//!                       ▲        │ additive: run it ─┐
//!                       ╰────────┼───────────────────╯
//!                       ╰─ look ◀╯ else: tell, and wait for the catalogs to change
//! ```

mod amend;
mod find;
mod partition;

use std::time::{Duration, Instant};

use self::amend::{Reach, Step};
use self::find::{Subject, find};
pub(super) use self::partition::adopt_new;
use super::config::AutoDdl;
use super::run::Run;
use super::selection::select;
use super::shutdown::Shutdown;
use super::spooling::meanwhile;
use super::{follow, state};
use crate::bulk::ledger;
use crate::catalog::Catalog;
use crate::error::{Error, Result, describe};
use crate::pg::{Lsn, QualifiedName};
use crate::telemetry::Readiness;
use crate::wire::Session;

/// Between two looks at the catalogs.
const LOOK: Duration = Duration::from_secs(1);

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// The change can be tried again.
    GoOn,
    /// The operator wanted to stop.
    Interrupted,
}

/// What was tried again without anything having been done: a second time it is an error.
#[derive(Debug, Default)]
pub(super) struct Tried(Option<(Lsn, String)>);

/// Sees to what `error` lacks, if it comes from DDL on the source; waits for the operator where it must.
///
/// # Errors
/// `error` itself, if it comes from something else; `Connect` while a server is away, `Slot` if the source has
/// removed the WAL in the meantime.
pub(super) async fn settle(
    run: &Run,
    stop: &mut Shutdown,
    tried: &mut Tried,
    error: Error,
) -> Result<Settled> {
    let Some(subject) = Subject::of(&error) else { return Err(error) };
    let mut steps = find(run, &subject).await?;
    if steps.is_empty() {
        let again = (follow::position(run).await?, describe(&error));
        if matches!(subject, Subject::Refused) || tried.0.as_ref() == Some(&again) {
            return Err(error);
        }
        tried.0 = Some(again);
        return Ok(Settled::GoOn);
    }
    let waiting = Waiting::begin(run);
    let mut told = String::new();
    let mut refused: Option<(Vec<Step>, String)> = None;
    loop {
        if steps.is_empty() {
            run.progress.note("the two ends fit again; going on");
            tracing::info!("definitions fit again");
            return Ok(Settled::GoOn);
        }
        let before = look(run, &subject).await?;
        let is_additive = steps.iter().all(|step| step.reach == Reach::Additive);
        let is_new = refused.as_ref().is_none_or(|(tried, _)| *tried != steps);
        if run.options.auto_ddl == AutoDdl::Additive && is_additive && is_new {
            match amend(run, &steps).await {
                Ok(()) => {
                    steps = find(run, &subject).await?;
                    continue;
                }
                Err(error) if run.target.is_closed() => return Err(error),
                Err(error) => refused = Some((steps.clone(), describe(&error))),
            }
        }
        let text = tell(&subject, &steps, refused.as_ref().map(|(_, why)| why.as_str()));
        if text != told {
            waiting.tell(&text).await?;
            told = text;
        }
        let changed = meanwhile(run, until_changed(run, &subject, &before));
        tokio::select! {
            biased;
            () = stop.requested() => return Ok(Settled::Interrupted),
            changed = changed => changed?,
        }
        steps = find(run, &subject).await?;
    }
}

/// The wait, for all to see as long as it lasts.
struct Waiting<'a>(&'a Run);

impl Waiting<'_> {
    fn begin(run: &Run) -> Waiting<'_> {
        run.metrics.waiting_for_operator(true);
        run.health.set_readiness(Readiness::Waiting);
        Waiting(run)
    }

    async fn tell(&self, text: &str) -> Result<()> {
        let Waiting(run) = self;
        run.progress.warn(text);
        // `status` shows it until something is applied again.
        state::note_error(&run.target, text).await
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Waiting(run) = self;
        run.metrics.waiting_for_operator(false);
        run.health.set_readiness(Readiness::Behind);
    }
}

fn tell(subject: &Subject, steps: &[Step], refused: Option<&str>) -> String {
    let of = subject.table().map_or_else(|| "a type".to_owned(), |table| format!("table {}", table.plain()));
    let steps: Vec<String> = steps.iter().map(|step| format!("  {step}")).collect();
    let refused = refused.map(|why| format!("\n  tried, and refused: {why}")).unwrap_or_default();
    format!(
        "waiting for the operator: {of} has changed on the source, and the target needs the same before changes can \
         be applied. Run on the target:\n{}{refused}\n  It goes on by itself once that is done; until then changes wait on the source, as WAL, or spooled here",
        steps.join("\n")
    )
}

/// Runs the statements, each by itself, and names them in the result.
async fn amend(run: &Run, steps: &[Step]) -> Result<()> {
    let failed = |error| Error::from_postgres("bring the target's definitions up to the source's", error);
    let timeout = format!("SET lock_timeout = '{}ms'", run.options.lock_timeout.as_millis());
    run.target.batch_execute(&timeout).await.map_err(failed)?;
    let mut done = Ok(());
    for step in steps {
        // What one step makes it makes whole; a new enum value needs a statement of its own before 12.
        let all = step.statements.join("; ");
        tracing::info!(statement = %all, "altering the target");
        done = run.target.batch_execute(&all).await.map_err(failed);
        if done.is_err() {
            break;
        }
        run.warn(&format!("{}; done on the target: {all}", step.why)).await?;
    }
    run.target.batch_execute("SET lock_timeout = 0").await.map_err(failed)?;
    done
}

/// Waits until either end's definitions are other than `before`.
async fn until_changed(run: &Run, subject: &Subject, before: &[String; 2]) -> Result<()> {
    loop {
        // Nothing announces DDL to us: time is what there is to wait for.
        tokio::time::sleep(LOOK).await;
        run.health.beat(Instant::now());
        if look(run, subject).await? != *before {
            return Ok(());
        }
    }
}

async fn look(run: &Run, subject: &Subject) -> Result<[String; 2]> {
    let table = subject.table().map_or_else(String::new, |name| name.to_string());
    Ok([look_at(&run.source, &table).await?, look_at(&run.target, &table).await?])
}

/// A text that changes with the table's definition and with any enum's, and costs no more than they are large.
async fn look_at(session: &Session, table: &str) -> Result<String> {
    let row = session
        .query_one(
            "SELECT concat(
               (SELECT string_agg(concat_ws(' ', a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull), ',' ORDER BY a.attnum)
                  FROM pg_catalog.pg_attribute a
                 WHERE a.attrelid = to_regclass(nullif($1::text, '')) AND a.attnum > 0 AND NOT a.attisdropped),
               (SELECT concat(';', c.oid, c.relispartition) FROM pg_catalog.pg_class c WHERE c.oid = to_regclass(nullif($1::text, ''))),
               (SELECT concat(';', string_agg(concat(i.indexrelid, i.indisvalid), ',' ORDER BY i.indexrelid))
                  FROM pg_catalog.pg_index i WHERE i.indrelid = to_regclass(nullif($1::text, ''))),
               (SELECT concat(';', count(*), ' ', sum(hashtext(e.enumlabel::text)::int8)) FROM pg_catalog.pg_enum e))",
            &[&table],
        )
        .await
        .map_err(|error| Error::from_postgres("look whether the definitions have changed", error))?;
    Ok(row.get(0))
}

/// Names tables that were made on the source since, and that no stream carries (P27).
pub(super) async fn warn_of_new_tables(run: &Run, source: &Catalog) -> Result<()> {
    let ledger = ledger::read(&run.target).await?;
    let moved = select(source, &run.wishes(source)?).moved;
    let new: Vec<&QualifiedName> = moved.iter().filter(|name| !ledger.contains_key(*name)).collect();
    let published = super::open::published(run).await?;
    for name in new.into_iter().filter(|name| !published.contains(name)) {
        run.warn(&format!(
            "table {} was made on the source after the migration began: neither its definition nor its rows are \
             carried",
            name.plain()
        ))
        .await?;
    }
    Ok(())
}
