//! Certificates made elsewhere: what is taken, who answers for it, and who gets through TLS.

use std::sync::Arc;
use std::time::Duration;

use base::{ErrorKind, Timestamp};
use identity::{Certificate, Foreign, Mode, Status};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
};
use rustls::ClientConfig;
use rustls::SupportedProtocolVersion;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use crate::handshake::{pem_to_der, roots, server, shake, time};
use crate::{NOW, World, world};

const RSA: &str = include_str!("../data/rsa-2048.key.pem");

type Elsewhere = CertifiedIssuer<'static, KeyPair>;

struct Made {
    pem: String,
    key: KeyPair,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn authority(name: &str) -> Elsewhere {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn self_signed(params: CertificateParams, key: KeyPair) -> Made {
    Made { pem: params.self_signed(&key).unwrap().pem(), key }
}

fn by(issuer: &Elsewhere, params: CertificateParams) -> Made {
    let key = KeyPair::generate().unwrap();
    Made { pem: params.signed_by(&key, issuer).unwrap().pem(), key }
}

/// The whole days around now.
fn days(params: &mut CertificateParams, from: i64, to: i64) {
    let at = |days: i64| {
        let secs = u64::try_from(NOW.0 / 1000 + days * 24 * 3600).unwrap();
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(secs)
    };
    params.not_before = at(from);
    params.not_after = at(to);
}

fn days_later(days: u64) -> Duration {
    Duration::from_secs(days * 24 * 3600)
}

fn register(world: &World, made: &Made, status: Status) -> Certificate {
    let foreign = Foreign::device(&made.pem, NOW).unwrap();
    world.registry.register_certificate(&foreign, status, None).unwrap()
}

fn present(
    world: &World,
    pem: &str,
    key: &KeyPair,
    version: &'static SupportedProtocolVersion,
) -> Result<String, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let client = ClientConfig::builder_with_details(provider.clone(), time(world))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots(&world.authority));
    // Not `with_client_auth_cert`, which refuses a key that is another certificate's.
    let key = provider.key_provider.load_private_key(key).unwrap();
    let shown = rustls::sign::CertifiedKey::new(vec![pem_to_der(pem).into()], key);
    let client = client.with_client_cert_resolver(Arc::new(Shows(Arc::new(shown))));
    let shaken =
        shake(client, &server(world), "localhost").map_err(|error| format!("tls: {error}"))?;
    let leaf = &shaken.server.peer_certificates().unwrap()[0];
    world.registry.lookup(leaf).map(|found| found.certificate_id).map_err(|e| e.to_string())
}

