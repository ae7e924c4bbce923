//! Aggregates over windows whose first row moves, each window looked at by itself.
//!
//! DataFusion keeps one accumulator, adds what enters and takes away what leaves. That is right for
//! counts and whole numbers. Of real numbers rounding is left over, and NaN for ever; a minimum of
//! nothing is the minimum before; a variance comes out below zero; many functions cannot take away
//! at all and are refused. And where a window is empty between two that are not (`RANGE BETWEEN
//! INTERVAL '2' HOUR PRECEDING AND INTERVAL '1' HOUR PRECEDING` behind a gap), it forgets to take
//! away what was in the first. Wherever one of these could be, the window's rows are aggregated
//! anew: more to do in wide windows, and right.

#[cfg(test)]
mod tests;

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{DataFusionError, ScalarValue, not_impl_err};
use datafusion::logical_expr::{
    LimitEffect, PartitionEvaluator, WindowFrame, WindowFrameBound, WindowFrameUnits,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::window::{
    SlidingAggregateWindowExpr, StandardWindowExpr, StandardWindowFunctionExpr, WindowExpr,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};

use crate::replace::Replace;

type Result<T, E = DataFusionError> = std::result::Result<T, E>;

/// Puts [`Anew`] in the place of aggregates that DataFusion would get wrong or refuse.
pub(crate) const RULE: Replace = Replace { name: "aggregate_windows_anew", instead };

fn instead(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(bounded) = plan.downcast_ref::<BoundedWindowAggExec>() {
        let Some(windows) = windows(bounded.window_expr())? else { return Ok(None) };
        let input = Arc::clone(bounded.input());
        let can_repartition = !bounded.partition_keys().is_empty();
        let mode = bounded.input_order_mode.clone();
        let plan = BoundedWindowAggExec::try_new(windows, input, mode, can_repartition)?;
        return Ok(Some(Arc::new(plan)));
    }
    let Some(whole) = plan.downcast_ref::<WindowAggExec>() else { return Ok(None) };
    let Some(windows) = windows(whole.window_expr())? else { return Ok(None) };
    let can_repartition = !whole.partition_keys().is_empty();
    let plan = WindowAggExec::try_new(windows, Arc::clone(whole.input()), can_repartition)?;
    Ok(Some(Arc::new(plan)))
}

/// The same windows, those of them anew that have to be; none if none has to be.
fn windows(windows: &[Arc<dyn WindowExpr>]) -> Result<Option<Vec<Arc<dyn WindowExpr>>>> {
    let found: Vec<_> = windows.iter().map(|window| anew(&**window)).collect::<Result<_>>()?;
    if found.iter().all(Option::is_none) {
        return Ok(None);
    }
    let instead = |(new, old): (Option<_>, &Arc<_>)| new.unwrap_or_else(|| Arc::clone(old));
    Ok(Some(found.into_iter().zip(windows).map(instead).collect()))
}

fn anew(window: &dyn WindowExpr) -> Result<Option<Arc<dyn WindowExpr>>> {
    let Some(moving) = window.as_any().downcast_ref::<SlidingAggregateWindowExpr>() else {
        return Ok(None);
    };
    let of = moving.get_aggregate_expr();
    let frame = window.get_window_frame();
    // One that orders its rows gets them in no other way than from DataFusion's accumulator.
    let is_safe = is_full_between(frame) && (takes_away_well(of) || !of.order_bys().is_empty());
    if is_safe {
        return Ok(None);
    }
    // FILTER is said in the arguments of all that pass over nulls (`dialect`); of others we are
    // not told of it but here.
    if !format!("{window:?}").ends_with("filter: None }") || !of.order_bys().is_empty() {
        return not_impl_err!(
            "FILTER or ORDER BY of {} over a window of moving rows is not supported: \
             use CASE WHEN within it, or a window that begins UNBOUNDED PRECEDING",
            of.fun().name()
        );
    }
    let function = Arc::new(Anew(Arc::new(of.clone())));
    let (by, order) = (window.partition_by(), window.order_by());
    Ok(Some(Arc::new(StandardWindowExpr::new(function, by, order, Arc::clone(frame)))))
}

/// Whether no window is empty between two that are not.
fn is_full_between(frame: &WindowFrame) -> bool {
    let is_zero = |bound: &ScalarValue| {
        ScalarValue::new_zero(&bound.data_type()).is_ok_and(|zero| zero == *bound)
    };
    let from = match &frame.start_bound {
        WindowFrameBound::Preceding(_) | WindowFrameBound::CurrentRow => true,
        WindowFrameBound::Following(rows) => is_zero(rows),
    };
    let to = match &frame.end_bound {
        WindowFrameBound::Following(_) | WindowFrameBound::CurrentRow => true,
        WindowFrameBound::Preceding(rows) => is_zero(rows),
    };
    // A row that is in its own window is enough. Rows have no gaps besides: once a window of
    // rows has begun it goes on to the end.
    from && to || frame.units == WindowFrameUnits::Rows
}

/// Whether what was added can be taken away again without a trace.
fn takes_away_well(of: &AggregateFunctionExpr) -> bool {
    let whole = |data_type: &DataType| !data_type.is_floating();
    match of.fun().name() {
        "count" => true,
        "max" => !of.is_distinct(),
        "sum" | "avg" => !of.is_distinct() && whole(of.field().data_type()),
        // They keep their values.
        "array_agg" | "median" => of.create_sliding_accumulator().is_ok(),
        _ => false,
    }
}

/// An aggregate as a function of the rows of a window.
#[derive(Debug)]
struct Anew(Arc<AggregateFunctionExpr>);

impl StandardWindowFunctionExpr for Anew {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn field(&self) -> Result<FieldRef> {
        Ok(self.0.field())
    }

    fn expressions(&self) -> Vec<Arc<dyn PhysicalExpr>> {
        self.0.expressions()
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn create_evaluator(&self) -> Result<Box<dyn PartitionEvaluator>> {
        Ok(Box::new(Evaluator(Arc::clone(&self.0))))
    }

    fn limit_effect(&self) -> LimitEffect {
        LimitEffect::Unknown
    }
}

#[derive(Debug)]
struct Evaluator(Arc<AggregateFunctionExpr>);

impl PartitionEvaluator for Evaluator {
    /// `values` are the arguments and then what is ordered by, of all rows that are there.
    fn evaluate(&mut self, values: &[ArrayRef], range: &Range<usize>) -> Result<ScalarValue> {
        if range.start >= range.end {
            return self.0.default_value(self.0.field().data_type());
        }
        let arguments = self.0.expressions().len();
        let rows = range.end - range.start;
        let slice = |values: &ArrayRef| values.slice(range.start, rows);
        let window: Vec<ArrayRef> = values.iter().take(arguments).map(slice).collect();
        let mut accumulator = self.0.create_accumulator()?;
        accumulator.update_batch(&window)?;
        accumulator.evaluate()
    }

    fn supports_bounded_execution(&self) -> bool {
        true
    }

    fn uses_window_frame(&self) -> bool {
        true
    }
}
