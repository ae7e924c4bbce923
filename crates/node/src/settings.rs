//! Every setting of a node: plain data with documented defaults, one table a room.
//!
//! Precedence: command-line flag, `--set room.key=value`, `forebay.toml`, default. Reading
//! the environment is the command line's business.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::{Error, Result, limits};
use identity::Secret;
use serde::{Deserialize, Deserializer};
use toml::{Table, Value};

/// A node's settings, as `forebay.toml` holds them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The API.
    pub http: Http,
    /// MQTT: addresses here, limits as the broker documents them.
    pub mqtt: Mqtt,
    /// The broker's limits.
    pub broker: broker::Settings,
    /// Rules.
    pub rules: Rules,
    /// The log.
    pub journal: Journal,
    /// Buckets.
    pub objects: Objects,
    /// Queries and jobs.
    pub query: Query,
    /// Upkeep of tables.
    pub lake: Lake,
    /// Endpoints.
    pub serving: Serving,
    /// The AWS protocols.
    pub aws: Aws,
}

/// The API's settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Where the API listens. Every request but for health and metrics is signed, or carries
    /// the admin token and comes from this machine.
    pub addr: SocketAddr,
    /// Largest request body in bytes.
    pub body_bytes_max: usize,
}

impl Default for Http {
    fn default() -> Self {
        // SageMaker takes 6 MB in one invocation; twice that leaves room for JSON's spaces.
        Http { addr: SocketAddr::from(([127, 0, 0, 1], 9000)), body_bytes_max: 12 * 1024 * 1024 }
    }
}

/// Where MQTT listens and whom it lets in.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mqtt {
    /// Plain TCP. Beyond loopback it demands `anonymous = false`.
    pub addr: SocketAddr,
    /// Mutual TLS; open to the network, since it demands a registered certificate.
    pub tls_addr: SocketAddr,
    /// WebSocket, plain and over TLS on one port. Clients are known by their certificate or by
    /// the signature of their request; beyond loopback it demands `anonymous = false`.
    pub websocket_addr: SocketAddr,
    /// Whether clients without a certificate may connect to the plain and the WebSocket port.
    pub anonymous: bool,
    /// An IoT policy document that clients without a certificate are bound to; everything is
    /// allowed to them without one.
    pub anonymous_policy: Option<PathBuf>,
    /// Names and addresses, beside localhost, that the server's certificate is made out to.
    pub host_names: Vec<String>,
}

impl Default for Mqtt {
    fn default() -> Self {
        Mqtt {
            addr: SocketAddr::from(([127, 0, 0, 1], 1883)),
            tls_addr: SocketAddr::from(([0, 0, 0, 0], 8883)),
            websocket_addr: SocketAddr::from(([127, 0, 0, 1], 8083)),
            anonymous: true,
            anonymous_policy: None,
            host_names: Vec::new(),
        }
    }
}

/// What rules may do.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// Where HTTP actions may post: host names (`hooks.example.com`), suffixes (`*.example.com`),
    /// addresses and networks (`10.1.2.0/24`). A name opens only addresses of the internet;
    /// this machine and its network are opened by their addresses. Nothing by default.
    pub http_allowed: Vec<String>,
}

/// The log's settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Journal {
    /// Most bytes kept before publishers are held back.
    pub bytes_max: u64,
    /// Bytes of one segment file.
    pub segment_bytes: u64,
}

impl Default for Journal {
    fn default() -> Self {
        Journal { bytes_max: limits::JOURNAL_BYTES_MAX, segment_bytes: 64 * 1024 * 1024 }
    }
}

/// Where buckets lie.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Objects {
    /// Buckets on another S3, by the names they have here: streams deliver there. A table
    /// `[objects.remote.NAME]`, or `--set objects.remote.NAME.KEY=VALUE`.
    pub remote: BTreeMap<String, RemoteBucket>,
}

