//! One process: settings, wiring, supervision, shutdown. The only room that knows them all.
//!
//! ```text
//! open:  metastore ─▶ identity ─▶ journal ─▶ rules ─▶ objects ─▶ delivery ─▶ lake ─▶ query ─▶ serving
//! serve: listeners ─▶ broker ─▶ streams ─▶ API       stop: the same, backwards
//! ```
//!
//! [`Node::open`] gives every room over one data directory without a single listener, so that
//! the command line works without a server. [`Node::serve`] adds the listeners and the
//! streams' workers. [`admin::call`] is what both the command line and the API call.

mod accuracy;
pub mod admin;
mod compare;
mod disk;
mod door;
mod http;
mod lake_ops;
mod metrics;
mod models;
mod openapi;
mod plain;
mod remotes;
mod schedules;
mod settings;
mod steps;
mod token;
mod trial;
mod triggers;
mod upkeep;
mod web;
mod why;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use aws_s3::S3Front;
use base::{Clock, Error, ErrorKind, Result, TopicFilter};
use broker::{Broker, Disconnect};
use delivery::Streams;
use identity::{ApiKeys, Authority, Keys, Registry, Status};
use journal::{Journal, SegmentLog};
use metastore::Metastore;
use objects::Buckets;
use rules::RuleBook;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use aws::DATABASE;
pub use lake_ops::ETL_RESULT_FILE;
pub use settings::Settings;
pub use token::{TOKEN_FILE, Token};

/// The file in the data directory that says where its server listens.
pub const ADDRESS_FILE: &str = "server.json";
/// How often the clocks are compared, and after how many such turns rule versions that no stream
/// needs are forgotten.
const TURN: Duration = Duration::from_secs(1);
const TURNS_PER_PRUNING: u64 = 5;
/// Uploads rest for days before they are swept, so it need not be soon.
const TURNS_PER_SWEEP: u64 = 600;
/// Where the rooms keep their files, below the data directory.
const JOURNAL_FOLDER: &str = "journal";
const LAKE_FOLDER: &str = "lake";
const DATABASE_FILE: &str = "forebay.db";

/// Where a running server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// The API.
    pub http: SocketAddr,
    /// Plain MQTT.
    pub mqtt: SocketAddr,
    /// MQTT over mutual TLS.
    pub mqtts: SocketAddr,
    /// MQTT over WebSocket.
    pub mqtt_ws: SocketAddr,
    /// The server's process.
    pub pid: u32,
}

/// Everything over one data directory.
pub struct Node {
    /// What it was opened with.
    pub settings: Settings,
    /// Where everything lies.
    pub data_dir: PathBuf,
    /// The program that worker processes are started from: this one.
    pub program: PathBuf,
    pub(crate) clock: Arc<dyn Clock>,
    /// Rows.
    pub metastore: Metastore,
    /// Devices and their certificates.
    pub registry: Arc<Registry>,
    /// The log.
    pub journal: Arc<SegmentLog>,
    /// Rules.
    pub rules: Arc<RuleBook>,
    /// Objects.
    pub buckets: Buckets,
    /// Delivery streams.
    pub streams: Arc<Streams>,
    /// Tables, jobs and queries.
    pub lake: lake_ops::LakeRoom,
    /// Models and endpoints.
    pub models: models::Models,
    /// Access keys.
    pub keys: Arc<Keys>,
    /// API keys.
    pub(crate) api_keys: Arc<ApiKeys>,
    /// Log groups.
    logs: Arc<aws::logs::LogStore>,
    /// Metrics of users and rules.
    metrics: Arc<aws::metrics::Metrics>,
    pub(crate) token: Token,
    /// Steps of the wall clock.
    pub(crate) steps: steps::Steps,
    /// What lies on disk.
    pub(crate) disk: disk::Walked,
    broker: OnceLock<Arc<Broker>>,
    ready: AtomicBool,
    serving: Mutex<Option<Running>>,
}

