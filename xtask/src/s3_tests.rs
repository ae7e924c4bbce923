//! ceph's s3-tests against a fresh server, compared with the outcomes that are pinned.
//!
//! The suite is in no registry, so it runs where somebody has a checkout. Each of its tests has a
//! line in `crates/aws-s3/tests/data/conformance.txt`, see `docs/s3-conformance.md`:
//!
//! ```text
//! test_name passes
//! test_name excluded: what it asks for and is not done here
//! test_name fails: why
//! ```
//!
//! What is excluded is not run. Any outcome but the pinned one, and any test without a line, is a
//! failure of the run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::tools::Environment;
use crate::{cargo, run, say, tools};

const PINNED: &str = include_str!("../../crates/aws-s3/tests/data/conformance.txt");

/// What the suite needs, apart from the other clients: its own versions of theirs.
const NEEDS: Environment = Environment {
    folder: "venv-s3-tests",
    pins: include_str!("../clients/s3-tests.txt"),
    newest_minor: 14,
};

/// Where a checkout lies, if no command says it.
const VARIABLE: &str = "FOREBAY_S3_TESTS";

/// The suite's file of S3 tests.
const SUITE: &str = "s3tests/functional/test_s3.py";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pin {
    Passes,
    Fails,
    Excluded,
}

/// The pinned outcome of each test.
fn pins(text: &str) -> Result<BTreeMap<&str, Pin>> {
    let mut pins = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        let reason = |what: &str| rest.strip_prefix(what).is_some_and(|why| !why.trim().is_empty());
        let pin = match rest {
            "passes" => Pin::Passes,
            _ if reason("fails: ") => Pin::Fails,
            _ if reason("excluded: ") => Pin::Excluded,
            _ => bail!("neither passes, fails with a reason nor excluded with a reason: {line}"),
        };
        if pins.insert(name, pin).is_some() {
            bail!("{name} is pinned twice");
        }
    }
    Ok(pins)
}

/// What differs between the pins and a run, a line each.
fn differences(pins: &BTreeMap<&str, Pin>, outcomes: &BTreeMap<String, String>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, pin) in pins.iter().filter(|(_, pin)| **pin != Pin::Excluded) {
        match (pin, outcomes.get(*name).map(String::as_str)) {
            (Pin::Passes, Some("passed")) | (Pin::Fails, Some("failed")) => {}
            (_, Some(outcome)) => found.push(format!("{name}: pinned as {pin:?}, {outcome}")),
            (_, None) => found.push(format!("{name}: pinned as {pin:?}, and it did not run")),
        }
    }
    found
}

/// Runs the suite in `folder`, or in the one that the environment names.
pub(crate) fn check(root: &Path, folder: Option<&str>) -> Result<bool> {
    let Some(checkout) = folder.map(PathBuf::from).or_else(given) else {
        say(&format!(
            "SKIPPED: s3-tests: name a checkout of github.com/ceph/s3-tests, or set {VARIABLE}"
        ));
        return Ok(true);
    };
    let checkout = checkout.canonicalize().with_context(|| format!("finding {checkout:?}"))?;
    let pins = pins(PINNED)?;
    let source = checkout.join(SUITE);
    let source = std::fs::read_to_string(&source)
        .with_context(|| format!("reading {}", source.display()))?;
    let mut found = unpinned(&pins, &source);
    let python = root.join(".test-tools").join(NEEDS.folder);
    tools::python(&NEEDS, &python)?;
    run(cargo().args(["build", "--release", "--package", "forebay"]))?;
    let log = root.join("target/s3-tests.log");
    let wanted = pins.iter().filter(|(_, pin)| **pin != Pin::Excluded).map(|(name, _)| name);
    let output = Command::new(python.join("bin/python"))
        .arg(root.join("crates/e2e/tests/py/s3_tests.py"))
        .arg(root.join("target/release/forebay"))
        .args([&checkout, &log])
        .args(wanted)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("starting the suite")?;
    if !output.status.success() {
        bail!("the suite ended with {}", output.status);
    }
    let told = String::from_utf8_lossy(&output.stdout);
    let outcomes: BTreeMap<String, String> = told
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, outcome)| (name.to_owned(), outcome.to_owned()))
        .collect();
    found.extend(differences(&pins, &outcomes));
    for line in &found {
        say(line);
    }
    let count = |pin: Pin| pins.values().filter(|of| **of == pin).count();
    say(&format!(
        "s3-tests: {} pass, {} fail, {} excluded; {} differ from the pinned outcomes, see {}",
        count(Pin::Passes),
        count(Pin::Fails),
        count(Pin::Excluded),
        found.len(),
        log.display()
    ));
    Ok(found.is_empty())
}

/// Tests of the suite that have no line yet. One that pytest makes several of has a line each.
fn unpinned(pins: &BTreeMap<&str, Pin>, source: &str) -> Vec<String> {
    let names = source.lines().filter_map(|line| line.strip_prefix("def test_"));
    let names = names.filter_map(|rest| rest.split('(').next()).map(|rest| format!("test_{rest}"));
    let pinned = |name: &String| {
        let several = format!("{name}[");
        pins.keys().any(|pin| *pin == name.as_str() || pin.starts_with(&several))
    };
    names.filter(|name| !pinned(name)).map(|name| format!("{name}: not pinned")).collect()
}

fn given() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_least_95_of_100_applicable_tests_are_pinned_as_passing() {
        let pins = pins(PINNED).expect("the pinned outcomes");
        let count = |pin: Pin| pins.values().filter(|of| **of == pin).count();
        let (passing, failing) = (count(Pin::Passes), count(Pin::Fails));
        assert!(passing * 100 >= (passing + failing) * 95, "{passing} pass, {failing} fail");
        assert!(pins.len() > 800, "{}", pins.len());
    }

    #[test]
    fn a_line_without_an_outcome_or_a_reason_is_refused() {
        for line in ["test_x", "test_x fails", "test_x excluded: ", "a passes\na passes"] {
            assert!(pins(line).is_err(), "{line}");
        }
    }

    #[test]
    fn what_is_not_as_pinned_is_told() {
        let pins = pins("a passes\nb fails: x\nc excluded: y\nd passes").expect("pins");
        let outcome = |name: &str, outcome: &str| (name.to_owned(), outcome.to_owned());
        let outcomes = [outcome("a", "failed"), outcome("b", "passed")].into();
        assert_eq!(differences(&pins, &outcomes).len(), 3);
        let outcomes = [outcome("a", "passed"), outcome("b", "failed"), outcome("d", "passed")];
        assert_eq!(differences(&pins, &outcomes.into()), Vec::<String>::new());
        let pins = super::pins("test_a passes\ntest_b[x] passes").expect("pins");
        let source = "def test_a():\ndef test_b(x):\ndef test_c():\ndef other():";
        assert_eq!(unpinned(&pins, source), ["test_c: not pinned"]);
    }
}
