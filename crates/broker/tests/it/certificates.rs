//! T1: certificates of every kind that can be made, shown to the listener of port 8883 as the
//! program builds it, over both versions of TLS.

use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Timestamp};
use identity::{Certificate, Foreign, Registry, Status, certificate_id};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SerialNumber,
};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme, SupportedProtocolVersion};

use crate::gatehouse::{Gatehouse, Ground, tunnel};
use crate::raw::Hello;
use crate::support::{quiet, until};

const DAY: Duration = Duration::from_secs(24 * 3600);

const RSA_2048: &str = include_str!("../../../identity/tests/data/rsa-2048.key.pem");
const RSA_4096: &str = include_str!("../data/rsa-4096.key.pem");

/// What a peer shows: certificates, and the key it signs with.
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

/// Shows them whatever they are: the client itself checks nothing.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A device's certificate, as our authority makes them.
fn usual(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn authority_params(name: &str, path: Option<u8>) -> CertificateParams {
    let mut params = named(name);
    let constraints = path.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn new_key() -> KeyPair {
    KeyPair::generate().unwrap()
}

/// A whole day before or behind today.
fn day(ground: &Ground, days: i64) -> Timestamp {
    Timestamp(ground.clock.now().0 + days * 24 * 3600 * 1000)
}

fn set_days(params: &mut CertificateParams, ground: &Ground, from: i64, to: i64) {
    let at = |days: i64| {
        let secs = u64::try_from(day(ground, days).0 / 1000).unwrap();
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(secs)
    };
    (params.not_before, params.not_after) = (at(from), at(to));
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Enters,
    /// Refused in the handshake, with these words on record.
    Tls(&'static str),
    /// Refused by the registry behind it.
    Registry(&'static str),
}

struct Case {
    what: &'static str,
    shown: Option<Shown>,
    fate: Fate,
}

/// The matrix, and the rows that the registry is to have.
struct Matrix<'g> {
    ground: &'g Ground,
    root: Issuer<'static, KeyPair>,
    cases: Vec<Case>,
}

impl<'g> Matrix<'g> {
    fn new(ground: &'g Ground) -> Matrix<'g> {
        let authority = ground.authority();
        // Once, so that the rows below are not taken for those of the first release.
        let (store, clock) = (ground.store.clone(), ground.clock.clone());
        drop(Registry::open(store, Arc::clone(&authority), clock).unwrap());
        let key =
            std::fs::read_to_string(ground.folder.path().join("ca/root.private.key")).unwrap();
        let key = KeyPair::from_pem(&key).unwrap();
        let root = Issuer::from_ca_cert_pem(authority.root_pem(), key).unwrap();
        Matrix { ground, root, cases: Vec::new() }
    }

    fn case(&mut self, what: &'static str, shown: Shown, fate: Fate) {
        self.cases.push(Case { what, shown: Some(shown), fate });
    }

    /// Signed by our root, with a row of this status.
    fn ours(
        &mut self,
        what: &'static str,
        params: CertificateParams,
        status: Option<Status>,
        fate: Fate,
    ) {
        let key = new_key();
        let shown = self.sign(params, key);
        if let Some(status) = status {
            self.row(&shown, status);
        }
        self.case(what, shown, fate);
    }

    fn sign(&self, params: CertificateParams, key: KeyPair) -> Shown {
        let certificate = params.signed_by(&key, &self.root).unwrap();
        Shown { chain: vec![certificate.der().clone()], key }
    }

    /// Has the registry know the first of the chain as one of ours, good for ever: it is not its
    /// row that keeps it out.
    fn row(&self, shown: &Shown, status: Status) {
        let id = certificate_id(&shown.chain[0]);
        let row = Certificate {
            certificate_id: id.clone(),
            things: vec!["thing".to_owned()],
            status,
            created_at: self.ground.clock.now(),
            modified_at: self.ground.clock.now(),
            not_before: Timestamp(0),
            not_after: day(self.ground, 10_000),
            pem: String::new(),
            registered: None,
        };
        self.ground.store.put(&id, &row).unwrap();
    }

    fn known(&mut self, what: &'static str, shown: Shown, fate: Fate) {
        self.row(&shown, Status::Active);
        self.case(what, shown, fate);
    }
}

fn by(issuer: &CertifiedIssuer<'static, KeyPair>, params: CertificateParams) -> Shown {
    let key = new_key();
    let certificate = params.signed_by(&key, issuer).unwrap();
    Shown { chain: vec![certificate.der().clone()], key }
}

fn alone(params: &CertificateParams) -> Shown {
    let key = new_key();
    Shown { chain: vec![params.self_signed(&key).unwrap().der().clone()], key }
}

fn matrix(ground: &Ground) -> Vec<Case> {
    use Fate::{Enters, Registry, Tls};
    let mut all = Matrix::new(ground);
    let active = Some(Status::Active);
    all.cases.push(Case { what: "none", shown: None, fate: Tls("no certificates") });
    all.ours("good", usual("device"), active, Enters);
    all.ours("not registered", usual("device"), None, Registry("is not registered"));
    all.ours("INACTIVE", usual("device"), Some(Status::Inactive), Registry("is INACTIVE"));
    all.ours("REVOKED", usual("device"), Some(Status::Revoked), Registry("is REVOKED"));

    // Time.
    for (what, from, to, fate) in [
        ("expired", -10, -1, Tls("expired")),
        ("not yet valid", 1, 10, Tls("not valid yet")),
        ("ends before it begins", 10, -10, Tls("invalid peer certificate")),
        ("valid since yesterday", -1, 1, Enters),
    ] {
        let mut params = usual("device");
        set_days(&mut params, ground, from, to);
        all.ours(what, params, active, fate);
    }

    // Who signed.
    let other = CertifiedIssuer::self_signed(authority_params("other", None), new_key()).unwrap();
    all.known("another authority", by(&other, usual("device")), Tls("UnknownIssuer"));
    let root_pem = ground.authority().root_pem().to_owned();
    let namesake = Issuer::from_ca_cert_pem(&root_pem, new_key()).unwrap();
    let key = new_key();
    let forged = usual("device").signed_by(&key, &namesake).unwrap().der().clone();
    let forged = Shown { chain: vec![forged], key };
    all.known("another authority with our name", forged, Tls("invalid peer certificate"));
    all.known("self-signed", alone(&usual("device")), Tls("UnknownIssuer"));
    let mut shown = by(&other, usual("device"));
    shown.chain.push(other.der().clone());
    all.known("another authority, brought along", shown, Tls("UnknownIssuer"));
    let between = |path| {
        CertifiedIssuer::signed_by(authority_params("between", path), new_key(), &all.root).unwrap()
    };
    let (one, two) = (between(Some(0)), between(None));
    let below =
        CertifiedIssuer::signed_by(authority_params("below", None), new_key(), &two).unwrap();
    let mut shown = by(&one, usual("device"));
    all.known("an intermediate that is not shown", by(&one, usual("d")), Tls("UnknownIssuer"));
    shown.chain.push(one.der().clone());
    // Our root says that nothing stands between it and a device.
    all.known("a chain of two", shown, Tls("UnknownIssuer"));
    let mut shown = by(&below, usual("device"));
    shown.chain.extend([below.der().clone(), two.der().clone()]);
    all.known("a chain of three", shown, Tls("UnknownIssuer"));
    let device = CertifiedIssuer::signed_by(usual("device"), new_key(), &all.root).unwrap();
    let mut shown = by(&device, usual("device"));
    shown.chain.push(device.der().clone());
    all.known("signed by a device", shown, Tls("UnknownIssuer"));
    all.ours("an authority itself", authority_params("d", None), active, Tls("CaUsedAsEndEntity"));

    // What for.
    let mut params = usual("device");
    params.extended_key_usages = Vec::new();
    all.ours("for any use", params, active, Enters);
    for (what, usages, fate) in [
        ("a server's", vec![ExtendedKeyUsagePurpose::ServerAuth], Tls("invalid peer certificate")),
        (
            "for signing code",
            vec![ExtendedKeyUsagePurpose::CodeSigning],
            Tls("invalid peer certificate"),
        ),
        (
            "for both ends",
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            Enters,
        ),
    ] {
        let mut params = usual("device");
        params.extended_key_usages = usages;
        all.ours(what, params, active, fate);
    }
    let strange = |critical: bool| {
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 9], vec![5, 0]);
        extension.set_criticality(critical);
        let mut params = usual("device");
        params.custom_extensions = vec![extension];
        params
    };
    let refused = Tls("UnsupportedCriticalExtension");
    all.ours("a critical extension nobody knows", strange(true), active, refused);
    all.ours("an extension nobody knows", strange(false), active, Enters);

    // Names: nobody is known by one.
    let long = "x".repeat(16 * 1024);
    for (what, name) in [
        ("a name with U+0000", "admin\0device"),
        ("a name of other letters", "g\u{e9}r\u{e4}t \u{1f600} \u{202e}"),
        ("a wildcard for a name", "*"),
        ("no name", ""),
        ("a name of 16 KiB", long.as_str()),
    ] {
        all.ours(what, usual(name), active, Enters);
        all.ours("the same, not registered", usual(name), None, Registry("is not registered"));
    }
    let huge = "x".repeat(70 * 1024);
    all.ours("a name of 70 KiB", usual(&huge), active, Tls(""));
    let mut shown = all.sign(usual("device"), new_key());
    let junk = alone(&authority_params("junk", None)).chain.remove(0);
    shown.chain.extend(std::iter::repeat_n(junk.clone(), 100 * 1024 / junk.len()));
    all.known("a chain of 100 KiB", shown, Tls(""));
    let serial = SerialNumber::from_slice(&[7; 16]);
    for (what, status, fate) in [
        ("a serial number", active, Enters),
        ("the same serial number", None, Registry("is not registered")),
    ] {
        let mut params = usual("device");
        params.serial_number = Some(serial.clone());
        all.ours(what, params, status, fate);
    }

    // Keys.
    for (what, key) in [
        ("P-384", KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap()),
        ("Ed25519", KeyPair::generate_for(&PKCS_ED25519).unwrap()),
        ("RSA of 2048 bits", KeyPair::from_pem(RSA_2048).unwrap()),
        ("RSA of 4096 bits", KeyPair::from_pem(RSA_4096).unwrap()),
    ] {
        let shown = all.sign(usual("device"), key);
        all.known(what, shown, Enters);
    }
    let mut stolen = all.sign(usual("device"), new_key());
    stolen.key = new_key();
    all.known("a certificate without its key", stolen, Tls("invalid peer certificate"));

    // Bytes.
    let altered = |at: usize, all: &Matrix<'_>| {
        let mut shown = all.sign(usual("device"), new_key());
        let mut der = shown.chain[0].to_vec();
        let at = der.len() - at;
        der[at] ^= 1;
        shown.chain[0] = der.into();
        shown
    };
    let shown = altered(1, &all);
    all.known("a bit of the signature", shown, Tls("invalid peer certificate"));
    let shown = altered(150, &all);
    all.known("a bit of what is signed", shown, Tls("invalid peer certificate"));
    let mut shown = all.sign(usual("device"), new_key());
    shown.chain[0] = [&shown.chain[0][..], &[0]].concat().into();
    all.known("a byte behind it", shown, Tls("invalid peer certificate"));
    let mut shown = all.sign(usual("device"), new_key());
    shown.chain[0] = shown.chain[0][..shown.chain[0].len() - 1].to_vec().into();
    all.known("a byte too few", shown, Tls("invalid peer certificate"));
    all.known("no DER", Shown { chain: vec![vec![0x30; 64].into()], key: new_key() }, Tls(""));
    all.cases
}

fn client(
    root_pem: &str,
    shown: Option<&Shown>,
    version: &'static SupportedProtocolVersion,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let Some(shown) = shown else { return builder.with_no_client_auth() };
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(shown.key.serialize_der()));
    let key = provider.key_provider.load_private_key(key).unwrap();
    let certified = CertifiedKey::new(shown.chain.clone(), key);
    builder.with_client_cert_resolver(Arc::new(Shows(Arc::new(certified))))
}

