//! Whose service a server is, as far as advice depends on it.
//!
//! Hazard: a guess may be wrong, so it words a fix and decides nothing.

use crate::pg::Identifier;

/// Who runs the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// Nobody we know: the operator, most likely.
    SelfManaged,
    /// Amazon RDS or Aurora.
    Rds,
    /// Google Cloud SQL.
    CloudSql,
    /// Azure Database for PostgreSQL, flexible server.
    Azure,
    /// Neon.
    Neon,
}

impl Provider {
    /// Recognizes a service by the role that it puts in each server.
    #[must_use]
    pub fn of_roles<'a>(mut roles: impl Iterator<Item = &'a str>) -> Provider {
        roles
            .find_map(|role| match role {
                "rds_superuser" => Some(Provider::Rds),
                "cloudsqlsuperuser" => Some(Provider::CloudSql),
                "azure_pg_admin" => Some(Provider::Azure),
                "neon_superuser" => Some(Provider::Neon),
                _ => None,
            })
            .unwrap_or(Provider::SelfManaged)
    }

    /// What switches logical decoding on (P01).
    pub(super) fn logical_wal_fix(self) -> &'static str {
        match self {
            Provider::SelfManaged => "ALTER SYSTEM SET wal_level = 'logical'; then restart the server",
            Provider::Rds => {
                "Set rds.logical_replication = 1 in the instance's (Aurora: cluster's) parameter group, then reboot"
            }
            Provider::CloudSql => "Set the flag cloudsql.logical_decoding = on (the instance restarts)",
            Provider::Azure => "Set the server parameter wal_level = logical, then restart",
            Provider::Neon => "Switch logical replication on in the project's settings in the console",
        }
    }

    /// What lets a role replicate (P04).
    pub(super) fn replication_fix(self, role: &str) -> String {
        let role = Identifier::new(role);
        match self {
            Provider::Rds => format!("GRANT rds_replication TO {role};"),
            Provider::Neon => {
                "Use a role made in Neon's console or API; roles made in SQL cannot replicate".to_owned()
            }
            Provider::SelfManaged | Provider::CloudSql | Provider::Azure => {
                format!("ALTER ROLE {role} REPLICATION;")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_known_by_its_role() {
        assert_eq!(Provider::of_roles(["app", "rds_superuser"].into_iter()), Provider::Rds);
        assert_eq!(Provider::of_roles(["app"].into_iter()), Provider::SelfManaged);
    }

    #[test]
    fn rds_grants_replication_by_membership() {
        assert_eq!(Provider::Rds.replication_fix("me"), "GRANT rds_replication TO \"me\";");
    }
}
