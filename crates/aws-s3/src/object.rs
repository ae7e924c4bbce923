//! Objects: put, get, head, copy, delete, attributes, tags.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use bytes::Bytes;
use objects::{Found, Look};
use s3s::dto::*;
use s3s::{S3Error, S3Request, S3Response, S3Result, TrailingHeaders, s3_error};

use crate::fail::{
    Fail, blocking, check_owner, check_version, no_such_bucket, no_such_key, of_room, precondition,
    refuse, refuse_customer_key, refuse_in_write, unsupported,
};
use crate::receive::{Announced, Digests, Received, hex, promised, receive};
use crate::record::{Headers, Record, Sums, wire_time};
use crate::service::Rooms;
use crate::tags;

/// S3's bound on what one request may put.
const PUT_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;
/// S3's bound on the metadata of an object.
const METADATA_BYTES_MAX: usize = 2 * 1024;
/// How much of a file is read at a time.
const READ_BYTES: usize = 512 * 1024;

/// The headers of a write that are given back later.
macro_rules! headers_of {
    ($input:expr) => {
        Headers {
            content_type: $input.content_type.clone(),
            cache_control: $input.cache_control.clone(),
            content_disposition: $input.content_disposition.clone(),
            content_encoding: $crate::object::encoding_kept($input.content_encoding.as_deref()),
            content_language: $input.content_language.clone(),
            expires: $input.expires.clone(),
            metadata: $crate::object::metadata_of(&$input.metadata)?,
        }
    };
}

/// The checksums of an input or an output with a field for each.
macro_rules! sums_of {
    ($input:expr) => {
        Sums::of_wire(Checksum {
            checksum_crc32: $input.checksum_crc32.clone(),
            checksum_crc32c: $input.checksum_crc32c.clone(),
            checksum_crc64nvme: $input.checksum_crc64nvme.clone(),
            checksum_sha1: $input.checksum_sha1.clone(),
            checksum_sha256: $input.checksum_sha256.clone(),
            checksum_type: None,
        })
    };
}

macro_rules! set_sums {
    ($output:expr, $sums:expr) => {{
        let sums = $sums.wire();
        $output.checksum_crc32 = sums.checksum_crc32;
        $output.checksum_crc32c = sums.checksum_crc32c;
        $output.checksum_crc64nvme = sums.checksum_crc64nvme;
        $output.checksum_sha1 = sums.checksum_sha1;
        $output.checksum_sha256 = sums.checksum_sha256;
    }};
}

pub(crate) use {headers_of, set_sums, sums_of};

/// `aws-chunked` is how the body travelled, not what it is.
pub(crate) fn encoding_kept(encoding: Option<&str>) -> Option<String> {
    let kept: Vec<&str> =
        encoding?.split(',').map(str::trim).filter(|part| *part != "aws-chunked").collect();
    let kept = kept.join(", ");
    (!kept.is_empty()).then_some(kept)
}

pub(crate) fn metadata_of(
    metadata: &Option<Metadata>,
) -> S3Result<std::collections::BTreeMap<String, String>> {
    let kept: std::collections::BTreeMap<String, String> =
        metadata.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    let bytes: usize = kept.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > METADATA_BYTES_MAX {
        return Err(s3_error!(
            MetadataTooLarge,
            "Your metadata headers exceed the maximum allowed metadata size of 2048 bytes: {bytes}"
        ));
    }
    Ok(kept)
}

fn wire_metadata(record: &Record) -> Option<Metadata> {
    let metadata = &record.headers.metadata;
    (!metadata.is_empty()).then(|| metadata.clone().into_iter().collect())
}

pub(crate) fn length_i64(bytes: u64) -> Option<i64> {
    i64::try_from(bytes).ok()
}

fn matches(condition: &ETagCondition, record: &Record) -> bool {
    condition.as_etag().is_none_or(|etag| etag.value() == record.etag)
}