/// Says CONNECT and gives what came back in MQTT; nothing if it was refused before.
async fn knock(gatehouse: &Gatehouse, config: ClientConfig) -> Option<Vec<u8>> {
    let mut raw = tunnel(gatehouse.address, config).await.ok()?;
    raw.try_send(&Hello::v4("thing").bytes()).await;
    raw.packet().await
}

#[tokio::test]
async fn b1_no_byte_of_mqtt_is_heard_before_the_certificate_is_believed() {
    let ground = Ground::new();
    let cases = matrix(&ground);
    assert!(cases.len() >= 40, "{} cases", cases.len());
    let gatehouse = ground.open(quiet()).await;
    let root = gatehouse.registry.authority().root_pem().to_owned();
    let versions = [(&rustls::version::TLS12, "1.2"), (&rustls::version::TLS13, "1.3")];
    let (mut heard, mut refused, mut wrong) = (0, 0, Vec::new());
    for (version, number) in versions {
        for Case { what, shown, fate } in &cases {
            let before = gatehouse.broker.stats();
            let answer = knock(&gatehouse, client(&root, shown.as_ref(), version)).await;
            let counted = || {
                let now = gatehouse.broker.stats();
                let handshake = now.refused_handshake - before.refused_handshake;
                (handshake, now.refused_identity - before.refused_identity)
            };
            let (words, expect) = match fate {
                Fate::Enters => {
                    // No policy is attached: MQTT's refusal, which is an answer.
                    if answer != Some(vec![0x20, 2, 0, 5]) {
                        wrong
                            .push(format!("{what} over TLS {number}: not heard but {answer:02x?}"));
                    }
                    heard += 1;
                    continue;
                }
                Fate::Tls(words) => (words, (1, 0)),
                Fate::Registry(words) => (words, (0, 1)),
            };
            until(what, || answer.is_some() || counted() != (0, 0)).await;
            let bytes = gatehouse.broker.stats().bytes_in - before.bytes_in;
            let why = gatehouse.broker.why("").1.refused.remove(0);
            let on_record = why.why.text.contains(words) && why.name == "127.0.0.1";
            if answer.is_some() || counted() != expect || bytes > 0 || !on_record {
                let counted = counted();
                wrong.push(format!(
                    "{what} over TLS {number}: {answer:02x?}, {counted:?}, {bytes} bytes, {why:?}"
                ));
            }
            refused += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{heard} heard and {refused} refused of {} certificates", 2 * cases.len());
    let spoke = heard * Hello::v4("thing").bytes().len() as u64;
    assert_eq!(gatehouse.broker.stats().bytes_in, spoke);
    assert!(refused > heard && heard > 20, "{refused}, {heard}");
}

/// T1: the end comes while its bearer is connected.
#[tokio::test]
async fn b1_a_certificate_that_runs_out_ends_its_session() {
    let ground = Ground::new();
    let gatehouse = ground.open(quiet()).await;
    let key = new_key();
    let mut params = usual("short");
    set_days(&mut params, &ground, -1, 1);
    let certificate = params.self_signed(&key).unwrap();
    let foreign = Foreign::device(&certificate.pem(), gatehouse.clock.now()).unwrap();
    let id = gatehouse
        .registry
        .register_certificate(&foreign, Status::Active, None)
        .unwrap()
        .certificate_id;
    let policy = crate::policy::document(&[("Allow", "iot:*", "*")]);
    gatehouse.registry.policies().create("all", &policy).unwrap();
    gatehouse.registry.policies().attach("all", &id).unwrap();
    let root = gatehouse.registry.authority().root_pem().to_owned();
    let shown = Shown { chain: vec![certificate.der().clone()], key };
    let config = || client(&root, Some(&shown), &rustls::version::TLS13);
    let hello = Hello { will: Some(("gone", "x", 1)), ..Hello::v5("short") };
    let mut raw = tunnel(gatehouse.address, config()).await.unwrap();
    raw.send(&hello.bytes()).await;
    assert_eq!(raw.packet().await.unwrap()[0], 0x20);
    let other = gatehouse.device("other", &[("Allow", "iot:*", "*")]);
    let mut other = gatehouse.join(&other, &Hello::v4("other")).await;
    gatehouse.clock.advance(DAY / 2);
    raw.ping().await;
    gatehouse.clock.advance(DAY);
    raw.disconnected(0x87).await;
    assert_eq!(gatehouse.broker.stats().closed_revoked, 1);
    // It may not come back, says nothing from the grave, and nobody else is concerned.
    assert_eq!(knock(&gatehouse, config()).await, None);
    other.ping().await;
    assert_eq!(gatehouse.journal.appended(), 0);
}
