//! What to do with each role, membership and right: decided from what both servers have, without I/O.
//!
//! Hazard: a role of the same name on the target may be another person's, and may be a superuser. It is not
//! altered, and nobody of the source's becomes its member if that made him more than he was (P69).

use std::collections::BTreeMap;

use super::facts::{
    Attribute, ClusterRoles, Membership, MembershipOptions, ParameterGrant, Role, Stored, UserKind,
};
use super::name::{RolePattern, Services};
use super::order::in_order;
use crate::pg::{Identifier, Secret};

/// What is to be done on the target.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Every role of the source but PostgreSQL's own, by name.
    pub(super) roles: Vec<Planned>,
    /// In an order in which each grantor can grant.
    pub(super) grants: Vec<Grant>,
    pub(super) parameters: Vec<ParameterGrant>,
    pub(super) warnings: Vec<String>,
}

/// A role, what becomes of it, and what of it cannot be had.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) role: Role,
    pub(super) action: Action,
    pub(super) notes: Vec<String>,
}

/// What becomes of a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Create(Password),
    Keep,
    Skip,
}

/// The password that a new role gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Password {
    None,
    Verifier(Secret),
    Placeholder,
}

/// A membership to be granted. `note` is the role whose result says so if it is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) role: String,
    pub(super) member: String,
    pub(super) admin: bool,
    pub(super) options: Option<MembershipOptions>,
    /// `None` leaves it to the server.
    pub(super) grantor: Option<String>,
    pub(super) note: String,
}

/// Where a name of the source's leads on the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Created,
    There,
    Absent,
}

/// Plans everything.
pub(super) fn plan(source: &ClusterRoles, target: &ClusterRoles, excluded: &[RolePattern]) -> Plan {
    let services = Services::among(source.roles.keys().map(String::as_str));
    let mut plan = Plan::default();
    for role in source.roles.values().filter(|role| !role.name.starts_with("pg_")) {
        plan.roles.push(decide(role, source, target, excluded, &services));
    }
    let mut planner = Planner {
        source,
        target,
        at: plan.roles.iter().enumerate().map(|(at, one)| (one.role.name.clone(), at)).collect(),
        plan,
    };
    let grants: Vec<Grant> =
        source.memberships.iter().filter_map(|membership| planner.membership(membership)).collect();
    planner.plan.grants = in_order(grants, target);
    planner.parameters();
    planner.warn();
    planner.plan
}

fn decide(
    role: &Role,
    source: &ClusterRoles,
    target: &ClusterRoles,
    excluded: &[RolePattern],
    services: &Services,
) -> Planned {
    let planned = |action, note: Option<String>| Planned {
        role: role.clone(),
        action,
        notes: note.into_iter().collect(),
    };
    let skip = |why: String| planned(Action::Skip, Some(why));
    if role.name == source.bootstrap {
        let mut skipped = skip(format!("the source's own superuser: {} stands for it", target.bootstrap));
        if let Some(own) = target.roles.get(&target.bootstrap) {
            // Its password is the target's business.
            let blind = Role { password: Stored::Unreadable, ..role.clone() };
            skipped.notes.extend(differences(&blind, own));
        }
        return skipped;
    }
    if let Some(pattern) = excluded.iter().find(|pattern| pattern.matches(&role.name)) {
        return skip(format!("excluded by {pattern}"));
    }
    if target.reserved.contains(&role.name) {
        return skip("reserved by the target's security agent".to_owned());
    }
    if let Some(service) = services.owner_of(&role.name) {
        return skip(format!("a role of the service ({service})"));
    }
    if let Some(there) = target.roles.get(&role.name) {
        return planned(Action::Keep, differences(role, there));
    }
    if !role.attributes.contains(&Attribute::Login) && role.password == Stored::Unreadable {
        return planned(Action::Create(Password::None), None);
    }
    match &role.password {
        Stored::None => planned(Action::Create(Password::None), None),
        Stored::Verifier(verifier) => planned(Action::Create(Password::Verifier(verifier.clone())), None),
        // A line of a password file holds no line break.
        Stored::Unreadable if role.name.contains(['\n', '\r']) => planned(
            Action::Create(Password::None),
            Some("its password could not be read, and it has none now".to_owned()),
        ),
        Stored::Unreadable => planned(
            Action::Create(Password::Placeholder),
            Some("its password could not be read: a placeholder stands for it".to_owned()),
        ),
    }
}

