//! The first rows of a sorted table, without reading what is not among them.
//!
//! `ORDER BY a, b, c LIMIT 20` keeps the best rows so far, and DataFusion tells its reader of Parquet
//! what a row must be like to be one of them. The reader uses that for whole row groups and pages;
//! in data that is not sorted by `a` none can be left out, and every column of every row is read,
//! to be thrown away. Here the reader is told to look at `a` first and to go on with rows that may
//! still win: then at `b`, and at the rest for what is left.
//!
//! Nothing depends on what is left out here: rows that cannot win any more are passed over by the
//! sort, too. So where a key leaves too many rows to be worth it, it just lets all pass.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, Schema};
use datafusion::common::DataFusionError;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::datasource::physical_plan::{
    FileScanConfig, FileScanConfigBuilder, FileSource, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::logical_expr::{ColumnarValue, Operator};
use datafusion::physical_expr::expressions::{BinaryExpr, Column, DynamicFilterPhysicalExpr, lit};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{PhysicalExpr, conjunction, split_conjunction};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::sorts::sort::SortExec;

use crate::replace::Replace;

type Result<T, E = DataFusionError> = std::result::Result<T, E>;

/// Keys that are looked at one after another. Behind the second there is little left to save.
const KEYS_MAX: usize = 2;

/// Rows after which it is known how many a key leaves.
const ROWS_JUDGED: u64 = 65_536;

/// A key that leaves more than one row of so many saves nothing: rows that stand alone are dearer
/// to read than rows that follow each other.
const ROWS_FOR_ONE: u64 = 8;

/// Has the reader below a sort of the first rows look at its keys before the rest.
pub(crate) const RULE: Replace = Replace {
    name: "read_late",
    instead: |plan| {
        late(plan).map(|source| Arc::clone(plan).with_new_children(vec![source])).transpose()
    },
};

/// The reader of a sort's rows, told what to look at first, if there is something to gain or to
/// keep from being lost.
fn late(plan: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
    let sort = plan.downcast_ref::<SortExec>()?;
    sort.fetch()?;
    let scan = sort.input().downcast_ref::<DataSourceExec>()?;
    let config = scan.data_source().downcast_ref::<FileScanConfig>()?;
    let source = config.file_source().downcast_ref::<ParquetSource>()?;
    let filter = source.filter()?;
    let (wins, others): (Vec<_>, Vec<_>) = split_conjunction(&filter)
        .into_iter()
        .cloned()
        .partition(|part| part.is::<DynamicFilterPhysicalExpr>());
    let [wins] = &wins[..] else { return None };
    let keys = wins.children();
    let table = source.table_schema().table_schema();
    let may_be_no_number = |key: &Arc<dyn PhysicalExpr>| {
        key.data_type(table).is_ok_and(|data_type| data_type.is_floating())
    };
    let in_files = source.table_schema().file_schema().fields().len();
    let columns: Vec<Arc<dyn PhysicalExpr>> = keys
        .iter()
        .take_while(|key| {
            key.downcast_ref::<Column>().is_some_and(|column| column.index() < in_files)
        })
        .map(|key| Arc::clone(key))
        .collect();
    // If nothing else is read, nothing is saved; where there is a condition besides, the order in
    // which the reader looks at things is DataFusion's affair.
    let read = config.projected_schema().ok()?.fields().len();
    let looks = match others.is_empty() {
        true => columns.len().min(KEYS_MAX).min(read.checked_sub(1)?),
        false => 0,
    };
    let look = |count: usize| -> Arc<dyn PhysicalExpr> {
        let judges = count == 1 && !may_be_no_number(&columns[0]);
        Arc::new(MayWin::new(Arc::clone(wins), &columns[..count], judges))
    };
    let source = match looks {
        0 if !keys.iter().any(|key| may_be_no_number(key)) => return None,
        0 => {
            let may_win = Arc::new(MayWin::new(Arc::clone(wins), &columns, false));
            source.with_predicate(conjunction(others.into_iter().chain([may_win as _])))
        }
        _ => {
            let predicate = conjunction((1..=looks).map(look));
            // Few rows are left: what was decoded to look at is not worth a copy of it.
            let mut options = source.table_parquet_options().clone();
            options.global.max_predicate_cache_size = Some(0);
            let source = source.clone().with_table_parquet_options(options);
            source.with_predicate(predicate).with_pushdown_filters(true)
        }
    };
    let config = FileScanConfigBuilder::from(config.clone()).with_source(Arc::new(source)).build();
    Some(DataSourceExec::from_data_source(config))
}

/// Whether a row may be among the first, as far as its first keys tell.
#[derive(Debug)]
struct MayWin {
    /// What the sort knows, of all keys; it changes while rows are read.
    wins: Arc<dyn PhysicalExpr>,
    /// The keys looked at, as `wins` has them, and as they are called in a file.
    keys: Vec<Arc<dyn PhysicalExpr>>,
    called: Vec<Arc<dyn PhysicalExpr>>,
    /// What `wins` says of these keys alone, and at which of its changes that was.
    known: Mutex<Option<Known>>,
    /// Whether row groups and pages may be judged by it. Their statistics leave out what is no
    /// number, which comes first in an order that descends.
    judges: bool,
    /// In all files.
    passed: Arc<Passed>,
}

/// A condition, if there is one, and the change it is of.
type Known = (u64, Option<Arc<dyn PhysicalExpr>>);

/// Rows that were looked at.
#[derive(Debug, Default)]
struct Passed {
    all: AtomicU64,
    passed: AtomicU64,
}

impl Passed {
    fn add(&self, all: usize, passed: usize) {
        self.all.fetch_add(all as u64, Ordering::Relaxed);
        self.passed.fetch_add(passed as u64, Ordering::Relaxed);
    }

    fn are_too_many(&self) -> bool {
        let all = self.all.load(Ordering::Relaxed);
        all >= ROWS_JUDGED && self.passed.load(Ordering::Relaxed) * ROWS_FOR_ONE > all
    }
}

impl MayWin {
    fn new(wins: Arc<dyn PhysicalExpr>, keys: &[Arc<dyn PhysicalExpr>], judges: bool) -> MayWin {
        let (keys, called) = (keys.to_vec(), keys.to_vec());
        MayWin { wins, keys, called, known: Mutex::default(), judges, passed: Arc::default() }
    }

    /// What is known of the keys by now; none if any row may win.
    fn now(&self) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        let wins = self.wins.downcast_ref::<DynamicFilterPhysicalExpr>();
        let wins = wins.ok_or_else(|| DataFusionError::Internal("a sort of no filter".into()))?;
        let change = wins.snapshot_generation();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, known)) = &*known
            && *of == change
        {
            return Ok(known.clone());
        }
        let columns: HashSet<Column> = self.keys.iter().flat_map(collect_columns).collect();
        let now = match of_columns(&wins.current()?, &columns) {
            Some(expr) => Some(self.in_file(expr)?),
            None => None,
        };
        *known = Some((change, now.clone()));
        Ok(now)
    }

    fn in_file(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let replace = |expr: Arc<dyn PhysicalExpr>| {
            let at = self.keys.iter().position(|key| key.as_ref() == expr.as_ref());
            Ok(match at {
                Some(at) => Transformed::yes(Arc::clone(&self.called[at])),
                None => Transformed::no(expr),
            })
        };
        expr.transform_up(replace).data()
    }
}

