//! Which server, which address, with or without TLS: the order in which a connection is tried.
//!
//! Hazard: one name may stand for several addresses, one string for several hosts, one `sslmode` for two
//! attempts, and a plain retry after a failed login is how passwords leak. So we go on to the next attempt
//! only where libpq would, and less often in one case: a wrong password is final.
//! (docs: `libpq-connect-multiple-hosts`, `libpq-ssl-protection`)

use std::net::IpAddr;

use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use crate::error::{Error, ErrorKind, Result, describe};
use crate::pg::{Conninfo, Host, HostName, SqlState, SslMode, SslNegotiation, TargetSessionAttrs};
use crate::wire::connection::{Connection, ConnectionSettings};
use crate::wire::login::{Standing, login};
use crate::wire::socket::{Address, Encryption, Liveness, Route, SocketError, Tls};
use crate::wire::tls;

/// Connects to the first server that can be reached, lets us in, and is of the wanted kind.
pub(super) async fn connect(conninfo: &Conninfo, settings: &ConnectionSettings) -> Result<Connection> {
    let plan = Plan::new(conninfo)?;
    let mut failures = Vec::new();
    for wanted in Wanted::rounds(conninfo.target_session_attrs) {
        for host in &conninfo.hosts {
            match plan.try_host(host, *wanted, settings).await {
                Ok(connection) => return Ok(connection),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::TryNext(errors)) => failures.extend(errors),
            }
        }
    }
    Err(all_failed(conninfo, failures))
}

/// What kind of server a round of attempts looks for.
///
/// Our sessions pin `default_transaction_read_only` off, so "takes writes" means "is no standby".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Any,
    Only(Standing),
}

impl Wanted {
    fn rounds(attrs: TargetSessionAttrs) -> &'static [Wanted] {
        match attrs {
            TargetSessionAttrs::Any => &[Wanted::Any],
            TargetSessionAttrs::ReadWrite | TargetSessionAttrs::Primary => &[Wanted::Only(Standing::Primary)],
            TargetSessionAttrs::ReadOnly | TargetSessionAttrs::Standby => &[Wanted::Only(Standing::Standby)],
            TargetSessionAttrs::PreferStandby => &[Wanted::Only(Standing::Standby), Wanted::Any],
        }
    }

    fn accepts(self, found: Standing) -> bool {
        self == Wanted::Any || self == Wanted::Only(found)
    }
}

/// How a failed attempt leaves the search.
enum Failure {
    /// Another server or another way may do.
    TryNext(Vec<Error>),
    /// The server was there and said no.
    Final(Error),
}

struct Plan<'a> {
    conninfo: &'a Conninfo,
    /// `None` when no attempt may be encrypted.
    connector: Option<TlsConnector>,
}