/// Whether a write's conditions hold; asked under the key's lock.
pub(crate) fn check_write(
    look: Look<'_>,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> Result<(), Fail> {
    if if_match.is_none() && if_none_match.is_none() {
        return Ok(());
    }
    let record = look()?.map(|found| Record::of(&found));
    if let Some(condition) = if_match {
        match &record {
            None => return Err(no_such_key().into()),
            Some(record) if !matches(condition, record) => return Err(precondition().into()),
            Some(_) => {}
        }
    }
    if let (Some(condition), Some(record)) = (if_none_match, &record)
        && matches(condition, record)
    {
        return Err(precondition().into());
    }
    Ok(())
}

/// S3 compares whole seconds, which is what it tells.
fn seconds(at: &Timestamp) -> i64 {
    time::OffsetDateTime::from(at.clone()).unix_timestamp()
}

struct Conditions<'a> {
    if_match: Option<&'a ETagCondition>,
    if_none_match: Option<&'a ETagCondition>,
    modified_since: Option<&'a Timestamp>,
    unmodified_since: Option<&'a Timestamp>,
}

enum Held {
    Yes,
    NotModified,
    Failed,
}

impl Conditions<'_> {
    /// In the order of RFC 9110, as S3 does.
    fn hold(&self, found: &Found, record: &Record) -> Held {
        let modified = found.meta.modified_at.millis() / 1_000;
        match (self.if_match, self.unmodified_since) {
            (Some(condition), _) if !matches(condition, record) => return Held::Failed,
            (None, Some(at)) if modified > seconds(at) => return Held::Failed,
            _ => {}
        }
        match (self.if_none_match, self.modified_since) {
            (Some(condition), _) if matches(condition, record) => Held::NotModified,
            (None, Some(at)) if modified <= seconds(at) => Held::NotModified,
            _ => Held::Yes,
        }
    }

    fn for_read(&self, found: &Found, record: &Record) -> S3Result<()> {
        match self.hold(found, record) {
            Held::Yes => Ok(()),
            Held::Failed => Err(precondition()),
            Held::NotModified => {
                let mut error = s3_error!(NotModified, "Not Modified");
                let mut headers = http::HeaderMap::new();
                if let Ok(etag) = record.etag().to_http_header() {
                    headers.insert(http::header::ETAG, etag);
                }
                error.set_headers(headers);
                Err(error)
            }
        }
    }

    fn for_copy(&self, found: &Found, record: &Record) -> S3Result<()> {
        match self.hold(found, record) {
            Held::Yes => Ok(()),
            _ => Err(precondition()),
        }
    }
}

/// What a write announces of its body.
pub(crate) fn announced(
    length: Option<i64>,
    md5: Option<String>,
    sums: Sums,
    algorithm: Option<&ChecksumAlgorithm>,
    headers: &http::HeaderMap,
    trailers: Option<TrailingHeaders>,
) -> S3Result<Announced> {
    // The length a chunked body has when it is decoded counts.
    let decoded = headers
        .get("x-amz-decoded-content-length")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok());
    let length = decoded.or_else(|| length.and_then(|length| u64::try_from(length).ok()));
    if length.is_some_and(|length| length > PUT_BYTES_MAX) {
        return Err(s3_error!(
            EntityTooLarge,
            "Your proposed upload exceeds the maximum allowed size of {PUT_BYTES_MAX} bytes"
        ));
    }
    let promised = if trailers.is_some() { promised(headers)? } else { Vec::new() };
    // x-amz-sdk-checksum-algorithm says what another header or a trailer holds.
    let named = !sums.is_empty() || !promised.is_empty();
    let algorithm = algorithm.filter(|_| !named).map(|a| a.as_str().to_owned());
    Ok(Announced { length, md5, sums, algorithm, trailers, promised })
}

