//! Who gets through TLS, and who is then known: real handshakes, in memory.

use std::sync::Arc;
use std::time::Duration;

use base::{Clock, ErrorKind, ManualClock, Timestamp};
use identity::{Authority, Kit, Registry, Status};
use metastore::Metastore;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
};

use crate::{NOW, World, world};

pub(crate) struct Shaken {
    pub(crate) client: ClientConnection,
    pub(crate) server: ServerConnection,
}

pub(crate) fn shake(
    client: ClientConfig,
    server: &Arc<ServerConfig>,
    name: &str,
) -> Result<Shaken, rustls::Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() || client.wants_write() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut unread = wire.as_slice();
        while !unread.is_empty() {
            server.read_tls(&mut unread).unwrap();
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut unread = wire.as_slice();
        while !unread.is_empty() {
            client.read_tls(&mut unread).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(Shaken { client, server })
}

/// The test's time, on the client's side too.
#[derive(Debug)]
pub(crate) struct TestTime(Arc<ManualClock>);

impl TimeProvider for TestTime {
    fn current_time(&self) -> Option<UnixTime> {
        let millis = u64::try_from(self.0.now().millis()).unwrap();
        Some(UnixTime::since_unix_epoch(Duration::from_millis(millis)))
    }
}

pub(crate) fn time(world: &World) -> Arc<TestTime> {
    Arc::new(TestTime(Arc::clone(&world.clock)))
}

fn client(world: &World, kit: &Kit, alpn: &[&str]) -> ClientConfig {
    let mut config = kit.client_config(alpn).unwrap();
    config.time_provider = time(world);
    config
}

pub(crate) fn server(world: &World) -> Arc<ServerConfig> {
    Arc::new(world.registry.server_config(&[]).unwrap())
}

/// What the listener would learn: refused by TLS, or what the registry says.
fn admitted(world: &World, kit: &Kit) -> Result<String, String> {
    let client = client(world, kit, &[]);
    let shaken = shake(client, &server(world), "localhost").map_err(|e| format!("tls: {e}"))?;
    let certificate = &shaken.server.peer_certificates().unwrap()[0];
    world.registry.lookup(certificate).map(|found| found.thing_name).map_err(|denied| {
        assert_eq!(denied.kind(), ErrorKind::Denied);
        denied.to_string()
    })
}

#[test]
fn b1_only_an_active_certificate_of_ours_is_admitted() {
    let world = world();
    let good = world.registry.add_device("good").unwrap();
    assert_eq!(admitted(&world, &good).unwrap(), "good");

    let inactive = world.registry.add_device("inactive").unwrap();
    world.registry.set_status(&inactive.certificate.certificate_id, Status::Inactive).unwrap();
    assert!(admitted(&world, &inactive).unwrap_err().contains("is INACTIVE"));

    let revoked = world.registry.add_device("revoked").unwrap();
    world.registry.set_status(&revoked.certificate.certificate_id, Status::Revoked).unwrap();
    assert!(admitted(&world, &revoked).unwrap_err().contains("is REVOKED"));

    let issued = world.authority.issue_device("good").unwrap();
    let mut unregistered = good.clone();
    unregistered.certificate.pem = issued.certificate_pem;
    unregistered.private_key_pem = issued.private_key_pem;
    assert!(admitted(&world, &unregistered).unwrap_err().contains("is not registered"));
}

#[test]
fn b1_a_certificate_of_another_authority_is_refused_by_tls() {
    let world = world();
    let elsewhere = crate::world();
    let mut foreign = elsewhere.registry.add_device("good").unwrap();
    foreign.root_pem = world.authority.root_pem().to_owned();
    let refused = admitted(&world, &foreign).unwrap_err();
    assert!(refused.starts_with("tls: invalid peer certificate"), "{refused}");
}

#[test]
fn b1_a_client_without_a_certificate_is_refused_by_tls() {
    let world = world();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_details(provider, time(&world))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(&world.authority))
        .with_no_client_auth();
    let refused = shake(client, &server(&world), "localhost").map(drop).unwrap_err();
    assert_eq!(refused, rustls::Error::NoCertificatesPresented);
}

pub(crate) fn roots(authority: &Authority) -> RootCertStore {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.root_pem().as_bytes()).unwrap()).unwrap();
    roots
}

/// A server's certificate is no client's: the extended key usage keeps them apart.
#[test]
fn b1_the_servers_own_certificate_does_not_admit() {
    let world = world();
    drop(server(&world));
    let stored = std::fs::read_to_string(world.folder.path().join("ca/server.json")).unwrap();
    let stored: serde_json::Value = serde_json::from_str(&stored).unwrap();
    let mut kit = world.registry.add_device("good").unwrap();
    kit.certificate.pem = stored["certificate_pem"].as_str().unwrap().to_owned();
    kit.private_key_pem = identity::Secret::new(stored["private_key_pem"].as_str().unwrap());
    let refused = admitted(&world, &kit).unwrap_err();
    assert!(refused.starts_with("tls: invalid peer certificate"), "{refused}");
}

