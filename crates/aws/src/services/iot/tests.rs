//! The control plane through its front.

mod endpoints;
mod registering;

use axum::body::Bytes;
use http::Request;
use serde_json::{Value, json};

use crate::testing::World;

type Answer = Result<Value, (u16, String, String)>;

async fn call(world: &World, method: &str, path: &str, body: Value) -> Answer {
    with(world, method, path, ("x-none", ""), body).await
}

async fn with(
    world: &World,
    method: &str,
    path: &str,
    header: (&str, &str),
    body: Value,
) -> Answer {
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let request =
        Request::builder().method(method).uri(path).header(header.0, header.1).body(body).unwrap();
    world.http("iot", request).await
}

/// Asserts status and code; gives the message.
fn refused(answer: Answer, status: u16, code: &str) -> String {
    let (found, name, message) = answer.unwrap_err();
    assert_eq!((found, name.as_str()), (status, code), "{message}");
    message
}

fn encoded(arn: &str) -> String {
    arn.replace(':', "%3A").replace('/', "%2F")
}

#[tokio::test]
async fn things_types_and_groups() {
    let world = World::new();
    let w = &world;
    let attributes = json!({ "attributes": { "site": "a" } });
    let thing = json!({ "thingTypeName": "sensor", "attributePayload": attributes });
    refused(call(w, "POST", "/things/t", thing.clone()).await, 404, "ResourceNotFoundException");
    let made = call(
        w,
        "POST",
        "/thing-types/sensor",
        json!({ "thingTypeProperties": {
        "thingTypeDescription": "d", "searchableAttributes": ["site"] },
        "tags": [{ "Key": "k", "Value": "v" }] }),
    )
    .await
    .unwrap();
    let arn = made["thingTypeArn"].as_str().unwrap();
    assert_eq!(arn, "arn:aws:iot:us-east-1:123456789012:thingtype/sensor");
    let tags = call(w, "GET", &format!("/tags?resourceArn={}", encoded(arn)), Value::Null).await;
    assert_eq!(tags.unwrap()["tags"], json!([{ "Key": "k", "Value": "v" }]));
    call(w, "POST", "/untag", json!({ "resourceArn": arn, "tagKeys": ["k"] })).await.unwrap();
    let made = call(w, "POST", "/things/t", thing.clone()).await.unwrap();
    assert_eq!(call(w, "POST", "/things/t", thing).await.unwrap(), made);
    refused(call(w, "POST", "/things/t", json!({})).await, 409, "ResourceAlreadyExistsException");
    let billing = json!({ "billingGroupName": "b" });
    let message =
        refused(call(w, "POST", "/things/u", billing).await, 400, "InvalidRequestException");
    assert!(message.contains("billingGroupName"), "{message}");
    call(w, "POST", "/things/u", json!({})).await.unwrap();
    let seen = call(w, "GET", "/things/t", Value::Null).await.unwrap();
    assert_eq!(
        (&seen["thingTypeName"], &seen["version"], &seen["defaultClientId"]),
        (&json!("sensor"), &json!(1), &json!("t"))
    );
    let update = json!({ "attributePayload": { "attributes": { "b": "2" }, "merge": true },
        "expectedVersion": 1 });
    call(w, "PATCH", "/things/t", update.clone()).await.unwrap();
    refused(call(w, "PATCH", "/things/t", update).await, 409, "VersionConflictException");
    for (query, names) in [
        ("", vec!["t", "u"]),
        ("?attributeName=site&attributeValue=a", vec!["t"]),
        ("?attributeName=site&attributeValue=x", vec![]),
        ("?thingTypeName=sensor", vec!["t"]),
        ("?maxResults=1", vec!["t"]),
    ] {
        let page = call(w, "GET", &format!("/things{query}"), Value::Null).await.unwrap();
        let listed: Vec<&str> = page["things"]
            .as_array()
            .unwrap()
            .iter()
            .map(|thing| thing["thingName"].as_str().unwrap())
            .collect();
        assert_eq!(listed, names, "{query}");
        assert_eq!(page.get("nextToken").is_some(), query == "?maxResults=1");
    }
    refused(
        call(w, "GET", "/things?maxResults=0", Value::Null).await,
        400,
        "InvalidRequestException",
    );

    call(w, "POST", "/thing-groups/g", json!({})).await.unwrap();
    call(w, "POST", "/thing-groups/h", json!({ "parentGroupName": "g" })).await.unwrap();
    let member = json!({ "thingGroupName": "h", "thingName": "t" });
    call(w, "PUT", "/thing-groups/addThingToThingGroup", member.clone()).await.unwrap();
    let things =
        call(w, "GET", "/thing-groups/g/things?recursive=true", Value::Null).await.unwrap();
    assert_eq!(things["things"], json!(["t"]));
    let groups = call(w, "GET", "/things/t/thing-groups", Value::Null).await.unwrap();
    assert_eq!(groups["thingGroups"][0]["groupName"], "h");
    let seen = call(w, "GET", "/thing-groups/h", Value::Null).await.unwrap();
    let path = &seen["thingGroupMetadata"]["rootToParentThingGroups"];
    assert_eq!(path[0]["groupName"], "g");
    call(w, "PUT", "/thing-groups/removeThingFromThingGroup", member).await.unwrap();
    refused(
        call(w, "DELETE", "/thing-groups/g", Value::Null).await,
        400,
        "InvalidRequestException",
    );
    call(w, "DELETE", "/thing-groups/h", Value::Null).await.unwrap();
    refused(
        call(w, "DELETE", "/thing-types/sensor", Value::Null).await,
        400,
        "InvalidRequestException",
    );
    call(w, "POST", "/thing-types/sensor/deprecate", json!({})).await.unwrap();
    let seen = call(w, "GET", "/thing-types/sensor", Value::Null).await.unwrap();
    assert_eq!(seen["thingTypeMetadata"]["deprecated"], true);
    call(w, "DELETE", "/things/t", Value::Null).await.unwrap();
    refused(call(w, "GET", "/things/t", Value::Null).await, 404, "ResourceNotFoundException");
}

