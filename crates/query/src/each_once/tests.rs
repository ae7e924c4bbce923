//! Questions among rows whose keys are all alike.

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use datafusion::datasource::MemTable;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::physical_plan::displayable;
use datafusion::prelude::SessionContext;

const ROWS: i64 = 200_000;

async fn ask(sql: &str, each_once: bool) -> (i64, String) {
    let state = SessionStateBuilder::new().with_default_features();
    let state = match each_once {
        true => state.with_optimizer_rule(Arc::new(super::EachOnce)),
        false => state,
    };
    let session = SessionContext::new_with_state(state.build());
    let keys: Int64Array = (0..ROWS).map(|n| (n % 1000 > 0).then_some(n % 10)).collect();
    let ids: Int64Array = (0..ROWS).map(Some).collect();
    let columns = [("k", Arc::new(keys) as _, true), ("id", Arc::new(ids) as _, true)];
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let table = MemTable::try_new(batch.schema(), vec![vec![batch]]).unwrap();
    session.register_table("t", Arc::new(table)).unwrap();
    let frame = session.sql(sql).await.unwrap();
    let plan = frame.clone().create_physical_plan().await.unwrap();
    let plan = displayable(plan.as_ref()).indent(false).to_string();
    let batches = frame.collect().await.unwrap();
    use arrow::array::AsArray;
    let counts = batches[0].column(0).as_primitive::<arrow::datatypes::Int64Type>();
    (counts.value(0), plan)
}

#[tokio::test]
async fn a_match_is_looked_for_among_distinct_keys() {
    let nulls = ROWS / 1000;
    for (condition, count) in [
        ("k IN (SELECT k FROM t WHERE k > 4)", ROWS / 2),
        ("k + 1 IN (SELECT k * 1 FROM t)", ROWS - nulls - ROWS / 10),
        ("EXISTS (SELECT 1 FROM t u WHERE u.k = t.k)", ROWS - nulls),
        ("NOT EXISTS (SELECT 1 FROM t u WHERE u.k = t.k)", nulls),
        ("id < 5 OR k IN (SELECT k FROM t WHERE k > 4)", ROWS / 2 + 5),
        ("k IN (SELECT DISTINCT k FROM t WHERE k > 4)", ROWS / 2),
    ] {
        let sql = format!("SELECT count(*) FROM t WHERE {condition}");
        // The square of twenty thousand rows, ten times, would take minutes.
        let (found, plan) = ask(&sql, true).await;
        assert_eq!(found, count, "{condition}\n{plan}");
        assert!(plan.contains("AggregateExec: mode=FinalPartitioned, gby=["), "{plan}");
    }
}

#[tokio::test]
async fn what_looks_at_more_than_keys_is_left_alone() {
    let sql = "SELECT count(*) FROM (SELECT * FROM t WHERE id < 50) t \
               WHERE EXISTS (SELECT 1 FROM t u WHERE u.k = t.k AND u.id > t.id)";
    let (found, plan) = ask(sql, true).await;
    assert_eq!((found, plan), ask(sql, false).await);
}
