//! What the TLS listener needs: our certificate, and the demand for theirs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::{Clock, Error, Result, Timestamp};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore,
    ServerConfig, SignatureScheme,
};
use serde::{Deserialize, Serialize};

use crate::Registry;
use crate::authority::{Authority, Purpose, before, provider};
use crate::files::{self, Access};

/// Clients of AWS offer the first; the second marks plain MQTT. One that offers none is fine.
const ALPN: [&[u8]; 2] = [b"x-amzn-mqtt-ca", b"mqtt"];
/// Always certified, whatever else is asked for.
const OWN_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
const FILE: &str = "server.json";
/// The longest that clients which mind accept.
pub(crate) const VALID: Duration = Duration::from_secs(397 * 24 * 3600);
/// A certificate is made anew when less than this is left.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);

impl Registry {
    /// The configuration of the listener on 8883: TLS 1.2 and 1.3, a client certificate
    /// demanded that our authority signed or that is registered as one made elsewhere, no
    /// resumption (so that every session shows its certificate).
    ///
    /// Certifies `localhost`, the loopback addresses and `host_names`. The certificate is kept
    /// in the authority's folder, and made anew when the names change or its end is near, also
    /// while the server runs.
    pub fn server_config(self: &Arc<Self>, host_names: &[String]) -> Result<ServerConfig> {
        self.listener_config(host_names, true)
    }

    /// The same for MQTT over WebSocket, where a client may do without a certificate and sign
    /// its request instead. One that it shows has to hold all the same.
    pub fn websocket_config(self: &Arc<Self>, host_names: &[String]) -> Result<ServerConfig> {
        let mut config = self.listener_config(host_names, false)?;
        config.alpn_protocols.insert(0, b"http/1.1".to_vec());
        Ok(config)
    }

    fn listener_config(
        self: &Arc<Self>,
        host_names: &[String],
        mandatory: bool,
    ) -> Result<ServerConfig> {
        let authority = self.authority();
        let own = Arc::new(OwnCertificate::load(Arc::clone(authority), host_names)?);
        let mut roots = RootCertStore::empty();
        roots.add(certificate(authority.root_pem())?).map_err(broken("the root certificate"))?;
        let ours = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|cause| {
                Error::internal("failed to verify against our root").with_source(cause)
            })?;
        let verifier = Arc::new(Devices { ours, registry: Arc::clone(self), mandatory });
        let time = Arc::new(OurTime(Arc::clone(&authority.clock)));
        let mut config = ServerConfig::builder_with_details(provider(), time)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(broken("the TLS versions"))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(own);
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

/// Whose certificates get through TLS: those that our authority signed, and by their fingerprint
/// those registered as made elsewhere while they are ACTIVE and in date. Either way the peer's
/// signature shows that it holds the key.
#[derive(Debug)]
struct Devices {
    ours: Arc<dyn ClientCertVerifier>,
    registry: Arc<Registry>,
    /// Whether a client has to show one.
    mandatory: bool,
}

impl ClientCertVerifier for Devices {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> std::result::Result<ClientCertVerified, rustls::Error> {
        // Our root signs devices itself and says so (its path length is 0), which the verifier does
        // not look at in an anchor. So nothing that a client brings along can stand between.
        let not_ours = match self.ours.verify_client_cert(leaf, &[], now) {
            Ok(verified) => return Ok(verified),
            Err(refused) => refused,
        };
        match self.registry.lookup_foreign(leaf) {
            Some(Ok(_found)) => Ok(ClientCertVerified::assertion()),
            Some(Err(denied)) => Err(CertificateError::Other(OtherError(Arc::new(denied))).into()),
            None => Err(not_ours),
        }
    }

    /// None: clients that choose a certificate by these would keep back one made elsewhere.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.ours.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.ours.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.ours.supported_verify_schemes()
    }
}

pub(crate) fn certificate(pem: &str) -> Result<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|cause| Error::invalid("not a certificate in PEM").with_source(cause))
}

pub(crate) fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|_cause| Error::invalid("not a private key in PEM"))
}

