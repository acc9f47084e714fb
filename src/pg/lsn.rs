//! A position in the write-ahead log.
//!
//! Hazard: positions come as *starts* (of a commit record) and as *ends* (the byte after it), and the
//! two are compared with different operators. Every name that holds one says which it is.

use std::fmt;
use std::str::FromStr;

/// A byte position in the WAL, written `16/B374D848` (docs: `datatype-pg-lsn`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u64);

impl Lsn {
    /// The position before the first byte; the server uses it for "none".
    pub const ZERO: Lsn = Lsn(0);

    /// The position of byte `offset`.
    #[must_use]
    pub const fn new(offset: u64) -> Lsn {
        Lsn(offset)
    }

    /// The byte offset, as it travels on the wire.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.0
    }

    /// Bytes from here up to `later`; zero when `later` is behind.
    #[must_use]
    pub const fn distance_to(self, later: Lsn) -> u64 {
        later.0.saturating_sub(self.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lsn({self})")
    }
}

/// Text that is not an LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid LSN {0:?}: expected two hexadecimal numbers joined by a slash")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Lsn, ParseLsnError> {
        let half = |digits: &str| {
            let plain = !digits.is_empty()
                && digits.len() <= 8
                && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Lsn(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| ParseLsnError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_it_parses() {
        for text in ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn rejects_what_is_not_an_lsn() {
        for text in ["", "/", "1", "1/", "/1", "1/2/3", "+1/2", "123456789/0", "g/0", "1/ 2"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn orders_across_the_slash() {
        assert!("1/0".parse::<Lsn>().unwrap() > "0/FFFFFFFF".parse::<Lsn>().unwrap());
    }
}
