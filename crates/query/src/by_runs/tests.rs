//! Run by run and row by row must come to the same.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Int16Array, Int64Array, RecordBatch, StringArray, StringViewArray,
    TimestampMillisecondArray,
};
use arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::MemTable;
use datafusion::physical_plan::displayable;
use datafusion::prelude::{SessionConfig, SessionContext};

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
    let nullable = columns.into_iter().map(|(name, array)| (name, array, true));
    RecordBatch::try_from_iter_with_nullable(nullable).unwrap()
}

fn session(batches: &[Vec<RecordBatch>], by_runs: bool) -> SessionContext {
    let config = SessionConfig::new().with_target_partitions(2);
    let state = datafusion::execution::session_state::SessionStateBuilder::new()
        .with_config(config)
        .with_default_features();
    let state = match by_runs {
        true => state.with_physical_optimizer_rule(Arc::new(super::RULE)),
        false => state,
    };
    let session = SessionContext::new_with_state(state.build());
    let table = MemTable::try_new(batches[0][0].schema(), batches.to_vec()).unwrap();
    session.register_table("t", Arc::new(table)).unwrap();
    session
}

async fn ask(session: &SessionContext, sql: &str) -> (String, String) {
    let frame = session.sql(sql).await.unwrap();
    let plan = frame.clone().create_physical_plan().await.unwrap();
    let batches = frame.collect().await.unwrap();
    let plan = displayable(plan.as_ref()).indent(false).to_string();
    (pretty_format_batches(&batches).unwrap().to_string(), plan)
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
        let (ours, theirs) = (session(&batches, true), session(&batches, false));
        for sql in &questions {
            let (answer, plan) = ask(&ours, sql).await;
            assert!(plan.contains("ByRuns"), "{sql}\n{plan}");
            assert_eq!(answer, ask(&theirs, sql).await.0, "{sql} of runs of {of:?}");
        }
    }
}

#[tokio::test]
async fn what_is_not_known_is_left_alone() {
    let session = session(&[vec![batch(0, 100, 10)], vec![batch(1, 100, 10)]], true);
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
