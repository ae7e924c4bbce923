//! A schema as it is kept between crawls.
//!
//! Hive's language has no word for "only nulls so far", and that must not be lost: such a
//! column gives way to any type that a later object brings, where a `string` would not.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use base::Result;
use serde::{Deserialize, Serialize};

/// The columns of an object, in the order of their first appearance.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Shape(Vec<(String, Kind)>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// Only nulls so far.
    Nulls,
    /// A type that has no others in it, in Hive's language.
    Plain(String),
    List(Box<Kind>),
    Struct(Vec<(String, Kind)>),
}

impl Shape {
    pub(super) fn of(schema: &Schema) -> Result<Self> {
        fields_of(schema.fields()).map(Shape)
    }

    pub(super) fn schema(&self) -> Result<Schema> {
        Ok(Schema::new(fields(&self.0)?))
    }

    /// Calls the columns otherwise, in their order; false if they are not so many.
    pub(super) fn rename(&mut self, names: &[String]) -> bool {
        if names.len() != self.0.len() {
            return false;
        }
        for ((known, _), name) in self.0.iter_mut().zip(names) {
            known.clone_from(name);
        }
        true
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }
}

fn fields_of<'a>(fields: impl IntoIterator<Item = &'a Arc<Field>>) -> Result<Vec<(String, Kind)>> {
    let of_field = |field: &Arc<Field>| {
        let kind = kind(field.data_type());
        let named = kind.map_err(|error| error.context(format!("column {:?}", field.name())));
        Ok((field.name().clone(), named?))
    };
    fields.into_iter().map(of_field).collect()
}

fn kind(data_type: &DataType) -> Result<Kind> {
    Ok(match data_type {
        DataType::Null => Kind::Nulls,
        DataType::Struct(inner) => Kind::Struct(fields_of(inner)?),
        DataType::List(item) | DataType::LargeList(item) => {
            Kind::List(Box::new(kind(item.data_type())?))
        }
        other => Kind::Plain(formats::hive::from_arrow(other)?),
    })
}

fn fields(kinds: &[(String, Kind)]) -> Result<Vec<Field>> {
    kinds.iter().map(|(name, kind)| Ok(Field::new(name, data_type(kind)?, true))).collect()
}

fn data_type(kind: &Kind) -> Result<DataType> {
    Ok(match kind {
        Kind::Nulls => DataType::Null,
        Kind::Plain(hive) => formats::hive::to_arrow(hive)?,
        Kind::List(item) => {
            // The item's name as `hive` spells it, so that equal lists are equal types.
            DataType::List(Arc::new(Field::new("element", data_type(item)?, true)))
        }
        Kind::Struct(inner) => DataType::Struct(fields(inner)?.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_comes_back_with_its_nulls() {
        let lines = br#"{"a":1,"b":null,"c":[{"d":null,"e":1.5}],"f":{"g":"x"},"h":[]}"#;
        let schema = formats::json::infer(&lines[..], &Default::default()).unwrap().schema;
        let shape = Shape::of(&schema).unwrap();
        let json = serde_json::to_string(&shape).unwrap();
        let back: Shape = serde_json::from_str(&json).unwrap();
        assert_eq!(back.schema().unwrap(), schema);
        assert_eq!(back.names().collect::<Vec<_>>(), ["a", "b", "c", "f", "h"]);
    }
}
