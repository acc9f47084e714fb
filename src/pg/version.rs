//! Server versions, compared by what they can do.

use std::fmt;

/// `server_version_num`: 150018 is 15.18 (docs: `runtime-config-preset`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerVersion(u32);

impl ServerVersion {
    /// The oldest server that pgoutput exists on.
    pub const OLDEST_SOURCE: ServerVersion = ServerVersion(100_000);

    /// Wraps `server_version_num`.
    #[must_use]
    pub const fn new(number: u32) -> ServerVersion {
        ServerVersion(number)
    }

    /// The number as the server reports it.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The major version: 15 for 15.18.
    #[must_use]
    pub const fn major(self) -> u32 {
        self.0 / 10_000
    }

    /// The newest pgoutput protocol version this server speaks (docs: `protocol-logical-replication`).
    #[must_use]
    pub const fn pgoutput_version(self) -> u8 {
        match self.major() {
            ..14 => 1,
            14 => 2,
            15 => 3,
            _ => 4,
        }
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 / 10_000, self.0 % 10_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_protocol_follows_the_major() {
        let version = |major: u32| ServerVersion::new(major * 10_000 + 3).pgoutput_version();
        assert_eq!([10, 13, 14, 15, 16, 18].map(version), [1, 1, 2, 3, 4, 4]);
        assert_eq!(ServerVersion::new(150_018).to_string(), "15.18");
    }
}
