//! What the checks found, for people and for machines.

use std::fmt;

use serde::Serialize;

/// The outcome of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All is well.
    Pass,
    /// The migration can start; this will be felt.
    Warn,
    /// The migration cannot start.
    Block,
    /// We could not look.
    Unknown,
}

impl Verdict {
    fn label(self) -> &'static str {
        match self {
            Verdict::Block => "BLOCK",
            Verdict::Unknown => "UNKNOWN",
            Verdict::Warn => "WARN",
            Verdict::Pass => "ok",
        }
    }
}

/// One line of a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The check.
    pub id: &'static str,
    /// The source's database.
    pub database: String,
    /// The verdict.
    pub verdict: Verdict,
    /// One sentence.
    pub message: String,
    /// What mends it.
    pub fix: Option<String>,
}

/// Everything that was checked. Serializes to the document of `check --json`; displays as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether nothing blocks.
    pub ok: bool,
    /// Outcomes, in the order of the table of checks.
    pub checks: Vec<Outcome>,
}

impl Report {
    /// Gathers outcomes, of one database or of several.
    #[must_use]
    pub fn new(checks: Vec<Outcome>) -> Report {
        Report { ok: checks.iter().all(|outcome| outcome.verdict != Verdict::Block), checks }
    }

    /// Joins the reports of several databases.
    #[must_use]
    pub fn join(reports: impl IntoIterator<Item = Report>) -> Report {
        Report::new(reports.into_iter().flat_map(|report| report.checks).collect())
    }

    /// Outcomes with that verdict.
    pub fn with(&self, verdict: Verdict) -> impl Iterator<Item = &Outcome> {
        self.checks.iter().filter(move |outcome| outcome.verdict == verdict)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |head: &str, of: fn(&Outcome) -> &str| {
            self.checks.iter().map(|outcome| of(outcome).chars().count()).fold(head.len(), usize::max)
        };
        let verdicts = width("VERDICT", |outcome| outcome.verdict.label());
        let checks = width("CHECK", |outcome| outcome.id);
        let databases = width("DATABASE", |outcome| &outcome.database);
        let mut line = |[verdict, check, database, text]: [&str; 4]| {
            writeln!(f, "{verdict:verdicts$}  {check:checks$}  {database:databases$}  {text}")
        };
        line(["VERDICT", "CHECK", "DATABASE", "FINDING"])?;
        for verdict in [Verdict::Block, Verdict::Unknown, Verdict::Warn, Verdict::Pass] {
            for outcome in self.with(verdict) {
                line([verdict.label(), outcome.id, &outcome.database, &outcome.message])?;
                if let Some(fix) = &outcome.fix {
                    line(["", "", "", &format!("fix: {fix}")])?;
                }
            }
        }
        let count = |verdict| self.with(verdict).count();
        write!(
            f,
            "{} block, {} unknown, {} warn, {} pass: {}",
            count(Verdict::Block),
            count(Verdict::Unknown),
            count(Verdict::Warn),
            count(Verdict::Pass),
            if self.ok { "the migration can start" } else { "the migration cannot start" }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(verdict: Verdict, message: &str) -> Outcome {
        Outcome {
            id: "wal-level",
            database: "shop".to_owned(),
            verdict,
            message: message.to_owned(),
            fix: Some("do it".to_owned()),
        }
    }

    #[test]
    fn people_see_what_blocks_first() {
        let report = Report::new(vec![outcome(Verdict::Warn, "second"), outcome(Verdict::Block, "first")]);
        assert_eq!(
            report.to_string(),
            "VERDICT  CHECK      DATABASE  FINDING\n\
             BLOCK    wal-level  shop      first\n\
             \x20                             fix: do it\n\
             WARN     wal-level  shop      second\n\
             \x20                             fix: do it\n\
             1 block, 0 unknown, 1 warn, 0 pass: the migration cannot start"
        );
    }

    #[test]
    fn machines_see_the_documented_shape() {
        let report = Report::new(vec![Outcome { fix: None, ..outcome(Verdict::Unknown, "m") }]);
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"ok":true,"checks":[{"id":"wal-level","database":"shop","verdict":"unknown","message":"m","fix":null}]}"#
        );
    }

    #[test]
    fn joined_reports_are_ok_only_together() {
        let report = |verdict| Report::new(vec![outcome(verdict, "m")]);
        assert!(!Report::join([report(Verdict::Pass), report(Verdict::Block)]).ok);
        assert!(Report::join([report(Verdict::Pass), report(Verdict::Warn)]).ok);
    }
}
