//! Mutual TLS: who gets in, who does not, and who is thrown out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base::SystemClock;
use broker::{Authenticator, Broker, Disconnect, Identity, Refusal, Settings};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::raw::{Hello, SOON};
use crate::support::{MemoryJournal, until};

fn fingerprint(der: &[u8]) -> String {
    Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Fingerprints and whether they are active.
#[derive(Default)]
struct Registry(Mutex<HashMap<String, bool>>);

impl Authenticator for Registry {
    fn certificate(&self, der: &[u8]) -> Result<Identity, Refusal> {
        let principal = fingerprint(der);
        match self.0.lock().unwrap().get(&principal) {
            Some(true) => Ok(Identity { principal, thing_name: Some("thing".into()) }),
            Some(false) => Err(Refusal { reason: "revoked", message: "it is revoked".into() }),
            None => Err(Refusal { reason: "unknown", message: "it is not registered".into() }),
        }
    }

    fn anonymous(&self) -> Result<Identity, Refusal> {
        Err(Refusal { reason: "anonymous", message: "nobody is anonymous here".into() })
    }
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test authority");
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

struct Leaf {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

fn client_params() -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "device");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn leaf(params: CertificateParams, authority: &Authority) -> Leaf {
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    Leaf { chain: vec![certificate.der().clone()], key: secret(&key) }
}

fn self_signed() -> Leaf {
    let key = KeyPair::generate().unwrap();
    let certificate = client_params().self_signed(&key).unwrap();
    Leaf { chain: vec![certificate.der().clone()], key: secret(&key) }
}

fn secret(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))
}

struct Castle {
    authority: Authority,
    registry: Arc<Registry>,
    broker: Arc<Broker>,
    address: std::net::SocketAddr,
    _shutdown: watch::Sender<bool>,
}

impl Castle {
    async fn build(settings: Settings) -> Castle {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let authority = authority();
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .unwrap();
        let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let server = leaf(params, &authority);
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS12, &rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(server.chain, server.key)
            .unwrap();
        let registry = Arc::<Registry>::default();
        let journal = Arc::<MemoryJournal>::default();
        let broker =
            Broker::new(journal, registry.clone(), Arc::new(SystemClock), settings).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, stop) = watch::channel(false);
        let serving = Arc::clone(&broker);
        tokio::spawn(async move { serving.serve_tls(listener, Arc::new(config), stop).await });
        Castle { authority, registry, broker, address, _shutdown: shutdown }
    }

    fn register(&self, leaf: &Leaf, active: bool) -> String {
        let principal = fingerprint(&leaf.chain[0]);
        self.registry.0.lock().unwrap().insert(principal.clone(), active);
        principal
    }

    fn client_config(
        &self,
        leaf: Option<&Leaf>,
        version: &'static rustls::SupportedProtocolVersion,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let builder =
            ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(roots);
        match leaf {
            Some(leaf) => {
                builder.with_client_auth_cert(leaf.chain.clone(), leaf.key.clone_key()).unwrap()
            }
            None => builder.with_no_client_auth(),
        }
    }

    /// Says CONNECT and gives what the broker answered in MQTT: nothing, if it refused before.
    async fn knock(
        &self,
        leaf: Option<&Leaf>,
        version: &'static rustls::SupportedProtocolVersion,
    ) -> Vec<u8> {
        let connector = TlsConnector::from(Arc::new(self.client_config(leaf, version)));
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let Ok(mut stream) = connector.connect(name, stream).await else { return Vec::new() };
        drop(stream.write_all(&Hello::v4("dev").bytes()).await);
        let mut answer = vec![0; 4];
        match timeout(SOON, stream.read_exact(&mut answer)).await.expect("left hanging") {
            Ok(_) => answer,
            Err(_) => Vec::new(),
        }
    }
}

