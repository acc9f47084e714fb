//! Parameters whose value is one of a few words.

/// A parameter that takes one of a few words.
pub(super) trait Choice: Sized {
    /// The words, for the error that none of them was given.
    const EXPECTED: &str;

    /// What the word stands for.
    fn from_keyword(keyword: &str) -> Option<Self>;
}

macro_rules! choices {
    ($($(#[$doc:meta])* $name:ident { $($(#[$of_variant:meta])* $variant:ident = $keyword:literal,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
            pub enum $name { $($(#[$of_variant])* $variant,)* }

            impl $name {
                /// libpq's word for it.
                #[must_use]
                pub const fn keyword(self) -> &'static str {
                    match self { $($name::$variant => $keyword,)* }
                }
            }

            impl Choice for $name {
                const EXPECTED: &str = concat!("one of", $(" ", $keyword,)*);

                fn from_keyword(keyword: &str) -> Option<$name> {
                    match keyword { $($keyword => Some($name::$variant),)* _ => None }
                }
            }
        )*
    };
}

choices! {
    /// `sslmode` (docs: `libpq-ssl`).
    SslMode {
        /// Never.
        Disable = "disable",
        /// Plain first, TLS if the server insists.
        Allow = "allow",
        /// TLS if the server has it; libpq's default.
        Prefer = "prefer",
        /// TLS, whoever answers (a given root certificate is still verified).
        Require = "require",
        /// TLS, and the certificate must chain to a trusted root.
        VerifyCa = "verify-ca",
        /// TLS, chain, and the host's name.
        VerifyFull = "verify-full",
    }

    /// `sslnegotiation`.
    SslNegotiation {
        /// Ask with SSLRequest first.
        Postgres = "postgres",
        /// TLS at once (17+).
        Direct = "direct",
    }

    /// `channel_binding`.
    ChannelBindingMode {
        /// Not used.
        Disable = "disable",
        /// Used where both ends can.
        Prefer = "prefer",
        /// Demanded.
        Require = "require",
    }

    /// `target_session_attrs`.
    TargetSessionAttrs {
        /// Any server.
        Any = "any",
        /// One that takes writes.
        ReadWrite = "read-write",
        /// One whose sessions are read-only by default.
        ReadOnly = "read-only",
        /// One not in recovery.
        Primary = "primary",
        /// One in recovery.
        Standby = "standby",
        /// A standby if there is one, else any.
        PreferStandby = "prefer-standby",
    }
}
