//! A shadow's document as a pure function: what a request makes of it and what is said then.
//! Follows AWS's "Device Shadow service documents".

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Levels of objects and lists within `desired` or `reported`, AWS's bound.
const LEVELS_MAX: usize = 8;

/// Bytes of a client token, AWS's bound.
const TOKEN_BYTES_MAX: usize = 64;

/// `desired` or `reported`, with the second in which each value was set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Section {
    state: Map<String, Value>,
    metadata: Map<String, Value>,
}

/// The state of a thing, as it is wished and as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Document {
    desired: Section,
    reported: Section,
    /// Counts the updates, also over a deletion.
    pub(crate) version: u64,
    pub(crate) at_secs: i64,
}

/// Why a request is refused, as `rejected` says it and as HTTP does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShadowRefusal {
    /// The status that HTTP has for it.
    pub code: u16,
    /// What is wrong.
    pub message: String,
}

impl ShadowRefusal {
    pub(crate) fn new(code: u16, message: impl Into<String>) -> ShadowRefusal {
        ShadowRefusal { code, message: message.into() }
    }
}

/// What a client wants of a shadow, read from its payload.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Request {
    /// Comes back with the answer.
    pub(crate) token: Option<String>,
    version: Option<u64>,
    state: Map<String, Value>,
}

impl Request {
    /// Reads an update.
    pub(crate) fn update(payload: &[u8]) -> Result<Request, (Option<String>, ShadowRefusal)> {
        let mut root = object(payload).map_err(|refusal| (None, refusal))?;
        let token = token(&root).map_err(|refusal| (None, refusal))?;
        let refused = |message: &str| (token.clone(), ShadowRefusal::new(400, message));
        let version = match root.get("version") {
            None | Some(Value::Null) => None,
            Some(version) => Some(version.as_u64().ok_or_else(|| refused("Invalid version"))?),
        };
        let state = match root.shift_remove("state") {
            None => return Err(refused("Missing required node: state")),
            Some(Value::Object(state)) => state,
            Some(_) => return Err(refused("State node must be an object")),
        };
        for (name, section) in &state {
            let title = match name.as_str() {
                "desired" => "Desired",
                "reported" => "Reported",
                other => {
                    return Err(refused(&format!("State contains an invalid node: '{other}'")));
                }
            };
            if !section.is_object() && !section.is_null() {
                return Err(refused(&format!("{title} node must be an object")));
            }
            if levels(section) > LEVELS_MAX {
                let why =
                    format!("JSON contains too many levels of nesting; maximum is {LEVELS_MAX}");
                return Err(refused(&why));
            }
        }
        Ok(Request { token, version, state })
    }

    /// Reads what comes with a get or a delete: nothing, or a token.
    pub(crate) fn bare(payload: &[u8]) -> Result<Request, ShadowRefusal> {
        if payload.iter().all(u8::is_ascii_whitespace) {
            return Ok(Request::default());
        }
        let root = object(payload)?;
        Ok(Request { token: token(&root)?, ..Request::default() })
    }
}

fn object(payload: &[u8]) -> Result<Map<String, Value>, ShadowRefusal> {
    let text = std::str::from_utf8(payload).map_err(|_not_text| {
        ShadowRefusal::new(415, "Unsupported documented encoding; supported encoding is UTF-8")
    })?;
    match serde_json::from_str(text) {
        Ok(Value::Object(root)) => Ok(root),
        Ok(_) => Err(ShadowRefusal::new(400, "Invalid JSON: the document is not an object")),
        Err(cause) => Err(ShadowRefusal::new(400, format!("Invalid JSON: {cause}"))),
    }
}

fn token(root: &Map<String, Value>) -> Result<Option<String>, ShadowRefusal> {
    match root.get("clientToken") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(token)) if token.len() <= TOKEN_BYTES_MAX => Ok(Some(token.clone())),
        Some(_) => Err(ShadowRefusal::new(400, "Invalid clientToken")),
    }
}

