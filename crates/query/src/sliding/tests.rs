//! A window that slides and one that is looked at anew for each row must come to the same.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringViewArray};
use datafusion::prelude::SessionContext;
use proptest::prelude::*;

use crate::asked::{self, ask};

/// A row: its partition, its place in it, and values.
type Row = (Option<u8>, i64, Option<i64>, Option<f64>);

fn session(rows: &[Row], batch_rows: usize, sliding: bool) -> SessionContext {
    let name = |row: &Row| row.0.map(|key| format!("device number {key:04}"));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("device", Arc::new(rows.iter().map(name).collect::<StringViewArray>())),
        ("hour", Arc::new(rows.iter().map(|row| Some(row.1 / 4)).collect::<Int64Array>())),
        // Ties are told apart by the row, since either order of them would do.
        ("at", Arc::new((0..).zip(rows).map(|(n, row)| row.1 * 1000 + n).collect::<Int64Array>())),
        ("whole", Arc::new(rows.iter().map(|row| row.2).collect::<Int64Array>())),
        ("real", Arc::new(rows.iter().map(|row| row.3).collect::<Float64Array>())),
    ];
    let rule = if sliding { super::RULE } else { crate::moving::RULE };
    asked::session(vec![vec![asked::batch(columns)]], batch_rows, |state| {
        state.with_physical_optimizer_rule(Arc::new(rule))
    })
}

const FRAMES: &[&str] = &[
    "ROWS BETWEEN 11 PRECEDING AND CURRENT ROW",
    "ROWS 1 PRECEDING",
    "ROWS CURRENT ROW",
    "ROWS BETWEEN 0 PRECEDING AND CURRENT ROW",
    "ROWS UNBOUNDED PRECEDING",
    "ROWS BETWEEN UNBOUNDED PRECEDING AND 3 PRECEDING",
    "ROWS BETWEEN 7 PRECEDING AND 2 PRECEDING",
    "ROWS BETWEEN 4 PRECEDING AND 4 PRECEDING",
    "ROWS BETWEEN 100000 PRECEDING AND 99 PRECEDING",
];

const KEYS: &[&str] = &[
    "PARTITION BY device ORDER BY at",
    "PARTITION BY device, hour ORDER BY at",
    "PARTITION BY hour, device ORDER BY at DESC",
    "ORDER BY device, at",
];

fn question(keys: &str, frame: &str) -> String {
    let over = format!("OVER ({keys} {frame})");
    format!(
        "SELECT device, at, avg(real) {over}, sum(real) {over}, sum(whole) {over}, \
         avg(whole) {over}, count(*) {over}, count(real) {over}, count(device) {over}, \
         min(real) {over}, max(real) {over}, min(whole) {over}, max(whole) {over}, \
         stddev(real) {over}, stddev_pop(real) {over}, var(real) {over}, var_pop(real) {over} \
         FROM t ORDER BY at"
    )
}

/// The same but for what the order of additions makes of the last digits.
fn assert_same(ours: &[String], theirs: &[String], sql: &str) {
    assert_eq!(ours.len(), theirs.len(), "{sql}");
    for (ours, theirs) in ours.iter().zip(theirs) {
        for (one, other) in ours.split('|').zip(theirs.split('|')) {
            let near = match (one.parse::<f64>(), other.parse::<f64>()) {
                (Ok(one), Ok(other)) => {
                    (one - other).abs() <= 1e-9 * one.abs().max(other.abs()).max(1.0)
                }
                _ => false,
            };
            assert!(one == other || near, "{one} is not {other} in\n{ours}\n{theirs}\n{sql}");
        }
    }
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    // What is no number must be forgotten as it leaves.
    let real = prop_oneof![
        10 => (-1000_i32..1000).prop_map(|n| f64::from(n) / 7.0),
        1 => Just(0.0),
        1 => prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(f64::NEG_INFINITY)],
    ];
    let whole = prop_oneof![10 => -1000_i64..1000, 1 => Just(i64::MAX)];
    let key = prop::option::weighted(0.9, 0_u8..4);
    let row =
        (key, 0_i64..40, prop::option::weighted(0.8, whole), prop::option::weighted(0.8, real));
    prop::collection::vec(row, 0..120)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn windows_come_to_what_their_rows_come_to(
        rows in rows(),
        frame in prop::sample::select(FRAMES),
        keys in prop::sample::select(KEYS),
        batch_rows in prop::sample::select(vec![1_usize, 3, 8, 8192]),
    ) {
        let sql = question(keys, frame);
        runtime().block_on(async {
            let (ours, plan) = ask(&session(&rows, batch_rows, true), &sql).await;
            assert!(plan.contains("Sliding"), "{sql}\n{plan}");
            let (theirs, plan) = ask(&session(&rows, batch_rows, false), &sql).await;
            assert!(plan.contains("BoundedWindowAggExec") && !plan.contains("Sliding"), "{plan}");
            assert_same(&ours, &theirs, &sql);
        });
    }
}