pub(crate) async fn put(
    rooms: &Rooms,
    request: S3Request<PutObjectInput>,
) -> S3Result<S3Response<PutObjectOutput>> {
    let mut input = request.input;
    check_owner(&input.expected_bucket_owner, &rooms.settings.account_id)?;
    refuse_in_write!(input);
    refuse(&input.write_offset_bytes, "x-amz-write-offset-bytes", "objects are written whole")?;
    let headers = headers_of!(input);
    let tags = tags::of_header(input.tagging.as_deref())?;
    let announced = announced(
        input.content_length,
        input.content_md5.take(),
        sums_of!(input),
        input.checksum_algorithm.as_ref(),
        &request.headers,
        request.trailing_headers,
    )?;
    let (bucket, key) = (input.bucket, input.key);
    rooms.need_bucket(&bucket)?;
    let received = receive(&rooms.buckets, input.body.take(), announced).await?;
    let Received { draft, bytes, md5, sums } = received;
    let record = Record { etag: md5, headers, tags, sums, ..Record::default() };
    let mut output = PutObjectOutput {
        e_tag: Some(record.etag()),
        checksum_type: record.sums.kind(),
        size: None,
        ..Default::default()
    };
    set_sums!(output, record.sums);
    tracing::trace!(bytes, "an object was put");
    let (if_match, if_none_match) = (input.if_match, input.if_none_match);
    let buckets = rooms.buckets.clone();
    blocking(move || {
        buckets.publish(draft, &bucket, &key, &record.bytes(), |look| {
            check_write(look, if_match.as_ref(), if_none_match.as_ref())
        })
    })
    .await?;
    Ok(S3Response::new(output))
}

/// Opens an object whose bytes are to be read: they are compared with what was stored first.
pub(crate) async fn open_sound(
    rooms: &Rooms,
    bucket: &str,
    key: &str,
) -> S3Result<(File, Found, Record)> {
    let (buckets, owned) = (rooms.buckets.clone(), (bucket.to_owned(), key.to_owned()));
    let opened = open(rooms, bucket, key).await?;
    blocking(move || Ok(buckets.verify(&owned.0, &owned.1)?)).await?;
    Ok(opened)
}

/// Opens an object; says which of bucket and key is missing.
pub(crate) async fn open(
    rooms: &Rooms,
    bucket: &str,
    key: &str,
) -> S3Result<(File, Found, Record)> {
    let (buckets, bucket, key) = (rooms.buckets.clone(), bucket.to_owned(), key.to_owned());
    blocking(move || {
        let (file, found) = buckets.open_object(&bucket, &key)?.ok_or_else(no_such_key)?;
        let record = Record::of(&found);
        Ok((file, found, record))
    })
    .await
}

/// Checks what a read asks; the range of bytes and whether it is a part of all.
fn readable(
    conditions: &Conditions<'_>,
    range: Option<&Range>,
    part: Option<i32>,
    found: &Found,
    record: &Record,
) -> S3Result<(std::ops::Range<u64>, bool)> {
    conditions.for_read(found, record)?;
    let whole = 0..found.meta.bytes;
    match (range, part) {
        (None, None) => Ok((whole, false)),
        (Some(_), Some(_)) => Err(s3_error!(
            InvalidRequest,
            "Cannot specify both Range header and partNumber query parameter"
        )),
        (Some(range), None) => match range.check(found.meta.bytes) {
            Ok(range) => Ok((range, true)),
            Err(_unsatisfiable) => {
                let mut error = s3_error!(InvalidRange, "The requested range is not satisfiable");
                let mut headers = http::HeaderMap::new();
                if let Ok(value) = format!("bytes */{}", found.meta.bytes).parse() {
                    headers.insert(http::header::CONTENT_RANGE, value);
                }
                error.set_headers(headers);
                Err(error)
            }
        },
        (None, Some(part)) => {
            let sizes =
                if record.parts.is_empty() { &[found.meta.bytes][..] } else { &record.parts };
            let at = usize::try_from(part).ok().and_then(|part| part.checked_sub(1));
            let Some(size) = at.and_then(|at| sizes.get(at)) else {
                return Err(crate::fail::custom(
                    "InvalidPartNumber",
                    http::StatusCode::RANGE_NOT_SATISFIABLE,
                    "The requested partnumber is not satisfiable".to_owned(),
                ));
            };
            let start = sizes.iter().take(at.unwrap_or_default()).sum::<u64>();
            Ok((start..start + size, true))
        }
    }
}

fn content_range(range: &std::ops::Range<u64>, total: u64) -> Option<String> {
    (range.end > range.start).then(|| format!("bytes {}-{}/{total}", range.start, range.end - 1))
}

