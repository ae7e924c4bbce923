//! Rows for which nothing matches, some of which are what a count of nothing is.

use std::sync::Arc;

use arrow::array::Int64Array;

use crate::asked;

async fn keys(condition: &str) -> Result<Vec<String>, String> {
    let keys = Int64Array::from(vec![Some(0), Some(1), Some(2), None]);
    let batch = asked::batch([("k", Arc::new(keys) as _)]);
    let session = asked::session(vec![vec![batch]], 8192, |state| {
        state.with_analyzer_rule(Arc::new(super::OneGroup))
    });
    let u = "(SELECT 1 AS n UNION ALL SELECT 1 UNION ALL SELECT 2)";
    let sql = format!(
        "WITH u AS {u} SELECT coalesce(k, -1) FROM t WHERE {condition} ORDER BY k NULLS LAST"
    );
    match session.sql(&sql).await {
        Ok(frame) => match frame.create_physical_plan().await {
            Ok(_) => Ok(asked::ask(&session, &sql).await.0),
            Err(error) => Err(error.to_string()),
        },
        Err(error) => Err(error.to_string()),
    }
}

#[tokio::test]
async fn an_aggregate_of_no_rows_is_a_row() {
    for (condition, expect) in [
        ("EXISTS (SELECT count(*) FROM u WHERE n = k)", "0 1 2 -1"),
        ("NOT EXISTS (SELECT sum(n) + 1 FROM u WHERE n = k)", ""),
        ("EXISTS (SELECT c FROM (SELECT count(*) AS c FROM u WHERE n = k) s LIMIT 3)", "0 1 2 -1"),
        ("k IN (SELECT count(*) FROM u WHERE n = k)", "0"),
        ("k + 1 IN (SELECT count(*) FROM u WHERE n = k)", "1"),
        ("k NOT IN (SELECT count(*) FROM u WHERE n = k)", "1 2"),
        ("k IN (SELECT sum(n) FROM u WHERE n = k)", "2"),
        ("k = 0 OR k IN (SELECT sum(n) - 1 FROM u WHERE n = k)", "0 1"),
        // As it was: with groups, and without a table from around it.
        ("EXISTS (SELECT count(*) FROM u WHERE n = k GROUP BY n)", "1 2"),
        ("k IN (SELECT count(*) FROM u WHERE n = k GROUP BY n)", ""),
        ("EXISTS (SELECT count(*) FROM u WHERE n = 7)", "0 1 2 -1"),
        ("EXISTS (SELECT count(*) FROM u HAVING count(*) > 7)", ""),
        ("k IN (SELECT count(*) FROM u WHERE n = 7)", "0"),
        ("EXISTS (SELECT 1 FROM u WHERE n = k LIMIT 1)", "1 2"),
    ] {
        assert_eq!(
            keys(condition).await.map(|rows| rows.join(" ")),
            Ok(expect.into()),
            "{condition}"
        );
    }
}

#[tokio::test]
async fn a_row_that_may_be_taken_away_again_is_refused() {
    for condition in [
        "EXISTS (SELECT count(*) FROM u WHERE n = k HAVING count(*) > 1)",
        "k IN (SELECT count(*) FROM u WHERE n = k HAVING count(*) < 5)",
        "EXISTS (SELECT count(*) FROM u WHERE n = k LIMIT 0)",
        "EXISTS (SELECT 1 FROM u WHERE n = k OFFSET 1)",
    ] {
        let refused = keys(condition).await.unwrap_err();
        assert!(refused.contains("is not supported"), "{condition}: {refused}");
    }
}
