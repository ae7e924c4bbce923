//! DeepAR's JSON Lines: one series a line.
//!
//! ```text
//! {"start": "2021-02-05 00:00:00", "target": [1.0, null, "NaN", NaN], "cat": [0], "dynamic_feat": [[..]]}
//! ```
//!
//! Lenient where notebooks are sloppy (a bare `NaN` as Python prints it, a single integer as
//! `cat`, GluonTS's field names), strict where a guess would change the data. Unknown fields
//! are ignored, as DeepAR does. Compression is the caller's business.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::BufRead;

use base::{Error, Result};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::calendar::{DateTime, Frequency, shorten};
use crate::series::{Dataset, TimeSeries};
use crate::values::Values;

/// The longest line read. A hundred years of hours are about 20 MB of text.
pub const LINE_BYTES_MAX: usize = 256 << 20;

/// Reads a data set; blank lines are skipped. Errors name the line and, if it has one, the
/// item. The result is validated ([`Dataset::validate`]).
pub fn read(reader: impl BufRead, freq: Frequency) -> Result<Dataset> {
    let mut dataset = Dataset { freq, series: Vec::new() };
    append(reader, &mut dataset)?;
    dataset.validate()?;
    Ok(dataset)
}

/// Appends the series of one more file to `dataset`. Validate once after the last.
pub fn append(reader: impl BufRead, dataset: &mut Dataset) -> Result<()> {
    let freq = dataset.freq;
    each(reader, freq, |series| {
        dataset.series.push(series);
        Ok(())
    })
}

/// Hands over the series of a file one by one, so that only one of them need be in memory.
/// `take` may end it with an error. Nothing is validated.
pub fn each(
    mut reader: impl BufRead,
    freq: Frequency,
    mut take: impl FnMut(TimeSeries) -> Result<()>,
) -> Result<()> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let mut limited = std::io::Read::take(&mut reader, LINE_BYTES_MAX as u64 + 1);
        let read = limited
            .read_until(b'\n', &mut line)
            .map_err(|cause| Error::io(format!("reading line {number}"), cause))?;
        if read == 0 {
            break;
        }
        if line.len() > LINE_BYTES_MAX {
            return Err(Error::invalid(format!(
                "line {number} is longer than {LINE_BYTES_MAX} bytes"
            )));
        }
        let text = std::str::from_utf8(&line).map_err(|cause| {
            Error::invalid(format!("line {number} is not UTF-8 text")).with_source(cause)
        })?;
        if !text.trim().is_empty() {
            parse_series(text, freq)
                .and_then(&mut take)
                .map_err(|error| error.context(format_args!("line {number}")))?;
        }
    }
    Ok(())
}

/// Reads one series from one JSON object: a line of a data set or an instance of a request.
/// `start` is aligned down to `freq`.
pub fn parse_series(text: &str, freq: Frequency) -> Result<TimeSeries> {
    if let Some(series) = serde_json::from_str::<Strict<'_>>(text).ok().and_then(|s| s.read(freq)) {
        return Ok(series);
    }
    let text = without_bare_nan(text.trim());
    // serde would take an array as the fields in their order.
    if !text.starts_with('{') {
        return Err(Error::invalid("not a series as JSON: expected an object"));
    }
    let record: Record<'_> = serde_json::from_str(&text)
        .map_err(|cause| Error::invalid(format!("not a series as JSON: {cause}")))?;
    let item_id = record.item_id.map(RawValue::get).filter(|raw| *raw != "null").map(plain_id);
    let name = item_id.clone();
    record.into_series(item_id, freq).map_err(|error| match name {
        Some(id) => error.context(format_args!("series \"{}\"", shorten(&id))),
        None => error,
    })
}

/// A series written without any of the liberties that [`parse_series`] allows: read in one pass,
/// and part of a larger text if that is what it is. Where this fails, [`parse_series`] still may
/// read it, and says what is wrong.
pub struct Strict<'a>(StrictRecord<'a>);

