//! From a connection string and what surrounds it to a [`Conninfo`].

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::choice::Choice;
use super::settings::{Parameter, Settings};
use super::{
    ChannelBindingMode, Conninfo, ConninfoError, Environment, Passfile, RootCertificates, Secret, SslMode,
    SslNegotiation, TargetSessionAttrs, host, keyword, service, uri,
};

/// Idle time before the first probe: soon enough for the balancers that cut after four minutes (P92).
const KEEPALIVES_IDLE: Duration = Duration::from_secs(60);

impl Conninfo {
    /// Makes out a connection string, URI or keyword/value, filling in what it leaves open as libpq does.
    ///
    /// # Errors
    /// [`ConninfoError`] names the parameter and where it was set; it holds no value.
    /// (docs: `libpq-connstring`)
    pub fn resolve(text: &str, environment: &Environment) -> Result<Conninfo, ConninfoError> {
        let mut settings = match uri::after_scheme(text) {
            Some(rest) => uri::parse(text, rest)?,
            None => keyword::parse(text)?,
        };
        service::complete(&mut settings, environment)?;
        settings.complete_from(&environment.variables);
        refuse_what_we_would_ignore(&settings)?;
        complete(&settings, environment)
    }
}

/// Values that cannot be honoured and are not safe to ignore; an empty list of harmless ones means any.
#[rustfmt::skip]
const REFUSED: [(Parameter, &[&str], &str); 17] = {
    use Parameter as P;
    [
        (P::Replication, &[], "pgstream opens replication connections itself"),
        (P::RequirePeer, &[], "the peer's user is not checked"),
        (P::RequireAuth, &[], "the method of authentication is the server's choice"),
        (P::GssEncMode, &["disable", "prefer"], "there is no GSSAPI encryption"),
        (P::MinProtocolVersion, &["3.0"], "protocol 3.0 is spoken"),
        (P::SslMinProtocolVersion, &["TLSv1", "TLSv1.1", "TLSv1.2"], "TLS 1.2 and 1.3 are spoken"),
        (P::SslCrl, &[], "revocation lists are not checked"),
        (P::SslCrlDir, &[], "revocation lists are not checked"),
        (P::SslSni, &["1"], "the host's name is always sent"),
        (P::SslPassword, &[], "a client key must not be encrypted"),
        (P::SslCertMode, &["allow", "disable"], "the server cannot be made to ask for a certificate"),
        (P::SslKeyLogFile, &[], "session keys are not logged"),
        (P::ScramClientKey, &[], "SCRAM needs the password itself"),
        (P::ScramServerKey, &[], "SCRAM needs the password itself"),
        (P::OauthIssuer, &[], "there is no OAuth login"),
        (P::OauthClientId, &[], "there is no OAuth login"),
        (P::OauthClientSecret, &[], "there is no OAuth login"),
    ]
};

/// The rest is ignored without harm: client_encoding (pinned), load_balance_hosts (hosts are tried in order),
/// upper bounds of versions, compression, and the names that GSSAPI would use.
fn refuse_what_we_would_ignore(settings: &Settings) -> Result<(), ConninfoError> {
    for (parameter, harmless, reason) in REFUSED {
        let refused = |value: &str| !harmless.iter().any(|harmless| value.eq_ignore_ascii_case(harmless));
        if settings.get(parameter).is_some_and(refused) {
            return Err(settings.unsupported(parameter, reason));
        }
    }
    Ok(())
}