impl<'a> Plan<'a> {
    fn new(conninfo: &'a Conninfo) -> Result<Plan<'a>> {
        let optional = matches!(conninfo.sslmode, SslMode::Disable | SslMode::Allow | SslMode::Prefer);
        if optional && conninfo.sslnegotiation == SslNegotiation::Direct {
            return Err(Error::new(ErrorKind::Usage, "use sslnegotiation=direct")
                .hint("TLS at once cannot be optional: use sslmode=require or stronger with it."));
        }
        let networked = conninfo.hosts.iter().any(|host| matches!(host.name, HostName::Tcp(_)));
        let connector = match conninfo.sslmode {
            SslMode::Disable => None,
            _ if !networked => None,
            _ => Some(TlsConnector::from(tls::client_config(conninfo)?)),
        };
        Ok(Plan { conninfo, connector })
    }

    async fn try_host(
        &self,
        host: &Host,
        wanted: Wanted,
        settings: &ConnectionSettings,
    ) -> Result<Connection, Failure> {
        let mut failures = Vec::new();
        let addresses =
            self.addresses(host).await.map_err(|error| Failure::TryNext(vec![unreachable(host, error)]))?;
        for address in addresses {
            match self.try_address(host, address, wanted, settings).await {
                Ok(connection) => return Ok(connection),
                Err(Failure::Final(error)) => return Err(Failure::Final(error)),
                Err(Failure::TryNext(errors)) => failures.extend(errors),
            }
        }
        Err(Failure::TryNext(failures))
    }

    async fn addresses(&self, host: &Host) -> Result<Vec<Address>, SocketError> {
        let name = match (&host.name, host.hostaddr) {
            (HostName::Unix(directory), _) => {
                return Ok(vec![Address::Unix(directory.join(format!(".s.PGSQL.{}", host.port)))]);
            }
            (HostName::Tcp(_), Some(address)) => return Ok(vec![Address::Tcp((address, host.port).into())]),
            (HostName::Tcp(name), None) => name.as_str(),
        };
        let found = self.in_time(async {
            let found = tokio::net::lookup_host((name, host.port)).await;
            found.map(|all| all.map(Address::Tcp).collect()).map_err(SocketError::NoSuchName)
        });
        found.await.unwrap_or_else(Err)
    }

    /// One address, with the one or two ways that `sslmode` allows.
    async fn try_address(
        &self,
        host: &Host,
        address: Address,
        wanted: Wanted,
        settings: &ConnectionSettings,
    ) -> Result<Connection, Failure> {
        let mut failures = Vec::new();
        let mut ways = self.encryptions(host, &address).into_iter().peekable();
        while let Some(encryption) = ways.next() {
            let liveness = Liveness::from(self.conninfo);
            let route = Route { address: address.clone(), encryption, liveness };
            let attempt = self.in_time(self.attempt(host, route, wanted, settings)).await;
            let attempt = attempt.unwrap_or_else(|timed_out| Err(Refused::by_network(host, timed_out)));
            match attempt {
                Ok(connection) => return Ok(connection),
                Err(Refused { error, retry: Retry::OtherEncryption }) => {
                    if self.conninfo.sslmode == SslMode::Prefer && ways.peek().is_some() {
                        tracing::warn!(
                            peer = host.describe(),
                            cause = describe(&error),
                            "trying without TLS"
                        );
                    }
                    failures.push(error);
                }
                Err(Refused { error, retry: Retry::OtherServer }) => {
                    failures.push(error);
                    break;
                }
                Err(Refused { error, retry: Retry::Never }) => return Err(Failure::Final(error)),
            }
        }
        Err(Failure::TryNext(failures))
    }

    async fn attempt(
        &self,
        host: &Host,
        route: Route,
        wanted: Wanted,
        settings: &ConnectionSettings,
    ) -> Result<Connection, Refused> {
        let socket = route.open().await.map_err(|error| Refused::by_network(host, error))?;
        let encrypted = socket.is_encrypted();
        let offered = matches!(route.encryption, Encryption::Offered(_));
        match login(socket, route, host, self.conninfo, settings).await {
            Ok((connection, found)) if wanted.accepts(found) => Ok(connection),
            Ok((connection, found)) => {
                connection.close().await;
                let error = Error::new(ErrorKind::Connect, format!("use {}", host.describe()))
                    .hint("Name the server that target_session_attrs asks for, or ask for another kind.")
                    .because(format!("it is a {found:?}, and target_session_attrs asks for another kind"));
                Err(Refused { error, retry: Retry::OtherServer })
            }
            // "no pg_hba.conf entry … SSL off": the other way may have an entry. 28P01 is final.
            Err(error) if error.sqlstate() == Some(SqlState::INVALID_AUTHORIZATION) => {
                let retry = if offered && !encrypted { Retry::Never } else { Retry::OtherEncryption };
                Err(Refused { error, retry })
            }
            Err(error) if error.kind() == ErrorKind::Connect => {
                Err(Refused { error, retry: Retry::OtherServer })
            }
            Err(error) => Err(Refused { error, retry: Retry::Never }),
        }
    }

    fn encryptions(&self, host: &Host, address: &Address) -> Vec<Encryption> {
        let (HostName::Tcp(name), Address::Tcp(socket), Some(connector)) =
            (&host.name, address, &self.connector)
        else {
            // libpq, too, ignores sslmode on a Unix socket.
            return vec![Encryption::Off];
        };
        let tls = Tls {
            connector: connector.clone(),
            name: server_name(name, socket.ip()),
            negotiation: self.conninfo.sslnegotiation,
        };
        match self.conninfo.sslmode {
            SslMode::Disable => vec![Encryption::Off],
            SslMode::Allow => vec![Encryption::Off, Encryption::Required(tls)],
            SslMode::Prefer => vec![Encryption::Offered(tls), Encryption::Off],
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => vec![Encryption::Required(tls)],
        }
    }

    /// `connect_timeout` holds for each name look-up and for each address, as in libpq.
    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, SocketError> {
        match self.conninfo.connect_timeout {
            Some(limit) => tokio::time::timeout(limit, work).await.map_err(|_| SocketError::TimedOut(limit)),
            None => Ok(work.await),
        }
    }
}

/// What else is worth trying after a refusal.
enum Retry {
    OtherEncryption,
    OtherServer,
    Never,
}

struct Refused {
    error: Error,
    retry: Retry,
}

impl Refused {
    fn by_network(host: &Host, error: SocketError) -> Refused {
        let retry = match error {
            SocketError::TlsNotOffered
            | SocketError::NotPostgres(_)
            | SocketError::Tls(_)
            | SocketError::TlsCut(_) => Retry::OtherEncryption,
            SocketError::NoSuchName(_) | SocketError::Unreachable(_) | SocketError::TimedOut(_) => {
                Retry::OtherServer
            }
        };
        Refused { error: unreachable(host, error), retry }
    }
}

/// The name that a certificate is checked against. A host that is no DNS name can only be asked for by
/// address; `verify-full` will then find no match, as it should.
fn server_name(name: &str, address: IpAddr) -> ServerName<'static> {
    ServerName::try_from(name.trim_end_matches('.').to_owned())
        .unwrap_or_else(|_| ServerName::IpAddress(address.into()))
}

