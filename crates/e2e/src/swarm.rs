//! Thousands of clients at once, in a process of their own: descriptors are bounded per process,
//! and a client that is to vanish has to be ended without a goodbye.
//!
//! The program is `bin/swarm.rs`. It says one line of JSON when its clients are where they should
//! be, holds them until its input ends, and says another one then.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::mqtt::Ledger;

/// A running swarm.
#[derive(Debug)]
pub struct Swarm {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// The program, beside the binary under test.
pub fn program() -> PathBuf {
    crate::binary().with_file_name("swarm")
}

impl Swarm {
    /// Starts `mode` with `count` clients of `broker` and the mode's own settings, `key=value`.
    pub fn start(mode: &str, broker: SocketAddr, count: usize, settings: &[&str]) -> Swarm {
        Swarm::start_by(Command::new(program()), mode, broker, count, settings)
    }

    /// As [`start`](Self::start), by a command that runs the program in its own way.
    pub fn start_by(
        mut command: Command,
        mode: &str,
        broker: SocketAddr,
        count: usize,
        settings: &[&str],
    ) -> Swarm {
        command.arg(mode).arg(broker.to_string()).arg(count.to_string()).args(settings);
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.unwrap();
        // More than a process may have unless somebody asks; the tests that need it skip if not.
        crate::allow_descriptors(child.id(), count + 100);
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        Swarm { child, input, output }
    }

    /// What it says next.
    pub fn said(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("the swarm: {error}: {line:?}"))
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it in an orderly way; what it says last.
    pub fn finish(mut self) -> Value {
        drop(self.input.take());
        let last = self.said();
        assert!(self.child.wait().unwrap().success());
        last
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The ledger in what a swarm said.
pub fn ledger(said: &Value) -> Ledger {
    let numbers = |name: &str| {
        let list = said[name].as_array().unwrap().iter();
        list.map(|number| number.as_u64().unwrap()).collect()
    };
    Ledger { sent: numbers("sent"), acknowledged: numbers("acknowledged") }
}
