//! The same connection for people and for `pg_dump`, `pg_restore`.
//!
//! Hazard: a database whose name holds a `=` or begins with `postgres://` is expanded by libpq when it stands
//! in `-d` (P57), and would then connect elsewhere. It is never expanded when it stands in `PGDATABASE`.
//! So the tools are started without a database argument, or, where they need one, with an empty `-d ''`,
//! which libpq fills in from `PGDATABASE`.

use super::{Conninfo, Host, HostName, RootCertificates, Secret, SslNegotiation, passfile};

impl Conninfo {
    /// `host:port/database as user`, for people; holds no secret.
    #[must_use]
    pub fn describe(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(Host::describe).collect();
        format!("{}/{} as {}", hosts.join(","), self.database(), self.user)
    }

    /// The variables by which libpq's programs reach the same database in the same way, all but the password.
    ///
    /// Give them to a child whose own `PG*` variables were removed, and the password by
    /// [`Conninfo::passfile_text`].
    #[must_use]
    pub fn environment_for_tools(&self) -> Vec<(&'static str, String)> {
        let list = |part: fn(&Host) -> String| self.hosts.iter().map(part).collect::<Vec<_>>().join(",");
        let mut variables = vec![
            ("PGHOST", list(Host::name_for_tools)),
            ("PGPORT", list(|host| host.port.to_string())),
            ("PGUSER", self.user.clone()),
            ("PGDATABASE", self.database().to_owned()),
            ("PGSSLMODE", self.sslmode.keyword().to_owned()),
            ("PGCHANNELBINDING", self.channel_binding.keyword().to_owned()),
            ("PGTARGETSESSIONATTRS", self.target_session_attrs.keyword().to_owned()),
            // We would not use them, so the tools do not either.
            ("PGGSSENCMODE", "disable".to_owned()),
        ];
        if self.hosts.iter().any(|host| host.hostaddr.is_some()) {
            let address = |host: &Host| host.hostaddr.map_or(String::new(), |address| address.to_string());
            variables.push(("PGHOSTADDR", list(address)));
        }
        match &self.sslrootcert {
            Some(RootCertificates::File(path)) => {
                variables.push(("PGSSLROOTCERT", path.display().to_string()))
            }
            Some(RootCertificates::System) => variables.push(("PGSSLROOTCERT", "system".to_owned())),
            None => {}
        }
        match &self.sslcert {
            Some(path) => variables.push(("PGSSLCERT", path.display().to_string())),
            None => variables.push(("PGSSLCERTMODE", "disable".to_owned())),
        }
        variables.extend(self.sslkey.iter().map(|path| ("PGSSLKEY", path.display().to_string())));
        if self.sslnegotiation == SslNegotiation::Direct {
            variables.push(("PGSSLNEGOTIATION", self.sslnegotiation.keyword().to_owned()));
        }
        let seconds = self.connect_timeout.map(|timeout| timeout.as_secs().to_string());
        variables.extend(seconds.map(|seconds| ("PGCONNECT_TIMEOUT", seconds)));
        variables.extend(self.options.iter().map(|options| ("PGOPTIONS", options.clone())));
        variables.extend(self.application_name.iter().map(|name| ("PGAPPNAME", name.clone())));
        variables
    }

    /// The text of a password file for the same hosts and database; `None` when there is no password to give.
    ///
    /// For a file with mode 0600 that `PGPASSFILE` names.
    #[must_use]
    pub fn passfile_text(&self) -> Option<Secret> {
        let mut text = String::new();
        for host in &self.hosts {
            let Some(password) = self.password_for(host) else { continue };
            let lines = host.passfile_names().into_iter();
            text.extend(
                lines.map(|name| passfile::line(&name, host.port, self.database(), &self.user, password)),
            );
        }
        if text.is_empty() { None } else { Some(Secret::new(text)) }
    }
}

impl Host {
    /// `host:port`, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.name {
            HostName::Tcp(name) if name.contains(':') => format!("[{name}]:{}", self.port),
            HostName::Tcp(name) => format!("{name}:{}", self.port),
            HostName::Unix(folder) => format!("{}:{}", folder.display(), self.port),
        }
    }

    fn name_for_tools(&self) -> String {
        match &self.name {
            HostName::Tcp(name) => name.clone(),
            HostName::Unix(folder) => folder.display().to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::testing::{environment, resolve};
    use super::*;

    #[test]
    fn describes_where_it_leads_and_no_secret() {
        let conninfo = resolve("postgres://u:secret@a,[::1]:7/d").unwrap();
        assert_eq!(conninfo.describe(), "a:5432,[::1]:7/d as u");
        assert_eq!(resolve("host=/run port=7").unwrap().describe(), "/run:7/me as me");
    }

    #[test]
    fn what_the_tools_are_told_leads_to_the_same_place() {
        let strings = [
            "host=a,/b hostaddr=1.2.3.4, port=1,2 user=u dbname='a=b' connect_timeout=9 options='-c x=1'",
            "host=h sslmode=verify-full sslrootcert=/r sslcert=/c sslkey=/k channel_binding=require",
            "host=h sslrootcert=system sslnegotiation=direct target_session_attrs=primary application_name=n",
            "host=h sslcertmode=disable",
        ];
        for text in strings {
            let conninfo = resolve(text).unwrap();
            let variables: Vec<_> = conninfo.environment_for_tools();
            let borrowed: Vec<(&str, &str)> =
                variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let again = Conninfo::resolve("", &environment(&borrowed, &[])).unwrap();
            let dbname = Some(conninfo.database().to_owned());
            assert_eq!(again, Conninfo { dbname, ..conninfo }, "{text}");
        }
    }

    #[test]
    fn the_password_is_in_the_file_and_nowhere_else() {
        let conninfo = resolve("host=a,/tmp port=1 user=u dbname=a:b password='p:\\\\w'").unwrap();
        let variables: BTreeMap<_, _> = conninfo.environment_for_tools().into_iter().collect();
        assert!(variables.values().all(|value| !value.contains("p:")), "{variables:?}");
        let text = conninfo.passfile_text().unwrap();
        let lines: Vec<&str> = text.reveal().lines().collect();
        assert_eq!(lines, [r"a:1:a\:b:u:p\:\\w", r"localhost:1:a\:b:u:p\:\\w", r"/tmp:1:a\:b:u:p\:\\w"]);
        assert_eq!(resolve("host=a").unwrap().passfile_text(), None);
    }
}
