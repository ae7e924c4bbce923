//! Installs what the tests need: the real clients at exact versions into `.test-tools`, and
//! Debian packages where this user may. What cannot be had is said; the tests that need it
//! then say SKIPPED.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A virtual environment: its folder in `.test-tools`, what is pinned into it, and the newest
/// Python that these versions run on.
pub(crate) struct Environment {
    pub(crate) folder: &'static str,
    pub(crate) pins: &'static str,
    pub(crate) newest_minor: u32,
}

/// The clients of today in one environment, and the SageMaker SDK of the article's time with
/// its own NumPy and pandas in another.
const PYTHON: [Environment; 2] = [
    Environment { folder: "venv", pins: include_str!("../clients/python.txt"), newest_minor: 14 },
    Environment {
        folder: "venv-2021",
        pins: include_str!("../clients/python-2021.txt"),
        newest_minor: 12,
    },
];

/// The oldest Python that every pinned version runs on.
const OLDEST_MINOR: u32 = 11;

/// Where a Python may be found, first choice first.
const INTERPRETERS: [&str; 4] = ["python3", "python3.11", "python3.12", "python3.13"];

/// The device SDKs for Node.js.
const NODE: &str = include_str!("../clients/package.json");

/// Debian packages and the program each brings: the peer broker and its clients, the file system that is
/// cut from power, the libraries that lie about fsync and about the time, and what runs the
/// Node.js SDKs and Spark.
const DEBIAN: [(&str, &str); 9] = [
    ("mosquitto", "mosquitto"),
    ("mosquitto-clients", "mosquitto_pub"),
    ("e2fsprogs", "mkfs.ext4"),
    ("eatmydata", "eatmydata"),
    ("faketime", "faketime"),
    ("iproute2", "ip"),
    ("nodejs", "node"),
    ("npm", "npm"),
    ("default-jre-headless", "java"),
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

/// Installs all of it side by side; a second call finds it in place and is quick.
pub(crate) fn install(root: &Path) -> Result<Tools> {
    let folder = root.join(".test-tools");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let mut missing = Vec::new();
    let mut note = |what: &str, result: Result<()>| {
        if let Err(error) = result {
            missing.push(format!("{what} ({error:#})"));
        }
    };
    std::thread::scope(|scope| {
        let pythons = PYTHON.each_ref().map(|wanted| {
            let folder = folder.join(wanted.folder);
            scope.spawn(move || python(wanted, &folder))
        });
        // npm may be among the packages.
        note("Debian packages", debian());
        note("Node.js packages", node(&folder.join("node")));
        for (wanted, thread) in PYTHON.iter().zip(pythons) {
            let result = thread.join().unwrap_or_else(|_| bail!("the installation panicked"));
            note(&format!("Python packages of {}", wanted.folder), result);
        }
    });
    Ok(Tools { folder, missing })
}

/// Makes one virtual environment. All versions are pinned, dependencies too, so nothing has
/// to be resolved.
pub(crate) fn python(wanted: &Environment, folder: &Path) -> Result<()> {
    let python = folder.join("bin/python");
    let stamp = folder.join("pins.txt");
    if python.exists() && std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted.pins) {
        return Ok(());
    }
    let interpreter = interpreter(wanted.newest_minor)?;
    crate::run(Command::new(interpreter).args(["-m", "venv", "--clear"]).arg(folder))?;
    let pins = folder.join("wanted.txt");
    std::fs::write(&pins, wanted.pins).context("writing the pins")?;
    crate::run(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(["--no-compile", "--no-deps", "--prefer-binary", "-r"])
            .arg(&pins),
    )?;
    std::fs::rename(&pins, &stamp).context("noting the installed packages")
}

/// The first Python of a fitting version that can make virtual environments.
fn interpreter(newest_minor: u32) -> Result<&'static str> {
    let fits = |name: &&&str| {
        let question = "import sys, venv, ensurepip; print(sys.version_info[1])";
        let Ok(answer) = Command::new(name).args(["-c", question]).output() else { return false };
        let minor = String::from_utf8_lossy(&answer.stdout).trim().parse::<u32>();
        minor.is_ok_and(|minor| (OLDEST_MINOR..=newest_minor).contains(&minor))
    };
    let found = INTERPRETERS.iter().find(fits).copied();
    found.with_context(|| {
        format!("no Python 3.{OLDEST_MINOR} to 3.{newest_minor} with venv among {INTERPRETERS:?}")
    })
}

fn node(folder: &Path) -> Result<()> {
    let stamp = folder.join("installed.json");
    if std::fs::read_to_string(&stamp).is_ok_and(|have| have == NODE) {
        return Ok(());
    }
    std::fs::create_dir_all(folder).context("making the folder of the Node.js packages")?;
    std::fs::write(folder.join("package.json"), NODE).context("writing package.json")?;
    crate::run(
        Command::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--silent", "--no-package-lock"])
            .current_dir(folder),
    )?;
    std::fs::write(&stamp, NODE).context("noting the installed packages")
}

fn debian() -> Result<()> {
    let absent: Vec<&str> = DEBIAN
        .iter()
        .filter(|(_, program)| !is_installed(program))
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

/// Whether a program is on the PATH, or where administrators' programs lie.
fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(program).is_file())
}
