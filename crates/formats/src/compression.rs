//! How an object's bytes are packed, told by its first bytes.
//!
//! The bytes decide and not the name: a delivery stream may write gzip under any name. A name
//! that promises a packing tells only that bytes which are none of a text are damaged.
//!
//! Invariants
//! * What a decoder holds is bounded, whatever lengths the bytes claim.
//! * An object unpacks to at most [`UNPACKED_FREE_BYTES`] or [`UNPACKED_TIMES_MAX`] times its
//!   size, whichever is more; beyond that it is damaged, or meant to harm.

use std::io::{BufReader, Cursor, Error as IoError, ErrorKind as Io, Read, Seek, SeekFrom, Write};

use base::{Error, ErrorKind, Result};
use flate2::read::{DeflateDecoder, MultiGzDecoder};
use flate2::write::GzEncoder;
use zip::{CompressionMethod, ZipArchive};

/// Bytes looked at to tell a packing.
const MAGIC_BYTES: usize = 16;

/// Bytes handed to a decoder at a time.
const READ_BYTES: usize = 128 * 1024;

/// Bytes that any object may unpack to.
const UNPACKED_FREE_BYTES: u64 = 1024 * 1024 * 1024;

/// Times its size that a larger object may unpack to: a little more than gzip can reach.
const UNPACKED_TIMES_MAX: u64 = 1_100;

/// Longest block that Hadoop's snappy is read in, plain; Hadoop writes 256 KiB.
const BLOCK_BYTES_MAX: usize = 64 * 1024 * 1024;

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
    /// Snappy in blocks as Hadoop writes it.
    HadoopSnappy,
    /// A ZIP archive, its files one after another.
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
            start if is_hadoop_block(start) => Compression::HadoopSnappy,
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
            "hsnappy" => Compression::HadoopSnappy,
            "zip" => Compression::Zip,
            _ => Compression::None,
        }
    }
}

/// Plain length, packed length, then a snappy block that begins with its own plain length. The
/// bound on the length keeps text out: no letter is below four.
fn is_hadoop_block(start: &[u8]) -> bool {
    let [a, b, c, d, e, f, g, h, block @ ..] = start else { return false };
    let plain = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
    let packed = u32::from_be_bytes([*e, *f, *g, *h]) as usize;
    let said = snap::raw::decompress_len(block).unwrap_or(0);
    (1..=BLOCK_BYTES_MAX).contains(&plain)
        && (1..=snap::raw::max_compress_len(plain)).contains(&packed)
        && (1..=plain).contains(&said)
}

/// Unpacks a stream as its first bytes say. A ZIP archive says at its end what is in it, and is
/// read by [`decode_object`] alone.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for a packing that is known and not read.
pub fn decode<'a>(mut input: impl Read + Send + 'a) -> Result<Box<dyn Read + Send + 'a>> {
    let start = first_bytes(&mut input)?;
    let packing = Compression::of_bytes(&start);
    unpack(Cursor::new(start).chain(input), packing)
}

/// Unpacks an object as its first bytes say.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for a packing that is known and not read; [`ErrorKind::Corrupt`]
/// for an archive that is not whole, and for bytes that are neither text nor what `name`
/// promises.
pub fn decode_object<'a>(
    mut input: impl Read + Seek + Send + 'a,
    name: &str,
) -> Result<Box<dyn Read + Send + 'a>> {
    let failed = |cause| Error::io("reading the start of an object", cause);
    let size = input.seek(SeekFrom::End(0)).map_err(failed)?;
    input.rewind().map_err(failed)?;
    let start = first_bytes(&mut input)?;
    input.rewind().map_err(failed)?;
    let packing = Compression::of_bytes(&start);
    let promised = Compression::of_name(name);
    let is_text = !start.iter().any(|byte| *byte == 0 || (0x0e..0x20).contains(byte));
    if packing == Compression::None && promised != Compression::None && !is_text {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("its name promises {promised:?}, but it does not begin as such"),
        ));
    }
    let plain: Box<dyn Read + Send + 'a> = match packing {
        Compression::None => return Ok(Box::new(input)),
        Compression::Zip => Box::new(Archive::open(input)?),
        packing => unpack(input, packing)?,
    };
    let most = UNPACKED_FREE_BYTES.max(size.saturating_mul(UNPACKED_TIMES_MAX));
    Ok(Box::new(Bounded { inner: plain, left: most, most, packed: size }))
}

