//! How an object's bytes are packed, told by its first bytes.
//!
//! The bytes decide and not the name: a delivery stream may write gzip under any name, and
//! a name that promises a packing we cannot read is refused only if the bytes agree.

use std::io::{self, BufReader, Chain, Cursor, Read, Write};

use base::{Error, Result};
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

/// Bytes looked at to tell a packing.
const MAGIC_BYTES: usize = 6;

/// Bytes handed to a decoder at a time.
const READ_BYTES: usize = 128 * 1024;

/// A packing of a whole object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Plain bytes.
    None,
    /// RFC 1952, one member or many after another.
    Gzip,
    /// Zstandard, one frame or many.
    Zstd,
    /// bzip2: known, not read.
    Bzip2,
    /// xz: known, not read.
    Xz,
    /// Snappy in its framing format, one stream or many.
    Snappy,
    /// A ZIP archive: known, not read.
    Zip,
}

impl Compression {
    /// Tells the packing from the first bytes of an object.
    pub fn of_bytes(start: &[u8]) -> Compression {
        match start {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            [b'B', b'Z', b'h', ..] => Compression::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            [0xff, 0x06, 0x00, 0x00, b's', b'N', ..] => Compression::Snappy,
            [b'P', b'K', 3, 4, ..] => Compression::Zip,
            _ => Compression::None,
        }
    }

    /// Tells the packing that a key's ending promises.
    pub fn of_name(name: &str) -> Compression {
        let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
        match ending.to_ascii_lowercase().as_str() {
            "gz" | "gzip" => Compression::Gzip,
            "zst" | "zstd" => Compression::Zstd,
            "bz2" => Compression::Bzip2,
            "xz" => Compression::Xz,
            "snappy" | "sz" => Compression::Snappy,
            "zip" => Compression::Zip,
            _ => Compression::None,
        }
    }
}

/// Unpacks `input` as its first bytes say.
///
/// # Errors
/// [`base::ErrorKind::Unsupported`] for a packing that is known and not read.
pub fn decode<'a>(mut input: impl Read + Send + 'a) -> Result<Box<dyn Read + Send + 'a>> {
    let start = first_bytes(&mut input)?;
    let packing = Compression::of_bytes(&start);
    let whole: Chain<Cursor<Vec<u8>>, _> = Cursor::new(start).chain(input);
    match packing {
        Compression::None => Ok(Box::new(whole)),
        Compression::Gzip => {
            Ok(Box::new(MultiGzDecoder::new(BufReader::with_capacity(READ_BYTES, whole))))
        }
        Compression::Zstd => {
            let decoder = zstd::stream::read::Decoder::new(whole)
                .map_err(|cause| Error::io("starting a zstd decoder", cause))?;
            Ok(Box::new(decoder))
        }
        Compression::Snappy => Ok(Box::new(snap::read::FrameDecoder::new(whole))),
        Compression::Bzip2 | Compression::Xz | Compression::Zip => Err(Error::unsupported(
            format!("{packing:?} objects are not read: store them plain, as gzip, zstd or snappy"),
        )),
    }
}

fn first_bytes(input: &mut impl Read) -> Result<Vec<u8>> {
    let mut start = Vec::with_capacity(MAGIC_BYTES);
    input
        .take(MAGIC_BYTES as u64)
        .read_to_end(&mut start)
        .map_err(|cause| Error::io("reading the start of an object", cause))?;
    Ok(start)
}

/// Packs what is written to it.
pub enum Encoder<W: Write> {
    /// Not at all.
    Plain(W),
    /// RFC 1952.
    Gzip(GzEncoder<W>),
    /// Zstandard, level 3.
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    /// Packs into `output`.
    ///
    /// # Errors
    /// [`base::ErrorKind::Unsupported`] for a packing that is not written.
    pub fn new(output: W, packing: Compression) -> Result<Self> {
        match packing {
            Compression::None => Ok(Encoder::Plain(output)),
            Compression::Gzip => {
                Ok(Encoder::Gzip(GzEncoder::new(output, flate2::Compression::default())))
            }
            Compression::Zstd => zstd::stream::write::Encoder::new(output, 3)
                .map(Encoder::Zstd)
                .map_err(|cause| Error::io("starting a zstd encoder", cause)),
            other => Err(Error::unsupported(format!(
                "{other:?} objects are not written: use none, gzip or zstd"
            ))),
        }
    }

    /// Writes what is left; the output again.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Encoder::Plain(output) => Ok(output),
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Encoder::Plain(output) => output.write(bytes),
            Encoder::Gzip(encoder) => encoder.write(bytes),
            Encoder::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Encoder::Plain(output) => output.flush(),
            Encoder::Gzip(encoder) => encoder.flush(),
            Encoder::Zstd(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use base::ErrorKind;

    use super::*;

    fn read(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        decode(bytes).unwrap().read_to_end(&mut out).unwrap();
        out
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn plain_gzip_members_zstd_frames_and_snappy_streams_read_alike() {
        assert_eq!(read(b""), b"");
        assert_eq!(read(b"{}"), b"{}");
        assert_eq!(read(&[gzip(b"one,"), gzip(b"two")].concat()), b"one,two");
        let frame = |text: &[u8]| zstd::stream::encode_all(text, 3).unwrap();
        assert_eq!(read(&[frame(b"one,"), frame(b"two")].concat()), b"one,two");
        let snappy = |text: &[u8]| {
            let mut encoder = snap::write::FrameEncoder::new(Vec::new());
            encoder.write_all(text).unwrap();
            encoder.into_inner().unwrap()
        };
        assert_eq!(read(&[snappy(b"one,"), snappy(b"two")].concat()), b"one,two");
    }

    #[test]
    fn a_known_packing_that_is_not_read_is_refused() {
        let Err(refused) = decode(&b"BZh91AY"[..]) else { panic!("bzip2 was accepted") };
        assert_eq!(refused.kind(), ErrorKind::Unsupported);
        assert_eq!(Compression::of_name("a/b.BZ2"), Compression::Bzip2);
        assert_eq!(Compression::of_name("a/b.json"), Compression::None);
    }
}
