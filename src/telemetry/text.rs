//! Numbers and foreign text, for people.
//!
//! Hazard: a table's name or a server's message may hold escape sequences that rewrite a terminal or forge
//! a second log line; [`printable`] takes them out.

use std::borrow::Cow;
use std::time::Duration;

/// A size in PostgreSQL's units, powers of 1024, three digits: `870 bytes`, `1.50 GB`.
#[must_use]
#[allow(clippy::cast_precision_loss)] // three digits are shown
pub fn bytes(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let mut value = bytes as f64;
    let mut unit = "bytes";
    for next in ["kB", "MB", "GB", "TB", "PB"] {
        // 999.5 would be written "1000": the next unit says it in three digits.
        if value < 999.5 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    let decimals = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.decimals$} {unit}")
}

/// A count with a space between thousands: `1 234 567`.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A count and its noun: `1 table`, `2 tables`.
#[must_use]
pub fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// The first three of a list, and how many more there are: `a, b, c and 4 more`; `None` of an empty one.
#[must_use]
pub fn first_few(list: impl ExactSizeIterator<Item = String>) -> Option<String> {
    const SHOWN: usize = 3;
    let more = list.len().saturating_sub(SHOWN);
    let shown: Vec<String> = list.take(SHOWN).collect();
    match (shown.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(shown.join(", ")),
        (false, more) => Some(format!("{} and {more} more", shown.join(", "))),
    }
}

/// A duration to two units: `0.4s`, `42s`, `5m 10s`, `1h 02m`, `3d 04h`.
#[must_use]
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{}.{}s", seconds, duration.subsec_millis() / 100),
        10..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Time since the start, as the first column of a line: `01:02:03`.
#[must_use]
pub fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

/// The text on one line, without characters that a terminal obeys.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(obeyed) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|character| if obeyed(character) { ' ' } else { character }).collect())
}

/// The text with its line breaks, every line as harmless as [`printable`] makes it. Lines after the first
/// begin with `indent`, so that foreign text cannot pass for a line of ours.
#[must_use]
pub fn printable_lines(text: &str, indent: &str) -> String {
    let lines: Vec<Cow<'_, str>> = text.trim_end().lines().map(printable).collect();
    lines.join(&format!("\n{indent}"))
}

/// Control characters, and the marks that reorder the text around them.
fn obeyed(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_at_most() {
        let cases = [
            (0, "0 bytes"),
            (1_023, "1023 bytes"),
            (1_024, "1.00 kB"),
            (1_536 * 1024 * 1024, "1.50 GB"),
            (999 * 1024, "999 kB"),
            (1_000 * 1024, "0.98 MB"),
            (10 * 1024 * 1024, "10.0 MB"),
            (u64::MAX, "16384 PB"),
        ];
        for (number, text) in cases {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn counts_and_durations_read_easily() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1 000", "1 234 567"]);
        let texts =
            [450, 42_000, 310_000, 3_720_000, 273_600_000].map(|ms| duration(Duration::from_millis(ms)));
        assert_eq!(texts, ["0.4s", "42s", "5m 10s", "1h 02m", "3d 04h"]);
        assert_eq!(clock(Duration::from_secs(100 * 3_600 + 61)), "100:01:01");
    }

    #[test]
    fn foreign_text_cannot_drive_the_terminal() {
        assert_eq!(printable("public.\"Ä b\""), "public.\"Ä b\"");
        assert_eq!(printable("a\u{1b}[2Jb\r\nERROR c\u{202e}d"), "a [2Jb  ERROR c d");
    }

    #[test]
    fn lines_stay_lines_and_cannot_pass_for_ours() {
        assert_eq!(printable_lines("one", "  "), "one");
        assert_eq!(printable_lines("a\u{1b}[2J\r\npgstream: done\rx\n\n", "  "), "a [2J\n  pgstream: done x");
    }
}
