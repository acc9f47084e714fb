//! A connection string's worth of defaults, for the tests of this room.

use crate::pg::{
    ChannelBindingMode, Conninfo, Host, HostName, Passfile, SslMode, SslNegotiation, TargetSessionAttrs,
};

/// A local server, no password, TLS off.
pub(super) fn conninfo() -> Conninfo {
    Conninfo {
        hosts: vec![Host { name: HostName::Tcp("localhost".to_owned()), hostaddr: None, port: 5432 }],
        user: "alice".to_owned(),
        password: None,
        passfile: Passfile::default(),
        dbname: None,
        connect_timeout: None,
        options: None,
        application_name: None,
        sslmode: SslMode::Disable,
        sslnegotiation: SslNegotiation::Postgres,
        sslrootcert: None,
        sslcert: None,
        sslkey: None,
        channel_binding: ChannelBindingMode::Prefer,
        target_session_attrs: TargetSessionAttrs::Any,
        keepalives_idle: None,
        tcp_user_timeout: None,
    }
}