/// Presents a certificate whatever key it is held with.
#[derive(Debug)]
struct Shows(Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for Shows {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

#[test]
fn b1_a_registered_certificate_of_anybody_admits_while_it_is_active() {
    let world = world();
    let elsewhere = authority("elsewhere");
    let mut lone_authority = params("openssl req -x509");
    lone_authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let made = [
        by(&elsewhere, params("of another authority")),
        self_signed(params("self-signed"), KeyPair::generate().unwrap()),
        self_signed(params("P-384"), KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap()),
        self_signed(params("RSA"), KeyPair::from_pem(RSA).unwrap()),
        self_signed(lone_authority, KeyPair::generate().unwrap()),
    ];
    for (index, made) in made.iter().enumerate() {
        for version in VERSIONS {
            let refused = present(&world, &made.pem, &made.key, version).unwrap_err();
            assert!(refused.starts_with("tls: invalid peer certificate: "), "{index}: {refused}");
        }
        let id = register(&world, made, Status::Inactive).certificate_id;
        for version in VERSIONS {
            let refused = present(&world, &made.pem, &made.key, version).unwrap_err();
            assert!(refused.starts_with("tls: ") && refused.contains("is INACTIVE"), "{refused}");
            world.registry.set_status(&id, Status::Active).unwrap();
            assert_eq!(present(&world, &made.pem, &made.key, version), Ok(id.clone()));
            world.registry.set_status(&id, Status::Inactive).unwrap();
        }
        world.registry.set_status(&id, Status::Revoked).unwrap();
        let refused = present(&world, &made.pem, &made.key, VERSIONS[0]).unwrap_err();
        assert!(refused.starts_with("tls: ") && refused.contains("is REVOKED"), "{refused}");
        world.registry.delete_certificate(&id, true).unwrap();
        let refused = present(&world, &made.pem, &made.key, VERSIONS[1]).unwrap_err();
        assert!(refused.starts_with("tls: invalid peer certificate: "), "{index}: {refused}");
    }
}

/// Whoever has read a certificate, which is no secret, does not get in with it.
#[test]
fn b1_the_key_must_be_the_certificates() {
    let world = world();
    let made = self_signed(params("device"), KeyPair::generate().unwrap());
    let id = register(&world, &made, Status::Active).certificate_id;
    let other = KeyPair::generate().unwrap();
    for version in VERSIONS {
        let refused = present(&world, &made.pem, &other, version).unwrap_err();
        assert!(refused.contains("BadSignature"), "{refused}");
        assert_eq!(present(&world, &made.pem, &made.key, version), Ok(id.clone()));
    }
}

/// Nor does a certificate of the same subject, key or authority as a registered one.
#[test]
fn only_the_very_certificate_that_is_registered_admits() {
    let world = world();
    let elsewhere = authority("elsewhere");
    let made = by(&elsewhere, params("device"));
    let id = register(&world, &made, Status::Active).certificate_id;
    let sibling = by(&elsewhere, params("device"));
    let renewed = params("device").signed_by(&made.key, &elsewhere).unwrap().pem();
    for (pem, key) in [(&sibling.pem, &sibling.key), (&renewed, &made.key)] {
        let refused = present(&world, pem, key, VERSIONS[1]).unwrap_err();
        assert!(refused.starts_with("tls: invalid peer certificate: UnknownIssuer"), "{refused}");
    }
    assert_eq!(present(&world, &made.pem, &made.key, VERSIONS[1]), Ok(id));
}

/// A registered certificate vouches for itself: our own still need our signature and our dates.
#[test]
fn b1_a_registered_certificate_is_refused_before_and_after_its_time() {
    let world = world();
    let mut later = params("device");
    days(&mut later, 10, 20);
    let made = self_signed(later, KeyPair::generate().unwrap());
    let id = register(&world, &made, Status::Active).certificate_id;
    let refused = present(&world, &made.pem, &made.key, VERSIONS[1]).unwrap_err();
    assert!(refused.starts_with("tls: ") && refused.contains("not valid yet"), "{refused}");
    assert!(!world.registry.is_active(&id));
    world.clock.advance(days_later(15));
    assert_eq!(present(&world, &made.pem, &made.key, VERSIONS[1]), Ok(id.clone()));
    assert!(world.registry.is_active(&id));
    world.clock.advance(days_later(6));
    let refused = present(&world, &made.pem, &made.key, VERSIONS[1]).unwrap_err();
    assert!(refused.starts_with("tls: ") && refused.contains("has expired"), "{refused}");
    assert!(!world.registry.is_active(&id));
}

#[test]
fn registrations_survive_a_restart_and_happen_once() {
    let world = world();
    let made = self_signed(params("device"), KeyPair::generate().unwrap());
    let row = register(&world, &made, Status::Active);
    assert_eq!(row.registered.as_ref().unwrap().mode, Mode::SniOnly);
    let foreign = Foreign::device(&made.pem, NOW).unwrap();
    let twice = world.registry.register_certificate(&foreign, Status::Active, None).unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::AlreadyExists);
    let world = world.reopen();
    assert_eq!(world.registry.certificate(&row.certificate_id).unwrap(), row);
    assert_eq!(present(&world, &made.pem, &made.key, VERSIONS[1]), Ok(row.certificate_id));

    // One of ours is registered already, and stays one of ours.
    let kit = world.registry.add_device("d").unwrap();
    let ours = Foreign::device(&kit.certificate.pem, NOW).unwrap();
    let twice = world.registry.register_certificate(&ours, Status::Active, None).unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::AlreadyExists);
    assert_eq!(kit.certificate.registered, None);
}

