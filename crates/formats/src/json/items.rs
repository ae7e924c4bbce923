//! Records that lie within a document: its items by a path, one after another.
//!
//! [`Items`] stands between the bytes and a scan, and hands on what the path names, an object a
//! line. What is off the path is passed over without being looked at closely; what is on it is
//! judged by the scan. Memory is a buffer, whatever the document is.

use std::fmt;
use std::io::Read;

use base::{Error, Result};

/// Bytes that are taken at a time.
const CHUNK_BYTES: usize = 64 * 1024;
/// Steps of a path at most.
const STEPS_MAX: usize = 32;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// The value of a key.
    Key(String),
    /// Each item of an array.
    Each,
}

/// Where records lie: `$[*]`, `$.records[*]`, `$['a b'].list`. A path that ends at an array means
/// its items.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    steps: Vec<Step>,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("$")?;
        self.steps.iter().try_for_each(|step| match step {
            Step::Key(key) => write!(f, "['{key}']"),
            Step::Each => f.write_str("[*]"),
        })
    }
}

impl std::str::FromStr for Path {
    type Err = Error;

    /// Reads a path.
    ///
    /// # Errors
    /// Unsupported for what a path may have elsewhere: indexes, `*` of keys, `..`, filters.
    fn from_str(text: &str) -> Result<Path> {
        let refused = |why: &str| {
            Err(Error::unsupported(format!(
                "JSON path {text:?}: {why}; write $[*], $.key[*] or $['key'][*]"
            )))
        };
        let Some(mut rest) = text.trim().strip_prefix('$') else {
            return refused("it does not begin with $");
        };
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("[*]") {
                steps.push(Step::Each);
                rest = after;
            } else if let Some(after) = rest.strip_prefix("['") {
                let Some((key, after)) = after.split_once("']") else {
                    return refused("a bracket is not closed");
                };
                steps.push(Step::Key(key.to_owned()));
                rest = after;
            } else if let Some(after) = rest.strip_prefix('.') {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                let (key, after) = after.split_at(end);
                if key.is_empty() || key == "*" {
                    return refused("'..' and '.*' are not supported");
                }
                steps.push(Step::Key(key.to_owned()));
                rest = after;
            } else {
                return refused("only keys and [*] are supported");
            }
        }
        let odd = |step: &Step| matches!(step, Step::Key(key) if key.contains(['\\', '"']));
        if steps.iter().any(odd) {
            return refused("a key with '\\' or '\"' is not supported");
        }
        if steps.len() > STEPS_MAX {
            return refused("it has too many steps");
        }
        Ok(Path { steps })
    }
}

/// A value that was gone into.
#[derive(Clone, Copy, Debug)]
struct Frame {
    array: bool,
    /// Steps of the path that lead to what is in it; for an object, to the key that is wanted.
    matched: usize,
    /// It lies where the path ends.
    last: bool,
}

/// How far a value was gone through that is not gone into.
#[derive(Clone, Copy, Debug, Default)]
struct Within {
    depth: usize,
    text: bool,
    escaped: bool,
    /// A number or a word, which ends before what follows it.
    word: bool,
}

#[derive(Clone, Debug)]
enum State {
    /// Something is to begin or to end.
    Between,
    /// In a key of an object on the path: as it is written so far.
    Key { text: Vec<u8>, escaped: bool },
    /// Behind a key: whether it is the wanted one.
    Colon { wanted: bool },
    /// A value is to begin: the steps that lead to it, if it is on the path.
    Value { matched: Option<usize> },
    /// In a value that is handed on, or is not.
    In { within: Within, kept: bool },
}

/// The items of a document, or of several one after another.
pub struct Items<R> {
    input: R,
    path: Path,
    frames: Vec<Frame>,
    state: State,
    chunk: Vec<u8>,
    out: Vec<u8>,
    at: usize,
    /// Bytes of a byte order mark seen at the start; `None` once something else has come.
    mark: Option<usize>,
}

impl<R> fmt::Debug for Items<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items").field("path", &self.path).finish_non_exhaustive()
    }
}

impl<R: Read> Items<R> {
    /// The items of plain bytes (see [`crate::decode`]).
    pub fn new(input: R, path: &Path) -> Self {
        Items {
            input,
            path: path.clone(),
            frames: Vec::new(),
            state: State::Between,
            chunk: vec![0; CHUNK_BYTES],
            out: Vec::new(),
            at: 0,
            mark: Some(0),
        }
    }

