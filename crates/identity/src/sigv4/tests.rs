//! What AWS's examples do not show: time, what must be signed, and forms that are none.

use super::*;

const NOW: Timestamp = Timestamp(1_440_938_160_000);
const KEY: &str = "AKIDEXAMPLE";

fn secret() -> Secret {
    Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
}

fn request<'a>(headers: &[(&'a str, &'a [u8])], query: &'a str, body: &'a [u8]) -> Request<'a> {
    let mut all: Vec<(&str, &[u8])> = vec![("host", b"localhost:4566")];
    all.extend(headers);
    Request { method: "POST", path: "/a b/%2F", query, headers: all, body }
}

fn signer<'a>(secret: &'a Secret, token: Option<&'a str>, rules: Rules) -> Signer<'a> {
    let (region, service) = ("eu-west-1", "glue");
    Signer { access_key_id: KEY, secret, token, region, service, rules }
}

fn verify(request: &Request<'_>, now: Timestamp, rules: Rules) -> Result<(), Refusal> {
    Claim::read(request)?.verify(request, &secret(), now, rules)
}

fn after(secs: i64) -> Timestamp {
    Timestamp(NOW.millis() + secs * 1000)
}

#[test]
fn a_signature_in_headers_counts_for_a_quarter_of_an_hour_around() {
    for rules in [SERVICE, S3] {
        let unsigned = request(&[("x-amz-target", b"AWSGlue.GetTable")], "b=2&a=1", b"{}");
        let secret = secret();
        let added = signer(&secret, Some("token"), rules).headers(&unsigned, NOW);
        let mut signed = unsigned;
        signed.headers.extend(added.iter().map(|(name, value)| (*name, value.as_bytes())));
        assert_eq!(Claim::read(&signed).unwrap().token.as_deref(), Some("token"));
        for secs in [-900, 0, 900] {
            assert_eq!(verify(&signed, after(secs), rules), Ok(()), "{secs}");
        }
        for (secs, words) in [(-901, "not yet current"), (901, "Signature expired")] {
            let Err(Refusal::OutOfTime(why)) = verify(&signed, after(secs), rules) else {
                panic!("{secs}")
            };
            assert!(why.contains(words), "{why}");
        }
    }
}

#[test]
fn a_presigned_address_counts_for_its_own_life() {
    let secret = secret();
    for (token, rules) in [(None, SERVICE), (Some("to/ken+"), S3)] {
        let unsigned = request(&[], "k=v", b"");
        let query = signer(&secret, token, rules).query(&unsigned, NOW, Some(1800));
        let signed = Request { query: &query, ..unsigned };
        assert_eq!(verify(&signed, after(1799), rules), Ok(()));
        assert_eq!(Claim::read(&signed).unwrap().token.as_deref(), token);
        assert!(matches!(verify(&signed, after(1800), rules), Err(Refusal::OutOfTime(_))));
        assert!(matches!(verify(&signed, after(-901), rules), Err(Refusal::OutOfTime(_))));
        let longer = query.replace("X-Amz-Expires=1800", "X-Amz-Expires=1801");
        let tampered = Request { query: &longer, ..signed.clone() };
        assert_eq!(verify(&tampered, NOW, rules), Err(Refusal::Mismatch));
        for life in ["0", "604801", "-1", "x", "99999999999999999999"] {
            let query = query.replace("Expires=1800", &format!("Expires={life}"));
            let refused = Claim::read(&Request { query: &query, ..signed.clone() }).unwrap_err();
            assert!(refused.to_string().contains("604800"), "{refused}");
        }
    }
}

#[test]
fn for_mqtt_alone_a_query_may_leave_out_its_life() {
    let secret = secret();
    let unsigned = request(&[], "", b"");
    for (service, right) in [(MQTT_SERVICE, true), ("iot", false)] {
        let signer = Signer { service, ..signer(&secret, None, SERVICE) };
        let query = signer.query(&unsigned, NOW, None);
        let signed = Request { query: &query, ..unsigned.clone() };
        if !right {
            let refused = Claim::read(&signed).unwrap_err().to_string();
            assert!(refused.contains("'X-Amz-Expires'"), "{refused}");
            continue;
        }
        // As if it were signed in its headers.
        assert_eq!(verify(&signed, after(900), SERVICE), Ok(()));
        assert!(matches!(verify(&signed, after(901), SERVICE), Err(Refusal::OutOfTime(_))));
        let query = format!("{query}&X-Amz-Security-Token=t");
        assert_eq!(verify(&Request { query: &query, ..signed }, NOW, SERVICE), Ok(()));
    }
}

