//! Questions among rows whose keys are all alike.

use std::sync::Arc;

use arrow::array::Int64Array;

use crate::asked;

const ROWS: i64 = 200_000;

async fn ask(sql: &str, each_once: bool) -> (Vec<String>, String) {
    let keys: Int64Array = (0..ROWS).map(|n| (n % 1000 > 0).then_some(n % 10)).collect();
    let ids: Int64Array = (0..ROWS).map(Some).collect();
    let batch = asked::batch([("k", Arc::new(keys) as _), ("id", Arc::new(ids) as _)]);
    let session = asked::session(vec![vec![batch]], 8192, |state| match each_once {
        true => state.with_optimizer_rule(Arc::new(super::EachOnce)),
        false => state,
    });
    asked::ask(&session, sql).await
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
        assert_eq!(found, [count.to_string()], "{condition}\n{plan}");
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
