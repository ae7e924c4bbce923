//! Nodes that change what columns there are: choices, structs, lists, columns as rows.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow::compute::{cast, filter_record_batch, interleave, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use base::{Error, Result};
use datafusion::common::{ScalarValue, UnnestOptions};
use datafusion::dataframe::DataFrame;
use datafusion::functions::core::expr_fn::{get_field, named_struct};
use datafusion::functions_nested::expr_fn::array_empty;
use datafusion::logical_expr::type_coercion::binary::type_union_resolution;
use datafusion::logical_expr::{Expr, ExprSchemable, lit, try_cast, when};
use lake::{Choice, ChoiceAction};

use super::lower::{Graph, column, column_of, names};
use super::series::{arrow, places, schema_of};
use crate::error::explain;
use crate::operator::{Input, Operator, Step};

/// Structs within structs that are flattened.
const LEVELS_MAX: usize = 32;

/// Rows of a batch that an unpivot makes.
const BATCH_ROWS: usize = 8192;

pub(super) fn resolve_choice(rows: DataFrame, choices: &[Choice]) -> Result<DataFrame> {
    for choice in choices {
        column_of(&rows, &choice.column)?;
    }
    let mut picked = Vec::new();
    for name in names(&rows) {
        match choices.iter().find(|choice| choice.column == name) {
            None => picked.push(column(&name)),
            Some(choice) => picked.extend(resolved(&rows, choice)?),
        }
    }
    rows.select(picked).map_err(explain)
}

/// What becomes of a column.
fn resolved(rows: &DataFrame, choice: &Choice) -> Result<Vec<Expr>> {
    let value = column_of(rows, &choice.column)?;
    let has = value.get_type(rows.schema()).map_err(explain)?;
    let mut typed: Vec<(&String, Expr)> = Vec::new();
    for hive in &choice.types {
        let wanted = formats::hive::to_arrow(hive)?;
        if !arrow::compute::can_cast_types(&has, &wanted) {
            return Err(Error::unsupported(format!(
                "column {:?} is {} and cannot become {hive}",
                choice.column,
                formats::hive::from_arrow(&has)?
            )));
        }
        let cast = try_cast(value.clone(), wanted);
        // A value counts for the first type that it is a value of.
        let one = typed.iter().rev().try_fold(cast.clone(), |later, (_, earlier)| {
            when(earlier_has(earlier), lit(ScalarValue::Null)).otherwise(later).map_err(explain)
        })?;
        typed.push((hive, if typed.is_empty() { cast } else { one }));
    }
    let name = &choice.column;
    Ok(match choice.action {
        ChoiceAction::Cast | ChoiceAction::Project => {
            typed.into_iter().map(|(_, one)| one.alias(name)).collect()
        }
        ChoiceAction::MakeCols => {
            typed.into_iter().map(|(hive, one)| one.alias(format!("{name}_{hive}"))).collect()
        }
        ChoiceAction::MakeStruct => {
            let fields = typed.into_iter().flat_map(|(hive, one)| [lit(hive.as_str()), one]);
            vec![named_struct(fields.collect()).alias(name)]
        }
    })
}

fn earlier_has(earlier: &Expr) -> Expr {
    earlier.clone().is_not_null()
}

pub(super) fn flatten(rows: DataFrame, columns: &[String], separator: &str) -> Result<DataFrame> {
    places(&rows, columns)?;
    let mut picked = Vec::new();
    let mut taken = std::collections::BTreeSet::new();
    for field in schema_of(&rows).fields() {
        let name = field.name();
        let wanted = columns.is_empty() || columns.contains(name);
        if !columns.is_empty() && wanted && !matches!(field.data_type(), DataType::Struct(_)) {
            return Err(Error::invalid(format!("column {name:?} is no struct")));
        }
        let mut leaves = Vec::new();
        match wanted {
            true => leaves_of(field, column(name), name.clone(), separator, 0, &mut leaves)?,
            false => leaves.push((name.clone(), column(name))),
        }
        for (name, leaf) in leaves {
            if !taken.insert(name.clone()) {
                return Err(Error::invalid(format!(
                    "two columns would be called {name:?}; give another separator"
                )));
            }
            picked.push(leaf.alias(name));
        }
    }
    rows.select(picked).map_err(explain)
}

fn leaves_of(
    field: &Field,
    value: Expr,
    name: String,
    separator: &str,
    level: usize,
    leaves: &mut Vec<(String, Expr)>,
) -> Result<()> {
    let DataType::Struct(fields) = field.data_type() else {
        leaves.push((name, value));
        return Ok(());
    };
    if level >= LEVELS_MAX {
        return Err(Error::invalid(format!("{name:?} is nested deeper than {LEVELS_MAX} levels")));
    }
    for inner in fields {
        let value = get_field(value.clone(), inner.name().as_str());
        let name = format!("{name}{separator}{}", inner.name());
        leaves_of(inner, value, name, separator, level + 1, leaves)?;
    }
    Ok(())
}