fn levels(value: &Value) -> usize {
    match value {
        Value::Object(map) => 1 + map.values().map(levels).max().unwrap_or(0),
        Value::Array(list) => 1 + list.iter().map(levels).max().unwrap_or(0),
        _ => 0,
    }
}

/// What an update made of a document, and the messages about it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Updated {
    pub(crate) document: Document,
    pub(crate) accepted: Value,
    pub(crate) documents: Value,
    /// `None` where what is wished is what is.
    pub(crate) delta: Option<Value>,
}

impl Document {
    /// The document with `request` in it; `self` is what was before, or what was deleted.
    /// `bytes_max` bounds the state, without its metadata.
    pub(crate) fn update(
        &self,
        request: &Request,
        at_secs: i64,
        bytes_max: usize,
    ) -> Result<Updated, ShadowRefusal> {
        if request.version.is_some_and(|version| version != self.version) {
            return Err(ShadowRefusal::new(409, "Version conflict"));
        }
        let mut document = self.clone();
        let mut metadata = Map::new();
        for (name, wanted) in &request.state {
            let section = match name.as_str() {
                "desired" => &mut document.desired,
                _ => &mut document.reported,
            };
            match wanted {
                Value::Object(wanted) => {
                    section.merge(wanted, at_secs);
                    metadata.insert(name.clone(), Value::Object(stamped(wanted, at_secs)));
                }
                // Null: the whole of it goes.
                _ => *section = Section::default(),
            }
        }
        let bytes = document.state().to_string().len();
        if bytes > bytes_max {
            let why = format!(
                "The payload exceeds the maximum size allowed: the state would have {bytes} \
                 bytes, at most {bytes_max} are kept"
            );
            return Err(ShadowRefusal::new(413, why));
        }
        document.version += 1;
        document.at_secs = at_secs;
        let token = request.token.as_deref();
        let accepted = json!({
            "state": request.state,
            "metadata": metadata,
            "version": document.version,
            "timestamp": at_secs,
        });
        let documents = json!({
            "previous": self.whole(),
            "current": document.whole(),
            "timestamp": at_secs,
        });
        let delta = document.delta().map(|(state, metadata)| {
            let delta = json!({
                "version": document.version,
                "timestamp": at_secs,
                "state": state,
                "metadata": metadata,
            });
            with_token(delta, token)
        });
        Ok(Updated {
            accepted: with_token(accepted, token),
            documents: with_token(documents, token),
            delta,
            document,
        })
    }

    /// What a get answers.
    pub(crate) fn answer(&self, request: &Request, now_secs: i64) -> Value {
        let mut answer = self.whole();
        if let Some((delta, _)) = self.delta() {
            answer["state"]["delta"] = Value::Object(delta);
        }
        answer["timestamp"] = json!(now_secs);
        with_token(answer, request.token.as_deref())
    }

    /// What a delete answers.
    pub(crate) fn farewell(&self, request: &Request, now_secs: i64) -> Value {
        let answer = json!({"version": self.version, "timestamp": now_secs});
        with_token(answer, request.token.as_deref())
    }

    /// What is left of a deleted one.
    pub(crate) fn emptied(&self, at_secs: i64) -> Document {
        Document { version: self.version, at_secs, ..Document::default() }
    }

    fn state(&self) -> Value {
        sections(&self.desired.state, &self.reported.state)
    }

    fn whole(&self) -> Value {
        json!({
            "state": self.state(),
            "metadata": sections(&self.desired.metadata, &self.reported.metadata),
            "version": self.version,
        })
    }

    /// Where what is wished is not what is: the wishes, and since when.
    fn delta(&self) -> Option<(Map<String, Value>, Map<String, Value>)> {
        let delta = difference(&self.desired.state, &self.reported.state);
        (!delta.is_empty()).then(|| {
            let metadata = selected(&self.desired.metadata, &delta);
            (delta, metadata)
        })
    }
}