#[test]
fn what_cannot_be_a_devices_certificate_says_why() {
    let made = |edit: fn(&mut CertificateParams)| {
        let mut params = params("device");
        edit(&mut params);
        self_signed(params, KeyPair::generate().unwrap()).pem
    };
    let good = made(|_| ());
    let key = KeyPair::generate().unwrap().serialize_pem();
    let ed25519 = self_signed(params("device"), KeyPair::generate_for(&PKCS_ED25519).unwrap()).pem;
    let cases = [
        ("nonsense".to_owned(), "one certificate"),
        (String::new(), "one certificate"),
        (format!("{good}{good}"), "one certificate"),
        (format!("{good}{key}"), "one certificate"),
        (key, "not a certificate"),
        (good.replace("MII", "AAA"), "cannot be read"),
        (format!("{good}{}", " ".repeat(65_536)), "65536"),
        (ed25519, "P-256"),
        (made(|params| days(params, -20, -10)), "has expired"),
        (
            made(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            "as a client",
        ),
    ];
    for (pem, part) in cases {
        let refused = Foreign::device(&pem, NOW).map(drop).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
        assert!(refused.to_string().contains(part), "{part}: {refused}");
    }
    let client =
        made(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    for pem in [good.clone(), format!("Certificate:\n    Data: v3\n{good}"), client] {
        assert_eq!(Foreign::device(&pem, NOW).unwrap().pem, pem);
    }
}

#[test]
fn an_issuer_is_known_by_its_signature() {
    let (one, two) = (authority("elsewhere"), authority("elsewhere"));
    let issuer = |authority: &Elsewhere| Foreign::authority(&authority.pem(), NOW).unwrap();
    let device = Foreign::device(&by(&one, params("device")).pem, NOW).unwrap();
    assert!(device.is_signed_by(&issuer(&one)));
    assert!(!device.is_signed_by(&issuer(&two)), "of the same name, with another key");
    assert!(issuer(&one).is_signed_by(&issuer(&one)));
    assert_eq!(device.common_name().as_deref(), Some("device"));

    let leaf = by(&one, params("no authority"));
    let mut signs_nothing = params("signs nothing");
    signs_nothing.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    signs_nothing.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let mut old = params("old");
    old.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    days(&mut old, -20, -10);
    for (pem, part) in [
        (leaf.pem, "CA:TRUE"),
        (self_signed(signs_nothing, KeyPair::generate().unwrap()).pem, "signing certificates"),
        (self_signed(old, KeyPair::generate().unwrap()).pem, "has expired"),
    ] {
        let refused = Foreign::authority(&pem, NOW).map(drop).unwrap_err();
        assert!(refused.to_string().contains(part), "{part}: {refused}");
    }
}

#[test]
fn an_issuer_answers_for_new_registrations_alone() {
    let world = world();
    let registry = &world.registry;
    let elsewhere = authority("elsewhere");
    let ca = Foreign::authority(&elsewhere.pem(), NOW).unwrap();
    let made = by(&elsewhere, params("device"));
    let device = Foreign::device(&made.pem, NOW).unwrap();
    let kind = |given| registry.issuer_of(&device, given).map(drop).map_err(|e| e.kind());
    assert_eq!(kind(None), Err(ErrorKind::NotFound));
    assert_eq!(kind(Some(&ca)), Err(ErrorKind::NotFound));
    let issuer = registry.register_issuer(&ca, false, Mode::Default).unwrap();
    let twice = registry.register_issuer(&ca, true, Mode::Default).unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::AlreadyExists);
    assert_eq!(kind(None), Err(ErrorKind::Denied), "it is not active");
    registry.set_issuer_active(&issuer.certificate_id, true).unwrap();
    assert_eq!((kind(None), kind(Some(&ca))), (Ok(()), Ok(())));
    let stranger = Foreign::authority(&authority("elsewhere").pem(), NOW).unwrap();
    registry.register_issuer(&stranger, true, Mode::Default).unwrap();
    assert_eq!(kind(Some(&stranger)), Err(ErrorKind::NotFound));
    assert_eq!(kind(None), Ok(()), "another authority of that name does not matter");

    let issuer = registry.issuer_of(&device, None).unwrap();
    let row = registry.register_certificate(&device, Status::Active, Some(&issuer)).unwrap();
    let registered = row.registered.unwrap();
    assert_eq!(
        (registered.issuer, registered.mode),
        (Some(ca.certificate_id.clone()), Mode::Default)
    );
    let id = &ca.certificate_id;
    assert_eq!(registry.delete_issuer(id).unwrap_err().kind(), ErrorKind::Denied);
    registry.set_issuer_active(id, false).unwrap();
    let next = Foreign::device(&by(&elsewhere, params("next")).pem, NOW).unwrap();
    let late = registry.register_certificate(&next, Status::Active, Some(&issuer)).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Denied, "it was active when it was asked for, not now");
    registry.delete_issuer(id).unwrap();
    assert_eq!(registry.delete_issuer(id).unwrap_err().kind(), ErrorKind::NotFound);
    // What is registered stays so; what is not gets no nearer by its issuer.
    assert_eq!(present(&world, &made.pem, &made.key, VERSIONS[1]), Ok(device.certificate_id));
    let unregistered = by(&elsewhere, params("unregistered"));
    assert!(present(&world, &unregistered.pem, &unregistered.key, VERSIONS[1]).is_err());
}

#[test]
fn an_issuer_that_has_expired_answers_for_nobody() {
    let world = world();
    let mut short = params("short");
    short.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    days(&mut short, -1, 10);
    let short = CertifiedIssuer::self_signed(short, KeyPair::generate().unwrap()).unwrap();
    let ca = Foreign::authority(&short.pem(), NOW).unwrap();
    world.registry.register_issuer(&ca, true, Mode::SniOnly).unwrap();
    let device = Foreign::device(&by(&short, params("device")).pem, NOW).unwrap();
    let asked =
        |given| world.registry.issuer_of(&device, given).map(|i| i.mode).map_err(|e| e.kind());
    assert_eq!(asked(None), Ok(Mode::SniOnly));
    world.clock.advance(days_later(11));
    assert_eq!((asked(None), asked(Some(&ca))), (Err(ErrorKind::Denied), Err(ErrorKind::Denied)));
}

#[test]
fn ten_issuers_may_have_one_subject() {
    let world = world();
    let new = || Foreign::authority(&authority("elsewhere").pem(), Timestamp(NOW.0)).unwrap();
    for _ in 0..10 {
        world.registry.register_issuer(&new(), true, Mode::Default).unwrap();
    }
    let refused = world.registry.register_issuer(&new(), true, Mode::Default).unwrap_err();
    assert_eq!(
        (refused.kind(), world.registry.issuers().unwrap().len()),
        (ErrorKind::Exhausted, 10)
    );
}
