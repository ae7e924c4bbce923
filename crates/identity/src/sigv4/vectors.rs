//! AWS's own examples of signatures, as the crate `aws-sigv4` ships them in its folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base::Timestamp;
use serde_json::Value;

use super::canonical::canonical;
use super::{Claim, Refusal, Request, Rules, Signer, moment, string_to_sign};
use crate::Secret;

/// The folder of the examples. Cargo knows where it keeps the crate, which it has fetched to
/// compile this test.
fn folder() -> PathBuf {
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let version = run("rustc", &["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let metadata = run(
        env!("CARGO"),
        &[
            "metadata",
            "--format-version=1",
            "--offline",
            "--filter-platform",
            host,
            "--manifest-path",
            manifest,
        ],
    );
    let metadata: Value = serde_json::from_str(&metadata).expect("metadata is JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let package =
        packages.iter().find(|package| package["name"] == "aws-sigv4").expect("aws-sigv4");
    let manifest = Path::new(package["manifest_path"].as_str().expect("a path"));
    manifest.with_file_name("aws-signing-test-suite").join("v4")
}

/// A request as the examples write it.
struct Example {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Example {
    fn read(file: &Path) -> Example {
        let text = fs::read_to_string(file).expect("an example");
        let (head, body) = text.split_once("\n\n").unwrap_or((text.trim_end(), ""));
        let mut lines = head.lines();
        let first = lines.next().expect("a request line");
        let (method, target) = first.split_once(' ').expect("a method");
        let target = target.strip_suffix(" HTTP/1.1").unwrap_or(target);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut headers: Vec<(String, Vec<u8>)> = Vec::new();
        for line in lines {
            match headers.last_mut() {
                Some((_, value)) if line.starts_with(' ') => value.extend(line.bytes()),
                _ => {
                    let (name, value) = line.split_once(':').expect("a header");
                    headers.push((name.to_ascii_lowercase(), value.into()));
                }
            }
        }
        Example {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers,
            body: body.as_bytes().to_vec(),
        }
    }

    fn request(&self) -> Request<'_> {
        Request {
            method: &self.method,
            path: &self.path,
            query: &self.query,
            headers: self.headers.iter().map(|(name, value)| (&**name, &**value)).collect(),
            body: &self.body,
        }
    }

    /// The same with one change each; none may pass.
    fn tampered(&self) -> Vec<(&'static str, Example)> {
        let copy = || Example {
            method: self.method.clone(),
            path: self.path.clone(),
            query: self.query.clone(),
            headers: self.headers.clone(),
            body: self.body.clone(),
        };
        let query = match self.query.as_str() {
            "" => "a=b".to_owned(),
            query => format!("{query}&a=b"),
        };
        let other_header = |name: &'static str| {
            let mut headers = self.headers.clone();
            headers.iter_mut().filter(|(given, _)| given == name).for_each(|(_, v)| v.push(b'x'));
            headers
        };
        let mut more = self.headers.clone();
        more.push(("x-amz-target".to_owned(), b"AWSGlue.DeleteTable".to_vec()));
        let mut list = vec![
            ("method", Example { method: "DELETE".into(), ..copy() }),
            ("path", Example { path: format!("{}x", self.path), ..copy() }),
            ("query", Example { query, ..copy() }),
            ("body", Example { body: [&self.body[..], b"x"].concat(), ..copy() }),
            ("host", Example { headers: other_header("host"), ..copy() }),
            ("one more header", Example { headers: more, ..copy() }),
        ];
        if self.headers.iter().any(|(name, _)| name == "my-header1") {
            list.push(("header", Example { headers: other_header("my-header1"), ..copy() }));
        }
        list
    }
}

struct Suite {
    name: String,
    folder: PathBuf,
    secret: Secret,
    token: Option<String>,
    now: Timestamp,
    rules: Rules,
    context: Value,
}

impl Suite {
    fn read(folder: PathBuf) -> Option<Suite> {
        let name = folder.file_name()?.to_string_lossy().into_owned();
        let context = fs::read_to_string(folder.join("context.json")).ok()?;
        let context: Value = serde_json::from_str(&context).expect("a context");
        let credentials = &context["credentials"];
        let date = context["timestamp"].as_str()?.replace(['-', ':'], "");
        let normalize_path = context["normalize"] == true;
        Some(Suite {
            secret: Secret::new(credentials["secret_access_key"].as_str()?),
            token: credentials["token"].as_str().map(str::to_owned),
            now: Timestamp(moment::read(&date)? * 1000),
            // These examples come from a signer that was told to encode once.
            rules: Rules { normalize_path, encode_path_twice: false, unsigned_payload: false },
            name,
            folder,
            context,
        })
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.folder.join(file)).expect("an example").trim_end().to_owned()
    }

    fn check(&self, place: &str) {
        let Suite { name, rules, now, .. } = self;
        let signed = Example::read(&self.folder.join(format!("{place}-signed-request.txt")));
        let request = signed.request();
        let claim = Claim::read(&request).unwrap_or_else(|why| panic!("{name} {place}: {why}"));
        let payload = claim.payload_hash(&request, *rules).unwrap();
        let with_token = self.context["omit_session_token"] != true;
        let text = canonical(&request, &claim.signed_headers, &payload, *rules, with_token);
        assert_eq!(text, self.text(&format!("{place}-canonical-request.txt")), "{name} {place}");
        let text = string_to_sign(&claim.date, &claim.scope, &text);
        assert_eq!(text, self.text(&format!("{place}-string-to-sign.txt")), "{name} {place}");
        assert_eq!(claim.token, self.token, "{name} {place}");
        assert_eq!(claim.verify(&request, &self.secret, *now, *rules), Ok(()), "{name} {place}");

        let wrong = Secret::new(format!("{}x", self.secret.expose()));
        let refused = claim.verify(&request, &wrong, *now, *rules);
        assert_eq!(refused, Err(Refusal::Mismatch), "{name} {place}");
        for (what, tampered) in signed.tampered() {
            let request = tampered.request();
            let passed = Claim::read(&request)
                .and_then(|claim| claim.verify(&request, &self.secret, *now, *rules));
            assert!(passed.is_err(), "{name} {place}: {what} was changed and it passed");
        }
    }

    /// Our own signatures are the examples'.
    fn sign(&self) {
        if self.context["sign_body"] == true || self.context["omit_session_token"] == true {
            return;
        }
        let unsigned = Example::read(&self.folder.join("request.txt"));
        let request = unsigned.request();
        let signer = Signer {
            access_key_id: "AKIDEXAMPLE",
            secret: &self.secret,
            token: self.token.as_deref(),
            region: "us-east-1",
            service: "service",
            rules: self.rules,
        };
        let headers = signer.headers(&request, self.now);
        let (_, authorization) = headers.last().expect("an authorization");
        let expected = self.text("header-signature.txt");
        assert!(authorization.ends_with(&expected), "{}: {authorization}", self.name);
        let query = signer.query(&request, self.now, Some(3600));
        assert!(query.ends_with(&self.text("query-signature.txt")), "{}: {query}", self.name);
    }
}