/// What [`Node::serve`] started.
struct Running {
    rooms: Arc<aws::Rooms>,
    shutdown: watch::Sender<bool>,
    tasks: Vec<(&'static str, JoinHandle<()>)>,
}

/// Whether all is well, and if not, what is wrong.
pub(crate) struct Health {
    pub(crate) ok: bool,
    pub(crate) problems: Vec<String>,
}

impl Node {
    /// Opens every room of a data directory, making it when absent; finishes what a crash
    /// interrupted. Must be called on a tokio runtime. Refused while another process has it.
    pub async fn open(
        data_dir: &Path,
        settings: Settings,
        program: PathBuf,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Node>> {
        settings.check()?;
        make_private(data_dir)?;
        let metastore = Metastore::open(&data_dir.join(DATABASE_FILE))?;
        let authority = Authority::open(&data_dir.join("ca"), clock.clone())?;
        let registry = Registry::open(metastore.clone(), authority, clock.clone())?;
        let options = journal::Options {
            segment_bytes: settings.journal.segment_bytes,
            bytes_max: settings.journal.bytes_max,
        };
        let journal = SegmentLog::open(&data_dir.join(JOURNAL_FOLDER), options)?;
        let rules = Arc::new(RuleBook::open(metastore.clone())?);
        let remotes = remotes::open(&settings, &clock)?;
        let buckets = Buckets::open_with(&data_dir.join(LAKE_FOLDER), remotes)?;
        let catalog = lake::Catalog::new(metastore.clone(), clock.clone());
        let streams = Arc::new(Streams::new(
            metastore.clone(),
            journal.clone(),
            buckets.clone(),
            rules.clone(),
            clock.clone(),
            tokio::runtime::Handle::current(),
            delivery::Settings {
                account_id: settings.aws.account_id.clone(),
                schemas: Some(Arc::new(aws::CatalogSchemas(catalog))),
                ..delivery::Settings::default()
            },
        ));
        let lake = lake_ops::LakeRoom::open(
            &metastore,
            &buckets,
            data_dir,
            &settings,
            clock.clone(),
            &streams,
        )
        .await?;
        let models = models::Models::open(&metastore, data_dir, &settings, clock.clone())?;
        let token = Token::load(data_dir)?;
        let keys = Keys::open(metastore.clone(), clock.clone(), &settings.aws.account_id)?;
        let api_keys = ApiKeys::open(metastore.clone(), clock.clone())?;
        Ok(Arc::new(Node {
            settings,
            data_dir: data_dir.to_owned(),
            program,
            clock,
            metastore,
            registry,
            journal,
            rules,
            buckets,
            streams,
            lake,
            models,
            keys,
            api_keys,
            logs: Arc::new(aws::logs::LogStore::open(data_dir)?),
            metrics: Arc::default(),
            token,
            steps: steps::Steps::default(),
            disk: disk::Walked::default(),
            broker: OnceLock::new(),
            ready: AtomicBool::new(false),
            serving: Mutex::new(None),
        }))
    }

    /// Starts the listeners and the streams' workers, and says where they listen.
    pub async fn serve(self: &Arc<Self>) -> Result<Addresses> {
        let mqtt = bind("mqtt.addr", self.settings.mqtt.addr).await?;
        let mqtts = bind("mqtt.tls_addr", self.settings.mqtt.tls_addr).await?;
        let ws = bind("mqtt.websocket_addr", self.settings.mqtt.websocket_addr).await?;
        let http = bind("http.addr", self.settings.http.addr).await?;
        let addresses = Addresses {
            http: local_addr(&http)?,
            mqtt: local_addr(&mqtt)?,
            mqtts: local_addr(&mqtts)?,
            mqtt_ws: local_addr(&ws)?,
            pid: std::process::id(),
        };
        let tls = self.registry.server_config(&self.settings.mqtt.host_names)?;
        let ws_tls = self.registry.websocket_config(&self.settings.mqtt.host_names)?;
        let (registry, keys) = (self.registry.clone(), self.keys.clone());
        let door = door::Door::new(registry, keys, self.clock.clone(), &self.settings)?;
        let door = Arc::new(door);
        let (journal, clock) = (self.journal.clone(), self.clock.clone());
        let (settings, store) = (self.settings.broker.clone(), self.metastore.clone());
        // Reads what is retained from the disk.
        let broker =
            admin::blocking(move || Broker::open(journal, door, clock, settings, store)).await?;
        self.follow_rights(&broker);
        if self.broker.set(broker.clone()).is_err() {
            return Err(Error::internal("this node serves already"));
        }
        let destinations = Arc::new(self.destinations(addresses.http)?);
        self.streams.publish_through(Arc::new(Republished {
            broker: broker.clone(),
            destinations: destinations.clone(),
            logs: self.logs.clone(),
            metrics: self.metrics.clone(),
        }));
        self.streams.start_all()?;
        let (shutdown, stopped) = watch::channel(false);
        let plain = {
            let (broker, stopped) = (broker.clone(), stopped.clone());
            tokio::spawn(async move { ended("mqtt", broker.serve_tcp(mqtt, stopped).await) })
        };
        let secure = {
            let (broker, stopped) = (broker.clone(), stopped.clone());
            tokio::spawn(async move {
                ended("mqtts", broker.serve_tls(mqtts, Arc::new(tls), stopped).await)
            })
        };
        let websocket = {
            let (broker, stopped) = (broker.clone(), stopped.clone());
            tokio::spawn(async move {
                let served = broker.serve_websocket(ws, Arc::new(ws_tls), stopped).await;
                ended("mqtt over websocket", served)
            })
        };
        let rooms = self.rooms(&broker, &destinations)?;
        self.judge_updates_by_actual_values();
        aws::Trainings::resume(&rooms)?;
        let triggers = tokio::spawn(triggers::run(rooms.clone(), stopped.clone()));
        let web = self.web(rooms.clone(), destinations)?;
        let s3 = web.s3.clone();
        let api = tokio::spawn(web.serve(http, stopped.clone()));
        let scheduler = tokio::spawn(schedules::run(Arc::downgrade(self), stopped.clone()));
        let upkeep = tokio::spawn(upkeep::worker(Arc::downgrade(self), stopped.clone()));
        let keeper = tokio::spawn(housekeeping(Arc::downgrade(self), s3, stopped));
        let tasks = vec![
            ("mqtt", plain),
            ("mqtts", secure),
            ("mqtt over websocket", websocket),
            ("api", api),
            ("schedules", scheduler),
            ("upkeep", upkeep),
            ("housekeeping", keeper),
            ("triggers", triggers),
        ];
        *self.serving.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Running { rooms, shutdown, tasks });
        self.write_addresses(&addresses)?;
        self.ready.store(true, Ordering::SeqCst);
        Ok(addresses)
    }

