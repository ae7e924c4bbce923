//! Decisions against a second evaluator, written from AWS's description of policies: IAM's
//! evaluation logic, and the pages on IoT Core's actions, resources and policy variables.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use identity::policy::{Action, Document, Facts, Rights, Source, ThingFacts};
use serde_json::{Value, json};

const REGION: &str = "us-east-1";
const ACCOUNT: &str = "123456789012";

/// A client as both evaluators are told of it.
#[derive(Clone, Debug)]
struct Device {
    id: String,
    ip: IpAddr,
    thing: Option<String>,
    attributes: BTreeMap<String, String>,
}

// ---- the reference ----

#[derive(Clone, Copy, PartialEq)]
enum Sign {
    Is(char),
    Colon,
    One,
    Any,
}

impl Device {
    fn value(&self, key: &str) -> Option<String> {
        match key {
            "iot:ClientId" => Some(self.id.clone()),
            "aws:SourceIp" => Some(self.ip.to_string()),
            "iot:Connection.Thing.ThingName" => self.thing.clone(),
            "iot:Connection.Thing.IsAttached" => Some(self.thing.is_some().to_string()),
            "iot:Connection.Thing.Attributes[site]" => {
                self.thing.as_ref().and(self.attributes.get("site")).cloned()
            }
            _ => None,
        }
    }

    /// Wildcards as such; what a variable holds, and `${*}`, as characters. `None` if a variable
    /// has no value.
    fn signs(&self, text: &str) -> Option<Vec<Sign>> {
        let mut signs = Vec::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if let Some((name, after)) = rest.strip_prefix("${").and_then(|r| r.split_once('}')) {
                let value = match name {
                    "*" | "?" | "$" => name.to_owned(),
                    _ => self.value(name).filter(|value| !value.is_empty())?,
                };
                signs.extend(value.chars().map(Sign::Is));
                rest = after;
                continue;
            }
            signs.push(match c {
                '*' => Sign::Any,
                '?' => Sign::One,
                ':' => Sign::Colon,
                c => Sign::Is(c),
            });
            rest = &rest[c.len_utf8()..];
        }
        Some(signs)
    }

    /// `None` where the resource cannot be told.
    fn resource(&self, written: &str, kind: &str, name: &str) -> Option<bool> {
        let signs = self.signs(written)?;
        if written == "*" {
            return Some(true);
        }
        let parts: Vec<&[Sign]> = signs.splitn(6, |sign| *sign == Sign::Colon).collect();
        let asked = ["arn", "aws", "iot", REGION, ACCOUNT, &format!("{kind}/{name}")];
        Some(parts.iter().zip(asked).all(|(part, asked)| fit(part, asked)))
    }

    /// Whether MQTT's wildcards come into a resource by a variable: ours is stricter than AWS's
    /// comparison here, and lets nobody subscribe by that.
    fn widens(&self, written: &str) -> bool {
        let variables = written.split("${").skip(1).filter_map(|rest| rest.split_once('}'));
        variables.filter_map(|(key, _)| self.value(key)).any(|value| value.contains(['+', '#']))
    }

    fn condition(&self, operator: &str, key: &str, wanted: &str) -> bool {
        let (operator, if_exists) = match operator.strip_suffix("IfExists") {
            Some(operator) => (operator, true),
            None => (operator, false),
        };
        let Some(value) = self.value(key) else {
            return if_exists || operator.contains("Not");
        };
        let Some(signs) = self.signs(wanted) else { return false };
        // Without wildcards, whatever it holds is meant as it stands.
        let plainly = || {
            let plain = signs.iter().map(|sign| match sign {
                Sign::Is(c) => *c,
                Sign::Colon => ':',
                Sign::One => '?',
                Sign::Any => '*',
            });
            plain.eq(value.chars())
        };
        match operator {
            "StringEquals" => plainly(),
            "StringNotEquals" => !plainly(),
            "StringLike" => fit(&signs, &value),
            "StringNotLike" => !fit(&signs, &value),
            "Bool" => value == wanted,
            other => unreachable!("{other} is not generated"),
        }
    }

    /// Whether the documents allow it.
    fn may(&self, documents: &[Value], action: Action, kind: &str, name: &str) -> bool {
        const ELEMENTS: [&str; 7] =
            ["Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"];
        let (mut allowed, mut denied) = (false, false);
        for statement in documents.iter().flat_map(|d| d["Statement"].as_array().unwrap()) {
            let statement = statement.as_object().unwrap();
            if statement.keys().any(|element| !ELEMENTS.contains(&element.as_str())) {
                return false;
            }
            let list = |element: &str| {
                let list = statement.get(element)?.as_array().unwrap().iter();
                Some(list.map(|text| text.as_str().unwrap()).collect::<Vec<_>>())
            };
            let named = |patterns: &[&str]| {
                let asked = action.name().to_lowercase();
                let fits =
                    |pattern: &str| fit(&self.signs(&pattern.to_lowercase()).unwrap(), &asked);
                patterns.iter().any(|pattern| fits(pattern))
            };
            let acts = match (list("Action"), list("NotAction")) {
                (Some(these), _) => named(&these),
                (_, Some(others)) => !named(&others),
                _ => unreachable!(),
            };
            let selects = match (list("Resource"), list("NotResource")) {
                (Some(these), _) => these.iter().any(|r| {
                    let grants = action == Action::Subscribe && statement["Effect"] == "Allow";
                    self.resource(r, kind, name) == Some(true) && !(grants && self.widens(r))
                }),
                (_, Some(others)) => {
                    others.iter().all(|r| self.resource(r, kind, name) == Some(false))
                }
                _ => unreachable!(),
            };
            let holds = statement.get("Condition").is_none_or(|condition| {
                condition.as_object().unwrap().iter().all(|(operator, tests)| {
                    tests.as_object().unwrap().iter().all(|(key, wanted)| {
                        self.condition(operator, key, wanted.as_str().unwrap())
                    })
                })
            });
            if acts && selects && holds {
                match statement["Effect"].as_str() {
                    Some("Allow") => allowed = true,
                    _ => denied = true,
                }
            }
        }
        allowed && !denied
    }
}

