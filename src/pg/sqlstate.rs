//! SQLSTATE codes, and which of them a second try can cure.

use std::fmt;

/// Five characters that class an error (docs: `errcodes-appendix`).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        impl SqlState {
            $($(#[$doc])* pub const $name: SqlState = SqlState(*$code);)*
        }
    };
}

states! {
    /// invalid_password
    INVALID_PASSWORD = b"28P01";
    /// invalid_authorization_specification
    INVALID_AUTHORIZATION = b"28000";
    /// invalid_catalog_name: the database does not exist
    UNDEFINED_DATABASE = b"3D000";
    /// invalid_parameter_value: an unknown snapshot, for one
    INVALID_PARAMETER_VALUE = b"22023";
    /// division_by_zero
    DIVISION_BY_ZERO = b"22012";
    /// invalid_text_representation
    INVALID_TEXT_REPRESENTATION = b"22P02";
    /// undefined_table
    UNDEFINED_TABLE = b"42P01";
    /// undefined_function, operators too
    UNDEFINED_FUNCTION = b"42883";
    /// undefined_object
    UNDEFINED_OBJECT = b"42704";
    /// duplicate_object
    DUPLICATE_OBJECT = b"42710";
    /// duplicate_database
    DUPLICATE_DATABASE = b"42P04";
    /// duplicate_table
    DUPLICATE_TABLE = b"42P07";
    /// duplicate_schema
    DUPLICATE_SCHEMA = b"42P06";
    /// insufficient_privilege
    INSUFFICIENT_PRIVILEGE = b"42501";
    /// object_not_in_prerequisite_state
    NOT_IN_PREREQUISITE_STATE = b"55000";
    /// object_in_use
    OBJECT_IN_USE = b"55006";
    /// lock_not_available
    LOCK_NOT_AVAILABLE = b"55P03";
    /// configuration_limit_exceeded: no free slot, for one
    CONFIGURATION_LIMIT_EXCEEDED = b"53400";
    /// too_many_connections
    TOO_MANY_CONNECTIONS = b"53300";
    /// disk_full
    DISK_FULL = b"53100";
    /// unique_violation
    UNIQUE_VIOLATION = b"23505";
    /// exclusion_violation
    EXCLUSION_VIOLATION = b"23P01";
    /// deadlock_detected
    DEADLOCK_DETECTED = b"40P01";
    /// serialization_failure
    SERIALIZATION_FAILURE = b"40001";
    /// admin_shutdown
    ADMIN_SHUTDOWN = b"57P01";
    /// crash_shutdown
    CRASH_SHUTDOWN = b"57P02";
    /// query_canceled: somebody ended a statement of ours
    QUERY_CANCELED = b"57014";
    /// idle_session_timeout
    IDLE_SESSION_TIMEOUT = b"57P05";
    /// idle_in_transaction_session_timeout
    IDLE_IN_TRANSACTION_TIMEOUT = b"25P03";
    /// read_only_sql_transaction: a primary that has just been demoted
    READ_ONLY_TRANSACTION = b"25006";
    /// out_of_memory, shared memory included
    OUT_OF_MEMORY = b"53200";
    /// cannot_connect_now
    CANNOT_CONNECT_NOW = b"57P03";
}

impl SqlState {
    /// Reads a code; `None` unless it has five bytes.
    #[must_use]
    pub fn from_code(code: &str) -> Option<SqlState> {
        code.as_bytes().try_into().ok().map(SqlState)
    }

    /// The code as text.
    #[must_use]
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("?????")
    }

    /// The first two characters: the class.
    #[must_use]
    pub fn class(&self) -> &str {
        self.code().get(..2).unwrap_or("??")
    }

    /// Whether a name did not resolve: of a function or operator, a type or collation, a table. Another
    /// `search_path` may cure that (P58).
    #[must_use]
    pub fn is_unresolved(&self) -> bool {
        [Self::UNDEFINED_FUNCTION, Self::UNDEFINED_OBJECT, Self::UNDEFINED_TABLE].contains(self)
    }

    /// Whether the same work, tried again on a new connection, may well succeed:
    /// the server stopped or restarts, a connection broke, a lock or a deadlock was lost, a disk was full (P92, P99).
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self.class(), "08" | "40" | "58")
            || [
                Self::QUERY_CANCELED,
                Self::READ_ONLY_TRANSACTION,
                Self::IDLE_IN_TRANSACTION_TIMEOUT,
                Self::IDLE_SESSION_TIMEOUT,
                Self::OUT_OF_MEMORY,
                Self::ADMIN_SHUTDOWN,
                Self::CRASH_SHUTDOWN,
                Self::CANNOT_CONNECT_NOW,
                Self::LOCK_NOT_AVAILABLE,
                Self::TOO_MANY_CONNECTIONS,
                Self::DISK_FULL,
                Self::OBJECT_IN_USE,
            ]
            .contains(self)
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqlState({})", self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_worth_another_try_and_a_typo_is_not() {
        assert!(SqlState::ADMIN_SHUTDOWN.is_transient());
        assert!(SqlState::from_code("08006").unwrap().is_transient());
        assert!(!SqlState::UNDEFINED_TABLE.is_transient());
        assert!(SqlState::from_code("123").is_none());
    }
}
