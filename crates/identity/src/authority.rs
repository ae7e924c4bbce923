//! The certificate authority of one data directory.
//!
//! The folder appears whole, by a rename, and is never made anew while anything of it exists.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Error, ErrorKind, Result, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SerialNumber,
};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Secret;
use crate::files::{self, Access};

pub(crate) const ROOT_CERTIFICATE: &str = "root-CA.crt";
const ROOT_KEY: &str = "root.private.key";
const ROOT_FACTS: &str = "root.json";

/// How long the root, and with it every device certificate, is valid.
const ROOT_VALID: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
/// Certificates begin a day early, for devices whose clock is slow.
pub(crate) const CLOCK_SLACK: Duration = Duration::from_secs(24 * 3600);

/// Signs device and server certificates. Its key leaves neither this type nor its folder.
pub struct Authority {
    pub(crate) folder: PathBuf,
    pub(crate) clock: Arc<dyn Clock>,
    facts: Facts,
    key: KeyPair,
    root_pem: String,
}

/// What the root certificate says, so that it need not be parsed to sign with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Facts {
    common_name: String,
    not_after: Timestamp,
}

/// A certificate and the key it was made with.
#[derive(Clone, Debug)]
pub struct Issued {
    /// SHA-256 of the certificate's DER, in hex: what AWS calls the certificate id.
    pub certificate_id: String,
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key, PKCS#8.
    pub private_key_pem: Secret,
    /// Its public key.
    pub public_key_pem: String,
    /// The beginning of its validity.
    pub not_before: Timestamp,
    /// The end of its validity.
    pub not_after: Timestamp,
}

/// What a certificate is for.
pub(crate) enum Purpose<'a> {
    Device { thing: &'a str },
    Server { names: &'a [String], valid: Duration },
}

impl Authority {
    /// Opens the authority in `folder`, making one if the folder is absent or empty; the
    /// folder's parent must exist.
    pub fn open(folder: &Path, clock: Arc<dyn Clock>) -> Result<Arc<Self>> {
        if is_absent_or_empty(folder)? {
            make(folder, &*clock)?;
        }
        load(folder, clock).map(Arc::new).map_err(|failed| {
            failed.context(format_args!(
                "failed to open the certificate authority in {}",
                folder.display()
            ))
        })
    }

    /// The root certificate, for `root-CA.crt` of a kit.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// Makes a key and a client certificate whose common name is `thing`. Nothing is
    /// registered: [`crate::Registry::add_device`] is the way to admit a device.
    pub fn issue_device(&self, thing: &str) -> Result<Issued> {
        self.issue(&Purpose::Device { thing })
    }

    /// Certifies the key of a signing request under the subject it names. Whatever else it asks
    /// for is left out: validity and usages are those of every device certificate. The answer
    /// has no private key.
    pub(crate) fn issue_requested(&self, request: &str) -> Result<Issued> {
        let refused = |why: &str| Error::invalid(format!("the certificate signing request {why}"));
        let mut request = CertificateSigningRequestParams::from_pem(request)
            .map_err(|cause| refused(&format!("cannot be used: {cause}")).with_source(cause))?;
        check_public_key(&request.public_key).map_err(refused)?;
        let now = self.clock.now();
        let mut params = leaf(&Purpose::Device { thing: "" })?;
        params.distinguished_name = std::mem::take(&mut request.params.distinguished_name);
        let (not_before, not_after) = (before(now, CLOCK_SLACK), self.facts.not_after);
        set_validity(&mut params, not_before, not_after);
        params.serial_number = Some(SerialNumber::from_slice(&serial()?));
        request.params = params;
        let root = root_params(&self.facts.common_name);
        let certificate = request
            .signed_by(&Issuer::from_params(&root, &self.key))
            .map_err(|cause| Error::internal("failed to sign a certificate").with_source(cause))?;
        Ok(Issued {
            certificate_id: certificate_id(certificate.der()),
            certificate_pem: certificate.pem(),
            private_key_pem: Secret::new(""),
            public_key_pem: String::new(),
            not_before,
            not_after,
        })
    }

    /// Issues the certificate of a server that is reached under `names`, for programs beside
    /// ours that our devices are to trust.
    pub fn issue_server(&self, names: &[String]) -> Result<Issued> {
        self.issue(&Purpose::Server { names, valid: crate::server::VALID })
    }

    pub(crate) fn issue(&self, purpose: &Purpose<'_>) -> Result<Issued> {
        let now = self.clock.now();
        let mut params = leaf(purpose)?;
        let not_after = match purpose {
            Purpose::Device { .. } => self.facts.not_after,
            Purpose::Server { valid, .. } => after(now, *valid).min(self.facts.not_after),
        };
        set_validity(&mut params, before(now, CLOCK_SLACK), not_after);
        params.serial_number = Some(SerialNumber::from_slice(&serial()?));
        let key = new_key()?;
        let root = root_params(&self.facts.common_name);
        let certificate = params
            .signed_by(&key, &Issuer::from_params(&root, &self.key))
            .map_err(|cause| Error::internal("failed to sign a certificate").with_source(cause))?;
        Ok(Issued {
            certificate_id: certificate_id(certificate.der()),
            certificate_pem: certificate.pem(),
            private_key_pem: Secret::new(key.serialize_pem()),
            public_key_pem: key.public_key_pem(),
            not_before: before(now, CLOCK_SLACK),
            not_after,
        })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// The certificate id: SHA-256 of the DER, in lower-case hex.
pub fn certificate_id(der: &[u8]) -> String {
    hex(&Sha256::digest(der))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The one TLS implementation, named rather than taken from the process's default.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    ring::default_provider().secure_random.fill(&mut bytes).map_err(|_unavailable| {
        Error::new(ErrorKind::Unavailable, "the system has no random numbers")
    })?;
    Ok(bytes)
}

fn is_absent_or_empty(folder: &Path) -> Result<bool> {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(cause) => Err(Error::io(format_args!("failed to read {}", folder.display()), cause)),
    }
}

