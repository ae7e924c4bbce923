//! Drives a real `forebay` process from outside: starts it on free ports, runs its
//! commands, kills it, cuts its power, and reads what it left on disk.
//!
//! Oracles use the disk and the public interfaces only, never the product's code, so this
//! crate links none of it.

#![expect(clippy::unwrap_used, reason = "a harness that cannot go on should stop where it is")]
#![expect(clippy::print_stdout, reason = "what a test could not have is said on its output")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

pub mod account;
pub mod aws;
pub mod cable;
pub mod load;
pub mod mqtt;
pub mod power;
pub mod prometheus;
pub mod row;
pub mod signed;
pub mod swarm;
pub mod volume;

/// How long any one command may take before it counts as hung.
const COMMAND_LIMIT: Duration = Duration::from_secs(240);

/// The binary under test: beside this test's own, where cargo puts it.
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let folder = own.ancestors().nth(2).unwrap();
    let binary = folder.join("forebay");
    assert!(binary.exists(), "{} is not built: run `cargo xtask test`", binary.display());
    binary
}

/// A Python with real clients and readers, or `None` after saying SKIPPED.
pub fn python(why: &str) -> Option<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "xtask hands the folder over this way")]
    let folder = std::env::var("FOREBAY_TEST_TOOLS").map(PathBuf::from);
    let python = folder.ok()?.join("venv/bin/python");
    if python.exists() {
        return Some(python);
    }
    skip(&format!("{why}: no Python environment"));
    None
}

/// Says that a test could not run; xtask counts these lines and CI allows none.
pub fn skip(why: &str) {
    println!("SKIPPED: {why}");
}

/// The real readings beside the project, where present.
pub fn shared_data(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3)?;
    let path = root.join("shared/data").join(name);
    path.exists().then_some(path)
}

/// The seed of a randomised test: FOREBAY_TEST_SEED, else `fixed`. Each test prints it.
pub fn seed(fixed: u64) -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a person replays a failure this way")]
    let given = std::env::var("FOREBAY_TEST_SEED").ok();
    given.map_or(fixed, |text| text.parse().unwrap())
}

/// One `forebay serve` on a data directory and free ports. A panic in it, noticed when it is
/// dropped, fails the test.
pub struct Server {
    child: Child,
    log: Arc<Mutex<String>>,
    /// The most memory that any of its processes had, of those that ended.
    peak_kib: u64,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Its API.
    pub http: SocketAddr,
    /// Plain MQTT.
    pub mqtt: SocketAddr,
    /// MQTT over mutual TLS.
    pub mqtts: SocketAddr,
    /// MQTT over WebSocket.
    pub mqtt_ws: SocketAddr,
}

impl Server {
    /// Starts it and waits until it is ready.
    pub fn start(data_dir: &Path) -> Server {
        Server::start_with(data_dir, &[], &[])
    }

    /// As [`start`](Self::start), with more flags and environment variables.
    pub fn start_with(data_dir: &Path, flags: &[&str], environment: &[(&str, &str)]) -> Server {
        Server::try_start(data_dir, flags, environment).unwrap_or_else(|said| panic!("{said}"))
    }

