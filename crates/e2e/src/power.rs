//! Power cuts without a power switch: ext4 in a loop-mounted file, and the file system's
//! own shutdown call, which drops everything that was not synced.
//!
//! Needs root. Each disk owns its file and mount point and removes both, also on panic.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A disk that can lose its power.
pub struct Disk {
    image: PathBuf,
    mount: PathBuf,
    mounted: bool,
}

impl Disk {
    /// Makes and mounts one below `folder`; `None` (after saying SKIPPED) where this user or
    /// machine cannot.
    pub fn new(folder: &Path, megabytes: u32) -> Option<Disk> {
        let (image, mount) = (folder.join("disk.img"), folder.join("disk"));
        std::fs::create_dir_all(&mount).unwrap();
        std::fs::File::create(&image).unwrap().set_len(u64::from(megabytes) << 20).unwrap();
        let mut disk = Disk { image, mount, mounted: false };
        let made = quiet(Command::new("/sbin/mkfs.ext4").arg("-q").arg("-F").arg(&disk.image));
        if !made || !disk.mount() {
            crate::skip("power cuts: mkfs.ext4 and a loop mount are needed, as root");
            return None;
        }
        Some(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Cuts the power: whatever was not synced is gone.
    pub fn cut(&self) {
        // EXT4_IOC_SHUTDOWN = _IOR('X', 125, u32); 2 = without flushing the journal.
        let program = "import fcntl,os,struct,sys\n\
                       fd = os.open(sys.argv[1], os.O_RDONLY)\n\
                       fcntl.ioctl(fd, 0x8004587D, struct.pack('I', 2))\n";
        let cut = quiet(Command::new("python3").arg("-c").arg(program).arg(&self.mount));
        assert!(cut, "the shutdown call failed: no power was cut");
        let probe = std::fs::write(self.mount.join("after-the-cut"), b"x");
        assert!(probe.is_err(), "the disk still takes writes after the cut");
    }

    /// Takes the dead disk out and puts it in again. Every process using it must be gone.
    pub fn replug(&mut self) {
        assert!(self.unmount(), "umount failed");
        assert!(self.mount(), "mount after the cut failed");
    }

    fn mount(&mut self) -> bool {
        self.mounted =
            quiet(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mount));
        self.mounted
    }

    fn unmount(&mut self) -> bool {
        for _ in 0..50 {
            if quiet(Command::new("umount").arg(&self.mount)) {
                self.mounted = false;
                return true;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        false
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            self.unmount();
        }
        drop(std::fs::remove_file(&self.image));
    }
}

/// Runs a command that has nothing to say; whether it succeeded.
pub(crate) fn quiet(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}
