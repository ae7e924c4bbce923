//! `model.tar.gz`: written with the same bytes every time, read without trust.
//!
//! Invariants
//! * Writing depends on nothing but names and bytes: no clock, no user, no machine.
//! * Reading never touches the file system beyond the one file, holds at most the declared
//!   members in memory, and stops at the first entry that is not a plain file with a plain
//!   name. Extension headers are entries like others, so a long name cannot grow memory.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

use base::{Error, ErrorKind, Result};
use flate2::bufread::GzDecoder;
use flate2::{Compression, GzBuilder};

/// The weights; a model that is a rule has none.
pub const WEIGHTS: &str = "weights.safetensors";
/// What the model is: version, settings, seed, hash of the data.
pub const MODEL: &str = "model.json";
/// How good it is.
pub const CARD: &str = "card.json";

const MIB: u64 = 1 << 20;
/// What is read, up to which size, and whether a model can do without it.
const MEMBERS: [(&str, u64, bool); 3] =
    [(WEIGHTS, 512 * MIB, false), (MODEL, 4 * MIB, true), (CARD, 4 * MIB, false)];
const ENTRIES_MAX: usize = 16;
/// All members, their headers and a little more for members of others.
const BYTES_MAX: u64 = 640 * MIB;

/// The archive of `files`, by name. Refuses what [`read`] would refuse.
pub fn pack(files: &[(String, Vec<u8>)]) -> Result<Vec<u8>> {
    let mut files: Vec<&(String, Vec<u8>)> = files.iter().collect();
    files.sort();
    let gzip = GzBuilder::new().mtime(0).operating_system(255);
    let mut archive = tar::Builder::new(gzip.write(Vec::new(), Compression::new(6)));
    for (name, bytes) in files {
        let size = bytes.len() as u64;
        check_name(name)?;
        check_size(name, size)?;
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        archive
            .append_data(&mut header, name, bytes.as_slice())
            .map_err(|cause| Error::io(format!("packing {name}"), cause))?;
    }
    let packed = archive.into_inner().and_then(flate2::write::GzEncoder::finish);
    packed.map_err(|cause| Error::io("packing the model", cause))
}

/// Writes the archive to `path`: under another name first, then synced and renamed.
pub fn write(path: &Path, files: &[(String, Vec<u8>)]) -> Result<()> {
    replace(path, &pack(files)?)
}

/// Puts `bytes` at `path`, whole or not at all, and durable on return.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |cause| Error::io(format!("writing {}", path.display()), cause);
    let name = path
        .file_name()
        .ok_or_else(|| Error::invalid(format!("{} names no file", path.display())))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let mut staged = name.to_owned();
    staged.push(format!(".{}.tmp", std::process::id()));
    let staged = folder.join(staged);
    let written = File::create(&staged)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&staged, path))
        .and_then(|()| File::open(folder)?.sync_all());
    written.map_err(|cause| {
        // The first failure is the one to tell; a leftover is named by its own file name.
        drop(std::fs::remove_file(&staged));
        failed(cause)
    })
}

/// Reads the declared members of the archive at `path`.
pub fn read(path: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let shown = path.display();
    let file = File::open(path).map_err(|cause| Error::io(&shown, cause))?;
    read_from(file).map_err(|error| error.context(shown))
}

/// Reads the declared members of an archive. Plain members of other names are passed over.
pub fn read_from(archive: impl Read) -> Result<Vec<(String, Vec<u8>)>> {
    let plain = GzDecoder::new(BufReader::new(archive)).take(BYTES_MAX);
    let mut archive = tar::Archive::new(plain);
    let mut files = Vec::new();
    for (count, entry) in archive.entries().map_err(damaged)?.raw(true).enumerate() {
        if count == ENTRIES_MAX {
            return Err(Error::invalid(format!("the archive has more than {ENTRIES_MAX} entries")));
        }
        read_entry(entry.map_err(damaged)?, &mut files)?;
    }
    // What follows the archive's end holds nothing, but reading it checks gzip's checksum.
    let mut rest = archive.into_inner();
    std::io::copy(&mut rest, &mut std::io::sink()).map_err(damaged)?;
    if rest.limit() == 0 {
        return Err(Error::invalid(format!("the archive unpacks to more than {BYTES_MAX} bytes")));
    }
    let mut behind = rest.into_inner().into_inner();
    if !behind.fill_buf().map_err(damaged)?.is_empty() {
        return Err(Error::invalid("something lies behind the archive's end"));
    }
    for (name, _, needed) in MEMBERS {
        if needed && !files.iter().any(|(have, _): &(String, Vec<u8>)| have == name) {
            return Err(Error::invalid(format!(
                "the archive has no {name}, so it is no model of `forebay train` or of a training job"
            )));
        }
    }
    Ok(files)
}

fn read_entry(
    mut entry: tar::Entry<'_, impl Read>,
    files: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    if !entry.header().entry_type().is_file() {
        let kind = entry.header().entry_type();
        return Err(Error::invalid(format!("entry {name:?} is a {kind:?}, not a plain file")));
    }
    check_name(&name)?;
    check_size(&name, entry.size())?;
    if !MEMBERS.iter().any(|(member, ..)| *member == name) {
        return Ok(());
    }
    if files.iter().any(|(have, _)| *have == name) {
        return Err(Error::invalid(format!("the archive has {name} twice")));
    }
    let size = entry.size();
    // The size is only claimed; memory follows what is really there.
    let mut bytes = Vec::with_capacity(size.min(MIB) as usize);
    entry.read_to_end(&mut bytes).map_err(damaged)?;
    if bytes.len() as u64 != size {
        let found = bytes.len();
        return Err(Error::new(ErrorKind::Corrupt, format!("{name} ends after {found} bytes")));
    }
    files.push((name, bytes));
    Ok(())
}

fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.chars().all(plain) {
        return Err(Error::invalid(format!("entry {name:?} is not a plain file name")));
    }
    Ok(())
}

fn check_size(name: &str, size: u64) -> Result<()> {
    let max =
        MEMBERS.iter().find(|(member, ..)| *member == name).map_or(4 * MIB, |member| member.1);
    match size > max {
        true => Err(Error::invalid(format!("entry {name:?} has {size} bytes, at most {max}"))),
        false => Ok(()),
    }
}

fn damaged(cause: std::io::Error) -> Error {
    Error::new(ErrorKind::Corrupt, format!("not a readable model archive: {cause}"))
        .with_source(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Vec<(String, Vec<u8>)> {
        [(WEIGHTS, vec![7; 5000]), (MODEL, b"{}".to_vec()), (CARD, b"{\"a\":1}".to_vec())]
            .map(|(name, bytes)| (name.to_owned(), bytes))
            .to_vec()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), Compression::fast());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    }

    /// An archive of one raw entry (and good ones), with the name written past all checks.
    fn forged(name: &str, kind: tar::EntryType, claimed: u64, body: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(claimed);
        header.set_cksum();
        let mut out = header.as_bytes().to_vec();
        out.extend_from_slice(body);
        out.resize(out.len().next_multiple_of(512) + 1024, 0);
        gzip(&out)
    }

    fn refusal(archive: &[u8]) -> String {
        read_from(archive).unwrap_err().to_string()
    }

    #[test]
    fn what_is_packed_is_read_and_packs_the_same() {
        let mut shuffled = files();
        shuffled.reverse();
        let packed = pack(&files()).unwrap();
        assert_eq!(packed, pack(&shuffled).unwrap());
        let mut read = read_from(packed.as_slice()).unwrap();
        read.sort();
        shuffled.sort();
        assert_eq!(read, shuffled);
        assert!(pack(&[("../x".to_owned(), vec![])]).is_err());
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/model.tar.gz");
        write(&path, &files()).unwrap();
        write(&path, &files()).unwrap();
        assert_eq!(read(&path).unwrap().len(), 3);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert!(read(folder.path()).is_err());
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["../weights.safetensors", "/etc/passwd", "a/model.json", "..", ".x", "a\\b"] {
            let text = refusal(&forged(name, tar::EntryType::Regular, 2, b"{}"));
            assert!(text.contains("plain file name"), "{name}: {text}");
        }
    }

    #[test]
    fn links_devices_and_extension_headers_are_refused() {
        use tar::EntryType as T;
        for kind in [
            T::Symlink,
            T::Link,
            T::Directory,
            T::Char,
            T::Fifo,
            T::GNULongName,
            T::XHeader,
            T::XGlobalHeader,
            T::GNUSparse,
        ] {
            let text = refusal(&forged(MODEL, kind, 0, b""));
            assert!(text.contains("not a plain file"), "{kind:?}: {text}");
        }
    }

    #[test]
    fn claimed_sizes_are_bounded_and_checked() {
        let text = refusal(&forged(WEIGHTS, tar::EntryType::Regular, 1 << 40, b"x"));
        assert!(text.contains("at most"), "{text}");
        let text = refusal(&forged(MODEL, tar::EntryType::Regular, 5 << 20, b"x"));
        assert!(text.contains("at most"), "{text}");
        assert!(
            read_from(forged(MODEL, tar::EntryType::Regular, 1 << 20, b"x").as_slice()).is_err()
        );
    }

    #[test]
    fn too_many_doubled_missing_or_foreign_members() {
        let many: Vec<(String, Vec<u8>)> = (0..17).map(|n| (format!("f{n}"), vec![])).collect();
        assert!(refusal(&pack(&many).unwrap()).contains("more than 16"));
        let mut twice = files();
        twice.push(twice[1].clone());
        assert!(refusal(&pack(&twice).unwrap()).contains("twice"));
        assert!(refusal(&pack(&files()[..1]).unwrap()).contains(MODEL));
        let mut more = files();
        more.push(("notes.txt".to_owned(), b"hello".to_vec()));
        assert_eq!(read_from(pack(&more).unwrap().as_slice()).unwrap().len(), 3);
    }

    #[test]
    fn damage_anywhere_is_an_error_and_never_a_panic() {
        let packed = pack(&files()).unwrap();
        let whole = read_from(packed.as_slice()).unwrap();
        for cut in (0..packed.len()).step_by(3) {
            assert!(read_from(&packed[..cut]).is_err(), "cut at {cut}");
        }
        // Past gzip's ten bytes of header every bit that means something is covered by a
        // checksum; the bits that fill up the last byte of the packed data mean nothing.
        for at in 10..packed.len() {
            let mut bent = packed.clone();
            bent[at] ^= 0x10;
            if let Ok(read) = read_from(bent.as_slice()) {
                assert!(read == whole, "flip at {at} changed what was read");
            }
        }
    }
}
