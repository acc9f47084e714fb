//! The URI form: `postgresql://user:secret@host:5432,other/db?sslmode=require` (docs: `libpq-connstring-uris`).
//!
//! Hazard: a password with a raw `/` or `@` moves the borders of everything after it (P94), so that a piece
//! of it stands where a port or a parameter should. No error shows text of the URI unless it cannot be one.

use percent_encoding::percent_decode_str;

use super::ConninfoError;
use super::keyword::showable;
use super::settings::{Given, Parameter, Settings};

/// The text after the scheme, if there is one of ours.
pub(super) fn after_scheme(text: &str) -> Option<&str> {
    text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"))
}

/// Reads `text`, whose part after the scheme is `rest`.
pub(super) fn parse(text: &str, rest: &str) -> Result<Settings, ConninfoError> {
    let mut uri = Uri { text, settings: Settings::default() };
    let after = uri.credentials(rest)?;
    let has_credentials = after.len() < rest.len();
    let rest = uri.hosts(after)?;
    // What is left is empty, or begins with '/' or '?'.
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    // `user:12/34@host`: the password's slash has made a host and a port of what stands before it.
    if !has_credentials && rest.len() < after.len() && path.contains('@') {
        return Err(uri.malformed(
            "\"@\" in a database's name; in a password, write \"/\" as %2F, else \"@\" as %40",
            path,
        ));
    }
    // An empty path sets nothing, so that PGDATABASE still counts.
    uri.set_unless_empty(Parameter::Dbname, path.strip_prefix('/').unwrap_or_default())?;
    let query = query.unwrap_or_default();
    // libpq lets one '&' end the query.
    for pair in query.split_inclusive('&') {
        uri.query_parameter(pair.strip_suffix('&').unwrap_or(pair))?;
    }
    Ok(uri.settings)
}

struct Uri<'a> {
    text: &'a str,
    settings: Settings,
}

impl<'a> Uri<'a> {
    /// Where `part`, a slice of the text, begins.
    fn offset_of(&self, part: &str) -> usize {
        (part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize)
    }

    fn malformed(&self, problem: &'static str, at: &str) -> ConninfoError {
        ConninfoError::Malformed { problem, offset: self.offset_of(at) }
    }

    fn set_unless_empty(&mut self, parameter: Parameter, encoded: &str) -> Result<(), ConninfoError> {
        if !encoded.is_empty() {
            let value = self.decoded(encoded)?;
            self.settings.set(parameter, value, Given::ConnectionString);
        }
        Ok(())
    }

