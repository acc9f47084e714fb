//! The statements that make a role what it was.
//!
//! Hazard: to name an attribute is to ask for the right to give it, even in the negative (P69). So only what is
//! not the default is named, and what a server may refuse can be asked for apart.

use super::facts::{Attribute, ParameterGrant, Role};
use super::plan::Grant;
use crate::pg::{Identifier, Secret, quote_literal};

/// CREATE ROLE with these attributes of its own; never with a password.
pub(super) fn create(role: &Role, attributes: &[Attribute]) -> String {
    let mut options = Vec::new();
    if !role.attributes.contains(&Attribute::Inherit) {
        options.push("NOINHERIT".to_owned());
    }
    let named = attributes.iter().filter(|one| **one != Attribute::Inherit && role.attributes.contains(one));
    options.extend(named.map(|attribute| attribute.keyword().to_owned()));
    if role.connection_limit != -1 {
        options.push(format!("CONNECTION LIMIT {}", role.connection_limit));
    }
    if let Some(until) = &role.valid_until {
        options.push(format!("VALID UNTIL {}", quote_literal(until)));
    }
    format!("CREATE ROLE {} {}", Identifier::new(&role.name), options.join(" "))
}

/// What a role has beside its attributes: what it is called in a message, and the statement.
pub(super) fn belongings(role: &Role) -> Vec<(String, String)> {
    let name = Identifier::new(&role.name);
    let mut all = Vec::new();
    if let Some(comment) = &role.comment {
        all.push(("its comment".to_owned(), format!("COMMENT ON ROLE {name} IS {}", quote_literal(comment))));
    }
    for setting in &role.settings {
        all.push((format!("its setting of {}", setting.name), format!("ALTER ROLE {name} {setting}")));
    }
    for label in &role.labels {
        let provider = Identifier::new(&label.provider);
        all.push((
            format!("its security label of {provider}"),
            format!("SECURITY LABEL FOR {provider} ON ROLE {name} IS {}", quote_literal(&label.label)),
        ));
    }
    all
}

pub(super) fn give(role: &str, attribute: Attribute) -> String {
    format!("ALTER ROLE {} {}", Identifier::new(role), attribute.keyword())
}

/// Takes a verifier only: the server logs it.
pub(super) fn set_password(role: &str, verifier: &Secret) -> String {
    format!("ALTER ROLE {} PASSWORD {}", Identifier::new(role), quote_literal(verifier.reveal()))
}

pub(super) fn grant(grant: &Grant) -> String {
    let mut options = Vec::new();
    if grant.admin {
        options.push("ADMIN OPTION");
    }
    if let Some(has) = grant.options {
        options.push(if has.inherit { "INHERIT TRUE" } else { "INHERIT FALSE" });
        options.push(if has.set { "SET TRUE" } else { "SET FALSE" });
    }
    let with = if options.is_empty() { String::new() } else { format!(" WITH {}", options.join(", ")) };
    let by = grant.grantor.as_ref().map(|grantor| format!(" GRANTED BY {}", Identifier::new(grantor)));
    let (role, member) = (Identifier::new(&grant.role), Identifier::new(&grant.member));
    format!("GRANT {role} TO {member}{with}{}", by.unwrap_or_default())
}

/// Custom parameters have a dot in their names.
pub(super) fn grant_parameter(grant: &ParameterGrant) -> Option<String> {
    let parameter: Vec<String> =
        grant.parameter.split('.').map(|part| Identifier::new(part).to_string()).collect();
    let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
    let grantee = Identifier::new(grant.grantee.as_ref()?);
    Some(format!("GRANT {} ON PARAMETER {} TO {grantee}{option}", grant.privilege, parameter.join(".")))
}