    /// Stops in the reverse order of starting. What is acknowledged is in the log already.
    pub async fn stop(&self) {
        self.ready.store(false, Ordering::SeqCst);
        let running = self.serving.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Running { rooms, shutdown, tasks }) = running {
            drop(std::fs::remove_file(self.data_dir.join(ADDRESS_FILE)));
            shutdown.send_replace(true);
            for (name, task) in tasks {
                // A caller that holds a connection open must not hold the process.
                if tokio::time::timeout(Duration::from_secs(10), task).await.is_err() {
                    tracing::warn!(name, "did not stop in time");
                }
            }
            rooms.trainings.flush_captures().await;
        }
        if let Some(broker) = self.broker.get() {
            broker.close().await;
        }
        let streams = self.streams.clone();
        drop(tokio::task::spawn_blocking(move || streams.stop_all()).await);
    }

    /// The token that opens the commands' own calls.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// The broker, where this node serves.
    pub(crate) fn broker(&self) -> Result<&Arc<Broker>> {
        self.broker.get().ok_or_else(|| {
            Error::new(
                ErrorKind::Unavailable,
                "no server runs on this data directory; start `forebay serve`",
            )
        })
    }

    /// What acts on the rooms for AWS's clients, where this node serves.
    fn serving_rooms(&self) -> Option<Arc<aws::Rooms>> {
        let serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        serving.as_ref().map(|running| running.rooms.clone())
    }

    /// Captured lines written and dropped since the start.
    pub(crate) fn captured(&self) -> (u64, u64) {
        self.serving_rooms().map_or((0, 0), |rooms| rooms.trainings.captured())
    }

    /// Writes captured lines that wait, as far as they can be written.
    pub(crate) async fn flush_captures(&self) {
        if let Some(rooms) = self.serving_rooms() {
            rooms.trainings.flush_captures().await;
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::SeqCst)
    }

    pub(crate) fn health(&self) -> Health {
        let mut problems = Vec::new();
        let status = self.journal.status();
        if let Some(why) = status.failed {
            problems.push(format!("the log stopped acknowledging: {why}"));
        }
        let ok = problems.is_empty();
        if let Some(why) = status.blocked {
            problems.push(format!("publishers are held back: {why}"));
        }
        for row in self.streams.list().unwrap_or_default() {
            if let Ok(stream) = self.streams.status(row.name())
                && let Some(why) = stream.retrying
            {
                problems.push(format!("stream {:?} tries again: {why}", row.name()));
            }
        }
        Health { ok, problems }
    }

