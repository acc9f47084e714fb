//! libpq's parameters, and what each was set to.

use std::collections::BTreeMap;
use std::fmt;

use super::ConninfoError;

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// The connection string.
    ConnectionString,
    /// A service file.
    ServiceFile,
    /// The environment variable of that name.
    Environment(&'static str),
    /// A file in `~/.postgresql`, or nowhere.
    Default,
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Given::ConnectionString => f.write_str("in the connection string"),
            Given::ServiceFile => f.write_str("in the service file"),
            Given::Environment(variable) => f.write_str(variable),
            Given::Default => f.write_str("by default"),
        }
    }
}

macro_rules! parameters {
    ($($name:ident $keyword:literal $variable:expr,)*) => {
        /// A parameter (docs: `libpq-paramkeywords`, `libpq-envars`).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Parameter { $($name,)* }

        impl Parameter {
            const ALL: &[Parameter] = &[$(Parameter::$name,)*];

            /// Its name in connection strings and service files.
            pub(super) const fn keyword(self) -> &'static str {
                match self { $(Parameter::$name => $keyword,)* }
            }

            /// The environment variable that stands in for it.
            const fn variable(self) -> Option<&'static str> {
                match self { $(Parameter::$name => $variable,)* }
            }
        }
    };
}

parameters! {
    ApplicationName "application_name" Some("PGAPPNAME"),
    ChannelBinding "channel_binding" Some("PGCHANNELBINDING"),
    ClientEncoding "client_encoding" Some("PGCLIENTENCODING"),
    ConnectTimeout "connect_timeout" Some("PGCONNECT_TIMEOUT"),
    Dbname "dbname" Some("PGDATABASE"),
    FallbackApplicationName "fallback_application_name" None,
    GssDelegation "gssdelegation" Some("PGGSSDELEGATION"),
    GssEncMode "gssencmode" Some("PGGSSENCMODE"),
    GssLib "gsslib" Some("PGGSSLIB"),
    Host "host" Some("PGHOST"),
    Hostaddr "hostaddr" Some("PGHOSTADDR"),
    Keepalives "keepalives" None,
    KeepalivesCount "keepalives_count" None,
    KeepalivesIdle "keepalives_idle" None,
    KeepalivesInterval "keepalives_interval" None,
    KrbSrvName "krbsrvname" Some("PGKRBSRVNAME"),
    LoadBalanceHosts "load_balance_hosts" Some("PGLOADBALANCEHOSTS"),
    MaxProtocolVersion "max_protocol_version" Some("PGMAXPROTOCOLVERSION"),
    MinProtocolVersion "min_protocol_version" Some("PGMINPROTOCOLVERSION"),
    OauthClientId "oauth_client_id" None,
    OauthClientSecret "oauth_client_secret" None,
    OauthIssuer "oauth_issuer" None,
    OauthScope "oauth_scope" None,
    Options "options" Some("PGOPTIONS"),
    Passfile "passfile" Some("PGPASSFILE"),
    Password "password" Some("PGPASSWORD"),
    Port "port" Some("PGPORT"),
    Replication "replication" None,
    RequireAuth "require_auth" Some("PGREQUIREAUTH"),
    RequirePeer "requirepeer" Some("PGREQUIREPEER"),
    ScramClientKey "scram_client_key" None,
    ScramServerKey "scram_server_key" None,
    Service "service" Some("PGSERVICE"),
    ServiceFile "servicefile" Some("PGSERVICEFILE"),
    SslCert "sslcert" Some("PGSSLCERT"),
    SslCertMode "sslcertmode" Some("PGSSLCERTMODE"),
    SslCompression "sslcompression" Some("PGSSLCOMPRESSION"),
    SslCrl "sslcrl" Some("PGSSLCRL"),
    SslCrlDir "sslcrldir" Some("PGSSLCRLDIR"),
    SslKey "sslkey" Some("PGSSLKEY"),
    SslKeyLogFile "sslkeylogfile" None,
    SslMaxProtocolVersion "ssl_max_protocol_version" Some("PGSSLMAXPROTOCOLVERSION"),
    SslMinProtocolVersion "ssl_min_protocol_version" Some("PGSSLMINPROTOCOLVERSION"),
    SslMode "sslmode" Some("PGSSLMODE"),
    SslNegotiation "sslnegotiation" Some("PGSSLNEGOTIATION"),
    SslPassword "sslpassword" None,
    SslRootCert "sslrootcert" Some("PGSSLROOTCERT"),
    SslSni "sslsni" Some("PGSSLSNI"),
    TargetSessionAttrs "target_session_attrs" Some("PGTARGETSESSIONATTRS"),
    TcpUserTimeout "tcp_user_timeout" None,
    User "user" Some("PGUSER"),
}