fn unpack<'a>(
    input: impl Read + Send + 'a,
    packing: Compression,
) -> Result<Box<dyn Read + Send + 'a>> {
    match packing {
        Compression::None => Ok(Box::new(input)),
        Compression::Gzip => {
            Ok(Box::new(MultiGzDecoder::new(BufReader::with_capacity(READ_BYTES, input))))
        }
        Compression::Zstd => {
            let decoder = zstd::stream::read::Decoder::new(input)
                .map_err(|cause| Error::io("starting a zstd decoder", cause))?;
            Ok(Box::new(decoder))
        }
        Compression::Snappy => Ok(Box::new(snap::read::FrameDecoder::new(input))),
        Compression::HadoopSnappy => {
            Ok(Box::new(Blocks::new(BufReader::with_capacity(READ_BYTES, input))))
        }
        Compression::Zip => Err(Error::unsupported(
            "a ZIP archive is read only where it lies as a file: store the stream plain, or as \
             gzip, zstd or snappy",
        )),
        Compression::Bzip2 | Compression::Xz => Err(Error::unsupported(format!(
            "{packing:?} objects are not read: store them plain, as gzip, zstd, snappy or zip"
        ))),
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

fn damaged(why: impl Into<String>) -> IoError {
    IoError::new(Io::InvalidData, why.into())
}

/// Ends with an error what unpacks to more than anybody means to store.
struct Bounded<R> {
    inner: R,
    left: u64,
    most: u64,
    packed: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(out)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            damaged(format!("{} bytes unpack to more than {}", self.packed, self.most))
        })?;
        Ok(count)
    }
}

/// Hadoop's snappy: blocks of a plain length and as many packed pieces as it takes to reach it.
struct Blocks<R> {
    input: R,
    decoder: snap::raw::Decoder,
    packed: Vec<u8>,
    plain: Vec<u8>,
    at: usize,
    /// Plain bytes of the block that are still to come.
    owed: usize,
}

impl<R: Read> Blocks<R> {
    fn new(input: R) -> Self {
        let (packed, plain) = (Vec::new(), Vec::new());
        Blocks { input, decoder: snap::raw::Decoder::new(), packed, plain, at: 0, owed: 0 }
    }

    /// A length, or none at the end of the stream where one may stand.
    fn length(&mut self, may_end: bool) -> std::io::Result<Option<usize>> {
        let mut bytes = [0; 4];
        let mut have = 0;
        while have < bytes.len() {
            match self.input.read(&mut bytes[have..]) {
                Ok(0) if have == 0 && may_end => return Ok(None),
                Ok(0) => return Err(Io::UnexpectedEof.into()),
                Ok(count) => have += count,
                Err(cause) if cause.kind() == Io::Interrupted => {}
                Err(cause) => return Err(cause),
            }
        }
        let length = u32::from_be_bytes(bytes) as usize;
        match length <= snap::raw::max_compress_len(BLOCK_BYTES_MAX) {
            true => Ok(Some(length)),
            false => Err(damaged(format!("a block claims to have {length} bytes"))),
        }
    }

    /// Unpacks the next piece; whether there is one.
    fn next(&mut self) -> std::io::Result<bool> {
        while self.owed == 0 {
            match self.length(true)? {
                None => return Ok(false),
                Some(plain) if plain > BLOCK_BYTES_MAX => {
                    return Err(damaged(format!("a block claims to have {plain} bytes")));
                }
                Some(plain) => self.owed = plain,
            }
        }
        let packed = self.length(false)?.unwrap_or(0);
        self.packed.clear();
        let read = self.input.by_ref().take(packed as u64).read_to_end(&mut self.packed)?;
        if read < packed {
            return Err(Io::UnexpectedEof.into());
        }
        let plain = snap::raw::decompress_len(&self.packed).map_err(|e| damaged(e.to_string()))?;
        if plain == 0 || plain > self.owed {
            return Err(damaged(format!("a piece of {plain} bytes in a block of {}", self.owed)));
        }
        self.plain.resize(plain, 0);
        self.decoder
            .decompress(&self.packed, &mut self.plain)
            .map_err(|cause| damaged(cause.to_string()))?;
        self.owed -= plain;
        self.at = 0;
        Ok(true)
    }
}

