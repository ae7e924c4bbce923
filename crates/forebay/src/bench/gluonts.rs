//! GluonTS beside ours: a Python that has it, and what it is asked to do.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Spent, measure};
use crate::args::BenchPeer;
use crate::exit::Exit;
use crate::output::Printer;

/// Its part, in Python.
const SCRIPT: &str = include_str!("gluonts_peer.py");
const SERVER: &str = include_str!("gluonts_serve.py");

/// What is installed; pip chooses what these need.
const PINS: [&str; 10] = [
    "gluonts[torch]==0.17.0",
    "torch==2.15.0",
    "lightning==2.6.6",
    "numpy==2.4.6",
    "pandas==2.3.3",
    "fastapi==0.165.0",
    "uvicorn==0.54.0",
    "uvloop==0.23.0",
    "httptools==0.9.0",
    "orjson==3.13.0",
];

/// Where a Python may be found that all of them run on, first choice first.
const INTERPRETERS: [&str; 4] = ["python3", "python3.11", "python3.12", "python3.13"];

/// GluonTS, or why it is not there.
pub(super) enum Peer {
    There { python: PathBuf, script: PathBuf, folder: PathBuf },
    Absent(String),
}

impl Peer {
    /// Finds or installs it. What it needs on disk goes to `scratch`.
    pub(super) fn find(args: &BenchPeer, scratch: &Path, printer: Printer) -> Result<Peer> {
        if args.without_peers {
            return Ok(Peer::Absent("left out by --without-peers".to_owned()));
        }
        let python = match &args.peers {
            Some(path) if path.is_file() => std::path::absolute(path)?,
            Some(path) => {
                return Err(Exit::usage(format!("--peers {}: no such file", path.display())).into());
            }
            None => match install(printer) {
                Ok(python) => python,
                Err(error) => return Ok(Peer::Absent(format!("{error:#}"))),
            },
        };
        if !has_gluonts(&python) {
            return Ok(Peer::Absent(format!("{} has no GluonTS with PyTorch", python.display())));
        }
        let script = scratch.join("gluonts_peer.py");
        std::fs::write(&script, SCRIPT).context("writing the peer's script")?;
        Ok(Peer::There { python, script, folder: scratch.to_owned() })
    }

    /// Has it do one of the script's works; `None` if it is absent.
    pub(super) fn ask(
        &self,
        work: &str,
        spec: &Path,
        seed: u64,
        model: &Path,
    ) -> Result<Option<(Spent, Value)>> {
        let Peer::There { python, script, folder } = self else { return Ok(None) };
        let mut command = Command::new(python);
        command.arg(script).arg(work).arg(spec).arg(seed.to_string()).arg(model);
        let spent =
            measure(command.current_dir(folder)).with_context(|| format!("GluonTS {work}"))?;
        // Its libraries may have said something before.
        let answer = spent.said.trim().lines().last().unwrap_or_default();
        let answer = serde_json::from_str(answer)
            .with_context(|| format!("GluonTS said {:?}", spent.said))?;
        Ok(Some((spent, answer)))
    }

    /// Has it answer requests on a port of this machine, or says why it cannot.
    pub(super) fn server(&self, model: &Path, port: u16) -> Result<Result<Child, String>> {
        let (python, folder) = match self {
            Peer::There { python, folder, .. } => (python, folder),
            Peer::Absent(why) => return Ok(Err(why.clone())),
        };
        if !can_import(python, "fastapi, uvicorn, uvloop, httptools, orjson") {
            let python = python.display();
            return Ok(Err(format!("{python} lacks one of {:?}", &PINS[5..])));
        }
        let script = folder.join("gluonts_serve.py");
        std::fs::write(&script, SERVER).context("writing the peer's server")?;
        let mut command = Command::new(python);
        command.arg(script).arg(model).arg(port.to_string()).current_dir(folder);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        child.context("starting the peer's server").map(Ok)
    }
}

fn has_gluonts(python: &Path) -> bool {
    can_import(python, "gluonts.torch")
}

fn can_import(python: &Path, modules: &str) -> bool {
    let mut command = Command::new(python);
    command.arg("-c").arg(format!("import {modules}")).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A virtual environment in the user's cache, made the first time.
fn install(printer: Printer) -> Result<PathBuf> {
    let folder = cache()?.join("forebay/gluonts-0.17.0");
    let (python, stamp) = (folder.join("bin/python"), folder.join("pins.txt"));
    let pins = PINS.join("\n");
    if python.is_file() && std::fs::read_to_string(&stamp).is_ok_and(|have| have == pins) {
        return Ok(python);
    }
    printer.note(&format!("installing GluonTS into {} (several GB, once)", folder.display()));
    let fits = |name: &&str| {
        let question =
            "import venv, ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))";
        quiet(Command::new(name).args(["-c", question])).is_ok()
    };
    let interpreter = INTERPRETERS
        .into_iter()
        .find(|name| fits(name))
        .with_context(|| format!("no Python 3.11 to 3.13 with venv among {INTERPRETERS:?}"))?;
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    quiet(Command::new(interpreter).args(["-m", "venv"]).arg(&folder))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"];
    quiet(Command::new(&python).args(pip).args(PINS)).context("installing GluonTS with pip")?;
    std::fs::write(&stamp, pins).context("noting the installed packages")?;
    Ok(python)
}

/// Where programs keep what they can fetch again.
fn cache() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    set("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME says where to install; name a Python by --peers")
}

fn quiet(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_owned();
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", name.display()))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.trim().lines().last().unwrap_or_default();
    ensure!(output.status.success(), "{} ended with {}: {last}", name.display(), output.status);
    Ok(())
}
