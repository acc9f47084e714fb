//! The keyword/value form: `host=localhost dbname='my db'` (docs: `libpq-connstring-keyword-value`).
//!
//! Hazard: an unquoted space ends a value, and what follows is read as a keyword. That may be half a
//! password, so no error shows text of the string unless it cannot be one.

use super::ConninfoError;
use super::settings::{Parameter, Settings};

/// Reads the whole string.
pub(super) fn parse(text: &str) -> Result<Settings, ConninfoError> {
    let mut settings = Settings::default();
    let mut cursor = Cursor { text, offset: 0 };
    loop {
        cursor.skip_space();
        let start = cursor.offset;
        if cursor.rest().is_empty() {
            return Ok(settings);
        }
        let keyword = cursor.keyword()?;
        let value = cursor.value()?;
        if settings.set_keyword(keyword, &value).is_err() {
            let may_be_secret = settings.is_set(Parameter::Password);
            let name = if may_be_secret { None } else { showable(keyword) };
            return Err(ConninfoError::UnknownParameter { name, offset: start });
        }
    }
}

/// The name, if it looks like one.
pub(super) fn showable(name: &str) -> Option<String> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    ((1..=40).contains(&name.len()) && name.bytes().all(word)).then(|| name.to_owned())
}

struct Cursor<'a> {
    text: &'a str,
    offset: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.offset..).unwrap_or_default()
    }

    fn skip_space(&mut self) {
        self.offset = self.text.len() - self.rest().trim_start_matches(is_space).len();
    }

    /// Takes the next character.
    fn take(&mut self) -> Option<char> {
        let next = self.rest().chars().next()?;
        self.offset += next.len_utf8();
        Some(next)
    }

    fn malformed(&self, problem: &'static str) -> ConninfoError {
        ConninfoError::Malformed { problem, offset: self.offset }
    }

    /// A keyword and its `=`, with space around either.
    fn keyword(&mut self) -> Result<&'a str, ConninfoError> {
        let rest = self.rest();
        let end = rest.find(|c| c == '=' || is_space(c)).unwrap_or(rest.len());
        let keyword = rest.get(..end).unwrap_or_default();
        self.offset += end;
        self.skip_space();
        match self.take() {
            Some('=') => Ok(keyword),
            Some(_) | None => Err(self.malformed("missing \"=\" (a value that holds spaces must be quoted)")),
        }
    }

    /// A value, quoted or not; a backslash keeps the next character from meaning anything.
    fn value(&mut self) -> Result<String, ConninfoError> {
        self.skip_space();
        let mut value = String::new();
        if self.rest().starts_with('\'') {
            let start = self.offset;
            self.take();
            loop {
                match self.take() {
                    Some('\'') => return Ok(value),
                    Some('\\') => value.extend(self.take()),
                    Some(other) => value.push(other),
                    None => {
                        let problem = "unterminated quoted value";
                        return Err(ConninfoError::Malformed { problem, offset: start });
                    }
                }
            }
        }
        while let Some(next) = self.take() {
            match next {
                '\\' => value.extend(self.take()),
                space if is_space(space) => break,
                other => value.push(other),
            }
        }
        Ok(value)
    }
}

/// C's `isspace` in the C locale.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\x0B' | '\x0C' | '\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str, parameter: Parameter) -> Option<String> {
        parse(text).ok()?.get(parameter).map(str::to_owned)
    }

    #[test]
    fn quotes_and_backslashes_keep_characters_from_meaning_anything() {
        let text = r"host = 'a b'	user=o\ 'x password='it\'s \\ =' dbname=''";
        assert_eq!(value(text, Parameter::Host).as_deref(), Some("a b"));
        assert_eq!(value(text, Parameter::User).as_deref(), Some("o 'x"));
        assert_eq!(value(text, Parameter::Password).as_deref(), Some(r"it's \ ="));
        assert_eq!(value(text, Parameter::Dbname), None);
    }

    #[test]
    fn the_last_of_two_wins() {
        assert_eq!(value("host=a host=b", Parameter::Host).as_deref(), Some("b"));
    }

    #[test]
    fn says_where_the_grammar_breaks_and_shows_nothing() {
        let quote = ConninfoError::Malformed { problem: "unterminated quoted value", offset: 14 };
        assert_eq!(parse("user=u dbname='x").err(), Some(quote));
        let error = parse("password=my secret").err().unwrap().to_string();
        assert!(!error.contains("secret") && error.contains("quoted"), "{error}");
    }

    #[test]
    fn names_an_unknown_parameter_unless_a_password_stands_before_it() {
        let unknown = |name: Option<&str>, offset| {
            Some(ConninfoError::UnknownParameter { name: name.map(str::to_owned), offset })
        };
        assert_eq!(parse("hots=h user=u").err(), unknown(Some("hots"), 0));
        assert_eq!(parse("password=my secret=1").err(), unknown(None, 12));
        assert_eq!(parse("bad,word=1").err(), unknown(None, 0));
    }
}
