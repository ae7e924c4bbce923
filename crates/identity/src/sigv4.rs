//! AWS Signature Version 4: making signatures and checking them. Nothing here does I/O or knows
//! which keys exist.
//!
//! ```text
//! request ─▶ Claim::read (what does it say of itself?) ─▶ Keys::admit (whose secret?)
//!         ─▶ Claim::verify (was it signed with that secret, now, and just so?)
//! ```
//!
//! Invariants
//! * What is verified is what is served: a name that could be read in two ways (twice in the
//!   query, twice among the headers) is refused.
//! * A [`Refusal`] never carries the secret, the expected signature or the text that was signed.
//! * Signatures are compared in constant time.

mod canonical;
mod moment;
mod sign;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

use std::fmt;

use base::Timestamp;
use ring::{digest, hmac};

use crate::Secret;
use canonical::{canonical, unquoted};
pub use moment::amz_date;
pub use sign::Signer;

/// How far a signer's clock may be from ours, in seconds.
pub const SKEW_SECS: i64 = 15 * 60;

/// Longest life of a presigned address, in seconds: a week.
pub const EXPIRES_SECS_MAX: i64 = 7 * 24 * 3600;

/// The service that requests for MQTT over WebSocket are signed for. Theirs may lack
/// `X-Amz-Expires`; they are then good for as long as a signature in headers.
pub const MQTT_SERVICE: &str = "iotdevicegateway";

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const TERMINATOR: &str = "aws4_request";
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// A request as it came, or is about to go, over the wire.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// `GET`, `POST`, ...
    pub method: &'a str,
    /// The path, encoded as it is on the wire.
    pub path: &'a str,
    /// What follows the question mark, encoded as it is on the wire.
    pub query: &'a str,
    /// Names in lower case, values as they are, in their order.
    pub headers: Vec<(&'a str, &'a [u8])>,
    /// The body.
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    fn values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |(given, _)| *given == name).map(|(_, value)| *value)
    }

    /// A header that may be there once, as text.
    fn header(&self, name: &str) -> Result<Option<&'a str>, Refusal> {
        let mut values = self.values(name);
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Refusal::Incomplete(format!("header {name:?} came more than once")));
        }
        match std::str::from_utf8(value) {
            Ok(text) => Ok(Some(text.trim())),
            Err(_) => Err(Refusal::Incomplete(format!("header {name:?} is not text"))),
        }
    }
}

/// What differs between services in what is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Whether `.`, `..` and empty segments of the path are resolved first.
    pub normalize_path: bool,
    /// Whether the path, encoded as it is, is encoded once more.
    pub encode_path_twice: bool,
    /// Whether a body may stay unsigned.
    pub unsigned_payload: bool,
}

/// Every service but S3.
pub const SERVICE: Rules =
    Rules { normalize_path: true, encode_path_twice: true, unsigned_payload: false };

/// S3, whose keys may look like anything.
pub const S3: Rules =
    Rules { normalize_path: false, encode_path_twice: false, unsigned_payload: true };

/// Why a request does not count as signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It carries no signature.
    Missing,
    /// What it carries is no signature of this kind; says why.
    Incomplete(String),
    /// It came too late, or was signed for later; says when.
    OutOfTime(String),
    /// Something that has to be signed is not; says what.
    Uncovered(String),
    /// The body is not the one whose hash was signed, or was not signed at all.
    Payload(String),
    /// It was signed with another secret, or changed on its way.
    Mismatch,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Missing => f.write_str("Missing Authentication Token"),
            Refusal::Incomplete(why)
            | Refusal::OutOfTime(why)
            | Refusal::Uncovered(why)
            | Refusal::Payload(why) => f.write_str(why),
            Refusal::Mismatch => f.write_str(
                "The request signature we calculated does not match the signature you provided. \
                 Check your AWS Secret Access Key and signing method. Consult the service \
                 documentation for details.",
            ),
        }
    }
}

/// `KEY/20260102/eu-west-1/glue/aws4_request`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The access key.
    pub access_key_id: String,
    /// `YYYYMMDD`.
    pub date: String,
    /// The region.
    pub region: String,
    /// The service.
    pub service: String,
}

