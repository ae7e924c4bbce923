//! Hive's SerDes of delimited text, as Glue and Athena name them, to and from the lake's dialect.
//!
//! Both SerDes are read by their own rules but for values: those are typed here as all CSV is, so
//! that a timestamp is written in ISO 8601 and not as a number of milliseconds.

use std::collections::BTreeMap;

use base::{Error, Result};
use formats::csv::{Dialect, Header};

/// Hive's own: no quotes, `\N` is null.
pub(crate) const LAZY: &str = "org.apache.hadoop.hive.serde2.lazy.LazySimpleSerDe";
/// Fields in quotes.
pub(crate) const OPEN: &str = "org.apache.hadoop.hive.serde2.OpenCSVSerde";
/// The table's property that says how many lines are no records.
const SKIPPED: &str = "skip.header.line.count";

/// The dialect that a SerDe reads with these properties of its own and of its table; none if it
/// is no SerDe of delimited text.
///
/// # Errors
/// Unsupported or invalid, naming the property.
pub(crate) fn dialect<'a>(
    library: &str,
    properties: impl IntoIterator<Item = (&'a String, &'a String)>,
    of_table: &BTreeMap<String, String>,
) -> Result<Option<Dialect>> {
    let mut dialect = match library {
        LAZY => hive(),
        OPEN => Dialect { escape: Some(b'\\'), ..Dialect::new(b',') },
        _ => return Ok(None),
    };
    let mut delimiter_said = false;
    for (name, value) in properties {
        match (library, name.as_str()) {
            (LAZY, "field.delim") | (OPEN, "separatorChar") => {
                dialect.delimiter = one_byte(name, value)?;
                delimiter_said = true;
            }
            // Hive's older name of the same.
            (LAZY, "serialization.format") => {
                if !delimiter_said && !matches!(value.as_str(), "" | "1") {
                    dialect.delimiter = one_byte(name, value)?;
                }
            }
            (LAZY, "escape.delim") | (OPEN, "escapeChar") => {
                dialect.escape = Some(one_byte(name, value)?);
            }
            (OPEN, "quoteChar") => dialect.quote = Some(one_byte(name, value)?),
            (LAZY, "serialization.null.format") => dialect.null = Some(value.clone()),
            (LAZY, "line.delim") if value == "\n" => {}
            // They part what is nested, which no column of text is here.
            (LAZY, "collection.delim" | "colelction.delim" | "mapkey.delim") => {}
            (OPEN, "serialization.format") => {}
            (_, SKIPPED) => dialect.header = skipped(value)?,
            _ => {
                return Err(Error::unsupported(format!(
                    "SERDEPROPERTIES {name:?} = {value:?} is not supported for {library}; leave it \
                     out"
                )));
            }
        }
    }
    // A doubled quote is one quote anyway.
    if dialect.escape == dialect.quote {
        dialect.escape = None;
    }
    if let Some(lines) = of_table.get(SKIPPED) {
        dialect.header = skipped(lines)?;
    }
    dialect.check()?;
    Ok(Some(dialect))
}

/// Delimited text of which nothing is said: Hive's.
pub(crate) fn hive() -> Dialect {
    Dialect { quote: None, null: Some("\\N".into()), ..Dialect::new(1) }
}

/// The SerDe that reads a dialect, and its properties.
pub(crate) fn of(dialect: &Dialect) -> (&'static str, BTreeMap<String, String>) {
    let mut properties = BTreeMap::new();
    let mut set = |name: &str, value: String| {
        properties.insert(name.to_owned(), value);
    };
    let text = |byte: u8| char::from(byte).to_string();
    let library = match dialect.quote {
        None => {
            set("field.delim", text(dialect.delimiter));
            set("serialization.format", text(dialect.delimiter));
            if let Some(escape) = dialect.escape {
                set("escape.delim", text(escape));
            }
            if let Some(null) = &dialect.null {
                set("serialization.null.format", null.clone());
            }
            LAZY
        }
        Some(quote) => {
            set("separatorChar", text(dialect.delimiter));
            set("quoteChar", text(quote));
            set("escapeChar", text(dialect.escape.unwrap_or(quote)));
            OPEN
        }
    };
    (library, properties)
}

/// Lines before the records, as a table's property says.
///
/// # Errors
/// Invalid if it is no number.
pub(crate) fn skipped(value: &str) -> Result<Header> {
    match value.trim().parse::<u64>() {
        Ok(0) => Ok(Header::None),
        Ok(lines) => Ok(Header::Skip(lines)),
        Err(_not_a_number) => {
            Err(Error::invalid(format!("{SKIPPED:?} = {value:?} is not a number of lines")))
        }
    }
}

/// A character as Hive's properties write one.
///
/// # Errors
/// Unsupported if it is not one ASCII character.
pub(crate) fn one_byte(name: &str, value: &str) -> Result<u8> {
    let unescaped = match value {
        "\\t" => "\t",
        "\\\\" => "\\",
        other => other,
    };
    let octal = value.strip_prefix('\\').filter(|digits| digits.len() == 3);
    let octal = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
    let code = value.strip_prefix("\\u00").and_then(|hex| u8::from_str_radix(hex, 16).ok());
    match (unescaped.as_bytes(), octal.or(code)) {
        (_, Some(byte)) => Ok(byte),
        ([byte], None) => Ok(*byte),
        // Hive takes a number as the code of the character.
        (_, None) => value.parse::<u8>().map_err(|_no_number| {
            Error::unsupported(format!(
                "{name:?} = {value:?} is not one ASCII character; several are not supported"
            ))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(library: &str, properties: &[(&str, &str)]) -> Result<Option<Dialect>> {
        let properties: BTreeMap<String, String> =
            properties.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        dialect(library, &properties, &BTreeMap::new())
    }

    #[test]
    fn what_hive_says_is_what_the_scan_does() {
        let open = read(OPEN, &[]).unwrap().unwrap();
        assert_eq!((open.delimiter, open.quote, open.escape), (b',', Some(b'"'), Some(b'\\')));
        let given = [("separatorChar", "\\t"), ("quoteChar", "'"), ("escapeChar", "'")];
        let open = read(OPEN, &given).unwrap().unwrap();
        assert_eq!((open.delimiter, open.quote, open.escape), (b'\t', Some(b'\''), None));
        let lazy = read(LAZY, &[]).unwrap().unwrap();
        assert_eq!((lazy.delimiter, lazy.quote, lazy.null.as_deref()), (1, None, Some("\\N")));
        for comma in [",", "\\054", "44", "\\u002c"] {
            let lazy = read(LAZY, &[("field.delim", comma)]).unwrap().unwrap();
            assert_eq!(lazy.delimiter, b',', "{comma}");
        }
        let skip = read(LAZY, &[(SKIPPED, "2")]).unwrap().unwrap();
        assert_eq!(skip.header, Header::Skip(2));
        assert_eq!(read("org.openx.data.jsonserde.JsonSerDe", &[]).unwrap(), None);
        for dialect in [open, lazy, hive(), Dialect::new(b';')] {
            let (library, properties) = of(&dialect);
            let back = super::dialect(library, &properties, &BTreeMap::new()).unwrap();
            assert_eq!(back, Some(dialect));
        }
        for (library, name, value) in [
            (OPEN, "separatorChar", "||"),
            (OPEN, "field.delim", ","),
            (LAZY, "line.delim", "|"),
            (LAZY, "quoteChar", "\""),
            (OPEN, SKIPPED, "some"),
        ] {
            let refused = read(library, &[(name, value)]).unwrap_err().to_string();
            assert!(refused.contains(name), "{refused}");
        }
    }
}