fn complete(settings: &Settings, environment: &Environment) -> Result<Conninfo, ConninfoError> {
    let text = |parameter| settings.get(parameter).map(str::to_owned);
    let user = text(Parameter::User).or_else(|| environment.user.clone()).ok_or(ConninfoError::NoUser)?;
    let password = text(Parameter::Password);
    if password.as_ref().is_some_and(|password| password.contains(['\n', '\r'])) {
        // A password file has no way to say it, and pg_dump gets its password by one.
        return Err(settings.invalid(Parameter::Password, "one line"));
    }
    let passfile = match password {
        Some(_) => Passfile::default(),
        None => passfile(settings, environment)?,
    };
    let tls = Tls::complete(settings, environment)?;
    Ok(Conninfo {
        hosts: host::hosts(settings)?,
        user,
        password: password.map(Secret::new),
        passfile,
        dbname: text(Parameter::Dbname),
        connect_timeout: connect_timeout(settings)?,
        options: text(Parameter::Options),
        application_name: text(Parameter::ApplicationName)
            .or_else(|| text(Parameter::FallbackApplicationName)),
        sslmode: tls.mode,
        sslnegotiation: tls.negotiation,
        sslrootcert: tls.rootcert,
        sslcert: tls.cert,
        sslkey: tls.key,
        channel_binding: choice(settings, Parameter::ChannelBinding)?.unwrap_or(ChannelBindingMode::Prefer),
        target_session_attrs: choice(settings, Parameter::TargetSessionAttrs)?
            .unwrap_or(TargetSessionAttrs::Any),
        keepalives_idle: keepalives_idle(settings)?,
        tcp_user_timeout: positive(settings.integer(Parameter::TcpUserTimeout)?).map(Duration::from_millis),
    })
}

/// The word's meaning, if one was given.
fn choice<T: Choice>(settings: &Settings, parameter: Parameter) -> Result<Option<T>, ConninfoError> {
    let Some(value) = settings.get(parameter) else { return Ok(None) };
    T::from_keyword(value).map(Some).ok_or_else(|| settings.invalid(parameter, T::EXPECTED))
}

fn positive(number: Option<i32>) -> Option<u64> {
    number.and_then(|number| u64::try_from(number).ok()).filter(|number| *number > 0)
}

/// libpq waits at least two seconds, and for ever when told zero or less.
fn connect_timeout(settings: &Settings) -> Result<Option<Duration>, ConninfoError> {
    let seconds = positive(settings.integer(Parameter::ConnectTimeout)?);
    Ok(seconds.map(|seconds| Duration::from_secs(seconds.max(2))))
}

fn keepalives_idle(settings: &Settings) -> Result<Option<Duration>, ConninfoError> {
    let [on, idle, _, _] = [
        settings.integer(Parameter::Keepalives)?,
        settings.integer(Parameter::KeepalivesIdle)?,
        settings.integer(Parameter::KeepalivesInterval)?,
        settings.integer(Parameter::KeepalivesCount)?,
    ];
    let idle = positive(idle).map_or(KEEPALIVES_IDLE, Duration::from_secs);
    Ok(if on == Some(0) { None } else { Some(idle) })
}

