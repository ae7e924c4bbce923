//! The broker behind the registry, as the program puts them together: mutual TLS, certificates
//! with rows, policies that are attached, and a change of either told to live connections.

use std::net::SocketAddr;
use std::sync::Arc;

use base::{Clock, ManualClock, SystemClock, Timestamp};
use broker::{
    Action, Authenticator, Broker, Client, Disconnect, Explanation, Identity, Refusal, Rights,
    Settings,
};
use identity::{Authority, Change, Gate, Kit, Registry, Status, Visitor, policy};
use metastore::Metastore;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use crate::policy::{document, explained, wanted};
use crate::raw::{Hello, Raw};
use crate::support::{MemoryJournal, quiet};

struct Door {
    registry: Arc<Registry>,
    gate: Gate,
}

fn refused(error: &base::Error) -> Refusal {
    Refusal { reason: "certificate", message: error.to_string() }
}

impl Authenticator for Door {
    fn certificate(&self, der: &[u8]) -> Result<Identity, Refusal> {
        let found = self.registry.lookup(der).map_err(|error| refused(&error))?;
        Ok(Identity { principal: found.certificate_id, thing_name: Some(found.thing_name) })
    }

    fn standing(&self, identity: &Identity) -> Result<Option<Timestamp>, Refusal> {
        let found = self.registry.lookup_id(&identity.principal);
        found.map(|found| Some(found.not_after)).map_err(|error| refused(&error))
    }

    fn anonymous(&self) -> Result<Identity, Refusal> {
        Err(Refusal { reason: "anonymous", message: "nobody is anonymous here".into() })
    }

    fn rights(&self, client: &Client<'_>) -> Option<Arc<dyn Rights>> {
        let rights = self.gate.rights(&Visitor {
            certificate_id: Some(&client.identity.principal),
            client_id: Some(client.client_id),
            source_ip: client.address,
            persistent: client.persistent,
            last_will: client.last_will,
        })?;
        Some(Arc::new(Settled(rights)))
    }
}

#[derive(Debug)]
struct Settled(policy::Rights);

impl Rights for Settled {
    fn allows(&self, action: Action, name: &str) -> bool {
        self.0.allows(wanted(action), name)
    }

    fn explain(&self, action: Action, name: &str) -> Explanation {
        explained(&self.0, action, name)
    }
}

/// What outlives a broker.
pub(crate) struct Ground {
    pub(crate) store: Metastore,
    pub(crate) journal: Arc<MemoryJournal>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) folder: tempfile::TempDir,
}

impl Ground {
    pub(crate) fn new() -> Ground {
        Ground {
            store: Metastore::in_memory().unwrap(),
            journal: Arc::default(),
            // The server's, which a test moves; the clients' is the machine's.
            clock: Arc::new(ManualClock::at(SystemClock.now())),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn authority(&self) -> Arc<Authority> {
        Authority::open(&self.folder.path().join("ca"), self.clock.clone()).unwrap()
    }

    pub(crate) async fn open(&self, settings: Settings) -> Gatehouse {
        let clock: Arc<dyn Clock> = self.clock.clone();
        let authority = self.authority();
        let registry = Registry::open(self.store.clone(), authority, clock.clone()).unwrap();
        let config = Arc::new(registry.server_config(&[]).unwrap());
        let gate = Gate::new(registry.clone(), "us-east-1", "123456789012");
        let door = Arc::new(Door { registry: registry.clone(), gate });
        let (journal, store) = (self.journal.clone(), self.store.clone());
        let broker = Broker::open(journal.clone(), door, clock, settings, store).unwrap();
        follow(&registry, &broker);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, stop) = watch::channel(false);
        let serving = Arc::clone(&broker);
        let served = tokio::spawn(async move { serving.serve_tls(listener, config, stop).await });
        let clock = Arc::clone(&self.clock);
        Gatehouse { registry, broker, journal, clock, address, shutdown, served }
    }
}

/// As the program does it.
fn follow(registry: &Arc<Registry>, broker: &Arc<Broker>) {
    let weak = Arc::downgrade(broker);
    registry.policies().on_change(move |change| {
        if let Some(broker) = weak.upgrade() {
            broker.rights_changed(Some(&change.certificates));
        }
    });
    let weak = Arc::downgrade(broker);
    registry.on_change(move |change: &Change| {
        if change.status != Status::Active
            && let Some(broker) = weak.upgrade()
        {
            broker.disconnect_principal(&change.certificate_id, Disconnect::Revoked);
        }
    });
}

pub(crate) struct Gatehouse {
    pub(crate) registry: Arc<Registry>,
    pub(crate) broker: Arc<Broker>,
    pub(crate) journal: Arc<MemoryJournal>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) address: SocketAddr,
    shutdown: watch::Sender<bool>,
    served: tokio::task::JoinHandle<base::Result<()>>,
}