#[tokio::test]
async fn certificates_and_what_they_are_attached_to() {
    let world = World::new();
    let w = &world;
    let keys =
        call(w, "POST", "/keys-and-certificate?setAsActive=true", Value::Null).await.unwrap();
    let (id, arn) =
        (keys["certificateId"].as_str().unwrap(), keys["certificateArn"].as_str().unwrap());
    assert_eq!((id.len(), arn.ends_with(id)), (64, true));
    assert!(keys["keyPair"]["PrivateKey"].as_str().unwrap().contains("PRIVATE KEY"));
    assert!(keys["keyPair"]["PublicKey"].as_str().unwrap().contains("PUBLIC KEY"));
    let one = format!("/certificates/{id}");
    let seen = call(w, "GET", &one, Value::Null).await.unwrap()["certificateDescription"].clone();
    assert_eq!(
        (&seen["status"], &seen["certificatePem"]),
        (&json!("ACTIVE"), &keys["certificatePem"])
    );
    assert!(seen["validity"]["notAfter"].as_f64() > seen["validity"]["notBefore"].as_f64());
    assert!(!seen.to_string().contains("PRIVATE"));
    call(w, "POST", "/things/t", json!({})).await.unwrap();
    let principal = ("x-amzn-principal", arn);
    with(w, "PUT", "/things/t/principals", principal, Value::Null).await.unwrap();
    let listed = call(w, "GET", "/things/t/principals", Value::Null).await.unwrap();
    assert_eq!(listed["principals"], json!([arn]));
    let things = with(w, "GET", "/principals/things", principal, Value::Null).await.unwrap();
    assert_eq!(things["things"], json!(["t"]));
    refused(call(w, "DELETE", "/things/t", Value::Null).await, 400, "InvalidRequestException");

    let document = json!({ "Version": "2012-10-17", "Statement": [{ "Effect": "Allow",
        "Action": "iot:Connect", "Resource": "*" }] })
    .to_string();
    let body = json!({ "policyDocument": document });
    let made = call(w, "POST", "/policies/p", body.clone()).await.unwrap();
    assert_eq!(
        (&made["policyVersionId"], &made["policyDocument"]),
        (&json!("1"), &json!(document))
    );
    refused(
        call(w, "POST", "/policies/p", body.clone()).await,
        409,
        "ResourceAlreadyExistsException",
    );
    let bad = json!({ "policyDocument": "nonsense" });
    refused(call(w, "POST", "/policies/q", bad).await, 400, "MalformedPolicyException");
    for version in 2..=5 {
        let path = format!("/policies/p/version?setAsDefault={}", version == 3);
        let made = call(w, "POST", &path, body.clone()).await.unwrap();
        assert_eq!(made["policyVersionId"], version.to_string());
    }
    refused(
        call(w, "POST", "/policies/p/version", body).await,
        409,
        "VersionsLimitExceededException",
    );
    assert_eq!(call(w, "GET", "/policies/p", Value::Null).await.unwrap()["defaultVersionId"], "3");
    refused(
        call(w, "DELETE", "/policies/p/version/3", Value::Null).await,
        409,
        "DeleteConflictException",
    );
    refused(
        call(w, "GET", "/policies/p/version/9", Value::Null).await,
        404,
        "ResourceNotFoundException",
    );
    call(w, "PATCH", "/policies/p/version/1", Value::Null).await.unwrap();
    for version in 2..=5 {
        call(w, "DELETE", &format!("/policies/p/version/{version}"), Value::Null).await.unwrap();
    }
    let versions = call(w, "GET", "/policies/p/version", Value::Null).await.unwrap();
    assert_eq!(versions["policyVersions"].as_array().unwrap().len(), 1);

    call(w, "PUT", "/target-policies/p", json!({ "target": arn })).await.unwrap();
    let path = format!("/attached-policies/{}", encoded(arn));
    let attached = call(w, "POST", &path, json!({})).await.unwrap();
    assert_eq!(attached["policies"][0]["policyName"], "p");
    let targets = call(w, "POST", "/policy-targets/p", Value::Null).await.unwrap();
    assert_eq!(targets["targets"], json!([arn]));
    let older = ("x-amzn-iot-principal", arn);
    let attached = with(w, "GET", "/principal-policies", older, Value::Null).await.unwrap();
    assert_eq!(attached["policies"][0]["policyName"], "p");
    let named = ("x-amzn-iot-policy", "p");
    let principals = with(w, "GET", "/policy-principals", named, Value::Null).await.unwrap();
    assert_eq!(principals["principals"], json!([arn]));
    let effective = call(w, "POST", "/effective-policies?thingName=t", json!({})).await.unwrap();
    assert_eq!(effective["effectivePolicies"][0]["policyDocument"], document);
    refused(call(w, "DELETE", "/policies/p", Value::Null).await, 409, "DeleteConflictException");
    let stranger = json!({ "target": "arn:aws:iot:us-east-1:123456789012:cert/00" });
    refused(call(w, "PUT", "/target-policies/p", stranger).await, 404, "ResourceNotFoundException");
    let group = json!({ "target": "arn:aws:iot:us-east-1:123456789012:thinggroup/g" });
    refused(call(w, "PUT", "/target-policies/p", group).await, 400, "InvalidRequestException");

    refused(call(w, "DELETE", &one, Value::Null).await, 406, "CertificateStateException");
    call(w, "PUT", &format!("{one}?newStatus=INACTIVE"), Value::Null).await.unwrap();
    refused(call(w, "DELETE", &one, Value::Null).await, 409, "DeleteConflictException");
    with(w, "DELETE", "/principal-policies/p", older, Value::Null).await.unwrap();
    with(w, "DELETE", "/things/t/principals", principal, Value::Null).await.unwrap();
    call(w, "DELETE", &one, Value::Null).await.unwrap();
    refused(call(w, "GET", &one, Value::Null).await, 404, "ResourceNotFoundException");
    call(w, "DELETE", "/policies/p", Value::Null).await.unwrap();
}