/// What remains of a condition if nothing but these columns is known: true of every row that the
/// condition is true of. None if it is true of all.
fn of_columns(
    expr: &Arc<dyn PhysicalExpr>,
    columns: &HashSet<Column>,
) -> Option<Arc<dyn PhysicalExpr>> {
    let binary =
        |left, op, right| -> Arc<dyn PhysicalExpr> { Arc::new(BinaryExpr::new(left, op, right)) };
    let Some(both) = expr.downcast_ref::<BinaryExpr>() else {
        return known_of(expr, columns);
    };
    match both.op() {
        Operator::And => {
            match (of_columns(both.left(), columns), of_columns(both.right(), columns)) {
                (Some(left), Some(right)) => Some(binary(left, Operator::And, right)),
                (one, other) => one.or(other),
            }
        }
        Operator::Or => {
            let (left, right) =
                (of_columns(both.left(), columns)?, of_columns(both.right(), columns)?);
            Some(either(left, right))
        }
        _ => known_of(expr, columns),
    }
}

fn known_of(
    expr: &Arc<dyn PhysicalExpr>,
    columns: &HashSet<Column>,
) -> Option<Arc<dyn PhysicalExpr>> {
    let named = collect_columns(expr);
    let within = named.iter().all(|column| columns.contains(column));
    (!named.is_empty() && within).then(|| Arc::clone(expr))
}