/// Makes the authority beside its place and moves it there whole.
fn make(folder: &Path, clock: &dyn Clock) -> Result<()> {
    let mut staged = folder.as_os_str().to_owned();
    staged.push(".new");
    let staged = PathBuf::from(staged);
    if staged.exists() {
        // A crash before the rename below: no certificate of this authority was ever given out.
        std::fs::remove_dir_all(&staged).map_err(|cause| {
            Error::io(format_args!("failed to remove {}", staged.display()), cause)
        })?;
    }
    files::create_private_folder(&staged)?;

    let now = clock.now();
    let facts = Facts {
        common_name: format!("Forebay root CA {}", hex(&random::<4>()?)),
        not_after: after(now, ROOT_VALID),
    };
    let key = new_key()?;
    let mut params = root_params(&facts.common_name);
    set_validity(&mut params, before(now, CLOCK_SLACK), facts.not_after);
    params.serial_number = Some(SerialNumber::from_slice(&serial()?));
    let root = params.self_signed(&key).map_err(|cause| {
        Error::internal("failed to sign the root certificate").with_source(cause)
    })?;
    let facts = serde_json::to_string_pretty(&facts)
        .map_err(|cause| Error::internal("failed to write root.json").with_source(cause))?;
    files::create(&staged.join(ROOT_KEY), &key.serialize_pem(), Access::Owner)?;
    files::create(&staged.join(ROOT_CERTIFICATE), &root.pem(), Access::Everybody)?;
    files::create(&staged.join(ROOT_FACTS), &facts, Access::Everybody)?;
    files::sync_folder(&staged)?;
    std::fs::rename(&staged, folder)
        .map_err(|cause| Error::io(format_args!("failed to make {}", folder.display()), cause))?;
    files::sync_parent(folder)
}

fn load(folder: &Path, clock: Arc<dyn Clock>) -> Result<Authority> {
    let damaged = |what: &str| {
        Error::new(ErrorKind::Corrupt, format!("{what}; restore the folder from a backup"))
    };
    let key = KeyPair::from_pem(&files::read_private(&folder.join(ROOT_KEY))?)
        .map_err(|_cause| damaged("root.private.key is not a private key"))?;
    let root_pem = files::read(&folder.join(ROOT_CERTIFICATE))?;
    let facts = serde_json::from_str(&files::read(&folder.join(ROOT_FACTS))?)
        .map_err(|cause| damaged("root.json cannot be read").with_source(cause))?;
    let root = CertificateDer::from_pem_slice(root_pem.as_bytes())
        .map_err(|cause| damaged("root-CA.crt is not a certificate").with_source(cause))?;
    let public = key.public_key_raw();
    if !root.windows(public.len()).any(|window| window == public) {
        return Err(damaged("root-CA.crt does not belong to root.private.key"));
    }
    Ok(Authority { folder: folder.to_owned(), clock, facts, key, root_pem })
}

fn root_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf(purpose: &Purpose<'_>) -> Result<CertificateParams> {
    let mut params = match purpose {
        Purpose::Device { .. } => CertificateParams::default(),
        Purpose::Server { names, .. } => {
            CertificateParams::new(names.to_vec()).map_err(|cause| {
                Error::invalid(format!("a host name of {names:?} cannot be certified"))
                    .with_source(cause)
            })?
        }
    };
    let (common_name, usage) = match purpose {
        Purpose::Device { thing } => (*thing, ExtendedKeyUsagePurpose::ClientAuth),
        Purpose::Server { .. } => ("Forebay", ExtendedKeyUsagePurpose::ServerAuth),
    };
    params.distinguished_name = distinguished_name(common_name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// AWS takes RSA keys of at least 2,048 bits and keys on the NIST curves P-256 and P-384.
fn check_public_key(key: &rcgen::PublicKey) -> std::result::Result<(), &'static str> {
    const RSA_2048_BYTES: usize = 256;
    let bytes = key.der_bytes().len();
    let name = format!("{:?}", key.algorithm());
    let ok = match () {
        () if name.contains("RSA") => bytes > RSA_2048_BYTES,
        () if name.contains("P256") => bytes == 65,
        () if name.contains("P384") => bytes == 97,
        () => false,
    };
    if ok {
        return Ok(());
    }
    Err("has a key that is neither RSA of 2048 bits or more nor on the curve P-256 with SHA-256 \
         or P-384 with SHA-384")
}

fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn new_key() -> Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
        .map_err(|cause| Error::internal("failed to make a key").with_source(cause))
}

/// 128 random bits. The first byte is never zero, so that DER keeps all sixteen.
fn serial() -> Result<[u8; 16]> {
    loop {
        let bytes = random::<16>()?;
        if bytes[0] != 0 {
            return Ok(bytes);
        }
    }
}

pub(crate) fn after(moment: Timestamp, by: Duration) -> Timestamp {
    Timestamp(moment.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
}

pub(crate) fn before(moment: Timestamp, by: Duration) -> Timestamp {
    Timestamp(moment.0.saturating_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)).max(0))
}

/// Sets the validity; certificates count in whole seconds.
fn set_validity(params: &mut CertificateParams, from: Timestamp, to: Timestamp) {
    let since_epoch = |at: Timestamp| Duration::from_secs(u64::try_from(at.0 / 1000).unwrap_or(0));
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(from);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(to);
}
