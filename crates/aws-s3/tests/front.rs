//! S3's front from outside: signatures, conditions, listings, uploads in parts.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::sync::Arc;

use aws_s3::{S3Front, SecretKeys, Settings};
use axum::body::{Body, to_bytes};
use base::{Clock, SystemClock, Timestamp};
use http::{Request, StatusCode};
use identity::{KeyRefusal, Secret, sigv4};
use objects::Buckets;

struct One;

impl SecretKeys for One {
    fn secret(&self, id: &str, token: Option<&str>) -> Result<Secret, KeyRefusal> {
        match (id, token) {
            ("AKIATEST", None) | ("ASIATEST", Some("token")) => Ok(Secret::new("sekret")),
            ("ASIAOLD", Some(_)) => Err(KeyRefusal::Expired),
            _ => Err(KeyRefusal::Unknown),
        }
    }
}

struct Shop {
    _folder: tempfile::TempDir,
    buckets: Buckets,
    front: S3Front,
}

struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    body: String,
}

impl Answer {
    #[track_caller]
    fn refused(&self, status: u16, code: &str) {
        let told = format!("{} {}", self.status, self.body);
        assert_eq!(self.status.as_u16(), status, "{told}");
        assert!(self.body.contains(&format!("<Code>{code}</Code>")), "{told}");
        assert!(self.body.contains("<RequestId>"), "{told}");
        assert!(!self.body.contains("/tmp"), "{told}");
    }

    #[track_caller]
    fn fine(self) -> Answer {
        assert!(self.status.is_success(), "{} {}", self.status, self.body);
        self
    }
}

fn shop() -> Shop {
    let folder = tempfile::tempdir().unwrap();
    let buckets = Buckets::open(folder.path()).unwrap();
    buckets.create_bucket("lake").unwrap();
    let settings = Settings {
        region: "eu-west-1".to_owned(),
        account_id: "000000000000".to_owned(),
        host_suffixes: vec!["localhost".to_owned()],
    };
    let front = S3Front::new(Arc::new(One), buckets.clone(), settings);
    Shop { _folder: folder, buckets, front }
}

/// A request as it goes out, signed for `key` at `at` unless a test changes it after.
fn signed(
    (key, token, at): (&str, Option<&str>, Timestamp),
    (method, target): (&str, &str),
    headers: &[(&str, &str)],
    body: &[u8],
) -> Request<Body> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let host = headers.iter().find(|(name, _)| *name == "host");
    let mut all = headers.to_vec();
    if host.is_none() {
        all.push(("host", "127.0.0.1:1"));
    }
    let secret = Secret::new("sekret");
    let signer = sigv4::Signer {
        access_key_id: key,
        secret: &secret,
        token,
        region: "eu-west-1",
        service: "s3",
        rules: sigv4::S3,
    };
    let request = sigv4::Request {
        method,
        path,
        query,
        headers: all.iter().map(|(name, value)| (*name, value.as_bytes())).collect(),
        body,
    };
    let mut built = Request::builder().method(method).uri(target);
    for (name, value) in signer.headers(&request, at) {
        built = built.header(name, value);
    }
    for (name, value) in all {
        built = built.header(name, value);
    }
    built = built.header("content-length", body.len());
    built.body(Body::from(body.to_vec())).unwrap()
}

