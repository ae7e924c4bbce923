//! Before the protocol: who signed and with which token, what the signature must cover, and
//! the digests of bodies that are XML. What `s3s` checks itself is not repeated here:
//! signatures, the skew and expiry of version 4, the expiry of version 2, chunk signatures.

use std::sync::Arc;

use axum::body::Body;
use http::{HeaderMap, Method, Request, request::Parts};
use identity::KeyRefusal;
use s3s::auth::{S3Auth, SecretKey};
use s3s::host::{S3Host, VirtualHost};
use s3s::{HttpRequest, S3Error, S3Result, s3_error};

use crate::Settings;
use crate::fail::bad_digest;
use crate::receive::{Digests, hex};
use crate::record::ALGORITHMS;

tokio::task_local! {
    /// The secret of the request at hand, admitted with its session token.
    pub(crate) static SECRET: SecretKey;
}

/// What an XML body may have at most: 10,000 parts, or 1,000 keys of 1,024 bytes.
const XML_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A browser's form is taken apart in memory.
const FORM_BYTES_MAX: usize = 16 * 1024 * 1024;
const SKEW_SECONDS: u64 = 15 * 60;
/// Seven days, as S3 allows.
const EXPIRES_SECONDS_MAX: i64 = 7 * 24 * 60 * 60;

/// The secret that [`admit`] found.
pub(crate) struct Admitted;

#[async_trait::async_trait]
impl S3Auth for Admitted {
    async fn get_secret_key(&self, _access_key: &str) -> S3Result<SecretKey> {
        SECRET.try_with(Clone::clone).map_err(|_outside| unknown_key())
    }
}

/// Which part of a host name is a bucket.
pub(crate) struct Hosts(pub(crate) Arc<Settings>);

impl S3Host for Hosts {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let mut suffixes: Vec<&str> = self.0.host_suffixes.iter().map(String::as_str).collect();
        // The longest first: s3.localhost before localhost.
        suffixes.sort_by_key(|suffix| std::cmp::Reverse(suffix.len()));
        for suffix in suffixes {
            if name == suffix {
                break;
            }
            let bucket = name.strip_suffix(suffix).and_then(|rest| rest.strip_suffix('.'));
            if let Some(bucket) = bucket {
                return Ok(VirtualHost::new(suffix).with_bucket(bucket));
            }
        }
        Ok(VirtualHost::new(name))
    }
}

fn denied(why: &str) -> S3Error {
    s3_error!(AccessDenied, "{why}")
}

fn unknown_key() -> S3Error {
    s3_error!(
        InvalidAccessKeyId,
        "The AWS Access Key Id you provided does not exist in our records."
    )
}

/// What a request says about its signer.
struct Signer {
    access_key: String,
    token: Option<String>,
}

/// Lets a request through whose signer may sign, with the secret to compare with.
pub(crate) async fn admit(
    keys: &dyn crate::SecretKeys,
    request: Request<Body>,
) -> S3Result<(HttpRequest, SecretKey)> {
    let (mut parts, body) = request.into_parts();
    let (signer, body) = match is_form(&parts) {
        true => {
            let form = with_filename(form_body(body).await?);
            parts.headers.insert(http::header::CONTENT_LENGTH, form.len().into());
            (form_signer(&form)?, Body::from(form))
        }
        false => (signer(&parts)?, body),
    };
    as_version_2_signs(&mut parts);
    let secret = match keys.secret(&signer.access_key, signer.token.as_deref()) {
        Ok(secret) => SecretKey::from(secret.expose()),
        Err(KeyRefusal::Expired) => {
            return Err(s3_error!(ExpiredToken, "The provided token has expired."));
        }
        Err(KeyRefusal::Unknown) if signer.token.is_some() => {
            return Err(s3_error!(
                InvalidToken,
                "The provided token is malformed or otherwise invalid."
            ));
        }
        Err(KeyRefusal::Unknown | KeyRefusal::Inactive) => return Err(unknown_key()),
    };
    let body = match is_xml(&parts) {
        true => s3s::Body::from(xml_body(&parts, body).await?),
        false => s3s::Body::http_body_unsync(body),
    };
    Ok((Request::from_parts(parts, body), secret))
}

/// Version 2 as botocore signs it ends a bucket's path with a slash, sent or not.
fn as_version_2_signs(parts: &mut Parts) {
    let given = text(&parts.headers, "authorization").unwrap_or_default();
    let path = parts.uri.path();
    let is_bucket = path.len() > 1 && !path[1..].contains('/');
    if !is_bucket || !(given.starts_with("AWS ") || has_query(parts, "AWSAccessKeyId")) {
        return;
    }
    let whole = match parts.uri.query() {
        Some(query) => format!("{path}/?{query}"),
        None => format!("{path}/"),
    };
    if let Ok(uri) = whole.parse() {
        parts.uri = uri;
    }
}