/// Effect, action, resource behind `arn:aws:iot:*:*:`.
pub(crate) type Statements<'s> = &'s [(&'s str, &'s str, &'s str)];

/// A device with its own policy.
#[derive(Clone)]
pub(crate) struct Device {
    pub(crate) kit: Kit,
    pub(crate) id: String,
}

impl Gatehouse {
    pub(crate) async fn start() -> Gatehouse {
        Ground::new().open(quiet()).await
    }

    /// Registers a thing with a certificate of ours and a policy of these statements.
    pub(crate) fn device(&self, name: &str, statements: Statements<'_>) -> Device {
        let kit = self.registry.add_device_with(name, Some(&document(statements))).unwrap();
        Device { id: kit.certificate.certificate_id.clone(), kit }
    }

    /// Replaces what a device's policy says.
    pub(crate) fn change(&self, device: &Device, statements: Statements<'_>) {
        let policies = self.registry.policies();
        let name = &policies.attached_to(&device.id)[0];
        policies.create_version(name, &document(statements), true).unwrap();
    }

    /// Takes a device's policy away.
    pub(crate) fn detach(&self, device: &Device) {
        let policies = self.registry.policies();
        let name = &policies.attached_to(&device.id)[0];
        policies.detach(name, &device.id).unwrap();
    }

    pub(crate) fn set_status(&self, device: &Device, status: Status) {
        self.registry.set_status(&device.id, status).unwrap();
    }

    /// A client behind TLS, its bytes carried over a plain socket.
    pub(crate) async fn open(&self, device: &Device) -> Raw {
        tunnel(self.address, device.kit.client_config(&[]).unwrap()).await.unwrap()
    }

    /// Connects and gives the CONNACK, or nothing if there is none.
    pub(crate) async fn hello(&self, device: &Device, hello: &Hello<'_>) -> (Raw, Option<Vec<u8>>) {
        let mut raw = self.open(device).await;
        raw.send(&hello.bytes()).await;
        let connack = raw.packet().await;
        (raw, connack)
    }

    /// Connects and is accepted.
    pub(crate) async fn join(&self, device: &Device, hello: &Hello<'_>) -> Raw {
        let (raw, connack) = self.hello(device, hello).await;
        let connack = connack.expect("no CONNACK");
        assert_eq!(connack[3 + usize::from(connack[1] > 127)], 0, "refused: {connack:02x?}");
        raw
    }

    /// Ends it as a clean shutdown does.
    pub(crate) async fn close(self) {
        self.shutdown.send_replace(true);
        self.served.await.unwrap().unwrap();
        self.broker.close().await;
    }
}

/// A plain socket whose bytes go through TLS to `address`.
pub(crate) async fn tunnel(address: SocketAddr, config: ClientConfig) -> std::io::Result<Raw> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut secure = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let near = Raw::open(listener.local_addr()?).await;
    let (mut far, _) = listener.accept().await?;
    far.set_nodelay(true)?;
    tokio::spawn(async move {
        // Ends with either side; the test sees what came before.
        drop(tokio::io::copy_bidirectional(&mut far, &mut secure).await);
    });
    Ok(near)
}
