//! Checks of how text is sorted on both ends (P64).
//!
//! Indexes are built anew on the target, so another order is safe for them; not for ranges of text, nor for an
//! application that reads in the order of the database.

use crate::pg::{Identifier, quote_literal};
use crate::precheck::facts::Facts;
use crate::precheck::surroundings::Locale;
use crate::precheck::table::{Finding, listing};

/// P64.
pub(super) fn locale(facts: &Facts) -> Vec<Finding> {
    let (source, target) =
        (&facts.source.server.surroundings.locale, &facts.target.server.surroundings.locale);
    if same(source, target) {
        return Vec::new();
    }
    let ranges = match facts.source.objects.text_ranges.as_slice() {
        [] => String::new(),
        tables => format!(
            "; tables partitioned by ranges of text may refuse rows that belong to another partition there: {}",
            listing(tables.iter().map(|table| table.plain()))
        ),
    };
    let mut create = format!(
        "CREATE DATABASE {} TEMPLATE template0 LC_COLLATE {} LC_CTYPE {}",
        Identifier::new(&facts.target.server.database),
        quote_literal(&source.collate),
        quote_literal(&source.ctype)
    );
    if let ("i", Some(locale)) = (source.provider.as_str(), &source.provider_locale) {
        create += &format!(" LOCALE_PROVIDER icu ICU_LOCALE {}", quote_literal(locale));
    }
    vec![
        Finding::warn(format!(
            "Text is sorted by {} on the source and by {} on the target: what is sorted or compared by it may come out \
             in another order{ranges}.",
            describe(source),
            describe(target)
        ))
        .fix(create + ";"),
    ]
}

/// P64: an index sorted by a library that sorts otherwise today may hold the same key twice.
pub(super) fn versions(facts: &Facts) -> Vec<Finding> {
    let database = Identifier::new(&facts.source.server.database);
    let changed = &facts.source.objects.changed_collations;
    let mut found = Vec::new();
    if let Some((made, now)) =
        facts.source.server.surroundings.locale.versions.as_ref().filter(|(made, now)| made != now)
    {
        found.push(
            Finding::warn(format!(
                "The source's database was made with version {made} of its collation, and the server now has {now}: a \
                 unique index on text may hold duplicates, which the target refuses."
            ))
            .fix(format!(
                "REINDEX DATABASE {database}; ALTER DATABASE {database} REFRESH COLLATION VERSION; on the source"
            )),
        );
    }
    if !changed.is_empty() {
        found.push(
            Finding::warn(format!(
                "These collations of the source have changed since they were made, so that a unique index by them may \
                 hold duplicates, which the target refuses: {}.",
                listing(changed.iter().cloned())
            ))
            .fix("REINDEX the indexes by them, then ALTER COLLATION … REFRESH VERSION; on the source"),
        );
    }
    found
}

/// P64: a column's collation that the target's library does not have.
pub(super) fn collations(facts: &Facts) -> Vec<Finding> {
    let there = &facts.target.collations;
    let mut missing: Vec<String> =
        facts.source.objects.collations.iter().filter(|name| !there.contains(*name)).cloned().collect();
    if missing.is_empty() {
        return Vec::new();
    }
    missing.sort();
    vec![
        Finding::block(format!(
            "The target lacks collations that columns or indexes of the source are made with: {}.",
            listing(missing)
        ))
        .fix(
            "Install the locales on the target's machine, then, in its database: \
             SELECT pg_import_system_collations('pg_catalog');",
        ),
    ]
}

fn same(one: &Locale, other: &Locale) -> bool {
    one.provider == other.provider
        && spelled(&one.collate) == spelled(&other.collate)
        && spelled(&one.ctype) == spelled(&other.ctype)
        && one.provider_locale == other.provider_locale
}

/// One spelling for all that a C library takes for the same: `en_US.UTF-8` is `en_US.utf8`.
fn spelled(locale: &str) -> String {
    match locale.split_once('.') {
        None if locale == "POSIX" => "C".to_owned(),
        None => locale.to_owned(),
        Some((language, encoding)) => {
            format!("{language}.{}", encoding.replace('-', "").to_ascii_lowercase())
        }
    }
}

fn describe(locale: &Locale) -> String {
    let provider = match locale.provider.as_str() {
        "i" => "ICU",
        "b" => "builtin",
        _ => "libc",
    };
    let name = match &locale.provider_locale {
        Some(name) => name.clone(),
        None if locale.collate == locale.ctype => locale.collate.clone(),
        None => format!("{}, ctype {}", locale.collate, locale.ctype),
    };
    format!("{name} ({provider})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::QualifiedName;
    use crate::precheck::report::Verdict;
    use crate::precheck::testing::{facts, verdicts};

    fn libc(name: &str) -> Locale {
        Locale {
            collate: name.to_owned(),
            ctype: name.to_owned(),
            provider: "c".to_owned(),
            provider_locale: None,
            versions: None,
        }
    }

    #[test]
    fn one_locale_has_many_spellings() {
        assert!(same(&libc("en_US.UTF-8"), &libc("en_US.utf8")));
        assert!(same(&libc("C"), &libc("POSIX")));
        assert!(!same(&libc("C"), &libc("C.UTF-8")));
        let icu = Locale { provider: "i".to_owned(), provider_locale: Some("en".to_owned()), ..libc("C") };
        assert!(!same(&libc("C"), &icu));
    }

    #[test]
    fn another_order_is_said_and_what_it_may_break() {
        let mut facts = facts();
        facts.source.server.surroundings.locale = libc("en_US.UTF-8");
        facts.target.server.surroundings.locale = libc("C");
        let found = locale(&facts);
        assert!(
            found[0].message.contains("by en_US.UTF-8 (libc) on the source and by C (libc)"),
            "{found:?}"
        );
        assert!(found[0].fix.as_deref().unwrap().contains("LC_COLLATE 'en_US.UTF-8'"));
        assert_eq!(verdicts(found), [Verdict::Warn]);
        facts.source.objects.text_ranges = vec![QualifiedName::new("public", "by_name")];
        assert!(locale(&facts)[0].message.contains("public.by_name"));
        facts.target.server.surroundings.locale = libc("en_US.utf8");
        assert_eq!(locale(&facts), []);
    }

    #[test]
    fn a_changed_library_is_suspect() {
        let mut facts = facts();
        let versions_of = |made: &str, now: &str| Some((made.to_owned(), now.to_owned()));
        facts.source.server.surroundings.locale.versions = versions_of("2.31", "2.31");
        assert_eq!(versions(&facts), []);
        facts.source.server.surroundings.locale.versions = versions_of("2.28", "2.31");
        facts.source.objects.changed_collations = vec!["de-x-icu".to_owned()];
        assert_eq!(verdicts(versions(&facts)), [Verdict::Warn, Verdict::Warn]);
    }

    #[test]
    fn a_collation_that_is_not_there_blocks() {
        let mut facts = facts();
        facts.source.objects.collations.insert("de-x-icu".to_owned());
        assert_eq!(verdicts(collations(&facts)), [Verdict::Block]);
        facts.target.collations.insert("de-x-icu".to_owned());
        assert_eq!(collations(&facts), []);
    }
}