fn fit(pattern: &[Sign], text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    // Which beginnings of the text the pattern so far can match.
    let mut reach = vec![false; text.len() + 1];
    reach[0] = true;
    for sign in pattern {
        let mut next = vec![false; text.len() + 1];
        for at in 0..=text.len() {
            let stepped = at > 0 && reach[at - 1];
            next[at] = match sign {
                Sign::Any => reach[..=at].contains(&true),
                Sign::One => stepped,
                Sign::Colon => stepped && text[at - 1] == ':',
                Sign::Is(c) => stepped && text[at - 1] == *c,
            };
        }
        reach = next;
    }
    reach[text.len()]
}

// ---- the cases ----

/// Splitmix64: a case is its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % count as u64) as usize
    }

    fn one<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of[self.below(of.len())]
    }

    fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn joined(&mut self, levels: &[&str]) -> String {
        let count = 1 + self.below(3);
        (0..count).map(|_| self.one(levels)).collect::<Vec<_>>().join("/")
    }
}

/// Names with everything in them that means something to somebody.
const NAMES: [&str; 16] = [
    "dev-1",
    "a",
    "a/b",
    "+",
    "#",
    "*",
    "?",
    "$",
    "$aws",
    "a*",
    "A",
    "${iot:ClientId}",
    "é",
    "a:b",
    "..",
    "\u{1f600}",
];
const LEVELS: [&str; 22] = [
    "a",
    "b",
    "A",
    "dev-1",
    "+",
    "#",
    "*",
    "?",
    "a*",
    "*b",
    "$aws",
    "$share",
    "é",
    "",
    "a:b",
    "${iot:ClientId}",
    "${iot:ClientId}",
    "${iot:Connection.Thing.ThingName}",
    "${iot:Connection.Thing.Attributes[site]}",
    "${*}",
    "${?}",
    "${$}",
];
const KINDS: [&str; 3] = ["topic", "topicfilter", "client"];
const ACTIONS: [(Action, &str); 5] = [
    (Action::Connect, "client"),
    (Action::Publish, "topic"),
    (Action::RetainPublish, "topic"),
    (Action::Subscribe, "topicfilter"),
    (Action::Receive, "topic"),
];

fn device(dice: &mut Dice) -> Device {
    let site = if dice.percent(20) { "" } else { dice.one(&NAMES) };
    Device {
        id: dice.one(&NAMES).to_owned(),
        ip: IpAddr::from([203, 0, 113, 7]),
        thing: dice.percent(60).then(|| dice.one(&NAMES).to_owned()),
        attributes: if dice.percent(70) {
            BTreeMap::from([("site".to_owned(), site.to_owned())])
        } else {
            BTreeMap::new()
        },
    }
}

fn resource(dice: &mut Dice) -> String {
    if dice.percent(8) {
        return "*".to_owned();
    }
    let place = dice.one(&["us-east-1:123456789012", "us-east-1:123456789012", "*:*", "us-*:*2"]);
    let place = if dice.percent(4) { "eu-west-1:123456789012" } else { place };
    let kind = if dice.percent(10) { dice.one(&["*", "topic*"]) } else { dice.one(&KINDS) };
    format!("arn:aws:iot:{place}:{kind}/{}", dice.joined(&LEVELS))
}

