//! What the services act on: the rooms, and the settings of the wire itself.

use std::path::PathBuf;
use std::sync::Arc;

use base::{Clock, ErrorKind};
use broker::Broker;
use delivery::Streams;
use identity::{Keys, Registry};
use journal::SegmentLog;
use lake::{Lake, QueryEngine};
use metastore::Metastore;
use objects::Buckets;
use rules::RuleBook;
use serving::Host;

use crate::destinations::Destinations;
use crate::logs::LogStore;
use crate::metrics::Metrics;
use crate::services::{JobRuns, Queries, RunJob, Trainings};

/// The rooms of one node, as its wiring hands them over.
pub struct Rooms {
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Rows.
    pub metastore: Metastore,
    /// Things and certificates.
    pub registry: Arc<Registry>,
    /// Access keys.
    pub keys: Arc<Keys>,
    /// The log.
    pub journal: Arc<SegmentLog>,
    /// MQTT.
    pub broker: Arc<Broker>,
    /// The endpoints of HTTP actions.
    pub destinations: Arc<Destinations>,
    /// Topic rules.
    pub rules: Arc<RuleBook>,
    /// Delivery streams.
    pub streams: Arc<Streams>,
    /// Objects.
    pub buckets: Buckets,
    /// Catalog, crawlers and jobs.
    pub lake: Lake,
    /// Works a job's run in a process of its own.
    pub run_job: RunJob,
    /// Glue's job runs that have not ended.
    pub job_runs: Arc<JobRuns>,
    /// SQL.
    pub engine: Arc<dyn QueryEngine>,
    /// Athena's queries that have not ended.
    pub athena: Arc<Queries>,
    /// Models and endpoints.
    pub host: Arc<Host>,
    /// What trainings, jobs and users say.
    pub logs: Arc<LogStore>,
    /// Metrics of users and endpoints.
    pub metrics: Arc<Metrics>,
    /// Training jobs under way.
    pub trainings: Arc<Trainings>,
    /// The program that worker processes are started from.
    pub program: PathBuf,
    /// Where everything lies.
    pub data_dir: PathBuf,
    /// Settings of the wire.
    pub settings: Settings,
}

/// What the wire needs to know about this installation.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The account that every name is made out to.
    pub account_id: String,
    /// The region of a request that names none, and of what commands make.
    pub region: String,
    /// The name or address that devices are told to connect to.
    pub endpoint_host: String,
    /// Memory that one query or job may take, in bytes.
    pub query_memory_bytes: u64,
}

/// The database of tables that nobody put elsewhere.
pub const DATABASE: &str = "forebay";

/// Makes [`DATABASE`] where it is not there, first or after somebody deleted it.
pub fn ensure_database(lake: &Lake) -> base::Result<()> {
    match lake.catalog().create_database(DATABASE, "tables nobody put elsewhere") {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _there => Ok(()),
    }
}

impl Rooms {
    /// `arn:aws:SERVICE:REGION:ACCOUNT:RESOURCE`.
    pub(crate) fn arn(&self, service: &str, region: &str, resource: &str) -> String {
        format!("arn:aws:{service}:{region}:{}:{resource}", self.settings.account_id)
    }
}

/// A moment as JSON services write it: seconds, with the milliseconds behind the point.
pub(crate) fn epoch_secs(at: base::Timestamp) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds fit 53 bits until the year 287396"
    )]
    let millis = at.millis() as f64;
    millis / 1000.0
}

/// A moment as XML services write it: ISO 8601 to the second, in UTC.
pub(crate) fn iso_date(at: base::Timestamp) -> String {
    let moment = chrono::DateTime::from_timestamp_millis(at.millis()).unwrap_or_default();
    moment.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}
