//! Devices with certificates made elsewhere, at the listener as the program builds it: the
//! registry decides in the handshake and again behind it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, ManualClock, SystemClock};
use broker::{Authenticator, Broker, Disconnect, Identity, Refusal};
use identity::{Authority, Change, Foreign, Registry, Status};
use metastore::Metastore;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS, TlsConfiguration, Transport};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::raw::SOON;
use crate::support::{MemoryJournal, quiet};

struct Door(Arc<Registry>);

impl Authenticator for Door {
    fn certificate(&self, der: &[u8]) -> Result<Identity, Refusal> {
        match self.0.lookup(der) {
            Ok(found) => Ok(Identity { principal: found.certificate_id, thing_name: None }),
            Err(error) => Err(Refusal { reason: "certificate", message: error.to_string() }),
        }
    }

    fn anonymous(&self) -> Result<Identity, Refusal> {
        Err(Refusal { reason: "anonymous", message: "nobody is anonymous here".into() })
    }
}

struct Listener {
    registry: Arc<Registry>,
    broker: Arc<Broker>,
    journal: Arc<MemoryJournal>,
    clock: Arc<ManualClock>,
    address: SocketAddr,
    _folder: tempfile::TempDir,
    _shutdown: watch::Sender<bool>,
}

impl Listener {
    async fn start() -> Listener {
        let folder = tempfile::tempdir().unwrap();
        // The server's, which a test moves; the clients' is the machine's.
        let clock = Arc::new(ManualClock::at(SystemClock.now()));
        let authority = Authority::open(&folder.path().join("ca"), clock.clone()).unwrap();
        let store = Metastore::in_memory().unwrap();
        let registry = Registry::open(store, authority, clock.clone()).unwrap();
        let config = Arc::new(registry.server_config(&[]).unwrap());
        let journal = Arc::<MemoryJournal>::default();
        let door = Arc::new(Door(Arc::clone(&registry)));
        let broker = Broker::new(journal.clone(), door, clock.clone(), quiet()).unwrap();
        let ending = Arc::clone(&broker);
        registry.on_change(move |change: &Change| {
            if change.status != Status::Active {
                ending.disconnect_principal(&change.certificate_id, Disconnect::Revoked);
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, stop) = watch::channel(false);
        let serving = Arc::clone(&broker);
        tokio::spawn(async move { serving.serve_tls(listener, config, stop).await });
        Listener { registry, broker, journal, clock, address, _folder: folder, _shutdown: shutdown }
    }

    fn register(&self, device: &Device, status: Status) -> String {
        let foreign = Foreign::device(&device.pem, self.clock.now()).unwrap();
        self.registry.register_certificate(&foreign, status, None).unwrap().certificate_id
    }

    fn client(&self, device: &Device) -> (AsyncClient, rumqttc::EventLoop) {
        let mut roots = RootCertStore::empty();
        let root = self.registry.authority().root_pem();
        roots.add(CertificateDer::from_pem_slice(root.as_bytes()).unwrap()).unwrap();
        let provider = rustls::crypto::ring::default_provider();
        let config = ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(device.pem.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(device.key.serialize_pem().as_bytes()).unwrap(),
            )
            .unwrap();
        let mut options = MqttOptions::new("dev", "localhost", self.address.port());
        options.set_transport(Transport::Tls(TlsConfiguration::Rustls(Arc::new(config))));
        AsyncClient::new(options, 10)
    }

    /// Publishes until the acknowledgement is there; the connection lives on in what is given.
    async fn publish(&self, device: &Device) -> Result<rumqttc::EventLoop, String> {
        let (client, mut events) = self.client(device);
        client.publish("a", QoS::AtLeastOnce, false, "x").await.unwrap();
        let acknowledged = async {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::PubAck(_))) => return Ok(()),
                    Ok(_) => {}
                    Err(error) => return Err(error.to_string()),
                }
            }
        };
        timeout(SOON, acknowledged).await.expect("left hanging").map(|()| events)
    }
}

struct Device {
    pem: String,
    key: KeyPair,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn self_signed(params: CertificateParams) -> Device {
    let key = KeyPair::generate().unwrap();
    Device { pem: params.self_signed(&key).unwrap().pem(), key }
}

#[tokio::test]
async fn b1_a_certificate_made_elsewhere_is_heard_while_it_is_active() {
    let listener = Listener::start().await;
    let mut ca = params("elsewhere");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let of_another = Device { pem: params("device").signed_by(&key, &ca).unwrap().pem(), key };
    for device in [self_signed(params("device")), of_another] {
        assert!(listener.publish(&device).await.is_err(), "it is not registered");
        let id = listener.register(&device, Status::Inactive);
        assert!(listener.publish(&device).await.is_err(), "it is not ACTIVE");
        assert_eq!(listener.broker.sessions().len(), 0);
        let before = listener.journal.appended();
        listener.registry.set_status(&id, Status::Active).unwrap();
        let mut events = listener.publish(&device).await.unwrap();
        assert_eq!(listener.journal.appended(), before + 1);
        assert_eq!(listener.broker.sessions()[0].principal, id);
        listener.registry.set_status(&id, Status::Inactive).unwrap();
        timeout(SOON, async { while events.poll().await.is_ok() {} }).await.expect("still in");
        assert!(listener.publish(&device).await.is_err(), "it is INACTIVE again");
        assert_eq!(listener.journal.appended(), before + 1);
    }
    // All refusals were TLS's: nobody without a believed certificate got as far as MQTT.
    let stats = listener.broker.stats();
    assert_eq!((stats.refused_handshake, stats.refused_identity), (6, 0));
}

#[tokio::test]
async fn b1_a_device_whose_own_certificate_runs_out_is_refused() {
    let listener = Listener::start().await;
    let day = Duration::from_secs(24 * 3600);
    let since_epoch = Duration::from_secs(listener.clock.now().millis().unsigned_abs() / 1000);
    let mut short = params("device");
    short.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_epoch - day;
    short.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_epoch + day;
    let device = self_signed(short);
    listener.register(&device, Status::Active);
    listener.publish(&device).await.unwrap();
    listener.clock.advance(2 * day);
    assert!(listener.publish(&device).await.is_err(), "admitted after its end");
}
