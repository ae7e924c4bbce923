//! Partition values as folder names: `hour=2026-11-23T05%3A00/`.

/// The folder value that stands for null and for an empty string, as Hive writes it.
pub const NULL_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";

/// Writes a value so that it is one folder name and can be read back.
pub fn escape(value: &str) -> String {
    if value.is_empty() {
        return NULL_PARTITION.to_owned();
    }
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        // Only ASCII is ever escaped, and all of it is one byte.
        if c.is_ascii_control() || "\"#%'*/:=?\\{}[]^<>|`~".contains(c) {
            escaped.push_str(&format!("%{:02X}", u32::from(c)));
        } else {
            escaped.push(c);
        }
    }
    match escaped.as_str() {
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ => escaped,
    }
}

/// Reads a folder's value back. What is no valid escape stays as it is.
pub fn unescape(value: &str) -> String {
    let bytes = value.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'%')
            .then(|| value.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(code) => {
                plain.push(code);
                at += 3;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    // Escapes of another writer may not be UTF-8; then the folder's own name is the value.
    String::from_utf8(plain).unwrap_or_else(|_not_utf8| value.to_owned())
}

/// The folder of a partition below a table's prefix: `k=v/k2=v2/`, empty without keys.
pub fn partition_folder<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    pairs.into_iter().map(|(key, value)| format!("{}={}/", escape(key), escape(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back() {
        for value in ["a", "2026-11-23T05:00", "a/b=c", "100%", "ü ö", "..", ".", "x\ny", "%41"] {
            let folder = escape(value);
            assert!(!folder.contains(['/', '=', '\n']), "{folder}");
            assert!(folder != "." && folder != "..");
            assert_eq!(unescape(&folder), value);
        }
        assert_eq!(escape(""), NULL_PARTITION);
        assert_eq!(unescape("50%"), "50%");
        assert_eq!(unescape("%zz%e4"), "%zz%e4");
        assert_eq!(partition_folder([("city", "a/b"), ("hour", "5")]), "city=a%2Fb/hour=5/");
    }
}
