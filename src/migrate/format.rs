//! In which format changes are asked for: binary, where the pair of servers and every table allow it.
//!
//! Hazard: the answer is a picture of this moment, and the stream may begin earlier: a table had another column
//! then, or gets one later. The applier sees to that ([`apply::needs_text`]); the source itself refuses to send
//! what holds a type without a send function.

use super::run::Run;
use crate::apply::{self, ApplyOptions, ValueFormat};
use crate::error::Error;
use crate::pg::SqlState;
use crate::pgoutput::TupleFormat;

/// The first major that sends binary values, and that reads nested ones whatever the OIDs in them.
const BINARY_SINCE: u32 = 14;

/// What may be asked for, when streams have ended because of their format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Allowed {
    Binary,
    /// Once: binary again, as the catalogs may know now what came as news.
    BinaryAgain,
    /// Again: what came is no longer in the catalogs, or not yet known to be readable.
    TextOnly,
}

impl Allowed {
    /// After one more such end.
    pub(super) fn less(self) -> Allowed {
        match self {
            Allowed::Binary => Allowed::BinaryAgain,
            Allowed::BinaryAgain | Allowed::TextOnly => Allowed::TextOnly,
        }
    }
}

/// Decides how values come, for `options` that know the tables of both ends.
pub(super) fn choose(run: &Run, options: &ApplyOptions, allowed: Allowed) -> ValueFormat {
    let (source, target) = (run.source_version, run.target_version);
    if source.major() < BINARY_SINCE || target.major() < BINARY_SINCE || allowed == Allowed::TextOnly {
        return ValueFormat::Text;
    }
    ValueFormat::choose(options.source.tables(), &options.tables, &options.watermarks).unwrap_or_else(
        |refused| {
            tracing::info!(
                relation = refused.table.plain(),
                column = refused.column.raw(),
                "changes come as text: a column has no binary form that both ends share"
            );
            ValueFormat::Text
        },
    )
}

/// What to ask the plugin for.
pub(super) fn of_tuples(values: &ValueFormat) -> TupleFormat {
    match values {
        ValueFormat::Text => TupleFormat::Text,
        ValueFormat::Binary(_) => TupleFormat::Binary,
    }
}

/// Whether the stream ended because of the format it came in, so that it may begin again in text.
pub(super) fn was_at_fault(error: &Error) -> bool {
    let unsendable = error.sqlstate().is_some_and(|state| state == SqlState::UNDEFINED_FUNCTION);
    apply::needs_text(error) || unsendable && error.side() == Some(crate::error::Side::Source)
}
