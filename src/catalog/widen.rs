//! Which types hold every value of which others, spelled as it was. Pure.
//!
//! Hazard: a column may have another type on the target than the one that the stream names, before or after
//! an ALTER. Where it is narrower PostgreSQL does not always refuse: it rounds a numeric and a timestamp, and
//! cuts blanks, without a word. So what is not known to be wider counts as another type.

/// A built-in type in use: its name in `pg_catalog`, and `atttypmod`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeUse<'a> {
    /// As in `pg_type.typname`: "int4", "_varchar".
    pub name: &'a str,
    /// `atttypmod`.
    pub modifier: i32,
}

/// `atttypmod` of a type without one.
const NONE: i32 = -1;
/// Length of the header that modifiers of varlena types count in.
const VARHDRSZ: i32 = 4;

impl TypeUse<'_> {
    /// Whether every value of `narrow` is one of this type, and its text is read as the same value.
    #[must_use]
    pub fn holds(&self, narrow: &TypeUse<'_>) -> bool {
        if self.name == narrow.name {
            return modifier_holds(self.name.trim_start_matches('_'), self.modifier, narrow.modifier);
        }
        match (narrow.name, self.name) {
            ("int2", "int4" | "int8") | ("int4", "int8") | ("varchar", "text") => true,
            ("int2" | "int4" | "int8", "numeric") | ("text", "varchar") => self.modifier == NONE,
            _ => false,
        }
    }
}

fn modifier_holds(name: &str, wide: i32, narrow: i32) -> bool {
    if wide == narrow || wide == NONE {
        return true;
    }
    if narrow == NONE {
        return false;
    }
    match name {
        "varchar" | "bpchar" | "varbit" | "timestamp" | "timestamptz" | "time" | "timetz" => wide > narrow,
        "numeric" => {
            let (wide, narrow) = (Digits::of(wide), Digits::of(narrow));
            wide.scale >= narrow.scale && wide.before_point() >= narrow.before_point()
        }
        _ => false,
    }
}

/// What `numeric(precision, scale)` stands for.
struct Digits {
    precision: i32,
    scale: i32,
}

impl Digits {
    fn of(modifier: i32) -> Digits {
        let bits = modifier - VARHDRSZ;
        // Eleven bits, the topmost its sign (15+).
        Digits { precision: bits >> 16 & 0xFFFF, scale: ((bits & 0x7FF) ^ 0x400) - 0x400 }
    }

    fn before_point(&self) -> i32 {
        self.precision - self.scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(wide: (&str, i32), narrow: (&str, i32)) -> bool {
        let of = |(name, modifier)| TypeUse { name, modifier };
        of(wide).holds(&of(narrow))
    }

    fn numeric(precision: i32, scale: i32) -> (&'static str, i32) {
        ("numeric", (precision << 16 | scale & 0x7FF) + VARHDRSZ)
    }

    #[test]
    fn wider_types_hold_narrower_ones() {
        assert!(holds(("int8", -1), ("int4", -1)));
        assert!(holds(("numeric", -1), ("int8", -1)));
        assert!(holds(("text", -1), ("varchar", 24)));
        assert!(holds(("varchar", 24), ("varchar", 14)));
        assert!(holds(("varchar", -1), ("varchar", 14)));
        assert!(holds(("_varchar", 24), ("_varchar", 14)));
        assert!(holds(("timestamptz", -1), ("timestamptz", 3)));
    }

    #[test]
    fn what_would_be_cut_or_rounded_is_refused() {
        assert!(!holds(("int4", -1), ("int8", -1)));
        assert!(!holds(("varchar", 14), ("varchar", 24)));
        assert!(!holds(("varchar", 14), ("varchar", -1)));
        assert!(!holds(("varchar", 14), ("text", -1)));
        assert!(!holds(("timestamptz", 3), ("timestamptz", -1)));
        assert!(!holds(numeric(12, 2), numeric(12, 4)), "rounded");
        assert!(!holds(numeric(12, 4), numeric(12, 2)), "ten digits before the point do not fit into eight");
        assert!(!holds(("float8", -1), ("float4", -1)), "0.1 becomes 0.10000000149011612");
        assert!(!holds(("bit", 8), ("bit", 4)));
    }

    #[test]
    fn numerics_count_the_digits_on_either_side() {
        assert!(holds(numeric(12, 2), numeric(10, 2)));
        assert!(holds(numeric(14, 4), numeric(12, 2)));
        assert!(holds(("numeric", -1), numeric(10, 2)));
        assert!(holds(numeric(5, 0), numeric(2, -3)), "two digits and three zeros");
        assert!(!holds(numeric(4, 0), numeric(2, -3)));
    }
}
