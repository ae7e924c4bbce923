//! Volumes that run full or turn read-only: file systems in memory, of a fixed size.
//!
//! Needs root. Each volume owns its mount point and unmounts it, also on panic.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::power::quiet;

/// A mounted volume.
#[derive(Debug)]
pub struct Volume {
    mount: PathBuf,
}

impl Volume {
    /// Mounts one at `mount`, which is made; `None` after saying SKIPPED where this user cannot.
    pub fn new(mount: &Path, megabytes: u32) -> Option<Volume> {
        std::fs::create_dir_all(mount).unwrap();
        let size = format!("size={megabytes}m");
        let mounted =
            quiet(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(mount));
        if !mounted {
            crate::skip("full volumes: a tmpfs must be mounted, as root");
            return None;
        }
        Some(Volume { mount: mount.to_owned() })
    }

    /// Takes every byte that is left, with a file of somebody else's; how many they were.
    pub fn fill(&self) -> u64 {
        let mut filler = OpenOptions::new().create(true).append(true).open(self.filler()).unwrap();
        let mut taken = 0;
        for part in [64 * 1024, 4096] {
            loop {
                match filler.write(&vec![0x5a; part]) {
                    Ok(0) => break,
                    Ok(bytes) => taken += bytes as u64,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
                        break;
                    }
                }
            }
        }
        taken
    }

    /// Gives the space back.
    pub fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    /// Lets nobody write. Files that are open for writing hold it up, so it is tried again.
    pub fn read_only(&self) {
        self.remount("ro");
        let probe = std::fs::write(self.mount.join("probe"), b"x");
        assert_eq!(probe.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    }

    /// Lets everybody write again.
    pub fn writable(&self) {
        self.remount("rw");
    }

    fn remount(&self, how: &str) {
        let option = format!("remount,{how}");
        crate::wait_for(&option, Duration::from_secs(20), || {
            quiet(Command::new("mount").args(["-o", &option]).arg(&self.mount))
        });
    }

    fn filler(&self) -> PathBuf {
        self.mount.join("filler")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        for _ in 0..50 {
            if quiet(Command::new("umount").arg(&self.mount)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        quiet(Command::new("umount").arg("--lazy").arg(&self.mount));
    }
}
