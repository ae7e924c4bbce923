//! AWS's own clients against a server: their environment, and how their programs are run.
//!
//! A program sees nothing of this machine's settings: no proxy, no keys, no home folder but
//! what is given here.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Server;

/// The clients that `cargo xtask setup` installs.
#[derive(Clone, Debug)]
pub struct Tools {
    folder: PathBuf,
}

/// Which SageMaker SDK a Python has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sdk {
    /// 2.257.7 and its contemporaries.
    Today,
    /// 2.25.2, of the article's time.
    Of2021,
}

impl Tools {
    /// All of them, or `None` after saying SKIPPED.
    pub fn find(why: &str) -> Option<Tools> {
        #[expect(clippy::disallowed_methods, reason = "xtask hands the folder over this way")]
        let folder = std::env::var("FOREBAY_TEST_TOOLS").map(PathBuf::from).ok();
        let Some(folder) = folder else {
            crate::skip(&format!("{why}: the tools are not installed"));
            return None;
        };
        let tools = Tools { folder };
        let needed = [
            tools.python(Sdk::Today),
            tools.python(Sdk::Of2021),
            tools.folder.join("venv/bin/aws"),
            tools.node_packages().join("aws-iot-device-sdk"),
            tools.node_packages().join("aws-iot-device-sdk-v2"),
        ];
        for path in &needed {
            if !path.exists() {
                crate::skip(&format!("{why}: {} is not installed", path.display()));
                return None;
            }
        }
        Some(tools)
    }

    fn python(&self, sdk: Sdk) -> PathBuf {
        self.folder.join(match sdk {
            Sdk::Today => "venv/bin/python",
            Sdk::Of2021 => "venv-2021/bin/python",
        })
    }

    /// Where Node.js finds the device SDKs.
    pub fn node_packages(&self) -> PathBuf {
        self.folder.join("node/node_modules")
    }
}

/// One user of a server: a folder to work in, and the environment of `forebay env`.
#[derive(Debug)]
pub struct User {
    tools: Tools,
    /// Where programs run, and their home.
    pub folder: PathBuf,
    environment: Vec<(String, String)>,
    data_dir: PathBuf,
}

impl User {
    /// A user of `server` who works in `folder`, which is made.
    pub fn new(tools: &Tools, server: &Server, folder: &Path) -> User {
        std::fs::create_dir_all(folder).unwrap();
        let told = server.forebay(&["env"]);
        let environment = told.as_object().unwrap().iter();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        User {
            tools: tools.clone(),
            folder: folder.to_owned(),
            environment: environment.map(|(name, value)| (name.clone(), text(value))).collect(),
            data_dir: server.data_dir.clone(),
        }
    }

    /// The same user with one more variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> User {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same user with the variables that a shell has after reading `file`.
    #[must_use]
    pub fn sourcing(mut self, file: &Path) -> User {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(r#". "$1" && env -0"#).arg("sh").arg(file);
        shell.env_clear().env("PATH", path(&[]));
        let output = crate::run_command(&mut shell);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        for (name, value) in text.split('\0').filter_map(|line| line.split_once('=')) {
            if !matches!(name, "PATH" | "PWD" | "SHLVL" | "_" | "OLDPWD") {
                self.environment.push((name.to_owned(), value.to_owned()));
            }
        }
        self
    }

    /// Runs a Python program; its output, once it ended well.
    pub fn python(&self, sdk: Sdk, program: &Path, args: &[&str]) -> String {
        self.run(Command::new(self.tools.python(sdk)).arg(program).args(args))
    }

    /// As [`python`](Self::python), where `metadata` is the file that tells the SageMaker SDK
    /// it is on a notebook instance.
    pub fn notebook(&self, sdk: Sdk, program: &Path, metadata: &Metadata) -> String {
        let mut command = metadata.command();
        self.run(command.arg(self.tools.python(sdk)).arg(program))
    }

    /// Runs a program of Node.js.
    pub fn node(&self, program: &Path, args: &[&str]) -> String {
        self.run(Command::new("node").arg(program).args(args))
    }

    /// A command in the user's environment, to be run by the caller.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        self.prepare(&mut command);
        command
    }

    /// Runs the `aws` command line.
    pub fn aws(&self, args: &[&str]) -> String {
        self.run(Command::new(self.tools.folder.join("venv/bin/aws")).args(args))
    }

    /// Runs a script under `bash -e`.
    pub fn bash(&self, script: &Path) -> String {
        self.run(Command::new("bash").arg("-e").arg(script))
    }

    fn run(&self, command: &mut Command) -> String {
        self.prepare(command);
        let shown = format!("{:?} {:?}", command.get_program(), command.get_args());
        let began = Instant::now();
        let output = crate::run_within(command, Duration::from_secs(600));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{shown}: {}\n{said}\n{complained}", output.status);
        println!("{:5.1} s {shown}", began.elapsed().as_secs_f64());
        said
    }

