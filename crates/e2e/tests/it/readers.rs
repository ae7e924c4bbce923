//! Other people's readers and writers agree with ours: pandas, PyArrow, DuckDB, Polars and Spark
//! on files, and their clients on the S3 port.

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
    passes(&mut command, "READERS AGREE\n");
}

#[test]
fn boto3_the_command_line_pyarrow_and_polars_use_the_s3_port_as_they_use_s3() {
    let Some(python) = e2e::python("clients of S3") else { return };
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/py/s3_clients.py");
    let mut command = Command::new(python);
    command.arg(program).arg(e2e::binary()).arg(&server.data_dir);
    command.arg(format!("http://{}", server.http));
    passes(&mut command, "CLIENTS AGREE\n");
}

/// Runs a program whose last words tell that it did all of its work.
fn passes(command: &mut Command, last: &str) {
    let output = e2e::run_within(command, LIMIT);
    let said = String::from_utf8_lossy(&output.stdout);
    said.lines().filter(|line| line.starts_with("SKIPPED: ")).for_each(|line| println!("{line}"));
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.ends_with(last), "{said}{complained}");
}
