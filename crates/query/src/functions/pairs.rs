//! Functions that take a function of two: of a map's entries (`map_filter`, `transform_keys`,
//! `transform_values`), or of the items of two arrays (`zip_with`).
//!
//! The entries of all maps of a batch are handed to the function together, and the maps are made
//! of what it answers.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, MapArray, StructArray, UInt32Array, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{take, take_arrays};
use arrow::datatypes::{DataType, Field, FieldRef};
use arrow::row::{RowConverter, SortField};
use datafusion::common::{DataFusionError, Result, ScalarValue, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, HigherOrderFunctionArgs, HigherOrderReturnFieldArgs, HigherOrderSignature,
    HigherOrderUDF, HigherOrderUDFImpl, LambdaArgument, LambdaParametersProgress, ValueOrLambda,
    Volatility,
};

use super::maps::{entries, map_of};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Filter,
    Keys,
    Values,
    Zip,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Pairs {
    name: &'static str,
    kind: Kind,
    signature: HigherOrderSignature,
}

/// All of them.
pub(super) fn all() -> impl Iterator<Item = HigherOrderUDF> {
    [
        ("map_filter", Kind::Filter),
        ("transform_keys", Kind::Keys),
        ("transform_values", Kind::Values),
        ("zip_with", Kind::Zip),
    ]
    .into_iter()
    .map(|(name, kind)| {
        let values = if kind == Kind::Zip { 2 } else { 1 };
        let mut takes = vec![ValueOrLambda::Value(()); values];
        takes.push(ValueOrLambda::Lambda(()));
        let signature = HigherOrderSignature::exact(takes, Volatility::Immutable);
        HigherOrderUDF::new_from_impl(Pairs { name, kind, signature })
    })
}

fn named(name: &str, data_type: &DataType) -> FieldRef {
    Arc::new(Field::new(name, data_type.clone(), true))
}

/// The types of a map's keys and values.
fn key_and_value(map: &DataType) -> Option<(&DataType, &DataType)> {
    let DataType::Map(entries, _) = map else { return None };
    match entries.data_type() {
        DataType::Struct(fields) => match &fields[..] {
            [key, value] => Some((key.data_type(), value.data_type())),
            _ => None,
        },
        _ => None,
    }
}

impl Pairs {
    fn takes(&self) -> &'static str {
        match self.kind {
            Kind::Zip => "two arrays and a function of two items, (x, y) -> ...",
            _ => "a map and a function of key and value, (k, v) -> ...",
        }
    }

    fn misused<T>(&self) -> Result<T> {
        plan_err!("{} takes {}", self.name, self.takes())
    }

    /// What the function is given: key and value, or an item of either array.
    fn parameters(&self, values: &[&DataType]) -> Result<Vec<FieldRef>> {
        match (self.kind, values) {
            (Kind::Zip, [DataType::List(left), DataType::List(right)]) => {
                Ok(vec![named("left", left.data_type()), named("right", right.data_type())])
            }
            (Kind::Zip, _) => self.misused(),
            (_, [map]) => match key_and_value(map) {
                Some((key, value)) => Ok(vec![named("key", key), named("value", value)]),
                None => self.misused(),
            },
            _ => self.misused(),
        }
    }

    /// What is made of values of these types, if the function answers `answer`.
    fn made(&self, values: &[&DataType], answer: &DataType) -> Result<DataType> {
        let parameters = self.parameters(values)?;
        let (first, second) = (parameters[0].data_type(), parameters[1].data_type());
        match self.kind {
            Kind::Filter if !matches!(answer, DataType::Boolean | DataType::Null) => {
                plan_err!("the function of map_filter answers true or false, not {answer}")
            }
            Kind::Filter => Ok(map_of(first, second)),
            Kind::Keys => Ok(map_of(answer, second)),
            Kind::Values => Ok(map_of(first, answer)),
            Kind::Zip => Ok(DataType::new_list(answer.clone(), true)),
        }
    }
}

impl HigherOrderUDFImpl for Pairs {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &HigherOrderSignature {
        &self.signature
    }