impl Scope {
    /// Reads a credential; `None` if it is none.
    pub fn read(credential: &str) -> Option<Scope> {
        // From the end: nothing forbids a slash in a key's name.
        let mut parts = credential.rsplitn(5, '/');
        let _terminator = parts.next().filter(|end| *end == TERMINATOR)?;
        let service = parts.next()?.to_owned();
        let region = parts.next()?.to_owned();
        let date = parts.next()?.to_owned();
        let access_key_id = parts.next()?.to_owned();
        Some(Scope { access_key_id, date, region, service })
    }

    fn without_key(&self) -> String {
        format!("{}/{}/{}/{TERMINATOR}", self.date, self.region, self.service)
    }

    fn signing_key(&self, secret: &Secret) -> hmac::Key {
        let mut key =
            hmac::Key::new(hmac::HMAC_SHA256, format!("AWS4{}", secret.expose()).as_bytes());
        for part in [self.date.as_str(), &self.region, &self.service, TERMINATOR] {
            let next = hmac::sign(&key, part.as_bytes());
            key = hmac::Key::new(hmac::HMAC_SHA256, next.as_ref());
        }
        key
    }
}

/// What a request says of its own signature; nothing of it is believed yet.
#[derive(Clone, PartialEq, Eq)]
pub struct Claim {
    /// Whose key, for what.
    pub scope: Scope,
    /// The session token that came along.
    pub token: Option<String>,
    /// `YYYYMMDDTHHMMSSZ`, as it came.
    date: String,
    /// The same, in seconds since 1970.
    at_secs: i64,
    /// Whether the address is signed rather than the headers.
    presigned: bool,
    /// How long it lives, where the signer said so.
    expires_secs: Option<i64>,
    signed_headers: Vec<String>,
    signature: Vec<u8>,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the token nor the signature.
        f.debug_struct("Claim")
            .field("scope", &self.scope)
            .field("date", &self.date)
            .field("signed_headers", &self.signed_headers)
            .finish_non_exhaustive()
    }
}

impl Claim {
    /// Reads the signature of a request, from its headers or, presigned, from its query.
    pub fn read(request: &Request<'_>) -> Result<Claim, Refusal> {
        let in_query = presigned(request.query);
        match request.header("authorization")? {
            Some(_) if in_query => Err(Refusal::Incomplete(
                "The request is signed in its headers and in its query; only one is allowed."
                    .to_owned(),
            )),
            Some(authorization) => from_headers(request, authorization),
            None if in_query => from_query(request),
            None => Err(Refusal::Missing),
        }
    }

    /// Whether the request was signed with `secret`, is in time, and has nothing unsigned that
    /// changes its meaning.
    pub fn verify(
        &self,
        request: &Request<'_>,
        secret: &Secret,
        now: Timestamp,
        rules: Rules,
    ) -> Result<(), Refusal> {
        self.in_time(now)?;
        self.covers(request)?;
        let payload = self.payload_hash(request, rules)?;
        let key = self.scope.signing_key(secret);
        let signed = |with_token: bool| {
            let canonical = canonical(request, &self.signed_headers, &payload, rules, with_token);
            let text = string_to_sign(&self.date, &self.scope, &canonical);
            hmac::verify(&key, text.as_bytes(), &self.signature).is_ok()
        };
        // Some signers add the token to the query afterwards, as IoT's WebSocket demands. It is
        // compared with the session's own in any case.
        if signed(true) || (self.token.is_some() && self.presigned && signed(false)) {
            return Ok(());
        }
        Err(Refusal::Mismatch)
    }

    fn in_time(&self, now: Timestamp) -> Result<(), Refusal> {
        let now_secs = now.millis().div_euclid(1000);
        let show = |secs: i64| amz_date(Timestamp(secs.saturating_mul(1000)));
        let (given, minutes) = (&self.date, SKEW_SECS / 60);
        if self.at_secs > now_secs + SKEW_SECS {
            return Err(Refusal::OutOfTime(format!(
                "Signature not yet current: {given} is still later than {} ({} + {minutes} min.)",
                show(now_secs + SKEW_SECS),
                show(now_secs),
            )));
        }
        match self.expires_secs {
            None if self.at_secs < now_secs - SKEW_SECS => Err(Refusal::OutOfTime(format!(
                "Signature expired: {given} is now earlier than {} ({} - {minutes} min.)",
                show(now_secs - SKEW_SECS),
                show(now_secs),
            ))),
            Some(life) if now_secs >= self.at_secs + life => Err(Refusal::OutOfTime(format!(
                "Signature expired: {} is now earlier than {} (X-Amz-Date {given} + \
                 X-Amz-Expires {life} s)",
                show(self.at_secs + life),
                show(now_secs),
            ))),
            _ => Ok(()),
        }
    }

