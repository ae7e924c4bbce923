//! How an object's bytes are packed. The same bytes give the same object: no time stamps, no
//! names but the object's own.

use std::io::{Cursor, Write};

use base::{Error, Result};
use flate2::GzBuilder;
use snap::raw::Encoder;
use snap::write::FrameEncoder;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::stream::Compression;

/// Bytes of a Hadoop block before it is packed (Hadoop's own default).
const HADOOP_BLOCK_BYTES: usize = 256 * 1024;

/// Packs the bytes of the object that will be called `key`.
pub(crate) fn pack(bytes: &[u8], how: Compression, key: &str) -> Result<Vec<u8>> {
    let failed = |cause: std::io::Error| Error::io("failed to compress a batch", cause);
    let room = Vec::with_capacity(bytes.len() / 4);
    match how {
        Compression::None => Ok(bytes.to_vec()),
        Compression::Gzip => {
            let mut gzip = GzBuilder::new().mtime(0).write(room, flate2::Compression::default());
            gzip.write_all(bytes).map_err(failed)?;
            gzip.finish().map_err(failed)
        }
        Compression::Snappy => {
            let mut frames = FrameEncoder::new(room);
            frames.write_all(bytes).map_err(failed)?;
            frames.into_inner().map_err(|broken| failed(broken.into_error()))
        }
        Compression::HadoopSnappy => hadoop(bytes, room),
        Compression::Zip => {
            let zip_failed = |cause: zip::result::ZipError| failed(cause.into());
            let name = key.rsplit('/').next().unwrap_or(key);
            let name = name.strip_suffix(how.extension()).unwrap_or(name);
            // An archive always says when; without a clock, the first day it can say.
            let options = SimpleFileOptions::DEFAULT.large_file(false);
            let mut archive = ZipWriter::new(Cursor::new(room));
            archive.start_file(name, options).map_err(zip_failed)?;
            archive.write_all(bytes).map_err(failed)?;
            archive.finish().map(Cursor::into_inner).map_err(zip_failed)
        }
    }
}

/// Blocks of: plain length, packed length, both big-endian, packed bytes.
fn hadoop(bytes: &[u8], mut out: Vec<u8>) -> Result<Vec<u8>> {
    let failed = |cause: String| Error::internal(format!("failed to compress a batch: {cause}"));
    let mut encoder = Encoder::new();
    for block in bytes.chunks(HADOOP_BLOCK_BYTES) {
        let packed = encoder.compress_vec(block).map_err(|cause| failed(cause.to_string()))?;
        for length in [block.len(), packed.len()] {
            let length = u32::try_from(length).map_err(|cause| failed(cause.to_string()))?;
            out.extend_from_slice(&length.to_be_bytes());
        }
        out.extend_from_slice(&packed);
    }
    Ok(out)
}