    fn prepare(&self, command: &mut Command) {
        command.current_dir(&self.folder).env_clear().stdin(Stdio::null());
        let binary = crate::binary();
        let own = [self.tools.folder.join("venv/bin"), binary.parent().unwrap().to_owned()];
        command.env("PATH", path(&own)).env("HOME", &self.folder).env("LANG", "C.UTF-8");
        command.env("NODE_PATH", self.tools.node_packages());
        command.env("FOREBAY_DATA_DIR", &self.data_dir);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
    }
}

/// This process's PATH with folders before it.
fn path(first: &[PathBuf]) -> std::ffi::OsString {
    let own = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(first.iter().cloned().chain(std::env::split_paths(&own))).unwrap()
}

/// `/opt/ml/metadata/resource-metadata.json`, in the sight of single commands where the
/// system lets a process have its own mounts, else on this machine for as long as this lives.
#[derive(Debug)]
pub struct Metadata {
    file: PathBuf,
    unshare: Option<Vec<String>>,
    planted: bool,
}

const METADATA: &str = "/opt/ml/metadata/resource-metadata.json";

/// Puts a file system over /opt that shows what lies there and the metadata file besides.
const MOUNT: &str = r#"set -e
stage=$(mktemp -d)
mount -t tmpfs tmpfs "$stage"
for entry in /opt/*; do
  case $entry in /opt/ml | '/opt/*') continue ;; esac
  [ -d "$entry" ] || continue
  mkdir "$stage/${entry##*/}"
  mount --rbind "$entry" "$stage/${entry##*/}"
done
mkdir -p "$stage/ml/metadata"
cp "$1" "$stage/ml/metadata/resource-metadata.json"
mount --rbind "$stage" /opt
shift
exec "$@"
"#;

impl Metadata {
    /// The metadata file that `forebay notebook` wrote into `folder`; `None` after saying
    /// SKIPPED.
    pub fn new(folder: &Path) -> Option<Metadata> {
        let file = folder.join("resource-metadata.json");
        assert!(file.exists(), "forebay notebook wrote no {}", file.display());
        for flags in [["--mount"].as_slice(), &["--mount", "--map-root-user"]] {
            let unshare = flags.iter().map(|flag| (*flag).to_owned()).collect();
            let metadata = Metadata { file: file.clone(), unshare: Some(unshare), planted: false };
            let mut probe = metadata.command();
            probe.arg("cmp").arg(&file).arg(METADATA).stderr(Stdio::null()).stdout(Stdio::null());
            if probe.status().is_ok_and(|status| status.success()) {
                return Some(metadata);
            }
        }
        let mut planted = Metadata { file, unshare: None, planted: false };
        let place = Path::new(METADATA);
        if place.exists() {
            crate::skip(&format!("the notebook: {METADATA} is somebody else's"));
            return None;
        }
        let plant = || -> std::io::Result<()> {
            std::fs::create_dir_all(place.parent().unwrap())?;
            std::fs::copy(&planted.file, place)?;
            Ok(())
        };
        if let Err(error) = plant() {
            crate::skip(&format!("the notebook: no mounts, and {METADATA}: {error}"));
            return None;
        }
        planted.planted = true;
        Some(planted)
    }

    /// Whether other programs see the file too.
    pub fn is_seen_by_all(&self) -> bool {
        self.planted
    }

    /// The start of a command that sees the file; the program follows as its arguments.
    fn command(&self) -> Command {
        match &self.unshare {
            Some(flags) => {
                let mut command = Command::new("unshare");
                command.args(flags).args(["sh", "-c", MOUNT, "sh"]).arg(&self.file);
                command
            }
            None => Command::new("env"),
        }
    }
}

impl Drop for Metadata {
    fn drop(&mut self) {
        if self.planted {
            drop(std::fs::remove_file(METADATA));
            // Only what is empty goes, so nothing of anybody else's.
            for folder in Path::new(METADATA).ancestors().skip(1).take(2) {
                drop(std::fs::remove_dir(folder));
            }
        }
    }
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// Client programs kept beside the repository, where present: `FOREBAY_SHARED`, else
/// `../shared`.
pub fn shared_client(name: &str) -> Option<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "a person may keep them elsewhere")]
    let given = std::env::var("FOREBAY_SHARED").map(PathBuf::from).ok();
    let folder = given.unwrap_or_else(|| repository().join("../shared"));
    let program = folder.join("clients").join(name);
    program.exists().then_some(program)
}

/// The commands of a page: its blocks marked `sh`, in order.
pub fn commands_of(page: &Path) -> String {
    let text = std::fs::read_to_string(page).unwrap();
    let mut script = String::new();
    let mut inside = false;
    for line in text.lines() {
        match (inside, line) {
            (false, "```sh") => inside = true,
            (true, "```") => inside = false,
            (true, command) => script.extend([command, "\n"]),
            (false, _) => {}
        }
    }
    assert!(script.lines().count() > 10, "{} holds no commands", page.display());
    script
}