pub(crate) async fn get(
    rooms: &Rooms,
    request: S3Request<GetObjectInput>,
) -> S3Result<S3Response<GetObjectOutput>> {
    let input = request.input;
    check_owner(&input.expected_bucket_owner, &rooms.settings.account_id)?;
    check_version(&input.version_id)?;
    refuse_customer_key!(input);
    let (file, found, record) = open_sound(rooms, &input.bucket, &input.key).await?;
    let conditions = Conditions {
        if_match: input.if_match.as_ref(),
        if_none_match: input.if_none_match.as_ref(),
        modified_since: input.if_modified_since.as_ref(),
        unmodified_since: input.if_unmodified_since.as_ref(),
    };
    let (range, partial) =
        readable(&conditions, input.range.as_ref(), input.part_number, &found, &record)?;
    let length = range.end - range.start;
    let with_sums = input.checksum_mode.is_some();
    let headers = record.headers.clone();
    let mut output = GetObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        body: Some(read_stream(file, range.clone()).await?),
        content_length: length_i64(length),
        content_range: if partial { content_range(&range, found.meta.bytes) } else { None },
        content_type: Some(record.content_type()),
        cache_control: headers.cache_control,
        content_disposition: headers.content_disposition,
        content_encoding: headers.content_encoding,
        content_language: headers.content_language,
        expires: headers.expires,
        e_tag: Some(record.etag()),
        last_modified: Some(wire_time(found.meta.modified_at)),
        metadata: wire_metadata(&record),
        parts_count: parts_count(input.part_number, &record),
        tag_count: tag_count(&record),
        ..Default::default()
    };
    if with_sums {
        let sums = sums_read(input.part_number, partial, &record);
        output.checksum_type = record.sums.kind().filter(|_| !sums.is_empty());
        set_sums!(output, sums);
    }
    let status = if partial { http::StatusCode::PARTIAL_CONTENT } else { http::StatusCode::OK };
    Ok(S3Response::with_status(output, status))
}

/// The checksums of what is read: of the whole or of a part, and of no other stretch.
fn sums_read(part: Option<i32>, partial: bool, record: &Record) -> Sums {
    match part.and_then(|part| usize::try_from(part).ok()?.checked_sub(1)) {
        Some(index) if !record.parts.is_empty() => record.sums_of_part(index),
        None if partial => Sums::default(),
        _ => record.sums.clone(),
    }
}

fn parts_count(asked: Option<i32>, record: &Record) -> Option<i32> {
    asked?;
    (!record.parts.is_empty()).then(|| i32::try_from(record.parts.len()).ok()).flatten()
}

fn tag_count(record: &Record) -> Option<i32> {
    (!record.tags.is_empty()).then(|| i32::try_from(record.tags.len()).ok()).flatten()
}

/// A stretch of a file as a body; a piece at a time is in memory.
async fn read_stream(mut file: File, range: std::ops::Range<u64>) -> S3Result<StreamingBlob> {
    let total = range.end - range.start;
    let (first, file) = blocking(move || {
        if range.start > 0 {
            file.seek(SeekFrom::Start(range.start)).map_err(unreadable)?;
        }
        let first = read_piece(&mut file, total).map_err(unreadable)?;
        Ok((first, file))
    })
    .await?;
    let left = total - first.len() as u64;
    if left == 0 {
        return Ok(StreamingBlob::from(s3s::Body::from(first)));
    }
    let rest = futures::stream::try_unfold((file, left), |(mut file, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let read = tokio::task::spawn_blocking(move || {
            read_piece(&mut file, left).map(|piece| (piece, file))
        });
        let (piece, file) = read.await.map_err(std::io::Error::other)??;
        let left = left - piece.len() as u64;
        Ok::<_, std::io::Error>(Some((piece, (file, left))))
    });
    let first = futures::stream::once(futures::future::ready(Ok(first)));
    Ok(StreamingBlob::wrap(Box::pin(futures::StreamExt::chain(first, rest))))
}

fn unreadable(cause: std::io::Error) -> Fail {
    Fail(of_room(base::Error::io("read an object", cause)))
}