    /// Messages as JSON, one a line, from now on.
    pub(crate) fn tail(
        &self,
        filter: &str,
    ) -> Result<impl futures::Stream<Item = serde_json::Value> + Send + use<>> {
        let tap = self.broker()?.tap(TopicFilter::parse(filter)?)?;
        Ok(futures::stream::unfold(tap, |mut tap| async move {
            let tapped = tap.next().await;
            Some((admin::message_as_json(tapped.offset, &tapped.message), tap))
        }))
    }

    /// The endpoints of HTTP actions, which confirm at `http`.
    fn destinations(&self, http: SocketAddr) -> Result<aws::Destinations> {
        let host = match self.settings.mqtt.host_names.first() {
            Some(name) if !http.ip().is_loopback() => format!("{name}:{}", http.port()),
            _ if http.ip().is_unspecified() => format!("localhost:{}", http.port()),
            _ => http.to_string(),
        };
        let egress = egress::Egress::new(&self.settings.rules.http_allowed)?;
        let (store, clock) = (self.metastore.clone(), self.clock.clone());
        Ok(aws::Destinations::new(store, clock, egress, format!("http://{host}")))
    }

    /// The rooms as AWS's door has them.
    fn rooms(
        &self,
        broker: &Arc<Broker>,
        destinations: &Arc<aws::Destinations>,
    ) -> Result<Arc<aws::Rooms>> {
        let host_names = &self.settings.mqtt.host_names;
        let endpoint_host = host_names.first().map_or("localhost", String::as_str).to_owned();
        let settings = &self.settings.aws;
        Ok(Arc::new(aws::Rooms {
            clock: self.clock.clone(),
            metastore: self.metastore.clone(),
            registry: self.registry.clone(),
            keys: self.keys.clone(),
            journal: self.journal.clone(),
            broker: broker.clone(),
            destinations: destinations.clone(),
            rules: self.rules.clone(),
            streams: self.streams.clone(),
            buckets: self.buckets.clone(),
            lake: self.lake.lake.clone(),
            run_job: self.lake.runner(self.program.clone()),
            job_runs: Arc::default(),
            engine: self.lake.engine.clone(),
            host: self.models.host.clone(),
            logs: self.logs.clone(),
            athena: Arc::default(),
            metrics: self.metrics.clone(),
            trainings: Arc::new(aws::Trainings::open(&self.metastore, self.clock.now())?),
            program: self.program.clone(),
            data_dir: self.data_dir.clone(),
            settings: aws::Settings {
                account_id: settings.account_id.clone(),
                region: settings.region.clone(),
                endpoint_host,
                query_memory_bytes: self.settings.query.memory_bytes,
            },
        }))
    }

    /// Updates of endpoints are undone when the readings show that they forecast worse.
    fn judge_updates_by_actual_values(self: &Arc<Self>) {
        let (weak, runtime) = (Arc::downgrade(self), tokio::runtime::Handle::current());
        // It is asked on an update's own thread, where waiting is allowed.
        self.models.host.judge_accuracy_with(Arc::new(move |compared: &serving::Comparison| {
            let node = weak.upgrade()?;
            runtime.block_on(accuracy::loss_verdict(&node, compared))
        }));
    }

    /// Everything that answers HTTP.
    fn web(
        self: &Arc<Self>,
        rooms: Arc<aws::Rooms>,
        destinations: Arc<aws::Destinations>,
    ) -> Result<web::Web> {
        let authority = self.registry.authority();
        let host_names = &self.settings.mqtt.host_names;
        let settings = &self.settings.aws;
        Ok(web::Web {
            router: http::router(self.clone(), destinations),
            front: aws::Front::new(rooms),
            s3: S3Front::new(
                self.keys.clone(),
                self.buckets.clone(),
                aws_s3::Settings {
                    region: settings.region.clone(),
                    account_id: settings.account_id.clone(),
                    host_suffixes: vec![
                        "localhost".to_owned(),
                        format!("s3.{}.amazonaws.com", settings.region),
                        "s3.amazonaws.com".to_owned(),
                    ],
                },
            ),
            tls: web::tls(authority, host_names)?,
        })
    }