#[test]
fn every_example_of_aws_is_understood_and_no_tampered_one() {
    let folders = fs::read_dir(folder()).expect("the examples");
    let suites: Vec<Suite> =
        folders.filter_map(|entry| Suite::read(entry.expect("a folder").path())).collect();
    assert!(suites.len() >= 36, "{} examples", suites.len());
    for suite in &suites {
        suite.check("header");
        suite.check("query");
        suite.sign();
    }
}

#[test]
fn paths_are_encoded_twice_for_services() {
    let folder = folder();
    for name in ["double-url-encode", "double-encode-path"] {
        let example = Example::read(&folder.join(name).join("request.txt"));
        let expected = fs::read_to_string(folder.join(name).join("header-canonical-request.txt"));
        let expected = expected.expect("an example");
        let names = ["host".to_owned(), "x-amz-date".to_owned()];
        let text = canonical(&example.request(), &names, "", super::SERVICE, true);
        assert_eq!(text.lines().nth(1), expected.lines().nth(1), "{name}");
    }
    // The one of the two whose key is published.
    let signed = Example::read(&folder.join("double-encode-path/header-signed-request.txt"));
    let secret = Secret::new("notrealrnrELgWzOk3IfjzDKtFBhDby");
    let now = Timestamp(moment::read("20150830T123600Z").expect("a moment") * 1000);
    let request = signed.request();
    let claim = Claim::read(&request).expect("a signature");
    assert_eq!(claim.verify(&request, &secret, now, super::SERVICE), Ok(()));
    assert_eq!(claim.verify(&request, &secret, now, super::S3), Err(Refusal::Mismatch));
}
