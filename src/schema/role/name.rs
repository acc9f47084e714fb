//! Which roles and databases belong to a service, and which the operator leaves out: patterns of names, as data.
//!
//! Hazard: `rds*` names Amazon's own roles on Amazon, and on any other server it names the read-side role of
//! somebody's application. So a service's patterns count only where one of its unmistakable roles is (P69).

use std::fmt;

/// A role name with `*` for any characters and `?` for one; between double quotes both mean themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolePattern {
    text: String,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Any,
    One,
    Just(char),
}

impl RolePattern {
    /// Reads a pattern. Case counts, as it does in the catalogs.
    #[must_use]
    pub fn new(text: &str) -> RolePattern {
        let mut pieces = Vec::new();
        let mut quoted = false;
        let mut chars = text.trim().chars().peekable();
        while let Some(char) = chars.next() {
            match char {
                '"' if quoted && chars.next_if_eq(&'"').is_some() => pieces.push(Piece::Just('"')),
                '"' => quoted = !quoted,
                '*' if !quoted => pieces.push(Piece::Any),
                '?' if !quoted => pieces.push(Piece::One),
                other => pieces.push(Piece::Just(other)),
            }
        }
        RolePattern { text: text.trim().to_owned(), pieces }
    }

    /// Reads patterns with commas between them, as `--excluded-roles` takes them.
    #[must_use]
    pub fn list(text: &str) -> Vec<RolePattern> {
        let mut patterns = vec![String::new()];
        let mut quoted = false;
        for char in text.chars() {
            quoted ^= char == '"';
            match (char, patterns.last_mut()) {
                (',', _) if !quoted => patterns.push(String::new()),
                (other, Some(last)) => last.push(other),
                (_, None) => {}
            }
        }
        patterns.iter().filter(|text| !text.trim().is_empty()).map(|text| RolePattern::new(text)).collect()
    }

    /// Whether a role of that name is meant.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let (mut at, mut piece) = (0, 0);
        // Where the last `*` stands, and how far the name was when it was met: only that one is ever tried again.
        let mut star = None;
        while let Some(char) = name.get(at) {
            match self.pieces.get(piece) {
                Some(Piece::Any) => {
                    star = Some((piece + 1, at));
                    piece += 1;
                }
                Some(Piece::One) => (at, piece) = (at + 1, piece + 1),
                Some(Piece::Just(wanted)) if wanted == char => (at, piece) = (at + 1, piece + 1),
                _ => match star {
                    Some((after, met)) => {
                        star = Some((after, met + 1));
                        (at, piece) = (met + 1, after);
                    }
                    None => return false,
                },
            }
        }
        self.pieces.iter().skip(piece).all(|rest| *rest == Piece::Any)
    }
}

impl fmt::Display for RolePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A service, as far as names tell.
struct Service {
    name: &'static str,
    /// Roles that only this service makes.
    marks: &'static [&'static str],
    /// Its roles, where one of those is.
    roles: &'static [&'static str],
    /// Its databases, wherever they are.
    databases: &'static [&'static str],
}

const SERVICES: [Service; 11] = [
    Service {
        name: "Amazon RDS",
        marks: &["rdsadmin", "rds_superuser"],
        roles: &["rds*"],
        databases: &["rdsadmin"],
    },
    Service {
        name: "Cloud SQL",
        marks: &["cloudsqladmin", "cloudsqlsuperuser"],
        roles: &["cloudsql*"],
        databases: &["cloudsqladmin"],
    },
    Service {
        name: "AlloyDB",
        marks: &["alloydbadmin", "alloydbsuperuser"],
        roles: &["alloydb*"],
        databases: &["alloydbadmin", "alloydbmetadata"],
    },
    Service {
        name: "Azure Database",
        marks: &["azure_pg_admin", "azuresu", "azure_superuser"],
        roles: &["azure*", "replication"],
        databases: &["azure_maintenance", "azure_sys"],
    },
    Service {
        name: "Aiven",
        marks: &["avnadmin", "_aiven"],
        roles: &["avnadmin", "_aiven*", "aiven*"],
        databases: &["_aiven"],
    },
    Service { name: "Neon", marks: &["neon_superuser"], roles: &["neon*", "cloud_admin"], databases: &[] },
    Service {
        name: "Supabase",
        marks: &["supabase_admin"],
        // Not `anon`, `authenticated` and `service_role`: row policies of the user's name these.
        roles: &["supabase*", "dashboard_user", "pgbouncer", "pgsodium*"],
        databases: &["_supabase"],
    },
    Service {
        name: "DigitalOcean",
        marks: &["doadmin", "_doadmin_managed"],
        roles: &["doadmin", "_do*"],
        databases: &["_dodb"],
    },
    Service { name: "Timescale", marks: &["tsdbadmin"], roles: &["tsdb*"], databases: &[] },
    Service { name: "Crunchy Bridge", marks: &["crunchy_superuser"], roles: &["crunchy*"], databases: &[] },
    Service { name: "Scaleway", marks: &["_rdb_superadmin"], roles: &["_rdb*"], databases: &[] },
];

/// The services that have put roles of theirs among these.
pub(super) struct Services(Vec<&'static Service>);

impl Services {
    /// Recognizes them by their unmistakable roles.
    pub(super) fn among<'a>(roles: impl Iterator<Item = &'a str>) -> Services {
        let roles: Vec<&str> = roles.collect();
        let is_there = |service: &&Service| service.marks.iter().any(|mark| roles.contains(mark));
        Services(SERVICES.iter().filter(is_there).collect())
    }

    /// The service that a role belongs to.
    pub(super) fn owner_of(&self, role: &str) -> Option<&'static str> {
        let owns = |service: &&&Service| service.roles.iter().any(|own| RolePattern::new(own).matches(role));
        self.0.iter().find(owns).map(|service| service.name)
    }
}

/// Whether a database is where a service keeps house: nobody else can read it, and nobody has to.
#[must_use]
pub fn is_service_database(name: &str) -> bool {
    SERVICES.iter().any(|service| service.databases.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        let matches = |pattern: &str, name: &str| RolePattern::new(pattern).matches(name);
        assert!(matches("app", "app") && !matches("app", "apps") && !matches("app", "App"));
        assert!(matches("*", "") && matches("a*c", "abbc") && matches("a*", "a") && !matches("a*c", "abcd"));
        assert!(matches("*_ro*_x", "team_rw_ro_x") && !matches("*_ro*_x", "team_rw_x"));
        assert!(matches("a?", "aä") && !matches("a?", "a"));
        assert!(matches("\"a*\"\"\"", "a*\"") && !matches("\"a*\"", "ab"));
    }

    #[test]
    fn a_list_is_split_outside_of_quotes() {
        let list = RolePattern::list("a, \"b,c\",,d*");
        assert_eq!(list.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a", "\"b,c\"", "d*"]);
        assert!(list[1].matches("b,c"));
    }

    #[test]
    fn a_services_patterns_count_where_it_is() {
        let amazon = Services::among(["app", "rds_superuser"].into_iter());
        assert_eq!(amazon.owner_of("rds_replication"), Some("Amazon RDS"));
        assert_eq!(amazon.owner_of("azure_sync"), None);
        let nobody = Services::among(["rds_reader", "azure_sync"].into_iter());
        assert_eq!(nobody.owner_of("rds_reader"), None);
    }

    #[test]
    fn every_mark_is_covered_by_its_own_patterns() {
        for service in &SERVICES {
            for mark in service.marks {
                assert_eq!(Services(vec![service]).owner_of(mark), Some(service.name), "{mark}");
            }
        }
    }
}