/// One or the other, in as few words as may be: of `a > 1 OR (a = 1 AND b > 2) OR (a = 1 AND b = 2
/// AND c > 3)` the first key alone has `a > 1 OR a = 1 OR a = 1`.
fn either(left: Arc<dyn PhysicalExpr>, right: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
    if says(&left, &right) {
        return left;
    }
    if let (Some(one), Some(other)) =
        (left.downcast_ref::<BinaryExpr>(), right.downcast_ref::<BinaryExpr>())
        && *other.op() == Operator::Eq
        && one.left() == other.left()
        && one.right() == other.right()
        && let Some(op) = match one.op() {
            Operator::Gt => Some(Operator::GtEq),
            Operator::Lt => Some(Operator::LtEq),
            _ => None,
        }
    {
        return Arc::new(BinaryExpr::new(Arc::clone(one.left()), op, Arc::clone(one.right())));
    }
    Arc::new(BinaryExpr::new(left, Operator::Or, right))
}

/// Whether a row of the second is one of the first.
fn says(one: &Arc<dyn PhysicalExpr>, other: &Arc<dyn PhysicalExpr>) -> bool {
    if one == other {
        return true;
    }
    let (Some(either), other) = (one.downcast_ref::<BinaryExpr>(), other) else { return false };
    if *either.op() == Operator::Or {
        return says(either.left(), other) || says(either.right(), other);
    }
    matches!(either.op(), Operator::GtEq | Operator::LtEq)
        && other.downcast_ref::<BinaryExpr>().is_some_and(|other| {
            *other.op() == Operator::Eq
                && other.left() == either.left()
                && other.right() == either.right()
        })
}

impl PhysicalExpr for MayWin {
    fn data_type(&self, _schema: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, _schema: &Schema) -> Result<bool> {
        Ok(true)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        if self.passed.are_too_many() {
            return lit(true).evaluate(batch);
        }
        let Some(now) = self.now()? else { return lit(true).evaluate(batch) };
        let found = now.evaluate(batch)?.into_array(batch.num_rows())?;
        let passed = arrow::array::AsArray::as_boolean(&found).true_count();
        self.passed.add(found.len(), passed);
        Ok(ColumnarValue::Array(found))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.called.iter().collect()
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(MayWin {
            wins: Arc::clone(&self.wins),
            keys: self.keys.clone(),
            called: children,
            known: Mutex::default(),
            judges: self.judges,
            passed: Arc::clone(&self.passed),
        }))
    }

    /// What row groups and pages are judged by: the first key is enough for that.
    fn snapshot(&self) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        let now = if self.judges { self.now()? } else { None };
        Ok(Some(now.unwrap_or_else(|| lit(true))))
    }

    fn snapshot_generation(&self) -> u64 {
        self.wins.snapshot_generation()
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for MayWin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("may_win(")?;
        for (at, key) in self.called.iter().enumerate() {
            write!(f, "{}{key}", if at > 0 { ", " } else { "" })?;
        }
        f.write_str(")")
    }
}

impl PartialEq for MayWin {
    fn eq(&self, other: &Self) -> bool {
        self.wins.as_ref() == other.wins.as_ref()
            && self.keys == other.keys
            && self.called == other.called
    }
}

impl Eq for MayWin {}

impl Hash for MayWin {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.wins.hash(state);
        self.called.hash(state);
    }
}
