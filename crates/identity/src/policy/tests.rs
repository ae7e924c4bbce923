//! Documents as AWS documents them, and what they decide.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const ARN: &str = "arn:aws:iot:us-east-1:123456789012:";

fn sources(documents: &[&str]) -> Vec<Source> {
    let source = |(at, text): (usize, &&str)| Source {
        policy: format!("p{}", at + 1).into(),
        version: 1,
        document: Arc::new(Ok(Document::parse(text).unwrap())),
    };
    documents.iter().enumerate().map(source).collect()
}

fn facts() -> Facts<'static> {
    Facts {
        region: "us-east-1",
        account: "123456789012",
        client_id: Some("dev-1"),
        source_ip: Some(IpAddr::from([203, 0, 113, 7])),
        certificate_id: Some("c0ffee"),
        ..Facts::default()
    }
}

fn statement(effect: &str, action: &str, resource: &str, more: &str) -> String {
    let (open, quote) = if resource.starts_with('[') { ("", "") } else { ("\"", "\"") };
    format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"{effect}","Action":"{action}","Resource":{open}{resource}{quote}{more}}}]}}"#
    )
}

fn allows(documents: &[&str], facts: &Facts<'_>, action: Action, name: &str) -> bool {
    let rights = Rights::new(&sources(documents), facts);
    let decision = rights.decide(action, name);
    assert_eq!(decision.is_allowed(), rights.allows(action, name));
    decision.is_allowed()
}

#[test]
fn wildcards_are_those_of_policies_not_those_of_mqtt() {
    // Resource, action, name, decision.
    let cases = [
        ("topic/sensor/*", Action::Publish, "sensor/a/b/c", true),
        ("topic/sensor/*", Action::Publish, "sensor/", true),
        ("topic/sensor/*", Action::Publish, "sensor", false),
        ("topic/sensor/?", Action::Publish, "sensor/é", true),
        ("topic/sensor/?", Action::Publish, "sensor/ab", false),
        ("topic/some/+/topic", Action::Publish, "some/x/topic", false),
        ("topicfilter/some/+/topic", Action::Subscribe, "some/+/topic", true),
        ("topicfilter/some/+/topic", Action::Subscribe, "some/x/topic", false),
        ("topicfilter/some/*/topic", Action::Subscribe, "some/+/topic", true),
        ("topicfilter/some/#", Action::Subscribe, "some/#", true),
        ("topicfilter/some/#", Action::Subscribe, "some/x", false),
        ("topicfilter/some/*", Action::Subscribe, "some/#", true),
        // A topic is not a topic filter, nor a client.
        ("topic/*", Action::Subscribe, "a", false),
        ("topicfilter/*", Action::Publish, "a", false),
        ("client/*", Action::Connect, "dev-1", true),
        ("*", Action::Connect, "dev-1", true),
        ("topic/a${*}b", Action::Publish, "a*b", true),
        ("topic/a${*}b", Action::Publish, "axb", false),
        ("topic/a${?}", Action::Publish, "ab", false),
        ("topic/${$}x", Action::Publish, "$x", true),
        ("topic/$x", Action::Publish, "$x", true),
        ("topic/a:b", Action::Publish, "a:b", true),
    ];
    for (resource, action, name, expect) in cases {
        let document = statement("Allow", "iot:*", &format!("{ARN}{resource}"), "");
        let allowed = allows(&[&document], &facts(), action, name);
        assert_eq!(allowed, expect, "{resource} for {action:?} of {name}");
    }
}

#[test]
fn b6_deny_beats_allow_and_silence_refuses() {
    let allow = statement("Allow", "iot:*", "*", "");
    let deny = statement("Deny", "iot:Publish", &format!("{ARN}topic/secret/*"), "");
    for documents in [[&allow, &deny], [&deny, &allow]] {
        let documents = documents.map(String::as_str);
        assert!(allows(&documents, &facts(), Action::Publish, "open"));
        assert!(!allows(&documents, &facts(), Action::Publish, "secret/x"));
        assert!(allows(&documents, &facts(), Action::Subscribe, "secret/x"));
        let decision = evaluate(&sources(&documents), &facts(), Action::Publish, "secret/x");
        assert_eq!(decision.verdict, Verdict::Denied);
    }
    let decision = evaluate(&[], &facts(), Action::Connect, "dev-1");
    assert_eq!(
        decision.to_string(),
        "no statement allows iot:Connect on arn:aws:iot:us-east-1:123456789012:client/dev-1: no \
         policy is attached to the certificate"
    );
}