    /// `user:password@`, if there is an `@` before the first `/`.
    fn credentials(&mut self, rest: &'a str) -> Result<&'a str, ConninfoError> {
        let (credentials, after) = cut(rest, &['@', '/']);
        let Some(rest) = after.strip_prefix('@') else { return Ok(rest) };
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        self.set_unless_empty(Parameter::User, user)?;
        self.set_unless_empty(Parameter::Password, password)?;
        Ok(rest)
    }

    /// `host:port,host:port`; each part may be empty, an IPv6 address stands in brackets.
    fn hosts(&mut self, mut rest: &'a str) -> Result<&'a str, ConninfoError> {
        let (mut hosts, mut ports) = (Vec::new(), Vec::new());
        loop {
            let host;
            (host, rest) = match rest.strip_prefix('[') {
                Some(inside) => self.bracketed(inside)?,
                None => cut(rest, &[':', '/', '?', ',']),
            };
            // The piece of a password would be shown wherever a host is named.
            if host.contains('@') {
                return Err(self.malformed("\"@\" in a host's name; in a password, write it %40", host));
            }
            hosts.push(host);
            let mut port = "";
            if let Some(after) = rest.strip_prefix(':') {
                (port, rest) = cut(after, &['/', '?', ',']);
            }
            ports.push(port);
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        // Decoded after they are joined: a comma may be percent-encoded (docs: multiple hosts).
        let [hosts, ports] = [self.joined(&hosts)?, self.joined(&ports)?];
        for (parameter, list) in [(Parameter::Host, hosts), (Parameter::Port, ports)] {
            if !list.is_empty() {
                self.settings.set(parameter, list, Given::ConnectionString);
            }
        }
        Ok(rest)
    }

    fn joined(&self, parts: &[&str]) -> Result<String, ConninfoError> {
        let decoded: Result<Vec<String>, _> = parts.iter().map(|part| self.decoded(part)).collect();
        decoded.map(|parts| parts.join(","))
    }

    /// The address before `]`, and what follows it.
    fn bracketed(&self, inside: &'a str) -> Result<(&'a str, &'a str), ConninfoError> {
        let Some((address, rest)) = inside.split_once(']') else {
            return Err(self.malformed("missing \"]\" after an IPv6 address", inside));
        };
        if address.is_empty() {
            return Err(self.malformed("empty IPv6 address", inside));
        }
        if !rest.is_empty() && !rest.starts_with([':', '/', '?', ',']) {
            return Err(self.malformed("unexpected character after an IPv6 address", rest));
        }
        Ok((address, rest))
    }

    /// `keyword=value`.
    fn query_parameter(&mut self, pair: &str) -> Result<(), ConninfoError> {
        let Some((keyword, value)) = pair.split_once('=') else {
            return Err(self.malformed("missing \"=\" in a query parameter", pair));
        };
        if value.contains('=') {
            return Err(self.malformed("a second \"=\" in a query parameter", pair));
        }
        let (keyword, value) = (self.decoded(keyword)?, self.decoded(value)?);
        // JDBC's way of saying it, which libpq takes too.
        if (keyword.as_str(), value.as_str()) == ("ssl", "true") {
            self.settings.set(Parameter::SslMode, "require", Given::ConnectionString);
            return Ok(());
        }
        if self.settings.set_keyword(&keyword, &value).is_err() {
            let offset = self.offset_of(pair);
            // An '@' to come says that the password was not encoded and reaches up to here.
            let may_be_secret = self.text.get(offset..).is_none_or(|rest| rest.contains('@'));
            let name = if may_be_secret { None } else { showable(&keyword) };
            return Err(ConninfoError::UnknownParameter { name, offset });
        }
        Ok(())
    }

    /// Undoes percent-encoding; `+` stays `+`.
    fn decoded(&self, encoded: &str) -> Result<String, ConninfoError> {
        let tokens = encoded.split('%').skip(1);
        for token in tokens {
            match token.as_bytes() {
                [b'0', b'0', ..] => return Err(self.malformed("%00 is not allowed", token)),
                [high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {}
                _ => return Err(self.malformed("\"%\" without two hexadecimal digits (write %25)", token)),
            }
        }
        match percent_decode_str(encoded).decode_utf8() {
            Ok(text) => Ok(text.into_owned()),
            Err(_) => Err(self.malformed("percent-encoded bytes that are not UTF-8", encoded)),
        }
    }
}

/// The text before the first of `ends`, and the rest from there on.
fn cut<'a>(text: &'a str, ends: &[char]) -> (&'a str, &'a str) {
    text.split_at_checked(text.find(ends).unwrap_or(text.len())).unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Settings, ConninfoError> {
        parse(text, after_scheme(text).unwrap())
    }

    fn values<const N: usize>(text: &str, parameters: [Parameter; N]) -> [Option<String>; N] {
        let settings = parsed(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        parameters.map(|parameter| settings.get(parameter).map(str::to_owned))
    }

    #[test]
    fn decodes_every_part() {
        let text = "postgres://us%40er:p%40s%2Fs%3A@h%2Dost:%35432/d%20b?application%5Fname=a%26b";
        use Parameter::{ApplicationName, Dbname, Host, Password, Port, User};
        let values = values(text, [User, Password, Host, Port, Dbname, ApplicationName]);
        let expected = ["us@er", "p@s/s:", "h-ost", "5432", "d b", "a&b"];
        assert_eq!(values, expected.map(|text| Some(text.to_owned())));
    }

    #[test]
    fn takes_several_hosts_addresses_in_brackets_and_sockets() {
        use Parameter::{Host, Port};
        let cases = [
            ("postgres://a:1,b,[::1]:3/d", "a,b,::1", "1,,3"),
            ("postgres://%2Fvar%2Frun:1", "/var/run", "1"),
            ("postgresql:///d?host=/tmp&port=7", "/tmp", "7"),
            ("postgres://a%2Cb:1", "a,b", "1"),
        ];
        for (text, host, port) in cases {
            assert_eq!(values(text, [Host, Port]), [host, port].map(|text| Some(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn empty_parts_set_nothing() {
        use Parameter::{Dbname, Host, Password, User};
        for text in [
            "postgres://",
            "postgres:///",
            "postgres://@",
            "postgres://:@/?",
            "postgresql:///?sslmode=prefer&",
        ] {
            assert_eq!(values(text, [Host, Dbname, User, Password]), [const { None }; 4], "{text}");
        }
    }

    #[test]
    fn jdbc_ssl_and_requiressl_are_sslmode() {
        for query in ["ssl=true", "requiressl=1"] {
            let text = format!("postgres://h?{query}");
            assert_eq!(values(&text, [Parameter::SslMode]), [Some("require".to_owned())]);
        }
    }

    #[test]
    fn refuses_broken_grammar() {
        let cases = [
            "postgres://[::1",
            "postgres://[]",
            "postgres://[::1]x",
            "postgres://h?a",
            "postgres://h?user=a=b",
            "postgres://h/%",
            "postgres://h/%4",
            "postgres://h/%zz",
            "postgres://h/a%00",
            "postgres://h/%FF",
            "postgres://h?user=a&&port=1",
            "postgres://u:a@b@h/d",
            "postgres://u:12/34@h/d",
        ];
        for text in cases {
            let error = parsed(text).err();
            assert!(matches!(error, Some(ConninfoError::Malformed { .. })), "{text}: {error:?}");
        }
    }

    #[test]
    fn shows_no_piece_of_a_password_that_was_not_encoded() {
        for text in [
            "postgres://u:pa/ss?secret=1@h/d",
            "postgres://u:secret/x@h:5?y=1",
            "postgres://u:a?secret@h?b",
            "postgres://u:a@secret@h/d",
            "postgres://u:a@b,secret@h/d",
            "postgres://u:12/secret@h/d",
        ] {
            let error = super::super::testing::resolve(text).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("secret"), "{shown}");
        }
    }
}
