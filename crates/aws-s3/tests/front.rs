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
        let message = self.body.split("<Message>").nth(1).and_then(|it| it.split('<').next());
        assert!(message.is_some_and(|message| message.len() > 10), "{told}");
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
    shop.ask(("GET", "/no/n"), &[], b"").await.refused(400, "InvalidBucketName");
    let long = format!("/lake/{}", "k".repeat(1025));
    shop.ask(("GET", &long), &[], b"").await.refused(400, "KeyTooLongError");
    shop.ask(("GET", "/lake?analytics"), &[], b"").await.refused(501, "NotImplemented");
    // An object beneath another is one by itself.
    shop.ask(("PUT", "/lake/d/k/sub"), &[], b"beneath").await.fine();
    assert_eq!(shop.ask(("GET", "/lake/d/k/sub"), &[], b"").await.fine().body, "beneath");
    assert_eq!(shop.ask(("GET", "/lake/d/k"), &[], b"").await.fine().body, "other");
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
async fn a_form_of_nobody_or_of_a_stranger_is_refused() {
    let shop = shop();
    let post = async |fields: &[(&str, &str)]| {
        let mut form = String::new();
        for (name, value) in fields.iter().chain(&[("file", "bytes")]) {
            form += &format!(
                "--edge\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
            );
        }
        let request = Request::builder()
            .method("POST")
            .uri("/lake")
            .header("host", "127.0.0.1:1")
            .header("content-type", "multipart/form-data; boundary=edge")
            .body(Body::from(form + "--edge--\r\n"));
        shop.send(request.unwrap()).await
    };
    post(&[("key", "k")]).await.refused(403, "AccessDenied");
    let signed = [("key", "k"), ("policy", "e30="), ("Signature", "AAAA")];
    let stranger = [&signed[..], &[("AWSAccessKeyId", "AKIANOBODY")]].concat();
    post(&stranger).await.refused(403, "InvalidAccessKeyId");
    let forged = [&signed[..], &[("awsAccessKeyID", "AKIATEST")]].concat();
    post(&forged).await.refused(403, "SignatureDoesNotMatch");
    assert!(shop.buckets.list("lake", "").await.unwrap().is_empty());
}

impl Shop {
    /// Begins an upload under a key.
    async fn begin(&self, key: &str) -> String {
        let begun = self.ask(("POST", &format!("/lake/{key}?uploads=")), &[], b"").await.fine();
        begun.body.split("<UploadId>").nth(1).unwrap().split('<').next().unwrap().to_owned()
    }

    /// Puts one part and tells its line of the list that completes the upload.
    async fn part(&self, (key, id): (&str, &str), number: u32, body: &[u8]) -> String {
        let target = format!("/lake/{key}?partNumber={number}&uploadId={id}");
        let part = self.ask(("PUT", &target), &[], body).await.fine();
        let etag = part.headers["etag"].to_str().unwrap();
        format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
    }

    async fn complete(&self, (key, id): (&str, &str), list: &str) -> Answer {
        let body = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
        self.ask(("POST", &format!("/lake/{key}?uploadId={id}")), &[], body.as_bytes()).await
    }

    async fn abort(&self, (key, id): (&str, &str)) -> Answer {
        self.ask(("DELETE", &format!("/lake/{key}?uploadId={id}")), &[], b"").await
    }

    /// Files below the uploads of the bucket.
    fn upload_files(&self) -> usize {
        let uploads = self._folder.path().join(".s3/lake/uploads");
        let Ok(folders) = std::fs::read_dir(uploads) else { return 0 };
        folders.map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count()).sum()
    }
}