#[test]
fn b7_a_refusal_names_what_came_near() {
    let document = statement(
        "Allow",
        "iot:Publish",
        &format!(
            r#"["{ARN}topic/${{iot:ClientId}}/*","{ARN}topic/${{iot:Connection.Thing.ThingName}}"]"#
        ),
        r#","Sid":"own""#,
    );
    let decision = evaluate(&sources(&[&document]), &facts(), Action::Publish, "other");
    assert_eq!(decision.verdict, Verdict::NotAllowed);
    let text = decision.to_string();
    assert!(text.contains("statement 1 (own) of policy p1 version 1"), "{text}");
    assert!(text.contains("topic/dev-1/*"), "{text}");
    assert!(text.contains("${iot:Connection.Thing.ThingName} has no value"), "{text}");
    let elsewhere = "arn:aws:iot:eu-west-1:999999999999:topic/*";
    let document = statement("Allow", "iot:Publish", elsewhere, "");
    let text = evaluate(&sources(&[&document]), &facts(), Action::Publish, "a").to_string();
    assert!(text.contains(r#"its region is "eu-west-1", ours is "us-east-1""#), "{text}");
    let document = statement("Allow", "iot:Publish", "arn:aws:iot:*:999999999999:topic/*", "");
    let text = evaluate(&sources(&[&document]), &facts(), Action::Publish, "a").to_string();
    assert!(text.contains(r#"its account is "999999999999", ours is "123456789012""#), "{text}");
}

#[test]
fn b6_a_variable_without_a_value_matches_nothing() {
    let attributes = [("site", "no*rth"), ("empty", "")];
    let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let thing = ThingFacts { name: "dev-1", thing_type: Some("pump"), attributes: &attributes };
    let with = Facts { thing: Some(thing), ..facts() };
    let cases = [
        ("${iot:ClientId}", "dev-1", true, true),
        ("${iot:CertificateId}", "c0ffee", true, true),
        ("${aws:SourceIp}", "203.0.113.7", true, true),
        ("${iot:Connection.Thing.ThingName}", "dev-1", true, false),
        ("${iot:Connection.Thing.ThingTypeName}", "pump", true, false),
        ("${iot:Connection.Thing.Attributes[site]}", "no*rth", true, false),
        ("${iot:Connection.Thing.Attributes[site]}", "nowhere north", false, false),
        ("${iot:Connection.Thing.Attributes[other]}", "", false, false),
        ("${iot:Connection.Thing.Attributes[empty]}", "", false, false),
        ("a/${iot:Connection.Thing.Attributes[empty]}/*", "a//x", false, false),
        ("${iot:Connection.Thing.IsAttached}", "true", true, false),
    ];
    for (variable, name, known, unknown) in cases {
        let document = statement("Allow", "iot:Publish", &format!("{ARN}topic/{variable}"), "");
        assert_eq!(allows(&[&document], &with, Action::Publish, name), known, "{variable}");
        assert_eq!(allows(&[&document], &facts(), Action::Publish, name), unknown, "{variable}");
    }
    // One in a region that is not ours is known all the same: all but it is all.
    let all = statement("Allow", "iot:*", "*", "");
    let elsewhere = "arn:aws:iot:eu-west-1:123456789012:topic/${*}";
    let deny = statement("Deny", "iot:Publish", elsewhere, "");
    let deny = deny.replace("\"Resource\"", "\"NotResource\"");
    assert!(!allows(&[&all, &deny], &facts(), Action::Publish, "*"));
    // In a Deny as well, an undefined variable matches nothing; NotResource does not become all.
    let all = statement("Allow", "iot:*", "*", "");
    let deny = statement(
        "Deny",
        "iot:Publish",
        &format!("{ARN}topic/${{iot:Connection.Thing.ThingName}}"),
        "",
    );
    assert!(allows(&[&all, &deny], &facts(), Action::Publish, "dev-1"));
    assert!(!allows(&[&all, &deny], &with, Action::Publish, "dev-1"));
    let but = statement(
        "Allow",
        "iot:Publish",
        &format!("{ARN}topic/${{iot:Connection.Thing.ThingName}}"),
        "",
    )
    .replace("\"Resource\"", "\"NotResource\"");
    assert!(!allows(&[&but], &facts(), Action::Publish, "x"));
    assert!(allows(&[&but], &with, Action::Publish, "x"));
    assert!(!allows(&[&but], &with, Action::Publish, "dev-1"));
}

#[test]
fn a_certificates_names_resolve() {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "Plants");
    params.distinguished_name.push(rcgen::DnType::CommonName, "p-7");
    let key = rcgen::KeyPair::generate().unwrap();
    let der = params.self_signed(&key).unwrap().der().to_vec();
    let with = Facts { certificate_der: Some(&der), ..facts() };
    for (variable, name, expect) in [
        ("Subject.Organization", "Plants", true),
        ("Issuer.CommonName", "p-7", true),
        ("Subject.Country", "", false),
        ("Subject.Organization.1", "Plants", false),
    ] {
        let resource = format!("{ARN}topic/${{iot:Certificate.{variable}}}");
        let document = statement("Allow", "iot:Publish", &resource, "");
        assert!(sources(&[&document])[0].reads_certificate());
        assert_eq!(allows(&[&document], &with, Action::Publish, name), expect, "{variable}");
        assert!(!allows(&[&document], &facts(), Action::Publish, name));
    }
}

#[test]
fn conditions_hold_or_not() {
    let attributes = BTreeMap::from([("floor".to_owned(), "7".to_owned())]);
    let thing = ThingFacts { name: "dev-1", thing_type: None, attributes: &attributes };
    let facts = Facts { thing: Some(thing), connect_attributes: &["LastWill"], ..facts() };
    let cases = [
        (r#"{"StringEquals":{"iot:ClientId":"dev-1"}}"#, true),
        (r#"{"StringEquals":{"iot:ClientId":"DEV-1"}}"#, false),
        (r#"{"StringEqualsIgnoreCase":{"iot:ClientId":"DEV-1"}}"#, true),
        (r#"{"StringNotEqualsIgnoreCase":{"iot:ClientId":"DEV-1"}}"#, false),
        (r#"{"StringNotEquals":{"iot:ClientId":["a","dev-1"]}}"#, false),
        (r#"{"StringNotEquals":{"iot:ClientId":["a","b"]}}"#, true),
        (r#"{"StringEquals":{"iot:ClientId":"${iot:Connection.Thing.ThingName}"}}"#, true),
        (r#"{"StringEquals":{"iot:ClientId":"dev-*"}}"#, false),
        (r#"{"StringLike":{"iot:ClientId":["x","dev-?"]}}"#, true),
        (r#"{"StringNotLike":{"iot:ClientId":"dev-*"}}"#, false),
        (r#"{"IpAddress":{"aws:SourceIp":"203.0.113.0/24"}}"#, true),
        (r#"{"IpAddress":{"aws:SourceIp":["10.0.0.0/8","203.0.113.7"]}}"#, true),
        (r#"{"IpAddress":{"aws:SourceIp":"203.0.114.0/24"}}"#, false),
        (r#"{"NotIpAddress":{"aws:SourceIp":"203.0.113.0/24"}}"#, false),
        (r#"{"IpAddress":{"aws:SourceIp":"0.0.0.0/0"}}"#, true),
        (r#"{"Bool":{"iot:Connection.Thing.IsAttached":"true"}}"#, true),
        (r#"{"Bool":{"iot:Connection.Thing.IsAttached":[false]}}"#, false),
        (r#"{"Null":{"iot:Connection.Thing.ThingTypeName":true}}"#, true),
        (r#"{"Null":{"iot:Connection.Thing.ThingName":"true"}}"#, false),
        (r#"{"NumericLessThan":{"iot:Connection.Thing.Attributes[floor]":8}}"#, true),
        (r#"{"NumericGreaterThanEquals":{"iot:Connection.Thing.Attributes[floor]":"7.5"}}"#, false),
        (r#"{"StringEquals":{"iot:Connection.Thing.Attributes[none]":"x"}}"#, false),
        (r#"{"StringNotEquals":{"iot:Connection.Thing.Attributes[none]":"x"}}"#, true),
        (r#"{"StringEqualsIfExists":{"iot:Connection.Thing.Attributes[none]":"x"}}"#, true),
        (
            r#"{"ForAllValues:StringEquals":{"iot:ConnectAttributes":["PersistentConnect","LastWill"]}}"#,
            true,
        ),
        (r#"{"ForAllValues:StringEquals":{"iot:ConnectAttributes":["PersistentConnect"]}}"#, false),
        (r#"{"ForAnyValue:StringEquals":{"iot:ConnectAttributes":["LastWill"]}}"#, true),
        (
            r#"{"StringEquals":{"iot:ClientId":"dev-1"},"Bool":{"iot:Connection.Thing.IsAttached":"false"}}"#,
            false,
        ),
    ];
    for (condition, expect) in cases {
        let document = statement("Allow", "iot:*", "*", &format!(r#","Condition":{condition}"#));
        assert_eq!(allows(&[&document], &facts, Action::Connect, "dev-1"), expect, "{condition}");
    }
}

#[test]
fn b6_what_is_not_understood_is_refused_by_name() {
    let good = statement("Allow", "iot:Publish", "*", "");
    Document::parse(&good).unwrap();
    Document::parse(&good.replace("2012", "2008")).unwrap();
    let long = " ".repeat(10_000) + &good;
    Document::parse(&long).unwrap();
    let one = r#"{"Version":"2012-10-17","Id":"x","Statement":{"Effect":"Deny","NotAction":["iot:Connect"],"NotResource":"*"}}"#;
    Document::parse(one).unwrap();
    let condition =
        |text: &str| statement("Allow", "iot:*", "*", &format!(r#","Condition":{text}"#));
    let cases = [
        ("", "not JSON"),
        ("[]", "not a policy"),
        ("{}", "Statement"),
        (&good.replace("Sid", "x").replace("\"Effect\"", "\"Sidd\""), "Sidd"),
        (&good.replace("2012", "2013"), "2013-10-17"),
        (&good.replace("\"Version\":\"2012-10-17\",", ""), "no Version"),
        (&good.replace("\"Allow\"", "\"Permit\""), "Permit"),
        (&good.replace("iot:Publish", "Publish"), "Publish"),
        (&good.replace(r#""Resource":"*""#, r#""Resource":"topic/a""#), "topic/a"),
        (&good.replace(r#""Resource":"*""#, r#""Resource":[]"#), "empty"),
        (&good.replace(r#""Resource":"*""#, r#""Sid":"a""#), "no Resource"),
        (&good.replace(r#""Resource":"*""#, r#""Resource":"*","NotResource":"*""#), "both"),
        (&good.replace(r#""Resource":"*""#, r#""Resource":"*","Resource":"*""#), "duplicate"),
        (&good.replace(r#""Resource":"*""#, r#""Resource":"*","Principal":"*""#), "Principal"),
        (&good.replace(r#""Resource":"*""#, r#""Resource":7"#), "expected a string"),
        (&statement("Allow", "iot:*", &format!("{ARN}topic/${{iot:Nothing}}"), ""), "iot:Nothing"),
        (&statement("Allow", "iot:*", &format!("{ARN}topic/${{iot:ClientId"), ""), "close"),
        (&condition(r#"{"DateLessThan":{"aws:CurrentTime":"2020"}}"#), "DateLessThan"),
        (&condition(r#"{"StringEquals":{"aws:CurrentTime":"2020"}}"#), "aws:CurrentTime"),
        (&condition(r#"{"IpAddress":{"iot:ClientId":"1.2.3.4"}}"#), "aws:SourceIp"),
        (&condition(r#"{"IpAddress":{"aws:SourceIp":"1.2.3.4/33"}}"#), "1.2.3.4/33"),
        (&condition(r#"{"Bool":{"iot:Connection.Thing.IsAttached":"yes"}}"#), "yes"),
        (&condition(r#"{"StringEquals":{"iot:ClientId":"a","iot:ClientId":"b"}}"#), "twice"),
        (&condition(r#"{"StringEquals":{"iot:ClientId":{}}}"#), "compares"),
        (&format!("{good}{}", "x".repeat(2048)), "at most 2048"),
    ];
    for (document, word) in cases {
        let error = Document::parse(document).expect_err(document).to_string();
        assert!(error.contains(word), "{document}\n{error}");
    }
}

#[test]
fn b6_a_document_that_cannot_be_read_refuses_everything() {
    let mut all = sources(&[&statement("Allow", "iot:*", "*", "")]);
    all.push(Source {
        policy: "old".into(),
        version: 3,
        document: Arc::new(Err("it is not JSON".to_owned())),
    });
    let decision = evaluate(&all, &facts(), Action::Connect, "dev-1");
    assert_eq!(decision.verdict, Verdict::Denied);
    assert!(decision.to_string().contains("policy old version 3 cannot be read"));
    assert!(!Rights::new(&all, &facts()).allows(Action::Connect, "dev-1"));
}

proptest! {
    #[test]
    fn b3_no_client_id_widens_what_a_policy_allows(id in "[a-c*?+#$/{}:]{1,6}", topic in "[a-c*?+#$/]{1,10}") {
        let document = statement("Allow", "iot:*", &format!(r#"["{ARN}topic/${{iot:ClientId}}/in","{ARN}topicfilter/${{iot:ClientId}}/in"]"#), "");
        let facts = Facts { client_id: Some(&id), ..facts() };
        let rights = Rights::new(&sources(&[&document]), &facts);
        for action in [Action::Publish, Action::Subscribe] {
            let own = format!("{id}/in");
            let wild = action == Action::Subscribe && id.contains(['+', '#']);
            prop_assert_eq!(rights.allows(action, &own), !wild);
            prop_assert_eq!(rights.allows(action, &topic), topic == own && !wild);
        }
    }

    #[test]
    fn nothing_makes_the_parser_panic(text in ".{0,200}", inner in "[${}*:a-z.\\[\\]]{0,20}") {
        drop(Document::parse(&text));
        drop(Document::parse(&statement("Allow", "iot:*", &format!("{ARN}{inner}"), "")));
    }
}
