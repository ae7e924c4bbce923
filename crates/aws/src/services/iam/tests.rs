use axum::body::Bytes;
use http::Request;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::document::{Use, check};
use crate::fault::Code;
use crate::testing::{World, element};

type Answer = Result<String, (u16, String, String)>;

async fn call(world: &World, action: &str, members: &[(&str, &str)]) -> Answer {
    let mut form = format!("Action={action}&Version=2010-05-08");
    for (name, value) in members {
        form.push_str(&format!("&{name}={}", super::encoded(value)));
    }
    let request = Request::post("/")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Bytes::from(form))
        .unwrap();
    match world.http("iam", request).await {
        Ok(Value::String(xml)) => Ok(xml),
        Ok(other) => panic!("{other}"),
        Err(refused) => Err(refused),
    }
}

/// Wants this code and these words.
async fn refused(world: &World, action: &str, members: &[(&str, &str)], code: &str, words: &str) {
    let (_, given, message) = call(world, action, members).await.unwrap_err();
    assert_eq!(given, code, "{action}: {message}");
    assert!(message.contains(words), "{action}: {message}");
}

fn trust() -> String {
    json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Principal": {"Service": "glue.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }],
    })
    .to_string()
}

fn rights() -> String {
    let statement = json!({"Effect": "Allow", "Action": "s3:*", "Resource": "*"});
    json!({"Version": "2012-10-17", "Statement": statement}).to_string()
}

#[tokio::test]
async fn another_version_of_the_service_is_refused() {
    let world = World::new();
    for (form, words) in [
        ("Action=ListRoles&Version=2011-01-01", "version 2011-01-01"),
        ("Action=ListRoles", "NO_VERSION_SPECIFIED"),
    ] {
        let (_, code, message) = world
            .http("iam", Request::post("/").body(Bytes::from(form)).unwrap())
            .await
            .unwrap_err();
        assert_eq!(code, "InvalidAction");
        assert!(message.contains(words), "{message}");
    }
}

#[tokio::test]
async fn the_first_role_is_there_with_its_path() {
    let world = World::new();
    let xml = call(&world, "GetRole", &[("RoleName", "ForebayExecutionRole")]).await.unwrap();
    assert_eq!(
        element(&xml, "Arn"),
        "arn:aws:iam::123456789012:role/service-role/ForebayExecutionRole"
    );
    let id = element(&xml, "RoleId");
    assert!(world.rooms.keys.owner().user_id.starts_with(&id), "{id}");
    let document = element(&xml, "AssumeRolePolicyDocument");
    assert!(document.starts_with("%7B%22Version%22"), "{document}");
    let document = percent_decode_str(&document).decode_utf8().unwrap().into_owned();
    assert!(check(&document, Use::Trust, 2_048).is_ok());
    let name = [("RoleName", "ForebayExecutionRole")];
    refused(&world, "DeleteRole", &name, "UnmodifiableEntity", "act as it").await;
}

#[tokio::test]
async fn a_role_lives_and_ends() {
    let world = World::new();
    let trust = trust();
    let create = [
        ("RoleName", "glue-reader"),
        ("Path", "/team/"),
        ("AssumeRolePolicyDocument", trust.as_str()),
        ("Description", "reads & writes"),
        ("MaxSessionDuration", "7200"),
        ("Tags.member.1.Key", "team"),
        ("Tags.member.1.Value", "air"),
    ];
    let xml = call(&world, "CreateRole", &create).await.unwrap();
    assert_eq!(element(&xml, "Arn"), "arn:aws:iam::123456789012:role/team/glue-reader");
    assert_eq!(element(&xml, "MaxSessionDuration"), "7200");
    assert_eq!(element(&xml, "Description"), "reads &amp; writes");
    refused(&world, "CreateRole", &create, "EntityAlreadyExists", "already exists").await;
    let mut other = create;
    other[0].1 = "GLUE-Reader";
    refused(&world, "CreateRole", &other, "EntityAlreadyExists", "already exists").await;

    let name = ("RoleName", "glue-reader");
    call(&world, "UpdateRole", &[name, ("Description", "new")]).await.unwrap();
    call(&world, "TagRole", &[name, ("Tags.member.1.Key", "a"), ("Tags.member.1.Value", "b")])
        .await
        .unwrap();
    call(&world, "UntagRole", &[name, ("TagKeys.member.1", "team")]).await.unwrap();
    let xml = call(&world, "ListRoleTags", &[name]).await.unwrap();
    assert!(xml.contains("<Tags><member><Key>a</Key><Value>b</Value></member></Tags>"), "{xml}");
    let changed = trust.replace("glue", "sagemaker");
    call(&world, "UpdateAssumeRolePolicy", &[name, ("PolicyDocument", &changed)]).await.unwrap();
    let xml = call(&world, "GetRole", &[name]).await.unwrap();
    assert_eq!(element(&xml, "Description"), "new");
    assert!(element(&xml, "AssumeRolePolicyDocument").contains("sagemaker"));

    let xml = call(&world, "ListRoles", &[("PathPrefix", "/team/")]).await.unwrap();
    assert_eq!(xml.matches("<RoleName>").count(), 1);
    let xml = call(&world, "ListRoles", &[("MaxItems", "1")]).await.unwrap();
    assert_eq!(element(&xml, "IsTruncated"), "true");
    let marker = element(&xml, "Marker");
    let xml = call(&world, "ListRoles", &[("Marker", &marker)]).await.unwrap();
    assert_eq!(element(&xml, "RoleName"), "glue-reader");

    call(&world, "DeleteRole", &[name]).await.unwrap();
    refused(&world, "GetRole", &[name], "NoSuchEntity", "glue-reader").await;
    for action in ["DeleteRole", "ListRoleTags", "ListRolePolicies", "ListAttachedRolePolicies"] {
        refused(&world, action, &[name], "NoSuchEntity", "glue-reader").await;
    }
}

