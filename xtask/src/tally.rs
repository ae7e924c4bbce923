//! Runs the tests and counts what they say.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow};

use crate::faults;

/// Lines shown of a test program that ended without its account, and of what a panic said: a
/// script that failed in one gives its reason last.
const LAST_LINES: usize = 20;

/// Says that the tests have ended.
const END: &str = "\u{4}the tests have ended";

/// What a test run came to.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Lines in which a test said what it could not have.
    pub(crate) skipped: Vec<String>,
    /// Lines of the table of faults.
    pub(crate) faults: Vec<Vec<String>>,
    /// What went wrong, to be said once more at the end, where it is looked for.
    pub(crate) trouble: Vec<String>,
    /// Whether the runner itself ended well.
    pub(crate) ok: bool,
    running: Option<Program>,
}

/// A test program under way.
#[derive(Debug, Default)]
struct Program {
    name: String,
    /// Whether it has said how many of its tests passed: one that crashes says nothing.
    accounted: bool,
    /// Panics with the last lines they said. Most are asked for by their tests.
    panics: Vec<(String, VecDeque<String>)>,
    /// Whether the last panic is still speaking.
    panicking: bool,
    last_lines: VecDeque<String>,
}

/// Runs `command`, passing its output on while counting. Both streams come through one pipe,
/// so that they stay in order.
pub(crate) fn count(command: &mut Command) -> Result<Tally> {
    let (output, mut end) = std::io::pipe().context("a pipe for the tests' output")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(end.try_clone().context("a pipe for the tests' output")?)
        .stderr(end.try_clone().context("a pipe for the tests' output")?)
        .spawn()
        .context("starting the tests")?;
    let reading = std::thread::spawn(move || {
        let mut tally = Tally::default();
        for line in BufReader::new(output).split(b'\n') {
            let line = line.context("reading the tests' output")?;
            let line = String::from_utf8_lossy(&line);
            if line == END {
                break;
            }
            crate::say(&line);
            tally.read(&line);
        }
        tally.program_ended();
        anyhow::Ok(tally)
    });
    let ended = child.wait().context("waiting for the tests")?;
    // A server that a crashed test left behind keeps the pipe open for ever.
    writeln!(end, "\n{END}").context("ending the tests' output")?;
    let read = reading.join().map_err(|_panic| anyhow!("reading the tests' output gave up"))?;
    let mut tally = read?;
    tally.ok = ended.success();
    // A skipped test ran and returned, so libtest counted it as passed.
    tally.passed = tally.passed.saturating_sub(tally.skipped.len() as u64);
    Ok(tally)
}

impl Tally {
    fn read(&mut self, line: &str) {
        let name = line.trim_start();
        if line != name && (name.starts_with("Running ") || name.starts_with("Doc-tests ")) {
            self.program_ended();
            self.running = Some(Program { name: name.to_owned(), ..Program::default() });
            return;
        }
        if let Some(at) = line.find("SKIPPED: ") {
            self.skipped.push(line[at..].to_owned());
        }
        self.faults.extend(faults::row(line));
        let counts = line.strip_prefix("test result: ");
        if let Some(counts) = counts {
            self.passed += number_before(counts, " passed");
            self.failed += number_before(counts, " failed");
        }
        let Some(program) = &mut self.running else { return };
        program.accounted |= counts.is_some();
        program.hear(line);
        push(&mut program.last_lines, line);
        // libtest lists its failures by name before the account.
        if let Some(test) = line.strip_prefix("test ").and_then(|it| it.strip_suffix(" ... FAILED"))
        {
            let of_test = format!("thread '{test}'");
            self.trouble.push(format!("FAILED {test}, {}", program.name));
            for (panic, said) in program.panics.iter().filter(|it| it.0.starts_with(&of_test)) {
                self.trouble.push(format!("    {panic}"));
                self.trouble.extend(said.iter().map(|line| format!("    {line}")));
            }
        }
    }

    fn program_ended(&mut self) {
        let Some(program) = self.running.take().filter(|program| !program.accounted) else {
            return;
        };
        self.trouble.push(format!("ended without an account: {}", program.name));
        self.trouble.extend(program.last_lines.iter().map(|line| format!("    {line}")));
    }
}

impl Program {
    /// Keeps a panic and what follows it, up to what the runner says next.
    fn hear(&mut self, line: &str) {
        if line.starts_with("thread '") && line.contains(" panicked at ") {
            self.panics.push((line.to_owned(), VecDeque::new()));
            self.panicking = true;
            return;
        }
        let of_runner = ["note: run with `RUST_BACKTRACE", "stack backtrace:", "test ", "---- "];
        self.panicking &= !of_runner.iter().any(|head| line.starts_with(head));
        if let (true, Some((_, said))) =
            (self.panicking && !line.is_empty(), self.panics.last_mut())
        {
            push(said, line);
        }
    }
}

/// Keeps the last lines.
fn push(lines: &mut VecDeque<String>, line: &str) {
    if lines.len() == LAST_LINES {
        lines.pop_front();
    }
    lines.push_back(line.to_owned());
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

    #[test]
    fn what_went_wrong_is_said_by_name() {
        let mut tally = Tally::default();
        for line in [
            "     Running tests/it/main.rs (target/release/deps/it-1)",
            "thread 'a::meant' (7) panicked at src/a.rs:1:1:",
            "as asked",
            "test a::meant ... ok",
            "thread 'a::wrong' (8) panicked at src/a.rs:2:2:",
            "script.py: exit status: 1",
            "",
            "AssertionError: 1 is not 2",
            "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace",
            "of another test",
            "test a::wrong ... FAILED",
            "test result: FAILED. 1 passed; 1 failed; 0 ignored",
            "     Running tests/it/main.rs (target/release/deps/it-2)",
            "running 71 tests",
            "  process didn't exit successfully: (signal: 11, SIGSEGV)",
            "   Doc-tests a",
            "test result: ok. 3 passed; 0 failed; 0 ignored",
        ] {
            tally.read(line);
        }
        tally.program_ended();
        assert_eq!((tally.passed, tally.failed), (4, 1));
        assert_eq!(
            tally.trouble,
            [
                "FAILED a::wrong, Running tests/it/main.rs (target/release/deps/it-1)",
                "    thread 'a::wrong' (8) panicked at src/a.rs:2:2:",
                "    script.py: exit status: 1",
                "    AssertionError: 1 is not 2",
                "ended without an account: Running tests/it/main.rs (target/release/deps/it-2)",
                "    running 71 tests",
                "      process didn't exit successfully: (signal: 11, SIGSEGV)",
            ]
        );
    }
}