#[test]
fn b1_a_certificate_out_of_date_is_refused() {
    let world = world();
    let kit = world.registry.add_device("old").unwrap();
    let der = der(&kit);
    world.clock.advance(Duration::from_secs(31 * 365 * 24 * 3600));
    let denied = world.registry.lookup(&der).unwrap_err();
    assert!(denied.to_string().contains("expired"), "{denied}");
    assert!(!world.registry.is_active(&kit.certificate.certificate_id));

    // TLS refuses too, by the server's clock: here it is still two days before the device's
    // certificate begins, and the server's own is in date for its client.
    let early = Arc::new(ManualClock::at(Timestamp(NOW.0 - 3 * 24 * 3600 * 1000)));
    let authority = Authority::open(&world.folder.path().join("ca"), early.clone()).unwrap();
    let registry = Registry::open(Metastore::in_memory().unwrap(), authority, early.clone());
    let names = ["early.example".to_owned()];
    let server = Arc::new(registry.unwrap().server_config(&names).unwrap());
    let mut client = kit.client_config(&[]).unwrap();
    client.time_provider = Arc::new(TestTime(early));
    let refused = shake(client, &server, "early.example").map(drop).unwrap_err();
    assert!(refused.to_string().contains("not valid yet"), "{refused}");
}

pub(crate) fn der(kit: &Kit) -> Vec<u8> {
    pem_to_der(&kit.certificate.pem)
}

pub(crate) fn pem_to_der(pem: &str) -> Vec<u8> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

#[test]
fn both_tls_versions_and_every_name_work() {
    let world = world();
    let kit = world.registry.add_device("d").unwrap();
    let names = ["forebay.example".to_owned(), "192.0.2.7".to_owned()];
    let server = Arc::new(world.registry.server_config(&names).unwrap());
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for name in ["localhost", "127.0.0.1", "::1", "forebay.example", "192.0.2.7"] {
            let client = one_version(&world, &kit, version);
            let shaken = shake(client, &server, name).unwrap();
            assert_eq!(shaken.server.protocol_version(), Some(version.version));
        }
    }
    let elsewhere = shake(client(&world, &kit, &[]), &server, "other.example");
    assert!(elsewhere.is_err(), "a name that is not certified must not be believed");
}

fn one_version(
    world: &World,
    kit: &Kit,
    version: &'static rustls::SupportedProtocolVersion,
) -> ClientConfig {
    use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
    let key = PrivateKeyDer::from_pem_slice(kit.private_key_pem.expose().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_details(provider, time(world))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots(&world.authority))
        .with_client_auth_cert(vec![der(kit).into()], key)
        .unwrap()
}

#[test]
fn the_alpn_of_awss_clients_is_answered_and_an_unknown_one_refused() {
    let world = world();
    let kit = world.registry.add_device("d").unwrap();
    let server = server(&world);
    for offered in ["x-amzn-mqtt-ca", "mqtt"] {
        let shaken = shake(client(&world, &kit, &[offered]), &server, "localhost").unwrap();
        assert_eq!(shaken.client.alpn_protocol(), Some(offered.as_bytes()));
    }
    let none = shake(client(&world, &kit, &[]), &server, "localhost").unwrap();
    assert_eq!(none.client.alpn_protocol(), None);
    let refused = shake(client(&world, &kit, &["h2"]), &server, "localhost");
    assert_eq!(refused.map(drop).unwrap_err(), rustls::Error::NoApplicationProtocol);
}

/// A resumed session would not show its certificate again.
#[test]
fn b1_no_session_is_resumed() {
    let world = world();
    let kit = world.registry.add_device("d").unwrap();
    let server = server(&world);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        // Clones share the client's session cache.
        let client = one_version(&world, &kit, version);
        for _ in 0..2 {
            let shaken = shake(client.clone(), &server, "localhost").unwrap();
            let kind = shaken.server.handshake_kind().unwrap();
            assert!(kind != HandshakeKind::Resumed, "{kind:?}");
        }
    }
}

#[test]
fn the_servers_certificate_is_kept_until_names_change_or_its_end_is_near() {
    let world = world();
    let kit = world.registry.add_device("d").unwrap();
    let shown = |config: &Arc<ServerConfig>| {
        let shaken = shake(client(&world, &kit, &[]), config, "localhost").unwrap();
        shaken.client.peer_certificates().unwrap()[0].to_vec()
    };
    let server_for = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Arc::new(world.registry.server_config(&names).unwrap())
    };
    let config = server_for(&[]);
    let first = shown(&config);
    assert_eq!(shown(&server_for(&[])), first, "kept across a restart");
    let other = shown(&server_for(&["forebay.example"]));
    assert!(other != first, "made anew for other names");

    let config = server_for(&["forebay.example"]);
    assert_eq!(shown(&config), other);
    world.clock.advance(Duration::from_secs(366 * 24 * 3600));
    assert_eq!(shown(&config), other, "31 days left");
    world.clock.advance(Duration::from_secs(2 * 24 * 3600));
    let renewed = shown(&config);
    assert!(renewed != other, "29 days left, renewed while running");
    assert_eq!(shown(&server_for(&["forebay.example"])), renewed, "and kept");
}
