//! The demo's devices: one MQTT connection each, over mutual TLS with the device's own
//! kit, QoS 1, many PUBLISHes under way.
//!
//! A reading is handed to its device's connection in order; a full connection holds the
//! source back, so memory stays bounded. A reading counts as acknowledged when its PUBACK
//! came, and a connection that breaks is made again with its session, so that nothing is
//! sent twice as a new reading.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS, TlsConfiguration, Transport};
use tokio::task::JoinHandle;

use crate::exit::Exit;
use crate::readings::Reading;

/// PUBLISHes one device keeps unacknowledged.
const INFLIGHT_MAX: u16 = 500;
/// Readings waiting inside one device's connection.
const QUEUE_MAX: usize = 1000;
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);
/// With no acknowledgement for so long the demo gives up and says so.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Makes the TLS configuration of a device that is met for the first time.
pub(crate) type Enroll<'a> = dyn FnMut(&str) -> Result<Arc<rustls::ClientConfig>> + Send + 'a;

/// All connected devices.
pub(crate) struct Fleet {
    broker: SocketAddr,
    topic_root: String,
    devices: BTreeMap<String, Device>,
}

struct Device {
    client: AsyncClient,
    sent: u64,
    acknowledged: Arc<AtomicU64>,
    failure: Arc<std::sync::Mutex<Option<String>>>,
    connection: JoinHandle<()>,
}

impl Fleet {
    /// Devices will connect to `broker` as `localhost` and publish to `ROOT/THING/readings`.
    pub(crate) fn new(broker: SocketAddr, topic_root: &str) -> Self {
        Fleet { broker, topic_root: topic_root.to_owned(), devices: BTreeMap::new() }
    }

    /// Publishes one reading on its device's connection, made now if it is the first.
    pub(crate) async fn publish(
        &mut self,
        reading: Reading,
        enroll: &mut Enroll<'_>,
    ) -> Result<()> {
        let thing = thing_name(&reading.device);
        if !self.devices.contains_key(&thing) {
            let device = Device::connect(self.broker, &thing, enroll(&thing)?);
            self.devices.insert(thing.clone(), device);
        }
        let device = self.devices.get_mut(&thing).context("the device just connected")?;
        let topic = format!("{}/{thing}/readings", self.topic_root);
        device.sent += 1;
        let queued = device.client.publish(topic, QoS::AtLeastOnce, false, reading.payload);
        match tokio::time::timeout(SILENCE_MAX, queued).await {
            Ok(result) => result.with_context(|| format!("publishing for {thing}")),
            Err(_elapsed) => Err(device.silent(&thing)),
        }
    }

    /// The port devices connect to.
    pub(crate) fn port(&self) -> u16 {
        self.broker.port()
    }

    /// Readings sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.devices.values().map(|device| device.sent).sum()
    }

    /// PUBACKs received so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.devices.values().map(Device::acknowledged).sum()
    }

    /// Devices met so far.
    pub(crate) fn len(&self) -> usize {
        self.devices.len()
    }

    /// Waits for the last PUBACK of every device.
    pub(crate) async fn wait_acknowledged(&self, mut progress: impl FnMut(u64)) -> Result<()> {
        let mut last = (self.acknowledged(), Instant::now());
        while self.acknowledged() < self.sent() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            progress(self.acknowledged());
            if self.acknowledged() != last.0 {
                last = (self.acknowledged(), Instant::now());
            } else if last.1.elapsed() > SILENCE_MAX {
                let waiting = self.devices.iter().find(|(_, d)| d.acknowledged() < d.sent);
                if let Some((name, device)) = waiting {
                    return Err(device.silent(name));
                }
            }
        }
        Ok(())
    }

    /// Says goodbye for every device.
    pub(crate) async fn disconnect(&mut self) -> Result<()> {
        for (name, device) in std::mem::take(&mut self.devices) {
            device.client.disconnect().await.with_context(|| format!("disconnecting {name}"))?;
            device.connection.await.with_context(|| format!("ending the connection of {name}"))?;
        }
        Ok(())
    }
}

impl Device {
    fn connect(broker: SocketAddr, thing: &str, tls: Arc<rustls::ClientConfig>) -> Device {
        // The server's certificate is made out to localhost, wherever it listens.
        let mut options = MqttOptions::new(thing, "localhost", broker.port());
        options.set_transport(Transport::Tls(TlsConfiguration::Rustls(tls)));
        options.set_clean_session(false);
        options.set_inflight(INFLIGHT_MAX);
        options.set_keep_alive(Duration::from_secs(30));
        let (client, mut events) = AsyncClient::new(options, QUEUE_MAX);
        let acknowledged = Arc::new(AtomicU64::new(0));
        let failure = Arc::new(std::sync::Mutex::new(None));
        let connection = {
            let (acknowledged, failure) = (acknowledged.clone(), failure.clone());
            tokio::spawn(async move {
                loop {
                    match events.poll().await {
                        Ok(Event::Incoming(Packet::PubAck(_))) => {
                            acknowledged.fetch_add(1, Ordering::Release);
                        }
                        Ok(Event::Outgoing(rumqttc::Outgoing::Disconnect)) => break,
                        Ok(_other) => {}
                        Err(rumqttc::ConnectionError::RequestsDone) => break,
                        Err(error) => {
                            *failure.lock().unwrap_or_else(|broken| broken.into_inner()) =
                                Some(error.to_string());
                            tokio::time::sleep(RECONNECT_PAUSE).await;
                        }
                    }
                }
            })
        };
        Device { client, sent: 0, acknowledged, failure, connection }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Acquire)
    }

    fn silent(&self, thing: &str) -> anyhow::Error {
        let why = self.failure.lock().unwrap_or_else(|broken| broken.into_inner()).clone();
        let why = why.map_or(String::new(), |why| format!("; its last connection error: {why}"));
        Exit::timeout(format!(
            "{thing} has had no acknowledgement for {} seconds ({} of {} acknowledged){why}",
            SILENCE_MAX.as_secs(),
            self.acknowledged(),
            self.sent
        ))
        .into()
    }
}

/// A device's name as a thing name: what AWS does not allow in one becomes `_`.
fn thing_name(device: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '_' | '-');
    device.chars().map(|c| if allowed(c) { c } else { '_' }).take(128).collect()
}
