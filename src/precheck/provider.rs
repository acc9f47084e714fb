//! Whose service a server is, as far as advice depends on it.
//!
//! Hazard: a guess may be wrong, so it words a fix and decides nothing.

use std::collections::HashSet;

/// Who runs the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Provider {
    /// Nobody we know: the operator, most likely.
    SelfManaged,
    /// Amazon RDS.
    Rds,
    /// Amazon Aurora.
    Aurora,
    /// Google Cloud SQL.
    CloudSql,
    /// Azure Database for PostgreSQL, flexible server.
    Azure,
    /// Aiven, and those who resell it.
    Aiven,
    /// Neon.
    Neon,
    /// Supabase.
    Supabase,
    /// Heroku Postgres.
    Heroku,
}

/// What a server holds that may tell.
#[derive(Debug, Clone, Default)]
pub(super) struct Signs(HashSet<(String, String)>);

impl Signs {
    /// Adds a role, a schema or a function.
    pub(super) fn add(&mut self, kind: String, name: String) {
        self.0.insert((kind, name));
    }

    fn has(&self, kind: &str, name: &str) -> bool {
        self.0.contains(&(kind.to_owned(), name.to_owned()))
    }
}

/// What each service puts into its servers. Those that run on another one's servers stand first.
const MARKS: [(&str, &str, Provider); 8] = [
    ("schema", "heroku_ext", Provider::Heroku),
    ("role", "supabase_admin", Provider::Supabase),
    ("role", "neon_superuser", Provider::Neon),
    ("role", "avnadmin", Provider::Aiven),
    ("function", "aurora_version", Provider::Aurora),
    ("role", "rds_superuser", Provider::Rds),
    ("role", "cloudsqlsuperuser", Provider::CloudSql),
    ("role", "azure_pg_admin", Provider::Azure),
];

impl Provider {
    /// Recognizes a service by what it puts into each server.
    pub(super) fn of(signs: &Signs) -> Provider {
        let mark = MARKS.iter().find(|(kind, name, _)| signs.has(kind, name));
        mark.map_or(Provider::SelfManaged, |(_, _, provider)| *provider)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(found: &[(&str, &str)]) -> Provider {
        let mut signs = Signs::default();
        found.iter().for_each(|(kind, name)| signs.add((*kind).to_owned(), (*name).to_owned()));
        Provider::of(&signs)
    }

    #[test]
    fn a_service_is_known_by_what_it_puts_there() {
        assert_eq!(of(&[("role", "app"), ("role", "rds_superuser")]), Provider::Rds);
        assert_eq!(of(&[("role", "rds_superuser"), ("function", "aurora_version")]), Provider::Aurora);
        assert_eq!(of(&[("schema", "heroku_ext"), ("role", "rds_superuser")]), Provider::Heroku);
        assert_eq!(of(&[("role", "avnadmin")]), Provider::Aiven);
        assert_eq!(of(&[("role", "app"), ("schema", "rds_superuser")]), Provider::SelfManaged);
    }
}