#[test]
fn a_token_may_be_added_to_the_query_afterwards() {
    let secret = secret();
    let unsigned = request(&[], "", b"");
    let query = signer(&secret, None, SERVICE).query(&unsigned, NOW, Some(60));
    let query = format!("{query}&X-Amz-Security-Token=t");
    let signed = Request { query: &query, ..unsigned };
    assert_eq!(Claim::read(&signed).unwrap().token.as_deref(), Some("t"));
    assert_eq!(verify(&signed, NOW, SERVICE), Ok(()));
}

#[test]
fn the_host_and_every_amz_header_must_be_signed() {
    let secret = secret();
    let bare = Request { headers: Vec::new(), ..request(&[], "", b"") };
    let added = signer(&secret, None, SERVICE).headers(&bare, NOW);
    let mut signed = bare;
    signed.headers.extend(added.iter().map(|(name, value)| (*name, value.as_bytes())));
    signed.headers.push(("host", b"localhost"));
    let Err(Refusal::Uncovered(why)) = verify(&signed, NOW, SERVICE) else { panic!() };
    assert!(why.contains("'Host'"), "{why}");

    let unsigned = request(&[], "", b"");
    let added = signer(&secret, None, SERVICE).headers(&unsigned, NOW);
    let mut signed = unsigned;
    signed.headers.extend(added.iter().map(|(name, value)| (*name, value.as_bytes())));
    signed.headers.push(("user-agent", b"x"));
    assert_eq!(verify(&signed, NOW, SERVICE), Ok(()));
    signed.headers.push(("x-amz-target", b"AWSGlue.DeleteTable"));
    let Err(Refusal::Uncovered(why)) = verify(&signed, NOW, SERVICE) else { panic!() };
    assert!(why.contains("x-amz-target"), "{why}");
    signed.headers.retain(|(name, _)| *name != "x-amz-target" && *name != "host");
    let Err(Refusal::Uncovered(why)) = verify(&signed, NOW, SERVICE) else { panic!() };
    assert!(why.contains("\"host\""), "{why}");
}

#[test]
fn an_unsigned_body_is_s3s_alone() {
    let secret = secret();
    for (hash, for_service) in [
        (&b"UNSIGNED-PAYLOAD"[..], "S3 alone"),
        (b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "S3 alone"),
        (b"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8b", "does not match"),
    ] {
        let unsigned = request(&[("x-amz-content-sha256", hash)], "", b"{}");
        let added = signer(&secret, None, SERVICE).headers(&unsigned, NOW);
        let mut signed = unsigned;
        signed.headers.extend(added.iter().map(|(name, value)| (*name, value.as_bytes())));
        let Err(Refusal::Payload(why)) = verify(&signed, NOW, SERVICE) else { panic!() };
        assert!(why.contains(for_service), "{why}");
    }
}

#[test]
fn what_is_no_signature_is_said_to_be_none() {
    let head = "AWS4-HMAC-SHA256 ";
    let credential = "Credential=K/20150830/us-east-1/glue/aws4_request";
    let zeros = "0".repeat(64);
    let right = format!("{credential}, SignedHeaders=host;x-amz-date, Signature={zeros}");
    let cases = [
        ("Basic eDp5".to_owned(), "begin with"),
        ("AWS4-HMAC-SHA256".to_owned(), "'Credential' parameter"),
        (format!("AWS4-HMAC-SHA256Credential{right}"), "begin with"),
        (head.to_owned(), "'Credential' parameter"),
        (format!("{head}{credential}"), "'Signature' parameter"),
        (format!("{head}{right}, Signature={zeros}"), "twice"),
        (format!("{head}{right}, X=1"), "not known"),
        (format!("{head}{}", right.replace("aws4_request", "aws4")), "5 slash-delimited"),
        (format!("{head}{}", right.replace("20150830", "20150831")), "does not match YYYYMMDD"),
        (format!("{head}{}", right.replace("20150830", "2015")), "does not match YYYYMMDD"),
        (format!("{head}{}", right.replace("host;x-amz-date", "x-amz-date;host")), "sorted"),
        (format!("{head}{}", right.replace("host;", "host;host;")), "each once"),
        (format!("{head}{}", right.replace("host;", "Host;")), "lower case"),
        (format!("{head}{}", right.replace("host;x-amz-date", "")), "SignedHeaders"),
        (format!("{head}{}x", right), "hexadecimal"),
        (format!("{head}{}", right.replace("=0", "=é")), "hexadecimal"),
    ];
    for (authorization, words) in cases {
        let date = ("x-amz-date", &b"20150830T123600Z"[..]);
        let signed = request(&[("authorization", authorization.as_bytes()), date], "", b"");
        let Err(Refusal::Incomplete(why)) = verify(&signed, NOW, SERVICE) else {
            panic!("{authorization}")
        };
        assert!(why.contains(words), "{authorization}: {why}");
    }
    let right = format!("{head}{right}");
    let authorization = ("authorization", right.as_bytes());
    type Case<'a> = (&'a [(&'a str, &'a [u8])], &'a str, &'a str);
    let cases: [Case<'_>; 6] = [
        (&[authorization], "", "X-Amz-Date"),
        (&[authorization, ("date", b"Sun, 30 Aug 2015 12:36:00 GMT")], "", "ISO-8601"),
        (&[authorization, authorization], "", "more than once"),
        (&[authorization], "X-Amz-Signature=1", "only one"),
        (&[], "X-Amz-Signature=1", "X-Amz-Algorithm"),
        (&[], "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Algorithm=x", "more than once"),
    ];
    for (headers, query, words) in cases {
        let refused = verify(&request(headers, query, b""), NOW, SERVICE).unwrap_err();
        assert!(refused.to_string().contains(words), "{refused}");
    }
    assert_eq!(verify(&request(&[], "", b""), NOW, SERVICE), Err(Refusal::Missing));
}

