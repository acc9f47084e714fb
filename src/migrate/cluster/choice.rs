//! Which databases of a server move, and what each is called on the target. Pure.
//!
//! Hazard: a name that fits nothing is a typing error, and the database it meant would be left behind, or
//! moved, against the operator's word. So an unknown name is refused, also one that is to be left out.
//!
//! Names are literal, as those that psql and pg_dump take: no folding to lower case, no patterns. In double
//! quotes a name may hold what otherwise ends it, a colon or a comma; a doubled quote inside stands for one.
//! A bare name holds no `=` and no `://`, by which a connection string is known that was typed here by mistake.

use std::collections::HashSet;
use std::str::FromStr;

use crate::schema::is_service_database;

/// The server cuts what is longer, and would make or reach a database of another name.
pub(crate) const NAME_BYTES: usize = 63;

/// The system's own templates.
const TEMPLATES: [&str; 2] = ["template0", "template1"];

/// Whether a database may hold anybody's data; the system's templates and the services' own do not.
fn is_data(name: &str) -> bool {
    !TEMPLATES.contains(&name) && !is_service_database(name)
}

/// The database that every server has and few use: left out while it is empty.
pub(super) const USUAL: &str = "postgres";

/// A database, and what it is called on the target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// On the source.
    pub source: String,
    /// On the target.
    pub target: String,
}

/// Which databases move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The one that the connection strings name; the list of databases is not even looked at.
    One(Pair),
    /// These.
    Named(Vec<Pair>),
    /// All that hold data but these.
    All {
        /// Left out.
        except: Vec<String>,
    },
}

/// A database of the source, as the server lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) name: String,
    /// Unknown where we may not ask.
    pub(super) bytes: Option<u64>,
    pub(super) closed: Option<Closed>,
    pub(super) content: Content,
}

/// Whether a database is worth moving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// It holds something, or was not looked into.
    Data,
    /// Nothing but what every new database holds.
    Nothing,
}

/// Why nobody can connect to a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Closed {
    #[error("it does not accept connections (datallowconn is false)")]
    NoConnections,
    #[error("a DROP DATABASE was interrupted in it, and it can only be dropped")]
    Invalid,
    #[error("our role lacks the CONNECT privilege")]
    NoPrivilege,
}

/// A choice that cannot be met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ChoiceError {
    #[error("there is no database {0:?} on the source")]
    Unknown(String),
    #[error("there is no database {0:?} on the source to leave out")]
    UnknownException(String),
    #[error("no database is left to move")]
    Nothing,
}

/// A database that is to be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) pair: Pair,
    pub(super) bytes: u64,
    pub(super) closed: Option<Closed>,
}

/// Chooses among what the source has; the largest come first, for they take longest.
pub(super) fn choose(wanted: &Wanted, listed: &[Listed]) -> Result<Vec<Chosen>, ChoiceError> {
    let find = |name: &str| listed.iter().find(|listed| listed.name == name);
    let chosen = |pair: Pair, listed: &Listed| Chosen {
        pair,
        bytes: listed.bytes.unwrap_or(0),
        closed: listed.closed,
    };
    let mut all: Vec<Chosen> = match wanted {
        Wanted::One(pair) => named(std::slice::from_ref(pair), find, chosen)?,
        Wanted::Named(pairs) => named(pairs, find, chosen)?,
        Wanted::All { except } => {
            let unknown = |name: &&String| find(name).is_none() && is_data(name);
            if let Some(name) = except.iter().find(unknown) {
                return Err(ChoiceError::UnknownException(name.clone()));
            }
            listed
                .iter()
                .filter(|listed| is_data(&listed.name))
                .filter(|listed| listed.content == Content::Data && !except.contains(&listed.name))
                .map(|listed| {
                    let pair = Pair { source: listed.name.clone(), target: listed.name.clone() };
                    chosen(pair, listed)
                })
                .collect()
        }
    };
    if all.is_empty() {
        return Err(ChoiceError::Nothing);
    }
    all.sort_by(|one, other| other.bytes.cmp(&one.bytes).then_with(|| one.pair.cmp(&other.pair)));
    Ok(all)
}