#[derive(Deserialize)]
struct StrictRecord<'a> {
    #[serde(borrow, default)]
    item_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    start: Cow<'a, str>,
    target: Numbers,
    #[serde(default, alias = "feat_static_cat")]
    cat: Vec<u32>,
    #[serde(default, alias = "feat_dynamic_real")]
    dynamic_feat: Vec<Numbers>,
}

impl Strict<'_> {
    /// The series at a frequency; `None` if its start is no moment.
    pub fn read(self, freq: Frequency) -> Option<TimeSeries> {
        let StrictRecord { item_id, start, target, cat, dynamic_feat } = self.0;
        let start: DateTime = start.parse().ok()?;
        Some(TimeSeries {
            item_id: item_id.map(Cow::into_owned),
            start: freq.align(start),
            target: target.0.into(),
            feat_static_cat: cat,
            feat_dynamic_real: dynamic_feat.into_iter().map(|feature| feature.0.into()).collect(),
        })
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Strict<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Object<'a> {
            type Value = Strict<'a>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Strict<'a>, A::Error> {
                StrictRecord::deserialize(MapAccessDeserializer::new(map)).map(Strict)
            }
        }
        // A record by itself would take an array as its members in their order.
        deserializer.deserialize_map(Object(std::marker::PhantomData))
    }
}

/// Values as 32-bit floats; what is beyond them is refused.
struct Numbers(Vec<f32>);

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Numbers;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of numbers")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Numbers, A::Error> {
                let mut values = Vec::new();
                while let Some(Point(wide)) = list.next_element()? {
                    let value = wide as f32;
                    if value.is_infinite() {
                        return Err(de::Error::custom("beyond what 32-bit floats hold"));
                    }
                    values.push(value);
                }
                Ok(Numbers(values))
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// Reads one series from a JSON value already parsed.
pub fn series_from_value(value: &serde_json::Value, freq: Frequency) -> Result<TimeSeries> {
    parse_series(&value.to_string(), freq)
}

/// Writes one series as one line, without the line break.
pub fn write_series(series: &TimeSeries, out: &mut String) {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    out.push('{');
    if let Some(id) = &series.item_id {
        push(out, format_args!("\"item_id\":{},", quoted(id)));
    }
    push(out, format_args!("\"start\":{},\"target\":", quoted(&series.start.to_string())));
    write_numbers(&series.target, out);
    if !series.feat_static_cat.is_empty() {
        push(out, format_args!(",\"cat\":{:?}", series.feat_static_cat));
    }
    if !series.feat_dynamic_real.is_empty() {
        out.push_str(",\"dynamic_feat\":[");
        for (k, feature) in series.feat_dynamic_real.iter().enumerate() {
            out.push_str(if k > 0 { "," } else { "" });
            write_numbers(feature, out);
        }
        out.push(']');
    }
    out.push('}');
}

/// The whole data set as text.
pub fn write(dataset: &Dataset) -> String {
    let mut out = String::new();
    for series in &dataset.series {
        write_series(series, &mut out);
        out.push('\n');
    }
    out
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a String cannot fail");
}

fn write_numbers(values: &[f32], out: &mut String) {
    out.push('[');
    for (index, value) in values.iter().enumerate() {
        out.push_str(if index > 0 { "," } else { "" });
        match value.is_finite() {
            true => push(out, format_args!("{value:?}")),
            false => out.push_str("null"),
        }
    }
    out.push(']');
}

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow, default)]
    item_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    start: Option<&'a RawValue>,
    #[serde(borrow, default)]
    target: Option<&'a RawValue>,
    #[serde(borrow, default, alias = "feat_static_cat")]
    cat: Option<&'a RawValue>,
    #[serde(borrow, default, alias = "feat_dynamic_real")]
    dynamic_feat: Option<&'a RawValue>,
}