/// In what a role of the target is another than the source's.
fn differences(source: &Role, target: &Role) -> Option<String> {
    let mut found = Vec::new();
    for attribute in Attribute::ALL {
        match (source.attributes.contains(&attribute), target.attributes.contains(&attribute)) {
            (true, false) => found.push(format!("{} on the source only", attribute.keyword())),
            (false, true) => found.push(format!("{} on the target only", attribute.keyword())),
            _ => {}
        }
    }
    if source.connection_limit != target.connection_limit {
        found.push(format!("connection limit {}, not {}", target.connection_limit, source.connection_limit));
    }
    if source.valid_until != target.valid_until {
        let until = |role: &Role| role.valid_until.clone().unwrap_or_else(|| "for ever".to_owned());
        found.push(format!("valid until {}, not {}", until(target), until(source)));
    }
    match (&source.password, &target.password) {
        (Stored::Unreadable, _) | (_, Stored::Unreadable) => {}
        (one, other) if one == other => {}
        _ => found.push("another password".to_owned()),
    }
    if source.comment != target.comment {
        found.push("another comment".to_owned());
    }
    for setting in &source.settings {
        match target.settings.iter().find(|own| own.is_of(&setting.name)) {
            Some(own) if own.value == setting.value => {}
            Some(_) => found.push(format!("another value for {}", setting.name)),
            None => found.push(format!("no setting of {}", setting.name)),
        }
    }
    let more = target.settings.iter().filter(|own| !source.settings.iter().any(|one| one.is_of(&own.name)));
    found.extend(more.map(|own| format!("a setting of {} on the target only", own.name)));
    (!found.is_empty()).then(|| format!("differs: {}", found.join(", ")))
}

struct Planner<'a> {
    source: &'a ClusterRoles,
    target: &'a ClusterRoles,
    at: BTreeMap<String, usize>,
    plan: Plan,
}

