//! Runs the tests and counts what they say.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::faults;

/// What a test run came to.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Lines in which a test said what it could not have.
    pub(crate) skipped: Vec<String>,
    /// Lines of the table of faults.
    pub(crate) faults: Vec<Vec<String>>,
    /// Whether the runner itself ended well.
    pub(crate) ok: bool,
}

/// Runs `command`, passing its output on while counting.
pub(crate) fn count(command: &mut Command) -> Result<Tally> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the tests")?;
    let mut tally = Tally::default();
    let stdout = child.stdout.take().context("the tests' output")?;
    for line in BufReader::new(stdout).lines() {
        let line = line.context("reading the tests' output")?;
        crate::say(&line);
        tally.read(&line);
    }
    tally.ok = child.wait().context("waiting for the tests")?.success();
    // A skipped test ran and returned, so libtest counted it as passed.
    tally.passed = tally.passed.saturating_sub(tally.skipped.len() as u64);
    Ok(tally)
}

impl Tally {
    fn read(&mut self, line: &str) {
        if let Some(at) = line.find("SKIPPED: ") {
            self.skipped.push(line[at..].to_owned());
        }
        self.faults.extend(faults::row(line));
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        self.passed += number_before(counts, " passed");
        self.failed += number_before(counts, " failed");
    }
}

fn number_before(text: &str, word: &str) -> u64 {
    let head = text.split(word).next().unwrap_or_default();
    head.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_line_is_counted() {
        let mut tally = Tally::default();
        tally.read(
            "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out",
        );
        tally.read("test x ... SKIPPED: mosquitto is not installed");
        assert_eq!((tally.passed, tally.failed, tally.skipped.len()), (12, 3, 1));
    }
}