    fn coerce_value_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let null = DataType::Null;
        let coerce = |of: &DataType| match (self.kind, of) {
            (Kind::Zip, DataType::List(_)) => Ok(of.clone()),
            (Kind::Zip, DataType::LargeList(item) | DataType::FixedSizeList(item, _)) => {
                Ok(DataType::List(Arc::clone(item)))
            }
            (Kind::Zip, DataType::Null) => Ok(DataType::new_list(DataType::Null, true)),
            (Kind::Filter | Kind::Keys | Kind::Values, DataType::Map(_, _)) => Ok(of.clone()),
            (Kind::Filter | Kind::Keys | Kind::Values, DataType::Null) => Ok(map_of(&null, &null)),
            (_, other) => plan_err!("{} takes {}, not {other}", self.name, self.takes()),
        };
        types.iter().map(coerce).collect()
    }

    fn lambda_parameters(
        &self,
        _step: usize,
        fields: &[ValueOrLambda<FieldRef, Option<FieldRef>>],
    ) -> Result<LambdaParametersProgress> {
        let values: Vec<&DataType> = fields.iter().filter_map(value_type).collect();
        Ok(LambdaParametersProgress::Complete(vec![self.parameters(&values)?]))
    }

    fn return_field_from_args(&self, args: HigherOrderReturnFieldArgs<'_>) -> Result<FieldRef> {
        let values: Vec<&DataType> = args.arg_fields.iter().filter_map(value_type).collect();
        match args.arg_fields.last() {
            Some(ValueOrLambda::Lambda(answer)) => {
                Ok(named("", &self.made(&values, answer.data_type())?))
            }
            _ => self.misused(),
        }
    }

    fn invoke_with_args(&self, args: HigherOrderFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let made = match args.args.as_slice() {
            [
                ValueOrLambda::Value(left),
                ValueOrLambda::Value(right),
                ValueOrLambda::Lambda(by),
            ] => zip(&left.to_array(rows)?, &right.to_array(rows)?, by)?,
            [ValueOrLambda::Value(map), ValueOrLambda::Lambda(by)] => {
                let map = map.to_array(rows)?;
                match self.kind {
                    Kind::Filter => filtered(map.as_map(), by)?,
                    Kind::Keys => with_keys(map.as_map(), by)?,
                    _ => with_values(map.as_map(), by)?,
                }
            }
            _ => return self.misused(),
        };
        Ok(ColumnarValue::Array(made))
    }
}

fn value_type<L>(of: &ValueOrLambda<FieldRef, L>) -> Option<&DataType> {
    match of {
        ValueOrLambda::Value(field) => Some(field.data_type()),
        ValueOrLambda::Lambda(_) => None,
    }
}

/// The entries of the maps of a batch, one after another.
struct Entries {
    keys: ArrayRef,
    values: ArrayRef,
    /// The row whose map has the entry.
    rows: UInt32Array,
}

impl Entries {
    fn of(maps: &MapArray) -> Result<Entries> {
        let offsets = maps.offsets();
        let (mut places, mut rows) = (Vec::new(), Vec::new());
        for row in (0..maps.len()).filter(|row| maps.is_valid(*row)) {
            for place in offsets[row]..offsets[row + 1] {
                places.push(place as u32);
                rows.push(row as u32);
            }
        }
        let places = UInt32Array::from(places);
        let (keys, values) =
            (take(maps.keys(), &places, None)?, take(maps.values(), &places, None)?);
        Ok(Entries { keys, values, rows: rows.into() })
    }

    fn answers(&self, by: &LambdaArgument) -> Result<ArrayRef> {
        let (key, value) = (|| Ok(Arc::clone(&self.keys)), || Ok(Arc::clone(&self.values)));
        answers(by, &[&key, &value], &self.rows)
    }

    /// Maps of them, with the keys and values given.
    fn maps(&self, of: &MapArray, keys: ArrayRef, values: ArrayRef) -> Result<ArrayRef> {
        let fields = entries(keys.data_type(), values.data_type());
        let pairs = StructArray::try_new(fields.clone(), vec![keys, values], None)?;
        let entry = Arc::new(Field::new("entries", DataType::Struct(fields), false));
        let offsets = offsets(&self.rows, of.len());
        Ok(Arc::new(MapArray::try_new(entry, offsets, pairs, of.nulls().cloned(), false)?))
    }
}