/// A bucket on another S3.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RemoteBucket {
    /// `https://HOST:PORT`; AWS's own if there is none.
    pub endpoint: Option<String>,
    /// The region that requests are signed for; `aws.region` if there is none.
    pub region: Option<String>,
    /// Its name there; the name it has here if there is none.
    pub bucket: Option<String>,
    /// What all its keys begin with there.
    pub prefix: String,
    /// The access key to sign with.
    pub access_key_id: Option<String>,
    /// Its secret.
    #[serde(deserialize_with = "secret")]
    pub secret_access_key: Option<Secret>,
    /// Instead of the two: a file as AWS's tools keep it (`aws_access_key_id = ...`), whose
    /// `[default]` profile is read at each request, so that a new key is taken up by itself.
    pub credentials_file: Option<PathBuf>,
    /// Whether a connection without TLS will do.
    pub allow_http: bool,
    /// Whether the bucket is named in the host. By default at AWS, and nowhere else.
    pub virtual_host: Option<bool>,
    /// How long a connection may take.
    pub connect_secs: u64,
    /// How long a peer may take or give nothing.
    pub stall_secs: u64,
    /// How long the answer may take once a request is sent.
    pub answer_secs: u64,
    /// What a body must make on average, beyond `stall_secs`.
    pub bytes_per_sec_min: u64,
}

impl Default for RemoteBucket {
    fn default() -> Self {
        let patience = aws_s3::Patience::default();
        RemoteBucket {
            endpoint: None,
            region: None,
            bucket: None,
            prefix: String::new(),
            access_key_id: None,
            secret_access_key: None,
            credentials_file: None,
            allow_http: false,
            virtual_host: None,
            connect_secs: patience.connect.as_secs(),
            stall_secs: patience.stall.as_secs(),
            answer_secs: patience.answer.as_secs(),
            bytes_per_sec_min: patience.bytes_per_sec_min,
        }
    }
}

fn secret<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<Secret>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.map(Secret::new))
}

/// Limits of one query or job.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Query {
    /// Memory one query or job may take before it spills or fails.
    pub memory_bytes: u64,
}

impl Default for Query {
    fn default() -> Self {
        Query { memory_bytes: 256 * 1024 * 1024 }
    }
}

/// Upkeep of tables: small files, retention, what was retired.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lake {
    /// Whether small files are put together unasked, while the machine is quiet.
    pub compact: bool,
    /// How long the worker rests between two turns.
    pub upkeep_secs: u64,
    /// A folder is compacted unasked once it has so many small files.
    pub compact_files_min: usize,
    /// Files younger than this are left alone.
    pub compact_age_secs_min: u64,
    /// Nothing is compacted unasked while the machine's load, that of the last minute, is above
    /// this; 0 stands for the number of its processors.
    pub compact_load_max: u64,
    /// Files smaller than this are small.
    pub small_file_bytes: u64,
    /// What files put together come to, about.
    pub target_file_bytes: u64,
    /// How long files that gave way to others, or were beyond their table's retention, can still
    /// be read by their keys and AS OF an earlier commit. At least the longest query.
    pub retired_secs: u64,
}

impl Default for Lake {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Lake {
            compact: true,
            upkeep_secs: 300,
            compact_files_min: 64,
            compact_age_secs_min: 15 * 60,
            compact_load_max: 0,
            small_file_bytes: 32 * MIB,
            target_file_bytes: 128 * MIB,
            retired_secs: 4 * 60 * 60,
        }
    }
}

/// A query takes half an hour at most, and must find the files that it began with.
const RETIRED_SECS_MIN: u64 = 31 * 60;

/// Limits of endpoints.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Serving {
    /// Threads that answer invocations.
    pub threads: usize,
    /// Invocations that may wait for a thread; more are refused.
    pub queue: usize,
    /// Longest time from arrival to answer. SageMaker gives a model 60 seconds.
    pub timeout_secs: u64,
    /// Memory for the models of multi-model endpoints together.
    pub models_bytes: u64,
    /// Whether an update whose models fail where those before did not is undone by itself.
    pub guard: bool,
    /// How long after an update that still is so, and the variants before are kept for it.
    pub probation_secs: u64,
    /// Models that take so many times what those before took are too slow.
    pub latency_factor: u32,
    /// How often it is asked during that time whether the new models' forecasts turned out worse:
    /// each time the captured forecasts since the update are read.
    pub accuracy_secs: u64,
}

impl Default for Serving {
    fn default() -> Self {
        let serving::Settings { threads, queue, timeout, models_bytes, guard } =
            serving::Settings::default();
        Serving {
            threads,
            queue,
            timeout_secs: timeout.as_secs(),
            models_bytes,
            guard: guard.on,
            probation_secs: guard.probation.as_secs(),
            latency_factor: guard.latency_factor,
            accuracy_secs: guard.accuracy_every.as_secs(),
        }
    }
}