/// A section that holds nothing is left out.
fn sections(desired: &Map<String, Value>, reported: &Map<String, Value>) -> Value {
    let named = [("desired", desired), ("reported", reported)];
    let held = named.into_iter().filter(|(_, section)| !section.is_empty());
    Value::Object(held.map(|(name, s)| (name.to_owned(), Value::Object(s.clone()))).collect())
}

fn with_token(mut message: Value, token: Option<&str>) -> Value {
    if let Some(token) = token {
        message["clientToken"] = json!(token);
    }
    message
}

impl Section {
    fn merge(&mut self, wanted: &Map<String, Value>, at_secs: i64) {
        merge(&mut self.state, &mut self.metadata, wanted, at_secs);
    }
}

/// Objects are merged, null removes, anything else replaces.
fn merge(
    state: &mut Map<String, Value>,
    metadata: &mut Map<String, Value>,
    wanted: &Map<String, Value>,
    at_secs: i64,
) {
    for (name, value) in wanted {
        match value {
            Value::Null => {
                state.shift_remove(name);
                metadata.shift_remove(name);
            }
            Value::Object(wanted) => {
                let inner = state.entry(name.clone()).or_insert(Value::Null);
                let inner_metadata = metadata.entry(name.clone()).or_insert(Value::Null);
                if !inner.is_object() {
                    *inner = json!({});
                    *inner_metadata = json!({});
                }
                if let (Value::Object(inner), Value::Object(inner_metadata)) =
                    (inner, inner_metadata)
                {
                    merge(inner, inner_metadata, wanted, at_secs);
                }
            }
            value => {
                state.insert(name.clone(), value.clone());
                metadata.insert(name.clone(), stamp(at_secs));
            }
        }
    }
}

fn stamp(at_secs: i64) -> Value {
    json!({"timestamp": at_secs})
}

/// The metadata of what was asked for; of what is removed there is none.
fn stamped(wanted: &Map<String, Value>, at_secs: i64) -> Map<String, Value> {
    let kept = wanted.iter().filter(|(_, value)| !value.is_null());
    kept.map(|(name, value)| {
        let stamp = match value {
            Value::Object(inner) => Value::Object(stamped(inner, at_secs)),
            _ => stamp(at_secs),
        };
        (name.clone(), stamp)
    })
    .collect()
}

/// The parts of `desired` that `reported` has not, or has otherwise.
fn difference(desired: &Map<String, Value>, reported: &Map<String, Value>) -> Map<String, Value> {
    let mut delta = Map::new();
    for (name, wanted) in desired {
        match (wanted, reported.get(name)) {
            (wanted, Some(is)) if wanted == is => {}
            (Value::Object(wanted), Some(Value::Object(is))) => {
                let inner = difference(wanted, is);
                if !inner.is_empty() {
                    delta.insert(name.clone(), Value::Object(inner));
                }
            }
            (wanted, _) => {
                delta.insert(name.clone(), wanted.clone());
            }
        }
    }
    delta
}

