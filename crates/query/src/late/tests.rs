//! Read late or at once, the first rows are the same.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Int16Array, Int64Array, RecordBatch, StringArray,
    TimestampMillisecondArray,
};
use arrow::util::pretty::pretty_format_batches;
use datafusion::physical_plan::{ExecutionPlan, collect, displayable};
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;

/// A row: keys with ties and nulls, and a number that no other row has.
type Row = (Option<i16>, Option<f64>, Option<String>, i64);

fn write(file: &Path, rows: &[Row], group_rows: usize, with_text: bool) {
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("small", Arc::new(rows.iter().map(|row| row.0).collect::<Int16Array>())),
        ("real", Arc::new(rows.iter().map(|row| row.1).collect::<Float64Array>())),
        ("id", Arc::new(rows.iter().map(|row| row.3).collect::<Int64Array>())),
        (
            "at",
            Arc::new(
                rows.iter().map(|row| Some(row.3 / 10)).collect::<TimestampMillisecondArray>(),
            ),
        ),
    ];
    if with_text {
        let texts = rows.iter().map(|row| row.2.as_deref()).collect::<StringArray>();
        columns.push(("text", Arc::new(texts)));
    }
    let nullable = columns.into_iter().map(|(name, array)| (name, array, true));
    let batch = RecordBatch::try_from_iter_with_nullable(nullable).unwrap();
    let options = WriterProperties::builder()
        .set_max_row_group_row_count(Some(group_rows))
        .set_data_page_row_count_limit(group_rows / 3 + 1)
        .set_write_batch_size(8)
        .build();
    let file = File::create(file).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(options)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

async fn session(folder: &Path, late: bool) -> SessionContext {
    let mut config = SessionConfig::new().with_target_partitions(2).with_batch_size(64);
    // Without ours, nothing is left out at all: statistics do not know of what is no number, so
    // DataFusion may lose it.
    config.options_mut().optimizer.enable_topk_dynamic_filter_pushdown = late;
    let state = datafusion::execution::session_state::SessionStateBuilder::new()
        .with_config(config)
        .with_default_features();
    let state = match late {
        true => state.with_physical_optimizer_rule(Arc::new(super::RULE)),
        false => state,
    };
    let session = SessionContext::new_with_state(state.build());
    let address = folder.to_str().unwrap();
    session.register_parquet("t", address, ParquetReadOptions::default()).await.unwrap();
    session
}

/// The answer, the plan, and how many rows the reader left out by looking at keys.
async fn ask(session: &SessionContext, sql: &str) -> (String, String, usize) {
    let frame = session.sql(sql).await.unwrap();
    let plan = frame.create_physical_plan().await.unwrap();
    let batches = collect(Arc::clone(&plan), session.task_ctx()).await.unwrap();
    let shown = displayable(plan.as_ref()).indent(false).to_string();
    (pretty_format_batches(&batches).unwrap().to_string(), shown, left_out(&plan))
}

fn left_out(plan: &Arc<dyn ExecutionPlan>) -> usize {
    let own = plan.metrics().and_then(|all| all.sum_by_name("pushdown_rows_pruned"));
    let own = own.map_or(0, |count| count.as_usize());
    own + plan.children().into_iter().map(left_out).sum::<usize>()
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let real = prop_oneof![
        8 => (-20_i32..20).prop_map(|n| f64::from(n) / 4.0),
        1 => prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(-0.0), Just(0.0)],
    ];
    let row = (
        prop::option::weighted(0.8, -5_i16..5),
        prop::option::weighted(0.8, real),
        prop::option::weighted(0.8, "[a-c]{0,2}"),
        0_i64..1_000_000,
    );
    prop::collection::vec(row, 0..300)
}

