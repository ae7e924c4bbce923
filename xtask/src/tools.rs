//! Installs what the tests need: Python packages into a virtual environment, Debian
//! packages where this user may. What cannot be had is said; the tests that need it then
//! say SKIPPED.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// Python packages: real MQTT clients and other people's readers of the lake.
const PYTHON: [&str; 5] = ["paho-mqtt>=2,<3", "pandas", "pyarrow", "duckdb", "numpy"];

/// Debian packages and the program each brings: the peer broker and its clients, the file system that is
/// cut from power, and the library that lies about fsync.
const DEBIAN: [(&str, &str); 4] = [
    ("mosquitto", "/usr/sbin/mosquitto"),
    ("mosquitto-clients", "/usr/bin/mosquitto_pub"),
    ("e2fsprogs", "/sbin/mkfs.ext4"),
    ("eatmydata", "/usr/bin/eatmydata"),
];

/// What was found or installed.
#[derive(Debug)]
pub(crate) struct Tools {
    folder: PathBuf,
    missing: Vec<String>,
}

impl Tools {
    /// The folder that tests look in, see `e2e`.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Says what could not be had.
    pub(crate) fn report(&self) {
        for line in &self.missing {
            crate::say(&format!("not available: {line}"));
        }
    }
}

/// Installs all of it; a second call finds it in place and is quick.
pub(crate) fn install(root: &Path) -> Result<Tools> {
    let folder = root.join(".test-tools");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let mut missing = Vec::new();
    if let Err(error) = python(&folder) {
        missing.push(format!("Python packages ({error:#})"));
    }
    if let Err(error) = debian() {
        missing.push(format!("Debian packages ({error:#})"));
    }
    Ok(Tools { folder, missing })
}

fn python(folder: &Path) -> Result<()> {
    let python = folder.join("venv/bin/python");
    let wanted = PYTHON.join("\n");
    let stamp = folder.join("python-packages");
    if python.exists() && std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(());
    }
    crate::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder.join("venv")))?;
    crate::run(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(PYTHON),
    )?;
    std::fs::write(&stamp, wanted).context("noting the installed packages")
}

fn debian() -> Result<()> {
    let absent: Vec<&str> = DEBIAN
        .iter()
        .filter(|(_, program)| !Path::new(program).exists())
        .map(|(name, _)| *name)
        .collect();
    if absent.is_empty() {
        return Ok(());
    }
    let quiet = |command: &mut Command| {
        command.env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
        crate::run(command)
    };
    quiet(Command::new("apt-get").args(["update", "-qq"]))?;
    quiet(
        Command::new("apt-get")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(absent),
    )
}