/// The metadata of the values in `state`.
fn selected(metadata: &Map<String, Value>, state: &Map<String, Value>) -> Map<String, Value> {
    let known = state.iter().filter_map(|(name, value)| Some((name, value, metadata.get(name)?)));
    known
        .map(|(name, value, metadata)| {
            let inner = match (value, metadata) {
                (Value::Object(state), Value::Object(metadata)) => {
                    Value::Object(selected(metadata, state))
                }
                (_, metadata) => metadata.clone(),
            };
            (name.clone(), inner)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 8192;

    fn updated(document: &Document, request: &Value, at_secs: i64) -> Updated {
        let request = Request::update(request.to_string().as_bytes()).unwrap();
        document.update(&request, at_secs, MOST).unwrap()
    }

    fn refused(document: &Document, payload: &[u8]) -> ShadowRefusal {
        match Request::update(payload) {
            Ok(request) => document.update(&request, 1, MOST).unwrap_err(),
            Err((_, refusal)) => refusal,
        }
    }

    /// The course of AWS's page "Simulating device communications".
    #[test]
    fn a_bulb_is_wished_green_and_reports_it() {
        let red = json!({"state": {"reported": {"color": "red", "on": true}}, "clientToken": "a"});
        let first = updated(&Document::default(), &red, 10);
        let stamped = json!({"reported": {"color": {"timestamp": 10}, "on": {"timestamp": 10}}});
        assert_eq!(
            first.accepted,
            json!({"state": red["state"], "metadata": stamped, "version": 1, "timestamp": 10,
                   "clientToken": "a"})
        );
        assert_eq!(first.delta, None);
        assert_eq!(first.documents["previous"], json!({"state": {}, "metadata": {}, "version": 0}));

        let green = json!({"state": {"desired": {"color": "green", "on": true}}});
        let second = updated(&first.document, &green, 20);
        assert_eq!(
            second.delta,
            Some(json!({"version": 2, "timestamp": 20, "state": {"color": "green"},
                        "metadata": {"color": {"timestamp": 20}}}))
        );
        assert_eq!(
            second.document.answer(&Request::default(), 25),
            json!({
                "state": {"desired": {"color": "green", "on": true},
                          "reported": {"color": "red", "on": true},
                          "delta": {"color": "green"}},
                "metadata": {
                    "desired": {"color": {"timestamp": 20}, "on": {"timestamp": 20}},
                    "reported": {"color": {"timestamp": 10}, "on": {"timestamp": 10}}},
                "version": 2, "timestamp": 25
            })
        );

        let reported = json!({"state": {"reported": {"color": "green"}}, "version": 2});
        let third = updated(&second.document, &reported, 30);
        assert_eq!(third.delta, None);
        assert_eq!(third.documents["current"]["metadata"]["reported"]["on"]["timestamp"], 10);
        assert_eq!(third.documents["previous"]["version"], 2);
        assert_eq!(third.document.farewell(&Request::default(), 40)["version"], 3);
    }

    #[test]
    fn objects_are_merged_lists_replaced_and_nulls_removed() {
        let start = json!({"state": {"desired": {"a": {"x": 1, "y": 2}, "list": [1, 2], "b": 1},
                                     "reported": {"a": {"x": 1}, "list": [1]}}});
        let first = updated(&Document::default(), &start, 1);
        assert_eq!(first.delta.unwrap()["state"], json!({"a": {"y": 2}, "list": [1, 2], "b": 1}));
        let change = json!({"state": {"desired": {"a": {"x": null, "z": {"deep": [null]}},
                                                  "list": [3], "b": {"c": 1}}}});
        let second = updated(&first.document, &change, 2);
        let current = &second.documents["current"];
        assert_eq!(
            current["state"]["desired"],
            json!({"a": {"y": 2, "z": {"deep": [null]}}, "list": [3], "b": {"c": 1}})
        );
        assert_eq!(
            current["metadata"]["desired"],
            json!({"a": {"y": {"timestamp": 1}, "z": {"deep": {"timestamp": 2}}},
                   "list": {"timestamp": 2}, "b": {"c": {"timestamp": 2}}})
        );
        // What is removed is not stamped, but it is said.
        assert_eq!(second.accepted["state"], change["state"]);
        assert_eq!(second.accepted["metadata"]["desired"]["a"].get("x"), None);
        let without = json!({"state": {"desired": null}});
        let third = updated(&second.document, &without, 3);
        assert_eq!(third.delta, None);
        assert_eq!(third.documents["current"]["state"].get("desired"), None);
    }

    #[test]
    fn what_is_no_update_is_refused_in_aws_s_words() {
        let one = updated(&Document::default(), &json!({"state": {"desired": {"a": 1}}}), 1);
        let deep = |levels: usize| {
            let (open, close) = ("{\"a\":".repeat(levels), "}".repeat(levels));
            format!("{{\"state\":{{\"desired\":{open}1{close}}}}}")
        };
        assert!(Request::update(deep(8).as_bytes()).is_ok());
        let too_deep = deep(9);
        let long = json!({"state": {}, "clientToken": "x".repeat(65)}).to_string();
        let large = json!({"state": {"desired": {"a": "x".repeat(MOST)}}}).to_string();
        let cases: [(&[u8], u16, &str); 14] = [
            (b"{", 400, "Invalid JSON"),
            (b"", 400, "Invalid JSON"),
            (b"[]", 400, "Invalid JSON"),
            (b"\"\xff\"", 415, "UTF-8"),
            (b"{}", 400, "Missing required node: state"),
            (br#"{"state": 1}"#, 400, "State node must be an object"),
            (br#"{"state": {"desired": 1}}"#, 400, "Desired node must be an object"),
            (br#"{"state": {"reported": []}}"#, 400, "Reported node must be an object"),
            (br#"{"state": {"wished": {}}}"#, 400, "State contains an invalid node: 'wished'"),
            (br#"{"state": {}, "version": "1"}"#, 400, "Invalid version"),
            (br#"{"state": {}, "version": 7}"#, 409, "Version conflict"),
            (long.as_bytes(), 400, "Invalid clientToken"),
            (too_deep.as_bytes(), 400, "too many levels of nesting; maximum is 8"),
            (large.as_bytes(), 413, "at most 8192"),
        ];
        for (payload, code, words) in cases {
            let refusal = refused(&one.document, payload);
            assert_eq!(refusal.code, code, "{refusal:?}");
            assert!(refusal.message.contains(words), "{refusal:?}");
        }
        let (token, _) = Request::update(br#"{"clientToken": "t"}"#).unwrap_err();
        assert_eq!(token.as_deref(), Some("t"), "a refusal bears the token where it can be read");
        assert_eq!(Request::bare(b" \n").unwrap(), Request::default());
        assert_eq!(Request::bare(br#"{"clientToken": "t"}"#).unwrap().token.as_deref(), Some("t"));
        assert_eq!(Request::bare(b"{").unwrap_err().code, 400);
    }

    mod merging {
        use proptest::prelude::*;

        use super::*;

        fn value() -> impl Strategy<Value = Value> {
            let leaf = prop_oneof![
                Just(Value::Null),
                any::<bool>().prop_map(Value::from),
                (0..3_i64).prop_map(Value::from),
                Just(json!([1, null])),
            ];
            leaf.prop_recursive(3, 20, 3, |inner| {
                proptest::collection::btree_map("[a-c]", inner, 0..3)
                    .prop_map(|map| Value::Object(map.into_iter().collect()))
            })
        }

        fn object() -> impl Strategy<Value = Map<String, Value>> {
            proptest::collection::btree_map("[a-c]", value(), 0..4)
                .prop_map(|map| map.into_iter().collect())
        }

        /// The metadata has the state's shape, with a stamp for each value.
        fn same_shape(state: &Map<String, Value>, metadata: &Map<String, Value>) {
            assert!(state.keys().eq(metadata.keys()), "{state:?} {metadata:?}");
            for (name, value) in state {
                match value {
                    Value::Object(inner) => same_shape(inner, metadata[name].as_object().unwrap()),
                    Value::Null => panic!("a null is kept: {state:?}"),
                    _ => assert!(metadata[name]["timestamp"].is_i64()),
                }
            }
        }

        proptest! {
            #[test]
            fn reporting_what_is_wished_leaves_no_delta(
                updates in proptest::collection::vec((object(), object()), 1..4),
            ) {
                let mut document = Document::default();
                for (at, (desired, reported)) in updates.iter().enumerate() {
                    let request = json!({"state": {"desired": desired, "reported": reported}});
                    let before = document.version;
                    document = updated(&document, &request, at as i64).document;
                    prop_assert_eq!(document.version, before + 1);
                    same_shape(&document.desired.state, &document.desired.metadata);
                    same_shape(&document.reported.state, &document.reported.metadata);
                }
                let wished = document.desired.state.clone();
                let obeys = json!({"state": {"reported": wished}});
                prop_assert_eq!(updated(&document, &obeys, 9).delta, None);
            }
        }
    }
}
