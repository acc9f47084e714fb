//! Checks of code and of what only a superuser can create.

use std::collections::HashSet;

use crate::precheck::facts::Facts;
use crate::precheck::table::{Finding, listing};

/// Functions in a language that the target does not get.
pub(super) fn languages(facts: &Facts) -> Vec<Finding> {
    let target = &facts.target;
    let objects = &facts.source.objects;
    let judge = |used: &crate::precheck::objects::LanguageUse| {
        let name = &used.name;
        let what = match used.functions {
            1 => format!("{} is", used.example),
            several => format!("{several} functions, such as {}, are", used.example),
        };
        // A language of the user's own is among the definitions, that of an extension comes with it.
        let comes = objects.for_superusers.contains(&format!("language {name}"))
            || target.extensions.contains_key(name);
        if !target.languages.contains(name) && !comes {
            let fix = match name.as_str() {
                "plpythonu" | "plpython2u" => {
                    "Rewrite them for Python 3, in language plpython3u: Python 2 went with 15".to_owned()
                }
                _ => format!("Install language {name} on the target"),
            };
            return Some(
                Finding::block(format!(
                    "{what} written in {name}, a language that the target does not have."
                ))
                .fix(fix),
            );
        }
        (!used.is_trusted && !target.server.may.is_superuser).then(|| {
            Finding::block(format!(
                "{what} written in {name}, in which only a superuser may create functions; role {} is none on the \
                 target.",
                target.server.may.role
            ))
            .fix("Use a superuser of the target, or drop the functions")
        })
    };
    objects.languages.iter().filter_map(judge).collect()
}

/// P65.
pub(super) fn for_superusers(facts: &Facts) -> Vec<Finding> {
    let objects = &facts.source.objects.for_superusers;
    let may = &facts.target.server.may;
    if may.is_superuser || objects.is_empty() {
        return Vec::new();
    }
    vec![
        Finding::block(format!(
            "Only a superuser can create these, and role {} is none on the target: {}.",
            may.role,
            listing(objects.iter().cloned())
        ))
        .fix("Use a superuser of the target, or drop them"),
    ]
}

/// P56.
pub(super) fn event_triggers(facts: &Facts) -> Vec<Finding> {
    let triggers = &facts.source.objects.event_triggers;
    if facts.target.server.may.is_superuser || triggers.is_empty() {
        return Vec::new();
    }
    vec![Finding::warn(format!(
        "Event triggers are created by superusers only, so the target goes without: {}.",
        listing(triggers.iter().cloned())
    ))]
}

/// P58: rows are loaded and indexes built with an empty `search_path`.
pub(super) fn search_path(facts: &Facts) -> Vec<Finding> {
    let objects = &facts.source.objects;
    let tables = facts.source.catalog.tables.iter().map(|table| table.name.name.raw());
    let names: HashSet<&str> = objects.names.iter().map(String::as_str).chain(tables).collect();
    let judge = |function: &crate::precheck::objects::OpenFunction| {
        let open = unqualified(&function.body, &names)?;
        Some(format!("{} ({open})", function.name))
    };
    let open: Vec<String> = objects.open_functions.iter().filter_map(judge).collect();
    if open.is_empty() {
        return Vec::new();
    }
    vec![
        Finding::warn(format!(
            "Functions that indexes, constraints, generated columns or materialized views call use names without \
             their schema, which are not found while rows are loaded: {}.",
            listing(open)
        ))
        .fix("Give each its search_path on the source: ALTER FUNCTION … SET search_path = …;"),
    ]
}

