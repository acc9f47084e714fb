//! Makes on the target what the plan says, in one transaction.
//!
//! Hazard: killed half-way, a run must not leave roles without their passwords and memberships, which the next run
//! would take for somebody else's. One transaction leaves all or nothing; what a server refuses is undone to a
//! savepoint of its own.

use super::facts::{Attribute, UserKind};
use super::load::load;
use super::password::{placeholder, save, verifier};
use super::plan::{Action, Password, Plan, Planned, plan};
use super::{CarriedRole, CarriedRoles, RoleSettings, RoleStatus, statement};
use crate::error::{Result, Side};
use crate::pg::Secret;
use crate::schema::attempt::{attempt, in_transaction, run};
use crate::wire::Session;

/// Carries the roles of one server to another: what the target lacks is made, what it has is compared.
/// Neither session may be in a transaction. Running again changes nothing.
///
/// # Errors
/// `Connect` if a connection breaks: nothing has been made, or all. `Local` or `Usage` if the file for placeholders
/// cannot be written: nothing has been made.
/// # Cancel safety
/// Drop the target's session as well: its transaction is open.
pub async fn carry_roles(
    source: &Session,
    target: &Session,
    settings: &RoleSettings,
) -> Result<CarriedRoles> {
    let from = load(source).await.map_err(|error| error.on(Side::Source))?;
    let to = load(target).await.map_err(|error| error.on(Side::Target))?;
    let plan = plan(&from, &to, &settings.excluded);
    let work = Work { target, settings, user_kind: to.user_kind };
    let carried = in_transaction(target, "make roles", work.apply(plan)).await;
    carried.map_err(|error| error.on(Side::Target))
}

struct Work<'a> {
    target: &'a Session,
    settings: &'a RoleSettings,
    user_kind: UserKind,
}

/// A role on its way.
struct Under {
    planned: Planned,
    status: RoleStatus,
    placeholder: Option<Secret>,
}

impl Under {
    fn is_created(&self) -> bool {
        self.status == RoleStatus::Created
    }

    fn note(&mut self, what: &str, refused: Option<String>) {
        self.planned.notes.extend(refused.map(|message| format!("{what}: {message}")));
    }

    fn into_carried(self) -> CarriedRole {
        CarriedRole {
            message: (!self.planned.notes.is_empty()).then(|| self.planned.notes.join("; ")),
            name: self.planned.role.name,
            status: self.status,
            placeholder: self.placeholder,
        }
    }
}

