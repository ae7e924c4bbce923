//! The door from outside: right and wrong signatures on every wire.

use std::sync::Arc;
use std::time::Duration;

use base::{Clock, ManualClock, Timestamp};
use http::Request as HttpRequest;
use identity::{AccessKey, KeyStatus, Secret};
use serde_json::Value;

use super::*;
use crate::front::{Addressee, Front};
use crate::testing::World;

const MISMATCH: &str = "The request signature we calculated does not match";
const INVALID: &str = "The security token included in the request is invalid.";

type Answer = Result<Value, (u16, String, String)>;

fn owner(world: &World) -> AccessKey {
    let (id, _) = world.rooms.keys.root().unwrap();
    world.rooms.keys.lookup(&id).unwrap()
}

/// A JSON call, a REST call and a form, each with the scope that it is signed for.
fn calls() -> [(&'static str, HttpRequest<Bytes>); 3] {
    let json = HttpRequest::post("/")
        .header("content-type", "application/x-amz-json-1.1")
        .header("x-amz-target", "AWSGlue.BoilTheOcean")
        .body(Bytes::from_static(b"{}"));
    let rest = HttpRequest::get("/boil/a%2Fb?the=ocean").body(Bytes::new());
    let form = HttpRequest::post("/")
        .header("content-type", "application/x-www-form-urlencoded; charset=utf-8")
        .body(Bytes::from_static(b"Action=BoilTheOcean&Version=2011-06-15"));
    [("glue", json.unwrap()), ("iot", rest.unwrap()), ("sts", form.unwrap())]
}

/// What each wire says of a request that passed the door and asks for nothing we have.
const PASSED: [(u16, &str); 3] = [
    (400, "UnknownOperationException"),
    (400, "UnknownOperationException"),
    (400, "InvalidAction"),
];

/// Signs each call, lets `change` do its worst, and wants these answers.
async fn expect(
    world: &World,
    key: &AccessKey,
    change: impl Fn(&mut HttpRequest<Bytes>),
    expected: [(u16, &str); 3],
    words: &str,
) {
    for ((scope, request), (status, code)) in calls().into_iter().zip(expected) {
        let mut request = world.sign(key, scope, request);
        change(&mut request);
        let answer: Answer = world.knock(request).await;
        let (given, named, message) = answer.unwrap_err();
        assert_eq!((given, named.as_str()), (status, code), "{scope}: {message}");
        assert!(message.replace("&quot;", "\"").contains(words), "{scope}: {message}");
        assert!(!message.contains(key.secret.expose()), "{message}");
    }
}

const WRONG: [(u16, &str); 3] = [
    (400, "InvalidSignatureException"),
    (403, "InvalidSignatureException"),
    (403, "SignatureDoesNotMatch"),
];
const UNKNOWN: [(u16, &str); 3] = [
    (400, "UnrecognizedClientException"),
    (403, "UnrecognizedClientException"),
    (403, "InvalidClientTokenId"),
];
const INCOMPLETE: [(u16, &str); 3] = [
    (400, "IncompleteSignatureException"),
    (400, "IncompleteSignatureException"),
    (400, "IncompleteSignature"),
];

#[tokio::test]
async fn a_right_signature_passes_and_a_changed_request_does_not() {
    let world = World::new();
    let key = owner(&world);
    expect(&world, &key, |_| {}, PASSED, "is not an operation of").await;
    let wrong = AccessKey { secret: Secret::new("x".repeat(40)), ..key.clone() };
    expect(&world, &wrong, |_| {}, WRONG, MISMATCH).await;
    let nobody = AccessKey { id: "AKIAIOSFODNN7EXAMPLE".into(), ..key.clone() };
    expect(&world, &nobody, |_| {}, UNKNOWN, INVALID).await;

    let body = |r: &mut HttpRequest<Bytes>| *r.body_mut() = Bytes::from_static(b"Action=X");
    expect(&world, &key, body, WRONG, MISMATCH).await;
    let path = |r: &mut HttpRequest<Bytes>| *r.uri_mut() = "/boil/c?the=ocean".parse().unwrap();
    expect(&world, &key, path, WRONG, MISMATCH).await;
    let query = |r: &mut HttpRequest<Bytes>| {
        *r.uri_mut() = format!("{}?the=sea", r.uri().path()).parse().unwrap();
    };
    expect(&world, &key, query, WRONG, MISMATCH).await;
    let host = |r: &mut HttpRequest<Bytes>| {
        r.headers_mut().insert("host", "elsewhere".parse().unwrap());
    };
    expect(&world, &key, host, WRONG, MISMATCH).await;
    let more = |r: &mut HttpRequest<Bytes>| {
        r.headers_mut().insert("x-amz-meta", "more".parse().unwrap());
    };
    expect(&world, &key, more, WRONG, "not signed: x-amz-meta").await;
    let signature = |r: &mut HttpRequest<Bytes>| {
        let value = r.headers()["authorization"].to_str().unwrap().to_owned();
        let (kept, _) = value.rsplit_once('=').unwrap();
        let value = format!("{kept}={}", "0".repeat(64));
        r.headers_mut().insert("authorization", value.parse().unwrap());
    };
    expect(&world, &key, signature, WRONG, MISMATCH).await;
    let hostless = |r: &mut HttpRequest<Bytes>| {
        let value = r.headers()["authorization"].to_str().unwrap().replace("host;", "");
        r.headers_mut().insert("authorization", value.parse().unwrap());
    };
    expect(&world, &key, hostless, WRONG, "'Host'").await;
    let dateless = |r: &mut HttpRequest<Bytes>| drop(r.headers_mut().remove("x-amz-date"));
    expect(&world, &key, dateless, INCOMPLETE, "'X-Amz-Date'").await;
}

#[tokio::test]
async fn a_signature_has_its_time() {
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    let world = World::with_clock(clock.clone());
    let key = owner(&world);
    let quarter = Duration::from_secs(901);
    let late = |_: &mut HttpRequest<Bytes>| clock.advance(quarter);
    expect(&world, &key, late, WRONG, "Signature expired: 2023").await;
    let ahead = Arc::new(ManualClock::at(Timestamp(1_800_000_000_000)));
    let later = World::with_clock(ahead);
    for (scope, request) in calls() {
        let request = later.sign(&key, scope, request);
        let (_, _, message) = world.knock(request).await.unwrap_err();
        assert!(message.contains("Signature not yet current: 2027"), "{message}");
    }
}

#[tokio::test]
async fn a_session_needs_its_own_token_and_ends() {
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    let world = World::with_clock(clock.clone());
    let (keys, root) = (world.rooms.keys.clone(), owner(&world));
    let issue = || keys.issue(&root.id, keys.owner(), Duration::from_secs(900)).unwrap();
    let (session, other) = (issue(), issue());
    expect(&world, &session, |_| {}, PASSED, "").await;

    let stolen = AccessKey { session: other.session.clone(), ..session.clone() };
    expect(&world, &stolen, |_| {}, UNKNOWN, INVALID).await;
    let without = AccessKey { session: None, ..session.clone() };
    expect(&world, &without, |_| {}, UNKNOWN, INVALID).await;
    let with = AccessKey { session: other.session, ..root.clone() };
    expect(&world, &with, |_| {}, UNKNOWN, INVALID).await;

    keys.set_status(&root.id, KeyStatus::Inactive).unwrap();
    expect(&world, &root, |_| {}, UNKNOWN, INVALID).await;
    expect(&world, &session, |_| {}, UNKNOWN, INVALID).await;
    keys.set_status(&root.id, KeyStatus::Active).unwrap();
    clock.advance(Duration::from_secs(900));
    let ended =
        [(400, "ExpiredTokenException"), (403, "ExpiredTokenException"), (403, "ExpiredToken")];
    expect(&world, &session, |_| {}, ended, "expired").await;
}

#[tokio::test]
async fn what_is_not_signed_is_not_served() {
    let world = World::new();
    let missing =
        [(400, "MissingAuthenticationTokenException"), (403, "MissingAuthenticationToken")];
    let [(_, json), _, (_, form)] = calls();
    for (request, (status, code)) in [json, form].into_iter().zip(missing) {
        let (parts, body) = request.into_parts();
        assert_eq!(Front::addressee(&parts), Addressee::Aws);
        let answer = world.knock(HttpRequest::from_parts(parts, body)).await.unwrap_err();
        assert_eq!(answer, (status, code.into(), "Missing Authentication Token".into()));
    }
    let key = owner(&world);
    let broken = |r: &mut HttpRequest<Bytes>| {
        r.headers_mut().insert("authorization", "AWS4-HMAC-SHA256 x".parse().unwrap());
    };
    let (status, code, message) = {
        let mut request = world.sign(&key, "glue", calls()[0].1.clone());
        broken(&mut request);
        world.knock(request).await.unwrap_err()
    };
    assert_eq!((status, code.as_str()), (400, "IncompleteSignatureException"), "{message}");

    let request = world.sign(&key, "mars", calls()[0].1.clone());
    let (_, code, message) = world.knock(request).await.unwrap_err();
    assert_eq!(code, "UnknownOperationException");
    assert!(message.contains("\"mars\""), "{message}");
}

#[tokio::test]
async fn a_presigned_address_is_served_until_it_ends() {
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    let world = World::with_clock(clock.clone());
    let key = owner(&world);
    let signer = sigv4::Signer {
        access_key_id: &key.id,
        secret: &key.secret,
        token: None,
        region: "us-east-1",
        service: "iot",
        rules: sigv4::SERVICE,
    };
    let bare = HttpRequest::get("/boil").header("host", "h").body(Bytes::new()).unwrap();
    let (parts, body) = bare.into_parts();
    let query = signer.query(&request(&parts, &body), clock.now(), Some(60));
    let knock = |query: String| {
        let request = HttpRequest::get(format!("/boil?{query}")).header("host", "h");
        world.knock(request.body(Bytes::new()).unwrap())
    };
    let (_, code, _) = knock(query.clone()).await.unwrap_err();
    assert_eq!(code, "UnknownOperationException");
    for changed in [format!("{query}&x=y"), query.replace("Expires=60", "Expires=61")] {
        let (status, code, message) = knock(changed).await.unwrap_err();
        assert_eq!((status, code.as_str()), (403, "InvalidSignatureException"), "{message}");
    }
    clock.advance(Duration::from_secs(60));
    let (_, _, message) = knock(query).await.unwrap_err();
    assert!(message.contains("Signature expired"), "{message}");
}

#[tokio::test]
async fn a_large_or_deep_body_is_refused() {
    let world = World::new();
    let key = owner(&world);
    let call = |body: Vec<u8>| {
        let request = HttpRequest::post("/").header("x-amz-target", "AWSGlue.GetTable");
        world.knock(world.sign(&key, "glue", request.body(Bytes::from(body)).unwrap()))
    };
    let (status, code, message) = call(vec![b' '; 6 << 20]).await.unwrap_err();
    assert_eq!((status, code.as_str()), (413, "RequestEntityTooLargeException"), "{message}");
}
