//! The checks of every database of an order, in one report.
//!
//! Hazard: a database that the target lacks is checked by way of another one there, whose content and rights
//! are not its own: what that says of content is left out, what it says of the server counts, and what the
//! database will be like, once we have created it, is put in its place.

use futures_util::{StreamExt as _, stream};

use super::super::check::{self, Workplace};
use super::super::config::Options;
use super::choice::Wanted;
use super::create::Creation;
use super::survey::{Stand, Standing, survey};
use super::{Order, Roles};
use crate::catalog::WithoutMatch;
use crate::error::{Error, ErrorKind, Result, Side, describe};
use crate::pg::{Conninfo, Identifier};
use crate::precheck::facts::{Facts, SourceFacts};
use crate::precheck::{
    self, CheckOptions, Globals, MethodChoice, Others, Outcome, Report, Resuming, Verdict,
};

/// Whether each database of the source lets us in.
const SOURCE_DATABASES: &str = "source-databases";
/// Whether each database of the target lets us in, or can be created.
const TARGET_DATABASES: &str = "target-databases";
/// Checks of what a database holds, which one to be created does not hold yet.
const OF_CONTENT: [&str; 3] = ["target-empty", "target-rights", "encoding"];
/// Databases checked at once; each check tries a slot of its own on the source.
const CHECKS_AT_ONCE: usize = 4;

/// Checks whether the order can be carried out; changes nothing.
///
/// # Errors
/// `Connect` or `Auth` if a server is not reached, `Usage` for a choice that cannot be met.
/// # Cancel safety
/// A scratch database is dropped before the call gives way.
pub async fn check(order: &Order) -> Result<Report> {
    let survey = survey(order).await?;
    let looked = looks(order, &survey.target, survey.stands.iter().collect()).await?;
    let reports = looked.into_iter().map(|looked| looked.map(|looked| looked.report));
    let alone = matches!(order.wanted, Wanted::One(_));
    let mut joined = Vec::new();
    for (stand, report) in survey.stands.iter().zip(reports) {
        joined.push(match report {
            Ok(report) => report,
            // Of several databases one that is not reached is a finding; alone it is the end.
            Err(error) if !alone && matches!(error.kind(), ErrorKind::Connect | ErrorKind::Auth) => {
                Report::new(vec![unreached(stand, &error)])
            }
            Err(error) => return Err(error),
        });
    }
    Ok(Report::join(joined))
}

/// What one database's checks come to, and what they saw of the source.
pub(super) struct Looked {
    pub(super) report: Report,
    pub(super) source: SourceFacts,
}

/// The checks of these databases, in their order; `lobby` is where the target is asked for one that it lacks.
///
/// # Errors
/// `Usage` for a filter that names nothing in any of them.
pub(super) async fn looks(
    order: &Order,
    lobby: &Conninfo,
    stands: Vec<&Stand>,
) -> Result<Vec<Result<Looked>>> {
    let looks = stands.iter().map(|stand| look(order, lobby, stand));
    let mut looked: Vec<Result<Look>> = stream::iter(looks).buffered(CHECKS_AT_ONCE).collect().await;
    named_somewhere(order, &looked)?;
    let sizes: Vec<u64> = looked.iter().flatten().map(|look| look.facts.bytes()).collect();
    let (databases, bytes) = (u32::try_from(sizes.len()).unwrap_or(u32::MAX), sizes.iter().sum::<u64>());
    for look in looked.iter_mut().flatten() {
        // They draw on the same slots, connections and disk.
        let others = Others { databases: databases - 1, bytes: bytes - look.facts.bytes() };
        look.facts.choices.others = others;
    }
    let choice = order.options.method_wanted();
    Ok(looked.into_iter().map(|look| look.map(|look| look.judge(choice))).collect())
}

/// A filter must name something in one database at least, unless one of them could not be looked into.
fn named_somewhere(order: &Order, looked: &[Result<Look>]) -> Result<()> {
    let mut unnamed: Option<Vec<WithoutMatch>> = None;
    for look in looked {
        let Ok(look) = look else { return Ok(()) };
        let here = order.options.filters.without_match(&look.facts.source.catalog);
        unnamed = Some(match unnamed {
            None => here,
            Some(unnamed) => unnamed.into_iter().filter(|selector| here.contains(selector)).collect(),
        });
    }
    match unnamed.into_iter().flatten().next() {
        Some(selector) => Err(selector.into_error("any database")),
        None => Ok(()),
    }
}

