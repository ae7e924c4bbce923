//! Where a source by path finds its objects, and how it is told to read them.

use base::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::Format;

/// Objects below a path, of which no table need be in the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectsAt {
    /// Their bucket.
    pub bucket: String,
    /// The folder they lie in, or the key of the only one.
    pub prefix: String,
    /// What they hold.
    pub format: Format,
    /// Globs on keys beneath the folder that are left out.
    #[serde(default)]
    pub exclusions: Vec<String>,
    /// Whether those in folders beneath it belong to them.
    #[serde(default = "yes")]
    pub recurse: bool,
    /// Where records of JSON lie, if the objects themselves are none: `$[*]`.
    #[serde(default)]
    pub records: Option<String>,
    /// The delimiter of CSV; found out if absent.
    #[serde(default)]
    pub delimiter: Option<char>,
    /// The quote of CSV; `"` if absent, and none if it is empty.
    #[serde(default)]
    pub quote: Option<String>,
    /// Whether the first line of CSV has the names of the columns; found out if absent.
    #[serde(default)]
    pub header: Option<bool>,
}

fn yes() -> bool {
    true
}

impl ObjectsAt {
    /// All objects of a format below `prefix`, told nothing more of.
    pub fn new(bucket: impl Into<String>, prefix: impl Into<String>, format: Format) -> Self {
        ObjectsAt {
            bucket: bucket.into(),
            prefix: prefix.into(),
            format,
            exclusions: Vec::new(),
            recurse: true,
            records: None,
            delimiter: None,
            quote: None,
            header: None,
        }
    }

    /// The prefix as a folder.
    pub(crate) fn folder(&self) -> String {
        match self.prefix.is_empty() || self.prefix.ends_with('/') {
            true => self.prefix.clone(),
            false => format!("{}/", self.prefix),
        }
    }

    /// As it is written elsewhere.
    pub(crate) fn address(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix)
    }

    /// Whether an object is one of those that it reads.
    pub(crate) fn may_read(&self, bucket: &str, key: &str) -> bool {
        bucket == self.bucket && (key.starts_with(&self.folder()) || key == self.prefix)
    }

    /// Refuses what cannot be meant.
    pub(super) fn check(&self) -> Result<()> {
        let bad = |why: String| Err(Error::invalid(why));
        if self.bucket.is_empty() {
            return bad("bucket: it is empty".to_owned());
        }
        if self.prefix.starts_with('/') {
            return bad(format!("prefix: {:?} must not begin with '/'", self.prefix));
        }
        crate::glob::Globs::parse(&self.exclusions)?;
        match (&self.records, self.format) {
            (Some(path), Format::Json) => drop(path.parse::<formats::json::Path>()?),
            (Some(_), other) => {
                return bad(format!("records: {} has no JSON path", other.as_str()));
            }
            (None, _) => {}
        }
        let says_csv = self.delimiter.is_some() || self.quote.is_some() || self.header.is_some();
        if self.format != Format::Csv {
            return match says_csv {
                true => bad(format!(
                    "delimiter, quote and header belong to csv and not to {}",
                    self.format.as_str()
                )),
                false => Ok(()),
            };
        }
        let byte = |name: &str, given: char| match u8::try_from(given) {
            Ok(byte) if byte.is_ascii() => Ok(byte),
            _ => bad(format!("{name}: {given:?} is not one ASCII character")).map(|()| 0),
        };
        // Of a delimiter that is to be found out it is enough that the quote is none.
        let delimiter = self.delimiter.map_or(Ok(1), |given| byte("delimiter", given))?;
        let mut dialect = formats::csv::Dialect::new(delimiter);
        if let Some(quote) = &self.quote {
            let mut characters = quote.chars();
            dialect.quote = match (characters.next(), characters.next()) {
                (None, _) => None,
                (Some(one), None) => Some(byte("quote", one)?),
                _ => return bad(format!("quote: {quote:?} is not one character")),
            };
        }
        dialect.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let at = |toml: &str| -> std::result::Result<(), String> {
            let at: ObjectsAt = serde_json::from_str(toml).map_err(|e| e.to_string())?;
            at.check().map_err(|e| e.to_string())
        };
        for sound in [
            r#"{"bucket":"b","prefix":"raw/","format":"json","records":"$[*]"}"#,
            r#"{"bucket":"b","prefix":"","format":"parquet","exclusions":["**.tmp"]}"#,
            r#"{"bucket":"b","prefix":"a.csv","format":"csv","delimiter":";","quote":"","header":true}"#,
        ] {
            assert_eq!(at(sound), Ok(()), "{sound}");
        }
        for (odd, part) in [
            (r#"{"bucket":"","prefix":"raw/","format":"json"}"#, "bucket"),
            (r#"{"bucket":"b","prefix":"/raw","format":"json"}"#, "begin"),
            (r#"{"bucket":"b","prefix":"r","format":"csv","records":"$[*]"}"#, "JSON path"),
            (r#"{"bucket":"b","prefix":"r","format":"json","header":true}"#, "belong to csv"),
            (r#"{"bucket":"b","prefix":"r","format":"csv","delimiter":"ä"}"#, "ASCII"),
            (r#"{"bucket":"b","prefix":"r","format":"csv","quote":"''"}"#, "one character"),
            (r#"{"bucket":"b","prefix":"r","format":"csv","delimiter":"|","quote":"|"}"#, "more"),
            (r#"{"bucket":"b","prefix":"r","format":"orc"}"#, "orc"),
        ] {
            let why = at(odd).expect_err(odd);
            assert!(why.contains(part), "{odd}: {why}");
        }
    }

    #[test]
    fn a_path_is_a_folder_or_an_object() {
        let at = ObjectsAt::new("b", "raw/a", Format::Json);
        for (key, reads) in [("raw/a", true), ("raw/a/x", true), ("raw/ab", false), ("raw", false)]
        {
            assert_eq!(at.may_read("b", key), reads, "{key}");
        }
        assert!(
            !at.may_read("c", "raw/a") && ObjectsAt { prefix: "".into(), ..at }.may_read("b", "x")
        );
    }
}