#[tokio::test]
async fn certificates_are_listed_both_ways_and_made_from_requests() {
    let world = World::new();
    let w = &world;
    for _ in 0..3 {
        call(w, "POST", "/keys-and-certificate", Value::Null).await.unwrap();
    }
    let ids = |page: &Value| -> Vec<String> {
        let rows = page["certificates"].as_array().unwrap().iter();
        rows.map(|row| row["certificateId"].as_str().unwrap().to_owned()).collect()
    };
    let page = call(w, "GET", "/certificates?pageSize=2", Value::Null).await.unwrap();
    let marker = page["nextMarker"].as_str().unwrap().replace('=', "%3D").replace('+', "%2B");
    let path = format!("/certificates?pageSize=2&marker={marker}");
    let rest = call(w, "GET", &path, Value::Null).await.unwrap();
    let all = [ids(&page), ids(&rest)].concat();
    assert_eq!((all.len(), rest.get("nextMarker")), (3, None));
    let status = call(w, "GET", &format!("/certificates/{}", all[0]), Value::Null).await.unwrap();
    assert_eq!(status["certificateDescription"]["status"], "INACTIVE");
    let csr = json!({ "certificateSigningRequest": "nonsense" });
    refused(call(w, "POST", "/certificates", csr).await, 400, "InvalidRequestException");
    let path = format!("/certificates/{}?newStatus=PENDING_TRANSFER", all[0]);
    refused(call(w, "PUT", &path, Value::Null).await, 400, "InvalidRequestException");
    let first = call(w, "GET", "/registrationcode", Value::Null).await.unwrap();
    assert_eq!(first["registrationCode"].as_str().unwrap().len(), 64);
    assert_eq!(call(w, "GET", "/registrationcode", Value::Null).await.unwrap(), first);
    let path = "/endpoint?endpointType=iot%3AData-ATS";
    assert_eq!(call(w, "GET", path, Value::Null).await.unwrap()["endpointAddress"], "localhost");
    let path = "/endpoint?endpointType=iot%3ACredentialProvider";
    refused(call(w, "GET", path, Value::Null).await, 400, "InvalidRequestException");
}

