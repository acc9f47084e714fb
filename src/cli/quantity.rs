//! Sizes, durations and lists of tables, as the command line writes them.
//!
//! Hazard: a value typed after the wrong option may be a connection string with its password, so no error
//! here repeats the text it was given.

use std::num::{NonZeroU8, NonZeroU64, NonZeroUsize};
use std::time::Duration;

use crate::apply::ApplyLanes;

/// A value that cannot be read. The option's name is added by whoever knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a size.
    #[error(
        "write a size as bytes or with a unit, such as 16MB or 1.5GB (units: B, kB, MB, GB, TB; powers of 1024)"
    )]
    Size,
    /// Not a duration.
    #[error("write a duration as seconds or with a unit, such as 30s or 5min (units: ms, s, min, h, d)")]
    Duration,
    /// More than 64 bits hold.
    #[error("the number is too large")]
    TooLarge,
    /// Not a count of connections.
    #[error("write a whole number from 1 to {JOBS_MAX}")]
    Jobs,
    /// Not a rate.
    #[error("write bytes a second as bytes or with a unit, more than none, such as 50MB")]
    Rate,
    /// Not what a build can be given.
    #[error("write a size from 1MB to 1TB, such as 2GB")]
    Memory,
    /// Not a number of lanes.
    #[error("write auto, or a whole number from 1 to 16")]
    Lanes,
    /// Not a list of names.
    #[error(
        "write table names parted by commas, such as orders,sales.items (a name with a comma or capitals in double quotes)"
    )]
    Tables,
    /// Not a list of schemas or extensions.
    #[error(
        "write names parted by commas, such as sales,log_* (a name with a comma or capitals in double quotes)"
    )]
    Names,
}

/// More connections than any server of ours takes.
const JOBS_MAX: usize = 256;

/// Reads a size. Units are PostgreSQL's (docs: `config-setting`), `KB` and the `KiB` family being the same.
///
/// # Errors
/// [`QuantityError::Size`] or [`QuantityError::TooLarge`].
pub(super) fn bytes(text: &str) -> Result<u64, QuantityError> {
    let (number, unit) = split(text).ok_or(QuantityError::Size)?;
    let shift = match unit {
        "" | "B" => 0,
        "kB" | "KB" | "KiB" => 10,
        "MB" | "MiB" => 20,
        "GB" | "GiB" => 30,
        "TB" | "TiB" => 40,
        _ => return Err(QuantityError::Size),
    };
    scaled(number, 1 << shift).ok_or(QuantityError::Size)?.try_into().map_err(|_| QuantityError::TooLarge)
}

/// A size that may be `-1`, for none: aiven-db-migrate's way of writing that there is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit(pub Option<u64>);

/// Reads a limit.
///
/// # Errors
/// As [`bytes`].
pub(super) fn limit(text: &str) -> Result<Limit, QuantityError> {
    match text {
        "-1" => Ok(Limit(None)),
        size => bytes(size).map(|bytes| Limit(Some(bytes))),
    }
}

/// Reads bytes a second; `/s` may follow.
///
/// # Errors
/// [`QuantityError::Rate`] or [`QuantityError::TooLarge`].
pub(super) fn rate(text: &str) -> Result<NonZeroU64, QuantityError> {
    match bytes(text.strip_suffix("/s").unwrap_or(text)) {
        Ok(bytes) => NonZeroU64::new(bytes).ok_or(QuantityError::Rate),
        Err(QuantityError::TooLarge) => Err(QuantityError::TooLarge),
        Err(_) => Err(QuantityError::Rate),
    }
}

/// Reads a `maintenance_work_mem` that every server takes.
///
/// # Errors
/// [`QuantityError::Memory`].
pub(super) fn memory(text: &str) -> Result<u64, QuantityError> {
    bytes(text).ok().filter(|bytes| (1 << 20..=1 << 40).contains(bytes)).ok_or(QuantityError::Memory)
}

/// Reads a duration, to the millisecond. A bare number is seconds.
///
/// # Errors
/// [`QuantityError::Duration`] or [`QuantityError::TooLarge`].
pub(super) fn duration(text: &str) -> Result<Duration, QuantityError> {
    let (number, unit) = split(text).ok_or(QuantityError::Duration)?;
    let millis_each = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(QuantityError::Duration),
    };
    let millis = scaled(number, millis_each).ok_or(QuantityError::Duration)?;
    u64::try_from(millis).map(Duration::from_millis).map_err(|_| QuantityError::TooLarge)
}

/// Reads a number of connections.
///
/// # Errors
/// [`QuantityError::Jobs`].
pub(super) fn jobs(text: &str) -> Result<NonZeroUsize, QuantityError> {
    text.parse().ok().filter(|jobs: &NonZeroUsize| jobs.get() <= JOBS_MAX).ok_or(QuantityError::Jobs)
}

/// Reads how many lanes changes may be applied in.
///
/// # Errors
/// [`QuantityError::Lanes`].
pub(super) fn lanes(text: &str) -> Result<ApplyLanes, QuantityError> {
    match text.parse() {
        Ok(lanes @ 1..=16) => NonZeroU8::new(lanes).map(ApplyLanes::Fixed).ok_or(QuantityError::Lanes),
        Err(_) if text == "auto" => Ok(ApplyLanes::Auto),
        Ok(_) | Err(_) => Err(QuantityError::Lanes),
    }
}

