//! The one way to write a request down, so that both sides sign the same text.

use super::{Request, Rules};

/// The canonical request. A presigned address leaves out its signature, and its token unless
/// `with_token`.
pub(super) fn canonical(
    request: &Request<'_>,
    signed_headers: &[String],
    payload_hash: &str,
    rules: Rules,
    with_token: bool,
) -> String {
    let mut text = String::with_capacity(512);
    text.push_str(request.method);
    text.push('\n');
    text.push_str(&path(request.path, rules));
    text.push('\n');
    text.push_str(&query(request.query, with_token));
    text.push('\n');
    for name in signed_headers {
        text.push_str(name);
        text.push(':');
        for (position, value) in request.values(name).enumerate() {
            if position > 0 {
                text.push(',');
            }
            text.push_str(&collapsed(value));
        }
        text.push('\n');
    }
    text.push('\n');
    text.push_str(&signed_headers.join(";"));
    text.push('\n');
    text.push_str(payload_hash);
    text
}

fn path(path: &str, rules: Rules) -> String {
    let resolved = match rules.normalize_path {
        true => resolved(path),
        false => path.to_owned(),
    };
    let encoded = match rules.encode_path_twice {
        true => quoted(resolved.as_bytes(), true),
        // What a client left unencoded, and what it encoded without need, is one way again. An
        // encoded slash is no end of a segment.
        false => {
            let segments = resolved.split('/');
            let again = segments.map(|segment| quoted(&percent_decoded(segment, false), false));
            again.collect::<Vec<_>>().join("/")
        }
    };
    if encoded.is_empty() { "/".to_owned() } else { encoded }
}

/// Without `.`, `..` and empty segments.
fn resolved(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    let last = if path.ends_with('/') && !kept.is_empty() { "/" } else { "" };
    format!("/{}{last}", kept.join("/"))
}

fn query(query: &str, with_token: bool) -> String {
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (quoted(&unquoted(name), false), quoted(&unquoted(value), false))
        })
        .filter(|(name, _)| name != "X-Amz-Signature")
        .filter(|(name, _)| with_token || name != "X-Amz-Security-Token")
        .collect();
    pairs.sort();
    let pairs: Vec<String> =
        pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

/// A value without spaces around it and with one where there were several.
fn collapsed(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let words: Vec<&str> = text.split([' ', '\t', '\r', '\n']).filter(|w| !w.is_empty()).collect();
    words.join(" ")
}

/// Part of a query without its encoding: a plus stands for a space, as wherever a query is read.
pub(super) fn unquoted(text: &str) -> Vec<u8> {
    percent_decoded(text, true)
}

/// A percent sign that begins no code stands for itself.
fn percent_decoded(text: &str, plus_is_space: bool) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digit = |offset: usize| {
            bytes.get(at + offset).and_then(|digit| char::from(*digit).to_digit(16))
        };
        match (byte, digit(1), digit(2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(u8::try_from(high * 16 + low).unwrap_or(b'%'));
                at += 3;
            }
            (b'+', _, _) if plus_is_space => {
                decoded.push(b' ');
                at += 1;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

/// AWS's encoding: everything but letters, digits and `-._~` as `%XX`.
pub(super) fn quoted(bytes: &[u8], keep_slash: bool) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if plain || (keep_slash && byte == b'/') {
            text.push(char::from(byte));
        } else {
            text.push('%');
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
    text
}
