//! A body on its way to a file: counted, digested, compared with what was announced.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::StreamExt;
use objects::{Buckets, Draft};
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use s3s::dto::{ChecksumAlgorithm, StreamingBlob};
use s3s::{S3Error, S3Result, TrailingHeaders, s3_error};

use crate::fail::{Fail, bad_digest, blocking};
use crate::record::{ALGORITHMS, Sums};

/// How much of a body is gathered before it is written.
const GATHER_BYTES: usize = 512 * 1024;

/// What a request announces of its body.
#[derive(Debug, Default)]
pub(crate) struct Announced {
    pub(crate) length: Option<u64>,
    pub(crate) md5: Option<String>,
    pub(crate) sums: Sums,
    /// An algorithm to compute even if no value came with the request.
    pub(crate) algorithm: Option<String>,
    pub(crate) trailers: Option<TrailingHeaders>,
    /// The checksum a trailer must bring.
    pub(crate) promised: Vec<String>,
}

/// A body in a file of its own.
pub(crate) struct Received {
    pub(crate) draft: Draft,
    pub(crate) bytes: u64,
    pub(crate) md5: String,
    pub(crate) sums: Sums,
}

/// Digests of bytes that pass.
pub(crate) struct Digests {
    md5: Md5,
    sums: ChecksumHasher,
    bytes: u64,
}