impl<R: Read> Read for Blocks<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.plain.len() && !self.next()? {
            return Ok(0);
        }
        let count = out.len().min(self.plain.len() - self.at);
        out[..count].copy_from_slice(&self.plain[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// The files of a ZIP archive as one stream, in the order of its directory.
struct Archive<R> {
    input: Option<R>,
    files: std::vec::IntoIter<Packed>,
    open: Option<OpenFile<R>>,
}

/// A file in an archive: where its packed bytes lie, and what they must come to.
struct Packed {
    start: u64,
    bytes: u64,
    method: CompressionMethod,
    plain: u64,
    crc32: u32,
}

struct OpenFile<R> {
    reader: FileReader<R>,
    crc: flate2::Crc,
    read: u64,
    expected: Packed,
}

enum FileReader<R> {
    Stored(std::io::Take<R>),
    Deflated(Box<DeflateDecoder<std::io::Take<R>>>),
}

impl<R> FileReader<R> {
    fn into_inner(self) -> R {
        match self {
            FileReader::Stored(input) => input.into_inner(),
            FileReader::Deflated(decoder) => decoder.into_inner().into_inner(),
        }
    }
}

impl<R: Read + Seek> Archive<R> {
    fn open(input: R) -> Result<Self> {
        let broken = |cause: zip::result::ZipError| {
            Error::new(ErrorKind::Corrupt, format!("the ZIP archive is not whole: {cause}"))
        };
        let mut archive = ZipArchive::new(input).map_err(broken)?;
        let mut files = Vec::new();
        for index in 0..archive.len() {
            let file = archive.by_index_raw(index).map_err(broken)?;
            if file.is_dir() {
                continue;
            }
            let method = file.compression();
            let known = [CompressionMethod::Stored, CompressionMethod::Deflated];
            if file.encrypted() || !known.contains(&method) {
                let how = if file.encrypted() { "encrypted".into() } else { method.to_string() };
                return Err(Error::unsupported(format!(
                    "file {:?} of the ZIP archive is {how}; only stored and deflated ones are read",
                    file.name()
                )));
            }
            let start = file.data_start().ok_or_else(|| {
                Error::new(ErrorKind::Corrupt, "a file of the ZIP archive is lost")
            })?;
            let (bytes, plain) = (file.compressed_size(), file.size());
            files.push(Packed { start, bytes, method, plain, crc32: file.crc32() });
        }
        let input = Some(archive.into_inner());
        Ok(Archive { input, files: files.into_iter(), open: None })
    }

    /// Opens the next file; whether there is one.
    fn next(&mut self) -> std::io::Result<bool> {
        let (Some(mut input), Some(expected)) = (self.input.take(), self.files.next()) else {
            return Ok(false);
        };
        input.seek(SeekFrom::Start(expected.start))?;
        let packed = input.take(expected.bytes);
        let reader = match expected.method {
            CompressionMethod::Stored => FileReader::Stored(packed),
            _ => FileReader::Deflated(Box::new(DeflateDecoder::new(packed))),
        };
        self.open = Some(OpenFile { reader, crc: flate2::Crc::new(), read: 0, expected });
        Ok(true)
    }
}

impl<R: Read + Seek> Read for Archive<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            let Some(mut open) = self.open.take() else {
                if !self.next()? {
                    return Ok(0);
                }
                continue;
            };
            let count = match &mut open.reader {
                FileReader::Stored(reader) => reader.read(out)?,
                FileReader::Deflated(reader) => reader.read(out)?,
            };
            if count > 0 {
                open.crc.update(&out[..count]);
                open.read += count as u64;
                self.open = Some(open);
                return Ok(count);
            }
            if (open.read, open.crc.sum()) != (open.expected.plain, open.expected.crc32) {
                return Err(damaged("a file of the ZIP archive does not fit its checksum"));
            }
            self.input = Some(open.reader.into_inner());
        }
    }
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
    pub fn finish(self) -> std::io::Result<W> {
        match self {
            Encoder::Plain(output) => Ok(output),
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Encoder::Plain(output) => output.write(bytes),
            Encoder::Gzip(encoder) => encoder.write(bytes),
            Encoder::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Encoder::Plain(output) => output.flush(),
            Encoder::Gzip(encoder) => encoder.flush(),
            Encoder::Zstd(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
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

    fn read_object(bytes: &[u8], name: &str) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let failed = |cause: IoError| Error::new(ErrorKind::Corrupt, cause.to_string());
        decode_object(Cursor::new(bytes), name)?.read_to_end(&mut out).map_err(failed)?;
        Ok(out)
    }

    fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, text) in files {
            archive.start_file(*name, zip::write::SimpleFileOptions::DEFAULT).unwrap();
            archive.write_all(text).unwrap();
        }
        archive.finish().unwrap().into_inner()
    }

    fn hadoop(blocks: &[&[&[u8]]]) -> Vec<u8> {
        let mut out = Vec::new();
        for pieces in blocks {
            let plain: usize = pieces.iter().map(|piece| piece.len()).sum();
            out.extend((plain as u32).to_be_bytes());
            for piece in *pieces {
                let packed = snap::raw::Encoder::new().compress_vec(piece).unwrap();
                out.extend((packed.len() as u32).to_be_bytes());
                out.extend(packed);
            }
        }
        out
    }

    #[test]
    fn zip_and_hadoops_snappy_read_whatever_they_are_called() {
        let long = b"{\"a\":1}".repeat(50_000);
        for name in ["x", "x.json", "x.zip"] {
            let archive = zip(&[("a.json", &long), ("b", b""), ("c", b"{}")]);
            assert_eq!(read_object(&archive, name).unwrap(), [&long[..], b"{}"].concat());
            let blocks = hadoop(&[&[&long, b"one"], &[b"two"]]);
            assert_eq!(read_object(&blocks, name).unwrap(), [&long[..], b"onetwo"].concat());
        }
        assert_eq!(read(&hadoop(&[&[b"{}"]])), b"{}");
        assert_eq!(Compression::of_bytes(b"{\"a\":1,\"b\":2}"), Compression::None);
        assert_eq!(Compression::of_bytes(b"\t\t\t\t\t\t\t\t\t\t\t"), Compression::None);
    }

    #[test]
    fn what_is_torn_or_lies_is_an_error() {
        let long = b"{\"a\":1}".repeat(1000);
        let whole = [
            (gzip(&long), "x.gz"),
            (zip(&[("a", &long)]), "x.zip"),
            (hadoop(&[&[&long]]), "x.hsnappy"),
            (zstd::stream::encode_all(&long[..], 3).unwrap(), "x.zst"),
        ];
        for (bytes, name) in &whole {
            assert_eq!(read_object(bytes, name).unwrap(), long);
            let torn = read_object(&bytes[..bytes.len() - 5], name).unwrap_err();
            assert_eq!(torn.kind(), ErrorKind::Corrupt, "{name}: {torn}");
            let mut other = bytes.clone();
            other[0] ^= 0x80;
            let named = read_object(&other, name).unwrap_err();
            assert_eq!(named.kind(), ErrorKind::Corrupt, "{name}: {named}");
        }
        // A block that claims gigabytes is not made room for.
        let mut lie = hadoop(&[&[b"{}"]]);
        lie.extend([0xff; 8]);
        assert!(read_object(&lie, "x").unwrap_err().to_string().contains("claims"));
        // The checksum of a stored file tells a flipped bit.
        let mut archive = zip(&[("a", &long)]);
        archive[60] ^= 1;
        assert!(read_object(&archive, "x").is_err());
    }

    #[test]
    fn a_bomb_is_an_error_and_takes_no_memory() {
        // 1.3 GB of zeros in less than a megabyte.
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        let zeros = vec![0; 1 << 24];
        for _ in 0..80 {
            encoder.write_all(&zeros).unwrap();
        }
        let bomb = encoder.finish().unwrap();
        assert!(bomb.len() < 1024 * 1024, "{}", bomb.len());
        let mut reader = decode_object(Cursor::new(&bomb), "x.zst").unwrap();
        let mut out = vec![0; 1 << 20];
        let mut read = 0;
        let error = loop {
            match reader.read(&mut out) {
                Ok(0) => panic!("the bomb went off after {read} bytes"),
                Ok(count) => read += count as u64,
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("unpack to more than"), "{error}");
        assert!(read <= UNPACKED_FREE_BYTES);
    }

    #[test]
    fn a_known_packing_that_is_not_read_is_refused() {
        let Err(refused) = decode(&b"BZh91AY"[..]) else { panic!("bzip2 was accepted") };
        assert_eq!(refused.kind(), ErrorKind::Unsupported);
        assert_eq!(Compression::of_name("a/b.BZ2"), Compression::Bzip2);
        assert_eq!(Compression::of_name("a/b.json"), Compression::None);
    }
}