pub(crate) fn broken(what: &'static str) -> impl Fn(rustls::Error) -> Error {
    move |cause| Error::internal(format!("failed to use {what}")).with_source(cause)
}

/// Our clock, as TLS asks for it.
#[derive(Debug)]
struct OurTime(Arc<dyn Clock>);

impl TimeProvider for OurTime {
    fn current_time(&self) -> Option<UnixTime> {
        let millis = u64::try_from(self.0.now().millis()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_millis(millis)))
    }
}

/// The server's certificate as it is kept: one file, so that key and certificate agree.
#[derive(Serialize, Deserialize)]
struct Stored {
    names: Vec<String>,
    not_after: Timestamp,
    root_pem: String,
    certificate_pem: String,
    private_key_pem: String,
}

/// Hands out the certificate, renewing it when its end is near.
#[derive(Debug)]
pub(crate) struct OwnCertificate {
    authority: Arc<Authority>,
    names: Vec<String>,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    renew_at: Timestamp,
    key: Arc<CertifiedKey>,
}

impl OwnCertificate {
    pub(crate) fn load(authority: Arc<Authority>, host_names: &[String]) -> Result<Self> {
        let mut names: Vec<String> = OWN_NAMES.map(str::to_owned).to_vec();
        names.extend(host_names.iter().cloned());
        names.sort();
        names.dedup();
        let current = match stored(&authority, &names)? {
            Some(stored) => current(&stored)?,
            None => renew(&authority, &names)?,
        };
        Ok(OwnCertificate { authority, names, current: Mutex::new(current) })
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if self.authority.clock.now() >= current.renew_at {
            match renew(&self.authority, &self.names) {
                Ok(renewed) => *current = renewed,
                // The old one is good for a while; the next handshake tries again.
                Err(error) => tracing::warn!(%error, "failed to renew the server certificate"),
            }
        }
        Some(Arc::clone(&current.key))
    }
}

/// The stored certificate, if it is ours, for these names, and good for a while.
fn stored(authority: &Authority, names: &[String]) -> Result<Option<Stored>> {
    let path = authority.folder.join(FILE);
    if !path.exists() {
        return Ok(None);
    }
    // A damaged file costs nothing: unlike the root, the certificate can be made anew.
    let Ok(stored) = serde_json::from_str::<Stored>(&files::read_private(&path)?) else {
        tracing::warn!("the stored server certificate cannot be read and is made anew");
        return Ok(None);
    };
    let fresh = authority.clock.now() < before(stored.not_after, RENEW_BEFORE);
    let ours = stored.root_pem == authority.root_pem();
    Ok((fresh && ours && stored.names == names).then_some(stored))
}

fn renew(authority: &Authority, names: &[String]) -> Result<Current> {
    let issued = authority.issue(&Purpose::Server { names, valid: VALID })?;
    let stored = Stored {
        names: names.to_vec(),
        not_after: issued.not_after,
        root_pem: authority.root_pem().to_owned(),
        certificate_pem: issued.certificate_pem,
        private_key_pem: issued.private_key_pem.expose().to_owned(),
    };
    let json = serde_json::to_string_pretty(&stored)
        .map_err(|cause| Error::internal("failed to write server.json").with_source(cause))?;
    files::replace(&authority.folder.join(FILE), &json, Access::Owner)?;
    tracing::info!(names = ?stored.names, "issued a server certificate");
    current(&stored)
}

pub(crate) fn certified_key(certificate_pem: &str, private_key_pem: &str) -> Result<CertifiedKey> {
    CertifiedKey::from_der(
        vec![certificate(certificate_pem)?],
        private_key(private_key_pem)?,
        &provider(),
    )
    .map_err(broken("the server certificate"))
}

fn current(stored: &Stored) -> Result<Current> {
    let key = certified_key(&stored.certificate_pem, &stored.private_key_pem)?;
    Ok(Current { renew_at: before(stored.not_after, RENEW_BEFORE), key: Arc::new(key) })
}
