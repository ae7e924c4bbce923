//! Zero is zero, whatever its sign.
//!
//! To Arrow's comparisons -0.0 is below 0.0, and to a grouping the two are different values. It comes
//! of rounding (`round(-0.4)`), of multiplying, and from other programs' files, and whoever asks for
//! `x >= 0` or counts by `round(x)` means both. Where real numbers are compared with a zero that is
//! written there, the zero is given the sign that takes in both, which changes nothing for files'
//! statistics; where they are compared with each other, grouped, told apart or joined, their zeros
//! are made one ([`plain`]).

#[cfg(test)]
mod tests;

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DFSchema, DataFusionError, ScalarValue};
use datafusion::logical_expr::expr::{
    AggregateFunction, Between, BinaryExpr, InList, ScalarFunction, WindowFunction,
};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    Aggregate, Cast, ColumnarValue, Distinct, Expr, ExprSchemable, GroupingSet, LogicalPlan,
    LogicalPlanBuilder, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use datafusion::optimizer::AnalyzerRule;

type Result<T, E = DataFusionError> = std::result::Result<T, E>;

/// Makes one zero of two wherever it is asked which of two numbers is greater, or whether they are
/// the same.
#[derive(Debug)]
pub(crate) struct OneZero;

impl AnalyzerRule for OneZero {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(node).data()
    }

    fn name(&self) -> &'static str {
        "one_zero"
    }
}

fn node(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let schema = merge_schema(&plan.inputs());
    let names = NamePreserver::new(&plan);
    let rewritten = plan.map_expressions(|expr| {
        let name = names.save(&expr);
        let rewritten = expr.transform_up(|expr| compared(expr, &schema))?;
        Ok(rewritten.update_data(|expr| name.restore(expr)))
    })?;
    let changed = rewritten.transformed;
    let plan = match rewritten.data {
        LogicalPlan::Aggregate(aggregate) if groups_by_reals(&aggregate, &schema) => {
            grouped(aggregate, &schema)?
        }
        LogicalPlan::Distinct(Distinct::All(input))
            if input.schema().fields().iter().any(|field| field.data_type().is_floating()) =>
        {
            let column = |(relation, field)| {
                let column = Expr::from((relation, field));
                let (relation, name) = column.qualified_name();
                match may_be_zero(&column, input.schema()) {
                    true => plain(column, input.schema()).alias_qualified(relation, name),
                    false => column,
                }
            };
            let columns: Vec<Expr> = input.schema().iter().map(column).collect();
            LogicalPlanBuilder::from(input).project(columns)?.distinct()?.build()?
        }
        LogicalPlan::Join(mut join) => {
            for (left, right) in &mut join.on {
                *left = plain(left.clone(), &schema);
                *right = plain(right.clone(), &schema);
            }
            LogicalPlan::Join(join)
        }
        plan if changed => plan.recompute_schema()?,
        plan => return Ok(Transformed::no(plan)),
    };
    Ok(Transformed::yes(plan))
}

fn groups_by_reals(aggregate: &Aggregate, schema: &DFSchema) -> bool {
    let mut keys = aggregate.group_expr.iter().flat_map(|key| match key {
        Expr::GroupingSet(set) => set.distinct_expr(),
        key => vec![key],
    });
    keys.any(|key| may_be_zero(key, schema))
}

