//! Roles: read on both ends, planned without I/O, made on the target in one transaction.
//!
//! Hazards:
//! - A role that exists on the target belongs to somebody: it is never altered, only compared (P69).
//! - What a target refuses (SUPERUSER on a service, a setting it does not know) is a warning; the role is made
//!   without it (P69, P73).
//! - Passwords pass as verifiers, and what we invent reaches the server as a verifier too, so that no log of
//!   either server ever holds one in clear (P68).
//! - An interrupted run leaves either every role or none, and the placeholders are on disk before the roles are.
//!
//! ```text
//! load (source) ─┐
//!                ├─► plan ─► apply: create, attributes, comment, settings ─► passwords ─► memberships ─► file, COMMIT
//! load (target) ─┘
//! ```

mod apply;
mod facts;
mod join;
mod load;
mod name;
mod order;
mod password;
mod plan;
mod statement;

use std::path::PathBuf;

pub use apply::carry_roles;
pub use join::{join_roles, leave_roles, owners_in_use, roles_to_join};
pub use name::{RolePattern, is_service_database};

use crate::pg::Secret;

/// Which roles are carried, and where invented passwords go.
#[derive(Debug, Clone, Default)]
pub struct RoleSettings {
    /// Roles left out: `--excluded-roles`.
    pub excluded: Vec<RolePattern>,
    /// Where placeholders are written, in the form of a passfile and with mode 0600, before a role has one.
    pub password_file: Option<PathBuf>,
}

/// What came of one role of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarriedRole {
    /// Its name.
    pub name: String,
    /// What was done.
    pub status: RoleStatus,
    /// Why, or what of it did not arrive.
    pub message: Option<String>,
    /// The password invented for it: it could not be read on the source, and the role may log in.
    pub placeholder: Option<Secret>,
}

/// What was done with a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleStatus {
    /// It was made.
    Created,
    /// The target has a role of that name, which stays as it is.
    Exists,
    /// The target refused it.
    Failed,
    /// It is left out: excluded, reserved, or a service's own.
    Skipped,
}

impl RoleStatus {
    /// The word for it in results.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            RoleStatus::Created => "created",
            RoleStatus::Exists => "exists",
            RoleStatus::Failed => "failed",
            RoleStatus::Skipped => "skipped",
        }
    }
}

/// What came of all roles, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CarriedRoles {
    /// Each role of the source but PostgreSQL's own.
    pub roles: Vec<CarriedRole>,
    /// What is true of no single role.
    pub warnings: Vec<String>,
}