impl Record<'_> {
    fn into_series(self, item_id: Option<String>, freq: Frequency) -> Result<TimeSeries> {
        let start: String = field("start", required("start", self.start)?)?;
        let start: DateTime = start.parse().map_err(|error: Error| error.context("start"))?;
        let target: Vec<Point> = field("target", required("target", self.target)?)?;
        let cat = match given(self.cat) {
            Some(raw) => field::<Cats>("cat", raw)?.0,
            None => Vec::new(),
        };
        let features: Vec<Vec<Point>> = match given(self.dynamic_feat) {
            Some(raw) => field("dynamic_feat", raw)?,
            None => Vec::new(),
        };
        Ok(TimeSeries {
            item_id,
            start: freq.align(start),
            target: numbers("target", target)?,
            feat_static_cat: cat,
            feat_dynamic_real: features
                .into_iter()
                .map(|feature| numbers("dynamic_feat", feature))
                .collect::<Result<_>>()?,
        })
    }
}

fn given(raw: Option<&RawValue>) -> Option<&RawValue> {
    raw.filter(|raw| raw.get() != "null")
}

fn required<'a>(name: &str, raw: Option<&'a RawValue>) -> Result<&'a RawValue> {
    given(raw).ok_or_else(|| Error::invalid(format!("\"{name}\" is missing")))
}

fn field<'a, T: Deserialize<'a>>(name: &str, raw: &'a RawValue) -> Result<T> {
    serde_json::from_str(raw.get()).map_err(|cause| Error::invalid(format!("{name}: {cause}")))
}

fn plain_id(raw: &str) -> String {
    serde_json::from_str(raw).unwrap_or_else(|_| raw.to_owned())
}

fn numbers(name: &str, points: Vec<Point>) -> Result<Values> {
    let narrow = |(at, Point(wide)): (usize, &Point)| {
        let value = *wide as f32;
        if value.is_infinite() {
            return Err(Error::invalid(format!(
                "{name}[{at}] = {wide:e} is beyond what 32-bit floats hold; rescale the data"
            )));
        }
        Ok(value)
    };
    points.iter().enumerate().map(narrow).collect()
}

/// A number, or NaN for null and for the strings "NaN" and "nan".
struct Point(f64);

impl<'de> Deserialize<'de> for Point {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PointVisitor;
        impl Visitor<'_> for PointVisitor {
            type Value = Point;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number, null or \"NaN\"")
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Point, E> {
                Ok(Point(value))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Point, E> {
                Ok(Point(value as f64))
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Point, E> {
                Ok(Point(value as f64))
            }
            fn visit_unit<E: de::Error>(self) -> Result<Point, E> {
                Ok(Point(f64::NAN))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Point, E> {
                match text.eq_ignore_ascii_case("nan") {
                    true => Ok(Point(f64::NAN)),
                    false => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(PointVisitor)
    }
}

/// Categories as an array, or as the single integer of DeepAR's first releases.
struct Cats(Vec<u32>);

impl<'de> Deserialize<'de> for Cats {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            One(u32),
            Many(Vec<u32>),
        }
        match Either::deserialize(deserializer) {
            Ok(Either::One(cat)) => Ok(Cats(vec![cat])),
            Ok(Either::Many(cats)) => Ok(Cats(cats)),
            Err(_) => Err(de::Error::custom("expected an array of integers counted from 0")),
        }
    }
}

/// Replaces every `NaN` outside a string by `null`: Python's `json.dumps` writes it, JSON
/// does not have it.
pub fn without_bare_nan(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut spans = Vec::new();
    let (mut in_string, mut at) = (false, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            b'N' | b'n' if !in_string && is_nan(&bytes[at..]) => {
                spans.push(at);
                at += 2;
            }
            _ => {}
        }
        at += 1;
    }
    if spans.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + spans.len());
    let mut from = 0;
    for at in spans {
        out.push_str(&text[from..at]);
        out.push_str("null");
        from = at + 3;
    }
    out.push_str(&text[from..]);
    Cow::Owned(out)
}