fn payload() -> Value {
    let role = "arn:aws:iam::123456789012:role/service-role/PipelineRole";
    json!({
        "sql": "SELECT * FROM 'pollution/data'",
        "ruleDisabled": false,
        "awsIotSqlVersion": "2016-03-23",
        "actions": [{ "firehose": {
            "deliveryStreamName": "pollution-stream", "roleArn": role, "separator": "\n" } }],
        "errorAction": { "republish": { "topic": "errors/rule", "roleArn": role, "qos": 1 } },
    })
}

#[tokio::test]
async fn topic_rules_as_the_article_writes_them() {
    let world = World::new();
    let w = &world;
    call(w, "POST", "/rules/R", payload()).await.unwrap();
    refused(call(w, "POST", "/rules/R", payload()).await, 409, "ResourceAlreadyExistsException");
    let wrapped = json!({ "topicRulePayload": payload() });
    with(w, "POST", "/rules/S", ("x-amz-tagging", "a=b%20c"), wrapped).await.unwrap();
    let tags = "/tags?resourceArn=arn%3Aaws%3Aiot%3Aus-east-1%3A123456789012%3Arule%2FS";
    let tags = call(w, "GET", tags, Value::Null).await.unwrap();
    assert_eq!(tags["tags"], json!([{ "Key": "a", "Value": "b c" }]));
    let seen = call(w, "GET", "/rules/R", Value::Null).await.unwrap();
    assert_eq!(seen["ruleArn"], "arn:aws:iot:us-east-1:123456789012:rule/R");
    for member in ["sql", "actions", "errorAction", "ruleDisabled", "awsIotSqlVersion"] {
        assert_eq!(seen["rule"][member], payload()[member], "{member}");
    }
    let listed = |path: &'static str| async move {
        let page = call(w, "GET", path, Value::Null).await.unwrap();
        page["rules"].as_array().unwrap().len()
    };
    assert_eq!(listed("/rules?topic=pollution%2Fdata").await, 2);
    assert_eq!(listed("/rules?topic=other").await, 0);
    call(w, "POST", "/rules/R/disable", Value::Null).await.unwrap();
    assert_eq!(listed("/rules?ruleDisabled=true").await, 1);
    call(w, "POST", "/rules/R/enable", Value::Null).await.unwrap();
    let mut changed = payload();
    changed["sql"] = json!("SELECT ozone FROM 'other'");
    changed["description"] = json!("d");
    call(w, "PATCH", "/rules/R", changed).await.unwrap();
    let seen = call(w, "GET", "/rules/R", Value::Null).await.unwrap();
    assert_eq!(seen["rule"]["description"], "d");
    assert_eq!(listed("/rules?topic=other").await, 1);
    call(w, "DELETE", "/rules/R", Value::Null).await.unwrap();
    call(w, "DELETE", "/rules/R", Value::Null).await.unwrap();
    for (method, path) in [("GET", "/rules/R"), ("POST", "/rules/R/enable"), ("PATCH", "/rules/R")]
    {
        let body = if method == "PATCH" { payload() } else { Value::Null };
        refused(call(w, method, path, body).await, 401, "UnauthorizedException");
    }
}