/// The same groups, of one zero, under the names that they had.
fn grouped(aggregate: Aggregate, schema: &DFSchema) -> Result<LogicalPlan> {
    let Aggregate { input, group_expr, aggr_expr, schema: named, .. } = aggregate;
    let plain_all = |keys: Vec<Expr>| keys.into_iter().map(|key| plain(key, schema)).collect();
    let key = |key: Expr| match key {
        Expr::GroupingSet(GroupingSet::Rollup(keys)) => {
            Expr::GroupingSet(GroupingSet::Rollup(plain_all(keys)))
        }
        Expr::GroupingSet(GroupingSet::Cube(keys)) => {
            Expr::GroupingSet(GroupingSet::Cube(plain_all(keys)))
        }
        Expr::GroupingSet(GroupingSet::GroupingSets(sets)) => {
            let sets = sets.into_iter().map(plain_all).collect();
            Expr::GroupingSet(GroupingSet::GroupingSets(sets))
        }
        key => plain(key, schema),
    };
    let keys: Vec<Expr> = group_expr.into_iter().map(key).collect();
    let groups = LogicalPlan::Aggregate(Aggregate::try_new(input, keys, aggr_expr)?);
    let renamed = groups.schema().columns().into_iter().zip(named.iter());
    let columns: Vec<Expr> = renamed
        .map(|(column, (relation, field))| {
            Expr::Column(column).alias_qualified(relation.cloned(), field.name())
        })
        .collect();
    LogicalPlanBuilder::from(groups).project(columns)?.build()
}

/// The same comparison, of one zero.
fn compared(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let is_real = |expr: &Expr| expr.get_type(schema).is_ok_and(|of| of.is_floating());
    Ok(Transformed::yes(match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right })
            if is_comparison(op) && is_real(&left) && is_real(&right) =>
        {
            let (left, right) = (*left, *right);
            let (left, right) = match (constant(&left), constant(&right)) {
                (Constant::No, Constant::No) => (plain(left, schema), plain(right, schema)),
                (Constant::No, Constant::Zero) => match below(op) {
                    Some(below) => (left, zero(&right, below, schema)),
                    None => (plain(left, schema), zero(&right, false, schema)),
                },
                (Constant::Zero, Constant::No) => match op.swap().and_then(below) {
                    Some(below) => (zero(&left, below, schema), right),
                    None => (zero(&left, false, schema), plain(right, schema)),
                },
                (Constant::Zero, Constant::Zero) => {
                    (zero(&left, false, schema), zero(&right, false, schema))
                }
                _ => (left, right),
            };
            Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
        }
        Expr::Between(Between { expr, negated, low, high }) if is_real(&expr) => {
            let bound = |bound: Expr, below| match constant(&bound) {
                Constant::Zero => zero(&bound, below, schema),
                Constant::Other => bound,
                Constant::No => plain(bound, schema),
            };
            let written = |bound: &Expr| !matches!(constant(bound), Constant::No);
            let expr = match written(&low) && written(&high) {
                true => *expr,
                false => plain(*expr, schema),
            };
            let (low, high) = (bound(*low, true), bound(*high, false));
            Expr::Between(Between::new(Box::new(expr), negated, Box::new(low), Box::new(high)))
        }
        Expr::InList(InList { expr, list, negated })
            if is_real(&expr)
                && !list.iter().all(|item| matches!(constant(item), Constant::Other)) =>
        {
            let item = |item: Expr| match constant(&item) {
                Constant::Zero => zero(&item, false, schema),
                _ => plain(item, schema),
            };
            let list = list.into_iter().map(item).collect();
            Expr::InList(InList::new(Box::new(plain(*expr, schema)), list, negated))
        }
        Expr::ScalarFunction(mut call) if call.name() == "nullif" => {
            call.args = call.args.into_iter().map(|arg| plain(arg, schema)).collect();
            Expr::ScalarFunction(call)
        }
        Expr::AggregateFunction(AggregateFunction { func, mut params }) if params.distinct => {
            params.args = params.args.into_iter().map(|arg| plain(arg, schema)).collect();
            Expr::AggregateFunction(AggregateFunction { func, params })
        }
        Expr::WindowFunction(mut window) => {
            let WindowFunction { params, .. } = &mut *window;
            let keys = params.partition_by.drain(..).map(|key| plain(key, schema)).collect();
            params.partition_by = keys;
            for key in &mut params.order_by {
                key.expr = plain(key.expr.clone(), schema);
            }
            Expr::WindowFunction(window)
        }
        other => return Ok(Transformed::no(other)),
    }))
}

