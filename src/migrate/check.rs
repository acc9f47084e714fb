//! The checks, with what only the conductor can try: this machine's tools, and the definitions on the target.

use std::path::Path;

use super::trial;
use crate::error::{ErrorKind, Result, describe};
use crate::pg::Conninfo;
use crate::precheck::facts::{Facts, SourceFacts, Trial};
use crate::precheck::{self, CheckOptions, Decision, Method, MethodChoice, TrialRestore};
use crate::schema;

/// Where the tools are, and where their files go.
#[derive(Debug, Clone, Copy, Default)]
pub struct Workplace<'a> {
    /// Where `pg_dump` and `pg_restore` are; searched for when not given.
    pub pgbin: Option<&'a Path>,
    /// Where the archive lies; a temporary directory when not given.
    pub work_dir: Option<&'a Path>,
}

/// Checks whether the source's database can be moved into the target's, tools and all, and by which method.
///
/// # Errors
/// As [`precheck::check`]; `Local` if there is no room for an archive.
/// # Cancel safety
/// A scratch database is dropped before the call gives way.
pub async fn check(
    source: &Conninfo,
    target: &Conninfo,
    options: &CheckOptions,
    choice: MethodChoice,
    workplace: Workplace<'_>,
) -> Result<Decision> {
    Ok(precheck::decide(&look(source, target, options, choice, workplace).await?, choice))
}

/// What [`check`] judges.
pub(super) async fn look(
    source: &Conninfo,
    target: &Conninfo,
    options: &CheckOptions,
    choice: MethodChoice,
    workplace: Workplace<'_>,
) -> Result<Facts> {
    let mut facts = load(source, target, options, choice, workplace, None).await?;
    facts.tools = find_tools(&facts, workplace).await?;
    Ok(facts)
}

/// The facts of both ends, with the trial if it was asked for; of the source those that were `seen` a moment ago.
pub(super) async fn load(
    source: &Conninfo,
    target: &Conninfo,
    options: &CheckOptions,
    choice: MethodChoice,
    workplace: Workplace<'_>,
    seen: Option<SourceFacts>,
) -> Result<Facts> {
    let method = if choice == MethodChoice::Dump { Method::Dump } else { Method::Replication };
    let options = CheckOptions { method, ..options.clone() };
    let mut facts = match seen {
        Some(seen) => precheck::load_beside(seen, target, &options).await?,
        None => precheck::load(source, target, &options).await?,
    };
    facts.trial_restore = match options.choice.trial_restore {
        TrialRestore::No => precheck::facts::TrialRestored::NotAsked,
        TrialRestore::Yes => trial::restore(&facts, source, target, &options.filters, workplace).await?,
    };
    Ok(facts)
}

async fn find_tools(facts: &Facts, workplace: Workplace<'_>) -> Result<Trial> {
    let (source, target) = (facts.source.server.may.version, facts.target.server.may.version);
    match schema::find_tools(workplace.pgbin, source, target).await {
        Ok(_) => Ok(Trial::Allowed),
        Err(error) if error.kind() == ErrorKind::Tool => {
            Ok(Trial::Refused { message: describe(&error), advice: error.advice().map(str::to_owned) })
        }
        Err(error) => Err(error),
    }
}