    /// The host and whatever begins with `x-amz-` have to be signed, since they decide what
    /// the request means. The token is compared with the session's own instead.
    fn covers(&self, request: &Request<'_>) -> Result<(), Refusal> {
        let signed = |name: &str| self.signed_headers.iter().any(|header| header == name);
        if !signed("host") {
            let message = "'Host' or ':authority' must be a 'SignedHeader' in the AWS \
                           Authorization.";
            return Err(Refusal::Uncovered(message.to_owned()));
        }
        for (name, _) in &request.headers {
            if name.starts_with("x-amz-") && *name != "x-amz-security-token" && !signed(name) {
                return Err(Refusal::Uncovered(format!(
                    "There were headers present in the request which were not signed: {name}"
                )));
            }
        }
        let gone = self.signed_headers.iter().find(|name| request.values(name).next().is_none());
        match gone {
            Some(name) => Err(Refusal::Uncovered(format!(
                "Header {name:?} was signed but is not in the request; something on its way may \
                 have removed it."
            ))),
            None => Ok(()),
        }
    }

    /// What stands for the body in the text that is signed.
    fn payload_hash(&self, request: &Request<'_>, rules: Rules) -> Result<String, Refusal> {
        let named = request.header("x-amz-content-sha256")?;
        match named {
            Some(word) if word == UNSIGNED || word.starts_with("STREAMING-") => {
                match rules.unsigned_payload {
                    true => Ok(word.to_owned()),
                    false => Err(Refusal::Payload(format!(
                        "x-amz-content-sha256 is {word}, which S3 alone accepts; sign the body"
                    ))),
                }
            }
            None if rules.unsigned_payload && self.presigned => Ok(UNSIGNED.to_owned()),
            None => Ok(hex(digest::digest(&digest::SHA256, request.body).as_ref())),
            Some(named) => {
                let real = hex(digest::digest(&digest::SHA256, request.body).as_ref());
                if named != real {
                    return Err(Refusal::Payload(
                        "The provided 'x-amz-content-sha256' header does not match what was \
                         computed."
                            .to_owned(),
                    ));
                }
                Ok(real)
            }
        }
    }
}

/// Whether a query carries a signature of version 4.
pub fn presigned(query: &str) -> bool {
    query.split('&').any(|pair| {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        name == "X-Amz-Algorithm" || name == "X-Amz-Signature" || name == "X-Amz-Credential"
    })
}

fn from_headers(request: &Request<'_>, authorization: &str) -> Result<Claim, Refusal> {
    let Some(rest) = authorization
        .strip_prefix(ALGORITHM)
        .filter(|rest| rest.is_empty() || rest.starts_with(' '))
    else {
        return Err(Refusal::Incomplete(format!(
            "The Authorization header does not begin with {ALGORITHM:?}."
        )));
    };
    let (mut credential, mut signed_headers, mut signature) = (None, None, None);
    for part in rest.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let place = match part.split_once('=') {
            Some(("Credential", value)) => Some((&mut credential, value)),
            Some(("SignedHeaders", value)) => Some((&mut signed_headers, value)),
            Some(("Signature", value)) => Some((&mut signature, value)),
            _ => None,
        };
        match place {
            Some((place, value)) if place.is_none() => *place = Some(value),
            _ => {
                return Err(Refusal::Incomplete(
                    "The Authorization header has a parameter twice, or one that is not known; \
                     it takes Credential, SignedHeaders and Signature."
                        .to_owned(),
                ));
            }
        }
    }
    let date = match request.header("x-amz-date")? {
        Some(date) => Some(date),
        None => request.header("date")?,
    };
    let missing: Vec<String> = [
        (credential.is_none(), "'Credential' parameter"),
        (signature.is_none(), "'Signature' parameter"),
        (signed_headers.is_none(), "'SignedHeaders' parameter"),
        (date.is_none(), "existence of either a 'X-Amz-Date' or a 'Date' header"),
    ]
    .into_iter()
    .filter(|(missing, _)| *missing)
    .map(|(_, what)| format!("Authorization header requires {what}."))
    .collect();
    let (Some(credential), Some(signature), Some(signed_headers), Some(date)) =
        (credential, signature, signed_headers, date)
    else {
        return Err(Refusal::Incomplete(missing.join(" ")));
    };
    let token = request.header("x-amz-security-token")?.map(str::to_owned);
    claim(credential, date, signed_headers, signature, token)
}

