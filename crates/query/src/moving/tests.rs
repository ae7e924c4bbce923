//! Windows against a loop over their rows.

use std::sync::Arc;

use arrow::array::{Float64Array, Int64Array};
use datafusion::prelude::SessionContext;
use proptest::prelude::*;

use crate::asked::{self, ask};

/// Hours, in order and with gaps, and what was measured then.
type Rows = Vec<(i64, Option<f64>)>;

fn session(rows: &Rows, batch_rows: usize) -> SessionContext {
    let hours: Int64Array = rows.iter().map(|row| Some(row.0)).collect();
    let reals: Float64Array = rows.iter().map(|row| row.1).collect();
    let batch = asked::batch([("h", Arc::new(hours) as _), ("v", Arc::new(reals) as _)]);
    asked::session(vec![vec![batch]], batch_rows, |state| {
        state.with_physical_optimizer_rule(Arc::new(super::RULE))
    })
}

/// What the window from `from` to `to` hours away comes to, for each row.
fn by_hand(rows: &Rows, from: i64, to: i64) -> Vec<String> {
    let of = |hour: i64| {
        let within = rows.iter().filter(|(h, _)| (hour + from..=hour + to).contains(h));
        let numbers: Vec<f64> = within.clone().filter_map(|row| row.1).collect();
        let some = |number: f64| match numbers.is_empty() {
            true => String::new(),
            false => format!("{number:?}"),
        };
        let sum: f64 = numbers.iter().sum();
        let least = numbers.iter().copied().fold(f64::INFINITY, f64::min);
        let all = numbers.iter().all(|number| *number > 2.0);
        format!(
            "{}|{}|{}|{}|{}",
            within.count(),
            numbers.len(),
            some(sum),
            some(least),
            if numbers.is_empty() { String::new() } else { all.to_string() },
        )
    };
    rows.iter().map(|(hour, _)| format!("{hour}|{}", of(*hour))).collect()
}

fn bound(hours: i64) -> String {
    match hours {
        0 => "CURRENT ROW".to_owned(),
        1.. => format!("{hours} FOLLOWING"),
        _ => format!("{} PRECEDING", -hours),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn windows_of_hours_come_to_what_their_rows_come_to(
        steps in prop::collection::vec((0_i64..6, prop::option::weighted(0.7, -40_i32..40)), 0..60),
        from in -5_i64..5,
        width in 0_i64..6,
        batch_rows in prop::sample::select(vec![1_usize, 3, 8192]),
    ) {
        let mut hour = 0;
        let step = |(gap, value): (i64, Option<i32>)| {
            hour += gap;
            (hour, value.map(|value| f64::from(value) / 8.0))
        };
        let rows: Rows = steps.into_iter().map(step).collect();
        let over = format!(
            "OVER (ORDER BY h RANGE BETWEEN {} AND {})", bound(from), bound(from + width)
        );
        let sql = format!(
            "SELECT h, count(*) {over}, count(v) {over}, sum(v) {over}, min(v) {over}, \
             bool_and(v > 2) {over} FROM t ORDER BY h"
        );
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (found, _) = runtime.block_on(ask(&session(&rows, batch_rows), &sql));
        assert_eq!(found, by_hand(&rows, from, from + width), "{sql}");
    }
}

#[tokio::test]
async fn what_cannot_take_away_is_done_all_the_same() {
    let rows: Rows = (0..4).map(|hour| (hour, Some(hour as f64 / 2.0))).collect();
    let over = "OVER (ORDER BY h ROWS 1 PRECEDING)";
    let sql = format!(
        "SELECT h, corr(v, h) {over}, sum(DISTINCT v) {over}, approx_distinct(h) {over}, \
         string_agg(CAST(h AS text), '+') {over}, array_agg(h) {over} FROM t ORDER BY h"
    );
    assert_eq!(
        ask(&session(&rows, 8192), &sql).await.0,
        [
            "0||0.0|1|0|[0]",
            "1|1.0|0.5|2|0+1|[0, 1]",
            "2|1.0|1.5|2|1+2|[1, 2]",
            "3|1.0|2.5|2|2+3|[2, 3]",
        ]
    );
}

#[tokio::test]
async fn a_filter_that_nobody_tells_us_of_is_refused() {
    let rows: Rows = vec![(0, Some(1.0))];
    let sql = "SELECT array_agg(h) FILTER (WHERE v > 0) \
               OVER (ORDER BY h RANGE BETWEEN 3 PRECEDING AND 1 PRECEDING) FROM t";
    let frame = session(&rows, 8192).sql(sql).await.unwrap();
    let error = frame.collect().await.unwrap_err().to_string();
    assert!(error.contains("FILTER or ORDER BY of array_agg"), "{error}");
}