#[tokio::test]
async fn what_a_rule_cannot_do_is_refused_by_name() {
    let world = World::new();
    let w = &world;
    type Change = fn(&mut Value);
    let cases: [(Change, &str, &str); 9] = [
        (|p| p["sql"] = json!("SELECT FROM"), "SqlParseException", "line 1"),
        (|p| p["actions"] = json!([]), "InvalidRequestException", "0 actions"),
        (
            |p| p["actions"] = json!([{ "lambda": {} }]),
            "InvalidRequestException",
            "actions[0].lambda",
        ),
        (|p| p["actions"][0]["firehose"]["x"] = json!(1), "InvalidRequestException", "\"x\""),
        (|p| p["actions"][0]["firehose"]["separator"] = json!(";"), "InvalidRequestException", ";"),
        (
            |p| p["actions"][0]["firehose"]["roleArn"] = json!("me"),
            "InvalidRequestException",
            "roleArn",
        ),
        (|p| p["awsIotSqlVersion"] = json!("beta"), "InvalidRequestException", "beta"),
        (
            |p| p["errorAction"]["republish"]["topic"] = json!("${topic("),
            "InvalidRequestException",
            "substitution",
        ),
        (|p| p["nonsense"] = json!(1), "InvalidRequestException", "nonsense"),
    ];
    for (change, code, part) in cases {
        let mut body = payload();
        change(&mut body);
        let message = refused(call(w, "POST", "/rules/R", body).await, 400, code);
        assert!(message.contains(part), "{message}");
    }
    refused(call(w, "POST", "/rules/a-b", payload()).await, 400, "InvalidRequestException");
}

#[tokio::test]
async fn what_policies_permit_can_be_tried_out() {
    let world = World::new();
    let w = &world;
    let keys = call(w, "POST", "/keys-and-certificate", Value::Null).await.unwrap();
    let arn = keys["certificateArn"].as_str().unwrap();
    let topic = |name: &str| format!("arn:aws:iot:us-east-1:123456789012:topic/{name}");
    let document = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Action": "iot:Publish", "Resource": topic("a/*") },
        { "Effect": "Deny", "Action": "iot:Publish", "Resource": topic("a/secret") } ] });
    let body = json!({ "policyDocument": document.to_string() });
    call(w, "POST", "/policies/p", body).await.unwrap();
    let ask = |name: &str, add: Value| {
        let infos = json!([{ "actionType": "PUBLISH", "resources": [topic(name)] }]);
        let body = json!({ "principal": arn, "authInfos": infos, "policyNamesToAdd": add });
        async move {
            let answer = call(w, "POST", "/test-authorization?clientId=c", body).await.unwrap();
            answer["authResults"][0]["authDecision"].as_str().unwrap().to_owned()
        }
    };
    assert_eq!(ask("a/b", json!([])).await, "IMPLICIT_DENY");
    assert_eq!(ask("a/b", json!(["p"])).await, "ALLOWED");
    call(w, "PUT", "/target-policies/p", json!({ "target": arn })).await.unwrap();
    assert_eq!(ask("a/b", json!([])).await, "ALLOWED");
    assert_eq!(ask("a/secret", json!([])).await, "EXPLICIT_DENY");
    assert_eq!(ask("b", json!([])).await, "IMPLICIT_DENY");
    let bad = json!({ "authInfos": [{ "actionType": "EAT", "resources": [] }] });
    refused(call(w, "POST", "/test-authorization", bad).await, 400, "InvalidRequestException");
}