impl Serving {
    pub(crate) fn of_host(&self) -> serving::Settings {
        serving::Settings {
            threads: self.threads,
            queue: self.queue,
            timeout: Duration::from_secs(self.timeout_secs),
            models_bytes: self.models_bytes,
            guard: serving::Guard {
                on: self.guard,
                probation: Duration::from_secs(self.probation_secs),
                latency_factor: self.latency_factor,
                accuracy_every: Duration::from_secs(self.accuracy_secs),
                ..serving::Guard::default()
            },
        }
    }
}

/// What names and answers of the AWS protocols say about this installation.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Aws {
    /// The account in every ARN: twelve digits.
    pub account_id: String,
    /// The region of what the command line makes and says.
    pub region: String,
}

impl Default for Aws {
    fn default() -> Self {
        // The account that AWS's own documentation uses in examples, so that pasted ARNs fit.
        Aws { account_id: "123456789012".to_owned(), region: "us-east-1".to_owned() }
    }
}

impl Settings {
    /// Reads `file` if it exists, then applies `overrides` (`room.key=value`) in order.
    pub fn load(file: &Path, overrides: &[String]) -> Result<Settings> {
        let mut table = match std::fs::read_to_string(file) {
            Ok(text) => text
                .parse::<Table>()
                .map_err(|e| Error::invalid(format!("{}: {}", file.display(), e.message())))?,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Table::new(),
            Err(cause) => return Err(Error::io(format!("read {}", file.display()), cause)),
        };
        for setting in overrides {
            apply(&mut table, setting)?;
        }
        let settings = Value::Table(table)
            .try_into::<Settings>()
            .map_err(|e| Error::invalid(format!("settings: {}", e.message())))?;
        settings.check()?;
        Ok(settings)
    }

    /// Refuses combinations that would open what should be closed.
    pub fn check(&self) -> Result<()> {
        let account = &self.aws.account_id;
        if account.len() != 12 || !account.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Error::invalid(format!(
                "aws.account_id {account:?}: an account is twelve digits, for instance \
                 \"123456789012\""
            )));
        }
        let lake = &self.lake;
        if lake.retired_secs < RETIRED_SECS_MIN {
            return Err(Error::invalid(format!(
                "lake.retired_secs {}: a query may take half an hour and must find its files; use \
                 {RETIRED_SECS_MIN} or more",
                lake.retired_secs
            )));
        }
        let zero = [
            ("upkeep_secs", lake.upkeep_secs),
            ("target_file_bytes", lake.target_file_bytes),
            ("small_file_bytes", lake.small_file_bytes),
            ("compact_files_min", lake.compact_files_min as u64),
        ];
        if let Some((name, _)) = zero.into_iter().find(|(_, value)| *value == 0) {
            return Err(Error::invalid(format!("lake.{name} must be above 0")));
        }
        let serving = &self.serving;
        let zero = [
            ("threads", serving.threads as u64),
            ("queue", serving.queue as u64),
            ("timeout_secs", serving.timeout_secs),
            ("latency_factor", u64::from(serving.latency_factor)),
            ("accuracy_secs", serving.accuracy_secs),
        ];
        if let Some((name, _)) = zero.into_iter().find(|(_, value)| *value == 0) {
            return Err(Error::invalid(format!("serving.{name} must be above 0")));
        }
        egress::Egress::new(&self.rules.http_allowed)?;
        crate::remotes::check(self)?;
        let region = &self.aws.region;
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if region.is_empty() || region.len() > 32 || !region.bytes().all(plain) {
            return Err(Error::invalid(format!(
                "aws.region {region:?}: use a region's name, for instance \"eu-west-1\""
            )));
        }
        let unbound = self.mqtt.anonymous && self.mqtt.anonymous_policy.is_none();
        let ports = [("addr", self.mqtt.addr), ("websocket_addr", self.mqtt.websocket_addr)];
        for (name, addr) in ports {
            if !addr.ip().is_loopback() && unbound {
                return Err(Error::invalid(format!(
                    "mqtt.{name} {addr} is open to the network while clients need no \
                     certificate; give them a policy with --mqtt-anonymous-policy FILE, refuse \
                     them with none, or use mutual TLS on {}",
                    self.mqtt.tls_addr
                )));
            }
        }
        Ok(())
    }
}

