use std::sync::Arc;

use axum::body::Bytes;
use base::{ManualClock, Timestamp};
use http::Request;
use identity::{AccessKey, Secret, Session};
use serde_json::Value;

use crate::testing::{World, element};

type Answer = Result<String, (u16, String, String)>;

/// Sends a form through the door, signed with a key.
async fn call(world: &World, key: &AccessKey, form: &str) -> Answer {
    let request = Request::post("/")
        .header("content-type", "application/x-www-form-urlencoded; charset=utf-8")
        .body(Bytes::from(format!("Version=2011-06-15&Action={form}")))
        .unwrap();
    match world.knock(world.sign(key, "sts", request)).await {
        Ok(Value::String(xml)) => Ok(xml),
        Ok(other) => panic!("{other}"),
        Err(refused) => Err(refused),
    }
}

fn world() -> (World, AccessKey, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    let world = World::with_clock(clock.clone());
    let (id, _) = world.rooms.keys.root().unwrap();
    let key = world.rooms.keys.lookup(&id).unwrap();
    (world, key, clock)
}

/// The key that an answer hands over, as its client would use it.
fn handed_over(xml: &str, from: &AccessKey) -> AccessKey {
    AccessKey {
        id: element(xml, "AccessKeyId"),
        secret: Secret::new(element(xml, "SecretAccessKey")),
        session: Some(Session {
            token: Secret::new(element(xml, "SessionToken")),
            expires_at: Timestamp(0),
            parent: String::new(),
        }),
        ..from.clone()
    }
}

#[tokio::test]
async fn the_owner_is_a_session_of_a_role() {
    let (world, key, _) = world();
    let xml = call(&world, &key, "GetCallerIdentity").await.unwrap();
    assert!(xml.starts_with(
        "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <GetCallerIdentityResult><Arn>arn:aws:sts::123456789012:assumed-role/"
    ));
    assert_eq!(
        element(&xml, "Arn"),
        "arn:aws:sts::123456789012:assumed-role/ForebayExecutionRole/root"
    );
    assert_eq!(element(&xml, "Account"), "123456789012");
    let user = element(&xml, "UserId");
    assert!(user.starts_with("AROA") && user.ends_with(":root") && user.len() == 26, "{user}");
}

#[tokio::test]
async fn an_assumed_role_signs_until_it_ends() {
    let (world, key, clock) = world();
    let role = world.rooms.keys.role_arn();
    let xml = call(
        &world,
        &key,
        &format!("AssumeRole&RoleArn={role}&RoleSessionName=me%40home&DurationSeconds=1800&SourceIdentity=mia"),
    )
    .await
    .unwrap();
    assert_eq!(element(&xml, "Expiration"), "2023-11-14T22:43:20Z");
    assert_eq!(element(&xml, "SourceIdentity"), "mia");
    assert!(element(&xml, "AssumedRoleId").ends_with(":me@home"));
    let session = handed_over(&xml, &key);
    let xml = call(&world, &session, "GetCallerIdentity").await.unwrap();
    assert_eq!(
        element(&xml, "Arn"),
        "arn:aws:sts::123456789012:assumed-role/ForebayExecutionRole/me@home"
    );
    // From one role to the next for an hour at most, and no further token.
    let again = format!("AssumeRole&RoleArn={role}&RoleSessionName=me2");
    assert!(call(&world, &session, &again).await.is_ok());
    let (_, code, message) =
        call(&world, &session, &format!("{again}&DurationSeconds=3601")).await.unwrap_err();
    assert_eq!(code, "ValidationError", "{message}");
    let (status, code, _) = call(&world, &session, "GetSessionToken").await.unwrap_err();
    assert_eq!((status, code.as_str()), (403, "AccessDenied"));

    clock.advance(std::time::Duration::from_secs(1800));
    let (status, code, _) = call(&world, &session, "GetCallerIdentity").await.unwrap_err();
    assert_eq!((status, code.as_str()), (403, "ExpiredToken"));
}

#[tokio::test]
async fn a_session_token_is_the_callers_own() {
    let (world, key, _) = world();
    let xml = call(&world, &key, "GetSessionToken&DurationSeconds=900").await.unwrap();
    let session = handed_over(&xml, &key);
    let of = |xml: &str| (element(xml, "Arn"), element(xml, "UserId"));
    let (mine, its) = (
        call(&world, &key, "GetCallerIdentity").await.unwrap(),
        call(&world, &session, "GetCallerIdentity").await.unwrap(),
    );
    assert_eq!(of(&mine), of(&its));
    for id in [&key.id, &session.id] {
        let xml = call(&world, &key, &format!("GetAccessKeyInfo&AccessKeyId={id}")).await.unwrap();
        assert_eq!(element(&xml, "Account"), "123456789012");
    }
}

#[tokio::test]
async fn what_would_narrow_a_session_is_refused() {
    let (world, key, _) = world();
    let role = world.rooms.keys.role_arn();
    let assume = |more: &str| format!("AssumeRole&RoleArn={role}&RoleSessionName=me{more}");
    let cases = [
        (assume("&Policy=%7B%7D"), "ValidationError", "Policy"),
        (assume("&PolicyArns.member.1.arn=arn"), "ValidationError", "PolicyArns"),
        (assume("&Tags.member.1.Key=a&Tags.member.1.Value=b"), "ValidationError", "Tags"),
        (assume("&ExternalId=12"), "ValidationError", "ExternalId"),
        (assume("&TokenCode=123456"), "ValidationError", "TokenCode"),
        (assume("&Flavour=sweet"), "ValidationError", "Flavour"),
        (assume("&DurationSeconds=899"), "ValidationError", "899"),
        (assume("&DurationSeconds=43201"), "ValidationError", "43201"),
        (assume("&DurationSeconds=long"), "ValidationError", "long"),
        (assume("%2F"), "ValidationError", "RoleSessionName"),
        ("AssumeRole&RoleArn=x".to_owned(), "ValidationError", "RoleSessionName"),
        (
            "AssumeRole&RoleArn=arn:aws:iam::123456789012:role/none&RoleSessionName=me".to_owned(),
            "AccessDenied",
            "no such role",
        ),
        (
            // The path is part of the name.
            "AssumeRole&RoleArn=arn:aws:iam::123456789012:role/ForebayExecutionRole\
             &RoleSessionName=me"
                .to_owned(),
            "AccessDenied",
            "no such role",
        ),
        ("GetSessionToken&SerialNumber=1".to_owned(), "ValidationError", "SerialNumber"),
        ("GetSessionToken&DurationSeconds=129601".to_owned(), "ValidationError", "129600"),
        ("GetAccessKeyInfo&AccessKeyId=AKIANOBODY".to_owned(), "ValidationError", "AKIANOBODY"),
        ("DecodeAuthorizationMessage".to_owned(), "InvalidAction", "Decode"),
    ];
    for (form, code, words) in cases {
        let (_, given, message) = call(&world, &key, &form).await.unwrap_err();
        assert_eq!(given, code, "{form}: {message}");
        assert!(message.contains(words), "{form}: {message}");
    }
    // Asking for nothing is no question.
    assert!(call(&world, &key, &assume("&Policy=&ExternalId=")).await.is_ok());
}

#[tokio::test]
async fn a_deep_form_is_refused() {
    let (world, key, _) = world();
    let form = format!("AssumeRole&{}=1", ["a"; 1000].join("."));
    let (status, code, _) = call(&world, &key, &form).await.unwrap_err();
    assert_eq!((status, code.as_str()), (400, "MalformedInput"));
}
