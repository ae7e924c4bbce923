//! Both zeros are one, in every question that can tell them apart.

use std::sync::Arc;

use arrow::array::{Float32Array, Float64Array, Int64Array};

use crate::asked;

async fn ask(sql: &str) -> String {
    let batch = asked::batch([
        ("id", Arc::new(Int64Array::from(vec![1, 2, 3, 4, 5])) as _),
        ("v", Arc::new(Float64Array::from(vec![-1.0, -0.0, 0.0, 1.0, -0.0])) as _),
        ("w", Arc::new(Float32Array::from(vec![-1.0, 0.0, -0.0, 1.0, -0.0])) as _),
    ]);
    let session = asked::session(vec![vec![batch]], 8192, |state| {
        state.with_analyzer_rule(Arc::new(super::OneZero))
    });
    asked::ask(&session, sql).await.0.join(" ")
}

#[tokio::test]
async fn comparisons_know_one_zero() {
    for (condition, ids) in [
        ("v >= 0", "2 3 4 5"),
        ("v > 0", "4"),
        ("v < 0", "1"),
        ("v <= 0", "1 2 3 5"),
        ("v = 0", "2 3 5"),
        ("v <> 0", "1 4"),
        ("0 <= v", "2 3 4 5"),
        ("0 > v", "1"),
        ("-0.0 = v", "2 3 5"),
        ("v > -0.0", "4"),
        ("w >= 0", "2 3 4 5"),
        ("w = CAST(0 AS real)", "2 3 5"),
        ("v = w", "1 2 3 4 5"),
        ("v < w", ""),
        ("v IS DISTINCT FROM w", ""),
        ("v BETWEEN 0 AND 1", "2 3 4 5"),
        ("v BETWEEN -1 AND 0", "1 2 3 5"),
        ("v NOT BETWEEN w AND w", ""),
        ("v IN (0, 7)", "2 3 5"),
        ("v NOT IN (0, 1)", "1"),
        ("nullif(v, w) IS NULL", "1 2 3 4 5"),
        ("v * -1 >= 0", "1 2 3 5"),
        ("id - 3 >= 0.0", "3 4 5"),
    ] {
        let sql = format!("SELECT id FROM t WHERE {condition} ORDER BY id");
        assert_eq!(ask(&sql).await, ids, "{condition}");
    }
}

#[tokio::test]
async fn groups_and_joins_know_one_zero() {
    for (sql, answer) in [
        ("SELECT v, count(*) FROM t GROUP BY v ORDER BY v", "-1.0|1 0.0|3 1.0|1"),
        ("SELECT round(v / 4), count(*) FROM t GROUP BY round(v / 4)", "0.0|5"),
        ("SELECT v, count(*) FROM t GROUP BY ROLLUP (v) ORDER BY v", "-1.0|1 0.0|3 1.0|1 |5"),
        (
            "SELECT v / 2, id % 2, count(*) FROM t GROUP BY GROUPING SETS ((v / 2), (id % 2)) ORDER BY 1, 2",
            "-0.5||1 0.0||3 0.5||1 |0|2 |1|3",
        ),
        ("SELECT DISTINCT v, w FROM t ORDER BY v", "-1.0|-1.0 0.0|0.0 1.0|1.0"),
        ("SELECT count(DISTINCT v), count(DISTINCT w) FROM t", "3|3"),
        ("SELECT count(*) FROM t a JOIN t b ON a.v = b.v", "11"),
        ("SELECT count(*) FROM t a JOIN t b USING (v)", "11"),
        ("SELECT v FROM t UNION SELECT w FROM t ORDER BY v", "-1.0 0.0 1.0"),
        ("SELECT count(*) FROM (SELECT v FROM t EXCEPT SELECT v + 0 FROM t WHERE id < 5)", "0"),
        ("SELECT max(n) FROM (SELECT count(*) OVER (PARTITION BY v) AS n FROM t)", "3"),
        ("SELECT max(n) FROM (SELECT rank() OVER (ORDER BY v) AS n FROM t)", "5"),
        (
            "SELECT count(*) FROM t WHERE EXISTS (SELECT 1 FROM t u WHERE u.w = t.v AND u.id <> t.id)",
            "3",
        ),
    ] {
        assert_eq!(ask(sql).await, answer, "{sql}");
    }
}

/// What is compared with a number that is written there stays a column and a number: statistics
/// of files are judged by that.
#[tokio::test]
async fn conditions_on_columns_stay_as_simple_as_they_were() {
    let plan = ask("EXPLAIN SELECT id FROM t WHERE v >= 0 AND v < 3 AND w > 0").await;
    assert!(!plan.contains(super::PLAIN), "{plan}");
}