pub(super) fn explode(rows: DataFrame, name: &str, keep_empty: bool) -> Result<DataFrame> {
    let list = column_of(&rows, name)?;
    let kind = list.get_type(rows.schema()).map_err(explain)?;
    if !matches!(kind, DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(_, _)) {
        return Err(Error::invalid(format!(
            "column {name:?} is {} and no list",
            formats::hive::from_arrow(&kind).unwrap_or_else(|_unnamed| kind.to_string())
        )));
    }
    let options = UnnestOptions::new().with_preserve_nulls(keep_empty);
    // Unnesting takes names as SQL does; a plain name is the same in both.
    let list = match keep_empty {
        // A list that is null stays as a row, one without items would not.
        true => {
            when(array_empty(list.clone()), lit(ScalarValue::try_from(&kind).map_err(explain)?))
                .otherwise(list)
                .map_err(explain)?
        }
        false => list,
    };
    let all: Vec<Expr> = names(&rows)
        .map(|one| if one == name { list.clone().alias("__list") } else { column(one) })
        .collect();
    let made = rows.clone().select(all).map_err(explain)?;
    let made = made.unnest_columns_with_options(&["__list"], options).map_err(explain)?;
    let back = names(&rows).map(|one| match one == name {
        true => column("__list").alias(one),
        false => column(one),
    });
    made.select(back.collect::<Vec<_>>()).map_err(explain)
}

impl Graph<'_> {
    pub(super) fn unpivot(
        &self,
        rows: DataFrame,
        columns: &[String],
        name_to: &str,
        value_to: &str,
    ) -> Result<DataFrame> {
        let turned = places(&rows, columns)?;
        let schema = schema_of(&rows);
        let kinds: Vec<DataType> =
            turned.iter().map(|&at| schema.field(at).data_type().clone()).collect();
        let kind = common_type(&kinds).ok_or_else(|| {
            let shown: Vec<String> =
                columns.iter().zip(&kinds).map(|(name, kind)| format!("{name:?} {kind}")).collect();
            Error::invalid(format!("no type holds the values of {}", shown.join(", ")))
        })?;
        let kept: Vec<usize> =
            (0..schema.fields().len()).filter(|at| !turned.contains(at)).collect();
        for new in [name_to, value_to] {
            if kept.iter().any(|&at| schema.field(at).name() == new) {
                return Err(Error::invalid(format!("there is a column {new:?} already")));
            }
        }
        let mut fields: Vec<Field> = kept.iter().map(|&at| schema.field(at).clone()).collect();
        fields.push(Field::new(name_to, DataType::Utf8, true));
        fields.push(Field::new(value_to, kind.clone(), true));
        let made: SchemaRef = Arc::new(Schema::new(fields));
        let (of, columns) = (Arc::clone(&made), columns.to_vec());
        let input = Input { plan: rows.into_parts().1, sorted_by: Vec::new() };
        self.table(Operator::step("Unpivot", input, made, move || Unpivot {
            schema: Arc::clone(&of),
            kept: kept.clone(),
            turned: turned.clone(),
            names: StringArray::from(columns.clone()),
            kind: kind.clone(),
        }))
    }

    pub(super) fn sample(&self, rows: DataFrame, fraction: f64, seed: u64) -> Result<DataFrame> {
        let input = Input { plan: rows.clone().into_parts().1, sorted_by: Vec::new() };
        self.table(Operator::step("Sample", input, schema_of(&rows), move || Sample {
            fraction,
            seed,
            next: 0,
        }))
    }
}

/// A type that holds the values of all.
pub(super) fn common_type(kinds: &[DataType]) -> Option<DataType> {
    match kinds {
        [] => None,
        [first, rest @ ..] if rest.iter().all(|kind| kind == first) => Some(first.clone()),
        _ => type_union_resolution(kinds),
    }
}

struct Unpivot {
    schema: SchemaRef,
    kept: Vec<usize>,
    turned: Vec<usize>,
    names: StringArray,
    kind: DataType,
}

impl Step for Unpivot {
    fn batch(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>> {
        // As many rows out as in, about, so that a wide table needs no wide batches.
        let rows = (BATCH_ROWS / self.turned.len()).max(1);
        (0..batch.num_rows())
            .step_by(rows)
            .map(|at| self.turn(&batch.slice(at, rows.min(batch.num_rows() - at))))
            .collect()
    }
}

impl Unpivot {
    fn turn(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let width = self.turned.len();
        let pairs = || (0..batch.num_rows()).flat_map(|row| (0..width).map(move |at| (at, row)));
        let row: UInt32Array = pairs().map(|(_, row)| row as u32).collect();
        let name: UInt32Array = pairs().map(|(at, _)| at as u32).collect();
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for &at in &self.kept {
            columns.push(take(batch.column(at), &row, None).map_err(arrow)?);
        }
        columns.push(take(&self.names, &name, None).map_err(arrow)?);
        let values: Vec<ArrayRef> = self
            .turned
            .iter()
            .map(|&at| cast(batch.column(at), &self.kind).map_err(arrow))
            .collect::<Result<_>>()?;
        let values: Vec<&dyn Array> = values.iter().map(AsRef::as_ref).collect();
        columns.push(interleave(&values, &pairs().collect::<Vec<_>>()).map_err(arrow)?);
        RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(arrow)
    }
}

/// Rows picked by a hash of their place: the same again if the input is.
struct Sample {
    fraction: f64,
    seed: u64,
    next: u64,
}

impl Step for Sample {
    fn batch(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>> {
        let places = UInt64Array::from_iter_values(self.next..self.next + batch.num_rows() as u64);
        self.next += batch.num_rows() as u64;
        let keep = places
            .values()
            .iter()
            .map(|place| Some(share(self.seed, *place) < self.fraction))
            .collect();
        Ok(vec![filter_record_batch(&batch, &keep).map_err(arrow)?])
    }
}

/// A number from 0 to 1, by SplitMix64 (Steele, Lea and Flood, 2014).
pub(super) fn share(seed: u64, place: u64) -> f64 {
    let mut bits = seed.wrapping_add(place.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    (bits >> 11) as f64 / (1u64 << 53) as f64
}
