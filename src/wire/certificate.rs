//! The few fields of an X.509 certificate that TLS libraries do not hand out.
//!
//! Hazard: the bytes are the peer's, and some are read before anything is verified. So the reader is
//! total, and what it cannot read is `None`. (RFC 5280 for the fields, X.690 for the encoding)

use sha2::{Digest, Sha256, Sha384, Sha512};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const VERSION: u8 = 0xA0;
const EXTENSIONS: u8 = 0xA3;

/// One DER element: its tag, its content, and the whole of it with its header.
#[derive(Debug, Clone, Copy)]
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    whole: &'a [u8],
}

/// Elements one after another.
#[derive(Debug, Clone, Copy)]
struct Elements<'a>(&'a [u8]);

impl<'a> Iterator for Elements<'a> {
    type Item = Element<'a>;

    fn next(&mut self) -> Option<Element<'a>> {
        let (tag, rest) = self.0.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            short @ 0..=0x7F => (usize::from(*short), rest),
            long @ 0x81..=0x84 => {
                let (digits, rest) = rest.split_at_checked(usize::from(long & 0x7F))?;
                (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        let whole = self.0.get(..self.0.len() - rest.len())?;
        self.0 = rest;
        Some(Element { tag: *tag, content, whole })
    }
}

impl<'a> Elements<'a> {
    /// What the next element holds, if it has that tag.
    fn tagged(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|element| element.tag == tag).map(|element| element.content)
    }
}

/// A certificate cut into the parts that matter here.
#[derive(Debug)]
pub(super) struct Certificate<'a> {
    der: &'a [u8],
    subject: &'a [u8],
    public_key: &'a [u8],
    extensions: &'a [u8],
    signature_algorithm: &'a [u8],
}

impl<'a> Certificate<'a> {
    /// Cuts up a DER certificate of any version.
    pub(super) fn read(der: &'a [u8]) -> Option<Certificate<'a>> {
        let mut outer = Elements(Elements(der).tagged(SEQUENCE)?);
        let mut signed = Elements(outer.tagged(SEQUENCE)?);
        let signature_algorithm = outer.tagged(SEQUENCE)?;
        let first = signed.next()?;
        if first.tag == VERSION {
            signed.next()?; // the serial number; a v1 certificate begins with it
        }
        let (_algorithm, _issuer, _validity) = (signed.next()?, signed.next()?, signed.next()?);
        let subject = signed.tagged(SEQUENCE)?;
        let public_key = signed.next()?.whole;
        let extensions = signed.find(|element| element.tag == EXTENSIONS).map_or(&[][..], |it| it.content);
        Some(Certificate { der, subject, public_key, extensions, signature_algorithm })
    }

    /// `tls-server-end-point`: the certificate's hash, by the hash its signature uses, or SHA-256 where that
    /// is MD5 or SHA-1 (RFC 5929). `None` for signatures without a hash of their own (Ed25519), which
    /// PostgreSQL cannot bind to either.
    pub(super) fn end_point_hash(&self) -> Option<Vec<u8>> {
        let mut algorithm = Elements(self.signature_algorithm);
        match algorithm.tagged(OID)? {
            // 1.2.840.113549.1.1.x: RSA with MD5, SHA-1, SHA-256, SHA-384, SHA-512
            [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, which] => match which {
                4 | 5 | 11 => Some(self.hash::<Sha256>()),
                12 => Some(self.hash::<Sha384>()),
                13 => Some(self.hash::<Sha512>()),
                10 => self.pss_hash(algorithm),
                _ => None,
            },
            // 1.2.840.10045.4: ECDSA with SHA-1, SHA-256, SHA-384, SHA-512
            [0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 1] => Some(self.hash::<Sha256>()),
            [0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 3, which] => match which {
                2 => Some(self.hash::<Sha256>()),
                3 => Some(self.hash::<Sha384>()),
                4 => Some(self.hash::<Sha512>()),
                _ => None,
            },
            _ => None,
        }
    }

    /// RSASSA-PSS names its hash in its parameters; without one it is SHA-1.
    fn pss_hash(&self, mut algorithm: Elements<'_>) -> Option<Vec<u8>> {
        let parameters = Elements(algorithm.tagged(SEQUENCE)?);
        let Some(named) = parameters.clone().find(|element| element.tag == 0xA0) else {
            return Some(self.hash::<Sha256>());
        };
        match Elements(Elements(named.content).tagged(SEQUENCE)?).tagged(OID)? {
            [0x2B, 0x0E, 0x03, 0x02, 0x1A] => Some(self.hash::<Sha256>()),
            // 2.16.840.1.101.3.4.2.x
            [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, which] => match which {
                1 => Some(self.hash::<Sha256>()),
                2 => Some(self.hash::<Sha384>()),
                3 => Some(self.hash::<Sha512>()),
                _ => None,
            },
            _ => None,
        }
    }

    fn hash<D: Digest>(&self) -> Vec<u8> {
        D::digest(self.der).to_vec()
    }

    /// SubjectPublicKeyInfo, as a raw-key verifier wants it.
    pub(super) fn public_key(&self) -> &'a [u8] {
        self.public_key
    }

