//! Hive type names, the catalog's language, to and from Arrow types.
//!
//! A timestamp is microseconds without a zone, as Parquet files of other engines carry it.
//! A field name that the grammar could misread is written between backticks.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use base::{Error, Result};

/// Deepest nesting of a type that is read.
const DEPTH_MAX: usize = base::limits::JSON_DEPTH_MAX;

/// Reads a Hive type: `int`, `array<double>`, `struct<a:int,b:string>`, `map<string,int>`.
///
/// # Errors
/// [`base::ErrorKind::Invalid`] naming the text and the place that was not understood.
pub fn to_arrow(text: &str) -> Result<DataType> {
    let mut parser = Parser { text, at: 0 };
    let data_type = parser.data_type(0)?;
    parser.skip_space();
    if parser.at < text.len() {
        return Err(parser.refuse("nothing more"));
    }
    Ok(data_type)
}

/// Names an Arrow type in Hive's language. A column of only nulls is a `string`.
///
/// # Errors
/// [`base::ErrorKind::Unsupported`] for types that Hive has no word for.
pub fn from_arrow(data_type: &DataType) -> Result<String> {
    Ok(match data_type {
        DataType::Boolean => "boolean".into(),
        DataType::Int8 => "tinyint".into(),
        DataType::Int16 | DataType::UInt8 => "smallint".into(),
        DataType::Int32 | DataType::UInt16 => "int".into(),
        DataType::Int64 | DataType::UInt32 => "bigint".into(),
        DataType::UInt64 => "decimal(20,0)".into(),
        DataType::Float16 | DataType::Float32 => "float".into(),
        DataType::Float64 => "double".into(),
        DataType::Null | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            "string".into()
        }
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => "binary".into(),
        DataType::Date32 => "date".into(),
        DataType::Date64 | DataType::Timestamp(_, _) => "timestamp".into(),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => format!("array<{}>", from_arrow(item.data_type())?),
        // Hive has no struct without fields; text such as `{}` can hold it.
        DataType::Struct(fields) if fields.is_empty() => "string".into(),
        DataType::Struct(fields) => format!("struct<{}>", struct_fields(fields)?),
        DataType::Map(entries, _) => map_entries(entries)?,
        DataType::Dictionary(_, value) => from_arrow(value)?,
        other => return Err(Error::unsupported(format!("{other} has no Hive type"))),
    })
}

fn struct_fields(fields: &Fields) -> Result<String> {
    let named: Result<Vec<String>> = fields
        .iter()
        .map(|field| Ok(format!("{}:{}", quoted(field.name()), from_arrow(field.data_type())?)))
        .collect();
    Ok(named?.join(","))
}

fn map_entries(entries: &Field) -> Result<String> {
    match entries.data_type() {
        DataType::Struct(pair) if pair.len() == 2 => Ok(format!(
            "map<{},{}>",
            from_arrow(pair[0].data_type())?,
            from_arrow(pair[1].data_type())?
        )),
        other => Err(Error::unsupported(format!("a map of {other} has no Hive type"))),
    }
}

fn quoted(name: &str) -> String {
    let plain = !name.is_empty() && name.chars().all(is_plain);
    if plain { name.to_owned() } else { format!("`{}`", name.replace('`', "``")) }
}

fn is_plain(letter: char) -> bool {
    letter.is_alphanumeric() || matches!(letter, '_' | '-' | '.' | '$' | '@')
}

/// The Arrow field names of a map, as the Parquet format spells them.
pub(crate) fn map_of(key: DataType, value: DataType) -> DataType {
    let entries =
        Fields::from(vec![Field::new("key", key, false), Field::new("value", value, true)]);
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries), false)), false)
}

