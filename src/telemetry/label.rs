//! The closed sets that metric labels come from.
//!
//! Hazard: a label whose value is free text (a table, an error message) makes a new time series for every
//! value and fills a Prometheus server. Apart from the database's name, every label value stands here.

macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$value_doc])* $value,)+
        }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [$name] = &[$($name::$value,)+];

            /// The value as a metric label.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $($name::$value => $text,)+
                }
            }
        }
    };
}

labels! {
    /// Where one database's migration stands.
    ///
    /// `Planned → SchemaReady → Copying → Building → CatchingUp → Following → Fenced → CutOver`, or `Aborted`
    /// from anywhere.
    Phase {
        /// Both ends were checked.
        Planned = "planned",
        /// Definitions are on the target.
        SchemaReady = "schema_ready",
        /// Rows are being copied under the snapshot.
        Copying = "copying",
        /// Rows are copied; indexes and constraints are being built.
        Building = "building",
        /// Changes made since the snapshot are being applied.
        CatchingUp = "catching_up",
        /// The target has caught up once and is kept in step.
        Following = "following",
        /// Writes on the source are stopped.
        Fenced = "fenced",
        /// The target has taken over.
        CutOver = "cut_over",
        /// Given up; the source is as it was.
        Aborted = "aborted",
    }
}

labels! {
    /// A position on the way of a change, each at or before the one above it.
    Stage {
        /// Read from the walsender.
        Received = "received",
        /// Durable on local disk.
        Spooled = "spooled",
        /// Part of a whole transaction that is known to have committed.
        Assembled = "assembled",
        /// The target acknowledged the commit.
        Applied = "applied",
        /// The target has flushed the commit.
        Durable = "durable",
        /// Told to the source.
        Confirmed = "confirmed",
    }
}

labels! {
    /// What a change does.
    ChangeKind {
        /// INSERT
        Insert = "insert",
        /// UPDATE
        Update = "update",
        /// DELETE
        Delete = "delete",
        /// TRUNCATE, counted per table
        Truncate = "truncate",
    }
}

labels! {
    /// How far one table has come. A table is counted under exactly one state.
    TableState {
        /// Nothing was done yet.
        Waiting = "waiting",
        /// Rows are being copied.
        Copying = "copying",
        /// Rows are there; indexes are being built or wait for it.
        Building = "building",
        /// Rows and indexes are there; changes are applied to it.
        Ready = "ready",
        /// The operator left it out.
        Skipped = "skipped",
        /// It could not be moved.
        Failed = "failed",
    }
}

labels! {
    /// What an index build does, in this order.
    BuildStep {
        /// Waits, begins or ends; or all it does, where the kind of index tells nothing.
        Other = "building",
        /// Reads the table.
        Scanning = "scanning",
        /// Sorts what it has read.
        Sorting = "sorting",
        /// Writes the index.
        Loading = "loading",
    }
}

impl serde::Serialize for BuildStep {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

labels! {
    /// Why a batch was rolled back and replayed row by row in the source's order.
    FallbackReason {
        /// A unique index refused the batch (23505).
        UniqueViolation = "unique_violation",
        /// An exclusion constraint refused it (23P01).
        ExclusionViolation = "exclusion_violation",
        /// It touched another number of rows than it should.
        RowsMismatch = "rows_mismatch",
        /// Any other refusal by the target.
        Other = "other",
    }
}

labels! {
    /// What work waits for, on a server that answers: it goes on by itself when that has passed.
    Obstacle {
        /// A disk is full (53100).
        DiskFull = "disk_full",
        /// No connection is to be had: of the server, the database or the role (53300).
        Connections = "connections",
        /// Somebody else holds a lock on the target.
        Lock = "lock",
        /// Standbys of the source fall behind while it is read.
        Standbys = "standbys",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Side;

    #[test]
    fn labels_are_distinct_snake_case_words() {
        let sets: [Vec<&str>; 8] = [
            Phase::ALL.iter().map(|value| value.label()).collect(),
            Stage::ALL.iter().map(|value| value.label()).collect(),
            Side::ALL.iter().map(|value| value.label()).collect(),
            ChangeKind::ALL.iter().map(|value| value.label()).collect(),
            TableState::ALL.iter().map(|value| value.label()).collect(),
            FallbackReason::ALL.iter().map(|value| value.label()).collect(),
            Obstacle::ALL.iter().map(|value| value.label()).collect(),
            BuildStep::ALL.iter().map(|value| value.label()).collect(),
        ];
        for set in sets {
            for (position, label) in set.iter().enumerate() {
                assert!(label.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{label}");
                assert!(!set[..position].contains(label), "{label} stands twice");
            }
        }
    }
}