#[tokio::test]
async fn wrong_roles_are_refused() {
    let world = World::new();
    let trust = trust();
    let base = [("RoleName", "r"), ("AssumeRolePolicyDocument", trust.as_str())];
    let with = |name: &'static str, value: &'static str| {
        let mut members: Vec<(&str, &str)> =
            base.iter().copied().filter(|(given, _)| *given != name).collect();
        members.push((name, value));
        members
    };
    let cases = [
        (with("RoleName", "a b"), "ValidationError", "a b"),
        (with("Path", "team"), "ValidationError", "team"),
        (with("MaxSessionDuration", "60"), "ValidationError", "60"),
        (with("PermissionsBoundary", "arn:aws:iam::aws:policy/X"), "ValidationError", "Boundary"),
        (with("Colour", "red"), "ValidationError", "Colour"),
        (with("AssumeRolePolicyDocument", "{"), "MalformedPolicyDocument", "invalid Json"),
        (with("Tags.member.1.Key", "a"), "ValidationError", "Value"),
    ];
    for (members, code, words) in cases {
        refused(&world, "CreateRole", &members, code, words).await;
    }
    let mut tagged = with("Tags.member.1.Key", "aws:x");
    tagged.push(("Tags.member.1.Value", ""));
    refused(&world, "CreateRole", &tagged, "InvalidInput", "reserved").await;
}

#[tokio::test]
async fn policies_are_attached_and_hold_their_role() {
    let world = World::new();
    let (trust, rights) = (trust(), rights());
    let role = ("RoleName", "r");
    call(&world, "CreateRole", &[role, ("AssumeRolePolicyDocument", &trust)]).await.unwrap();
    let create = [("PolicyName", "p"), ("PolicyDocument", rights.as_str())];
    let xml = call(&world, "CreatePolicy", &create).await.unwrap();
    let ours = ("PolicyArn", "arn:aws:iam::123456789012:policy/p");
    assert_eq!(element(&xml, "Arn"), ours.1);
    refused(&world, "CreatePolicy", &create, "EntityAlreadyExists", "Duplicate").await;
    let of_aws = ("PolicyArn", "arn:aws:iam::aws:policy/service-role/AWSGlueServiceRole");
    for policy in [ours, of_aws, ours] {
        call(&world, "AttachRolePolicy", &[role, policy]).await.unwrap();
    }
    let none = ("PolicyArn", "arn:aws:iam::123456789012:policy/none");
    refused(&world, "AttachRolePolicy", &[role, none], "NoSuchEntity", "not attachable").await;
    let xml = call(&world, "ListAttachedRolePolicies", &[role]).await.unwrap();
    assert_eq!(xml.matches("<PolicyArn>").count(), 2);
    assert!(xml.contains("<PolicyName>AWSGlueServiceRole</PolicyName>"), "{xml}");
    let xml = call(&world, "GetPolicy", &[ours]).await.unwrap();
    assert_eq!(element(&xml, "AttachmentCount"), "1");
    refused(&world, "GetPolicy", &[of_aws], "NoSuchEntity", "by name only").await;
    refused(&world, "DeletePolicy", &[ours], "DeleteConflict", "attached").await;
    refused(&world, "DeleteRole", &[role], "DeleteConflict", "detach").await;
    call(&world, "DetachRolePolicy", &[role, of_aws]).await.unwrap();
    call(&world, "DetachRolePolicy", &[role, ours]).await.unwrap();
    refused(&world, "DetachRolePolicy", &[role, ours], "NoSuchEntity", "not found").await;

    let inline = ("PolicyName", "own");
    call(&world, "PutRolePolicy", &[role, inline, ("PolicyDocument", &rights)]).await.unwrap();
    let xml = call(&world, "ListRolePolicies", &[role]).await.unwrap();
    assert!(xml.contains("<PolicyNames><member>own</member></PolicyNames>"), "{xml}");
    let xml = call(&world, "GetRolePolicy", &[role, inline]).await.unwrap();
    assert_eq!(element(&xml, "PolicyDocument"), super::encoded(&rights));
    refused(&world, "DeleteRole", &[role], "DeleteConflict", "delete policies").await;
    call(&world, "DeleteRolePolicy", &[role, inline]).await.unwrap();
    refused(&world, "GetRolePolicy", &[role, inline], "NoSuchEntity", "own").await;
    call(&world, "DeleteRole", &[role]).await.unwrap();
    call(&world, "DeletePolicy", &[ours]).await.unwrap();
    refused(&world, "GetPolicy", &[ours], "NoSuchEntity", "not found").await;
}

