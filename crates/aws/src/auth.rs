//! Who calls: the signature of a request, checked before anything else looks at it.
//!
//! `identity` knows keys and signatures; here its refusals get the names and numbers that AWS
//! gives them on each wire.

use axum::body::Bytes;
use http::request::Parts;
use http::{Method, header};
use identity::KeyRefusal;
use identity::sigv4::{self, Claim, Refusal, Request, Scope};

use crate::fault::Fault;
use crate::protocol::{self, Wire};
use crate::rooms::Rooms;

/// A caller whose signature was right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The access key that signed.
    pub access_key_id: String,
    /// The account.
    pub account_id: String,
    /// What GetCallerIdentity answers.
    pub arn: String,
    /// What GetCallerIdentity answers as `UserId`.
    pub user_id: String,
}

/// Reads the claimed scope from the header or a presigned query, without believing it.
pub(crate) fn scope(parts: &Parts) -> Option<Scope> {
    let header = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let credential = match header.and_then(|text| text.strip_prefix("AWS4-HMAC-SHA256")) {
        Some(rest) => rest
            .split(',')
            .find_map(|part| part.trim().strip_prefix("Credential="))
            .map(str::to_owned),
        None => query_value(parts, "X-Amz-Credential"),
    }?;
    Scope::read(&credential)
}

/// Whether a request without a scope is S3's: signed in the older way.
pub(crate) fn is_s3_signed(parts: &Parts) -> bool {
    let header = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    header.is_some_and(|text| text.starts_with("AWS "))
        || query_value(parts, "AWSAccessKeyId").is_some()
}

/// Whether a request without a scope still looks like one for a service here: its target or
/// its form says so, and the refusal should be one that its client can read.
pub(crate) fn is_for_a_service(parts: &Parts) -> bool {
    parts.headers.contains_key("x-amz-target")
        || (parts.method == Method::POST
            && parts.uri.path() == "/"
            && protocol::is_form(&parts.headers))
}

fn query_value(parts: &Parts, name: &str) -> Option<String> {
    let query = parts.uri.query()?;
    let pair = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    let text = percent_encoding::percent_decode_str(pair).decode_utf8().ok()?;
    Some(text.into_owned())
}

/// Says whose signature a request carries, or refuses it in the words of its wire.
pub(crate) fn authenticate(
    rooms: &Rooms,
    wire: Wire,
    parts: &Parts,
    body: &Bytes,
) -> Result<Caller, Fault> {
    let request = request(parts, body);
    let claim = Claim::read(&request).map_err(|refusal| unsigned(wire, &refusal))?;
    let access_key_id = &claim.scope.access_key_id;
    let key = rooms
        .keys
        .admit(access_key_id, claim.token.as_deref())
        .map_err(|refusal| inadmissible(wire, refusal))?;
    // Any region is ours: what it is called changes nothing but the names of things.
    claim.verify(&request, &key.secret, rooms.clock.now(), sigv4::SERVICE).map_err(|refusal| {
        tracing::debug!(%access_key_id, %refusal, "a signature was refused");
        unsigned(wire, &refusal)
    })?;
    Ok(Caller {
        access_key_id: key.id,
        account_id: rooms.keys.account_id().to_owned(),
        arn: key.principal.arn,
        user_id: key.principal.user_id,
    })
}

/// The refusal of a request that has no scope, in the words of its wire.
pub(crate) fn without_scope(wire: Wire, parts: &Parts) -> Fault {
    match Claim::read(&request(parts, &Bytes::new())) {
        Err(refusal) => unsigned(wire, &refusal),
        Ok(_) => unsigned(wire, &Refusal::Missing),
    }
}

/// A request as signatures see it.
pub(crate) fn request<'a>(parts: &'a Parts, body: &'a Bytes) -> Request<'a> {
    Request {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or_default(),
        headers: parts.headers.iter().map(|(name, v)| (name.as_str(), v.as_bytes())).collect(),
        body,
    }
}

/// JSON services answer 400 to whatever the client did wrong; the others use 403 where it is
/// about who the client is. The query protocol has shorter names, and older ones.
fn unsigned(wire: Wire, refusal: &Refusal) -> Fault {
    let (json, query) = match refusal {
        Refusal::Missing => ("MissingAuthenticationTokenException", "MissingAuthenticationToken"),
        Refusal::Incomplete(_) => ("IncompleteSignatureException", "IncompleteSignature"),
        Refusal::OutOfTime(_) | Refusal::Uncovered(_) | Refusal::Payload(_) | Refusal::Mismatch => {
            ("InvalidSignatureException", "SignatureDoesNotMatch")
        }
    };
    let forbidden = !matches!(refusal, Refusal::Incomplete(_));
    named(wire, json, query, forbidden, refusal.to_string())
}

fn inadmissible(wire: Wire, refusal: KeyRefusal) -> Fault {
    let (json, query, state) = match refusal {
        // One answer for both, so that nobody learns which keys exist.
        KeyRefusal::Unknown | KeyRefusal::Inactive => {
            ("UnrecognizedClientException", "InvalidClientTokenId", "invalid")
        }
        KeyRefusal::Expired => ("ExpiredTokenException", "ExpiredToken", "expired"),
    };
    let message = format!("The security token included in the request is {state}.");
    named(wire, json, query, true, message)
}

fn named(
    wire: Wire,
    json: &'static str,
    query: &'static str,
    forbidden: bool,
    message: String,
) -> Fault {
    match wire {
        Wire::Json { .. } => Fault::named(json, 400, message),
        Wire::Rest => Fault::named(json, if forbidden { 403 } else { 400 }, message),
        Wire::Query { .. } => Fault::named(query, if forbidden { 403 } else { 400 }, message),
    }
}

#[cfg(test)]
mod tests;
