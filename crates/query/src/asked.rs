//! How the tests of a rule ask: rows in memory, with the rule and without.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::util::display::array_value_to_string;
use datafusion::datasource::MemTable;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::physical_plan::displayable;
use datafusion::prelude::{SessionConfig, SessionContext};

/// A session with the partitions of a table `t`, two threads, and batches of so many rows;
/// `with` adds what is tested.
pub(crate) fn session(
    partitions: Vec<Vec<RecordBatch>>,
    batch_rows: usize,
    with: impl FnOnce(SessionStateBuilder) -> SessionStateBuilder,
) -> SessionContext {
    let config = SessionConfig::new().with_target_partitions(2).with_batch_size(batch_rows);
    let state = SessionStateBuilder::new().with_config(config).with_default_features();
    let session = SessionContext::new_with_state(with(state).build());
    let table = MemTable::try_new(partitions[0][0].schema(), partitions).unwrap();
    session.register_table("t", Arc::new(table)).unwrap();
    session
}

/// Columns as they are, all of which may be null.
pub(crate) fn batch<'a>(columns: impl IntoIterator<Item = (&'a str, ArrayRef)>) -> RecordBatch {
    let nullable = columns.into_iter().map(|(name, array)| (name, array, true));
    RecordBatch::try_from_iter_with_nullable(nullable).unwrap()
}

/// The rows of the answer, cells apart by `|`, and the plan.
pub(crate) async fn ask(session: &SessionContext, sql: &str) -> (Vec<String>, String) {
    let frame = session.sql(sql).await.unwrap();
    let plan = frame.clone().create_physical_plan().await.unwrap();
    let plan = displayable(plan.as_ref()).indent(false).to_string();
    let batches = frame.collect().await.unwrap();
    let rows = batches.iter().flat_map(|batch| {
        (0..batch.num_rows()).map(move |row| {
            let cell = |column: &ArrayRef| array_value_to_string(column, row).unwrap();
            batch.columns().iter().map(cell).collect::<Vec<_>>().join("|")
        })
    });
    (rows.collect(), plan)
}
