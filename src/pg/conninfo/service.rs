//! Service files: named sets of parameters (docs: `libpq-pgservice`).
//!
//! Hazard: space around `=` is part of the name and of the value, and the first line that sets a parameter
//! wins, while in a connection string the last one does.

use std::path::{Path, PathBuf};

use super::ConninfoError;
use super::environment::Environment;
use super::settings::{Given, Parameter, Settings};

/// The names of the system's file, in the order tried, when `PGSYSCONFDIR` names no folder: Debian's, others'.
const SYSTEM_FILES: [&str; 2] = ["/etc/postgresql-common/pg_service.conf", "/etc/pg_service.conf"];

/// Fills in what the named service sets and the connection string does not.
pub(super) fn complete(settings: &mut Settings, environment: &Environment) -> Result<(), ConninfoError> {
    let named = |parameter, variable| {
        let fallback = || environment.variables.get(variable).filter(|value| !value.is_empty()).cloned();
        settings.get(parameter).map(str::to_owned).or_else(fallback)
    };
    let Some(service) = named(Parameter::Service, "PGSERVICE") else { return Ok(()) };
    let files = places(named(Parameter::ServiceFile, "PGSERVICEFILE"), environment);
    for path in &files {
        let text = environment
            .files
            .read(path)
            .map_err(|error| ConninfoError::Unreadable { path: path.clone(), kind: error.kind() })?;
        if let Some(section) = section(&text, &service) {
            return section.set_missing(settings).map_err(|(line, problem)| ConninfoError::ServiceFile {
                path: path.clone(),
                line,
                problem,
            });
        }
    }
    Err(ConninfoError::ServiceNotFound { service, files })
}

/// The files to look into, in order: the one asked for, which must be there, or the user's own; then the system's.
fn places(chosen: Option<String>, environment: &Environment) -> Vec<PathBuf> {
    let own = || environment.home.as_ref().map(|home| home.join(".pg_service.conf"));
    let system = match environment.variables.get("PGSYSCONFDIR") {
        Some(folder) => vec![Path::new(folder).join("pg_service.conf")],
        None => SYSTEM_FILES.map(PathBuf::from).to_vec(),
    };
    let is_there = |path: &PathBuf| environment.files.exists(path);
    let first = match chosen {
        Some(path) => Some(PathBuf::from(path)),
        None => own().filter(is_there),
    };
    first.into_iter().chain(system.into_iter().filter(is_there)).collect()
}

/// The lines of one service, numbered from 1.
struct Section<'a>(Vec<(usize, &'a str)>);

/// The lines between `[service]` and the next header.
fn section<'a>(text: &'a str, service: &str) -> Option<Section<'a>> {
    let lines = text.lines().map(str::trim).enumerate().map(|(index, line)| (index + 1, line));
    let mut lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let header = |line: &str| line.strip_prefix('[').map(|name| name.split(']').next() == Some(service));
    lines.find(|(_, line)| header(line) == Some(true))?;
    Some(Section(lines.take_while(|(_, line)| header(line).is_none()).collect()))
}

impl Section<'_> {
    /// # Errors
    /// The line that makes no sense, and why.
    fn set_missing(self, settings: &mut Settings) -> Result<(), (usize, &'static str)> {
        for (number, line) in self.0 {
            if line.starts_with("ldap") {
                return Err((number, "looking parameters up by LDAP is not supported"));
            }
            let Some((keyword, value)) = line.split_once('=') else { return Err((number, "missing \"=\"")) };
            match Parameter::from_keyword(keyword) {
                Some(Parameter::Service | Parameter::ServiceFile) => {
                    return Err((number, "a service cannot name another one"));
                }
                Some(parameter) => settings.set_missing(parameter, value, Given::ServiceFile),
                None => return Err((number, "unknown parameter (no space may stand before \"=\")")),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::environment;
    use super::super::{Conninfo, SslMode};
    use super::*;

    const OWN: &str = "/home/me/.pg_service.conf";
    const SYSTEM: &str = "/etc/pg_service.conf";

    #[test]
    fn fills_in_what_the_string_leaves_open_and_the_environment_comes_after() {
        let file = "# comment\n[other]\nuser=nobody\n\n[main]\nuser=owner\n  dbname=a=b  \nuser=second\n[last]\nport=1\n";
        let environment = environment(&[("PGUSER", "env"), ("PGSSLMODE", "require")], &[(OWN, file)]);
        let conninfo = Conninfo::resolve("service=main host=h", &environment).unwrap();
        assert_eq!((conninfo.user.as_str(), conninfo.database()), ("owner", "a=b"));
        assert_eq!((conninfo.hosts[0].port, conninfo.sslmode), (5432, SslMode::Require));
        let conninfo = Conninfo::resolve("postgres://mine@h/d?service=main", &environment).unwrap();
        assert_eq!((conninfo.user.as_str(), conninfo.database()), ("mine", "d"));
    }

    #[test]
    fn looks_into_the_system_file_when_the_own_one_has_no_such_service() {
        let files = [(OWN, "[a]\nuser=own\n"), (SYSTEM, "[a]\nuser=sys\n[b]\nuser=b\n")];
        let user = |text| Conninfo::resolve(text, &environment(&[], &files)).map(|conninfo| conninfo.user);
        assert_eq!(user("service=a"), Ok("own".to_owned()));
        assert_eq!(user("service=b"), Ok("b".to_owned()));
        let files = [OWN, SYSTEM].map(PathBuf::from).to_vec();
        assert_eq!(user("service=c"), Err(ConninfoError::ServiceNotFound { service: "c".to_owned(), files }));
    }

    #[test]
    fn a_file_that_is_asked_for_must_be_there() {
        let environment = environment(&[("PGSERVICE", "a"), ("PGSERVICEFILE", "/x")], &[(OWN, "[a]\n")]);
        let kind = std::io::ErrorKind::NotFound;
        let error = ConninfoError::Unreadable { path: PathBuf::from("/x"), kind };
        assert_eq!(Conninfo::resolve("", &environment), Err(error));
    }

    #[test]
    fn says_which_line_makes_no_sense() {
        for (text, line) in
            [("[a]\nuser\n", 2), ("\n[a]\nservice=b", 3), ("[a]\nuser = x\n", 2), ("[a]\nldap://h", 2)]
        {
            let error = Conninfo::resolve("service=a", &environment(&[], &[(OWN, text)])).unwrap_err();
            assert!(matches!(error, ConninfoError::ServiceFile { line: at, .. } if at == line), "{error}");
        }
    }
}
