//! Run by run and row by row must come to the same.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Int16Array, Int64Array, RecordBatch, StringArray, StringViewArray,
    TimestampMillisecondArray,
};
use datafusion::prelude::SessionContext;

use crate::asked::{ask, session};

/// Rows of a batch; a run of `length` rows of a key, then the next, then from the first again.
fn batch(seed: usize, rows: usize, length: usize) -> RecordBatch {
    let key = |row: usize| (row + seed) / length % 40;
    let number = |row: usize| (row * 7919 + seed * 31) % 1000;
    // A run of nulls, and nulls within runs.
    let is_null = |row: usize| key(row) == 7 || number(row).is_multiple_of(11);
    let text = |row: usize| (key(row) != 5).then(|| format!("device number {:04}", key(row)));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("view", Arc::new((0..rows).map(text).collect::<StringViewArray>())),
        (
            "sound",
            Arc::new(
                (0..rows).map(|row| Some(format!("d{}", key(row)))).collect::<StringViewArray>(),
            ),
        ),
        ("text", Arc::new((0..rows).map(text).collect::<StringArray>())),
        ("hour", Arc::new((0..rows).map(|row| Some(key(row) as i64 / 4)).collect::<Int64Array>())),
        (
            "small",
            Arc::new(
                (0..rows)
                    .map(|row| (!is_null(row)).then(|| number(row) as i16 - 500))
                    .collect::<Int16Array>(),
            ),
        ),
        (
            "large",
            Arc::new(
                (0..rows).map(|row| number(row) as i64 * 1_000_000_007).collect::<Int64Array>(),
            ),
        ),
        (
            "real",
            Arc::new(
                (0..rows)
                    .map(|row| (!is_null(row)).then(|| number(row) as f64 / 8.0))
                    .collect::<Float64Array>(),
            ),
        ),
        (
            "at",
            Arc::new(
                (0..rows)
                    .map(|row| (!is_null(row)).then(|| number(row) as i64))
                    .collect::<TimestampMillisecondArray>(),
            ),
        ),
    ];
    crate::asked::batch(columns)
}

fn by_runs(batches: &[Vec<RecordBatch>]) -> SessionContext {
    session(batches.to_vec(), 8192, |state| {
        state.with_physical_optimizer_rule(Arc::new(super::RULE))
    })
}

#[tokio::test]
async fn runs_come_to_what_rows_come_to() {
    let measures = "count(*), count(small), sum(small), sum(real), avg(small), avg(real), \
                    min(small), max(small), min(real), max(at), min(large), sum(large)";
    let some =
        format!("SELECT sound, {measures} FROM t WHERE small > 100 GROUP BY sound ORDER BY sound");
    let mut questions = vec![some];
    for keys in ["view", "sound", "text", "hour", "view, hour", "text, sound, hour"] {
        questions.push(format!("SELECT {keys}, {measures} FROM t GROUP BY {keys} ORDER BY {keys}"));
        questions.push(format!("SELECT DISTINCT {keys} FROM t ORDER BY {keys}"));
    }
    // Long runs; runs that are cut by batches; none; ones that get short on the way.
    let lengths: [&[usize]; 5] = [&[500], &[8192, 30], &[1], &[300, 300, 1, 300], &[17, 2]];
    for of in lengths {
        let batches: Vec<Vec<RecordBatch>> = (0..2)
            .map(|part| (0..8).map(|n| batch(n * 100 + part, 4000 + n, of[n % of.len()])).collect())
            .collect();
        let (ours, theirs) = (by_runs(&batches), session(batches.to_vec(), 8192, |state| state));
        for sql in &questions {
            let (answer, plan) = ask(&ours, sql).await;
            assert!(plan.contains("ByRuns"), "{sql}\n{plan}");
            assert_eq!(answer, ask(&theirs, sql).await.0, "{sql} of runs of {of:?}");
        }
    }
}

#[tokio::test]
async fn what_is_not_known_is_left_alone() {
    let session = by_runs(&[vec![batch(0, 100, 10)], vec![batch(1, 100, 10)]]);
    for measure in [
        "count(DISTINCT small)",
        "median(small)",
        "min(text)",
        "sum(small) FILTER (WHERE small > 0)",
        "array_agg(small ORDER BY small)",
    ] {
        let sql = format!("SELECT hour, {measure} FROM t GROUP BY hour ORDER BY hour");
        let (_, plan) = ask(&session, &sql).await;
        // A distinct count is made of two aggregations, the first of which only groups.
        assert!(!plan.contains("ByRuns") || measure.contains("DISTINCT"), "{sql}\n{plan}");
    }
    let (_, plan) = ask(&session, "SELECT count(*), sum(real) FROM t").await;
    assert!(!plan.contains("ByRuns"), "{plan}");
}