fn is_comparison(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

/// Whether both zeros are taken in or left out if the zero on the right is the one below; none where
/// neither of them does.
fn below(op: Operator) -> Option<bool> {
    match op {
        Operator::GtEq | Operator::Lt => Some(true),
        Operator::Gt | Operator::LtEq => Some(false),
        _ => None,
    }
}

enum Constant {
    Zero,
    Other,
    No,
}

fn constant(expr: &Expr) -> Constant {
    match expr {
        Expr::Literal(value, _) => {
            match ScalarValue::new_zero(&value.data_type()).is_ok_and(|zero| zero == *value)
                || matches!(
                    value,
                    ScalarValue::Float64(Some(0.0)) | ScalarValue::Float32(Some(0.0))
                ) {
                true => Constant::Zero,
                false => Constant::Other,
            }
        }
        Expr::Cast(Cast { expr, .. }) | Expr::Negative(expr) => constant(expr),
        _ => Constant::No,
    }
}

/// A zero of the type of `like`.
fn zero(like: &Expr, below: bool, schema: &DFSchema) -> Expr {
    let value = match like.get_type(schema) {
        Ok(DataType::Float32) => ScalarValue::Float32(Some(if below { -0.0 } else { 0.0 })),
        _ => ScalarValue::Float64(Some(if below { -0.0 } else { 0.0 })),
    };
    Expr::Literal(value, None)
}

/// Whether it is a real number that may be the zero below.
fn may_be_zero(expr: &Expr, schema: &DFSchema) -> bool {
    let is_real = |expr: &Expr| expr.get_type(schema).is_ok_and(|of| of.is_floating());
    match expr {
        Expr::Literal(_, _) => false,
        // Whole numbers have one zero.
        Expr::Cast(Cast { expr: inner, .. }) => {
            is_real(expr) && inner.get_type(schema).is_ok_and(|of| !of.is_integer())
        }
        Expr::ScalarFunction(call) if call.name() == PLAIN => false,
        _ => is_real(expr),
    }
}

/// What is called for the same number with a plain zero.
const PLAIN: &str = "plain_zero";

/// The same number, its zero without a sign.
fn plain(expr: Expr, schema: &DFSchema) -> Expr {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> =
        LazyLock::new(|| Arc::new(ScalarUDF::from(PlainZero::new())));
    if !may_be_zero(&expr, schema) {
        return expr;
    }
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&FUNCTION), vec![expr]))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct PlainZero(Signature);

impl PlainZero {
    fn new() -> Self {
        let reals = vec![DataType::Float32, DataType::Float64];
        PlainZero(Signature::uniform(1, reals, Volatility::Immutable))
    }
}

impl ScalarUDFImpl for PlainZero {
    fn name(&self) -> &'static str {
        PLAIN
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(arguments.first().cloned().unwrap_or(DataType::Float64))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let Some(arg) = args.args.into_iter().next() else {
            return Err(DataFusionError::Internal("plain_zero of nothing".into()));
        };
        Ok(match arg {
            ColumnarValue::Scalar(value) => ColumnarValue::Scalar(ScalarValue::try_from_array(
                &plain_zeros(&value.to_array()?),
                0,
            )?),
            ColumnarValue::Array(array) => {
                debug_assert_eq!(array.len(), rows);
                ColumnarValue::Array(plain_zeros(&array))
            }
        })
    }

    /// Sorted numbers stay sorted.
    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        Ok(inputs.first().map_or(SortProperties::Unordered, |input| input.sort_properties))
    }
}

fn plain_zeros(array: &ArrayRef) -> ArrayRef {
    // The sum of both zeros is the plain one; of everything else and zero, itself.
    match array.data_type() {
        DataType::Float32 => {
            Arc::new(array.as_primitive::<Float32Type>().unary::<_, Float32Type>(|x| x + 0.0))
        }
        DataType::Float64 => {
            Arc::new(array.as_primitive::<Float64Type>().unary::<_, Float64Type>(|x| x + 0.0))
        }
        _ => Arc::clone(array),
    }
}
