//! Certificates made elsewhere: what they say, and whether they can be of use here.
//!
//! Pure: no clock, no rows. [`crate::Registry`] decides what is registered.
//!
//! Invariants
//! * What is taken for a device's certificate can be used in a handshake: TLS reads it, and
//!   checks signatures made with its key.
//! * A private key is never taken along: it would be shown to whoever describes the certificate.
//! * Who signed what is decided by the signature, never by the names alone.

use std::fmt;

use base::{Error, Result, Timestamp};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::ParsedCertificate;
use x509_parser::certificate::X509Certificate;
use x509_parser::public_key::PublicKey;

use crate::authority::certificate_id;

/// AWS's bound of a certificate in PEM.
const PEM_BYTES_MAX: usize = 65_536;

/// RSA keys that signatures are checked with.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;
/// The curves P-256 and P-384.
const CURVES: [&str; 2] = ["1.2.840.10045.3.1.7", "1.3.132.0.34"];

/// Signatures that are believed: SHA-256, 384 and 512 with RSA, RSASSA-PSS, SHA-256 and 384 with
/// ECDSA. SHA-1 is not among them, though the parser would check it.
const SIGNATURES: [&str; 6] = [
    "1.2.840.113549.1.1.11",
    "1.2.840.113549.1.1.12",
    "1.2.840.113549.1.1.13",
    "1.2.840.113549.1.1.10",
    "1.2.840.10045.4.3.2",
    "1.2.840.10045.4.3.3",
];

/// A certificate that somebody else made, read and found to be of use.
#[derive(Clone)]
pub struct Foreign {
    /// SHA-256 of the DER, in hex.
    pub certificate_id: String,
    /// As it was given.
    pub pem: String,
    /// The beginning of its validity.
    pub not_before: Timestamp,
    /// The end of its validity.
    pub not_after: Timestamp,
    der: CertificateDer<'static>,
}

impl Foreign {
    /// A certificate that a device is to present. [`base::ErrorKind::Invalid`] says why it
    /// cannot: its key, its usages, its end, its form.
    pub fn device(pem: &str, now: Timestamp) -> Result<Foreign> {
        let foreign = Foreign::read(pem)?;
        // X.509 before version 3, and critical extensions that TLS does not know.
        ParsedCertificate::try_from(&foreign.der)
            .map_err(|cause| Error::invalid(format!("TLS cannot use the certificate: {cause}")))?;
        let certificate = parse(&foreign.der)?;
        check_key(&certificate)?;
        let usage = certificate.extended_key_usage().map_err(unreadable)?;
        if usage.is_some_and(|usage| !(usage.value.client_auth || usage.value.any)) {
            return Err(Error::invalid(
                "the certificate's extended key usage does not allow authentication as a client",
            ));
        }
        foreign.check_end(now)?;
        Ok(foreign)
    }

    /// The certificate of an authority, which is to answer for devices' certificates.
    pub fn authority(pem: &str, now: Timestamp) -> Result<Foreign> {
        let foreign = Foreign::read(pem)?;
        let certificate = parse(&foreign.der)?;
        check_key(&certificate)?;
        let constraints = certificate.basic_constraints().map_err(unreadable)?;
        let usage = certificate.key_usage().map_err(unreadable)?;
        let signs = constraints.is_some_and(|constraints| constraints.value.ca)
            && usage.is_none_or(|usage| usage.value.key_cert_sign());
        if !signs {
            return Err(Error::invalid(
                "the certificate is not an authority's: its basic constraints must say CA:TRUE, \
                 and its key usage, if it has one, must include signing certificates",
            ));
        }
        foreign.check_end(now)?;
        Ok(foreign)
    }

    /// A certificate that shows who holds an authority's key; nobody presents it in a handshake.
    pub fn proof(pem: &str, now: Timestamp) -> Result<Foreign> {
        let foreign = Foreign::read(pem)?;
        foreign.check_end(now)?;
        Ok(foreign)
    }