#[tokio::test]
async fn a_policy_has_five_versions() {
    let world = World::new();
    let rights = rights();
    let document = ("PolicyDocument", rights.as_str());
    call(&world, "CreatePolicy", &[("PolicyName", "p"), document]).await.unwrap();
    let arn = ("PolicyArn", "arn:aws:iam::123456789012:policy/p");
    for number in 2..=5 {
        let xml = call(&world, "CreatePolicyVersion", &[arn, document]).await.unwrap();
        assert_eq!(element(&xml, "VersionId"), format!("v{number}"));
        assert_eq!(element(&xml, "IsDefaultVersion"), "false");
    }
    refused(&world, "CreatePolicyVersion", &[arn, document], "LimitExceeded", "up to 5").await;
    let v2 = ("VersionId", "v2");
    call(&world, "SetDefaultPolicyVersion", &[arn, v2]).await.unwrap();
    refused(&world, "DeletePolicyVersion", &[arn, v2], "DeleteConflict", "default").await;
    refused(&world, "DeletePolicy", &[arn], "DeleteConflict", "more than one").await;
    for old in ["v1", "v3", "v4", "v5"] {
        call(&world, "DeletePolicyVersion", &[arn, ("VersionId", old)]).await.unwrap();
    }
    refused(&world, "GetPolicyVersion", &[arn, ("VersionId", "v1")], "NoSuchEntity", "v1").await;
    let xml = call(&world, "GetPolicyVersion", &[arn, v2]).await.unwrap();
    assert_eq!(element(&xml, "Document"), super::encoded(&rights));
    // A number is never used again.
    let again = [arn, document, ("SetAsDefault", "true")];
    let xml = call(&world, "CreatePolicyVersion", &again).await.unwrap();
    assert_eq!(
        (element(&xml, "VersionId").as_str(), &*element(&xml, "IsDefaultVersion")),
        ("v6", "true")
    );
    let xml = call(&world, "ListPolicyVersions", &[arn]).await.unwrap();
    assert_eq!(xml.matches("<VersionId>").count(), 2);

    let tag = [arn, ("Tags.member.1.Key", "a"), ("Tags.member.1.Value", "b")];
    call(&world, "TagPolicy", &tag).await.unwrap();
    assert_eq!(element(&call(&world, "ListPolicyTags", &[arn]).await.unwrap(), "Key"), "a");
    call(&world, "UntagPolicy", &[arn, ("TagKeys.member.1", "a")]).await.unwrap();
    for (members, count) in [
        (vec![], 1),
        (vec![("Scope", "Local")], 1),
        (vec![("Scope", "AWS")], 0),
        (vec![("OnlyAttached", "true")], 0),
        (vec![("PathPrefix", "/x/")], 0),
        (vec![("PolicyUsageFilter", "PermissionsBoundary")], 0),
    ] {
        let xml = call(&world, "ListPolicies", &members).await.unwrap();
        assert_eq!(xml.matches("<PolicyName>").count(), count, "{members:?}");
    }
}