fn from_query(request: &Request<'_>) -> Result<Claim, Refusal> {
    let value = |name: &'static str| -> Result<Option<String>, Refusal> {
        let mut found = None;
        for pair in request.query.split('&') {
            let (given, value) = pair.split_once('=').unwrap_or((pair, ""));
            if unquoted(given) != name.as_bytes() {
                continue;
            }
            let Ok(value) = String::from_utf8(unquoted(value)) else {
                return Err(Refusal::Incomplete(format!("{name} is not UTF-8.")));
            };
            if found.replace(value).is_some() {
                return Err(Refusal::Incomplete(format!("{name} came more than once.")));
            }
        }
        Ok(found)
    };
    let required = |name| {
        value(name)?.ok_or_else(|| {
            Refusal::Incomplete(format!("AWS query-string parameters must include '{name}'."))
        })
    };
    let algorithm = required("X-Amz-Algorithm")?;
    if algorithm != ALGORITHM {
        return Err(Refusal::Incomplete(format!(
            "X-Amz-Algorithm is {algorithm:?}; only {ALGORITHM:?} is supported."
        )));
    }
    let token = match value("X-Amz-Security-Token")? {
        Some(token) => Some(token),
        None => request.header("x-amz-security-token")?.map(str::to_owned),
    };
    let claim = claim(
        &required("X-Amz-Credential")?,
        &required("X-Amz-Date")?,
        &required("X-Amz-SignedHeaders")?,
        &required("X-Amz-Signature")?,
        token,
    )?;
    let expires = match value("X-Amz-Expires")? {
        None if claim.scope.service == MQTT_SERVICE => None,
        None => Some(required("X-Amz-Expires")?),
        expires => expires,
    };
    let expires_secs = expires.map(|expires| life(&expires)).transpose()?;
    Ok(Claim { presigned: true, expires_secs, ..claim })
}

fn life(expires: &str) -> Result<i64, Refusal> {
    let secs = expires.parse().ok().filter(|secs| (1..=EXPIRES_SECS_MAX).contains(secs));
    secs.ok_or_else(|| {
        Refusal::Incomplete(format!(
            "X-Amz-Expires is {expires:?}; it must be a number of seconds from 1 to a week, \
             {EXPIRES_SECS_MAX}."
        ))
    })
}

fn claim(
    credential: &str,
    date: &str,
    signed_headers: &str,
    signature: &str,
    token: Option<String>,
) -> Result<Claim, Refusal> {
    let incomplete = |why: String| Err(Refusal::Incomplete(why));
    let Some(scope) = Scope::read(credential) else {
        return incomplete(format!(
            "Credential must have exactly 5 slash-delimited elements, e.g. \
             keyid/date/region/service/{TERMINATOR}, got '{credential}'."
        ));
    };
    let Some(at_secs) = moment::read(date) else {
        return incomplete(format!(
            "Date must be in ISO-8601 'basic format'. Got '{date}'. See \
             http://en.wikipedia.org/wiki/ISO_8601"
        ));
    };
    if !date.starts_with(&scope.date) || scope.date.len() != 8 {
        return incomplete(format!(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date \
             from HTTP: '{}' != '{}', from '{date}'.",
            scope.date,
            &date[..8],
        ));
    }
    let signed_headers: Vec<String> = signed_headers.split(';').map(str::to_owned).collect();
    let plain = |name: &String| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase())
    };
    if !signed_headers.iter().all(plain) || !signed_headers.is_sorted_by(|a, b| a < b) {
        return incomplete(
            "SignedHeaders must be names of headers in lower case, sorted, each once, with ';' \
             between them."
                .to_owned(),
        );
    }
    let Some(signature) = unhex(signature) else {
        return incomplete("The signature is not 64 hexadecimal digits.".to_owned());
    };
    let date = date.to_owned();
    let (presigned, expires_secs) = (false, None);
    Ok(Claim { scope, token, date, at_secs, presigned, expires_secs, signed_headers, signature })
}

fn string_to_sign(date: &str, scope: &Scope, canonical: &str) -> String {
    let hash = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
    format!("{ALGORITHM}\n{date}\n{}\n{hash}", scope.without_key())
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// The bytes of a signature, which has 64 digits.
fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect()
}