fn statement(dice: &mut Dice) -> Value {
    const NAMED: [&str; 11] = [
        "iot:Publish",
        "iot:Subscribe",
        "iot:Receive",
        "iot:Connect",
        "iot:*",
        "iot:*",
        "*",
        "iot:Re*",
        "iot:pUBLISH",
        "iot:?ublish",
        "s3:*",
    ];
    let not = |dice: &mut Dice, name: &str| {
        if dice.percent(8) { format!("Not{name}") } else { name.to_owned() }
    };
    let actions: Vec<_> = (0..=dice.below(2)).map(|_| dice.one(&NAMED)).collect();
    let resources: Vec<_> = (0..=dice.below(3)).map(|_| resource(dice)).collect();
    let (action, resource) = (not(dice, "Action"), not(dice, "Resource"));
    let effect = if dice.percent(25) { "Deny" } else { "Allow" };
    let mut statement = json!({ "Effect": effect, action: actions, resource: resources });
    if dice.percent(20) {
        let operator =
            dice.one(&["StringEquals", "StringNotEquals", "StringLike", "StringNotLike"]);
        let if_exists = if dice.percent(30) { "IfExists" } else { "" };
        let key = dice.one(&[
            "iot:ClientId",
            "iot:Connection.Thing.ThingName",
            "iot:Connection.Thing.Attributes[site]",
        ]);
        let test = json!({ key: dice.one(&LEVELS) });
        statement["Condition"] = json!({ format!("{operator}{if_exists}"): test });
    } else if dice.percent(8) {
        let attached = dice.one(&["true", "false"]);
        statement["Condition"] = json!({ "Bool": { "iot:Connection.Thing.IsAttached": attached } });
    }
    if dice.percent(1) {
        statement[dice.one(&["Principal", "Ressource", "condition"])] = json!("*");
    }
    statement
}

/// What is asked for: anything, or what a resource of the documents seems to name.
fn asked(dice: &mut Dice, device: &Device, documents: &[Value]) -> String {
    let mut name = dice.joined(&LEVELS);
    if dice.percent(70) {
        let document = &documents[dice.below(documents.len())];
        let statements = document["Statement"].as_array().unwrap();
        let statement = &statements[dice.below(statements.len())];
        let resources = statement.get("Resource").or(statement.get("NotResource")).unwrap();
        let resources = resources.as_array().unwrap();
        let resource = resources[dice.below(resources.len())].as_str().unwrap();
        let rest = resource.splitn(6, ':').nth(5).and_then(|rest| rest.split_once('/'));
        name = rest.map_or(name, |(_, rest)| rest.to_owned());
    }
    for key in
        ["iot:ClientId", "iot:Connection.Thing.ThingName", "iot:Connection.Thing.Attributes[site]"]
    {
        let value = device.value(key).unwrap_or_default();
        name = name.replace(&format!("${{{key}}}"), &value);
    }
    if dice.percent(30) {
        let instead = dice.one(&["x", "a/b", "+", "#", "", "a"]);
        name = name.replacen(dice.one(&["*", "?", "+", "#"]), instead, 1);
    }
    name
}

/// Compares the two over so many cases; gives how many were allowed, and denied by a Deny.
fn compare(from: u64, cases: u64) -> (u64, u64) {
    let (mut allowed, mut denied) = (0, 0);
    for seed in from..from + cases {
        let mut dice = Dice(seed);
        let device = device(&mut dice);
        let documents: Vec<Value> = (0..=dice.below(2))
            .map(|_| {
                let statements: Vec<_> =
                    (0..=dice.below(3)).map(|_| statement(&mut dice)).collect();
                json!({ "Version": "2012-10-17", "Statement": statements })
            })
            .collect();
        let sources: Vec<Source> = documents
            .iter()
            .map(|document| {
                let document = Document::parse(&document.to_string()).map_err(|e| e.to_string());
                Source { policy: "p".into(), version: 1, document: Arc::new(document) }
            })
            .collect();
        let thing = device.thing.as_deref();
        let facts = Facts {
            region: REGION,
            account: ACCOUNT,
            client_id: Some(&device.id),
            source_ip: Some(device.ip),
            certificate_id: Some("c0ffee"),
            thing: thing.map(|name| ThingFacts {
                name,
                thing_type: None,
                attributes: &device.attributes,
            }),
            ..Facts::default()
        };
        let rights = Rights::new(&sources, &facts);
        let (action, kind) = ACTIONS[dice.below(ACTIONS.len())];
        let name = asked(&mut dice, &device, &documents);
        let wanted = device.may(&documents, action, kind, &name);
        let decision = rights.decide(action, &name);
        assert!(
            rights.allows(action, &name) == wanted && decision.is_allowed() == wanted,
            "seed {seed}: {} on {name:?} is {}allowed by the reference: {device:?}\n{}\nours: {decision}",
            action.name(),
            if wanted { "" } else { "not " },
            documents.iter().map(Value::to_string).collect::<Vec<_>>().join("\n"),
        );
        allowed += u64::from(wanted);
        denied += u64::from(decision.verdict == identity::policy::Verdict::Denied);
    }
    (allowed, denied)
}

#[test]
fn b3_decisions_equal_those_of_a_second_evaluator() {
    let cases = 20_000;
    let (allowed, denied) = compare(1, cases);
    // Neither side of the comparison is a constant.
    assert!(allowed > cases / 10 && allowed < cases * 9 / 10, "{allowed} of {cases} allowed");
    assert!(denied > cases / 50, "{denied} of {cases} denied");
}

#[test]
#[ignore = "a million policies take a minute"]
fn b3_long_decisions_equal_those_of_a_second_evaluator() {
    let (allowed, denied) = compare(1_000_000, 1_000_000);
    println!("1000000 policies compared, {allowed} allowed, {denied} denied, 0 differ");
}