#[tokio::test]
async fn keys_are_changed_one_for_another() {
    let world = World::new();
    let (first, _) = world.rooms.keys.root().unwrap();
    let xml = call(&world, "CreateAccessKey", &[]).await.unwrap();
    let second = element(&xml, "AccessKeyId");
    let secret = element(&xml, "SecretAccessKey");
    assert_eq!(world.rooms.keys.secret(&second).unwrap().expose(), secret);
    refused(&world, "CreateAccessKey", &[], "LimitExceeded", "AccessKeysPerUser: 2").await;
    let off = [("AccessKeyId", first.as_str()), ("Status", "Inactive")];
    call(&world, "UpdateAccessKey", &off).await.unwrap();
    let xml = call(&world, "ListAccessKeys", &[("UserName", "root")]).await.unwrap();
    assert_eq!(xml.matches("<AccessKeyId>").count(), 2);
    assert_eq!(xml.matches("<Status>Inactive</Status>").count(), 1);
    assert!(!xml.contains(&secret));
    call(&world, "DeleteAccessKey", &[("AccessKeyId", &first)]).await.unwrap();
    refused(&world, "DeleteAccessKey", &[("AccessKeyId", &first)], "NoSuchEntity", &first).await;
    refused(
        &world,
        "UpdateAccessKey",
        &[("AccessKeyId", &second), ("Status", "Off")],
        "ValidationError",
        "Off",
    )
    .await;
    refused(&world, "ListAccessKeys", &[("UserName", "mia")], "NoSuchEntity", "mia").await;
    let xml = call(&world, "GetUser", &[]).await.unwrap();
    assert_eq!(element(&xml, "Arn"), "arn:aws:iam::123456789012:root");
}

#[test]
fn documents_have_a_form() {
    let one = |members: Value| json!({"Version": "2012-10-17", "Statement": [members]});
    let allow = |more: Value| {
        let mut statement = json!({"Effect": "Allow", "Action": "s3:Get*", "Resource": "*"});
        let members = statement.as_object_mut().unwrap();
        for (name, value) in more.as_object().unwrap() {
            match value.is_null() {
                true => drop(members.remove(name)),
                false => drop(members.insert(name.clone(), value.clone())),
            }
        }
        one(statement)
    };
    let right = [
        allow(json!({})),
        allow(json!({"Sid": "One", "Action": ["s3:*", "*"], "Resource": ["arn:aws:s3:::b/*"]})),
        allow(json!({"Action": null, "NotAction": "iam:*"})),
        allow(json!({"Condition": {"StringEquals": {"aws:username": "mia"}}})),
    ];
    for policy in right {
        check(&policy.to_string(), Use::Rights, 6_144).unwrap();
    }
    let wrong = [
        (json!([]), "not a JSON object"),
        (json!({"Version": "2012-10-17"}), "no Statement"),
        (json!({"Version": "2012-10-17", "Statement": []}), "no Statement"),
        (json!({"Version": "2013-10-17", "Statement": []}), "2013-10-17"),
        (json!({"Statements": []}), "Statements"),
        (one(json!(1)), "not an object"),
        (allow(json!({"Effect": "allow"})), "Effect"),
        (allow(json!({"Action": null})), "must contain actions"),
        (allow(json!({"Action": "read"})), "vendor:action"),
        (allow(json!({"Action": []})), "vendor:action"),
        (allow(json!({"NotAction": "s3:*"})), "both Action and NotAction"),
        (allow(json!({"Resource": null})), "must contain resources"),
        (allow(json!({"Resource": "bucket"})), "ARN format"),
        (allow(json!({"Principal": "*"})), "should not specify a principal"),
        (allow(json!({"Sid": "a-b"})), "alpha-numeric"),
        (allow(json!({"Condition": []})), "Condition"),
        (allow(json!({"Colour": "red"})), "Colour"),
    ];
    for (policy, words) in wrong {
        let fault = check(&policy.to_string(), Use::Rights, 6_144).unwrap_err();
        assert_eq!(fault.code, Code::Named("MalformedPolicyDocument", 400), "{policy}");
        assert!(fault.message.contains(words), "{policy}: {}", fault.message);
    }
    let trusted = |principal: Value| {
        one(json!({"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}))
    };
    check(&trusted(json!({"AWS": ["arn:aws:iam::1:root"]})).to_string(), Use::Trust, 2_048)
        .unwrap();
    let wrong = [
        (trusted(json!({"Cloud": "x"})), "Cloud"),
        (trusted(json!("me")), "Invalid principal"),
        (trusted(json!({})), "Invalid principal"),
        (allow(json!({})), "prohibited field Resource"),
        (allow(json!({"Resource": null})), "required field Principal"),
    ];
    for (policy, words) in wrong {
        let fault = check(&policy.to_string(), Use::Trust, 2_048).unwrap_err();
        assert!(fault.message.contains(words), "{policy}: {}", fault.message);
    }
    let long = allow(json!({"Sid": "x".repeat(7_000)})).to_string();
    let fault = check(&long, Use::Rights, 6_144).unwrap_err();
    assert_eq!(fault.code, Code::Named("LimitExceeded", 409));
}