    /// Every change away from ACTIVE ends the certificate's live sessions, and every change of a
    /// policy has those it concerns asked for again.
    fn follow_rights(&self, broker: &Arc<Broker>) {
        let weak = Arc::downgrade(broker);
        self.registry.policies().on_change(move |change| {
            if let Some(broker) = weak.upgrade() {
                broker.rights_changed(Some(&change.certificates));
            }
        });
        let weak = Arc::downgrade(broker);
        self.keys.on_end(move |principal| {
            if let Some(broker) = weak.upgrade() {
                let closed = broker.disconnect_principal(&principal.user_id, Disconnect::Revoked);
                tracing::info!(user_id = %principal.user_id, closed, "an access key ended");
            }
        });
        let broker = Arc::downgrade(broker);
        self.registry.on_change(move |change| {
            if change.status != Status::Active
                && let Some(broker) = broker.upgrade()
            {
                let closed = broker.disconnect_principal(&change.certificate_id, Disconnect::Revoked);
                tracing::info!(thing = %change.thing_name, status = %change.status, closed, "certificate changed");
            }
        });
    }

    fn write_addresses(&self, addresses: &Addresses) -> Result<()> {
        let path = self.data_dir.join(ADDRESS_FILE);
        let text = serde_json::to_string(addresses).map_err(|e| Error::internal(e.to_string()))?;
        std::fs::write(&path, text).map_err(|e| Error::io(format!("write {}", path.display()), e))
    }
}

/// What rules publish, by way of the broker.
#[derive(Debug)]
struct Republished {
    broker: Arc<Broker>,
    destinations: Arc<aws::Destinations>,
    logs: Arc<aws::logs::LogStore>,
    metrics: Arc<aws::metrics::Metrics>,
}

impl delivery::Publisher for Republished {
    fn refuses(&self, topic: &str) -> Option<String> {
        self.broker.refuses_topic(topic)
    }

    fn append(&self, batch: &journal::Batch) -> Result<journal::Appended> {
        self.broker.append_outside(batch)
    }

    fn put(
        &self,
        rule: &str,
        to: &rules::Filled,
        records: &[&[u8]],
        at: base::Timestamp,
    ) -> Result<()> {
        match to {
            rules::Filled::LogEvent { group } => self.logs.put(group, rule, records, at),
            rules::Filled::Metric { namespace, name, value, at } => {
                self.metrics.measured(namespace, name, *value, *at)
            }
            rules::Filled::Http { url, headers } => {
                let body = records.first().copied().unwrap_or_default();
                self.destinations.post(url, headers, body)
            }
            rules::Filled::Object { .. } => Err(Error::internal("an object is no log event")),
        }
    }
}

/// Notices steps of the wall clock, forgets rule versions that every stream has passed, and sweeps
/// uploads that nobody finished. The streams trim the log themselves.
async fn housekeeping(
    node: std::sync::Weak<Node>,
    s3: S3Front,
    mut stopped: watch::Receiver<bool>,
) {
    let mut turns = 0_u64;
    loop {
        {
            let Some(node) = node.upgrade() else { return };
            node.steps.look(&*node.clock);
        }
        tokio::select! {
            _ = stopped.changed() => return,
            () = tokio::time::sleep(TURN) => {}
        }
        turns += 1;
        if !turns.is_multiple_of(TURNS_PER_PRUNING) {
            continue;
        }
        let Some(node) = node.upgrade() else { return };
        let sweeper = turns.is_multiple_of(TURNS_PER_SWEEP).then(|| s3.clone());
        let work = tokio::task::spawn_blocking(move || {
            node.streams.prune_rules()?;
            if let Some(s3) = sweeper {
                node.models.sweep()?;
                s3.sweep_uploads(node.clock.now())?;
            }
            Ok::<(), Error>(())
        });
        if let Ok(Err(error)) = work.await {
            tracing::error!(%error, "housekeeping failed; it is tried again");
        }
    }
}

fn ended(name: &'static str, result: Result<()>) {
    if let Err(error) = result {
        tracing::warn!(name, %error, "a listener ended");
    }
}

async fn bind(setting: &str, addr: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(addr).await.map_err(|e| {
        Error::io(format!("listen on {addr} (change it with --set {setting}=ADDR)"), e)
    })
}

fn local_addr(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(|e| Error::io("read the listener's address", e))
}

/// The data directory holds keys: nobody but its owner may look in.
fn make_private(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| Error::io(format!("make folder {}", dir.display()), e))
}
