//! Certificates made on the spot, by the `openssl` program: an authority, and what it vouches for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Says everything that `openssl` would else take from the machine's own configuration.
const CONFIGURATION: &str = "
[req]
distinguished_name = name
x509_extensions = authority
prompt = no
[name]
CN = an authority for tests
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
[server]
subjectAltName = DNS:localhost
[client]
extendedKeyUsage = clientAuth
";

/// A certificate and its key, PEM.
pub(crate) struct Issued {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// An authority of our own.
pub(crate) struct Authority {
    folder: TempDir,
}

impl Authority {
    /// A fresh one, which nobody trusts yet.
    pub(crate) fn new() -> Authority {
        let authority = Authority { folder: tempfile::tempdir().expect("a temporary folder") };
        fs::write(authority.path("openssl.cnf"), CONFIGURATION).expect("write a configuration");
        openssl(
            authority.folder.path(),
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -config openssl.cnf \
             -keyout ca.key -out ca.crt",
        );
        authority
    }

    /// Its own certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.path("ca.crt")
    }

    /// A server's certificate, for the name `localhost` and for no address.
    pub(crate) fn for_server(&self) -> Issued {
        self.issue("localhost", "server")
    }

    /// A client's certificate, for that role.
    pub(crate) fn for_client(&self, role: &str) -> Issued {
        self.issue(role, "client")
    }

    fn issue(&self, name: &str, section: &str) -> Issued {
        let folder = self.folder.path();
        openssl(
            folder,
            &format!(
                "req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -config openssl.cnf \
                 -subj /CN={name} -keyout {name}.key -out {name}.csr"
            ),
        );
        openssl(
            folder,
            &format!(
                "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
                 -extfile openssl.cnf -extensions {section} -out {name}.crt"
            ),
        );
        Issued { certificate: self.path(&format!("{name}.crt")), key: self.path(&format!("{name}.key")) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split_whitespace()).current_dir(folder).output();
    let output = output.expect("openssl is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