#[tokio::test]
async fn many_rows_go_through_many_batches() {
    // Partitions that are shorter than a batch, longer, and of one row.
    let row = |n: i64| {
        let key = if n % 1000 == 999 { 9 } else { (n / 3000 % 5) as u8 };
        (Some(key), n, (n % 7 != 0).then_some(n), (n % 5 != 0).then_some(n as f64 / 3.0))
    };
    let rows: Vec<Row> = (0..30_000).map(row).collect();
    for frame in FRAMES {
        let sql = question(KEYS[0], frame);
        let (ours, _) = ask(&session(&rows, 1000, true), &sql).await;
        assert_same(&ours, &ask(&session(&rows, 1000, false), &sql).await.0, &sql);
    }
}

#[tokio::test]
async fn what_has_left_leaves_no_trace() {
    let reals = [1.0, 1e300, f64::NAN, f64::INFINITY, 2.0, 2.0, 2.0, 0.1];
    let rows: Vec<Row> = (0..).zip(reals).map(|(at, real)| (None, at, None, Some(real))).collect();
    let over = "OVER (ORDER BY at ROWS 1 PRECEDING)";
    let sql = format!(
        "SELECT at, sum(real) {over}, avg(real) {over}, max(real) {over}, min(real) {over}, \
         stddev(real) {over} FROM t ORDER BY at"
    );
    for batch_rows in [1, 3, 8192] {
        let (rows, _) = ask(&session(&rows, batch_rows, true), &sql).await;
        assert_eq!(
            rows[5..],
            [
                "5005|4.0|2.0|2.0|2.0|0.0",
                "6006|4.0|2.0|2.0|2.0|0.0",
                "7007|2.1|1.05|2.0|0.1|1.3435028842544403"
            ]
        );
        assert!(rows[3].starts_with("3003|NaN|NaN|NaN|inf|"), "{}", rows[3]);
    }
}

#[tokio::test]
async fn nothing_has_no_extreme() {
    let reals = [Some(5.0), None, None, Some(7.0)];
    let rows: Vec<Row> = (0..).zip(reals).map(|(at, real)| (None, at, None, real)).collect();
    let over = "OVER (ORDER BY at ROWS 1 PRECEDING)";
    let sql = format!("SELECT at, min(real) {over}, max(real) {over} FROM t ORDER BY at");
    for sliding in [true, false] {
        let (rows, _) = ask(&session(&rows, 8192, sliding), &sql).await;
        assert_eq!(rows, ["0|5.0|5.0", "1001|5.0|5.0", "2002||", "3003|7.0|7.0"], "{sliding}");
    }
}

#[tokio::test]
async fn what_is_not_known_is_left_alone() {
    let session = session(&[(Some(1), 1, Some(1), Some(1.0))], 8192, true);
    let over = "OVER (PARTITION BY device ORDER BY at ROWS 3 PRECEDING)";
    for column in [
        format!("max(device) {over}"),
        format!("avg(real) {over}, lag(real) OVER (PARTITION BY device ORDER BY at)"),
        format!("sum(real) FILTER (WHERE whole > 0) {over}"),
        format!("count(DISTINCT whole) {over}"),
        format!("avg(CAST(whole AS decimal(10, 2))) {over}"),
        "avg(real) OVER (PARTITION BY device ORDER BY at)".to_owned(),
        "avg(real) OVER (PARTITION BY device ORDER BY at RANGE 3 PRECEDING)".to_owned(),
        "avg(real) OVER (PARTITION BY device ORDER BY at \
         ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING)"
            .to_owned(),
    ] {
        let (_, plan) = ask(&session, &format!("SELECT {column} FROM t")).await;
        assert!(!plan.contains("Sliding"), "{column}\n{plan}");
    }
}