    /// Whether `byte` goes on with a byte order mark at the very start. One that breaks off is no
    /// JSON, and neither is what its bytes would be.
    fn is_of_mark(&mut self, byte: u8) -> bool {
        let Some(seen) = self.mark else { return false };
        let goes_on = BYTE_ORDER_MARK.get(seen) == Some(&byte);
        self.mark = goes_on.then_some(seen + 1);
        goes_on
    }

    /// Begins a value with its first byte; whether the byte is done with.
    fn begin(&mut self, byte: u8, matched: Option<usize>) {
        let Some(matched) = matched else { return self.pass(byte, false) };
        let above_last = self.frames.last().is_some_and(|frame| frame.last);
        let last = matched == self.path.steps.len();
        let frame = match (byte, self.path.steps.get(matched)) {
            (b'[', Some(Step::Each)) => Frame { array: true, matched: matched + 1, last: false },
            (b'{', Some(Step::Key(_))) => Frame { array: false, matched, last: false },
            // Where the path ends, an array is gone into once.
            (b'[', None) if !above_last && !self.ends_with_each() => {
                Frame { array: true, matched, last: true }
            }
            _ => return self.pass(byte, last),
        };
        self.frames.push(frame);
        self.state = State::Between;
    }

    fn ends_with_each(&self) -> bool {
        self.path.steps.last() == Some(&Step::Each)
    }

    /// Goes through a value, handing it on or not.
    fn pass(&mut self, byte: u8, kept: bool) {
        let mut within = Within::default();
        match byte {
            b'{' | b'[' => within.depth = 1,
            b'"' => within.text = true,
            _ => within.word = true,
        }
        if kept {
            self.out.push(byte);
        }
        self.state = State::In { within, kept };
    }

    /// Takes one byte; false if it is still to be looked at in the new state.
    fn step(&mut self, byte: u8) -> bool {
        match &mut self.state {
            State::Between => match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b',' => {}
                b']' | b'}' if !self.frames.is_empty() => drop(self.frames.pop()),
                _ => match self.frames.last() {
                    None => self.begin(byte, Some(0)),
                    Some(frame) if frame.array => {
                        let matched = frame.matched;
                        self.begin(byte, Some(matched));
                    }
                    Some(_) if byte == b'"' => {
                        self.state = State::Key { text: Vec::new(), escaped: false };
                    }
                    // No key: not JSON. It is passed over as a value would be.
                    Some(_) => self.pass(byte, false),
                },
            },
            State::Key { text, escaped } => match byte {
                b'"' if !*escaped => {
                    let step = self.frames.last().and_then(|f| self.path.steps.get(f.matched));
                    let wanted = matches!(step, Some(Step::Key(key)) if key.as_bytes() == text);
                    self.state = State::Colon { wanted };
                }
                _ => {
                    *escaped = byte == b'\\' && !*escaped;
                    // A key that is longer than any in a path is none of its keys.
                    if text.len() < CHUNK_BYTES {
                        text.push(byte);
                    }
                }
            },
            State::Colon { wanted } => {
                if byte == b':' {
                    let matched = self.frames.last().map(|frame| frame.matched + 1);
                    self.state = State::Value { matched: matched.filter(|_| *wanted) };
                } else if !byte.is_ascii_whitespace() {
                    self.state = State::Between;
                    return false;
                }
            }
            State::Value { matched } => {
                if matches!(byte, b',' | b'}' | b']') {
                    self.state = State::Between;
                    return false;
                }
                if !byte.is_ascii_whitespace() {
                    let matched = *matched;
                    self.begin(byte, matched);
                }
            }
            State::In { within, kept } => {
                let kept = *kept;
                if within.word && matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\r' | b'\n')
                {
                    self.end(kept);
                    return false;
                }
                let mut over = false;
                if within.text {
                    over = byte == b'"' && !within.escaped && within.depth == 0;
                    if byte == b'"' && !within.escaped {
                        within.text = false;
                    }
                    within.escaped = byte == b'\\' && !within.escaped;
                } else {
                    match byte {
                        b'"' if !within.word => within.text = true,
                        b'{' | b'[' if !within.word => within.depth += 1,
                        b'}' | b']' => {
                            within.depth = within.depth.saturating_sub(1);
                            over = within.depth == 0;
                        }
                        _ => {}
                    }
                }
                if kept {
                    // An item is one line, so that what is wrong with it stays with it.
                    self.out.push(if matches!(byte, b'\n' | b'\r') { b' ' } else { byte });
                }
                if over {
                    self.end(kept);
                }
            }
        }
        true
    }

    fn end(&mut self, kept: bool) {
        if kept {
            self.out.push(b'\n');
        }
        self.state = State::Between;
    }
}