/// The Arrow field of a list's items, as the Parquet format spells it.
pub(crate) fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("element", item, true)))
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn refuse(&self, expected: &str) -> Error {
        Error::invalid(format!(
            "type {:?} is not a Hive type: expected {expected} at column {}",
            self.text,
            self.at + 1
        ))
    }

    fn take(&mut self, symbol: char) -> bool {
        self.skip_space();
        let found = self.rest().starts_with(symbol);
        if found {
            self.at += symbol.len_utf8();
        }
        found
    }

    fn expect(&mut self, symbol: char) -> Result<()> {
        if self.take(symbol) { Ok(()) } else { Err(self.refuse(&format!("{symbol:?}"))) }
    }

    fn word(&mut self) -> String {
        self.skip_space();
        let length = self.rest().find(|c: char| !is_plain(c)).unwrap_or(self.rest().len());
        let word = self.rest()[..length].to_owned();
        self.at += length;
        word
    }

    fn data_type(&mut self, depth: usize) -> Result<DataType> {
        if depth > DEPTH_MAX {
            return Err(self.refuse(&format!("at most {DEPTH_MAX} levels")));
        }
        self.skip_space();
        let start = self.at;
        let word = self.word().to_ascii_lowercase();
        Ok(match word.as_str() {
            "boolean" => DataType::Boolean,
            "tinyint" => DataType::Int8,
            "smallint" => DataType::Int16,
            "int" | "integer" => DataType::Int32,
            "bigint" => DataType::Int64,
            "float" => DataType::Float32,
            "double" => DataType::Float64,
            "string" => DataType::Utf8,
            "varchar" | "char" => {
                self.numbers()?;
                DataType::Utf8
            }
            "binary" => DataType::Binary,
            "date" => DataType::Date32,
            "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, None),
            "decimal" => self.decimal()?,
            "array" => {
                self.expect('<')?;
                let item = self.data_type(depth + 1)?;
                self.expect('>')?;
                list_of(item)
            }
            "map" => {
                self.expect('<')?;
                let key = self.data_type(depth + 1)?;
                self.expect(',')?;
                let value = self.data_type(depth + 1)?;
                self.expect('>')?;
                map_of(key, value)
            }
            "struct" => self.structure(depth)?,
            _ => {
                self.at = start;
                return Err(self.refuse("a type such as int, double, string or array<int>"));
            }
        })
    }

    fn structure(&mut self, depth: usize) -> Result<DataType> {
        self.expect('<')?;
        let mut fields: Vec<Field> = Vec::new();
        loop {
            let name = self.name()?;
            if fields.iter().any(|field| *field.name() == name) {
                return Err(self.refuse(&format!("each field once, {name:?} comes twice")));
            }
            self.expect(':')?;
            fields.push(Field::new(name, self.data_type(depth + 1)?, true));
            if !self.take(',') {
                break;
            }
        }
        self.expect('>')?;
        Ok(DataType::Struct(fields.into()))
    }

    fn name(&mut self) -> Result<String> {
        if !self.take('`') {
            let word = self.word();
            return if word.is_empty() { Err(self.refuse("a field name")) } else { Ok(word) };
        }
        let mut name = String::new();
        loop {
            let Some(end) = self.rest().find('`') else {
                return Err(self.refuse("a closing backtick"));
            };
            name.push_str(&self.rest()[..end]);
            self.at += end + 1;
            if !self.rest().starts_with('`') {
                return Ok(name);
            }
            name.push('`');
            self.at += 1;
        }
    }

    fn numbers(&mut self) -> Result<Vec<u8>> {
        let mut numbers = Vec::new();
        if !self.take('(') {
            return Ok(numbers);
        }
        loop {
            let word = self.word();
            let number: u32 = word.parse().map_err(|_cause| self.refuse("a number"))?;
            // A length beyond 255 is a varchar's; nothing is cut to it.
            numbers.push(u8::try_from(number).unwrap_or(u8::MAX));
            if !self.take(',') {
                break;
            }
        }
        self.expect(')')?;
        Ok(numbers)
    }

    fn decimal(&mut self) -> Result<DataType> {
        let numbers = self.numbers()?;
        let (precision, scale) = match numbers.as_slice() {
            [] => (10, 0),
            [precision] => (*precision, 0),
            [precision, scale] => (*precision, *scale),
            _ => return Err(self.refuse("a precision and a scale")),
        };
        let fits = (1..=38).contains(&precision) && scale <= precision;
        match i8::try_from(scale) {
            Ok(scale) if fits => Ok(DataType::Decimal128(precision, scale)),
            _ => Err(self.refuse("a precision of 1 to 38 and a scale no larger")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: &str) {
        match to_arrow(text) {
            Ok(data_type) => assert_eq!(from_arrow(&data_type).unwrap(), expect, "{text}"),
            Err(refused) => assert_eq!(refused.to_string(), expect, "{text}"),
        }
    }

    #[test]
    fn types_come_back_as_they_went() {
        for text in [
            "boolean",
            "tinyint",
            "smallint",
            "int",
            "bigint",
            "float",
            "double",
            "string",
            "binary",
            "date",
            "timestamp",
            "decimal(10,2)",
            "array<array<int>>",
            "struct<a:int,b:struct<c:string,PM2.5:double>>",
            "map<string,array<double>>",
            "struct<`a:b`:int,`x``y`:string,``:int>",
        ] {
            check(text, text);
        }
        check(" INTEGER ", "int");
        check("varchar(400)", "string");
        check("Struct< a : Int , b : Array < Double > >", "struct<a:int,b:array<double>>");
    }

    #[test]
    fn what_is_no_type_is_refused_with_its_place() {
        for (text, what) in [
            ("", "expected a type such as int, double, string or array<int> at column 1"),
            ("array<int", "expected '>' at column 10"),
            ("struct<a int>", "expected ':' at column 10"),
            ("struct<a:int,a:int>", "expected each field once, \"a\" comes twice at column 15"),
            ("int int", "expected nothing more at column 5"),
            ("decimal(40,2)", "expected a precision of 1 to 38 and a scale no larger at column 14"),
            ("struct<`a:int>", "expected a closing backtick at column 9"),
        ] {
            check(text, &format!("type {text:?} is not a Hive type: {what}"));
        }
        let deep = "array<".repeat(5000);
        assert!(to_arrow(&deep).unwrap_err().to_string().contains("at most 64 levels"));
    }
}
