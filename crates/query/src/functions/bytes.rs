//! Binary values, their texts and their digests.

use md5::Digest;
use rules::base64;

use super::Kind::{Bytes, Text};
use super::{Gives, Memory, Out, Outcome, Row, Value, row};

pub(super) const ROWS: &[Row] = &[
    row("to_hex", &[Bytes], Gives::Text, |_, args| text(hex(args[0].bytes()))),
    row("from_hex", &[Text], Gives::Bytes, from_hex),
    row("to_base64", &[Bytes], Gives::Text, |_, args| text(base64::encode(args[0].bytes()))),
    row("from_base64", &[Text], Gives::Bytes, from_base64),
    row("to_base64url", &[Bytes], Gives::Text, |_, args| {
        text(base64::encode(args[0].bytes()).replace('+', "-").replace('/', "_"))
    }),
    row("from_base64url", &[Text], Gives::Bytes, from_base64url),
    row("to_utf8", &[Text], Gives::Bytes, |_, args| bytes(args[0].bytes().to_vec())),
    row("from_utf8", &[Bytes], Gives::Text, |_, args| {
        text(String::from_utf8_lossy(args[0].bytes()).into_owned())
    }),
    row("md5", &[Bytes], Gives::Bytes, |_, args| digest::<md5::Md5>(args)),
    row("sha1", &[Bytes], Gives::Bytes, |_, args| digest::<sha1::Sha1>(args)),
    row("sha256", &[Bytes], Gives::Bytes, |_, args| digest::<sha2::Sha256>(args)),
    row("sha512", &[Bytes], Gives::Bytes, |_, args| digest::<sha2::Sha512>(args)),
    row("crc32", &[Bytes], Gives::Int, |_, args| {
        let mut crc = flate2::Crc::new();
        crc.update(args[0].bytes());
        Ok(Some(Out::Int(crc.sum().into())))
    }),
];

fn text(text: String) -> Outcome {
    Ok(Some(Out::Text(text)))
}

fn bytes(bytes: Vec<u8>) -> Outcome {
    Ok(Some(Out::Bytes(bytes)))
}

fn digest<D: Digest>(args: &[Value<'_>]) -> Outcome {
    bytes(D::digest(args[0].bytes()).to_vec())
}

/// Upper case, as Athena writes it.
fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digits = |byte: &u8| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    bytes.iter().flat_map(digits).map(char::from).collect()
}

fn from_hex(_: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let text = args[0].text();
    let digit = |letter: &u8| char::from(*letter).to_digit(16).map(|digit| digit as u8);
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    };
    let read: Option<Vec<u8>> = text.as_bytes().chunks(2).map(pair).collect();
    read.map_or_else(|| Err(format!("{text:?} is not hexadecimal")), bytes)
}

fn from_base64(_: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let text = args[0].text();
    base64::decode(text).map_or_else(|| Err(format!("{text:?} is not base64")), bytes)
}

fn from_base64url(_: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let text = args[0].text();
    let plain = text.replace('-', "+").replace('_', "/");
    base64::decode(&plain).map_or_else(|| Err(format!("{text:?} is not base64url")), bytes)
}