    /// A row's certificate.
    pub(crate) fn stored(pem: &str) -> Result<Foreign> {
        Foreign::read(pem)
    }

    fn read(pem: &str) -> Result<Foreign> {
        if pem.len() > PEM_BYTES_MAX {
            return Err(Error::invalid(format!(
                "the PEM has {} bytes; at most {PEM_BYTES_MAX} are taken",
                pem.len()
            )));
        }
        if pem.matches("-----BEGIN ").count() != 1 {
            return Err(Error::invalid(
                "the PEM must hold one certificate and nothing else: no chain and no key",
            ));
        }
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|cause| Error::invalid("not a certificate in PEM").with_source(cause))?;
        let validity = parse(&der)?.validity().clone();
        let at = |secs: i64| Timestamp(secs.saturating_mul(1000));
        Ok(Foreign {
            certificate_id: certificate_id(&der),
            pem: pem.to_owned(),
            not_before: at(validity.not_before.timestamp()),
            not_after: at(validity.not_after.timestamp()),
            der,
        })
    }

    fn check_end(&self, now: Timestamp) -> Result<()> {
        if now > self.not_after {
            return Err(Error::invalid(format!("certificate {} has expired", self.certificate_id)));
        }
        Ok(())
    }

    /// Whether `issuer` signed this certificate.
    pub fn is_signed_by(&self, issuer: &Foreign) -> bool {
        let (Ok(own), Ok(issuer)) = (parse(&self.der), parse(&issuer.der)) else { return false };
        let algorithm = own.signature_algorithm.algorithm.to_id_string();
        own.issuer().as_raw() == issuer.subject().as_raw()
            // RFC 5280, 4.1.1.2: what the signature covers names the same algorithm.
            && own.signature_algorithm == own.tbs_certificate.signature
            && SIGNATURES.contains(&algorithm.as_str())
            && check_key(&issuer).is_ok()
            && own.verify_signature(Some(issuer.public_key())).is_ok()
    }

    /// Whether two certificates are of the same subject.
    pub(crate) fn is_same_subject(&self, other: &Foreign) -> bool {
        let (Ok(own), Ok(other)) = (parse(&self.der), parse(&other.der)) else { return false };
        own.subject().as_raw() == other.subject().as_raw()
    }

    /// The subject's common name, if it has exactly one.
    pub fn common_name(&self) -> Option<String> {
        let certificate = parse(&self.der).ok()?;
        let mut names = certificate.subject().iter_common_name();
        let name = names.next()?.as_str().ok()?.to_owned();
        names.next().is_none().then_some(name)
    }
}

impl fmt::Debug for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Foreign")
            .field("certificate_id", &self.certificate_id)
            .finish_non_exhaustive()
    }
}

fn unreadable(cause: impl fmt::Display) -> Error {
    Error::invalid(format!("the certificate cannot be read: {cause}"))
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>> {
    let (rest, certificate) = x509_parser::parse_x509_certificate(der).map_err(unreadable)?;
    if !rest.is_empty() {
        return Err(unreadable("bytes follow it"));
    }
    Ok(certificate)
}

/// What AWS takes, but for the curve P-521, which our TLS does not check signatures on.
fn check_key(certificate: &X509Certificate<'_>) -> Result<()> {
    let key = certificate.public_key();
    let fits = match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => RSA_BITS.contains(&bits(rsa.modulus)),
        Ok(PublicKey::EC(_)) => {
            let curve = key.algorithm.parameters.as_ref().and_then(|given| given.as_oid().ok());
            curve.is_some_and(|curve| CURVES.contains(&curve.to_id_string().as_str()))
        }
        _ => false,
    };
    if fits {
        return Ok(());
    }
    Err(Error::invalid(
        "the certificate's key is neither RSA of 2048 to 8192 bits nor on the curve P-256 or P-384",
    ))
}

/// Significant bits of a big-endian number.
fn bits(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|&&byte| byte == 0).count();
    let Some(first) = number.get(zeros) else { return 0 };
    (number.len() - zeros) * 8 - first.leading_zeros() as usize
}
