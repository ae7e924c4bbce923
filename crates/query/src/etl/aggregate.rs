//! Values of several rows: the aggregate and pivot nodes, and what a resample computes.

use base::{Error, Result};
use datafusion::dataframe::DataFrame;
use datafusion::functions_aggregate::expr_fn::{
    avg, count, count_distinct, first_value, last_value, max, median, min, stddev, stddev_pop, sum,
    sum_distinct, var_pop, var_sample,
};
use datafusion::logical_expr::expr_fn::ident;
use datafusion::logical_expr::{Expr, ExprFunctionExt, ExprSchemable, SortExpr, lit};
use lake::{Aggregate, Function};

use super::lower::{Graph, column, column_of};
use super::series::places;
use crate::error::explain;

/// What a node asks to be computed; `order` is that of first and last.
pub(super) fn of(rows: &DataFrame, asked: &Aggregate, order: &[SortExpr]) -> Result<Expr> {
    let value = column_of(rows, &asked.column)?;
    let kind = value.get_type(rows.schema()).map_err(explain)?;
    let numbers = !matches!(
        asked.function,
        Function::Count
            | Function::CountDistinct
            | Function::Min
            | Function::Max
            | Function::First
            | Function::Last
    );
    if numbers && !kind.is_numeric() {
        return Err(Error::invalid(format!(
            "{} of column {:?}: it is {} and no number",
            asked.function.as_str(),
            asked.column,
            formats::hive::from_arrow(&kind).unwrap_or_else(|_unnamed| kind.to_string())
        )));
    }
    let first = |last: bool| {
        let call = if last { last_value } else { first_value };
        // What is built anew forgets the order it had.
        call(value.clone(), order.to_vec())
            .order_by(order.to_vec())
            .filter(value.clone().is_not_null())
            .build()
            .map_err(explain)
    };
    Ok(match asked.function {
        Function::Avg => avg(value),
        Function::Count => count(value),
        Function::CountDistinct => count_distinct(value),
        Function::Min => min(value),
        Function::Max => max(value),
        Function::Sum => sum(value),
        Function::SumDistinct => sum_distinct(value),
        Function::First => first(false)?,
        Function::Last => first(true)?,
        Function::Median => median(value),
        Function::StddevSamp => stddev(value),
        Function::StddevPop => stddev_pop(value),
        Function::VarSamp => var_sample(value),
        Function::VarPop => var_pop(value),
    })
}

impl Graph<'_> {
    pub(super) fn aggregate(
        &self,
        rows: DataFrame,
        group_by: &[String],
        aggregates: &[Aggregate],
    ) -> Result<DataFrame> {
        places(&rows, group_by)?;
        let made: Result<Vec<Expr>> = aggregates
            .iter()
            .map(|one| {
                let name = one
                    .to
                    .clone()
                    .unwrap_or_else(|| format!("{}({})", one.function.as_str(), one.column));
                Ok(of(&rows, one, &[])?.alias(name))
            })
            .collect();
        let group = group_by.iter().map(column).collect();
        let rows = rows.aggregate(group, made?).map_err(explain)?;
        self.sorted(rows, group_by.len())
    }

    /// An aggregate for each value, over the rows that have it.
    pub(super) fn pivot(
        &self,
        rows: DataFrame,
        group_by: &[String],
        (name, value): (&str, &str),
        (values, function): (&[String], Function),
    ) -> Result<DataFrame> {
        places(&rows, group_by)?;
        let named = column_of(&rows, name)?;
        let text = named.cast_to(&arrow::datatypes::DataType::Utf8, rows.schema());
        let text = text.map_err(explain)?;
        let asked = Aggregate { column: value.to_owned(), function, to: None };
        let made: Result<Vec<Expr>> = values
            .iter()
            .enumerate()
            .map(|(index, one)| {
                let of = of(&rows, &asked, &[])?;
                let has = text.clone().eq(lit(one.as_str()));
                let of = of.filter(has);
                let once = matches!(function, Function::CountDistinct | Function::SumDistinct);
                let of = if once { of.distinct() } else { of };
                let of = of.build().map_err(explain)?;
                Ok(of.alias(format!("__value_{index}")))
            })
            .collect();
        let group = group_by.iter().map(column).collect();
        let rows = rows.aggregate(group, made?).map_err(explain)?;
        let mut picked: Vec<Expr> = group_by.iter().map(column).collect();
        let made = |(index, one): (usize, &String)| ident(format!("__value_{index}")).alias(one);
        picked.extend(values.iter().enumerate().map(made));
        let rows = rows.select(picked).map_err(explain)?;
        self.sorted(rows, group_by.len())
    }
}
