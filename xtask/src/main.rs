//! Everything a developer or CI runs: `cargo xtask ci` sets up the tests' tools, checks
//! the text, builds once and runs every test. The last line it prints is the account:
//! `N passed, N failed, N skipped`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

mod bench;
mod faults;
mod s3_tests;
mod tally;
mod tools;

const HELP: &str = "\
cargo xtask ci            set-up, format, lints, every test (what CI runs)
cargo xtask test [NAME]   set-up and tests only; NAME filters them
cargo xtask setup         installs what the tests need and says what could not be had
cargo xtask faults        the fault battery, short, and the table of what it measured
cargo xtask long [NAME]   the long tests: 100 kills, 100 power cuts and their controls, ending
                          with the same table; NAME filters them
cargo xtask bench s3      S3 beside s3s-fs, which it installs
cargo xtask s3-tests [FOLDER]
                          ceph's s3-tests, of which FOLDER is a checkout, against a fresh server
cargo xtask check         format and lints only";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["ci"] => ci(),
        ["test", filter @ ..] => test(filter),
        ["faults"] => battery(&faults::MODULES, &[]),
        ["long", filter @ ..] => battery(filter, &["--ignored", "--test-threads=1"]),
        ["bench", "s3"] => bench::s3(&root()).map(|()| true),
        ["s3-tests"] => s3_tests::check(&root(), None),
        ["s3-tests", folder] => s3_tests::check(&root(), Some(folder)),
        ["check"] => check().map(|()| true),
        ["setup"] => tools::install(&root()).map(|tools| {
            tools.report();
            true
        }),
        _ => {
            say(HELP);
            Ok(false)
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("xtask: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn ci() -> Result<bool> {
    check()?;
    test(&[])
}

/// Format and lints; the lints build nothing that the tests do not also need.
fn check() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo().args([
        "clippy",
        "--release",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]))
}

/// All tests, with the tools they need. A test that cannot have its tool says SKIPPED and
/// is counted; CI allows none.
fn test(filter: &[&str]) -> Result<bool> {
    let tools = tools::install(&root())?;
    tools.report();
    run(cargo().args(["build", "--release", "--package", "forebay"]))?;
    let mut command = cargo();
    command.args(["test", "--release", "--workspace", "--no-fail-fast", "--"]).args(filter);
    command.arg("--nocapture").env("FOREBAY_TEST_TOOLS", tools.folder());
    let tally = tally::count(&mut command)?;
    Ok(verdict(&tally))
}

/// Tests of the whole system alone.
fn battery(filter: &[&str], flags: &[&str]) -> Result<bool> {
    let tools = tools::install(&root())?;
    tools.report();
    run(cargo().args(["build", "--release", "--package", "forebay"]))?;
    let mut command = cargo();
    command.args([
        "test",
        "--release",
        "--package",
        "e2e",
        "--package",
        "delivery",
        "--no-fail-fast",
        "--",
    ]);
    command.args(filter).args(flags).arg("--nocapture");
    command.env("FOREBAY_TEST_TOOLS", tools.folder());
    let tally = tally::count(&mut command)?;
    Ok(verdict(&tally))
}

fn verdict(tally: &tally::Tally) -> bool {
    let table = faults::table(&tally.faults);
    if !table.is_empty() {
        say(&format!("\n{table}"));
    }
    for line in tally.skipped.iter().chain(&tally.trouble) {
        say(line);
    }
    // `CI` is set by every CI runner; there a missing tool is a failure, not a remark.
    #[expect(clippy::disallowed_methods, reason = "xtask reads its environment itself")]
    let in_ci = std::env::var("CI").is_ok_and(|value| !value.is_empty());
    let skipped = tally.skipped.len();
    say(&format!("{} passed, {} failed, {skipped} skipped", tally.passed, tally.failed));
    tally.ok && tally.failed == 0 && tally.passed > 0 && !(in_ci && skipped > 0)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

fn cargo() -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root());
    command
}

fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    say(&format!("== {}", shown.replace('"', "")));
    let status =
        command.stdin(Stdio::null()).status().with_context(|| format!("starting {shown}"))?;
    if !status.success() {
        bail!("{} failed: {status}", shown.replace('"', ""));
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "xtask talks to a person")]
fn say(text: &str) {
    println!("{text}");
}