/// What the function answers, with what it captured of the rows.
fn answers(
    by: &LambdaArgument,
    arguments: &[&dyn Fn() -> Result<ArrayRef>],
    rows: &UInt32Array,
) -> Result<ArrayRef> {
    // Of no rows it may answer a single value that it cannot make.
    let answer = by.evaluate(arguments, |captured| Ok(take_arrays(captured, rows, None)?))?;
    answer.into_array(rows.len())
}

/// Where each row's items begin and end, for items that know their row.
fn offsets(rows: &UInt32Array, count: usize) -> OffsetBuffer<i32> {
    let mut lengths = vec![0_usize; count];
    rows.values().iter().for_each(|row| lengths[*row as usize] += 1);
    OffsetBuffer::from_lengths(lengths)
}

fn filtered(maps: &MapArray, by: &LambdaArgument) -> Result<ArrayRef> {
    let all = Entries::of(maps)?;
    let keep = arrow::compute::cast(&all.answers(by)?, &DataType::Boolean)?;
    // Null is as good as false, to this filter too.
    let kept = |array: &dyn Array| arrow::compute::filter(array, keep.as_boolean());
    let kept = Entries {
        keys: kept(&all.keys)?,
        values: kept(&all.values)?,
        rows: kept(&all.rows)?.as_primitive().clone(),
    };
    kept.maps(maps, Arc::clone(&kept.keys), Arc::clone(&kept.values))
}

fn with_values(maps: &MapArray, by: &LambdaArgument) -> Result<ArrayRef> {
    let all = Entries::of(maps)?;
    let values = all.answers(by)?;
    all.maps(maps, Arc::clone(&all.keys), values)
}

fn with_keys(maps: &MapArray, by: &LambdaArgument) -> Result<ArrayRef> {
    let all = Entries::of(maps)?;
    let keys = all.answers(by)?;
    let failed = |why: String| DataFusionError::Execution(format!("transform_keys: {why}"));
    if keys.logical_null_count() > 0 {
        return Err(failed("a key became null, and a map has none such; use coalesce".to_owned()));
    }
    let converter = RowConverter::new(vec![SortField::new(keys.data_type().clone())])?;
    let bytes = converter.convert_columns(&[Arc::clone(&keys)])?;
    let mut seen = HashSet::new();
    for (at, row) in all.rows.values().iter().enumerate() {
        if at > 0 && all.rows.value(at - 1) != *row {
            seen.clear();
        }
        if !seen.insert(bytes.row(at).data()) {
            let key = ScalarValue::try_from_array(&keys, at)?;
            return Err(failed(format!("two keys of a map became {key}; keys must differ")));
        }
    }
    let values = Arc::clone(&all.values);
    all.maps(maps, keys, values)
}

fn zip(left: &ArrayRef, right: &ArrayRef, by: &LambdaArgument) -> Result<ArrayRef> {
    let (left, right) = (left.as_list::<i32>(), right.as_list::<i32>());
    let nulls = NullBuffer::union(left.nulls(), right.nulls());
    let (mut lefts, mut rights, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for row in 0..left.len() {
        if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            continue;
        }
        let (left, right) = (range(left, row), range(right, row));
        // The shorter one goes on with nulls.
        for at in 0..left.len().max(right.len()) {
            lefts.push(left.clone().nth(at));
            rights.push(right.clone().nth(at));
            rows.push(row as u32);
        }
    }
    let rows = UInt32Array::from(rows);
    let (lefts, rights) = (items(left, lefts)?, items(right, rights)?);
    let arguments = (|| Ok(Arc::clone(&lefts)), || Ok(Arc::clone(&rights)));
    let made = answers(by, &[&arguments.0, &arguments.1], &rows)?;
    let item = named(Field::LIST_FIELD_DEFAULT_NAME, made.data_type());
    Ok(Arc::new(ListArray::try_new(item, offsets(&rows, left.len()), made, nulls)?))
}

fn range(lists: &ListArray, row: usize) -> std::ops::Range<u32> {
    let offsets = lists.offsets();
    offsets[row] as u32..offsets[row + 1] as u32
}

fn items(lists: &ListArray, places: Vec<Option<u32>>) -> Result<ArrayRef> {
    if lists.values().data_type().is_null() {
        return Ok(new_null_array(&DataType::Null, places.len()));
    }
    Ok(take(lists.values(), &UInt32Array::from(places), None)?)
}