fn read_piece(file: &mut File, left: u64) -> std::io::Result<Bytes> {
    let length = usize::try_from(left).unwrap_or(READ_BYTES).min(READ_BYTES);
    let mut piece = Vec::with_capacity(length);
    file.take(length as u64).read_to_end(&mut piece)?;
    if piece.len() != length {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(piece.into())
}

pub(crate) async fn head(
    rooms: &Rooms,
    request: S3Request<HeadObjectInput>,
) -> S3Result<S3Response<HeadObjectOutput>> {
    let input = request.input;
    check_owner(&input.expected_bucket_owner, &rooms.settings.account_id)?;
    check_version(&input.version_id)?;
    refuse_customer_key!(input);
    let (_, found, record) = open(rooms, &input.bucket, &input.key).await?;
    let conditions = Conditions {
        if_match: input.if_match.as_ref(),
        if_none_match: input.if_none_match.as_ref(),
        modified_since: input.if_modified_since.as_ref(),
        unmodified_since: input.if_unmodified_since.as_ref(),
    };
    let (range, partial) =
        readable(&conditions, input.range.as_ref(), input.part_number, &found, &record)?;
    let headers = record.headers.clone();
    let mut output = HeadObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        content_length: length_i64(range.end - range.start),
        content_range: if partial { content_range(&range, found.meta.bytes) } else { None },
        content_type: Some(input.response_content_type.unwrap_or_else(|| record.content_type())),
        cache_control: input.response_cache_control.or(headers.cache_control),
        content_disposition: input.response_content_disposition.or(headers.content_disposition),
        content_encoding: input.response_content_encoding.or(headers.content_encoding),
        content_language: input.response_content_language.or(headers.content_language),
        expires: input.response_expires.or(headers.expires),
        e_tag: Some(record.etag()),
        last_modified: Some(wire_time(found.meta.modified_at)),
        metadata: wire_metadata(&record),
        parts_count: parts_count(input.part_number, &record),
        ..Default::default()
    };
    if input.checksum_mode.is_some() {
        let sums = sums_read(input.part_number, partial, &record);
        output.checksum_type = record.sums.kind().filter(|_| !sums.is_empty());
        set_sums!(output, sums);
    }
    let status = if partial { http::StatusCode::PARTIAL_CONTENT } else { http::StatusCode::OK };
    let mut response = S3Response::with_status(output, status);
    // The protocol crate has no field for it yet.
    if let Some(count) = tag_count(&record) {
        response.headers.insert("x-amz-tagging-count", http::HeaderValue::from(count));
    }
    Ok(response)
}

/// The bucket and key of a copy's source.
pub(crate) fn source_of(source: &CopySource) -> S3Result<(String, String)> {
    match source {
        CopySource::Bucket { bucket, key, version_id } => {
            check_version(&version_id.as_deref().map(str::to_owned))?;
            Ok((bucket.to_string(), key.to_string()))
        }
        _ => Err(unsupported("x-amz-copy-source", "access points; name it as bucket/key")),
    }
}

/// Copies a stretch of a file into a draft with the digests asked for.
pub(crate) fn copy_bytes(
    rooms: &Rooms,
    mut file: File,
    range: std::ops::Range<u64>,
    algorithms: &[String],
) -> Result<(objects::Draft, [u8; 16], Sums), Fail> {
    let mut draft = rooms.buckets.draft()?;
    let mut digests = Digests::new(algorithms.iter().map(String::as_str));
    file.seek(SeekFrom::Start(range.start)).map_err(unreadable)?;
    let mut left = range.end - range.start;
    while left > 0 {
        let piece = read_piece(&mut file, left).map_err(unreadable)?;
        digests.update(&piece);
        draft.write(&piece)?;
        left -= piece.len() as u64;
    }
    let (md5, sums, _) = digests.finish();
    Ok((draft, md5, sums))
}

