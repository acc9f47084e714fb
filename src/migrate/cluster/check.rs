//! The checks of every database of an order, in one report.
//!
//! Hazard: a database that the target lacks is checked by way of another one there, whose content and rights
//! are not its own: what that says of content is left out, what it says of the server counts.

use futures_util::{StreamExt as _, stream};

use super::Order;
use super::choice::Wanted;
use super::create::Creation;
use super::survey::{Stand, Standing, Survey, survey};
use crate::error::{Error, ErrorKind, Result, Side, describe};
use crate::pg::{Conninfo, Identifier};
use crate::precheck::{self, CheckOptions, Outcome, Report, Resuming, Verdict};

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
pub async fn check(order: &Order) -> Result<Report> {
    let survey = survey(order).await?;
    let reports = reports(order, &survey).await;
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

/// The checks of every database, in their order.
async fn reports(order: &Order, survey: &Survey) -> Vec<Result<Report>> {
    let checks = survey.stands.iter().map(|stand| check_one(order, &survey.target, stand));
    stream::iter(checks).buffered(CHECKS_AT_ONCE).collect().await
}

/// Checks one database; `lobby` is where the target is asked while it lacks the database.
pub(super) async fn check_one(order: &Order, lobby: &Conninfo, stand: &Stand) -> Result<Report> {
    if let Some(error) = stand.refusal() {
        return Err(error);
    }
    let resuming = match stand.progress {
        Standing::Begun(_) => Resuming::Yes,
        Standing::Missing | Standing::Untouched => Resuming::No,
    };
    let identity = order.options.identity.read()?;
    let options = CheckOptions { resuming, identity, ..CheckOptions::default() };
    let outcome = |id, verdict, message: String, fix| Outcome {
        id,
        database: stand.pair.source.clone(),
        verdict,
        message,
        fix,
    };
    let name = Identifier::new(stand.pair.target.as_str());
    let create = || format!("CREATE DATABASE {name} TEMPLATE template0;");
    let (target, on_target) = match (stand.progress, order.creation) {
        (Standing::Missing, Creation::Missing) => (
            lobby,
            outcome(TARGET_DATABASES, Verdict::Pass, format!("database {name} will be created"), None),
        ),
        (Standing::Missing, Creation::Never) => {
            let message =
                format!("the target has no database {name}, and --no-createdb keeps us from creating it");
            (lobby, outcome(TARGET_DATABASES, Verdict::Block, message, Some(create())))
        }
        (Standing::Untouched | Standing::Begun(_), _) => {
            let message = format!("database {name} on the target is reached");
            (&stand.target, outcome(TARGET_DATABASES, Verdict::Pass, message, None))
        }
    };
    let report = precheck::check(&stand.source, target, &options).await?;
    let message = "the database on the source is reached".to_owned();
    let mut checks = vec![outcome(SOURCE_DATABASES, Verdict::Pass, message, None), on_target];
    let matters = |id: &str| stand.progress != Standing::Missing || !OF_CONTENT.contains(&id);
    checks.extend(report.checks.into_iter().filter(|outcome| matters(outcome.id)));
    Ok(Report::new(checks))
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