fn named<'l>(
    pairs: &[Pair],
    find: impl Fn(&str) -> Option<&'l Listed>,
    chosen: impl Fn(Pair, &Listed) -> Chosen,
) -> Result<Vec<Chosen>, ChoiceError> {
    let one = |pair: &Pair| {
        let listed = find(&pair.source).ok_or_else(|| ChoiceError::Unknown(pair.source.clone()))?;
        Ok(chosen(pair.clone(), listed))
    };
    pairs.iter().map(one).collect()
}

/// The first name that stands twice on either side: two databases cannot become one.
#[must_use]
pub fn twice(pairs: &[Pair]) -> Option<&str> {
    let (mut sources, mut targets) = (HashSet::new(), HashSet::new());
    pairs.iter().find_map(|pair| {
        let again = |set: &mut HashSet<_>, name| !set.insert(name);
        if again(&mut sources, &pair.source) {
            Some(pair.source.as_str())
        } else if again(&mut targets, &pair.target) {
            Some(pair.target.as_str())
        } else {
            None
        }
    })
}

/// Text that names no database, or not the way we read it. It holds nothing of the text, which may be a
/// connection string in the wrong place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "write a database's name as it is, such as shop or shop:new_name, in double quotes if it holds a colon, a comma or an equals sign; it has at most 63 bytes"
)]
pub struct InvalidName;

impl FromStr for Pair {
    type Err = InvalidName;

    /// `SRC` or `SRC:DST`.
    fn from_str(text: &str) -> Result<Pair, InvalidName> {
        let mut names = split(text, ':')?.into_iter();
        match (names.next(), names.next(), names.next()) {
            (Some(source), None, _) => Ok(Pair { target: source.clone(), source }),
            (Some(source), Some(target), None) => Ok(Pair { source, target }),
            _ => Err(InvalidName),
        }
    }
}

/// Reads names parted by commas.
///
/// # Errors
/// [`InvalidName`] if one is empty, or a quote is not closed.
pub fn names(text: &str) -> Result<Vec<String>, InvalidName> {
    split(text, ',')
}

/// Parts names at `separator`. A quote counts only where a name begins, so that `My "odd"-db` is a name.
fn split(text: &str, separator: char) -> Result<Vec<String>, InvalidName> {
    let mut names = Vec::new();
    let mut rest = text;
    loop {
        let (name, after) = match rest.trim_start().strip_prefix('"') {
            Some(quoted) => unquote(quoted, separator)?,
            None => {
                let (name, after) =
                    rest.split_once(separator).map_or((rest, None), |(name, after)| (name, Some(after)));
                // A connection string in the wrong place: a message that repeats the name would tell its password (P94).
                if name.contains('=') || rest.contains("://") {
                    return Err(InvalidName);
                }
                (name.trim().to_owned(), after)
            }
        };
        if name.is_empty() || name.contains('\0') || name.len() > NAME_BYTES {
            return Err(InvalidName);
        }
        names.push(name);
        match after {
            Some(after) => rest = after,
            None => return Ok(names),
        }
    }
}

