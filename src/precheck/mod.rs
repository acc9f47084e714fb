//! Everything that can stop a migration, looked at before it starts.
//!
//! Hazard: what is found at hour six could have been found at second two. And a check that guesses is
//! worse than none: where we could not look the verdict is `unknown`, never `pass`.
//!
//! Facts are read once from both ends ([`facts`]), verdicts are plain functions over them, listed in one
//! table ([`CHECKS`]), and the [`Report`] is for people and machines alike. To add a check: read its fact in
//! `load`, write its function where its neighbours are, and add one line to `table`.
//!
//! | file | |
//! |---|---|
//! | `options`, `connect`, `facts`, `load`, `trial` | what was chosen, and what is read or tried |
//! | `server` | both clusters: identity, version, encoding, connections |
//! | `stream` | WAL level, slots, rights, open transactions |
//! | `identity` | tables that cannot tell their rows apart |
//! | `content` | what may not be read, and what the stream does not carry |
//! | `cut` | what needs something that is left behind |
//! | `foreign_key` | foreign keys that lead out of what is moved |
//! | `target` | whether the target can take it |
//! | `table`, `report` | the table of checks; its outcome |
//! | `method` | replication or dump |

mod connect;
mod content;
mod cut;
pub mod facts;
mod foreign_key;
mod identity;
mod load;
mod method;
mod options;
mod provider;
mod report;
mod server;
mod stream;
mod table;
mod target;
#[cfg(test)]
mod testing;
mod trial;

pub use connect::explain;
pub use load::load;
pub use method::{Decision, MethodChoice, decide};
pub use options::{CheckOptions, FullIdentity, IdentityChoice, Method, Resuming};
pub use provider::Provider;
pub use report::{Outcome, Report, Verdict};
pub use table::{CHECKS, Check, Finding, Scope, judge};

use crate::error::Result;
use crate::pg::Conninfo;

/// Checks whether the source's database can be moved into the target's.
///
/// # Errors
/// `Connect` or `Auth` if an end is not reached: nothing was checked then. `Usage` if an option names no
/// table.
pub async fn check(source: &Conninfo, target: &Conninfo, options: &CheckOptions) -> Result<Report> {
    Ok(judge(&load(source, target, options).await?))
}

/// [`check`], for whichever method the choice and the facts come to.
///
/// # Errors
/// As [`check`].
pub async fn check_and_decide(
    source: &Conninfo,
    target: &Conninfo,
    options: &CheckOptions,
    choice: MethodChoice,
) -> Result<Decision> {
    let method = if choice == MethodChoice::Dump { Method::Dump } else { Method::Replication };
    Ok(decide(&load(source, target, &CheckOptions { method, ..options.clone() }).await?, choice))
}