#[tokio::test]
async fn o7_a_lost_part_is_named_and_a_second_completion_changes_nothing() {
    let shop = shop();
    let id = shop.begin("k").await;
    let upload = ("k", id.as_str());
    let first = vec![1; 5 * 1024 * 1024];
    let one = shop.part(upload, 1, &first).await;
    let two = shop.part(upload, 2, b"end").await;
    let lost = two.replace(">2<", ">3<");
    shop.complete(upload, &(one.clone() + &lost)).await.refused(400, "InvalidPart");
    std::fs::remove_file(shop._folder.path().join(format!(".s3/lake/uploads/{id}/00002"))).unwrap();
    shop.complete(upload, &(one.clone() + &two)).await.refused(400, "InvalidPart");
    assert!(shop.buckets.list("lake", "").await.unwrap().is_empty(), "something became visible");
    // The client sends it again, and completes; its answer is lost and it asks again.
    let list = one + &shop.part(upload, 2, b"end").await;
    let told = shop.complete(upload, &list).await.fine().body;
    assert_eq!(shop.complete(upload, &list).await.fine().body, told);
    assert_eq!(shop.upload_files(), 0);
    // Not once the object is another: the upload is of the past.
    shop.ask(("PUT", "/lake/k"), &[], b"newer").await.fine();
    shop.complete(upload, &list).await.refused(404, "NoSuchUpload");
    assert_eq!(&shop.buckets.get("lake", "k").await.unwrap()[..], b"newer");
    let target = format!("/lake/k?partNumber=3&uploadId={id}");
    shop.ask(("PUT", &target), &[], b"late").await.refused(404, "NoSuchUpload");
    assert_eq!(shop.upload_files(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn o7_parts_completions_and_aborts_race_and_leave_all_or_nothing() {
    let shop = shop();
    let (mut objects, mut aborted) = (0, 0);
    for round in 0..20_u8 {
        let key = format!("race/{round}");
        let id = shop.begin(&key).await;
        let upload = (key.as_str(), id.as_str());
        let body = vec![round; 300_000];
        let list = shop.part(upload, 1, &body).await;
        let late = format!("/lake/{key}?partNumber=2&uploadId={id}");
        let ends = [shop.complete(upload, &list), shop.complete(upload, &list)];
        let abort = async {
            // Sooner and later, so that either may win.
            tokio::time::sleep(std::time::Duration::from_micros(u64::from(round) * 300)).await;
            shop.abort(upload).await
        };
        let late = shop.ask(("PUT", &late), &[], b"late");
        let (ends, abort, late) = futures::join!(futures::future::join_all(ends), abort, late);
        let completed = ends.iter().filter(|end| end.status.is_success()).count();
        let gone = |answer: &Answer| answer.body.contains("<Code>NoSuchUpload</Code>");
        assert!(ends.iter().all(|end| end.status.is_success() || gone(end)), "{}", ends[0].body);
        assert!(late.status.is_success() || gone(&late), "{}", late.body);
        match abort.status.is_success() {
            true => {
                assert_eq!(completed, 0, "an aborted upload became an object");
                assert!(shop.buckets.head("lake", &key).await.is_err());
                aborted += 1;
            }
            false => {
                assert!(gone(&abort) && completed == 2, "{completed} {}", abort.body);
                assert_eq!(shop.buckets.get("lake", &key).await.unwrap(), body);
                objects += 1;
            }
        }
        assert_eq!(shop.upload_files(), 0, "parts were left over");
    }
    assert_eq!(objects + aborted, 20);
}

#[tokio::test]
async fn o7_parts_that_nobody_wants_are_swept_after_a_week_of_rest() {
    let shop = shop();
    let id = shop.begin("k").await;
    let list = shop.part(("k", &id), 1, b"part").await;
    // A part whose upload is gone, as a crash could leave it.
    let orphan = shop._folder.path().join(".s3/lake/uploads/0123");
    std::fs::create_dir(&orphan).unwrap();
    std::fs::write(orphan.join("00001"), b"part").unwrap();
    let day = 24 * 60 * 60 * 1_000;
    let in_days = |days: i64| Timestamp(SystemClock.now().millis() + days * day);
    assert_eq!(aws_s3::UPLOAD_IDLE_DAYS_MAX, 7);
    assert_eq!(shop.front.sweep_uploads(in_days(6)).unwrap(), 0);
    assert_eq!(shop.upload_files(), 3);
    assert_eq!(shop.front.sweep_uploads(in_days(8)).unwrap(), 2);
    assert_eq!(shop.upload_files(), 0);
    shop.complete(("k", &id), &list).await.refused(404, "NoSuchUpload");
    assert_eq!(shop.front.sweep_uploads(in_days(8)).unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn d2_a_lister_that_reads_what_it_finds_sees_only_whole_objects() {
    let shop = Arc::new(shop());
    // Each object is one byte, many times; its length says which.
    let body = |n: usize| vec![u8::try_from(n % 251).unwrap(); 100_000 + n];
    let writer = {
        let shop = shop.clone();
        tokio::spawn(async move {
            for n in 0..60 {
                let key = format!("o/{}", n % 4);
                match n % 3 {
                    0 => {
                        drop(shop.ask(("PUT", &format!("/lake/{key}")), &[], &body(n)).await.fine())
                    }
                    1 => {
                        let id = shop.begin(&key).await;
                        let list = shop.part((&key, &id), 1, &body(n)).await;
                        shop.complete((&key, &id), &list).await.fine();
                    }
                    _ => drop(shop.buckets.put("lake", &key, body(n).into()).await.unwrap()),
                }
            }
        })
    };
    let (mut reads, mut most) = (0, 0);
    while !writer.is_finished() {
        let page = shop.ask(("GET", "/lake?list-type=2&prefix=o%2F"), &[], b"").await.fine().body;
        let keys: Vec<&str> =
            page.split("<Key>").skip(1).map(|rest| rest.split('<').next().unwrap()).collect();
        assert!(keys.len() >= most, "an object vanished while it was replaced");
        most = keys.len();
        for key in keys {
            let target = format!("/lake/{key}");
            let request = signed(("AKIATEST", None, SystemClock.now()), ("GET", &target), &[], b"");
            let answer = shop.front.handle(request).await;
            assert!(answer.status().is_success(), "{key}: {}", answer.status());
            let told: usize = answer.headers()["content-length"].to_str().unwrap().parse().unwrap();
            let read = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
            assert!(read == body(told - 100_000), "{key} is torn");
            reads += 1;
        }
    }
    writer.await.unwrap();
    assert!(most == 4 && reads > 10, "{reads} reads of {most} objects prove nothing");
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
