//! Several databases, or all of a server, by one command.
//!
//! Hazards:
//! - One database that fails must cost the others nothing: each has its own task, its own state and its own
//!   result; what is shared is a budget of connections and the operator's wish to stop.
//! - A second run of the command finds some databases complete. Their records stay on the target, in the phase
//!   that says so, until all are complete: without them such a database would look like one that was full
//!   before, and be refused (P81).
//! - A server has databases that are no one's data: templates, and what a provider keeps for itself. They are
//!   left out by name ([`choice`]), and by nothing else.
//!
//! ```text
//! survey ─► choice ─► check ─► roles ─► (each database) create, migrate, properties, rights ─► all ended: leave roles ─► all complete: records away
//! ```

mod check;
pub mod choice;
mod conduct;
mod create;
mod rights;
mod survey;

pub use check::check;
pub use choice::{Pair, Wanted};
pub use conduct::{ClusterOutcome, ClusterWatchers, Moved, migrate};
pub use create::Creation;

use super::config::Options;
use crate::schema::RoleSettings;

/// What one command is asked to move.
#[derive(Debug, Clone)]
pub struct Order {
    /// How; its two connection strings say where to connect first.
    pub options: Options,
    /// Which databases.
    pub wanted: Wanted,
    /// What is done about databases that the target lacks.
    pub creation: Creation,
    /// Whose roles.
    pub roles: Roles,
}

/// What becomes of the source's roles.
#[derive(Debug, Clone)]
pub enum Roles {
    /// Those that the target lacks are made.
    Carry(RoleSettings),
    /// They are the operator's business.
    Leave,
}

impl Order {
    /// One database into another that exists.
    #[must_use]
    pub fn one(options: Options) -> Order {
        let pair = Pair {
            source: options.source.database().to_owned(),
            target: options.target.database().to_owned(),
        };
        Order { options, wanted: Wanted::One(pair), creation: Creation::Never, roles: Roles::Leave }
    }
}