/// What was found of one database.
struct Look {
    database: String,
    facts: Facts,
    on_target: Finding,
    /// Whether the target has the database already.
    is_there: bool,
}

/// What the list of the target's databases comes to.
struct Finding {
    verdict: Verdict,
    message: String,
    fix: Option<String>,
}

/// Looks at one database.
async fn look(order: &Order, lobby: &Conninfo, stand: &Stand) -> Result<Look> {
    if let Some(error) = stand.refusal() {
        return Err(error);
    }
    let resuming = match stand.progress {
        Standing::Begun(_) => Resuming::Yes,
        Standing::Missing | Standing::Untouched => Resuming::No,
    };
    let Options { identity, filters, checks, pgbin, work_dir, .. } = &order.options;
    let options = CheckOptions {
        resuming,
        identity: identity.read()?,
        filters: filters.clone(),
        choice: *checks,
        roles: match order.roles {
            Roles::Carry(_) => Globals::Carried,
            Roles::Leave => Globals::Left,
        },
        database_settings: Globals::Carried,
        ..CheckOptions::default()
    };
    let name = Identifier::new(stand.pair.target.as_str());
    let is_there = stand.progress != Standing::Missing;
    let target = if is_there { &stand.target } else { lobby };
    let workplace = Workplace { pgbin: pgbin.as_deref(), work_dir: work_dir.as_deref() };
    let choice = order.options.method_wanted();
    let mut facts = check::look(&stand.source, target, &options, choice, workplace).await?;
    let may = &facts.target.server.may;
    let on_target = match (is_there, order.creation) {
        (false, Creation::Missing) if !may.may_create_databases => Finding {
            verdict: Verdict::Block,
            message: format!("the target has no database {name}, and role {} may not create one", may.role),
            fix: Some(format!("ALTER ROLE {} CREATEDB;", Identifier::new(may.role.as_str()))),
        },
        (false, Creation::Missing) => {
            let message = format!("database {name} will be created");
            Finding { verdict: Verdict::Pass, message, fix: None }
        }
        (false, Creation::Never) => {
            let message =
                format!("the target has no database {name}, and --no-createdb keeps us from creating it");
            let fix = Some(format!("CREATE DATABASE {name} TEMPLATE template0;"));
            Finding { verdict: Verdict::Block, message, fix }
        }
        (true, _) => {
            let message = format!("database {name} on the target is reached");
            Finding { verdict: Verdict::Pass, message, fix: None }
        }
    };
    if !is_there {
        as_created(&mut facts);
    }
    Ok(Look { database: stand.pair.source.clone(), facts, on_target, is_there })
}

/// What was read of the lobby, made that of a database that we have created from template0 like the source's.
fn as_created(facts: &mut Facts) {
    let (source, target) = (&facts.source.server, &mut facts.target);
    target.installed.clear();
    // Who creates a database may create in it, trusted extensions included.
    target.server.may.may_create_in_database = true;
    target.server.encoding.clone_from(&source.encoding);
    target.server.surroundings.locale.clone_from(&source.surroundings.locale);
}

impl Look {
    fn judge(self, choice: MethodChoice) -> Looked {
        let Look { database, facts, on_target, is_there } = self;
        let outcome = |id, Finding { verdict, message, fix }| Outcome {
            id,
            database: database.clone(),
            verdict,
            message,
            fix,
        };
        let message = "the database on the source is reached".to_owned();
        let reached = Finding { verdict: Verdict::Pass, message, fix: None };
        let matters = |id: &str| is_there || !OF_CONTENT.contains(&id);
        let decided = precheck::decide(&facts, choice).report.checks;
        let mut checks: Vec<Outcome> = decided.into_iter().filter(|outcome| matters(outcome.id)).collect();
        // Which method it is stands first of all.
        let first = usize::from(checks.first().is_some_and(|outcome| outcome.id == precheck::METHOD));
        checks
            .splice(first..first, [outcome(SOURCE_DATABASES, reached), outcome(TARGET_DATABASES, on_target)]);
        Looked { report: Report::new(checks), source: facts.source }
    }
}

fn unreached(stand: &Stand, error: &Error) -> Outcome {
    Outcome {
        id: match error.side() {
            Some(Side::Target) => TARGET_DATABASES,
            Some(Side::Source) | None => SOURCE_DATABASES,
        },
        database: stand.pair.source.clone(),
        verdict: Verdict::Block,
        message: describe(error),
        fix: error.advice().map(str::to_owned),
    }
}
