//! Aggregates that answer maps: `map_agg`, `multimap_agg` and `histogram`.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, MapArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility,
};

/// Keys of one map at most: it is built in memory, outside what a query may use.
const KEYS_MAX: usize = 1_000_000;

/// What becomes of the values of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// The first is kept.
    First,
    /// All are, as an array.
    All,
    /// They are counted, and there are none.
    Count,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct MapAgg {
    name: &'static str,
    kind: Kind,
    signature: Signature,
}

/// All of them.
pub(crate) fn all() -> Vec<AggregateUDF> {
    [("map_agg", Kind::First), ("multimap_agg", Kind::All), ("histogram", Kind::Count)]
        .into_iter()
        .map(|(name, kind)| {
            let takes = if kind == Kind::Count { 1 } else { 2 };
            let signature = Signature::any(takes, Volatility::Immutable);
            AggregateUDF::from(MapAgg { name, kind, signature })
        })
        .collect()
}

pub(super) fn entries(key: &DataType, value: &DataType) -> Fields {
    vec![Field::new("key", key.clone(), false), Field::new("value", value.clone(), true)].into()
}

pub(super) fn map_of(key: &DataType, value: &DataType) -> DataType {
    let entries = DataType::Struct(entries(key, value));
    DataType::Map(Arc::new(Field::new("entries", entries, false)), false)
}

impl MapAgg {
    /// What a value is in the map.
    fn value(&self, types: &[DataType]) -> DataType {
        match (self.kind, types) {
            (Kind::First, [_, value, ..]) => value.clone(),
            (Kind::All, [_, value, ..]) => DataType::new_list(value.clone(), true),
            _ => DataType::Int64,
        }
    }
}

impl AggregateUDFImpl for MapAgg {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types.first() {
            Some(key) if !key.is_nested() => Ok(map_of(key, &self.value(types))),
            Some(key) => {
                Err(DataFusionError::Plan(format!("{} takes plain keys and not {key}", self.name)))
            }
            None => Err(DataFusionError::Plan(format!("{} takes a key", self.name))),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let types: Vec<DataType> =
            args.input_fields.iter().map(|field| field.data_type().clone()).collect();
        let state = map_of(&types[0], &self.value(&types));
        Ok(vec![Arc::new(Field::new(format!("{}[map]", args.name), state, true))])
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let types: Vec<DataType> =
            args.expr_fields.iter().map(|field| field.data_type().clone()).collect();
        Ok(Box::new(Map {
            kind: self.kind,
            key: types[0].clone(),
            value: self.value(&types),
            places: HashMap::new(),
            keys: Vec::new(),
            counts: Vec::new(),
            values: Vec::new(),
            bytes: 0,
        }))
    }
}

/// A map while it is gathered.
#[derive(Debug)]
struct Map {
    kind: Kind,
    key: DataType,
    value: DataType,
    places: HashMap<ScalarValue, usize>,
    /// In the order they came.
    keys: Vec<ScalarValue>,
    counts: Vec<i64>,
    /// Of each key.
    values: Vec<Vec<ScalarValue>>,
    bytes: usize,
}

impl Map {
    fn place(&mut self, key: ScalarValue) -> Result<usize> {
        if let Some(at) = self.places.get(&key) {
            return Ok(*at);
        }
        if self.keys.len() == KEYS_MAX {
            return Err(DataFusionError::ResourcesExhausted(format!(
                "a map of more than {KEYS_MAX} keys; group by the key instead"
            )));
        }
        self.bytes += 2 * key.size() + 64;
        let at = self.keys.len();
        self.places.insert(key.clone(), at);
        self.keys.push(key);
        self.counts.push(0);
        self.values.push(Vec::new());
        Ok(at)
    }

    fn add(&mut self, key: ScalarValue, value: impl FnOnce() -> Result<ScalarValue>) -> Result<()> {
        let at = self.place(key)?;
        if self.kind == Kind::All || self.values[at].is_empty() {
            let value = value()?;
            self.bytes += value.size();
            self.values[at].push(value);
        }
        Ok(())
    }

    fn map(&self) -> Result<ScalarValue> {
        if self.keys.is_empty() {
            return ScalarValue::try_from(&map_of(&self.key, &self.value));
        }
        let keys = ScalarValue::iter_to_array(self.keys.iter().cloned())?;
        let values: ArrayRef = match self.kind {
            Kind::Count => Arc::new(Int64Array::from(self.counts.clone())),
            Kind::First => ScalarValue::iter_to_array(
                self.values.iter().filter_map(|values| values.first().cloned()),
            )?,
            Kind::All => {
                let DataType::List(item) = &self.value else {
                    return Err(DataFusionError::Internal("a map of no lists".to_owned()));
                };
                let all = ScalarValue::iter_to_array(self.values.iter().flatten().cloned())?;
                let offsets = OffsetBuffer::from_lengths(self.values.iter().map(Vec::len));
                let item = Arc::clone(item);
                Arc::new(arrow::array::ListArray::try_new(item, offsets, all, None)?)
            }
        };
        let count = keys.len() as i32;
        let fields = entries(&self.key, &self.value);
        let pairs = StructArray::try_new(fields.clone(), vec![keys, values], None)?;
        let entry = Arc::new(Field::new("entries", DataType::Struct(fields), false));
        let offsets = OffsetBuffer::new(vec![0, count].into());
        Ok(ScalarValue::Map(Arc::new(MapArray::try_new(entry, offsets, pairs, None, false)?)))
    }
}

impl Accumulator for Map {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let Some(keys) = values.first() else { return Ok(()) };
        for row in (0..keys.len()).filter(|row| keys.is_valid(*row)) {
            let key = ScalarValue::try_from_array(keys, row)?;
            match values.get(1) {
                Some(values) => self.add(key, || ScalarValue::try_from_array(values, row))?,
                None => {
                    let at = self.place(key)?;
                    self.counts[at] += 1;
                }
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let Some(maps) = states.first() else { return Ok(()) };
        let maps = maps.as_map();
        for row in (0..maps.len()).filter(|row| maps.is_valid(*row)) {
            let entries = maps.value(row);
            let (keys, values) = (entries.column(0), entries.column(1));
            for at in 0..keys.len() {
                let key = ScalarValue::try_from_array(keys, at)?;
                match self.kind {
                    Kind::First => self.add(key, || ScalarValue::try_from_array(values, at))?,
                    Kind::Count => {
                        let place = self.place(key)?;
                        let counts = values.as_primitive::<arrow::datatypes::Int64Type>();
                        self.counts[place] += counts.value(at);
                    }
                    Kind::All => {
                        let place = self.place(key)?;
                        let items = values.as_list::<i32>().value(at);
                        for item in 0..items.len() {
                            let item = ScalarValue::try_from_array(&items, item)?;
                            self.bytes += item.size();
                            self.values[place].push(item);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.map()?])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.map()
    }

    fn size(&self) -> usize {
        size_of::<Map>() + self.bytes
    }
}
