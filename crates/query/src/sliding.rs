//! Sums, means, extremes, deviations and counts over the rows before each row, in one pass over
//! sorted rows.
//!
//! For every row DataFusion cuts slices out of the columns, hands them to an accumulator and makes
//! an array of the single values that it answers; and it copies what it keeps from batch to batch.
//! Here a column of numbers is gone through once, and all that is kept are the numbers that are
//! still to leave. Nothing is ever taken away from a sum (see [`window`]), so a large number or one
//! that is none leaves no trace when it has left, which it does in DataFusion.
//!
//! Done are windows of rows that end at the current row or before it, so that no row waits for
//! those behind it. All others are left to [`crate::moving`].

mod window;

#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, make_comparator};
use arrow::compute::SortOptions;
use arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{WindowFrameBound, WindowFrameUnits};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::window::{
    PlainAggregateWindowExpr, SlidingAggregateWindowExpr, WindowExpr,
};
use datafusion::physical_expr::{Distribution, OrderingRequirements, PhysicalExpr};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::windows::BoundedWindowAggExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, InputOrderMode, PlanProperties,
};
use futures::StreamExt;

use self::window::{Measure, Span, Window};
use crate::by_runs::starts;
use crate::replace::Replace;

type Result<T, E = DataFusionError> = std::result::Result<T, E>;

/// Puts [`Sliding`] in the place of windows that it knows how to do.
pub(crate) const RULE: Replace = Replace {
    name: "slide_windows",
    instead: |plan| {
        let found = plan.downcast_ref::<BoundedWindowAggExec>().and_then(Sliding::around);
        Ok(found.map(|sliding| Arc::new(sliding) as Arc<dyn ExecutionPlan>))
    },
};

/// Windows over rows that come sorted.
#[derive(Clone, Debug)]
struct Sliding {
    /// The operator that this one stands for.
    whole: Arc<BoundedWindowAggExec>,
    by: Arc<[Arc<dyn PhysicalExpr>]>,
    slides: Arc<[Slide]>,
}

/// A column of the answer.
#[derive(Clone, Debug)]
struct Slide {
    measure: Measure,
    /// The type of what is measured.
    input: DataType,
    argument: Arc<dyn PhysicalExpr>,
    span: Span,
}

impl Sliding {
    fn around(plan: &BoundedWindowAggExec) -> Option<Sliding> {
        if plan.input_order_mode != InputOrderMode::Sorted {
            return None;
        }
        let slides: Option<Arc<[Slide]>> =
            plan.window_expr().iter().map(|window| slide(&**window, plan)).collect();
        let by = plan.window_expr().first()?.partition_by();
        Some(Sliding { whole: Arc::new(plan.clone()), by: by.into(), slides: slides? })
    }
}

/// How a window is gone through, if it is one of those that we know.
fn slide(window: &dyn WindowExpr, plan: &BoundedWindowAggExec) -> Option<Slide> {
    let any = window.as_any();
    let of = any.downcast_ref().map(SlidingAggregateWindowExpr::get_aggregate_expr);
    let of: &AggregateFunctionExpr =
        of.or_else(|| any.downcast_ref().map(PlainAggregateWindowExpr::get_aggregate_expr))?;
    let arguments = of.expressions();
    let [argument] = &arguments[..] else { return None };
    // Whether there is a FILTER is told in no other way.
    let is_plain = !of.is_distinct()
        && of.order_bys().is_empty()
        && format!("{window:?}").ends_with("filter: None }");
    let frame = window.get_window_frame();
    if !is_plain || frame.units != WindowFrameUnits::Rows {
        return None;
    }
    let from = match frame.start_bound {
        WindowFrameBound::Preceding(ScalarValue::UInt64(rows)) => rows,
        WindowFrameBound::CurrentRow => Some(0),
        _ => return None,
    };
    let to = match frame.end_bound {
        WindowFrameBound::Preceding(ScalarValue::UInt64(Some(rows))) => rows,
        WindowFrameBound::CurrentRow => 0,
        _ => return None,
    };
    let span = Span::new(from, to)?;
    let input = argument.data_type(&plan.input().schema()).ok()?;
    let measure = Measure::of(of.fun().name(), &input, of.field().data_type())?;
    Some(Slide { measure, input, argument: Arc::clone(argument), span })
}

/// What is kept from batch to batch.
struct Pass {
    sliding: Sliding,
    windows: Vec<Box<dyn Window>>,
    /// The keys of the last row.
    last: Option<Vec<ArrayRef>>,
    reservation: MemoryReservation,
}

impl Pass {
    fn new(sliding: &Sliding, context: &TaskContext) -> Result<Pass> {
        let window = |slide: &Slide| slide.measure.window(&slide.input, slide.span);
        let windows = sliding.slides.iter().map(window).collect::<Result<_>>()?;
        let reservation = MemoryConsumer::new("Sliding").register(context.memory_pool());
        Ok(Pass { sliding: sliding.clone(), windows, last: None, reservation })
    }

    /// The batch with the columns of its windows.
    fn batch(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(RecordBatch::new_empty(self.sliding.whole.schema()));
        }
        let array = |expr: &Arc<dyn PhysicalExpr>| expr.evaluate(batch)?.into_array(rows);
        let keys: Vec<ArrayRef> = self.sliding.by.iter().map(array).collect::<Result<_>>()?;
        let mut starts = if keys.is_empty() { vec![0] } else { starts(&keys)? };
        // The first of them go on with the last batch's last.
        let goes_on = self.goes_on(&keys)?;
        if goes_on {
            starts.remove(0);
        }
        let mut columns = batch.columns().to_vec();
        let slides = Arc::clone(&self.sliding.slides);
        for (slide, window) in slides.iter().zip(&mut self.windows) {
            columns.push(window.slide(&slide.argument.evaluate(batch)?.to_array(rows)?, &starts)?);
        }
        self.last = Some(keys.iter().map(|key| key.slice(rows - 1, 1)).collect());
        self.reservation.try_resize(self.windows.iter().map(|window| window.bytes()).sum())?;
        Ok(RecordBatch::try_new(self.sliding.whole.schema(), columns)?)
    }

    fn goes_on(&self, keys: &[ArrayRef]) -> Result<bool> {
        let Some(last) = &self.last else { return Ok(false) };
        for (last, key) in last.iter().zip(keys) {
            if make_comparator(last, key, SortOptions::default())?(0, 0) != Ordering::Equal {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl DisplayAs for Sliding {
    fn fmt_as(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sliding: ")?;
        self.whole.fmt_as(kind, f)
    }
}

impl ExecutionPlan for Sliding {
    fn name(&self) -> &'static str {
        "Sliding"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.whole.properties()
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        self.whole.required_input_distribution()
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        self.whole.required_input_ordering()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        self.whole.maintains_input_order()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.whole.children()
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let whole = Arc::clone(&self.whole) as Arc<dyn ExecutionPlan>;
        let whole = whole.with_new_children(children)?;
        Ok(match whole.downcast_ref::<BoundedWindowAggExec>().and_then(Sliding::around) {
            Some(sliding) => Arc::new(sliding),
            None => whole,
        })
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let mut pass = Pass::new(self, &context)?;
        let input = self.whole.input().execute(partition, context)?;
        let rows = input.map(move |batch| pass.batch(&batch?));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.whole.schema(), rows)))
    }
}
