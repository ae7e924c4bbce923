//! The door: which service a request means, who sends it, and the way to its operation.
//!
//! With one port for every service, the credential scope of the signature says which service
//! is meant (`Credential=KEY/20260102/eu-west-1/SERVICE/aws4_request`). What carries no scope
//! of ours is S3's: S3 alone has presigned addresses of the older kind, and answers the
//! unsigned with its own refusal.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use http::request::Parts;
use http::{Request, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::auth::{self, Caller};
use crate::call::{Call, Service};
use crate::fault::Fault;
use crate::protocol;
use crate::rooms::Rooms;
use crate::services;

/// Every service but S3 over one node's rooms.
#[derive(Clone)]
pub struct Front {
    rooms: Arc<Rooms>,
}

/// Whom a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressee {
    /// One of the services here.
    Aws,
    /// S3.
    S3,
    /// Nobody that asks for AWS signatures.
    Other,
}

impl Front {
    /// The services over these rooms.
    pub fn new(rooms: Arc<Rooms>) -> Front {
        // Updates of endpoints watch CloudWatch's alarms. Weak, since the host is one of the rooms.
        let watching = Arc::downgrade(&rooms);
        rooms.host.watch_with(Arc::new(move |names: &[String]| {
            services::ringing(&*watching.upgrade()?, names)
        }));
        Front { rooms }
    }

    /// Whom a request is for, by its signature alone.
    pub fn addressee(parts: &Parts) -> Addressee {
        match auth::scope(parts) {
            Some(scope) if scope.service == "s3" => Addressee::S3,
            Some(_) => Addressee::Aws,
            None if auth::is_s3_signed(parts) => Addressee::S3,
            None if auth::is_for_a_service(parts) => Addressee::Aws,
            None => Addressee::Other,
        }
    }

    /// Answers one request.
    pub async fn handle(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let request_id = uuid::Uuid::new_v4().to_string();
        let Some(scope) = auth::scope(&parts) else {
            let wire = protocol::Wire::of_nobody(&parts.headers);
            let fault = auth::without_scope(wire, &parts);
            return protocol::write(&services::NONE, None, wire, &request_id, Err(fault));
        };
        let Some(service) = find(&scope.service, &parts) else {
            let message = format!(
                "Forebay has no service {:?}; docs/coverage.md lists what it has",
                scope.service
            );
            let fault = Fault::named("UnknownOperationException", 400, message);
            let wire = protocol::Wire::of_nobody(&parts.headers);
            return protocol::write(&services::NONE, None, wire, &request_id, Err(fault));
        };
        let wire = service.protocol.wire(&parts.headers);
        let refuse = |fault| protocol::write(service, None, wire, &request_id, Err(fault));
        let body = match whole(body, service.body_bytes_max).await {
            Ok(body) => body,
            Err(fault) => return refuse(fault),
        };
        match auth::authenticate(&self.rooms, wire, &parts, &body) {
            Ok(caller) => self.serve(service, caller, &parts, body, request_id).await,
            Err(fault) => refuse(fault),
        }
    }

    /// Answers one request whose caller is known.
    pub(crate) async fn serve(
        &self,
        service: &'static Service,
        caller: Caller,
        parts: &Parts,
        body: Bytes,
        request_id: String,
    ) -> Response<Body> {
        let wire = service.protocol.wire(&parts.headers);
        let (operation, input) = match protocol::read(service, parts, &body) {
            Ok(read) => read,
            Err(fault) => return protocol::write(service, None, wire, &request_id, Err(fault)),
        };
        let region = auth::scope(parts)
            .map(|scope| scope.region)
            .unwrap_or_else(|| self.rooms.settings.region.clone());
        let headers = parts.headers.clone();
        let call = Call { caller, request_id, region, input, headers, body };
        let outcome = (operation.run)(&self.rooms, &call).await;
        if let Err(fault) = &outcome {
            tracing::debug!(service = service.name, operation = operation.name, ?fault, "refused");
        }
        protocol::write(service, Some(operation), wire, &call.request_id, outcome)
    }
}

/// The service of a scope. `sagemaker` is two: the control plane has targets, the runtime paths.
fn find(scope: &str, parts: &Parts) -> Option<&'static Service> {
    let targeted = parts.headers.contains_key("x-amz-target");
    let mut candidates = services::ALL.iter().filter(|service| service.scopes.contains(&scope));
    let first = candidates.next()?;
    match candidates.next() {
        Some(rest) if !targeted => Some(rest),
        _ => Some(first),
    }
}

async fn whole(body: Body, most: usize) -> Result<Bytes, Fault> {
    match Limited::new(body, most).collect().await {
        Ok(read) => Ok(read.to_bytes()),
        Err(cause) if cause.is::<LengthLimitError>() => {
            let message =
                format!("the body has more than {most} bytes, the most this service takes");
            Err(Fault::named("RequestEntityTooLargeException", 413, message))
        }
        Err(cause) => {
            Err(Fault::named("RequestTimeout", 400, format!("the body could not be read: {cause}")))
        }
    }
}
