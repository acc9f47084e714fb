//! TLS by libpq's rules, over rustls.
//!
//! Hazard: `sslmode` names six policies and two of them protect nobody in the middle. The rule here is
//! libpq's: a root certificate, once given, is always checked, even under `require`; a host name only under
//! `verify-full`. The handshake's signature is checked always, for channel binding rests on it (P93).
//! (docs: `libpq-ssl`)

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Conninfo, RootCertificates, SslMode, SslNegotiation};
use crate::wire::certificate::Certificate;

/// The protocol name that a server expects when TLS comes first (17+).
const ALPN: &[u8] = b"postgresql";

/// Reads the certificate files of a connection string and settles what to verify.
///
/// # Errors
/// `Usage` for modes that contradict each other, `Local` for files that cannot be read.
pub(super) fn client_config(conninfo: &Conninfo) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier::new(conninfo, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(ErrorKind::Bug, "set TLS versions").because(error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match (&conninfo.sslcert, &conninfo.sslkey) {
        (None, _) => builder.with_no_client_auth(),
        (Some(certificate), Some(key)) => builder
            .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
            .map_err(|error| Error::new(ErrorKind::Local, "use the client certificate").because(error))?,
        (Some(_), None) => {
            return Err(Error::new(ErrorKind::Usage, "use the client certificate")
                .hint("sslcert needs its private key: add sslkey."));
        }
    };
    if conninfo.sslnegotiation == SslNegotiation::Direct {
        config.alpn_protocols = vec![ALPN.to_vec()];
    }
    Ok(Arc::new(config))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let unreadable = |error| {
        Error::new(ErrorKind::Local, format!("read certificates from {}", file.display())).because(error)
    };
    let found: Vec<_> =
        CertificateDer::pem_file_iter(file).and_then(Iterator::collect).map_err(unreadable)?;
    if found.is_empty() {
        return Err(unreadable(rustls::pki_types::pem::Error::NoItemsFound));
    }
    Ok(found)
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| {
        Error::new(ErrorKind::Local, format!("read the private key from {}", file.display()))
            .hint("The file must hold an unencrypted key in PEM format.")
            .because(error)
    })
}

/// What an operator can do about a failed handshake.
pub(super) fn advice(error: &rustls::Error) -> &'static str {
    use CertificateError::{Expired, ExpiredContext, Other, UnknownIssuer};
    match error {
        error if is_about_the_name(error) => {
            "Connect by a name that the certificate holds, or use sslmode=verify-ca."
        }
        rustls::Error::InvalidCertificate(UnknownIssuer) => {
            "Give the certificate of the authority that signed the server's as sslrootcert."
        }
        rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. }) => {
            "Renew the server's certificate."
        }
        // The verifier has no names of its own for these two.
        rustls::Error::InvalidCertificate(Other(other)) => match other.to_string().as_str() {
            "CaUsedAsEndEntity" => {
                "The server's certificate is self-signed: give that very certificate as sslrootcert."
            }
            "UnsupportedCertVersion" => {
                "The server's certificate is of X.509 version 1: sign it again with extensions (-extfile)."
            }
            _ => "Check sslrootcert and the server's certificate.",
        },
        _ => "Check the TLS settings of both ends.",
    }
}

/// What a server's certificate must show.
#[derive(Debug)]
enum Trust {
    /// Nothing.
    Anyone,
    /// That it chains to a root of ours.
    Chain(Roots),
    /// That, and the host's name.
    ChainAndName(Roots),
}

/// Roots, both as anchors of a chain and as they came.
#[derive(Debug)]
struct Roots {
    chain: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
}

impl Roots {
    /// Checks chain and name. A self-signed certificate that is its own root is trusted for being the same
    /// bytes; OpenSSL would do so, a web verifier refuses a CA as an end.
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = self.chain.verify_server_cert(end_entity, intermediates, name, &[], now);
        match verdict {
            Err(error) if !is_about_the_name(&error) && self.given.contains(end_entity) => {
                let parsed = rustls::server::ParsedCertificate::try_from(end_entity);
                parsed.and_then(|own| rustls::client::verify_server_name(&own, name))?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }
}

fn is_about_the_name(error: &rustls::Error) -> bool {
    use CertificateError::{NotValidForName, NotValidForNameContext};
    matches!(error, rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }))
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn new(conninfo: &Conninfo, provider: &Arc<CryptoProvider>) -> Result<Verifier> {
        let algorithms = provider.signature_verification_algorithms;
        let roots = match &conninfo.sslrootcert {
            None => None,
            Some(RootCertificates::File(file)) => Some(certificates(file)?),
            Some(RootCertificates::System) if conninfo.sslmode != SslMode::VerifyFull => {
                return Err(Error::new(ErrorKind::Usage, "use sslrootcert=system")
                    .hint("Public authorities vouch for names: use sslmode=verify-full with it."));
            }
            Some(RootCertificates::System) => Some(rustls_native_certs::load_native_certs().certs),
        };
        let trust = match (roots, conninfo.sslmode) {
            (None, SslMode::VerifyCa | SslMode::VerifyFull) => {
                return Err(Error::new(ErrorKind::Usage, "verify the server's certificate")
                    .hint("Give sslrootcert: a PEM file with the authority's certificate, or `system`."));
            }
            (None, _) => Trust::Anyone,
            (Some(given), SslMode::VerifyFull) => Trust::ChainAndName(Verifier::roots(given, provider)?),
            (Some(given), _) => Trust::Chain(Verifier::roots(given, provider)?),
        };
        Ok(Verifier { trust, algorithms })
    }

    fn roots(given: Vec<CertificateDer<'static>>, provider: &Arc<CryptoProvider>) -> Result<Roots> {
        let mut store = RootCertStore::empty();
        // System stores always hold a few that do not parse; none at all is caught below.
        store.add_parsable_certificates(given.iter().cloned());
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
            .build()
            .map_err(|error| Error::new(ErrorKind::Local, "use the root certificates").because(error))?;
        Ok(Roots { chain, given })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.trust {
            Trust::Anyone => Ok(ServerCertVerified::assertion()),
            // The name is judged after the chain, so an error about it means that the chain is good.
            Trust::Chain(roots) => match roots.verify(end_entity, intermediates, name, now) {
                Err(error) if is_about_the_name(&error) => Ok(ServerCertVerified::assertion()),
                verdict => verdict,
            },
            Trust::ChainAndName(roots) => match roots.verify(end_entity, intermediates, name, now) {
                Err(error) if is_about_the_name(&error) && common_name_covers(end_entity, name) => {
                    Ok(ServerCertVerified::assertion())
                }
                verdict => verdict,
            },
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let verdict = verify_tls13_signature(message, certificate, signature, &self.algorithms);
        // A version 1 certificate (`openssl x509 -req` without extensions) is no good to a web verifier.
        // Under `require` only its key matters, and that can be read.
        match (verdict, &self.trust, Certificate::read(certificate)) {
            (Err(rustls::Error::InvalidCertificate(_)), Trust::Anyone, Some(read)) => {
                let key = SubjectPublicKeyInfoDer::from(read.public_key());
                verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
            }
            (verdict, _, _) => verdict,
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn common_name_covers(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
    Certificate::read(certificate).is_some_and(|read| read.common_name_covers(&name.to_str()))
}