pub(crate) async fn copy(
    rooms: &Rooms,
    request: S3Request<CopyObjectInput>,
) -> S3Result<S3Response<CopyObjectOutput>> {
    let input = request.input;
    let account = &rooms.settings.account_id;
    check_owner(&input.expected_bucket_owner, account)?;
    check_owner(&input.expected_source_bucket_owner, account)?;
    refuse_in_write!(input);
    refuse_source_key(
        &input.copy_source_sse_customer_algorithm,
        &input.copy_source_sse_customer_key,
        &input.copy_source_sse_customer_key_md5,
    )?;
    let (bucket, key) = (input.bucket.clone(), input.key.clone());
    let (from_bucket, from_key) = source_of(&input.copy_source)?;
    rooms.need_bucket(&bucket)?;
    let (file, found, before) = open_sound(rooms, &from_bucket, &from_key).await?;
    if found.meta.bytes > PUT_BYTES_MAX {
        return Err(s3_error!(
            InvalidRequest,
            "The specified copy source is larger than the maximum allowable size for a copy \
             source: {PUT_BYTES_MAX}"
        ));
    }
    Conditions {
        if_match: input.copy_source_if_match.as_ref(),
        if_none_match: input.copy_source_if_none_match.as_ref(),
        modified_since: input.copy_source_if_modified_since.as_ref(),
        unmodified_since: input.copy_source_if_unmodified_since.as_ref(),
    }
    .for_copy(&found, &before)?;

    let replaces = replaces(
        input.metadata_directive.as_ref().map(MetadataDirective::as_str),
        "x-amz-metadata-directive",
    )?;
    let retags = replaces_tags(&input)?;
    let itself = (from_bucket.as_str(), from_key.as_str()) == (bucket.as_str(), key.as_str());
    if itself && !replaces && !retags {
        return Err(s3_error!(
            InvalidRequest,
            "This copy request is illegal because it is trying to copy an object to itself \
             without changing the object's metadata, storage class, website redirect location \
             or encryption attributes."
        ));
    }
    let headers = if replaces { headers_of!(input) } else { before.headers.clone() };
    let tags = match retags {
        true => tags::of_header(input.tagging.as_deref())?,
        false => before.tags.clone(),
    };
    let algorithms = copy_algorithms(input.checksum_algorithm.as_ref(), &before);
    let this = rooms.clone();
    let (record, meta) = blocking(move || {
        let (draft, md5, sums) = copy_bytes(&this, file, 0..found.meta.bytes, &algorithms)?;
        let record = Record { etag: hex(&md5), headers, tags, sums, ..Record::default() };
        let meta =
            this.buckets.publish::<Fail>(draft, &bucket, &key, &record.bytes(), |_| Ok(()))?;
        Ok((record, meta))
    })
    .await?;
    let mut result = CopyObjectResult {
        checksum_type: record.sums.kind(),
        e_tag: Some(record.etag()),
        last_modified: Some(wire_time(meta.modified_at)),
        ..Default::default()
    };
    set_sums!(result, record.sums);
    Ok(S3Response::new(CopyObjectOutput { copy_object_result: Some(result), ..Default::default() }))
}

/// Whether a part's source is as the copy demands.
pub(crate) fn check_copy_part(
    input: &UploadPartCopyInput,
    found: &Found,
    record: &Record,
) -> S3Result<()> {
    Conditions {
        if_match: input.copy_source_if_match.as_ref(),
        if_none_match: input.copy_source_if_none_match.as_ref(),
        modified_since: input.copy_source_if_modified_since.as_ref(),
        unmodified_since: input.copy_source_if_unmodified_since.as_ref(),
    }
    .for_copy(found, record)
}

pub(crate) fn refuse_source_key(
    algorithm: &Option<String>,
    key: &Option<String>,
    md5: &Option<String>,
) -> S3Result<()> {
    let why = "objects are stored as they are";
    refuse(algorithm, "x-amz-copy-source-server-side-encryption-customer-algorithm", why)?;
    refuse(key, "x-amz-copy-source-server-side-encryption-customer-key", why)?;
    refuse(md5, "x-amz-copy-source-server-side-encryption-customer-key-MD5", why)
}

/// The source's own checksum is computed anew, unless another is asked for.
fn copy_algorithms(asked: Option<&ChecksumAlgorithm>, before: &Record) -> Vec<String> {
    match asked {
        Some(asked) => vec![asked.as_str().to_owned()],
        None => before.sums.values.keys().cloned().collect(),
    }
}

