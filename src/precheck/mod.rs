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
//! | `options`, `connect`, `load`, `trial` | what was chosen, and what is read or tried |
//! | `facts`, `objects`, `surroundings` | what was found |
//! | `server`, `route`, `locale` | both clusters: identity, version, encoding, connections; the way there |
//! | `room`, `retention` | sizes and limits |
//! | `stream` | WAL level, slots, rights, open transactions |
//! | `identity` | tables that cannot tell their rows apart |
//! | `content` | what may not be read, and what the stream does not carry |
//! | `cut` | what needs something that is left behind |
//! | `foreign_key` | foreign keys that lead out of what is moved |
//! | `constraint`, `value`, `code` | what does not travel as one would think |
//! | `target`, `extension`, `role`, `setting` | whether the target can take it |
//! | `definition` | what the conductor tried with the definitions |
//! | `provider`, `hint` | whose service it is, and what its knobs are called |
//! | `table`, `report` | the table of checks; its outcome |
//! | `method` | replication or dump |

mod code;
mod connect;
mod constraint;
mod content;
mod cut;
mod definition;
mod extension;
pub mod facts;
mod foreign_key;
mod hint;
mod identity;
mod load;
mod locale;
mod method;
pub mod objects;
mod options;
mod provider;
mod report;
mod retention;
mod role;
mod room;
mod route;
mod server;
mod setting;
mod stream;
pub mod surroundings;
mod table;
mod target;
#[cfg(test)]
mod testing;
mod trial;
mod value;

pub use connect::explain;
pub use load::{load, load_beside};
pub use method::{Decision, METHOD, MethodChoice, decide};
pub use options::{
    CheckChoice, CheckOptions, FullIdentity, Globals, IdentityChoice, Method, Others, Resuming, TrialRestore,
    VersionRule,
};
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