impl Parameter {
    /// The parameter of that keyword, case and all.
    pub(super) fn from_keyword(keyword: &str) -> Option<Parameter> {
        Parameter::ALL.iter().copied().find(|parameter| parameter.keyword() == keyword)
    }
}

/// A value and where it comes from.
struct Setting {
    value: String,
    given: Given,
}

/// libpq has no such parameter.
pub(super) struct UnknownKeyword;

/// What has been set so far.
///
/// An empty value is a value: it keeps a later source from filling the parameter in, and then counts as
/// unset, as in libpq.
#[derive(Default)]
pub(super) struct Settings(BTreeMap<Parameter, Setting>);

impl Settings {
    /// Sets a parameter, over what an earlier part of the same source said.
    pub(super) fn set(&mut self, parameter: Parameter, value: impl Into<String>, given: Given) {
        self.0.insert(parameter, Setting { value: value.into(), given });
    }

    /// Sets the parameter of that keyword, as a connection string does.
    ///
    /// # Errors
    /// There is none of that keyword.
    pub(super) fn set_keyword(&mut self, keyword: &str, value: &str) -> Result<(), UnknownKeyword> {
        // What sslmode was called before 8.0.
        let (keyword, value) = match (keyword, value.starts_with('1')) {
            ("requiressl", true) => ("sslmode", "require"),
            ("requiressl", false) => ("sslmode", "prefer"),
            other => (other.0, value),
        };
        let parameter = Parameter::from_keyword(keyword).ok_or(UnknownKeyword)?;
        self.set(parameter, value, Given::ConnectionString);
        Ok(())
    }

    /// Sets a parameter that nothing has set yet.
    pub(super) fn set_missing(&mut self, parameter: Parameter, value: impl Into<String>, given: Given) {
        self.0.entry(parameter).or_insert_with(|| Setting { value: value.into(), given });
    }

    /// Fills in from the `PG…` variables what is still missing.
    pub(super) fn complete_from(&mut self, variables: &BTreeMap<String, String>) {
        for parameter in Parameter::ALL.iter().copied() {
            let Some(variable) = parameter.variable() else { continue };
            if let Some(value) = variables.get(variable) {
                self.set_missing(parameter, value, Given::Environment(variable));
            }
        }
        if variables.get("PGREQUIRESSL").is_some_and(|value| value.starts_with('1')) {
            self.set_missing(Parameter::SslMode, "require", Given::Environment("PGREQUIRESSL"));
        }
    }

    /// Whether a source has spoken, be it by an empty value.
    pub(super) fn is_set(&self, parameter: Parameter) -> bool {
        self.0.contains_key(&parameter)
    }

    /// The value, unless it is missing or empty.
    pub(super) fn get(&self, parameter: Parameter) -> Option<&str> {
        self.0.get(&parameter).map(|setting| setting.value.as_str()).filter(|value| !value.is_empty())
    }

    /// Where the value comes from.
    pub(super) fn given(&self, parameter: Parameter) -> Given {
        self.0.get(&parameter).map_or(Given::Default, |setting| setting.given)
    }

    /// The error for a value that is not `expected`.
    pub(super) fn invalid(&self, parameter: Parameter, expected: &'static str) -> ConninfoError {
        ConninfoError::Invalid { parameter: parameter.keyword(), given: self.given(parameter), expected }
    }

    /// The error for a value that we cannot honour.
    pub(super) fn unsupported(&self, parameter: Parameter, reason: &'static str) -> ConninfoError {
        ConninfoError::Unsupported { parameter: parameter.keyword(), given: self.given(parameter), reason }
    }

    /// A whole number of seconds, milliseconds or whatever the parameter counts.
    pub(super) fn integer(&self, parameter: Parameter) -> Result<Option<i32>, ConninfoError> {
        let number = self.get(parameter).map(|value| value.trim().parse());
        number.transpose().map_err(|_| self.invalid(parameter, "a whole number"))
    }
}