impl Planner<'_> {
    /// What a name of the source's is called on the target.
    fn map(&self, name: &str) -> String {
        if name == self.source.bootstrap { self.target.bootstrap.clone() } else { name.to_owned() }
    }

    fn action(&self, name: &str) -> Option<&Action> {
        self.at.get(name).and_then(|at| self.plan.roles.get(*at)).map(|planned| &planned.action)
    }

    fn fate(&self, name: &str) -> Fate {
        match self.action(name) {
            Some(Action::Create(_)) => Fate::Created,
            _ if self.target.roles.contains_key(&self.map(name)) => Fate::There,
            _ => Fate::Absent,
        }
    }

    fn note(&mut self, role: &str, note: String) {
        if let Some(planned) = self.at.get(role).and_then(|at| self.plan.roles.get_mut(*at)) {
            planned.notes.push(note);
        }
    }

    fn membership(&mut self, from: &Membership) -> Option<Grant> {
        let (role, member) = (self.map(&from.role), self.map(&from.member));
        match (self.fate(&from.role), self.fate(&from.member)) {
            (Fate::Absent, Fate::Created) => {
                self.note(&from.member, format!("no member of {role}, which the target lacks"));
                None
            }
            (Fate::Created, Fate::Absent) => {
                self.note(&from.role, format!("{member}, which the target lacks, is no member"));
                None
            }
            (Fate::Absent, _) | (_, Fate::Absent) => None,
            (Fate::There, Fate::There) => {
                let is_there = |own: &&Membership| own.role == role && own.member == member;
                if !self.target.memberships.iter().any(|own| is_there(&own))
                    && self.action(&from.member) == Some(&Action::Keep)
                {
                    self.note(&from.member, format!("no member of {role} on the target"));
                }
                None
            }
            (Fate::There, Fate::Created) if self.would_rise(&from.role, &role) => {
                let note = format!("not made a member of {role}, which may do more on the target");
                self.note(&from.member, note);
                None
            }
            (Fate::There | Fate::Created, Fate::Created) => self.grant(from, &from.member, role, member),
            (Fate::Created, Fate::There) => self.grant(from, &from.role, role, member),
        }
    }

    /// Whether members of a role would get rights on the target that they lack on the source.
    fn would_rise(&self, source: &str, target: &str) -> bool {
        let has = |cluster: &ClusterRoles, name: &str, attribute: Attribute| {
            cluster.roles.get(name).is_some_and(|role| role.attributes.contains(&attribute))
        };
        let rises = |one: &Attribute| has(self.target, target, *one) && !has(self.source, source, *one);
        Attribute::PRIVILEGED.iter().any(rises)
    }

    fn grant(&self, from: &Membership, note: &str, role: String, member: String) -> Option<Grant> {
        let has_options = self.target.version.major() >= 16;
        let is_superuser = self.target.user_kind == UserKind::Superuser;
        let mut admin = from.admin;
        if has_options && !is_superuser && member == self.target.user {
            // Whoever creates a role is its member with ADMIN OPTION, and cannot be granted that by himself (P70).
            admin = false;
            if from.options.is_some_and(|options| !options.inherit && !options.set) {
                return None;
            }
        }
        // Before 16 a grantor is a memory, and 16 and later demand that he may grant.
        let is_memory = self.source.version.major() < 16 && has_options;
        let grantor = from.grantor.as_deref().filter(|name| self.fate(name) != Fate::Absent);
        Some(Grant {
            role,
            member,
            admin,
            options: from.options.filter(|_| has_options),
            grantor: grantor.filter(|_| is_superuser && !is_memory).map(|name| self.map(name)),
            note: note.to_owned(),
        })
    }

    fn parameters(&mut self) {
        for grant in &self.source.parameters {
            let what = format!("{} on parameter {}", grant.privilege, grant.parameter);
            match grant.grantee.as_deref() {
                None if self.target.parameters.contains(grant) => {}
                None => self.plan.warnings.push(format!(
                    "GRANT {} ON PARAMETER {} TO PUBLIC: holds for every database of a server, and is not carried",
                    grant.privilege, grant.parameter
                )),
                Some(grantee) => match self.action(grantee) {
                    Some(Action::Create(_)) if self.target.version.major() >= 15 => {
                        self.plan.parameters.push(grant.clone());
                    }
                    Some(Action::Create(_)) => {
                        self.note(grantee, format!("{what} is not known to the target"));
                    }
                    Some(Action::Keep) if !self.target.parameters.contains(grant) => {
                        self.note(grantee, format!("{what} on the source only"));
                    }
                    Some(Action::Keep | Action::Skip) | None => {}
                },
            }
        }
    }

    /// What is true of no single role.
    fn warn(&mut self) {
        for setting in &self.source.settings_of_all {
            if !self.target.settings_of_all.contains(setting) {
                // Without its value, which may be an application's secret.
                self.plan.warnings.push(format!(
                    "ALTER ROLE ALL SET {}: holds for every database of a server, and is not carried",
                    setting.name
                ));
            }
        }
        let is_md5 = |one: &&Planned| match &one.action {
            Action::Create(Password::Verifier(verifier)) => verifier.reveal().starts_with("md5"),
            _ => false,
        };
        let md5: Vec<&str> =
            self.plan.roles.iter().filter(is_md5).map(|one| one.role.name.as_str()).collect();
        if !md5.is_empty() && self.target.password_encryption != "md5" {
            self.plan.warnings.push(format!(
                "the passwords of {} are kept as md5: these roles cannot log in where pg_hba.conf of the target \
                 demands scram-sha-256, until their passwords are set anew",
                md5.join(", ")
            ));
        }
        let is_ordinary = self.target.user_kind == UserKind::Ordinary;
        let is_anothers = |from: &Membership| from.grantor.as_ref() != Some(&self.target.user);
        if is_ordinary && !self.plan.grants.is_empty() && self.source.memberships.iter().any(is_anothers) {
            self.plan.warnings.push(format!(
                "memberships are recorded as granted by {}: only a superuser may name another grantor",
                Identifier::new(&self.target.user)
            ));
        }
    }
}

#[cfg(test)]
mod tests;