impl Shop {
    async fn send(&self, request: Request<Body>) -> Answer {
        let (parts, body) = self.front.handle(request).await.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        let body = String::from_utf8_lossy(&body).into_owned();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    async fn ask(&self, what: (&str, &str), headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.send(signed(("AKIATEST", None, SystemClock.now()), what, headers, body)).await
    }
}

#[tokio::test]
async fn only_the_signed_are_served() {
    let shop = shop();
    shop.ask(("PUT", "/lake/k"), &[], b"hello").await.fine();
    let bare = |uri: &str| Request::builder().uri(uri).body(Body::empty()).unwrap();
    shop.send(bare("/lake/k")).await.refused(403, "AccessDenied");
    let now = SystemClock.now();
    let get = |who| signed(who, ("GET", "/lake/k"), &[], b"");
    shop.send(get(("AKIANO", None, now))).await.refused(403, "InvalidAccessKeyId");
    shop.send(get(("ASIATEST", Some("token"), now))).await.fine();
    shop.send(get(("ASIATEST", Some("other"), now))).await.refused(400, "InvalidToken");
    shop.send(get(("ASIAOLD", Some("t"), now))).await.refused(400, "ExpiredToken");
    let old = Timestamp(now.millis() - 16 * 60 * 1_000);
    shop.send(get(("AKIATEST", None, old))).await.refused(403, "RequestTimeTooSkewed");

    let mut other = get(("AKIATEST", None, now));
    *other.uri_mut() = "/lake/other".parse().unwrap();
    shop.send(other).await.refused(403, "SignatureDoesNotMatch");
    let mut added = get(("AKIATEST", None, now));
    added.headers_mut().insert("x-amz-meta-a", "b".parse().unwrap());
    shop.send(added).await.refused(403, "AccessDenied");
    let mut body = signed(("AKIATEST", None, now), ("PUT", "/lake/k"), &[], b"hello");
    *body.body_mut() = Body::from("jello");
    shop.send(body).await.refused(400, "XAmzContentSHA256Mismatch");
    let kept = shop.buckets.get("lake", "k").await.unwrap();
    assert_eq!(&kept[..], b"hello");
}

#[tokio::test]
async fn objects_keep_what_they_were_given() {
    let shop = shop();
    let given = [("x-amz-meta-a", "b"), ("content-type", "text/plain")];
    let put = shop.ask(("PUT", "/lake/d/k"), &given, b"hello").await.fine();
    assert_eq!(put.headers["etag"], "\"5d41402abc4b2a76b9719d911017c592\"");
    let get = shop.ask(("GET", "/lake/d/k"), &[("range", "bytes=1-2")], b"").await.fine();
    assert_eq!((get.status.as_u16(), get.body.as_str()), (206, "el"));
    assert_eq!(get.headers["content-range"], "bytes 1-2/5");
    assert_eq!(get.headers["x-amz-meta-a"], "b");
    assert_eq!(get.headers["content-type"], "text/plain");
    // An engine replaces it: nothing of what was said of the old one stays.
    shop.buckets.put("lake", "d/k", "other".into()).await.unwrap();
    let get = shop.ask(("GET", "/lake/d/k"), &[], b"").await.fine();
    assert_eq!(get.headers["content-type"], "binary/octet-stream");
    assert!(!get.headers.contains_key("x-amz-meta-a"));

    let once = [("if-none-match", "*")];
    shop.ask(("PUT", "/lake/d/k"), &once, b"1").await.refused(412, "PreconditionFailed");
    let wrong = [("content-md5", "XUFAKrxLKna5cZ2REBfFkg==")];
    shop.ask(("PUT", "/lake/n"), &wrong, b"1").await.refused(400, "BadDigest");
    let wrong = [("x-amz-checksum-crc32", "AAAAAA==")];
    shop.ask(("PUT", "/lake/n"), &wrong, b"1").await.refused(400, "BadDigest");
    let class = [("x-amz-storage-class", "GLACIER")];
    shop.ask(("PUT", "/lake/n"), &class, b"1").await.refused(400, "InvalidStorageClass");
    shop.ask(("GET", "/lake/n"), &[], b"").await.refused(404, "NoSuchKey");
    shop.ask(("GET", "/none/n"), &[], b"").await.refused(404, "NoSuchBucket");
    shop.ask(("PUT", "/lake/d/k/sub"), &[], b"1").await.refused(400, "InvalidArgument");
}

#[tokio::test]
async fn every_key_stays_in_its_bucket() {
    let shop = shop();
    for key in ["a//b", "..", "../x", "a/../b", "folder/", "/lead", "x/./y"] {
        let target = format!("/lake/{key}");
        shop.ask(("PUT", &target), &[], key.as_bytes()).await.fine();
        assert_eq!(shop.ask(("GET", &target), &[], b"").await.fine().body, key);
        let listed = shop.ask(("GET", "/lake?list-type=2"), &[], b"").await.fine();
        assert!(listed.body.contains(&format!("<Key>{key}</Key>")), "{}", listed.body);
    }
    assert_eq!(shop.buckets.list_buckets().unwrap(), ["lake"]);
    assert!(shop.buckets.list("lake", "").await.unwrap().is_empty());
}

#[tokio::test]
async fn an_upload_in_parts_becomes_one_object() {
    let shop = shop();
    let begun = shop.ask(("POST", "/lake/big?uploads="), &[], b"").await.fine();
    let id = begun.body.split("<UploadId>").nth(1).unwrap().split('<').next().unwrap().to_owned();
    let mut list = String::new();
    let first = vec![7; 5 * 1024 * 1024];
    for (number, body) in [(1, &first[..]), (2, &b"end"[..])] {
        let target = format!("/lake/big?partNumber={number}&uploadId={id}");
        let part = shop.ask(("PUT", &target), &[], body).await.fine();
        let etag = part.headers["etag"].to_str().unwrap();
        list += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>");
    }
    assert!(shop.buckets.list("lake", "").await.unwrap().is_empty());
    let body = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
    let target = format!("/lake/big?uploadId={id}");
    let done = shop.ask(("POST", &target), &[], body.as_bytes()).await.fine();
    assert!(done.body.contains("-2"), "{}", done.body);
    assert_eq!(shop.buckets.get("lake", "big").await.unwrap().len(), first.len() + 3);
    shop.ask(("DELETE", &target), &[], b"").await.refused(404, "NoSuchUpload");
}

#[tokio::test]
async fn a_bucket_is_found_in_the_host_name() {
    let shop = shop();
    let host = [("host", "lake.localhost:9000")];
    shop.ask(("PUT", "/k"), &host, b"1").await.fine();
    assert_eq!(&shop.buckets.get("lake", "k").await.unwrap()[..], b"1");
    let head = shop.ask(("HEAD", "/"), &host, b"").await.fine();
    assert_eq!(head.headers["x-amz-bucket-region"], "eu-west-1");
}