impl Digests {
    pub(crate) fn new<'a>(algorithms: impl Iterator<Item = &'a str>) -> Self {
        let mut sums = ChecksumHasher::default();
        for algorithm in algorithms {
            match algorithm {
                ChecksumAlgorithm::CRC32 => sums.crc32 = Some(Crc32::new()),
                ChecksumAlgorithm::CRC32C => sums.crc32c = Some(Crc32c::new()),
                ChecksumAlgorithm::CRC64NVME => sums.crc64nvme = Some(Crc64Nvme::new()),
                ChecksumAlgorithm::SHA1 => sums.sha1 = Some(Sha1::new()),
                ChecksumAlgorithm::SHA256 => sums.sha256 = Some(Sha256::new()),
                _ => {}
            }
        }
        Digests { md5: Md5::new(), sums, bytes: 0 }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.sums.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// The MD5 raw, the checksums, the length.
    pub(crate) fn finish(self) -> ([u8; 16], Sums, u64) {
        (self.md5.finalize(), Sums::of_wire(self.sums.finalize()), self.bytes)
    }
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string does not fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

impl Announced {
    fn algorithms(&self) -> impl Iterator<Item = &str> {
        let asked = self.algorithm.as_deref().into_iter();
        let promised = self.promised.iter().map(String::as_str);
        self.sums.values.keys().map(String::as_str).chain(asked).chain(promised)
    }

    /// Checks the announcement itself, before any byte is read.
    fn check(&self) -> S3Result<()> {
        if let Some(md5) = &self.md5
            && crate::base64::decode(md5).is_none_or(|raw| raw.len() != 16)
        {
            return Err(s3_error!(InvalidDigest, "The Content-MD5 you specified is not valid."));
        }
        if let Some(algorithm) = &self.algorithm
            && !ALGORITHMS.contains(&algorithm.as_str())
        {
            return Err(s3_error!(
                InvalidRequest,
                "Checksum algorithm provided is unsupported: {algorithm}. Use one of {ALGORITHMS:?}"
            ));
        }
        if self.sums.values.len() > 1 {
            return Err(s3_error!(
                InvalidRequest,
                "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
            ));
        }
        for (algorithm, value) in &self.sums.values {
            let length = match algorithm.as_str() {
                ChecksumAlgorithm::CRC64NVME => 8,
                ChecksumAlgorithm::SHA1 => 20,
                ChecksumAlgorithm::SHA256 => 32,
                _ => 4,
            };
            if crate::base64::decode(value).is_none_or(|raw| raw.len() != length) {
                return Err(s3_error!(
                    InvalidRequest,
                    "Value for x-amz-checksum-{} header is invalid.",
                    algorithm.to_lowercase()
                ));
            }
        }
        Ok(())
    }

    fn verify(mut self, md5: &[u8; 16], sums: &Sums, bytes: u64) -> S3Result<()> {
        if self.length.is_some_and(|length| length != bytes) {
            return Err(s3_error!(
                IncompleteBody,
                "You did not provide the number of bytes specified by the Content-Length HTTP header"
            ));
        }
        if self.md5.as_deref().and_then(crate::base64::decode).is_some_and(|told| told != md5) {
            return Err(bad_digest("Content-MD5"));
        }
        self.read_trailers()?;
        for (algorithm, told) in &self.sums.values {
            if sums.values.get(algorithm) != Some(told) {
                return Err(bad_digest(algorithm));
            }
        }
        Ok(())
    }

    fn read_trailers(&mut self) -> S3Result<()> {
        let came = self.trailers.take().and_then(|trailers| trailers.take()).unwrap_or_default();
        for algorithm in std::mem::take(&mut self.promised) {
            let name = format!("x-amz-checksum-{}", algorithm.to_lowercase());
            let value = came.get(name.as_str()).and_then(|value| value.to_str().ok());
            let Some(value) = value else {
                return Err(crate::fail::custom(
                    "MalformedTrailerError",
                    http::StatusCode::BAD_REQUEST,
                    format!("The request announced the trailer {name} and did not send it"),
                ));
            };
            self.sums.values.insert(algorithm, value.trim().to_owned());
        }
        Ok(())
    }
}

/// The checksums a request's trailer header promises.
pub(crate) fn promised(headers: &http::HeaderMap) -> S3Result<Vec<String>> {
    let Some(names) = headers.get("x-amz-trailer").and_then(|names| names.to_str().ok()) else {
        return Ok(Vec::new());
    };
    let mut algorithms = Vec::new();
    for name in names.split(',').map(|name| name.trim().to_ascii_uppercase()) {
        match name.strip_prefix("X-AMZ-CHECKSUM-") {
            Some(algorithm) if ALGORITHMS.contains(&algorithm) => {
                algorithms.push(algorithm.to_owned());
            }
            _ => {
                return Err(s3_error!(
                    InvalidRequest,
                    "The value specified in the x-amz-trailer header is not supported"
                ));
            }
        }
    }
    Ok(algorithms)
}

/// Takes a whole body into a draft and compares it with what was announced.
pub(crate) async fn receive(
    buckets: &Buckets,
    body: Option<StreamingBlob>,
    announced: Announced,
) -> S3Result<Received> {
    announced.check()?;
    let mut state: Option<(Draft, Digests)> = None;
    let mut digests = Some(Digests::new(announced.algorithms()));
    let mut gathered: Vec<Bytes> = Vec::new();
    let mut held = 0;
    let mut body = body;
    let mut ended = false;
    while !ended {
        match body.as_mut() {
            None => ended = true,
            Some(stream) => match stream.next().await {
                None => ended = true,
                Some(Ok(bytes)) => {
                    held += bytes.len();
                    gathered.push(bytes);
                }
                Some(Err(cause)) => return Err(broken(&*cause)),
            },
        }
        if held >= GATHER_BYTES || ended {
            held = 0;
            let (pieces, buckets) = (std::mem::take(&mut gathered), buckets.clone());
            let (before, fresh) = (state.take(), digests.take());
            state = Some(blocking(move || write(&buckets, before, fresh, &pieces)).await?);
        }
    }
    let Some((draft, digests)) = state else {
        return Err(s3_error!(InternalError));
    };
    let (md5, sums, bytes) = digests.finish();
    announced.verify(&md5, &sums, bytes)?;
    Ok(Received { draft, bytes, md5: hex(&md5), sums })
}

fn write(
    buckets: &Buckets,
    before: Option<(Draft, Digests)>,
    fresh: Option<Digests>,
    pieces: &[Bytes],
) -> Result<(Draft, Digests), Fail> {
    let (mut draft, mut digests) = match (before, fresh) {
        (Some(before), _) => before,
        (None, Some(fresh)) => (buckets.draft()?, fresh),
        (None, None) => return Err(s3_error!(InternalError).into()),
    };
    for piece in pieces {
        digests.update(piece);
        draft.write(piece)?;
    }
    Ok((draft, digests))
}

/// Why a body ended before its end.
fn broken(cause: &(dyn std::error::Error + 'static)) -> S3Error {
    let mut said = BTreeMap::new();
    let mut next = Some(cause);
    while let Some(cause) = next {
        said.insert(said.len(), cause.to_string());
        next = cause.source();
    }
    let says = |word: &str| said.values().any(|text| text.contains(word));
    if says("Sha256Mismatch") {
        crate::fail::sha256_mismatch()
    } else if says("SignatureMismatch") {
        s3_error!(
            SignatureDoesNotMatch,
            "The request signature we calculated does not match the signature of a chunk."
        )
    } else if says("FormatError") || says("TooLarge") || says("TooMany") {
        s3_error!(InvalidRequest, "The body is no well-formed aws-chunked encoding.")
    } else {
        s3_error!(
            IncompleteBody,
            "You did not provide the number of bytes specified by the Content-Length HTTP header"
        )
    }
}
