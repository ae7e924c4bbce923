//! A network with one cable that can be pulled: a namespace, and a pair of virtual devices.
//!
//! Whoever loses its cable says no goodbye: no FIN, no RST, and nothing that is sent to it is
//! answered. Needs root. Each cable owns its namespace and devices and removes both, also on
//! panic.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::power::quiet;

static NEXT: AtomicU8 = AtomicU8::new(0);

/// One cable between this machine and a namespace.
#[derive(Debug)]
pub struct Cable {
    namespace: String,
    here: String,
    there: String,
    /// This machine's address at its end.
    pub address: IpAddr,
}

impl Cable {
    /// Lays one; `None` after saying SKIPPED where this user or machine cannot.
    pub fn new() -> Option<Cable> {
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        let name = format!("fb{process}x{number}");
        // Addresses that are set aside for tests of networks (RFC 2544), a few for each process.
        let [_, _, high, low] = process.to_be_bytes();
        let end = |host| Ipv4Addr::new(198, 18 + high % 2, low, number * 4 + host);
        let cable = Cable {
            namespace: name.clone(),
            here: format!("{name}a"),
            there: format!("{name}b"),
            address: end(1).into(),
        };
        let Cable { namespace, here, there, .. } = &cable;
        let (near, far) = (format!("{}/30", end(1)), format!("{}/30", end(2)));
        let laid = [
            &["netns", "add", namespace][..],
            &["link", "add", here, "type", "veth", "peer", "name", there],
            &["link", "set", there, "netns", namespace],
            &["addr", "add", &near, "dev", here],
            &["link", "set", here, "up"],
            &["netns", "exec", namespace, "ip", "addr", "add", &far, "dev", there],
            &["netns", "exec", namespace, "ip", "link", "set", there, "up"],
        ];
        if laid.iter().all(|args| quiet(Command::new("ip").args(*args))) {
            return Some(cable);
        }
        crate::skip("a cable to pull: network namespaces are needed, as root");
        None
    }

    /// A command that runs at the far end.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command
    }

    /// Pulls it. Our own end notices nothing but silence.
    pub fn pull(&self) {
        self.far_end("down");
    }

    /// Plugs it in again.
    pub fn plug(&self) {
        self.far_end("up");
    }

    fn far_end(&self, state: &str) {
        let set = ["link", "set", &self.there, state];
        assert!(quiet(self.command("ip").args(set)), "the cable cannot be set {state}");
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        // The namespace's own device goes with its peer.
        quiet(Command::new("ip").args(["link", "del", &self.here]));
        quiet(Command::new("ip").args(["netns", "del", &self.namespace]));
    }
}