    /// As [`start_with`](Self::start_with), or what it said when it did not come up.
    pub fn try_start(
        data_dir: &Path,
        flags: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Server, String> {
        Server::start_at(data_dir, free_ports(), flags, environment)
    }

    /// As [`start_with`](Self::start_with), with plain MQTT on another address of this machine.
    pub fn start_on(ip: IpAddr, data_dir: &Path, flags: &[&str]) -> Server {
        let mut ports = free_ports();
        ports[1].set_ip(ip);
        Server::start_at(data_dir, ports, flags, &[]).unwrap_or_else(|said| panic!("{said}"))
    }

    /// Starts the server anew on the same data directory and addresses, after its end.
    pub fn restart(&mut self) {
        assert!(!self.is_running(), "the server still runs");
        let ports = [self.http, self.mqtt, self.mqtts, self.mqtt_ws];
        let peak_kib = self.peak_kib();
        *self = Server::start_at(&self.data_dir, ports, &[], &[])
            .unwrap_or_else(|said| panic!("{said}"));
        self.peak_kib = peak_kib;
    }

    fn start_at(
        data_dir: &Path,
        [http, mqtt, mqtts, mqtt_ws]: [SocketAddr; 4],
        flags: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Server, String> {
        let mut command = Command::new(binary());
        command.arg("serve").arg("--data-dir").arg(data_dir);
        let flags_of =
            [("--http", http), ("--mqtt", mqtt), ("--mqtts", mqtts), ("--mqtt-ws", mqtt_ws)];
        for (flag, addr) in flags_of {
            command.arg(flag).arg(addr.to_string());
        }
        command.args(flags).envs(environment.iter().copied());
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        collect(child.stderr.take().unwrap(), log.clone());
        let data_dir = data_dir.to_owned();
        let mut server = Server { child, log, peak_kib: 0, data_dir, http, mqtt, mqtts, mqtt_ws };
        let deadline = Instant::now() + Duration::from_secs(60);
        while http_get(server.http, "/readyz").is_none_or(|(status, _)| status != 200) {
            if let Some(status) = server.child.try_wait().unwrap() {
                std::thread::sleep(Duration::from_millis(100));
                return Err(format!("the server ended with {status}: {}", server.log()));
            }
            if Instant::now() > deadline {
                return Err(format!("the server is not ready after a minute: {}", server.log()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    /// What it wrote to stderr so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Asks it to stop, as a service manager would, and waits for its end.
    pub fn stop(&mut self) {
        self.peak_kib = self.peak_kib();
        signal("TERM", self.pid());
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.is_running() {
            assert!(Instant::now() < deadline, "the server does not stop: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// kill -9: no goodbye, no flush.
    pub fn kill(&mut self) {
        self.peak_kib = self.peak_kib();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The most memory it had resident at one time, in KiB, over all its processes.
    pub fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.unwrap_or_default();
        let peak = status.lines().find_map(|line| {
            line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        });
        self.peak_kib.max(peak.unwrap_or(0))
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Bounds the descriptors that it may have from now on; false after saying SKIPPED where
    /// this machine does not allow it.
    pub fn allow_descriptors(&self, count: usize) -> bool {
        allow_descriptors(self.pid(), count)
    }

    /// How much of a processor it has used so far.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // After the name, which stands in brackets: state, ten more, then user and system time.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        // USER_HZ is 100 wherever Linux runs.
        Duration::from_millis(ticks * 10)
    }

    /// Runs a command against this server and reads its JSON; panics unless it exits 0.
    pub fn forebay(&self, args: &[&str]) -> Value {
        forebay(&self.data_dir, args)
    }

    /// One counter of `/metrics`, summed over its labels.
    pub fn metric(&self, name: &str) -> f64 {
        self.metric_of(name, "")
    }

    /// As [`metric`](Self::metric), of the lines with this label pair.
    pub fn metric_of(&self, name: &str, label: &str) -> f64 {
        let (_, body) = http_get(self.http, "/metrics").unwrap();
        let of_name =
            |line: &&str| line.split(['{', ' ']).next() == Some(name) && line.contains(label);
        body.lines()
            .filter(of_name)
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        let log = self.log();
        if !std::thread::panicking() {
            assert!(!log.contains("panicked at"), "the server panicked: {log}");
        }
    }
}

/// Sends a signal to a process, which must exist.
pub fn signal(name: &str, process: u32) {
    let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {process}")).status();
    assert!(sent.unwrap().success(), "no process {process}");
}

/// Bounds the descriptors that a process may have; false after saying SKIPPED.
pub fn allow_descriptors(process: u32, count: usize) -> bool {
    let set = run_command(
        Command::new("prlimit").arg(format!("--pid={process}")).arg(format!("--nofile={count}:")),
    );
    if !set.status.success() {
        skip(&format!(
            "a process with {count} descriptors: {}",
            String::from_utf8_lossy(&set.stderr)
        ));
    }
    set.status.success()
}

/// Gathers what a process writes, so that its pipe never fills.
fn collect(
    mut from: impl Read + Send + 'static,
    into: Arc<Mutex<String>>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            into.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    })
}

/// Runs a command with `--json` on a data directory; panics unless it exits 0.
pub fn forebay(data_dir: &Path, args: &[&str]) -> Value {
    let output = run(data_dir, args);
    assert!(
        output.status.success(),
        "forebay {} ended with {}: {}{}",
        args.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stdout)))
}

/// Runs a command with `--json` on a data directory, whatever it exits with; a panic or a
/// hang fails the test.
pub fn run(data_dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(args).arg("--json").arg("--data-dir").arg(data_dir);
    run_command(&mut command)
}

/// Runs any command to its end, within [`COMMAND_LIMIT`].
pub fn run_command(command: &mut Command) -> Output {
    run_within(command, COMMAND_LIMIT)
}

/// Runs any command to its end, within `limit`.
pub fn run_within(command: &mut Command, limit: Duration) -> Output {
    let shown = format!("{command:?}");
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (stdout, stderr) =
        (Arc::new(Mutex::new(String::new())), Arc::new(Mutex::new(String::new())));
    let readers = [
        collect(child.stdout.take().unwrap(), stdout.clone()),
        collect(child.stderr.take().unwrap(), stderr.clone()),
    ];
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            drop(child.kill());
            panic!("{shown} did not end: {}", stderr.lock().unwrap());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    let text = |shared: &Mutex<String>| std::mem::take(&mut *shared.lock().unwrap());
    let (stdout, stderr) = (text(&stdout), text(&stderr));
    assert!(!stderr.contains("panicked at"), "{shown} panicked: {stderr}");
    Output { status, stdout: stdout.into_bytes(), stderr: stderr.into_bytes() }
}

/// The exit code and the error message of a command that must fail, both from its JSON.
pub fn refusal(data_dir: &Path, args: &[&str]) -> (i32, String) {
    let output = run(data_dir, args);
    let code = output.status.code().unwrap();
    assert_ne!(code, 0, "forebay {} should have failed", args.join(" "));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| {
        panic!("the error of forebay {} is no JSON ({e}): {text:?}", args.join(" "))
    });
    assert_eq!(value["error"]["exit_code"], code, "{value}");
    (code, value["error"]["message"].as_str().unwrap().to_owned())
}

/// All files below a folder, in order of their paths.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Runs a program of `python` from standard input with arguments; its output, on success.
pub fn run_python(python: &Path, program: &str, args: &[&str]) -> String {
    let mut child = Command::new(python)
        .arg("-")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(program.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "python: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Free loopback ports. Another process could take one before it is used; then the server
/// says so and the test fails loudly.
pub fn free_ports<const N: usize>() -> [SocketAddr; N] {
    let listeners: Vec<_> = (0..N).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    std::array::from_fn(|index| listeners[index].local_addr().unwrap())
}

/// One GET, status and body; `None` when nobody listens.
pub fn http_get(addr: SocketAddr, path: &str) -> Option<(u16, String)> {
    http(addr, &format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n"))
}

/// One POST of JSON, status and body.
pub fn http_post(addr: SocketAddr, path: &str, body: &str) -> Option<(u16, String)> {
    let length = body.len();
    http(
        addr,
        &format!(
            "POST {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        ),
    )
}

fn http(addr: SocketAddr, request: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some((status, body.to_owned()))
}

/// A small seeded generator, so that a failure can be run again.
pub struct Random(pub u64);

impl Random {
    /// The next number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Waits until `done` says so; panics with `what` after `limit`.
pub fn wait_for(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < deadline, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
