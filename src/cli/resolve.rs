//! Which two servers are meant: by option, else by environment.

use super::args::Servers;
use super::misuse::{Misuse, variable};
use crate::pg::Secret;
use crate::telemetry::Side;

/// Both connection strings, not yet read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dsns {
    /// The server to move from.
    pub source: Secret,
    /// The server to move to.
    pub target: Secret,
}

impl Servers {
    /// Both connection strings; an option goes before its variable, and an empty variable is none.
    ///
    /// # Errors
    /// [`Misuse::NoServer`]; [`Misuse::SameServer`] if both strings are the same, which needs no connection
    /// to know (other ways of naming one server twice are for the checks, P31).
    pub fn dsns(&self, env: impl Fn(&str) -> Option<String>) -> Result<Dsns, Misuse> {
        let (source, target) = self.some_dsns(env)?;
        let one = |side: Side, given: Option<Secret>| given.ok_or(Misuse::NoServer { side });
        Ok(Dsns { source: one(Side::Source, source)?, target: one(Side::Target, target)? })
    }

    /// The connection strings there are, of the source and of the target.
    ///
    /// # Errors
    /// [`Misuse::SameServer`], as above.
    pub fn some_dsns(
        &self,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<(Option<Secret>, Option<Secret>), Misuse> {
        let one = |side: Side, given: &Option<Secret>| {
            let from_env = || env(variable(side)).filter(|text| !text.is_empty()).map(Secret::new);
            given.clone().or_else(from_env)
        };
        let (source, target) = (one(Side::Source, &self.source), one(Side::Target, &self.target));
        if source.is_some() && source == target {
            return Err(Misuse::SameServer);
        }
        Ok((source, target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(source: Option<&str>, target: Option<&str>) -> Servers {
        Servers { source: source.map(Secret::new), target: target.map(Secret::new) }
    }

    fn environment(name: &str) -> Option<String> {
        match name {
            "SOURCE_SERVICE_URI" => Some("from-env".to_owned()),
            "TARGET_SERVICE_URI" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn an_option_goes_before_its_variable() {
        let given = servers(Some("a"), Some("b")).dsns(environment).unwrap();
        assert_eq!(given, Dsns { source: Secret::new("a"), target: Secret::new("b") });
        let half = servers(None, Some("b")).dsns(environment).unwrap();
        assert_eq!(half.source, Secret::new("from-env"));
    }

    #[test]
    fn one_end_may_be_all_there_is() {
        assert_eq!(servers(None, Some("b")).some_dsns(|_| None), Ok((None, Some(Secret::new("b")))));
        assert_eq!(servers(None, None).some_dsns(|_| None), Ok((None, None)));
    }

    #[test]
    fn a_missing_end_is_named_with_both_ways_to_give_it() {
        let misuse = servers(None, None).dsns(environment).unwrap_err();
        assert_eq!(misuse.to_string(), "no target is named: give --target or set TARGET_SERVICE_URI");
    }

    #[test]
    fn one_server_cannot_be_both_ends() {
        assert_eq!(servers(Some("a"), Some("a")).dsns(|_| None), Err(Misuse::SameServer));
    }
}