fn is_nan(bytes: &[u8]) -> bool {
    bytes.get(..3).is_some_and(|word| word.eq_ignore_ascii_case(b"nan"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<TimeSeries> {
        parse_series(text, Frequency::HOURLY)
    }

    /// What the quick way reads, the lenient one reads as the same, and the quick one refuses what
    /// only the other can read or say.
    #[test]
    fn the_quick_way_reads_what_the_other_reads() {
        let strict = |text: &str| {
            serde_json::from_str::<Strict<'_>>(text).ok().and_then(|s| s.read(Frequency::HOURLY))
        };
        // A stray word outside, so that the quick way is not taken.
        let lenient = |text: &str| parse(&text.replacen('{', r#"{"other":NaN,"#, 1));
        for text in [
            r#"{"start":"2021-02-05 0:30:00","target":[1,null,"NaN",-2.5e1,0.1,16777217,1e-50]}"#,
            r#" {"item_id":"a \"b\" \u00e9","start":"2021-02-05","target":[],"cat":[3,0],"x":{"y":[1]}} "#,
            r#"{"item_id":null,"start":"2021-02-05","target":[1],"dynamic_feat":[[1,2],[]]}"#,
            r#"{"feat_static_cat":[1],"start":"2021-02-05T01:00:00","target":[3.4028235e38]}"#,
        ] {
            let (quick, slow) = (strict(text).unwrap(), lenient(text).unwrap());
            let bits = |s: &TimeSeries| s.target.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&quick), bits(&slow), "{text}");
            assert_eq!((&quick.item_id, quick.start), (&slow.item_id, slow.start), "{text}");
            assert_eq!(quick.feat_static_cat, slow.feat_static_cat, "{text}");
            assert_eq!(quick.feat_dynamic_real, slow.feat_dynamic_real, "{text}");
        }
        for text in [
            r#"["id","2021-02-05",[1],[],[]]"#,
            r#"{"start":"2021-02-05","target":[NaN]}"#,
            r#"{"start":"2021-02-05","target":[1e39]}"#,
            r#"{"start":"2021-02-05","target":[true]}"#,
            r#"{"start":"2021-02-05","target":[1],"target":[1]}"#,
            r#"{"start":"2021-02-05","target":[1],"cat":[1],"feat_static_cat":[1]}"#,
            r#"{"start":"2021-02-05","target":null}"#,
            r#"{"start":"noon","target":[1]}"#,
            r#"{"start":"2021-02-05","target":[1]} 2"#,
        ] {
            assert!(strict(text).is_none(), "{text}");
        }
    }

    #[test]
    fn reads_every_way_to_say_missing() {
        let line = r#"{"start":"2021-02-05 0:30:00","target":[1, null, "NaN", NaN, nan, -2.5e1],
            "cat":3,"item_id":"a NaN \" b","other":{"x":[NaN]}}"#;
        let series = parse(line).unwrap();
        assert_eq!(series.start.to_string(), "2021-02-05 00:00:00");
        assert_eq!(series.item_id.as_deref(), Some("a NaN \" b"));
        assert_eq!(series.feat_static_cat, [3]);
        let missing: Vec<bool> = series.target.iter().map(|value| value.is_nan()).collect();
        assert_eq!(missing, [false, true, true, true, true, false]);
        assert_eq!(series.target[5], -25.0);
    }

    #[test]
    fn takes_gluonts_names_and_numeric_ids() {
        let line = r#"{"item_id":7,"start":"2021-02-05","target":[],"feat_static_cat":[1,2],
            "feat_dynamic_real":[[1,2]]}"#;
        let series = parse(line).unwrap();
        assert_eq!(series.item_id.as_deref(), Some("7"));
        assert_eq!(series.feat_static_cat, [1, 2]);
        assert_eq!(series.feat_dynamic_real, [[1.0, 2.0]]);
    }

    #[test]
    fn errors_name_line_series_and_field() {
        let good = r#"{"start":"2021-02-05","target":[1]}"#;
        for (line, expect) in [
            ("{", "line 2: not a series as JSON"),
            ("[1]", "line 2: not a series as JSON"),
            (r#"{"target":[1]}"#, "\"start\" is missing"),
            (
                r#"{"item_id":"x","start":"2021-02-05"}"#,
                "line 2: series \"x\": \"target\" is missing",
            ),
            (
                r#"{"item_id":"x","start":"soon","target":[]}"#,
                "series \"x\": start: \"soon\" is not a time",
            ),
            (
                r#"{"start":"2021-02-05","target":[1,"two"]}"#,
                "target: invalid value: string \"two\"",
            ),
            (r#"{"start":"2021-02-05","target":[1e39]}"#, "target[0] = 1e39 is beyond"),
            (
                r#"{"start":"2021-02-05","target":[1],"cat":[-1]}"#,
                "cat: expected an array of integers",
            ),
            (r#"{"start":"2021-02-05","target":[1],"dynamic_feat":[1]}"#, "dynamic_feat: "),
        ] {
            let text = format!("{good}\n{line}\n");
            let error = read(text.as_bytes(), Frequency::HOURLY).unwrap_err().to_string();
            assert!(error.contains(expect), "{line}\n  gave: {error}");
        }
    }

    #[test]
    fn validates_across_series() {
        let first = r#"{"start":"2021-02-05","target":[1],"cat":[0],"dynamic_feat":[[1]]}"#;
        for (line, expect) in [
            (
                r#"{"start":"2021-02-05","target":[1],"dynamic_feat":[[1]]}"#,
                "series 1: has 0 values in cat",
            ),
            (r#"{"start":"2021-02-05","target":[1],"cat":[0]}"#, "has 0 dynamic_feat"),
            (
                r#"{"start":"2021-02-05","target":[1,2],"cat":[0],"dynamic_feat":[[1]]}"#,
                "has 1 values for a target of 2",
            ),
            (
                r#"{"start":"2021-02-05","target":[1],"cat":[0],"dynamic_feat":[[null]]}"#,
                "[0][0] is missing",
            ),
        ] {
            let error =
                read(format!("{first}\n\n{line}").as_bytes(), Frequency::HOURLY).unwrap_err();
            assert!(error.to_string().contains(expect), "{error}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let series = TimeSeries {
            item_id: Some("ü \"quoted\" \u{1}".into()),
            start: "1750-01-01 05:00:00".parse().unwrap(),
            target: vec![1.5, f32::NAN, -0.1, 3.0e38, 1e-30].into(),
            feat_static_cat: vec![4, 0],
            feat_dynamic_real: vec![vec![0.0, 1.0, 2.0, 3.0, 4.0].into()],
        };
        let dataset = Dataset {
            freq: Frequency::HOURLY,
            series: vec![series.clone(), TimeSeries::default()],
        };
        let back = read(write(&dataset).as_bytes(), Frequency::HOURLY);
        // The default series lacks cat, so the pair does not validate; each alone reads back.
        assert!(back.is_err());
        let mut line = String::new();
        write_series(&series, &mut line);
        let back = parse(&line).unwrap();
        assert_eq!(back.feat_dynamic_real, series.feat_dynamic_real);
        assert_eq!((back.item_id, back.start), (series.item_id, series.start));
        for (ours, theirs) in back.target.iter().zip(&series.target) {
            assert_eq!(ours.to_bits(), theirs.to_bits());
        }
    }

    #[test]
    fn hostile_lines_never_panic() {
        let line =
            r#"{"start":"2021-02-05 00:00:00","target":[1,NaN,"NaN"],"cat":[0],"item_id":"x\"é"}"#;
        for cut in 0..line.len() {
            if let Some(head) = line.get(..cut) {
                assert!(parse(head).is_err());
            }
            for byte in [b'N', b'"', b'\\', b'[', 0xff] {
                let mut bytes = line.as_bytes().to_vec();
                bytes[cut] = byte;
                drop(read(&*bytes, Frequency::HOURLY));
            }
        }
    }
}