/// Settings of a bucket elsewhere begin so; its name and the key follow.
const REMOTE: &str = "objects.remote.";

/// Applies one `room.key=value`; the value is TOML, or else a plain string.
fn apply(table: &mut Table, setting: &str) -> Result<()> {
    let bad = || Error::invalid(format!("setting {setting:?} is not of the form room.key=value"));
    let (path, text) = setting.split_once('=').ok_or_else(bad)?;
    let path: Vec<&str> = match path.trim().strip_prefix(REMOTE) {
        // A bucket's name may have dots.
        Some(rest) => {
            let (name, key) = rest.rsplit_once('.').ok_or_else(bad)?;
            vec!["objects", "remote", name, key]
        }
        None => path.trim().splitn(2, '.').collect(),
    };
    let [rooms @ .., key] = path.as_slice() else { return Err(bad()) };
    if rooms.is_empty() {
        return Err(bad());
    }
    let value = format!("value = {text}")
        .parse::<Table>()
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()));
    let mut table = table;
    for room in rooms {
        let inner = table.entry(*room).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(inner) = inner else { return Err(bad()) };
        table = inner;
    }
    table.insert((*key).to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(overrides: &[&str]) -> Result<Settings> {
        let overrides: Vec<String> = overrides.iter().map(|s| (*s).to_owned()).collect();
        Settings::load(Path::new("no-such-file.toml"), &overrides)
    }

    #[test]
    fn overrides_reach_their_room() {
        let settings = load(&["journal.bytes_max=1000000", "mqtt.addr=127.0.0.1:0"]).unwrap();
        assert_eq!(settings.journal.bytes_max, 1_000_000);
        assert_eq!(settings.mqtt.addr.port(), 0);
    }

    #[test]
    fn unknown_rooms_keys_and_forms_are_refused_by_name() {
        for bad in ["jurnal.bytes_max=1", "journal.bites=1", "journal", "journal.bytes_max=many"] {
            let error = load(&[bad]).unwrap_err().to_string();
            assert!(error.contains("settings") || error.contains(bad), "{bad}: {error}");
        }
    }

    #[test]
    fn a_bucket_elsewhere_is_told_of_key_by_key_and_its_secret_is_not_shown() {
        let with = |more: &[&str]| {
            let mut all = vec![
                "objects.remote.far.lake.endpoint=https://minio.test:9000",
                "objects.remote.far.lake.access_key_id=AKIA",
                "objects.remote.far.lake.secret_access_key=hush",
            ];
            all.extend(more);
            load(&all)
        };
        let settings = with(&["objects.remote.far.lake.prefix='a/b'"]).unwrap();
        let remote = &settings.objects.remote["far.lake"];
        assert_eq!((remote.prefix.as_str(), remote.stall_secs), ("a/b", 20));
        assert!(!format!("{settings:?}").contains("hush"));
        for (more, part) in [
            ("objects.remote.far.lake.endpoint=http://minio.test", "allow_http"),
            ("objects.remote.far.lake.endpiont=x", "endpiont"),
            ("objects.remote.far.lake.access_key_id=''", "access_key_id"),
            ("objects.remote.far.lake.stall_secs=0", "stall_secs"),
            ("objects.remote.far.lake.credentials_file=/x", "not both"),
            ("objects.remote.Far.bucket=x", "bucket name"),
            ("objects.remote=x", "settings"),
            ("objects.remote.x=y", "room.key=value"),
        ] {
            let error = with(&[more]).unwrap_err().to_string();
            assert!(error.contains(part), "{more}: {error}");
        }
    }

    #[test]
    fn an_account_and_a_region_that_no_arn_can_carry_are_refused() {
        assert!(load(&["aws.account_id='1234'"]).is_err());
        assert!(load(&["aws.region='Rome, Italy'"]).is_err());
        assert!(load(&["aws.account_id='210987654321'", "aws.region=eu-south-1"]).is_ok());
    }

    #[test]
    fn nothing_opens_to_the_network_by_accident() {
        for open in ["mqtt.addr=0.0.0.0:1883", "mqtt.websocket_addr=0.0.0.0:8083"] {
            assert!(load(&[open]).is_err(), "{open}");
            assert!(load(&[open, "mqtt.anonymous=false"]).is_ok(), "{open}");
        }
    }
}