/// The password file that is named, or `~/.pgpass`; a missing one holds no password.
fn passfile(settings: &Settings, environment: &Environment) -> Result<Passfile, ConninfoError> {
    let named = settings.get(Parameter::Passfile).map(PathBuf::from);
    let usual = || environment.home.as_ref().map(|home| home.join(".pgpass"));
    let Some(path) = named.or_else(usual) else { return Ok(Passfile::default()) };
    match environment.files.read_private(&path) {
        Ok(text) => Ok(Passfile::parse(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Passfile::default()),
        Err(error) => Err(ConninfoError::Unreadable { path, kind: error.kind() }),
    }
}

/// What concerns TLS.
struct Tls {
    mode: SslMode,
    negotiation: SslNegotiation,
    rootcert: Option<RootCertificates>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Tls {
    fn complete(settings: &Settings, environment: &Environment) -> Result<Tls, ConninfoError> {
        let in_home = |name: &str| environment.home.as_ref().map(|home| home.join(".postgresql").join(name));
        let if_there = |path: &PathBuf| environment.files.exists(path);
        let file = |parameter, name: &str| {
            settings.get(parameter).map(PathBuf::from).or_else(|| in_home(name).filter(if_there))
        };
        let rootcert = file(Parameter::SslRootCert, "root.crt").map(|path| match path {
            path if path == Path::new("system") => RootCertificates::System,
            path => RootCertificates::File(path),
        });
        let mode = mode(settings, rootcert.as_ref())?;
        let verifies = mode >= SslMode::VerifyCa || (mode == SslMode::Require && rootcert.is_some());
        if verifies && in_home("root.crl").as_ref().is_some_and(if_there) {
            // libpq would check it unasked.
            return Err(
                settings.unsupported(Parameter::SslCrl, "there is a root.crl, and it would not be checked")
            );
        }
        let sends_certificate = settings.get(Parameter::SslCertMode) != Some("disable");
        let cert = file(Parameter::SslCert, "postgresql.crt").filter(|_| sends_certificate);
        let key = file(Parameter::SslKey, "postgresql.key").filter(|_| cert.is_some());
        Ok(Tls { mode, negotiation: negotiation(settings, mode)?, rootcert, cert, key })
    }
}

/// The public authorities vouch for anyone's server, so with them only the host's name tells ours (P93).
fn mode(settings: &Settings, rootcert: Option<&RootCertificates>) -> Result<SslMode, ConninfoError> {
    let mode = choice(settings, Parameter::SslMode)?;
    match (mode, rootcert) {
        (None, Some(RootCertificates::System)) => Ok(SslMode::VerifyFull),
        (Some(mode), Some(RootCertificates::System)) if mode != SslMode::VerifyFull => {
            Err(settings.invalid(Parameter::SslMode, "verify-full with sslrootcert=system"))
        }
        (mode, _) => Ok(mode.unwrap_or(SslMode::Prefer)),
    }
}

/// Without the first question there is no way to fall back to plain text.
fn negotiation(settings: &Settings, mode: SslMode) -> Result<SslNegotiation, ConninfoError> {
    let negotiation = choice(settings, Parameter::SslNegotiation)?.unwrap_or(SslNegotiation::Postgres);
    if negotiation == SslNegotiation::Direct && mode < SslMode::Require {
        return Err(settings
            .invalid(Parameter::SslMode, "require, verify-ca, or verify-full with sslnegotiation=direct"));
    }
    Ok(negotiation)
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::super::testing::{environment, resolve};
    use super::super::{Given, Host, HostName};
    use super::*;

    fn refused(text: &str) -> &'static str {
        match resolve(text) {
            Err(ConninfoError::Invalid { parameter, .. } | ConninfoError::Unsupported { parameter, .. }) => {
                parameter
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn an_empty_string_is_all_defaults() {
        let conninfo = resolve("").unwrap();
        assert_eq!(
            (conninfo.user.as_str(), conninfo.database(), conninfo.dbname.as_ref()),
            ("me", "me", None)
        );
        assert_eq!((conninfo.sslmode, conninfo.sslnegotiation), (SslMode::Prefer, SslNegotiation::Postgres));
        assert_eq!((conninfo.password, conninfo.connect_timeout), (None, None));
        assert_eq!(conninfo.keepalives_idle, Some(KEEPALIVES_IDLE));
    }

    #[test]
    fn the_string_goes_before_the_environment_even_when_it_says_nothing() {
        let environment = environment(&[("PGHOST", "env"), ("PGDATABASE", "envdb"), ("PGPORT", "7")], &[]);
        let of = |text| Conninfo::resolve(text, &environment).unwrap();
        assert_eq!(of("").database(), "envdb");
        assert_eq!(of("dbname=''").database(), "me");
        assert_eq!(of("postgres:///").database(), "envdb");
        assert_eq!(of("host=h").describe(), "h:7/envdb as me");
    }

    #[test]
    fn the_error_says_where_a_wrong_value_was_set() {
        let environment = environment(&[("PGCONNECT_TIMEOUT", "soon")], &[]);
        let given = Given::Environment("PGCONNECT_TIMEOUT");
        let error =
            ConninfoError::Invalid { parameter: "connect_timeout", given, expected: "a whole number" };
        assert_eq!(Conninfo::resolve("", &environment), Err(error.clone()));
        assert_eq!(error.to_string(), "connect_timeout (PGCONNECT_TIMEOUT) must be a whole number");
    }

    #[test]
    fn refuses_what_libpq_would_enforce_and_we_cannot() {
        for (text, parameter) in [
            ("sslcrl=/x", "sslcrl"),
            ("require_auth=scram-sha-256", "require_auth"),
            ("requirepeer=postgres", "requirepeer"),
            ("gssencmode=require", "gssencmode"),
            ("ssl_min_protocol_version=TLSv1.3", "ssl_min_protocol_version"),
            ("replication=database", "replication"),
            ("sslpassword=x", "sslpassword"),
        ] {
            assert_eq!(refused(text), parameter);
        }
        let environment = environment(&[("PGREQUIREAUTH", "none")], &[]);
        assert!(Conninfo::resolve("", &environment).is_err());
    }

    #[test]
    fn takes_what_is_harmless_to_ignore() {
        let text = "gssencmode=prefer sslcompression=1 krbsrvname=p client_encoding=auto load_balance_hosts=random \
                    ssl_min_protocol_version=tlsv1.2 sslcrl='' replication=''";
        assert_eq!(resolve(text), resolve(""));
    }

    #[test]
    fn refuses_tls_modes_that_contradict_each_other() {
        assert_eq!(refused("sslmode=sometimes"), "sslmode");
        assert_eq!(refused("sslrootcert=system sslmode=require"), "sslmode");
        assert_eq!(refused("sslnegotiation=direct"), "sslmode");
        assert_eq!(resolve("sslrootcert=system sslnegotiation=direct").unwrap().sslmode, SslMode::VerifyFull);
    }

    #[test]
    fn uses_the_files_in_the_home_folder_that_are_there() {
        let folder = "/home/me/.postgresql";
        let [root, cert, key, crl] = ["root.crt", "postgresql.crt", "postgresql.key", "root.crl"]
            .map(|name| format!("{folder}/{name}"));
        let with = environment(&[], &[(&root, ""), (&cert, ""), (&key, "")]);
        let conninfo = Conninfo::resolve("", &with).unwrap();
        assert_eq!(conninfo.sslrootcert, Some(RootCertificates::File(PathBuf::from(&root))));
        assert_eq!(conninfo.sslcert, Some(PathBuf::from(&cert)));
        assert_eq!(conninfo.sslkey, Some(PathBuf::from(&key)));
        assert_eq!(Conninfo::resolve("sslcertmode=disable", &with).unwrap().sslcert, None);
        let revoking = environment(&[], &[(&root, ""), (&crl, "")]);
        assert!(Conninfo::resolve("", &revoking).is_ok());
        assert!(Conninfo::resolve("sslmode=verify-full", &revoking).is_err());
    }

    #[test]
    fn looks_passwords_up_by_host_and_database() {
        let file = "a:1:d:me:of a\nlocalhost:1:*:me:of the socket\n*:*:e:me:of e\n";
        let held = environment(&[], &[("/home/me/.pgpass", file)]);
        let conninfo = Conninfo::resolve("host=a,/tmp,/run/x port=1 dbname=d", &held).unwrap();
        let passwords = |conninfo: &Conninfo| -> Vec<Option<String>> {
            let revealed = |host| conninfo.password_for(host).map(|secret| secret.reveal().to_owned());
            conninfo.hosts.iter().map(revealed).collect()
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(passwords(&conninfo), [some("of a"), some("of the socket"), None]);
        let other = conninfo.with_database("e");
        assert_eq!(passwords(&other), [some("of e"), some("of the socket"), some("of e")]);
        let given = Conninfo::resolve("host=a port=1 dbname=d password=given", &held).unwrap();
        assert_eq!(passwords(&given), [some("given")]);
    }

    #[test]
    fn a_password_file_that_others_may_read_is_refused() {
        let held = environment(&[], &[("/p", "open:*:*:*:secret")]);
        let error = Conninfo::resolve("passfile=/p", &held).unwrap_err();
        assert!(error.to_string().contains("chmod 0600"), "{error}");
        assert!(Conninfo::resolve("passfile=/missing", &held).is_ok());
    }

    #[test]
    fn numbers_are_taken_as_libpq_takes_them() {
        let of = |text: &str| resolve(text).unwrap();
        assert_eq!(of("connect_timeout=1").connect_timeout, Some(Duration::from_secs(2)));
        assert_eq!(of("connect_timeout=' 10 '").connect_timeout, Some(Duration::from_secs(10)));
        assert_eq!(of("connect_timeout=-1").connect_timeout, None);
        assert_eq!(of("keepalives=0 keepalives_idle=5").keepalives_idle, None);
        assert_eq!(of("keepalives_idle=5").keepalives_idle, Some(Duration::from_secs(5)));
        assert_eq!(of("tcp_user_timeout=1500").tcp_user_timeout, Some(Duration::from_millis(1500)));
        assert_eq!(refused("tcp_user_timeout=1s"), "tcp_user_timeout");
    }

    #[test]
    fn debug_shows_no_password() {
        let held = environment(&[], &[("/home/me/.pgpass", "*:*:*:*:secret")]);
        let shown = [
            format!("{:?}", resolve("password=secret").unwrap()),
            format!("{:?}", Conninfo::resolve("", &held).unwrap()),
            format!("{}", ConninfoError::NoUser),
        ];
        assert!(shown.iter().all(|text| !text.contains("secret")), "{shown:?}");
    }

    /// Text as libpq's values may hold it, for what is not one line alone.
    const ANY: &str = "[^\\x00\\r\\n]{1,10}";

    proptest! {
        #[test]
        fn both_forms_say_the_same(
            user in ANY, password in ANY, dbname in ANY, application_name in ANY,
            hosts in prop::collection::vec(("[a-z0-9.:-]{1,9}|/[^\\x00,]{0,9}", 1_u16..), 1..4),
        ) {
            let names: Vec<String> = hosts.iter().map(|(name, _)| name.clone()).collect();
            let ports: Vec<String> = hosts.iter().map(|(_, port)| port.to_string()).collect();
            let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
            let authority: Vec<String> = hosts.iter().map(|(name, port)| format!("{}:{port}", encoded(name))).collect();
            let [u, p, d, a] = [&user, &password, &dbname, &application_name].map(|text| encoded(text));
            let uri = format!("postgresql://{u}:{p}@{}/{d}?application_name={a}", authority.join(","));
            let [u, p, d, a] = [&user, &password, &dbname, &application_name].map(|text| quoted(text));
            let keywords = format!(
                "user = {u} password={p} dbname= {d} application_name ={a} host={} port={}",
                quoted(&names.join(",")), ports.join(","),
            );
            let conninfo = resolve(&uri).unwrap();
            prop_assert_eq!(&conninfo, &resolve(&keywords).unwrap());
            let host = |(name, port): &(String, u16)| Host {
                name: match name.starts_with('/') {
                    true => HostName::Unix(PathBuf::from(name)),
                    false => HostName::Tcp(name.clone()),
                },
                hostaddr: None,
                port: *port,
            };
            prop_assert_eq!(&conninfo.hosts, &hosts.iter().map(host).collect::<Vec<_>>());
            prop_assert_eq!(conninfo.password.as_ref().map(Secret::reveal), Some(password.as_str()));
            prop_assert_eq!((conninfo.user, conninfo.dbname), (user, Some(dbname)));
        }
    }
}