impl<R: Read> Read for Items<R> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        while self.at == self.out.len() {
            self.out.clear();
            self.at = 0;
            let mut chunk = std::mem::take(&mut self.chunk);
            let read = self.input.read(&mut chunk);
            let count = match read {
                Ok(count) => count,
                Err(cause) => {
                    self.chunk = chunk;
                    return Err(cause);
                }
            };
            for byte in &chunk[..count] {
                if !self.is_of_mark(*byte) {
                    while !self.step(*byte) {}
                }
            }
            self.chunk = chunk;
            if count == 0 {
                break;
            }
        }
        let count = to.len().min(self.out.len() - self.at);
        to[..count].copy_from_slice(&self.out[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out a byte at a time, so that every state is met at a border.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            let count = self.0.len().min(to.len()).min(1);
            to[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn items(path: &str, text: &str) -> String {
        let path: Path = path.parse().unwrap();
        let (mut fast, mut slow) = (String::new(), String::new());
        Items::new(text.as_bytes(), &path).read_to_string(&mut fast).unwrap();
        Items::new(Slow(text.as_bytes()), &path).read_to_string(&mut slow).unwrap();
        assert_eq!(fast, slow, "{path} of {text}");
        fast
    }

    #[test]
    fn the_items_of_a_document_come_one_a_line() {
        let array = "\u{feff}[ {\"a\":1,\n\"b\":[{}]} ,{\"s\":\"],}\\\"{\"}\n, 5, \"x\\\\\" ]\n";
        let found = "{\"a\":1, \"b\":[{}]}\n{\"s\":\"],}\\\"{\"}\n5\n\"x\\\\\"\n";
        assert_eq!(items("$[*]", array), found);
        assert_eq!(items("$", array), found);
        let nested = "{\"meta\":{\"records\":[1]},\"records\":[{\"n\":1},{\"n\":2}],\"more\":[3]}";
        let found = "{\"n\":1}\n{\"n\":2}\n";
        for path in ["$.records[*]", "$.records", "$['records'][*]"] {
            assert_eq!(items(path, nested), found, "{path}");
            assert_eq!(items(path, &format!("{nested}\n{nested}")), found.repeat(2), "{path}");
        }
        let deep = "[{\"rows\":[{\"v\":{\"x\":1}},{\"w\":0},{\"v\":{\"x\":2}}]},{\"rows\":[]},{}]";
        assert_eq!(items("$[*].rows[*].v", deep), "{\"x\":1}\n{\"x\":2}\n");
        assert_eq!(items("$[*].rows[*]", deep).lines().count(), 3);
        // What is not there, or is something else, has no items.
        assert_eq!(items("$.records[*]", "{\"records\":{\"a\":1}} 7 \"records\" []"), "");
        assert_eq!(items("$[*]", "{\"a\":[1]}"), "");
        assert_eq!(items("$.a", "{\"a\":{\"b\":1}}"), "{\"b\":1}\n");
        assert_eq!(items("$[*]", "[[{\"a\":1}]]"), "[{\"a\":1}]\n");
    }

    #[test]
    fn what_is_torn_is_handed_on_for_the_scan_to_judge() {
        assert_eq!(items("$[*]", "[{\"a\":1},{\"a\":"), "{\"a\":1}\n{\"a\":");
        assert_eq!(items("$[*]", "[{\"a\":1} {\"a\":2}}} ]"), "{\"a\":1}\n{\"a\":2}\n");
        assert_eq!(items("$.r", "{\"r\":,\"r\"  [1],\"r\":[{}]}"), "{}\n");
        assert_eq!(items("$.r", "{r:1,\"r\":[{}]}"), "{}\n");
    }

    #[test]
    fn paths_are_keys_and_items_and_nothing_else() {
        for text in ["$[*]", "$['records'][*]", "$['a b']"] {
            assert_eq!(text.parse::<Path>().unwrap().to_string(), text);
        }
        assert_eq!("$.a.b[*]".parse::<Path>().unwrap().to_string(), "$['a']['b'][*]");
        for text in ["", "records", "$[0]", "$..a", "$.*", "$.a[?(@.b)]", "$['a", "$['a\"'][*]"] {
            assert!(text.parse::<Path>().is_err(), "{text}");
        }
    }
}