/// Reads up to the closing quote; what follows must be the separator or the end.
fn unquote(text: &str, separator: char) -> Result<(String, Option<&str>), InvalidName> {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"').ok_or(InvalidName)?;
        name.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => {
                let after = after.trim_start();
                return match after.strip_prefix(separator) {
                    Some(after) => Ok((name, Some(after))),
                    None if after.is_empty() => Ok((name, None)),
                    None => Err(InvalidName),
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(source: &str, target: &str) -> Pair {
        Pair { source: source.to_owned(), target: target.to_owned() }
    }

    fn listed(name: &str, bytes: u64) -> Listed {
        Listed { name: name.to_owned(), bytes: Some(bytes), closed: None, content: Content::Data }
    }

    fn server() -> Vec<Listed> {
        vec![
            listed("_aiven", 9),
            Listed { content: Content::Nothing, ..listed("postgres", 7) },
            listed("rdsadmin", 9),
            listed("Shop", 20),
            Listed { closed: Some(Closed::NoConnections), bytes: None, ..listed("shut", 0) },
            listed("template0", 7),
            listed("template1", 7),
            listed("web", 30),
        ]
    }

    fn chosen(wanted: &Wanted) -> Result<Vec<String>, ChoiceError> {
        choose(wanted, &server()).map(|all| all.into_iter().map(|one| one.pair.source).collect())
    }

    fn all_but(except: &[&str]) -> Wanted {
        Wanted::All { except: except.iter().map(|name| (*name).to_owned()).collect() }
    }

    #[test]
    fn a_whole_server_is_its_data_the_largest_first() {
        assert_eq!(chosen(&all_but(&[])).unwrap(), ["web", "Shop", "shut"]);
        let shut = choose(&all_but(&[]), &server()).unwrap().pop().unwrap();
        assert_eq!(shut.closed, Some(Closed::NoConnections), "it is not left out in silence");
        assert_eq!(chosen(&all_but(&["web", "shut", "rdsadmin", "azure_sys"])).unwrap(), ["Shop"]);
    }

    #[test]
    fn a_usual_database_that_holds_something_is_moved() {
        let mut server = server();
        server[1].content = Content::Data;
        let all = choose(&all_but(&[]), &server).unwrap();
        assert!(all.iter().any(|one| one.pair.source == USUAL));
    }

    #[test]
    fn names_that_fit_nothing_are_refused() {
        assert_eq!(chosen(&all_but(&["shop"])), Err(ChoiceError::UnknownException("shop".to_owned())));
        assert_eq!(
            chosen(&Wanted::Named(vec![pair("shop", "x")])),
            Err(ChoiceError::Unknown("shop".to_owned()))
        );
        assert_eq!(chosen(&all_but(&["web", "Shop", "shut"])), Err(ChoiceError::Nothing));
        assert_eq!(chosen(&Wanted::Named(vec![pair("Shop", "x"), pair("postgres", "y")])).unwrap().len(), 2);
    }

    #[test]
    fn a_pair_is_read_as_it_is_written() {
        for (text, expected) in [
            ("shop", pair("shop", "shop")),
            ("Shop:new", pair("Shop", "new")),
            ("My \"odd\"-db", pair("My \"odd\"-db", "My \"odd\"-db")),
            ("\"a:b\":c", pair("a:b", "c")),
            ("\"My \"\"odd\"\"-db\"", pair("My \"odd\"-db", "My \"odd\"-db")),
            ("a:\"b, c:d\"", pair("a", "b, c:d")),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in [
            "",
            ":",
            "a:",
            ":b",
            "a:b:c",
            "\"a",
            "\"a\"b",
            "\"\"",
            " ",
            "postgres://u:p@h/d",
            "host=h password=p",
        ] {
            assert_eq!(text.parse::<Pair>(), Err(InvalidName), "{text:?}");
        }
        let long = "ä".repeat(31);
        assert_eq!(format!("a:{long}x").parse(), Ok(pair("a", &format!("{long}x"))));
        assert_eq!(format!("a:{long}xy").parse::<Pair>(), Err(InvalidName));
    }

    #[test]
    fn a_list_is_parted_at_commas_outside_quotes() {
        assert_eq!(names("a, B,\"c,d\",e:f").unwrap(), ["a", "B", "c,d", "e:f"]);
        for text in ["", "a,", ",a", "a,,b", "a,postgres://u:p@h/d", "password=p"] {
            assert_eq!(names(text), Err(InvalidName), "{text:?}");
        }
    }

    #[test]
    fn two_databases_never_become_one() {
        assert_eq!(twice(&[pair("a", "b"), pair("b", "a")]), None);
        assert_eq!(twice(&[pair("a", "b"), pair("a", "c")]), Some("a"));
        assert_eq!(twice(&[pair("a", "x"), pair("b", "x")]), Some("x"));
    }
}
