//! What a server knows of its roles.

use std::collections::{BTreeMap, BTreeSet};

use crate::pg::{Secret, ServerVersion};
use crate::schema::setting::Setting;

/// The roles of one server.
#[derive(Debug, Clone)]
pub(super) struct ClusterRoles {
    pub(super) version: ServerVersion,
    /// The role that `initdb` made: its OID is 10 everywhere, its name is not.
    pub(super) bootstrap: String,
    /// Ours.
    pub(super) user: String,
    pub(super) user_kind: UserKind,
    /// `aiven.pg_security_agent_reserved_roles`.
    pub(super) reserved: Vec<String>,
    /// `password_encryption`.
    pub(super) password_encryption: String,
    /// Every one, PostgreSQL's own included.
    pub(super) roles: BTreeMap<String, Role>,
    pub(super) memberships: Vec<Membership>,
    /// Rights on parameters (15+), but the bootstrap superuser's.
    pub(super) parameters: Vec<ParameterGrant>,
    /// `ALTER ROLE ALL SET`.
    pub(super) settings_of_all: Vec<Setting>,
}

/// Whether the server refuses us nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UserKind {
    Superuser,
    Ordinary,
}

/// One role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Role {
    pub(super) name: String,
    pub(super) attributes: BTreeSet<Attribute>,
    /// -1 for none.
    pub(super) connection_limit: i32,
    /// As text with its zone, or `infinity`.
    pub(super) valid_until: Option<String>,
    pub(super) password: Stored,
    pub(super) comment: Option<String>,
    pub(super) settings: Vec<Setting>,
    pub(super) labels: Vec<Label>,
}

/// What a role may do or is; those that the server grants by default are told from the others by the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Attribute {
    Inherit,
    Login,
    CreateDb,
    CreateRole,
    Replication,
    BypassRls,
    Superuser,
}

impl Attribute {
    pub(super) const ALL: [Attribute; 7] = [
        Attribute::Inherit,
        Attribute::Login,
        Attribute::CreateDb,
        Attribute::CreateRole,
        Attribute::Replication,
        Attribute::BypassRls,
        Attribute::Superuser,
    ];

    /// Attributes that a server may refuse to give (P69).
    pub(super) const PRIVILEGED: [Attribute; 5] = [
        Attribute::CreateDb,
        Attribute::CreateRole,
        Attribute::Replication,
        Attribute::BypassRls,
        Attribute::Superuser,
    ];

    pub(super) const fn keyword(self) -> &'static str {
        match self {
            Attribute::Inherit => "INHERIT",
            Attribute::Login => "LOGIN",
            Attribute::CreateDb => "CREATEDB",
            Attribute::CreateRole => "CREATEROLE",
            Attribute::Replication => "REPLICATION",
            Attribute::BypassRls => "BYPASSRLS",
            Attribute::Superuser => "SUPERUSER",
        }
    }

    /// The column of `pg_roles`.
    pub(super) const fn column(self) -> &'static str {
        match self {
            Attribute::Inherit => "rolinherit",
            Attribute::Login => "rolcanlogin",
            Attribute::CreateDb => "rolcreatedb",
            Attribute::CreateRole => "rolcreaterole",
            Attribute::Replication => "rolreplication",
            Attribute::BypassRls => "rolbypassrls",
            Attribute::Superuser => "rolsuper",
        }
    }
}

/// What the server keeps of a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stored {
    /// It does not show us (P68).
    Unreadable,
    /// There is none.
    None,
    /// `SCRAM-SHA-256$…` or `md5…`.
    Verifier(Secret),
}

/// A security label (P74).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) provider: String,
    pub(super) label: String,
}

/// A role's membership in another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Membership {
    pub(super) role: String,
    pub(super) member: String,
    /// Who granted it; nobody that still exists, perhaps, before 16.
    pub(super) grantor: Option<String>,
    pub(super) admin: bool,
    /// From 16 on.
    pub(super) options: Option<MembershipOptions>,
}

/// What a membership allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MembershipOptions {
    pub(super) inherit: bool,
    pub(super) set: bool,
}

/// A right on a parameter (15+).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ParameterGrant {
    pub(super) parameter: String,
    /// `None` for PUBLIC.
    pub(super) grantee: Option<String>,
    /// `SET` or `ALTER SYSTEM`.
    pub(super) privilege: String,
    pub(super) grantable: bool,
}
