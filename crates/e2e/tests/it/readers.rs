//! Other people's readers and writers agree with ours: pandas, PyArrow, DuckDB, Polars and Spark.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use e2e::Server;

/// Spark's start, and two dozen crawls on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(400);

#[test]
fn five_readers_agree_on_what_jobs_write_and_sql_on_what_the_five_write() {
    let Some(python) = e2e::python("other people's readers") else { return };
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/py/readers_agree.py");
    let mut command = Command::new(python);
    command.arg(program).arg(e2e::binary()).arg(&server.data_dir);
    let output = e2e::run_within(&mut command, LIMIT);
    let said = String::from_utf8_lossy(&output.stdout);
    said.lines().filter(|line| line.starts_with("SKIPPED: ")).for_each(|line| println!("{line}"));
    assert!(
        output.status.success() && said.ends_with("READERS AGREE\n"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