fn unreachable(host: &Host, error: SocketError) -> Error {
    let (kind, hint) = match &error {
        SocketError::NoSuchName(_) => {
            (ErrorKind::Connect, Some("Check the host's spelling, and that this machine can resolve it."))
        }
        SocketError::Unreachable(_) | SocketError::TimedOut(_) | SocketError::TlsCut(_) => {
            (ErrorKind::Connect, None)
        }
        SocketError::TlsNotOffered => (
            ErrorKind::Auth,
            Some("Set ssl = on on the server, or, if the network is trusted, use sslmode=disable."),
        ),
        SocketError::NotPostgres(_) => (ErrorKind::Auth, Some("Check host and port: is this PostgreSQL?")),
        SocketError::Tls(error) => (ErrorKind::Auth, Some(tls::advice(error))),
    };
    let error = Error::new(kind, format!("connect to {}", host.describe())).because(error);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// One error out of all attempts: a single one as it is, several side by side.
fn all_failed(conninfo: &Conninfo, mut failures: Vec<Error>) -> Error {
    if failures.len() <= 1 {
        return failures.pop().unwrap_or_else(|| {
            Error::new(ErrorKind::Usage, "connect").hint("The connection string names no host.")
        });
    }
    // One that may pass makes the whole worth another try; else the last one stands for all.
    let mut texts: Vec<String> = Vec::new();
    for text in failures.iter().map(|error| describe(error)) {
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    let worth = failures.iter().position(|error| error.kind() == ErrorKind::Connect);
    let stand_in = failures.swap_remove(worth.unwrap_or(failures.len() - 1));
    let (kind, sqlstate) = (stand_in.kind(), stand_in.sqlstate());
    let hosts: Vec<String> = conninfo.hosts.iter().map(Host::describe).collect();
    let mut error = Error::new(kind, format!("connect to {}", hosts.join(" or "))).because(texts.join("; "));
    if let Some(hint) = stand_in.advice() {
        error = error.hint(hint);
    }
    match sqlstate {
        Some(state) => error.with_sqlstate(state),
        None => error,
    }
}