fn replaces(directive: Option<&str>, header: &str) -> S3Result<bool> {
    match directive {
        None | Some("COPY") => Ok(false),
        Some("REPLACE") => Ok(true),
        Some(other) => {
            Err(s3_error!(InvalidArgument, "{header}: {other:?} is neither COPY nor REPLACE"))
        }
    }
}

fn replaces_tags(input: &CopyObjectInput) -> S3Result<bool> {
    let directive = input.tagging_directive.as_ref().map(TaggingDirective::as_str);
    replaces(directive, "x-amz-tagging-directive")
}

pub(crate) async fn delete(
    rooms: &Rooms,
    request: S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    let input = request.input;
    check_owner(&input.expected_bucket_owner, &rooms.settings.account_id)?;
    check_version(&input.version_id)?;
    refuse(&input.mfa, "x-amz-mfa", "objects have no versions")?;
    refuse(
        &input.if_match_last_modified_time,
        "x-amz-if-match-last-modified-time",
        "use If-Match",
    )?;
    refuse(&input.if_match_size, "x-amz-if-match-size", "use If-Match")?;
    let (bucket, key, condition) = (input.bucket, input.key, input.if_match);
    let buckets = rooms.buckets.clone();
    blocking(move || {
        buckets.remove(&bucket, &key, |look| check_write(look, condition.as_ref(), None))
    })
    .await?;
    Ok(S3Response::with_status(DeleteObjectOutput::default(), http::StatusCode::NO_CONTENT))
}

/// S3's bound on the keys of one request.
const DELETE_KEYS_MAX: usize = 1_000;

pub(crate) async fn delete_many(
    rooms: &Rooms,
    request: S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let input = request.input;
    check_owner(&input.expected_bucket_owner, &rooms.settings.account_id)?;
    refuse(&input.mfa, "x-amz-mfa", "objects have no versions")?;
    rooms.need_bucket(&input.bucket)?;
    let Delete { objects, quiet } = input.delete;
    if objects.is_empty() || objects.len() > DELETE_KEYS_MAX {
        return Err(s3_error!(
            MalformedXML,
            "The XML you provided was not well-formed or did not validate against our published \
             schema: name 1 to {DELETE_KEYS_MAX} objects"
        ));
    }
    let (this, bucket) = (rooms.clone(), input.bucket);
    let (deleted, errors) = blocking(move || {
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for object in objects {
            match delete_one(&this, &bucket, &object) {
                Ok(()) => deleted.push(DeletedObject {
                    key: Some(object.key),
                    version_id: object.version_id,
                    ..Default::default()
                }),
                Err(Fail(error)) => errors.push(Error {
                    code: Some(error.code().as_str().to_owned()),
                    key: Some(object.key),
                    message: error.message().map(str::to_owned),
                    version_id: object.version_id,
                }),
            }
        }
        Ok((deleted, errors))
    })
    .await?;
    Ok(S3Response::new(DeleteObjectsOutput {
        deleted: (quiet != Some(true)).then_some(deleted),
        errors: (!errors.is_empty()).then_some(errors),
        ..Default::default()
    }))
}

fn delete_one(rooms: &Rooms, bucket: &str, object: &ObjectIdentifier) -> Result<(), Fail> {
    check_version(&object.version_id)?;
    refuse(&object.last_modified_time, "LastModifiedTime", "use ETag")?;
    refuse(&object.size, "Size", "use ETag")?;
    let condition = object.e_tag.clone().map(ETagCondition::ETag);
    rooms.buckets.remove(bucket, &object.key, |look| {
        match check_write(look, condition.as_ref(), None) {
            // What is absent already is deleted.
            Err(Fail(error)) if error.code().as_str() == "NoSuchKey" => Ok(()),
            other => other,
        }
    })?;
    Ok(())
}

/// Tells a missing bucket from a missing key.
pub(crate) fn absent(rooms: &Rooms, bucket: &str) -> S3Error {
    match rooms.buckets.side_folder(bucket) {
        Ok(_) => no_such_key(),
        Err(_absent) => no_such_bucket(),
    }
}
