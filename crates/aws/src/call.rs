//! One authenticated request on its way to an operation, and the answer on its way back.

use std::sync::Arc;

use axum::body::Bytes;
use futures::future::BoxFuture;
use http::HeaderMap;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::auth::Caller;
use crate::fault::Fault;
use crate::protocol::Protocol;
use crate::rooms::Rooms;

/// What an operation gives.
pub(crate) type Outcome = Result<Reply, Fault>;

/// One AWS service: how it is spoken to, and what it can do.
pub(crate) struct Service {
    /// Name in the documentation, and of the boto3 client.
    pub(crate) name: &'static str,
    /// The words of a credential scope that mean this service.
    pub(crate) scopes: &'static [&'static str],
    /// How requests and answers look.
    pub(crate) protocol: Protocol,
    /// The code and status of each kind of refusal in this service's own words.
    pub(crate) codes: fn(base::ErrorKind) -> (&'static str, u16),
    /// Most bytes of a request's body.
    pub(crate) body_bytes_max: usize,
    /// Everything it can do.
    pub(crate) operations: &'static [Operation],
}

/// One operation of a service.
pub(crate) struct Operation {
    /// As AWS names it.
    pub(crate) name: &'static str,
    /// Where REST protocols find it; `None` where the name is on the wire.
    pub(crate) route: Option<Route>,
    /// What differs from AWS, for the coverage page; empty when nothing does.
    pub(crate) differs: &'static str,
    /// The work.
    pub(crate) run: for<'a> fn(&'a Arc<Rooms>, &'a Call) -> BoxFuture<'a, Outcome>,
}

/// Method and path of a REST operation, with what its query and headers may carry.
pub(crate) struct Route {
    pub(crate) method: &'static str,
    /// `/things/{thingName}/principals`: a name in braces takes one segment, still encoded.
    pub(crate) path: &'static str,
    /// Members that arrive as query parameters, and how they are read.
    pub(crate) query: &'static [(&'static str, Kind)],
    /// Members that arrive as headers: (header in lower case, member).
    pub(crate) headers: &'static [(&'static str, &'static str)],
    /// Whether the body is a payload that is not to be read as JSON.
    pub(crate) raw: bool,
}

/// How a query parameter is read.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Text,
    Integer,
    Boolean,
}

/// `operation!("ListThings", list_things)`, and for REST protocols
/// `operation!("ListThings", list_things, route!("GET", "/things", query: [("maxResults", Kind::Integer)]))`.
macro_rules! operation {
    ($name:literal, $function:path) => {
        operation!($name, $function, differs: "")
    };
    ($name:literal, $function:path, differs: $differs:literal) => {
        $crate::call::Operation {
            name: $name,
            route: None,
            differs: $differs,
            run: |rooms, call| Box::pin($function(rooms, call)),
        }
    };
    ($name:literal, $function:path, $route:expr) => {
        operation!($name, $function, $route, differs: "")
    };
    ($name:literal, $function:path, $route:expr, differs: $differs:literal) => {
        $crate::call::Operation {
            name: $name,
            route: Some($route),
            differs: $differs,
            run: |rooms, call| Box::pin($function(rooms, call)),
        }
    };
}

macro_rules! route {
    ($method:literal, $path:literal
        $(, query: [$($query:expr),* $(,)?])?
        $(, headers: [$($header:expr),* $(,)?])?
        $(, raw: $raw:literal)?) => {
        $crate::call::Route {
            method: $method,
            path: $path,
            query: &[$($($query),*)?],
            headers: &[$($($header),*)?],
            raw: false $(|| $raw)?,
        }
    };
}

pub(crate) use {operation, route};

/// A request whose caller is known.
pub(crate) struct Call {
    pub(crate) caller: Caller,
    pub(crate) request_id: String,
    /// The region of the credential scope.
    pub(crate) region: String,
    /// Everything the operation was given, path, query and header members included.
    pub(crate) input: Value,
    pub(crate) headers: HeaderMap,
    /// The body as it came.
    pub(crate) body: Bytes,
}

impl Call {
    /// Reads the input. A member that `T` does not have is refused by name, and a wrong value
    /// with its place: give `T` `#[serde(deny_unknown_fields)]`, all the way down.
    pub(crate) fn input<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        serde_path_to_error::deserialize(&self.input).map_err(|error| {
            let place = error.path().to_string();
            let why = error.into_inner().to_string();
            Fault::input(&place, &why)
        })
    }

    /// A header's text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// An answer, before its protocol has written it.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: ReplyBody,
}

#[derive(Debug)]
pub(crate) enum ReplyBody {
    Empty,
    /// An object with the members of the operation's output, in wire names.
    Value(Value),
    /// Bytes as they are, with their content type.
    Raw(Bytes, String),
}

impl Reply {
    /// Success without a body.
    pub(crate) fn empty() -> Reply {
        Reply { status: 200, headers: Vec::new(), body: ReplyBody::Empty }
    }

    /// Bytes as they are.
    pub(crate) fn raw(body: impl Into<Bytes>, content_type: impl Into<String>) -> Reply {
        Reply { body: ReplyBody::Raw(body.into(), content_type.into()), ..Reply::empty() }
    }

    /// With one more header; the name in lower case.
    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.headers.push((name, value.into()));
        self
    }
}

impl From<Value> for Reply {
    fn from(value: Value) -> Reply {
        Reply { body: ReplyBody::Value(value), ..Reply::empty() }
    }
}