    /// Whether the certificate has no subjectAltName and its common name covers `host`.
    ///
    /// Web clients stopped reading common names; libpq still does, and the certificate that PostgreSQL's own
    /// documentation makes has nothing else (docs: `libpq-ssl`, `ssl-tcp`).
    pub(super) fn common_name_covers(&self, host: &str) -> bool {
        !self.has_alternative_names() && self.common_name().is_some_and(|name| covers(name, host))
    }

    fn has_alternative_names(&self) -> bool {
        let Some(list) = Elements(self.extensions).tagged(SEQUENCE) else { return false };
        Elements(list).any(|extension| Elements(extension.content).tagged(OID) == Some(&[0x55, 0x1D, 0x11]))
    }

    fn common_name(&self) -> Option<&'a str> {
        let attributes = Elements(self.subject).filter(|name| name.tag == SET);
        let mut names = attributes.flat_map(|set| Elements(set.content)).filter_map(|attribute| {
            let mut parts = Elements(attribute.content);
            (parts.tagged(OID)? == [0x55, 0x04, 0x03]).then_some(())?;
            std::str::from_utf8(parts.next()?.content).ok()
        });
        names.next()
    }
}

/// libpq's rule: equal without regard to case, or `*.` in place of exactly one leftmost label.
fn covers(pattern: &str, host: &str) -> bool {
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    let (Some(suffix), Some((label, domain))) = (pattern.strip_prefix("*."), host.split_once('.')) else {
        return false;
    };
    !label.is_empty() && suffix.contains('.') && suffix.eq_ignore_ascii_case(domain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A DER element.
    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82, length[0], length[1]], content].concat()
    }

    /// A certificate with that signature algorithm and common name, and nothing else of value.
    fn certificate(algorithm: &[u8], name: &str, extensions: &[u8]) -> Vec<u8> {
        let attribute = der(SEQUENCE, &[der(OID, &[0x55, 4, 3]), der(0x0C, name.as_bytes())].concat());
        let signed = [
            der(VERSION, &der(2, &[2])),
            der(2, &[1]),
            der(SEQUENCE, algorithm),
            der(SEQUENCE, b""),
            der(SEQUENCE, b""),
            der(SEQUENCE, &der(SET, &attribute)),
            der(SEQUENCE, b"key"),
            der(EXTENSIONS, &der(SEQUENCE, extensions)),
        ];
        let parts = [der(SEQUENCE, &signed.concat()), der(SEQUENCE, algorithm), der(3, b"signature")];
        der(SEQUENCE, &parts.concat())
    }

    fn rsa(which: u8) -> Vec<u8> {
        der(OID, &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, which])
    }

    #[test]
    fn hashes_by_the_signatures_own_hash() {
        for (which, bytes) in [(5, 32), (11, 32), (12, 48), (13, 64)] {
            let bytes_der = certificate(&rsa(which), "db", b"");
            let hash = Certificate::read(&bytes_der).unwrap().end_point_hash().unwrap();
            assert_eq!(hash.len(), bytes, "RSA {which}");
        }
        let ed25519 = certificate(&der(OID, &[0x2B, 0x65, 0x70]), "db", b"");
        assert_eq!(Certificate::read(&ed25519).unwrap().end_point_hash(), None);
    }

    #[test]
    fn the_common_name_counts_only_without_alternative_names() {
        let bare = certificate(&rsa(11), "*.db.example", b"");
        let read = Certificate::read(&bare).unwrap();
        assert!(read.common_name_covers("One.db.example"));
        assert!(!read.common_name_covers("a.b.db.example") && !read.common_name_covers("db.example"));
        let named = der(SEQUENCE, &[der(OID, &[0x55, 0x1D, 0x11]), der(4, b"")].concat());
        let named = certificate(&rsa(11), "db.example", &named);
        assert!(!Certificate::read(&named).unwrap().common_name_covers("db.example"));
    }

    #[test]
    fn a_star_never_stands_for_a_whole_domain() {
        assert!(!covers("*.com", "example.com") && !covers("*", "host") && covers("DB", "db"));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..100), flip in 0usize..200, to: u8) {
            let _ = Certificate::read(&bytes).map(|read| (read.end_point_hash(), read.common_name_covers("x")));
            let mut near = certificate(&rsa(10), "db", &bytes);
            if let Some(byte) = near.get_mut(flip) {
                *byte = to;
            }
            let _ = Certificate::read(&near).map(|read| (read.end_point_hash(), read.common_name_covers("x")));
        }
    }
}
