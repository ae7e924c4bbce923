//! Which names buckets and objects may have.

use base::{Error, Result};
use object_store::path::Path as Key;

/// S3's bound on a key.
const KEY_BYTES_MAX: usize = 1024;

/// S3's rule: 3 to 63 of lower-case letters, digits, dots and hyphens, starting and ending
/// with a letter or digit, no two dots in a row.
pub(crate) fn check_bucket(name: &str) -> Result<()> {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = (3..=63).contains(&name.len())
        && name.chars().all(|c| alphanumeric(c) || c == '.' || c == '-')
        && name.starts_with(alphanumeric)
        && name.ends_with(alphanumeric)
        && !name.contains("..");
    if good {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "bucket name {name:?}: use 3 to 63 lower-case letters, digits, '.' or '-', starting \
         and ending with a letter or digit"
    )))
}

/// A key that is a path below its bucket: no empty, `.` or `..` component, no U+0000.
pub(crate) fn check_key(key: &str) -> Result<Key> {
    let bad = |why: &str| Error::invalid(format!("object key {key:?}: {why}"));
    if key.len() > KEY_BYTES_MAX {
        return Err(bad(&format!("longer than {KEY_BYTES_MAX} bytes")));
    }
    if key.contains('\0') {
        return Err(bad("U+0000 is not allowed"));
    }
    for component in key.split('/') {
        match component {
            "" => return Err(bad("a component is empty")),
            "." | ".." => return Err(bad("'.' and '..' are not allowed as components")),
            _ => {}
        }
    }
    Key::parse(key).map_err(|cause| bad(&cause.to_string()).with_source(cause))
}

/// What holds for every key of S3, path or not.
pub(crate) fn check_any_key(key: &str) -> Result<()> {
    let bad = |why: &str| Err(Error::invalid(format!("object key: {why}")));
    if key.is_empty() {
        return bad("it is empty");
    }
    if key.len() > KEY_BYTES_MAX {
        return bad(&format!("longer than {KEY_BYTES_MAX} bytes"));
    }
    if key.contains('\0') {
        return bad("U+0000 is not allowed");
    }
    Ok(())
}

/// Whether engines take a file of this name for an upload in progress: `name#` and digits.
pub(crate) fn is_reserved(key: &str) -> bool {
    key.rsplit_once('#').is_some_and(|(_, digits)| {
        !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit())
    })
}
