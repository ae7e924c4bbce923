//! Nodes that take rows of several: joins, unions, set operations, merges.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use base::{Error, Result};
use datafusion::common::JoinType;
use datafusion::dataframe::DataFrame;
use datafusion::logical_expr::expr_fn::ident;
use datafusion::logical_expr::{Expr, ExprSchemable};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use lake::{JoinKey, JoinKind};

use super::lower::{Graph, column, column_of, names};
use super::series::{arrow, schema_of};
use super::shape::common_type;
use crate::error::{explain, wrap};
use crate::keep_first::keep_first;
use crate::operator::{Input, Make, Operator};

/// What a column of the right is called beside those of the left.
pub(super) fn beside(left: &[String], name: &str) -> Result<String> {
    let called = match left.iter().any(|known| known == name) {
        true => format!("right_{name}"),
        false => return Ok(name.to_owned()),
    };
    match left.contains(&called) {
        true => Err(Error::invalid(format!(
            "column {name:?} is on both sides and {called:?} on the left already; rename one"
        ))),
        false => Ok(called),
    }
}

/// The rows under names of their own, so that both sides of a join can be told apart.
fn side(rows: DataFrame, side: char) -> Result<DataFrame> {
    let renamed = names(&rows).map(|name| column(&name).alias(format!("__{side}_{name}")));
    rows.select(renamed.collect::<Vec<_>>()).map_err(explain)
}

pub(super) fn join(
    left: DataFrame,
    right: DataFrame,
    kind: JoinKind,
    on: &[JoinKey],
) -> Result<DataFrame> {
    let mut conditions = Vec::new();
    for key in on {
        let kind_of = |rows: &DataFrame, which: &str, name: &str| {
            column_of(rows, name)
                .map_err(|error| error.context(format!("on the {which}")))?
                .get_type(rows.schema())
                .map_err(explain)
        };
        let kinds = [kind_of(&left, "left", &key.left)?, kind_of(&right, "right", &key.right)?];
        if common_type(&kinds).is_none() {
            return Err(Error::invalid(format!(
                "column {:?} is {} and {:?} is {}: they are never equal",
                key.left, kinds[0], key.right, kinds[1]
            )));
        }
        let pair = ident(format!("__l_{}", key.left)).eq(ident(format!("__r_{}", key.right)));
        conditions.push(pair);
    }
    let (lefts, rights): (Vec<_>, Vec<_>) = (names(&left).collect(), names(&right).collect());
    let joined = match kind {
        JoinKind::Inner => JoinType::Inner,
        JoinKind::Left => JoinType::Left,
        JoinKind::Right => JoinType::Right,
        JoinKind::Full => JoinType::Full,
        JoinKind::LeftSemi => JoinType::LeftSemi,
        JoinKind::LeftAnti => JoinType::LeftAnti,
    };
    let rows = side(left, 'l')?.join_on(side(right, 'r')?, joined, conditions).map_err(explain)?;
    let mut picked: Vec<Expr> =
        lefts.iter().map(|name| ident(format!("__l_{name}")).alias(name)).collect();
    if !matches!(kind, JoinKind::LeftSemi | JoinKind::LeftAnti) {
        for name in &rights {
            picked.push(ident(format!("__r_{name}")).alias(beside(&lefts, name)?));
        }
    }
    rows.select(picked).map_err(explain)
}

impl Graph<'_> {
    pub(super) fn union(&self, inputs: Vec<DataFrame>, distinct: bool) -> Result<DataFrame> {
        let schemas: Vec<SchemaRef> = inputs.iter().map(schema_of).collect();
        let schema = united(&schemas)?;
        let inputs = inputs
            .into_iter()
            .map(|rows| Input { plan: rows.into_parts().1, sorted_by: Vec::new() })
            .collect();
        let of = Arc::clone(&schema);
        let make: Make = Arc::new(move |inputs, _pool| {
            let of = Arc::clone(&of);
            let shaped = Arc::clone(&of);
            let rows = futures::stream::iter(inputs)
                .flatten()
                .map(move |batch| batch.and_then(|batch| shape(&batch, &shaped).map_err(wrap)));
            Box::pin(RecordBatchStreamAdapter::new(of, rows))
        });
        let columns = (0..schema.fields().len()).collect();
        let rows = self.table(Operator::new("Union", inputs, schema, make))?;
        match distinct {
            false => Ok(rows),
            true => self.keep_first(rows, columns),
        }
    }

    pub(super) fn keep_first(&self, rows: DataFrame, columns: Vec<usize>) -> Result<DataFrame> {
        self.table(keep_first(rows.into_parts().1, columns))
    }

    pub(super) fn merge(
        &self,
        source: DataFrame,
        staging: DataFrame,
        keys: &[String],
    ) -> Result<DataFrame> {
        let on: Vec<JoinKey> =
            keys.iter().map(|key| JoinKey { left: key.clone(), right: key.clone() }).collect();
        let kept = join(source, staging.clone(), JoinKind::LeftAnti, &on)?;
        self.union(vec![kept, staging], false)
    }

    /// `others` are the rows that decide; columns are compared by place.
    pub(super) fn set_operation(
        &self,
        rows: DataFrame,
        others: DataFrame,
        intersect: bool,
    ) -> Result<DataFrame> {
        let (has, wants) = (schema_of(&rows), schema_of(&others));
        if has.fields().len() != wants.fields().len() {
            return Err(Error::invalid(format!(
                "the left has {} columns and the right {}",
                has.fields().len(),
                wants.fields().len()
            )));
        }
        for (one, other) in has.fields().iter().zip(wants.fields()) {
            if common_type(&[one.data_type().clone(), other.data_type().clone()]).is_none() {
                return Err(Error::invalid(format!(
                    "column {:?} is {} and {:?} at its place on the right is {}",
                    one.name(),
                    one.data_type(),
                    other.name(),
                    other.data_type()
                )));
            }
        }
        let all = names(&rows).collect::<Vec<_>>();
        let (left, right) = (side(rows, 'l')?, side(others, 'r')?);
        let made = match intersect {
            true => left.intersect_distinct(right),
            false => left.except_distinct(right),
        };
        let made = made.map_err(explain)?;
        let back = all.iter().map(|name| ident(format!("__l_{name}")).alias(name));
        let columns = all.len();
        let rows = made.select(back.collect::<Vec<_>>()).map_err(explain)?;
        self.sorted(rows, columns)
    }
}

/// The columns of all, in the order they are first seen.
fn united(schemas: &[SchemaRef]) -> Result<SchemaRef> {
    let mut fields: Vec<Field> = Vec::new();
    for schema in schemas {
        for field in schema.fields() {
            let Some(known) = fields.iter_mut().find(|known| known.name() == field.name()) else {
                fields.push(field.as_ref().clone());
                continue;
            };
            let kinds: [DataType; 2] = [known.data_type().clone(), field.data_type().clone()];
            let kind = common_type(&kinds).ok_or_else(|| {
                Error::invalid(format!(
                    "column {:?} is {} in one input and {} in another; cast one before",
                    field.name(),
                    kinds[0],
                    kinds[1]
                ))
            })?;
            *known = Field::new(field.name(), kind, true);
        }
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// The batch in the columns of a schema; what it lacks is null.
fn shape(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns: Result<Vec<ArrayRef>> = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(array) => cast(array, field.data_type()).map_err(arrow),
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        })
        .collect();
    RecordBatch::try_new(Arc::clone(schema), columns?).map_err(arrow)
}