fn order() -> impl Strategy<Value = String> {
    let way = prop::sample::select(vec![
        "",
        "DESC",
        "ASC NULLS FIRST",
        "DESC NULLS LAST",
        "DESC NULLS FIRST",
    ]);
    let key = prop::sample::select(vec!["small", "real", "text", "at", "small % 3"]);
    prop::collection::vec((key, way), 1..4).prop_map(|keys| {
        let keys: Vec<String> = keys.iter().map(|(key, way)| format!("{key} {way}")).collect();
        keys.join(", ")
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn the_first_rows_are_the_same(
        mut rows in rows(),
        order in order(),
        limit in 1_usize..40,
        group_rows in prop::sample::select(vec![7_usize, 50, 1000]),
        read in prop::sample::select(vec!["*", "real, id", "real"]),
        condition in prop::sample::select(vec!["", "", "WHERE small > 0", "WHERE id % 3 > 0"]),
    ) {
        (0..).zip(&mut rows).for_each(|(n, row)| row.3 = row.3 * 1000 + n);
        let folder = tempfile::tempdir().unwrap();
        let third = rows.len() / 3;
        write(&folder.path().join("a.parquet"), &rows[..third], group_rows, true);
        // A file from before there were texts.
        write(&folder.path().join("b.parquet"), &rows[third..2 * third], group_rows, false);
        write(&folder.path().join("c.parquet"), &rows[2 * third..], group_rows, true);
        let sql = format!("SELECT {read} FROM t {condition} ORDER BY {order}, id LIMIT {limit}");
        runtime().block_on(async {
            let (ours, _, _) = ask(&session(folder.path(), true).await, &sql).await;
            let (theirs, plan, _) = ask(&session(folder.path(), false).await, &sql).await;
            assert!(!plan.contains("may_win"), "{plan}");
            assert_eq!(ours, theirs, "{sql}");
        });
    }
}

/// Rows in no order, `keys` of which tie at a time.
fn shuffled(count: i64, keys: i64) -> Vec<Row> {
    let row = |n: i64| {
        let mixed = n.wrapping_mul(0x5851_f42d_4c95_7f2d).rotate_left(17) as u32;
        let key = (i64::from(mixed) % keys) as i16;
        (Some(key), Some(f64::from(mixed % 97)), Some(format!("text {}", n % 7)), n)
    };
    (0..count).map(row).collect()
}

#[tokio::test]
async fn rows_that_cannot_win_are_not_read() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a.parquet"), &shuffled(60_000, 500), 10_000, true);
    let sql = "SELECT text, small, real, id FROM t ORDER BY small DESC, real, id LIMIT 20";
    let (ours, plan, left) = ask(&session(folder.path(), true).await, sql).await;
    assert!(plan.contains("may_win(small@0) AND may_win(small@0, real@1)"), "{plan}");
    // All but those of the first groups, before anything is known.
    assert!(left > 30_000, "{left}");
    let (theirs, _, none) = ask(&session(folder.path(), false).await, sql).await;
    assert_eq!((ours, none), (theirs, 0));
}

#[tokio::test]
async fn a_key_that_leaves_many_rows_is_let_be() {
    let folder = tempfile::tempdir().unwrap();
    // Half of the rows tie at the top.
    write(&folder.path().join("a.parquet"), &shuffled(400_000, 2), 20_000, true);
    let sql = "SELECT small, id FROM t ORDER BY small DESC LIMIT 20";
    let (_, plan, left) = ask(&session(folder.path(), true).await, sql).await;
    assert!(plan.contains("may_win(small@0)"), "{plan}");
    assert!(left < 200_000, "{left}");
    let (ours, _, _) = ask(
        &session(folder.path(), true).await,
        "SELECT small, id FROM t ORDER BY small DESC, id LIMIT 20",
    )
    .await;
    let (theirs, _, _) = ask(
        &session(folder.path(), false).await,
        "SELECT small, id FROM t ORDER BY small DESC, id LIMIT 20",
    )
    .await;
    assert_eq!(ours, theirs);
}

#[tokio::test]
async fn what_is_no_number_is_first_wherever_it_lies() {
    let folder = tempfile::tempdir().unwrap();
    // Statistics say of the second half that nothing in it is above 3.
    let real = |n: i64| match n {
        150 => f64::NAN,
        0..100 => 10.0 + n as f64,
        _ => (n % 4) as f64,
    };
    let rows: Vec<Row> = (0..200).map(|n| (Some(1), Some(real(n)), None, n)).collect();
    write(&folder.path().join("a.parquet"), &rows, 20, true);
    let session = session(folder.path(), true).await;
    for sql in [
        "SELECT real FROM t ORDER BY real DESC LIMIT 2",
        "SELECT real, id FROM t ORDER BY real DESC LIMIT 2",
        "SELECT real FROM t WHERE id >= 0 ORDER BY real DESC LIMIT 2",
        "SELECT real FROM t WHERE small = 1 ORDER BY small, real DESC LIMIT 2",
        "SELECT real FROM t WHERE small = 1 ORDER BY real + 0 DESC LIMIT 2",
    ] {
        let (shown, plan, _) = ask(&session, sql).await;
        assert!(shown.contains("NaN") && shown.contains("109"), "{sql}\n{shown}\n{plan}");
    }
}

#[tokio::test]
async fn what_gains_nothing_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a.parquet"), &shuffled(100, 5), 50, true);
    let session = session(folder.path(), true).await;
    for sql in [
        "SELECT small FROM t ORDER BY small LIMIT 3",
        "SELECT * FROM t ORDER BY small + 1 LIMIT 3",
        "SELECT * FROM t ORDER BY small",
        "SELECT * FROM t WHERE real > 3 ORDER BY small LIMIT 3",
        "SELECT * FROM t LIMIT 3",
    ] {
        let (_, plan, _) = ask(&session, sql).await;
        assert!(!plan.contains("may_win"), "{sql}\n{plan}");
    }
}
