//! Benchmarks beside peers that must be installed first. `forebay bench` has those that need
//! only what a machine has.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::{cargo, run, tools};

/// The peer on the same protocol crate, at the version that this Rust builds.
const S3S_FS: &str = "s3s-fs@0.14.1";

/// S3 beside `s3s-fs`: objects and megabytes per CPU second of the server.
pub(crate) fn s3(root: &Path) -> Result<()> {
    let tools = tools::install(root)?;
    tools.report();
    let peers = tools.folder().join("cargo");
    // Cargo sees by itself whether it is in place.
    run(cargo()
        .args(["install", "--quiet", "--locked", "--features", "binary", "--root"])
        .arg(&peers)
        .arg(S3S_FS))?;
    run(cargo().args(["build", "--release", "--package", "forebay"]))?;
    run(Command::new(tools.folder().join("venv/bin/python"))
        .arg(root.join("crates/e2e/tests/py/s3_speed.py"))
        .arg(root.join("target/release/forebay"))
        .arg(peers.join("bin/s3s-fs")))
}
