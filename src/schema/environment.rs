//! The environment that the tools connect by.
//!
//! Hazard: an argument list is readable by every user of the machine, so the password goes into a file that
//! has no name (P94), and a database name on a command line is expanded when it holds a `=` (P57), so it goes into
//! `PGDATABASE`, which is not. Our own process's `PG*` variables would change what the tools connect to: none
//! of them is passed on.

use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Conninfo, Secret};
use crate::schema::private::PrivateFile;

/// Settings of the tools' sessions that must not depend on the role, the database or our caller.
///
/// The timeouts (P90) are those that every server since 10 knows. Plain quoting keeps definitions comparable,
/// and standard strings mean the same on both ends.
const PINS: &str = "-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 \
                    -c default_transaction_read_only=off -c standard_conforming_strings=on \
                    -c quote_all_identifiers=off";

/// Variables for one tool, and the passfile they point at, which lives as long as this.
pub(super) struct Environment {
    variables: Vec<(&'static str, String)>,
    passfile: Option<PrivateFile>,
}

impl Environment {
    /// Names every parameter of `conninfo`, and writes the passfile where there is a password to give.
    pub(super) fn of(conninfo: &Conninfo) -> Result<Environment> {
        let mut variables = conninfo.environment_for_tools();
        // Of two variables of one name the later counts.
        variables.push(("PGAPPNAME", "pgstream schema".to_owned()));
        variables.push(("PGOPTIONS", options(conninfo.options.as_deref())));
        let passfile = conninfo.passfile_text().as_ref().map(write_passfile).transpose()?;
        Ok(Environment { variables, passfile })
    }

    /// Adds a setting of the tools' sessions, above all others.
    pub(super) fn set(mut self, name: &str, value: &str) -> Environment {
        if let Some((_, options)) = self.variables.iter_mut().find(|(variable, _)| *variable == "PGOPTIONS") {
            *options += &format!(" -c {name}={value}");
        }
        self
    }

    /// Gives a command this environment and no other `PG*` variable; messages come in English.
    pub(super) fn apply(&self, command: &mut tokio::process::Command) {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") || name == "LANGUAGE" {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C").env("LC_MESSAGES", "C");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.envs(self.passfile.iter().map(|file| ("PGPASSFILE", file.path())));
    }
}

/// libpq insists on a regular file of mode 0600, which this is.
fn write_passfile(text: &Secret) -> Result<PrivateFile> {
    PrivateFile::holding(text.reveal().as_bytes())
        .map_err(|error| Error::new(ErrorKind::Local, "write a password file for pg_dump").because(error))
}

/// The caller's options, then ours: the last one counts.
fn options(given: Option<&str>) -> String {
    given.map_or_else(|| PINS.to_owned(), |given| format!("{given} {PINS}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ffi::{OsStr, OsString};
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::pg::{ConninfoError, Files};

    struct NoFiles;

    impl Files for NoFiles {
        fn exists(&self, _path: &std::path::Path) -> bool {
            false
        }

        fn read(&self, _path: &std::path::Path) -> std::io::Result<String> {
            Err(std::io::ErrorKind::NotFound.into())
        }

        fn read_private(&self, path: &std::path::Path) -> std::io::Result<String> {
            self.read(path)
        }
    }

    fn resolve(text: &str) -> Result<Conninfo, ConninfoError> {
        let (variables, home, user) = (BTreeMap::new(), None, Some("u".to_owned()));
        Conninfo::resolve(text, &crate::pg::Environment { variables, home, user, files: Box::new(NoFiles) })
    }

    /// What a tool would be given, by name.
    fn given(environment: &Environment) -> BTreeMap<OsString, OsString> {
        let mut command = tokio::process::Command::new("pg_dump");
        environment.apply(&mut command);
        let variables = command.as_std().get_envs().filter_map(|(name, value)| Some((name, value?)));
        variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn a_password_stands_in_a_file_of_ours_alone_with_its_colons_and_backslashes() {
        let conninfo = resolve(r"host=h dbname=d password='a:b\\c'").unwrap();
        let environment = Environment::of(&conninfo).unwrap();
        let given = given(&environment);
        let path = given.get(OsStr::new("PGPASSFILE")).unwrap().clone();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "h:5432:d:u:a\\:b\\\\c\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(given.values().all(|value| !value.to_string_lossy().contains("a:b")), "{given:?}");
        drop(environment);
        assert!(std::fs::metadata(&path).is_err(), "the file goes with the environment");
    }

    #[test]
    fn a_password_of_two_lines_comes_no_further_than_the_connection_string() {
        let refused = resolve("host=h password='a\nb'");
        assert!(matches!(refused, Err(ConninfoError::Invalid { parameter: "password", .. })), "{refused:?}");
    }

    #[test]
    fn our_options_come_after_the_callers() {
        let conninfo = resolve("host=h options='-c statement_timeout=5' application_name=theirs").unwrap();
        let given = given(&Environment::of(&conninfo).unwrap());
        let options = given.get(OsStr::new("PGOPTIONS")).unwrap().to_str().unwrap();
        assert!(options.starts_with("-c statement_timeout=5 -c statement_timeout=0 "), "{options}");
        assert_eq!(given.get(OsStr::new("PGAPPNAME")).unwrap(), "pgstream schema");
        assert_eq!(given.get(OsStr::new("PGPASSFILE")), None);
    }
}