#[test]
fn nothing_secret_is_shown() {
    let secret = secret();
    let unsigned = request(&[], "", b"");
    let signer = signer(&secret, Some("a-token"), SERVICE);
    let query = signer.query(&unsigned, NOW, Some(60));
    let claim = Claim::read(&Request { query: &query, ..unsigned }).unwrap();
    let shown = format!("{claim:?} {signer:?} {}", Refusal::Mismatch);
    let signature = query.rsplit('=').next().unwrap();
    for hidden in [secret.expose(), "a-token", signature] {
        assert!(!shown.contains(hidden), "{shown}");
    }
}
proptest::proptest! {
    /// What is signed passes, whatever it looks like, until one byte of it changes.
    #[test]
    fn whatever_is_signed_passes(
        path in "/[ -~éሴ]{0,12}",
        query in "([ -~é]{0,6}(=[ -~é]{0,6})?&?){0,3}",
        value in "[ -~é]{0,12}",
        body: Vec<u8>,
        as_s3: bool,
        token: Option<bool>,
    ) {
        let rules = if as_s3 { S3 } else { SERVICE };
        let secret = secret();
        let token = token.map(|odd| if odd { "to+/= ken" } else { "t" });
        let signer = signer(&secret, token, rules);
        let query = query.replace('#', "");
        let mut unsigned = request(&[("x-amz-meta-a", value.as_bytes())], &query, &body);
        unsigned.path = &path;

        let presigned = signer.query(&unsigned, NOW, Some(60));
        let signed = Request { query: &presigned, ..unsigned.clone() };
        proptest::prop_assert_eq!(verify(&signed, NOW, rules), Ok(()));

        let added = signer.headers(&unsigned, NOW);
        unsigned.headers.extend(added.iter().map(|(name, value)| (*name, value.as_bytes())));
        proptest::prop_assert_eq!(verify(&unsigned, NOW, rules), Ok(()));
        let longer = format!("{path}x");
        unsigned.path = &longer;
        proptest::prop_assert_eq!(verify(&unsigned, NOW, rules), Err(Refusal::Mismatch));
    }

    /// Nothing that anybody sends is more than refused.
    #[test]
    fn nonsense_is_refused(
        credential in "[ -~é]{0,40}",
        rest in "(Credential=|SignedHeaders=|Signature=|[ -~é]{0,20},?){0,6}",
        date in "[0-9TZé]{0,17}",
        query in "(X-Amz-(Algorithm|Credential|Date|Expires|SignedHeaders|Signature)=[!-~é]{0,9}&){0,7}",
    ) {
        let authorization = format!("AWS4-HMAC-SHA256 Credential={credential}/x/y/aws4_request,{rest}");
        let headers =
            [("authorization", authorization.as_bytes()), ("x-amz-date", date.as_bytes())];
        proptest::prop_assert!(verify(&request(&headers, "", b""), NOW, SERVICE).is_err());
        proptest::prop_assert!(verify(&request(&[], &query, b""), NOW, SERVICE).is_err());
    }
}