fn query(parts: &Parts, name: &str) -> Option<String> {
    let pairs = parts.uri.query().unwrap_or_default().split('&');
    let value = pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?.1;
    let value = value.replace('+', "%20");
    Some(percent_encoding::percent_decode_str(&value).decode_utf8_lossy().into_owned())
}

fn has_query(parts: &Parts, name: &str) -> bool {
    parts
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .any(|pair| pair.split('=').next() == Some(name))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn signer(parts: &Parts) -> S3Result<Signer> {
    let authorization = parts.headers.get_all(http::header::AUTHORIZATION).iter().count();
    let in_query = has_query(parts, "X-Amz-Signature") || has_query(parts, "Signature");
    if authorization > 1 || (authorization == 1 && in_query) {
        return Err(s3_error!(
            InvalidArgument,
            "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, \
             Signature query string parameter or the Authorization header should be specified"
        ));
    }
    let given = text(&parts.headers, "authorization").unwrap_or_default();
    if has_query(parts, "X-Amz-Signature") {
        presigned(parts)
    } else if has_query(parts, "Signature") {
        let access_key = query(parts, "AWSAccessKeyId").unwrap_or_default();
        Ok(Signer { access_key, token: query(parts, "x-amz-security-token") })
    } else if given.starts_with("AWS4-HMAC-SHA256") {
        by_header(parts, given)
    } else if let Some(rest) = given.strip_prefix("AWS ") {
        old_by_header(parts, rest)
    } else if given.is_empty() {
        Err(denied("Access Denied"))
    } else {
        Err(s3_error!(InvalidArgument, "Unsupported Authorization Type"))
    }
}

/// An upload by a browser's form, which is signed by its policy.
fn is_form(parts: &Parts) -> bool {
    let kind = text(&parts.headers, "content-type").unwrap_or_default();
    parts.method == Method::POST && kind.starts_with("multipart/form-data")
}

async fn form_body(body: Body) -> S3Result<bytes::Bytes> {
    axum::body::to_bytes(body, FORM_BYTES_MAX).await.map_err(|_cause| {
        s3_error!(
            EntityTooLarge,
            "Your proposed upload exceeds what a form may have here, {FORM_BYTES_MAX} bytes: use \
             PutObject, presigned for a browser"
        )
    })
}

/// Whose form it claims to be. Whether it is, its signature tells later.
fn form_signer(form: &[u8]) -> S3Result<Signer> {
    let access_key = match form_field(form, "x-amz-credential") {
        Some(credential) => scoped(&credential).ok_or_else(|| {
            s3_error!(InvalidArgument, "x-amz-credential is no KEY/YYYYMMDD/REGION/s3/aws4_request")
        })?,
        None => form_field(form, "awsaccesskeyid").ok_or_else(|| denied("Access Denied"))?,
    };
    if !["x-amz-signature", "signature"].iter().any(|name| field_in(form, name).is_some()) {
        return Err(s3_error!(
            InvalidArgument,
            "A form that names an access key must have a field x-amz-signature, or signature"
        ));
    }
    Ok(Signer { access_key, token: form_field(form, "x-amz-security-token") })
}

/// The value of a form's field before its file; names are compared without regard to case.
fn form_field(form: &[u8], name: &str) -> Option<String> {
    String::from_utf8(form.get(field_in(form, name)?)?.to_vec()).ok()
}

/// Where the value of a field lies. That of `file` is its head: what stands before its bytes.
fn field_in(form: &[u8], name: &str) -> Option<std::ops::Range<usize>> {
    const NAME: &[u8] = b"; name=\"";
    let find = |from: usize, what: &[u8]| {
        let rest = form.get(from..)?;
        Some(from + rest.windows(what.len()).position(|window| window == what)?)
    };
    let mut at = 0;
    loop {
        let start = find(at, NAME)? + NAME.len();
        let end = find(start, b"\"")?;
        let found = form.get(start..end)?;
        let head_end = find(end, b"\r\n\r\n")?;
        let is_file = found.eq_ignore_ascii_case(b"file");
        if found.eq_ignore_ascii_case(name.as_bytes()) {
            let value = head_end + 4;
            return Some(if is_file { end..head_end } else { value..find(value, b"\r\n")? });
        }
        if is_file {
            return None;
        }
        at = end;
    }
}

/// A key may name the file as it is called where it comes from.
fn with_filename(form: bytes::Bytes) -> bytes::Bytes {
    const PLACE: &str = "${filename}";
    let changed = || {
        let key = field_in(&form, "key")?;
        let asked = std::str::from_utf8(form.get(key.clone())?).ok()?;
        let head = std::str::from_utf8(form.get(field_in(&form, "file")?)?).ok()?;
        let name = head.split("filename=\"").nth(1)?.split('"').next()?;
        // Some browsers tell the path as well.
        let name = name.rsplit(['/', '\\']).next()?;
        let told = asked.contains(PLACE).then(|| asked.replace(PLACE, name))?;
        Some([form.get(..key.start)?, told.as_bytes(), form.get(key.end..)?].concat())
    };
    changed().map_or_else(|| form.clone(), bytes::Bytes::from)
}

fn malformed(why: &str) -> S3Error {
    s3_error!(AuthorizationHeaderMalformed, "The authorization header is malformed; {why}")
}

/// The access key of a scope `KEY/DATE/REGION/SERVICE/aws4_request`, which must be for S3.
fn scoped(credential: &str) -> Option<String> {
    let mut scope = credential.rsplitn(5, '/');
    let (end, service) = (scope.next()?, scope.next()?);
    let (_region, _date, key) = (scope.next()?, scope.next()?, scope.next()?);
    (end == "aws4_request" && service == "s3").then(|| key.to_owned())
}

/// Everything that changes what a request means must be signed.
fn check_signed(headers: &HeaderMap, signed: &str, free: &[&str]) -> S3Result<()> {
    let signed: Vec<&str> = signed.split(';').collect();
    if !signed.contains(&"host") {
        return Err(denied(
            "There were headers present in the request which were not signed: host",
        ));
    }
    for name in headers.keys().map(http::HeaderName::as_str) {
        if name.starts_with("x-amz-") && !free.contains(&name) && !signed.contains(&name) {
            return Err(s3_error!(
                AccessDenied,
                "There were headers present in the request which were not signed: {name}"
            ));
        }
    }
    // One that is signed and absent was taken away on the way.
    match signed.iter().find(|name| !headers.contains_key(**name)) {
        Some(name) => Err(s3_error!(
            SignatureDoesNotMatch,
            "The header {name} is signed and not in the request"
        )),
        None => Ok(()),
    }
}

fn by_header(parts: &Parts, given: &str) -> S3Result<Signer> {
    let field = |name: &str| {
        given
            .trim_start_matches("AWS4-HMAC-SHA256")
            .split(',')
            .find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='))
    };
    let credential = field("Credential").ok_or_else(|| malformed("missing Credential"))?;
    let signed = field("SignedHeaders").ok_or_else(|| malformed("missing SignedHeaders"))?;
    let access_key = scoped(credential).ok_or_else(|| {
        malformed("the Credential is mal-formed; expecting \"KEY/YYYYMMDD/REGION/s3/aws4_request\"")
    })?;
    check_signed(&parts.headers, signed, &[])?;
    let token = text(&parts.headers, "x-amz-security-token").map(str::to_owned);
    Ok(Signer { access_key, token })
}

fn presigned(parts: &Parts) -> S3Result<Signer> {
    let wrong = |why: &str| s3_error!(AuthorizationQueryParametersError, "{why}");
    let credential = query(parts, "X-Amz-Credential").unwrap_or_default();
    let access_key = scoped(&credential).ok_or_else(|| {
        wrong("Error parsing the X-Amz-Credential parameter; expecting \"KEY/YYYYMMDD/REGION/s3/aws4_request\"")
    })?;
    match query(parts, "X-Amz-Expires").and_then(|value| value.parse::<i64>().ok()) {
        Some(1..=EXPIRES_SECONDS_MAX) => {}
        Some(..=0) => return Err(denied("Request has expired")),
        _ => {
            return Err(wrong("X-Amz-Expires must be a number of seconds from 1 to 604800"));
        }
    }
    let signed = query(parts, "X-Amz-SignedHeaders").unwrap_or_default();
    check_signed(&parts.headers, &signed, &["x-amz-content-sha256"])?;
    Ok(Signer { access_key, token: query(parts, "X-Amz-Security-Token") })
}

fn old_by_header(parts: &Parts, rest: &str) -> S3Result<Signer> {
    let date = text(&parts.headers, "x-amz-date").or_else(|| text(&parts.headers, "date"));
    let date = date
        .ok_or_else(|| denied("AWS authentication requires a valid Date or x-amz-date header"))?;
    let format = s3s::dto::TimestampFormat::HttpDate;
    let at = s3s::dto::Timestamp::parse(format, date).map_err(|_unread| {
        denied("AWS authentication requires a valid Date or x-amz-date header")
    })?;
    let moment: time::OffsetDateTime = at.into();
    if (time::OffsetDateTime::now_utc() - moment).unsigned_abs().as_secs() > SKEW_SECONDS {
        return Err(s3_error!(
            RequestTimeTooSkewed,
            "The difference between the request time and the current time is too large."
        ));
    }
    let access_key = rest.split(':').next().unwrap_or_default().to_owned();
    let token = text(&parts.headers, "x-amz-security-token").map(str::to_owned);
    Ok(Signer { access_key, token })
}

/// Whether the body is XML and not an object: everything but putting bytes under a key.
fn is_xml(parts: &Parts) -> bool {
    match parts.method {
        Method::POST => !is_form(parts),
        Method::PUT => {
            let sub = [
                "tagging",
                "acl",
                "retention",
                "legal-hold",
                "versioning",
                "policy",
                "lifecycle",
                "cors",
                "website",
                "notification",
                "encryption",
                "logging",
                "replication",
                "publicAccessBlock",
                "ownershipControls",
                "object-lock",
                "accelerate",
                "requestPayment",
                "analytics",
                "inventory",
                "metrics",
                "intelligent-tiering",
            ];
            let at_bucket = parts.uri.path().trim_matches('/').split('/').count() == 1
                && !text(&parts.headers, "host").is_some_and(|host| host.contains(".s3."));
            sub.iter().any(|name| has_query(parts, name))
                || (at_bucket && has_small_body(&parts.headers))
        }
        _ => false,
    }
}

/// A PUT at a bucket makes it; by the host's name it may as well be an object.
fn has_small_body(headers: &HeaderMap) -> bool {
    let length = text(headers, "content-length").and_then(|value| value.parse::<usize>().ok());
    length.is_some_and(|length| length <= 64 * 1024)
        && !text(headers, "x-amz-content-sha256").is_some_and(|sum| sum.starts_with("STREAMING"))
}

async fn xml_body(parts: &Parts, body: Body) -> S3Result<bytes::Bytes> {
    let headers = &parts.headers;
    let bytes = axum::body::to_bytes(body, XML_BYTES_MAX).await.map_err(|_cause| {
        s3_error!(MaxMessageLengthExceeded, "Your request was too big: over {XML_BYTES_MAX} bytes")
    })?;
    if text(headers, "x-amz-content-sha256").is_some_and(|sum| sum.starts_with("STREAMING")) {
        return Ok(bytes);
    }
    let sha = "SHA256";
    let asked = ALGORITHMS.into_iter().filter(|algorithm| {
        *algorithm == sha || headers.contains_key(format!("x-amz-checksum-{algorithm}"))
    });
    let mut digests = Digests::new(asked);
    digests.update(&bytes);
    let (md5, sums, _) = digests.finish();
    let whole = sums.get(sha).and_then(|sum| crate::base64::decode(&sum)).unwrap_or_default();
    match text(headers, "x-amz-content-sha256") {
        Some(told) if told != "UNSIGNED-PAYLOAD" && told != hex(&whole) => {
            return Err(crate::fail::sha256_mismatch());
        }
        _ => {}
    }
    if let Some(told) = text(headers, "content-md5")
        && crate::base64::decode(told).is_none_or(|told| told != md5)
    {
        return Err(bad_digest("Content-MD5"));
    }
    // A completed upload's checksum is the object's, not the body's.
    let of_body = !has_query(parts, "uploadId");
    for (algorithm, sum) in sums.values.iter().filter(|_| of_body) {
        let told = text(headers, &format!("x-amz-checksum-{}", algorithm.to_lowercase()));
        if told.is_some_and(|told| told != sum) {
            return Err(bad_digest(algorithm));
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(fields: &[(&str, &str)]) -> bytes::Bytes {
        let part = |(name, value): &(&str, &str)| match *name {
            "file" => format!(
                "--edge\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{value}\"\r\n\
                 Content-Type: text/plain\r\n\r\nbytes; name=\"key\"\r\n"
            ),
            _ => format!(
                "--edge\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
            ),
        };
        let parts: String = fields.iter().map(part).collect();
        (parts + "--edge--\r\n").into()
    }

    #[test]
    fn a_form_names_its_key_after_its_file() {
        let given =
            form(&[("key", "in/${filename}"), ("acl", "private"), ("file", "C:\\d\\a.txt")]);
        let told = form(&[("key", "in/a.txt"), ("acl", "private"), ("file", "C:\\d\\a.txt")]);
        assert_eq!(with_filename(given), told);
        for same in [form(&[("key", "k"), ("file", "a")]), form(&[("file", "a")]), "no form".into()]
        {
            assert_eq!(with_filename(same.clone()), same);
        }
    }

    #[test]
    fn a_field_of_a_form_is_found_before_its_file_only() {
        let given = form(&[("AWSAccessKeyId", "AKIA"), ("file", "a"), ("policy", "p")]);
        assert_eq!(form_field(&given, "awsaccesskeyid").as_deref(), Some("AKIA"));
        assert_eq!(form_field(&given, "policy"), None);
        assert_eq!(form_field(&given[..40], "awsaccesskeyid"), None);
    }
}
