//! Files that hold keys: who may read them, and whole or absent.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use base::{Error, ErrorKind, Result};

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Mode 0600.
    Owner,
    /// Mode 0644.
    Everybody,
    /// Mode 0755.
    Program,
}

impl Access {
    fn mode(self) -> u32 {
        match self {
            Access::Owner => 0o600,
            Access::Everybody => 0o644,
            Access::Program => 0o755,
        }
    }
}

/// Writes a file that must not exist yet, and syncs it.
pub(crate) fn create(path: &Path, text: &str, access: Access) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, access.mode());
    options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(|cause| Error::io(format_args!("failed to write {}", path.display()), cause))
}

/// Writes a file whether or not it exists: its readers see the old text or the new.
pub(crate) fn replace(path: &Path, text: &str, access: Access) -> Result<()> {
    let mut staged = path.as_os_str().to_owned();
    staged.push(".new");
    let staged = Path::new(&staged);
    remove(staged)?;
    create(staged, text, access)?;
    std::fs::rename(staged, path)
        .map_err(|cause| Error::io(format_args!("failed to write {}", path.display()), cause))?;
    sync_parent(path)
}

/// Removes a file that may be absent.
fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format_args!("failed to remove {}", path.display()), cause))
        }
        _ => Ok(()),
    }
}

/// Reads a text file.
pub(crate) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|cause| Error::io(format_args!("failed to read {}", path.display()), cause))
}

/// Reads a text file that only its owner may be able to read.
pub(crate) fn read_private(path: &Path) -> Result<String> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path)
            .map_err(|cause| Error::io(format_args!("failed to read {}", path.display()), cause))?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            let shown = path.display();
            return Err(Error::new(
                ErrorKind::Denied,
                format!(
                    "{shown} holds a private key but others may read it; run chmod 600 {shown}"
                ),
            ));
        }
    }
    read(path)
}

/// Makes a folder only its owner may enter; its parent must exist.
pub(crate) fn create_private_folder(path: &Path) -> Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(path)
        .map_err(|cause| Error::io(format_args!("failed to make {}", path.display()), cause))
}

/// Syncs the folder that holds `path`, so that its name survives.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync_folder(parent.unwrap_or(Path::new(".")))
}

/// Syncs a folder's entries.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(|cause| Error::io(format_args!("failed to sync {}", path.display()), cause))
}