/// The first of the names that stands in the text without a schema before it. String literals are stepped over.
fn unqualified<'a>(body: &'a str, names: &HashSet<&str>) -> Option<&'a str> {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == '$';
    let mut rest = body;
    let mut before = ' ';
    while let Some(first) = rest.chars().next() {
        if first == '\'' {
            rest = rest[1..].split_once('\'').map_or("", |(_, after)| after);
            before = '\'';
            continue;
        }
        let length = match is_word(first) {
            true => rest.find(|letter| !is_word(letter)).unwrap_or(rest.len()),
            false => first.len_utf8(),
        };
        let (word, after) = rest.split_at(length);
        let is_schema = after.starts_with('.');
        if is_word(first) && before != '.' && !is_schema && names.contains(word.to_ascii_lowercase().as_str())
        {
            return Some(word);
        }
        // A blank between a schema's dot and the name is legal, and nobody writes it.
        before = first;
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precheck::objects::{LanguageUse, OpenFunction};
    use crate::precheck::report::Verdict;
    use crate::precheck::testing::{facts, verdicts};

    fn used(name: &str, is_trusted: bool) -> LanguageUse {
        LanguageUse { name: name.to_owned(), is_trusted, functions: 2, example: "public.f".to_owned() }
    }

    #[test]
    fn a_language_is_there_or_comes_along() {
        let mut facts = facts();
        facts.source.objects.languages = vec![used("plodd", true)];
        assert_eq!(verdicts(languages(&facts)), [Verdict::Block]);
        facts.target.extensions.insert("plodd".to_owned(), Default::default());
        assert_eq!(languages(&facts), []);
        facts.target.extensions.clear();
        facts.source.objects.for_superusers = vec!["language plodd".to_owned()];
        assert_eq!(languages(&facts), []);
        facts.source.objects.for_superusers.clear();
        facts.target.languages.insert("plodd".to_owned());
        assert_eq!(languages(&facts), []);
        facts.source.objects.languages = vec![used("plpython2u", false)];
        assert!(languages(&facts)[0].fix.as_deref().unwrap().contains("plpython3u"));
    }

    #[test]
    fn an_untrusted_language_wants_a_superuser() {
        let mut facts = facts();
        facts.source.objects.languages = vec![used("plpython3u", false)];
        facts.target.languages.insert("plpython3u".to_owned());
        assert_eq!(verdicts(languages(&facts)), [Verdict::Block]);
        facts.target.server.may.is_superuser = true;
        assert_eq!(languages(&facts), []);
    }

    #[test]
    fn what_only_superusers_create_is_listed_for_others() {
        let mut facts = facts();
        facts.source.objects.for_superusers = vec!["type public.odd".to_owned()];
        facts.source.objects.event_triggers = vec!["on_ddl".to_owned()];
        assert_eq!(verdicts(for_superusers(&facts)), [Verdict::Block]);
        assert_eq!(verdicts(event_triggers(&facts)), [Verdict::Warn]);
        facts.target.server.may.is_superuser = true;
        assert_eq!((for_superusers(&facts), event_triggers(&facts)), (vec![], vec![]));
    }

    #[test]
    fn only_a_name_of_the_users_without_its_schema_is_open() {
        let names = HashSet::from(["unaccent", "orders"]);
        assert_eq!(unqualified("SELECT Unaccent($1)", &names), Some("Unaccent"));
        assert_eq!(unqualified("SELECT public.unaccent($1)", &names), None);
        assert_eq!(unqualified("SELECT lower('unaccent' || $1)", &names), None);
        assert_eq!(unqualified("SELECT orders.total FROM app.orders", &names), None);
        assert_eq!(unqualified("SELECT 'it''s', é FROM orders", &names), Some("orders"));
        assert_eq!(unqualified("SELECT '", &names), None);
    }

    #[test]
    fn open_functions_are_named_with_what_they_miss() {
        let mut facts = facts();
        let function = |body: &str| OpenFunction { name: "public.f(text)".to_owned(), body: body.to_owned() };
        facts.source.objects.open_functions = vec![function("SELECT lower($1)")];
        assert_eq!(search_path(&facts), []);
        facts.source.objects.open_functions = vec![function("SELECT count(*) FROM orders")];
        assert!(search_path(&facts)[0].message.contains("public.f(text) (orders)"));
    }
}
