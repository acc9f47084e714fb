//! The servers to try: `host`, `hostaddr` and `port`, three lists that belong together.
//!
//! Hazard: the lists are matched by position, so one short list would pair every name after it with a
//! wrong address or port. Only a single port may stand for all.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::settings::{Parameter, Settings};
use super::{ConninfoError, Host, HostName};

/// Where servers listen on Unix sockets when nobody says otherwise: Debian's packages, everyone else's.
const SOCKET_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];
/// Tried last when no host is named.
const LOCALHOST: &str = "localhost";
/// The port when none is named.
const DEFAULT_PORT: u16 = 5432;

/// Makes the hosts out, in order.
pub(super) fn hosts(settings: &Settings) -> Result<Vec<Host>, ConninfoError> {
    let names = list(settings.get(Parameter::Host));
    let addresses = list(settings.get(Parameter::Hostaddr));
    let ports = ports(settings)?;
    let count = names.len().max(addresses.len()).max(1);
    if !names.is_empty() && !addresses.is_empty() && names.len() != addresses.len() {
        return Err(settings.invalid(Parameter::Hostaddr, "as many addresses as there are hosts"));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(settings.invalid(Parameter::Port, "one port, or as many as there are hosts"));
    }
    let mut hosts = Vec::with_capacity(count);
    for position in 0..count {
        let name = names.get(position).copied().unwrap_or_default();
        let address = addresses.get(position).copied().unwrap_or_default();
        let port = ports.get(position).or(ports.first()).copied().unwrap_or(DEFAULT_PORT);
        if name.is_empty() && address.is_empty() {
            hosts.extend(default_hosts(port));
        } else {
            hosts.push(host(name, address, port, settings)?);
        }
    }
    Ok(hosts)
}

fn list(text: Option<&str>) -> Vec<&str> {
    text.map(|text| text.split(',').collect()).unwrap_or_default()
}

fn ports(settings: &Settings) -> Result<Vec<u16>, ConninfoError> {
    let port = |text: &str| match text.trim() {
        "" => Some(DEFAULT_PORT),
        text => text.parse().ok().filter(|port| *port != 0),
    };
    let ports: Option<Vec<u16>> = list(settings.get(Parameter::Port)).into_iter().map(port).collect();
    ports.ok_or_else(|| settings.invalid(Parameter::Port, "a number from 1 to 65535, or a list of them"))
}

fn host(name: &str, address: &str, port: u16, settings: &Settings) -> Result<Host, ConninfoError> {
    let not_an_address = |_| settings.invalid(Parameter::Hostaddr, "an IP address, or a list of them");
    let hostaddr: Option<IpAddr> = match address {
        "" => None,
        text => Some(text.parse().map_err(not_an_address)?),
    };
    let name = match (name, hostaddr) {
        ("", Some(address)) => HostName::Tcp(address.to_string()),
        (name, None) if name.starts_with('/') => HostName::Unix(PathBuf::from(name)),
        (name, None) if name.starts_with('@') => {
            return Err(settings.unsupported(Parameter::Host, "sockets in the abstract namespace"));
        }
        (name, _) => HostName::Tcp(name.to_owned()),
    };
    Ok(Host { name, hostaddr, port })
}

/// Which of them exists shows only on trying, so all are tried.
fn default_hosts(port: u16) -> impl Iterator<Item = Host> {
    let sockets = SOCKET_FOLDERS.iter().map(|folder| HostName::Unix(PathBuf::from(folder)));
    let names = sockets.chain([HostName::Tcp(LOCALHOST.to_owned())]);
    names.map(move |name| Host { name, hostaddr: None, port })
}

impl Host {
    /// What stands for this host in a password file: a default socket folder goes by `localhost` as well.
    pub(super) fn passfile_names(&self) -> Vec<String> {
        match &self.name {
            HostName::Tcp(name) => vec![name.clone()],
            HostName::Unix(folder) if SOCKET_FOLDERS.iter().any(|usual| Path::new(usual) == folder) => {
                vec![LOCALHOST.to_owned(), folder.display().to_string()]
            }
            HostName::Unix(folder) => vec![folder.display().to_string()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::resolve;
    use super::*;

    fn described(text: &str) -> Vec<String> {
        let hosts = resolve(text).unwrap().hosts;
        let host = |host: &Host| {
            let name = match &host.name {
                HostName::Tcp(name) => name.clone(),
                HostName::Unix(folder) => format!("unix {}", folder.display()),
            };
            let address = host.hostaddr.map_or(String::new(), |address| format!(" at {address}"));
            format!("{name}{address} {}", host.port)
        };
        hosts.iter().map(host).collect()
    }

    #[test]
    fn pairs_names_addresses_and_ports_by_position() {
        assert_eq!(described("host=a,/b port=1,2"), ["a 1", "unix /b 2"]);
        assert_eq!(described("host=a,b port=7"), ["a 7", "b 7"]);
        assert_eq!(described("host=a,b port=,7"), ["a 5432", "b 7"]);
        assert_eq!(described("host=a,b hostaddr=1.2.3.4,"), ["a at 1.2.3.4 5432", "b 5432"]);
        assert_eq!(described("hostaddr=::1"), ["::1 at ::1 5432"]);
    }

    #[test]
    fn tries_the_usual_sockets_and_then_localhost_when_no_host_is_named() {
        let usual = ["unix /var/run/postgresql 6", "unix /tmp 6", "localhost 6"];
        assert_eq!(described("port=6"), usual);
        assert_eq!(described("host='' port=6"), usual);
    }

    #[test]
    fn refuses_lists_that_do_not_belong_together() {
        let parameter = |text: &str| match resolve(text) {
            Err(ConninfoError::Invalid { parameter, .. } | ConninfoError::Unsupported { parameter, .. }) => {
                parameter
            }
            other => panic!("{text}: {other:?}"),
        };
        for text in ["host=a,b port=1,2,3", "port=1,2", "host=a port=0", "host=a port=65536", "host=a port=x"]
        {
            assert_eq!(parameter(text), "port", "{text}");
        }
        assert_eq!(parameter("host=a,b hostaddr=1.2.3.4"), "hostaddr");
        assert_eq!(parameter("host=a hostaddr=a"), "hostaddr");
        assert_eq!(parameter("host=@a"), "host");
    }
}