impl Work<'_> {
    async fn apply(&self, plan: Plan) -> Result<CarriedRoles> {
        let mut roles = Vec::with_capacity(plan.roles.len());
        for planned in plan.roles {
            roles.push(self.role(planned).await?);
        }
        self.passwords(&mut roles).await?;
        for grant in &plan.grants {
            let failed = |name: &str| {
                roles.iter().any(|one| one.planned.role.name == name && one.status == RoleStatus::Failed)
            };
            if failed(&grant.role) && grant.member == grant.note {
                let note = Some("it could not be made".to_owned());
                noted(&mut roles, &grant.note, &format!("no member of {}", grant.role), note);
            } else if !failed(&grant.role) && !failed(&grant.member) {
                let sql = statement::grant(grant);
                let refused = attempt(self.target, "grant a membership", &sql).await?;
                noted(
                    &mut roles,
                    &grant.note,
                    &format!("membership of {} in {}", grant.member, grant.role),
                    refused,
                );
            }
        }
        for grant in &plan.parameters {
            let (Some(sql), Some(grantee)) = (statement::grant_parameter(grant), &grant.grantee) else {
                continue;
            };
            if roles.iter().any(|one| one.planned.role.name == *grantee && one.is_created()) {
                let refused = attempt(self.target, "grant a right on a parameter", &sql).await?;
                let what = format!("{} on parameter {}", grant.privilege, grant.parameter);
                noted(&mut roles, grantee, &what, refused);
            }
        }
        self.save_placeholders(&roles)?;
        Ok(CarriedRoles {
            roles: roles.into_iter().map(Under::into_carried).collect(),
            warnings: plan.warnings,
        })
    }

    /// Makes one role with all it has but its password and memberships.
    async fn role(&self, planned: Planned) -> Result<Under> {
        let status = match planned.action {
            Action::Keep => RoleStatus::Exists,
            Action::Skip => RoleStatus::Skipped,
            Action::Create(_) => RoleStatus::Created,
        };
        let mut under = Under { planned, status, placeholder: None };
        if !under.is_created() {
            return Ok(under);
        }
        let role = under.planned.role.clone();
        let doing = "create a role";
        if attempt(self.target, doing, &statement::create(&role, &Attribute::ALL)).await?.is_some() {
            let plain = statement::create(&role, &[Attribute::Login]);
            if let Some(refused) = attempt(self.target, doing, &plain).await? {
                under.status = RoleStatus::Failed;
                under.planned.notes = vec![refused];
                return Ok(under);
            }
            for attribute in Attribute::PRIVILEGED.into_iter().filter(|one| role.attributes.contains(one)) {
                let sql = statement::give(&role.name, attribute);
                let refused = attempt(self.target, "give a role an attribute", &sql).await?;
                under.note(&format!("without {}", attribute.keyword()), refused);
            }
        }
        for (what, sql) in statement::belongings(&role) {
            let refused = attempt(self.target, "complete a role", &sql).await?;
            under.note(&format!("without {what}"), refused);
        }
        Ok(under)
    }

    /// Sets passwords, where we may while the server logs no statement: a verifier is no password, and still
    /// nothing for a log.
    async fn passwords(&self, roles: &mut [Under]) -> Result<()> {
        let quiet = self.user_kind == UserKind::Superuser;
        if quiet {
            let sql = "SET LOCAL log_statement = 'none'; SET LOCAL log_min_duration_statement = -1; \
                       SET LOCAL log_min_error_statement = 'panic'";
            run(self.target, "keep verifiers out of the server's log", sql).await?;
        }
        for under in roles.iter_mut().filter(|under| under.is_created()) {
            self.password(under).await?;
        }
        if quiet {
            let sql = "SET LOCAL log_statement TO DEFAULT; SET LOCAL log_min_duration_statement TO DEFAULT; \
                       SET LOCAL log_min_error_statement TO DEFAULT";
            run(self.target, "let the server log statements again", sql).await?;
        }
        Ok(())
    }

    async fn password(&self, under: &mut Under) -> Result<()> {
        let Action::Create(password) = under.planned.action.clone() else { return Ok(()) };
        let doing = "set a role's password";
        let name = under.planned.role.name.clone();
        let may_log_in = under.planned.role.attributes.contains(&Attribute::Login);
        match password {
            Password::None => return Ok(()),
            Password::Verifier(verifier) => {
                let sql = statement::set_password(&name, &verifier);
                let Some(refused) = attempt(self.target, doing, &sql).await? else { return Ok(()) };
                if !may_log_in || name.contains(['\n', '\r']) {
                    under.note("without its password", Some(refused));
                    return Ok(());
                }
                under.note("its password was refused, and a placeholder stands for it", Some(refused));
            }
            Password::Placeholder => {}
        }
        let invented = placeholder()?;
        let sql = statement::set_password(&name, &verifier(&invented));
        match attempt(self.target, doing, &sql).await? {
            None => under.placeholder = Some(invented),
            refused => under.note("without a password", refused),
        }
        Ok(())
    }

    /// Before the commit: what exists on the target must not be lost to us.
    fn save_placeholders(&self, roles: &[Under]) -> Result<()> {
        let Some(path) = &self.settings.password_file else { return Ok(()) };
        let made = |under: &Under| Some((under.planned.role.name.clone(), under.placeholder.clone()?));
        let made: Vec<(String, Secret)> = roles.iter().filter_map(made).collect();
        if made.is_empty() {
            return Ok(());
        }
        let made: Vec<(&str, &Secret)> = made.iter().map(|(name, secret)| (name.as_str(), secret)).collect();
        save(path, &made)
    }
}

fn noted(roles: &mut [Under], name: &str, what: &str, refused: Option<String>) {
    if let Some(under) = roles.iter_mut().find(|one| one.planned.role.name == name) {
        under.note(what, refused);
    }
}