/// Names parted by commas. Quotes are kept: what a name means is for the catalog to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableList(pub Vec<String>);

/// Parts a list at the commas that stand outside double quotes.
///
/// # Errors
/// [`QuantityError::Tables`] if a name is empty or a quote is not closed.
pub(super) fn tables(text: &str) -> Result<TableList, QuantityError> {
    let mut names = vec![String::new()];
    let mut quoted = false;
    for character in text.chars() {
        quoted ^= character == '"';
        match names.last_mut() {
            Some(name) if character != ',' || quoted => name.push(character),
            _ => names.push(String::new()),
        }
    }
    let names: Vec<String> = names.iter().map(|name| name.trim().to_owned()).collect();
    if quoted || names.iter().any(String::is_empty) {
        return Err(QuantityError::Tables);
    }
    Ok(TableList(names))
}

/// As [`tables`], for schemas and extensions.
///
/// # Errors
/// [`QuantityError::Names`], likewise.
pub(super) fn names(text: &str) -> Result<TableList, QuantityError> {
    tables(text).map_err(|_| QuantityError::Names)
}

/// Parts a number from its unit; blanks between them are fine, as they are for PostgreSQL.
fn split(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let end =
        text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    (!number.is_empty()).then_some((number, unit.trim_start()))
}

/// `number` × `each`, exactly, what is finer than one dropped; `None` if it is no decimal number.
///
/// What does not fit 128 bits comes out as the largest number, which no caller accepts.
fn scaled(number: &str, each: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    // Nine decimals part even a terabyte into kilobytes; more would only overflow.
    let fraction = fraction.get(..9).unwrap_or(fraction);
    if !digits(whole) || !digits(fraction) || whole.len() + fraction.len() == 0 {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u128>().unwrap_or(u128::MAX) };
    let below = u32::try_from(fraction.len()).ok()?;
    let fraction = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().ok()? };
    Some(whole.saturating_mul(each).saturating_add(fraction * each / 10_u128.pow(below)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_postgresql() {
        for (text, expected) in [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("16kB", 16 << 10),
            ("16MB", 16 << 20),
            ("1GiB", 1 << 30),
            ("1.5GB", 3 << 29),
            (".5kB", 512),
            ("2 TB", 2 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text:?}");
        }
        for text in ["", "MB", "-1", "16 mb", "1e3", "1.2.3GB", ".", "16Mb", "0x10", "١"] {
            assert_eq!(bytes(text), Err(QuantityError::Size), "{text:?}");
        }
        for text in ["18446744073709551616", "99999999TB", &"9".repeat(60)] {
            assert_eq!(bytes(text), Err(QuantityError::TooLarge), "{text:?}");
        }
    }

    #[test]
    fn memory_is_what_servers_take() {
        assert_eq!((memory("1MB"), memory("1TB")), (Ok(1 << 20), Ok(1 << 40)));
        for text in ["1023kB", "1025GB", "", "much"] {
            assert_eq!(memory(text), Err(QuantityError::Memory), "{text:?}");
        }
    }

    #[test]
    fn rates_are_sizes_of_something() {
        for text in ["50MB", "50MB/s", "50 MB"] {
            assert_eq!(rate(text).map(NonZeroU64::get), Ok(50 << 20), "{text:?}");
        }
        for text in ["0", "", "/s", "fast", "-1"] {
            assert_eq!(rate(text), Err(QuantityError::Rate), "{text:?}");
        }
    }

    #[test]
    fn durations_have_units() {
        for (text, millis) in [
            ("30", 30_000),
            ("30s", 30_000),
            ("250ms", 250),
            ("1.5s", 1_500),
            ("5min", 300_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text:?}");
        }
        for text in ["", "s", "-5s", "5 weeks", "1h30m"] {
            assert_eq!(duration(text), Err(QuantityError::Duration), "{text:?}");
        }
    }

    #[test]
    fn jobs_are_counted_from_one() {
        assert_eq!(jobs("4").map(NonZeroUsize::get), Ok(4));
        for text in ["0", "257", "-1", "four", ""] {
            assert_eq!(jobs(text), Err(QuantityError::Jobs), "{text:?}");
        }
    }

    #[test]
    fn lanes_are_a_number_or_auto() {
        assert_eq!(lanes("auto"), Ok(ApplyLanes::Auto));
        assert_eq!(lanes("16"), Ok(ApplyLanes::Fixed(NonZeroU8::new(16).unwrap())));
        for text in ["0", "17", "-1", "Auto", ""] {
            assert_eq!(lanes(text), Err(QuantityError::Lanes), "{text:?}");
        }
    }

    #[test]
    fn commas_inside_quotes_belong_to_the_name() {
        let list = |text| tables(text).map(|list| list.0);
        assert_eq!(list("a, s.b").unwrap(), ["a", "s.b"]);
        assert_eq!(list("\"A,b\".\"c\"\"d,\",e*").unwrap(), ["\"A,b\".\"c\"\"d,\"", "e*"]);
        for text in ["", "a,", ",a", "a,,b", "\"a"] {
            assert_eq!(list(text), Err(QuantityError::Tables), "{text:?}");
        }
    }
}
