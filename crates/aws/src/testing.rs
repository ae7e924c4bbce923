//! A node's rooms in a temporary folder, for tests of one service: no listener, no signature.

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Bytes;
use base::{Clock, ManualClock, Result, SystemClock};
use http::Request;
use http_body_util::BodyExt;
use lake::{EtlResult, EtlSpec, QueryEngine, QueryResult, SqlOptions};
use serde_json::Value;
use tempfile::TempDir;

use crate::auth::Caller;
use crate::front::Front;
use crate::rooms::{Rooms, Settings};
use crate::services;

/// Rooms to call services on.
pub(crate) struct World {
    pub(crate) rooms: Arc<Rooms>,
    pub(crate) folder: TempDir,
}

/// Refuses every statement: SQL is tested where the engine is.
#[derive(Debug)]
struct NoEngine;

#[async_trait]
impl QueryEngine for NoEngine {
    async fn sql(&self, sql: &str, _options: &SqlOptions) -> Result<QueryResult> {
        Err(base::Error::invalid(format!("no engine for {sql:?}")))
    }

    async fn etl(&self, _spec: &EtlSpec) -> Result<EtlResult> {
        Err(base::Error::unsupported("no engine"))
    }
}

/// Nobody may connect.
struct Closed;

impl broker::Authenticator for Closed {
    fn certificate(&self, _der: &[u8]) -> Result<broker::Identity, broker::Refusal> {
        Err(broker::Refusal { reason: "test", message: "closed".into() })
    }

    fn anonymous(&self) -> Result<broker::Identity, broker::Refusal> {
        Err(broker::Refusal { reason: "test", message: "closed".into() })
    }
}

impl World {
    /// Rooms over a new folder, at the machine's time.
    pub(crate) fn new() -> World {
        World::at(Arc::new(SystemClock), Arc::new(NoEngine))
    }

    /// Rooms over a new folder, with a clock that a test moves.
    pub(crate) fn with_clock(clock: Arc<ManualClock>) -> World {
        World::at(clock, Arc::new(NoEngine))
    }

    /// Rooms over a new folder, with an engine that knows its answers.
    pub(crate) fn with_engine(engine: Arc<dyn QueryEngine>) -> World {
        World::at(Arc::new(SystemClock), engine)
    }

    fn at(clock: Arc<dyn Clock>, engine: Arc<dyn QueryEngine>) -> World {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data_dir = folder.path().to_owned();
        let metastore = metastore::Metastore::in_memory().expect("rows");
        let authority =
            identity::Authority::open(&data_dir.join("ca"), clock.clone()).expect("authority");
        let registry = identity::Registry::open(metastore.clone(), authority, clock.clone())
            .expect("registry");
        let keys = identity::Keys::open(metastore.clone(), clock.clone(), "123456789012")
            .expect("access keys");
        let options = journal::Options { segment_bytes: 1 << 20, bytes_max: 16 << 20 };
        let journal = journal::SegmentLog::open(&data_dir.join("journal"), options).expect("log");
        let rules = Arc::new(rules::RuleBook::open(metastore.clone()).expect("rules"));
        let buckets = objects::Buckets::open(&data_dir.join("lake")).expect("buckets");
        let streams = Arc::new(delivery::Streams::new(
            metastore.clone(),
            journal.clone(),
            buckets.clone(),
            rules.clone(),
            clock.clone(),
            tokio::runtime::Handle::current(),
            delivery::Settings {
                schemas: Some(Arc::new(crate::CatalogSchemas(lake::Catalog::new(
                    metastore.clone(),
                    clock.clone(),
                )))),
                ..delivery::Settings::default()
            },
        ));
        let lake = lake::Lake::open(
            metastore.clone(),
            buckets.clone(),
            &data_dir.join("jobs"),
            clock.clone(),
        )
        .expect("lake");
        let loader: serving::Loader = Arc::new(training::load);
        let host = serving::Host::open(
            metastore.clone(),
            clock.clone(),
            loader,
            serving::Settings::default(),
        )
        .expect("endpoints");
        let broker = broker::Broker::open(
            journal.clone(),
            Arc::new(Closed),
            clock.clone(),
            broker::Settings::default(),
            metastore.clone(),
        )
        .expect("broker");
        let trainings = services::Trainings::open(&metastore, clock.now());
        let trainings = Arc::new(trainings.expect("trainings"));
        // This machine's own addresses, so that tests can have endpoints.
        let egress = egress::Egress::new(&["127.0.0.1".to_owned()]).expect("egress");
        let destinations = crate::Destinations::new(
            metastore.clone(),
            clock.clone(),
            egress,
            "http://localhost".to_owned(),
        );
        let rooms = Rooms {
            destinations: Arc::new(destinations),
            clock,
            metastore,
            registry,
            keys,
            journal,
            broker,
            rules,
            streams,
            buckets,
            lake,
            run_job: Arc::new(|_spec, _stop| {
                Box::pin(async { Err(base::Error::unsupported("no processes")) })
            }),
            job_runs: Arc::default(),
            engine,
            athena: Arc::default(),
            host: Arc::new(host),
            logs: Arc::new(crate::logs::LogStore::open(&data_dir).expect("logs")),
            metrics: Arc::default(),
            trainings,
            program: "forebay".into(),
            data_dir,
            settings: Settings {
                account_id: "123456789012".into(),
                region: "us-east-1".into(),
                endpoint_host: "localhost".into(),
                query_memory_bytes: 64 << 20,
            },
        };
        World { rooms: Arc::new(rooms), folder }
    }