#[tokio::test]
async fn b1_only_an_active_certificate_of_our_authority_is_heard() {
    let castle = Castle::build(Settings::default()).await;
    let ours = || leaf(client_params(), &castle.authority);
    let foreign = leaf(client_params(), &authority());
    let lonely = self_signed();
    let mut expired = client_params();
    expired.not_before = rcgen::date_time_ymd(2000, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let expired = leaf(expired, &castle.authority);
    let mut early = client_params();
    early.not_before = rcgen::date_time_ymd(2900, 1, 1);
    early.not_after = rcgen::date_time_ymd(2901, 1, 1);
    let early = leaf(early, &castle.authority);
    let mut wrong_use = client_params();
    wrong_use.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let wrong_use = leaf(wrong_use, &castle.authority);
    let (good, revoked, unknown) = (ours(), ours(), ours());
    // All but one are in the registry: it is not the registry that keeps the others out.
    for known in [&foreign, &lonely, &expired, &early, &wrong_use, &good] {
        castle.register(known, true);
    }
    castle.register(&revoked, false);
    let cases = [
        ("none", None, false),
        ("another authority", Some(&foreign), false),
        ("self-signed", Some(&lonely), false),
        ("expired", Some(&expired), false),
        ("not yet valid", Some(&early), false),
        ("a server's certificate", Some(&wrong_use), false),
        ("revoked", Some(&revoked), false),
        ("not registered", Some(&unknown), false),
        ("good", Some(&good), true),
    ];
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for (what, leaf, enters) in &cases {
            let answer = castle.knock(*leaf, version).await;
            let expect: &[u8] = if *enters { &[0x20, 2, 0, 0] } else { &[] };
            assert_eq!(answer, expect, "{what} over {version:?}");
        }
    }
    let stats = castle.broker.stats();
    assert_eq!((stats.refused_handshake, stats.refused_identity), (12, 4));
    assert_eq!(stats.bytes_in, 2 * Hello::v4("dev").bytes().len() as u64);
}

#[tokio::test]
async fn b2_a_revoked_device_is_out_within_a_second_and_stays_out() {
    use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS, TlsConfiguration, Transport};
    let castle = Castle::build(Settings::default()).await;
    let device = leaf(client_params(), &castle.authority);
    let principal = castle.register(&device, true);
    let mut options = MqttOptions::new("dev", "localhost", castle.address.port());
    let config = castle.client_config(Some(&device), &rustls::version::TLS13);
    options.set_transport(Transport::Tls(TlsConfiguration::Rustls(Arc::new(config))));
    let (client, mut events) = AsyncClient::new(options, 10);
    client.publish("a", QoS::AtLeastOnce, false, "x").await.unwrap();
    timeout(SOON, async {
        while !matches!(events.poll().await.unwrap(), Event::Incoming(Packet::PubAck(_))) {}
    })
    .await
    .expect("not acknowledged");
    let session = &castle.broker.sessions()[0];
    assert_eq!((&session.principal, session.thing_name.as_deref()), (&principal, Some("thing")));
    castle.register(&device, false);
    let started = Instant::now();
    assert_eq!(castle.broker.disconnect_principal(&principal, Disconnect::Revoked), 1);
    timeout(SOON, async { while events.poll().await.is_ok() {} }).await.expect("still in");
    assert!(started.elapsed() < Duration::from_secs(1));
    assert!(castle.knock(Some(&device), &rustls::version::TLS13).await.is_empty());
}

#[tokio::test]
async fn b4_a_client_id_belongs_to_its_certificate_or_thing() {
    let castle = Castle::build(Settings::default()).await;
    let (one, two) =
        (leaf(client_params(), &castle.authority), leaf(client_params(), &castle.authority));
    castle.register(&one, true);
    castle.register(&two, true);
    // Both certificates are of one thing: a renewed certificate goes on with the session.
    assert_eq!(castle.knock(Some(&one), &rustls::version::TLS13).await, [0x20, 2, 0, 0]);
    assert_eq!(castle.knock(Some(&two), &rustls::version::TLS13).await, [0x20, 2, 0, 0]);
}

#[tokio::test]
async fn a_silent_handshake_is_cut() {
    let castle = Castle::build(Settings { connect_secs_max: 1, ..Settings::default() }).await;
    let mut silent = TcpStream::connect(castle.address).await.unwrap();
    let started = Instant::now();
    let mut byte = [0];
    let read = timeout(SOON, silent.read(&mut byte)).await.expect("kept for ever");
    assert!(matches!(read, Ok(0) | Err(_)));
    assert!(started.elapsed() < Duration::from_secs(4));
    until("it is counted", || castle.broker.stats().refused_handshake == 1).await;
}