    /// Calls an operation of a JSON service; an error gives its code.
    pub(crate) async fn call(
        &self,
        service: &str,
        operation: &str,
        input: Value,
    ) -> std::result::Result<Value, (u16, String, String)> {
        let service = named(service);
        let target = match service.protocol {
            crate::protocol::Protocol::Json { target, .. }
            | crate::protocol::Protocol::JsonOrQuery { target, .. } => target,
            other => panic!("{} speaks {other:?}; use `http`", service.name),
        };
        let request = Request::post("/")
            .header("x-amz-target", format!("{target}.{operation}"))
            .body(Bytes::from(input.to_string()))
            .expect("a request");
        let (status, body) = self.send(service, request).await;
        outcome(status, &body)
    }

    /// Sends a request to a REST or query service, past the signature.
    pub(crate) async fn http(
        &self,
        service: &str,
        request: Request<Bytes>,
    ) -> std::result::Result<Value, (u16, String, String)> {
        let (status, body) = self.send(named(service), request).await;
        outcome(status, &body)
    }

    /// Signs a request with a key, as a client of the service with this scope would, and adds
    /// the host that it is sent to.
    pub(crate) fn sign(
        &self,
        key: &identity::AccessKey,
        scope: &str,
        request: Request<Bytes>,
    ) -> Request<Bytes> {
        let (mut parts, body) = request.into_parts();
        parts.headers.insert("host", http::HeaderValue::from_static("localhost:4566"));
        let signer = identity::sigv4::Signer {
            access_key_id: &key.id,
            secret: &key.secret,
            token: key.session.as_ref().map(|session| session.token.expose()),
            region: "eu-west-1",
            service: scope,
            rules: identity::sigv4::SERVICE,
        };
        let added = signer.headers(&crate::auth::request(&parts, &body), self.rooms.clock.now());
        for (name, value) in added {
            parts.headers.insert(name, value.parse().expect("a header"));
        }
        Request::from_parts(parts, body)
    }

    /// Sends a request through the door, signature and all; an error gives its code.
    pub(crate) async fn knock(
        &self,
        request: Request<Bytes>,
    ) -> std::result::Result<Value, (u16, String, String)> {
        let front = Front::new(self.rooms.clone());
        let response = front.handle(request.map(axum::body::Body::from)).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        outcome(status, &body)
    }

    /// As `http`, with the status and body as they are.
    pub(crate) async fn send(
        &self,
        service: &'static crate::call::Service,
        request: Request<Bytes>,
    ) -> (u16, Bytes) {
        let (parts, body) = request.into_parts();
        let caller = Caller {
            access_key_id: "AKIATEST".into(),
            account_id: "123456789012".into(),
            arn: "arn:aws:sts::123456789012:assumed-role/test/test".into(),
            user_id: "AROATEST:test".into(),
        };
        let front = Front::new(self.rooms.clone());
        let response = front.serve(service, caller, &parts, body, "request-1".into()).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, body)
    }
}

/// A service by its name in the coverage page.
pub(crate) fn named(name: &str) -> &'static crate::call::Service {
    services::ALL.iter().find(|service| service.name == name).expect("a service of ours")
}

/// The text of the first element of this name, or nothing.
pub(crate) fn element(xml: &str, name: &str) -> String {
    let inside = xml
        .split_once(&format!("<{name}>"))
        .and_then(|(_, rest)| rest.split_once(&format!("</{name}>")));
    inside.map(|(text, _)| text.to_owned()).unwrap_or_default()
}

fn outcome(status: u16, body: &Bytes) -> std::result::Result<Value, (u16, String, String)> {
    let value: Value = match body.is_empty() {
        true => Value::Null,
        false => serde_json::from_slice(body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(body).into_owned())),
    };
    if status < 300 {
        return Ok(value);
    }
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    match &value {
        Value::String(xml) => Err((status, element(xml, "Code"), element(xml, "Message"))),
        _ => Err((status, text("__type"), text("message"))),
    }
}

#[tokio::test]
async fn what_no_table_has_is_refused_by_name() {
    let world = World::new();
    let (status, code, message) =
        world.call("glue", "BoilTheOcean", serde_json::json!({})).await.unwrap_err();
    assert_eq!((status, code.as_str()), (400, "UnknownOperationException"));
    assert!(message.contains("BoilTheOcean"), "{message}");
    assert!(world.folder.path().exists());
}
