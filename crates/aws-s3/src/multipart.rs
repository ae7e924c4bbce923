//! Uploads in parts.
//!
//! ```text
//! <side folder of the bucket>/uploads/<upload id>/upload.json     what was asked
//!                                                /<number>        a part, with its digests
//! ```
//!
//! Completing copies the parts into one file, publishes it, and only then removes them: a
//! crash in between leaves the upload to be completed again. The object remembers the upload it
//! came from, so that a client whose answer was lost may ask again and is told the same. What
//! nobody completes or aborts is swept once nothing was added for [`IDLE_DAYS_MAX`] days.
//!
//! Whatever ends an upload or adds to it holds the upload's lock: of a part, a completion and an
//! abort at the same time, each sees the others' work whole or not at all.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};
use serde::{Deserialize, Serialize};

use crate::bucket::{encoded, wants_url};
use crate::fail::{
    Fail, bad_digest, blocking, check_owner, no_such_upload, refuse, refuse_customer_key,
    refuse_in_write,
};
use crate::object::{
    announced, check_write, copy_bytes, headers_of, refuse_source_key, set_sums, source_of, sums_of,
};
use crate::receive::{Digests, hex, receive};
use crate::record::{ALGORITHMS, Headers, Record, Sums, wire_time};
use crate::service::Rooms;
use crate::tags;

const PART_MAX: i32 = 10_000;
/// What every part but the last must have.
const PART_BYTES_MIN: u64 = 5 * 1024 * 1024;
const UPLOADS: &str = "uploads";
const FILE: &str = "upload.json";
/// How long an upload may rest before its parts are removed.
pub const IDLE_DAYS_MAX: u64 = 7;
const LOCKS: usize = 256;

/// One at a time adds to an upload or ends it.
#[derive(Clone, Debug)]
pub(crate) struct Locks(Arc<[Mutex<()>]>);

impl Locks {
    pub(crate) fn new() -> Self {
        Locks((0..LOCKS).map(|_| Mutex::new(())).collect())
    }

    /// Ids are random, so their bytes are spread already.
    fn hold(&self, folder: &Path) -> MutexGuard<'_, ()> {
        let id = folder.file_name().map(std::ffi::OsStr::as_encoded_bytes).unwrap_or_default();
        let stripe = id
            .iter()
            .take(8)
            .fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
        self.0[stripe % LOCKS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An upload as it was begun.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Upload {
    key: String,
    headers: Headers,
    tags: BTreeMap<String, String>,
    algorithm: Option<String>,
    /// Whether the checksum is of all bytes and not of the parts' checksums.
    full: bool,
}

fn folder(rooms: &Rooms, bucket: &str) -> Result<PathBuf, Fail> {
    Ok(rooms.buckets.side_folder(bucket)?.join(UPLOADS))
}

/// The folder of an upload, and what was asked.
fn find(rooms: &Rooms, bucket: &str, key: &str, id: &str) -> Result<(PathBuf, Upload), Fail> {
    if id.len() != 32 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(no_such_upload().into());
    }
    let folder = folder(rooms, bucket)?.join(id);
    let upload = read(&folder).filter(|upload| upload.key == key).ok_or_else(no_such_upload)?;
    Ok((folder, upload))
}

fn read(folder: &Path) -> Option<Upload> {
    serde_json::from_slice(&std::fs::read(folder.join(FILE)).ok()?).ok()
}

fn number(part: i32) -> S3Result<String> {
    match (1..=PART_MAX).contains(&part) {
        true => Ok(format!("{part:05}")),
        false => Err(s3_error!(
            InvalidArgument,
            "Part number must be an integer between 1 and {PART_MAX}, inclusive"
        )),
    }
}

fn upload_id() -> Result<String, Fail> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|cause| {
        Fail::from(base::Error::internal(format!("no random numbers: {cause}")))
    })?;
    Ok(hex(&bytes))
}

pub(crate) async fn create(
    rooms: &Rooms,
    request: S3Request<CreateMultipartUploadInput>,
) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
    let input = request.input;
    check_owner(&input.expected_bucket_owner, &rooms.settings.account_id)?;
    refuse_in_write!(input);
    let algorithm = input.checksum_algorithm.as_ref().map(|a| a.as_str().to_owned());
    if let Some(algorithm) = &algorithm
        && !ALGORITHMS.contains(&algorithm.as_str())
    {
        return Err(s3_error!(
            InvalidRequest,
            "Checksum algorithm provided is unsupported: {algorithm}"
        ));
    }
    let full = is_full(algorithm.as_deref(), input.checksum_type.as_ref())?;
    let upload = Upload {
        key: input.key.clone(),
        headers: headers_of!(input),
        tags: tags::of_header(input.tagging.as_deref())?,
        algorithm,
        full,
    };
    let (this, bucket) = (rooms.clone(), input.bucket.clone());
    let kind = upload.algorithm.as_ref().map(|_| checksum_type(full));
    let id = blocking(move || {
        let id = upload_id()?;
        let path = folder(&this, &bucket)?.join(&id).join(FILE);
        this.buckets.write_side(&path, &serde_json::to_vec(&upload).unwrap_or_default())?;
        Ok(id)
    })
    .await?;
    Ok(S3Response::new(CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(id),
        checksum_algorithm: input.checksum_algorithm,
        checksum_type: kind,
        ..Default::default()
    }))
}

fn checksum_type(full: bool) -> ChecksumType {
    ChecksumType::from_static(match full {
        true => ChecksumType::FULL_OBJECT,
        false => ChecksumType::COMPOSITE,
    })
}

/// CRC64NVME is always of the whole; hashes are always of the parts.
fn is_full(algorithm: Option<&str>, asked: Option<&ChecksumType>) -> S3Result<bool> {
    let asked = asked.map(ChecksumType::as_str);
    match (algorithm, asked) {
        (None, Some(_)) => Err(s3_error!(
            InvalidRequest,
            "x-amz-checksum-type needs x-amz-checksum-algorithm beside it"
        )),
        (Some(ChecksumAlgorithm::CRC64NVME), Some(ChecksumType::COMPOSITE))
        | (
            Some(ChecksumAlgorithm::SHA1 | ChecksumAlgorithm::SHA256),
            Some(ChecksumType::FULL_OBJECT),
        ) => Err(s3_error!(
            InvalidRequest,
            "The {} checksum type cannot be used with the {} checksum algorithm.",
            asked.unwrap_or_default(),
            algorithm.unwrap_or_default().to_lowercase()
        )),
        (Some(ChecksumAlgorithm::CRC64NVME), _) => Ok(true),
        (_, Some(ChecksumType::FULL_OBJECT)) => Ok(true),
        (_, None | Some(ChecksumType::COMPOSITE)) => Ok(false),
        (_, Some(other)) => {
            Err(s3_error!(InvalidRequest, "x-amz-checksum-type: unknown value {other:?}"))
        }
    }
}

pub(crate) async fn upload(
    rooms: &Rooms,
    request: S3Request<UploadPartInput>,
) -> S3Result<S3Response<UploadPartOutput>> {
    let mut input = request.input;
    check_owner(&input.expected_bucket_owner, &rooms.settings.account_id)?;
    refuse_customer_key!(input);
    let name = number(input.part_number)?;
    let (this, bucket, key, id) =
        (rooms.clone(), input.bucket.clone(), input.key.clone(), input.upload_id.clone());
    let (folder, begun) = blocking(move || find(&this, &bucket, &key, &id)).await?;
    let asked = begun.algorithm.clone().map(ChecksumAlgorithm::from);
    let mut announced = announced(
        input.content_length,
        input.content_md5.take(),
        sums_of!(input),
        asked.as_ref(),
        &request.headers,
        request.trailing_headers,
    )?;
    announced.algorithm = begun.algorithm;
    let received = receive(&rooms.buckets, input.body.take(), announced).await?;
    let record = Record { etag: received.md5, sums: received.sums, ..Record::default() };
    let mut output = UploadPartOutput { e_tag: Some(record.etag()), ..Default::default() };
    set_sums!(output, record.sums);
    let (this, draft) = (rooms.clone(), received.draft);
    blocking(move || {
        let _held = this.uploads.hold(&folder);
        // An upload that ended meanwhile must not come back as a folder.
        read(&folder).ok_or_else(no_such_upload)?;
        Ok(this.buckets.publish_side(&draft, &folder.join(name), &record.bytes())?)
    })
    .await?;
    Ok(S3Response::new(output))
}

pub(crate) async fn upload_copy(
    rooms: &Rooms,
    request: S3Request<UploadPartCopyInput>,
) -> S3Result<S3Response<UploadPartCopyOutput>> {
    let input = request.input;
    let account = &rooms.settings.account_id;
    check_owner(&input.expected_bucket_owner, account)?;
    check_owner(&input.expected_source_bucket_owner, account)?;
    refuse_customer_key!(input);
    refuse_source_key(
        &input.copy_source_sse_customer_algorithm,
        &input.copy_source_sse_customer_key,
        &input.copy_source_sse_customer_key_md5,
    )?;
    let name = number(input.part_number)?;
    let (from_bucket, from_key) = source_of(&input.copy_source)?;
    let (file, found, before) = crate::object::open_sound(rooms, &from_bucket, &from_key).await?;
    crate::object::check_copy_part(&input, &found, &before)?;
    let range = match &input.copy_source_range {
        None => 0..found.meta.bytes,
        Some(text) => copy_range(text, found.meta.bytes)?,
    };
    let this = rooms.clone();
    let record = blocking(move || {
        let (folder, begun) = find(&this, &input.bucket, &input.key, &input.upload_id)?;
        let algorithms: Vec<String> = begun.algorithm.into_iter().collect();
        let (draft, md5, sums) = copy_bytes(&this, file, range, &algorithms)?;
        let record = Record { etag: hex(&md5), sums, ..Record::default() };
        let _held = this.uploads.hold(&folder);
        read(&folder).ok_or_else(no_such_upload)?;
        this.buckets.publish_side(&draft, &folder.join(name), &record.bytes())?;
        Ok(record)
    })
    .await?;
    let mut result = CopyPartResult {
        e_tag: Some(record.etag()),
        last_modified: Some(Timestamp::from(time::OffsetDateTime::now_utc())),
        ..Default::default()
    };
    set_sums!(result, record.sums);
    Ok(S3Response::new(UploadPartCopyOutput {
        copy_part_result: Some(result),
        ..Default::default()
    }))
}

fn copy_range(text: &str, total: u64) -> S3Result<std::ops::Range<u64>> {
    match Range::parse(text) {
        Ok(Range::Int { first, last: Some(last) }) if first <= last && last < total => {
            Ok(first..last + 1)
        }
        Ok(Range::Int { first, last: Some(last) }) if first <= last => Err(s3_error!(
            InvalidRange,
            "Range specified is not valid for source object of size: {total}"
        )),
        _ => Err(s3_error!(
            InvalidArgument,
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first \
             and last are the zero-based offsets of the first and last bytes to copy, within \
             the source's {total} bytes"
        )),
    }
}

/// A part that is there.
struct Part {
    file: File,
    bytes: u64,
    at: base::Timestamp,
    record: Record,
}

fn part(rooms: &Rooms, folder: &Path, number: i32) -> Result<Option<Part>, Fail> {
    let Some((file, found)) = rooms.buckets.open_side(&folder.join(format!("{number:05}")))? else {
        return Ok(None);
    };
    let record = Record::of(&found);
    Ok(Some(Part { file, bytes: found.meta.bytes, at: found.meta.modified_at, record }))
}

/// The parts to join, checked: order, presence, ETags, checksums, sizes.
fn chosen(
    rooms: &Rooms,
    folder: &Path,
    begun: &Upload,
    asked: &[CompletedPart],
) -> Result<Vec<Part>, Fail> {
    let invalid = || {
        s3_error!(
            InvalidPart,
            "One or more of the specified parts could not be found. The part may not have been \
             uploaded, or the specified entity tag may not match the part's entity tag."
        )
    };
    if asked.is_empty() {
        return Err(s3_error!(
            MalformedXML,
            "The XML you provided was not well-formed or did not validate against our published schema"
        )
        .into());
    }
    let numbers: Vec<i32> = asked.iter().map(|part| part.part_number.unwrap_or_default()).collect();
    if !numbers.is_sorted_by(|before, after| before < after) {
        let text = "The list of parts was not in ascending order. Parts must be ordered by part \
                    number.";
        return Err(s3_error!(InvalidPartOrder, "{text}").into());
    }
    let mut parts = Vec::new();
    for (index, told) in asked.iter().enumerate() {
        let number = told.part_number.unwrap_or_default();
        let part = part(rooms, folder, number)?.ok_or_else(invalid)?;
        let etag = told.e_tag.as_ref().map(|etag| etag.value().trim_matches('"').to_owned());
        if etag.is_none_or(|etag| etag != part.record.etag) {
            return Err(invalid().into());
        }
        for (algorithm, sum) in &sums_of!(told).values {
            if part.record.sums.values.get(algorithm) != Some(sum) {
                return Err(invalid().into());
            }
        }
        if index + 1 < asked.len() && part.bytes < PART_BYTES_MIN {
            return Err(s3_error!(
                EntityTooSmall,
                "Your proposed upload is smaller than the minimum allowed size: part {number} \
                 has {} bytes, every part but the last needs {PART_BYTES_MIN}",
                part.bytes
            )
            .into());
        }
        if begun.algorithm.as_ref().is_some_and(|a| !part.record.sums.values.contains_key(a)) {
            return Err(invalid().into());
        }
        parts.push(part);
    }
    Ok(parts)
}

/// Joins the parts; the record of the whole.
fn join(
    rooms: &Rooms,
    begun: &Upload,
    id: &str,
    mut parts: Vec<Part>,
) -> Result<(objects::Draft, Record), Fail> {
    let algorithm = begun.algorithm.as_deref();
    let mut draft = rooms.buckets.draft()?;
    let mut whole = Digests::new(algorithm.into_iter().filter(|_| begun.full));
    let mut of_parts = Digests::new(algorithm.into_iter().filter(|_| !begun.full));
    let mut of_etags = Digests::new(std::iter::empty());
    for part in &mut parts {
        of_etags.update(&unhex(&part.record.etag));
        let sum = algorithm.and_then(|a| part.record.sums.get(a));
        of_parts.update(&sum.and_then(|sum| crate::base64::decode(&sum)).unwrap_or_default());
        let failed = |cause| base::Error::io("join the parts of an upload", cause);
        if begun.full && algorithm.is_some() {
            let mut piece = vec![0_u8; 512 * 1024];
            loop {
                let length = std::io::Read::read(&mut part.file, &mut piece).map_err(failed)?;
                if length == 0 {
                    break;
                }
                whole.update(&piece[..length]);
                draft.write(&piece[..length])?;
            }
        } else {
            // The kernel moves the bytes.
            std::io::copy(&mut part.file, draft.file()).map_err(failed)?;
        }
    }
    let count = parts.len();
    let mut sums = Sums::default();
    if let Some(algorithm) = algorithm {
        match begun.full {
            true => sums.set(algorithm, whole.finish().1.get(algorithm)),
            false => {
                let sum = of_parts.finish().1.get(algorithm);
                sums.set(algorithm, sum.map(|sum| format!("{sum}-{count}")));
            }
        }
    }
    let record = Record {
        etag: format!("{}-{count}", hex(&of_etags.finish().0)),
        headers: begun.headers.clone(),
        tags: begun.tags.clone(),
        sums,
        parts: parts.iter().map(|part| part.bytes).collect(),
        part_sums: match algorithm {
            Some(algorithm) => {
                parts.iter().filter_map(|part| part.record.sums.get(algorithm)).collect()
            }
            None => Vec::new(),
        },
        upload: id.to_owned(),
    };
    Ok((draft, record))
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks_exact(2);
    digits.filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

pub(crate) async fn complete(
    rooms: &Rooms,
    request: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
    let input = request.input;
    check_owner(&input.expected_bucket_owner, &rooms.settings.account_id)?;
    refuse_customer_key!(input);
    let host = request.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
    let location = format!("http://{}/{}/{}", host.unwrap_or_default(), input.bucket, input.key);
    let (this, bucket, key) = (rooms.clone(), input.bucket.clone(), input.key.clone());
    let record = blocking(move || {
        let id = &input.upload_id;
        let _held = this.uploads.hold(Path::new(id));
        let (folder, begun) = match find(&this, &bucket, &key, id) {
            Ok(found) => found,
            Err(absent) => return completed(&this, &bucket, &key, id)?.ok_or(absent),
        };
        // A crash came between the object and the end of the upload.
        if let Some(record) = completed(&this, &bucket, &key, id)? {
            discard(&folder)?;
            return Ok(record);
        }
        let asked = input.multipart_upload.as_ref().and_then(|m| m.parts.clone());
        let parts = chosen(&this, &folder, &begun, &asked.unwrap_or_default())?;
        let bytes: u64 = parts.iter().map(|part| part.bytes).sum();
        if input.mpu_object_size.is_some_and(|told| u64::try_from(told) != Ok(bytes)) {
            return Err(s3_error!(
                InvalidRequest,
                "The provided 'x-amz-mp-object-size' header does not match what was computed: {bytes}"
            )
            .into());
        }
        if let Some(told) = &input.checksum_type
            && told.as_str() != checksum_type(begun.full).as_str()
        {
            return Err(s3_error!(InvalidRequest, "x-amz-checksum-type is not what the upload began with").into());
        }
        let (draft, record) = join(&this, &begun, id, parts)?;
        for (algorithm, told) in &sums_of!(input).values {
            // The number of parts may be left out.
            let ours = record.sums.get(algorithm).unwrap_or_default();
            if *told != ours && Some(told.as_str()) != ours.split('-').next() {
                return Err(bad_digest(algorithm).into());
            }
        }
        let (if_match, if_none_match) = (input.if_match, input.if_none_match);
        this.buckets.publish(draft, &bucket, &key, &record.bytes(), |look| {
            check_write(look, if_match.as_ref(), if_none_match.as_ref())
        })?;
        discard(&folder)?;
        Ok(record)
    })
    .await?;
    let mut output = CompleteMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        e_tag: Some(record.etag()),
        location: Some(location),
        checksum_type: record.sums.kind(),
        ..Default::default()
    };
    set_sums!(output, record.sums);
    Ok(S3Response::new(output))
}

/// The object that an upload became, as long as it is there.
fn completed(rooms: &Rooms, bucket: &str, key: &str, id: &str) -> Result<Option<Record>, Fail> {
    let found = rooms.buckets.find(bucket, key)?;
    Ok(found.map(|found| Record::of(&found)).filter(|record| !id.is_empty() && record.upload == id))
}

/// Removes what nobody completed or aborted and nothing was added to for [`IDLE_DAYS_MAX`] days
/// before `now`; how many uploads that were.
pub(crate) fn sweep(rooms: &Rooms, now: base::Timestamp) -> base::Result<usize> {
    let now = UNIX_EPOCH + Duration::from_millis(u64::try_from(now.millis()).unwrap_or_default());
    let idle = Duration::from_secs(IDLE_DAYS_MAX * 24 * 60 * 60);
    let mut swept = 0;
    for bucket in rooms.buckets.list_buckets()? {
        // Removed since, or it lies elsewhere: then it has no uploads here.
        let Ok(side) = rooms.buckets.side_folder(&bucket) else { continue };
        let Ok(uploads) = std::fs::read_dir(side.join(UPLOADS)) else { continue };
        for upload in uploads.flatten() {
            let folder = upload.path();
            let _held = rooms.uploads.hold(&folder);
            // A folder changes whenever a part is put into it.
            let changed = std::fs::metadata(&folder).and_then(|meta| meta.modified());
            let Ok(changed) = changed else { continue };
            if now.duration_since(changed).is_ok_and(|since| since > idle) {
                discard(&folder).map_err(|Fail(cause)| base::Error::internal(cause.to_string()))?;
                tracing::info!(bucket, ?folder, "swept an upload that nobody completed");
                swept += 1;
            }
        }
    }
    Ok(swept)
}

/// Ends an upload: first what names it, so that a crash leaves none half there.
fn discard(folder: &Path) -> Result<(), Fail> {
    let failed = |cause| base::Error::io("end an upload", cause);
    match std::fs::remove_file(folder.join(FILE)) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
            return Err(failed(cause).into());
        }
        _ => {}
    }
    match std::fs::remove_dir_all(folder) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => Err(failed(cause).into()),
        _ => Ok(()),
    }
}

pub(crate) async fn abort(
    rooms: &Rooms,
    request: S3Request<AbortMultipartUploadInput>,
) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
    let input = request.input;
    check_owner(&input.expected_bucket_owner, &rooms.settings.account_id)?;
    refuse(
        &input.if_match_initiated_time,
        "x-amz-if-match-initiated-time",
        "for directory buckets",
    )?;
    let this = rooms.clone();
    blocking(move || {
        let _held = this.uploads.hold(Path::new(&input.upload_id));
        let (folder, _) = find(&this, &input.bucket, &input.key, &input.upload_id)?;
        discard(&folder)
    })
    .await?;
    let output = AbortMultipartUploadOutput::default();
    Ok(S3Response::with_status(output, http::StatusCode::NO_CONTENT))
}

pub(crate) async fn list_parts(
    rooms: &Rooms,
    request: S3Request<ListPartsInput>,
) -> S3Result<S3Response<ListPartsOutput>> {
    let input = request.input;
    check_owner(&input.expected_bucket_owner, &rooms.settings.account_id)?;
    refuse_customer_key!(input);
    let max = input.max_parts.unwrap_or(1_000).clamp(0, 1_000);
    let after = input.part_number_marker.unwrap_or_default();
    let this = rooms.clone();
    let (bucket, key, id) = (input.bucket.clone(), input.key.clone(), input.upload_id.clone());
    let (begun, parts, more) = blocking(move || {
        let (folder, begun) = find(&this, &bucket, &key, &id)?;
        let failed = |cause| base::Error::io("list the parts of an upload", cause);
        let mut numbers: Vec<i32> = std::fs::read_dir(&folder)
            .map_err(failed)?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|number| *number > after)
            .collect();
        numbers.sort_unstable();
        let page = usize::try_from(max).unwrap_or_default();
        let more = numbers.len() > page;
        numbers.truncate(page);
        let mut parts = Vec::new();
        for number in numbers {
            let Some(part) = part(&this, &folder, number)? else { continue };
            let mut told = s3s::dto::Part {
                e_tag: Some(part.record.etag()),
                last_modified: Some(wire_time(part.at)),
                part_number: Some(number),
                size: i64::try_from(part.bytes).ok(),
                ..Default::default()
            };
            set_sums!(told, part.record.sums);
            parts.push(told);
        }
        Ok((begun, parts, more))
    })
    .await?;
    let owner = rooms.owner();
    let initiator = Initiator { display_name: owner.display_name.clone(), id: owner.id.clone() };
    Ok(S3Response::new(ListPartsOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(input.upload_id),
        checksum_type: begun.algorithm.as_ref().map(|_| checksum_type(begun.full)),
        checksum_algorithm: begun.algorithm.map(ChecksumAlgorithm::from),
        initiator: Some(initiator),
        owner: Some(owner),
        is_truncated: Some(more),
        max_parts: Some(max),
        part_number_marker: Some(after),
        next_part_number_marker: parts.last().and_then(|part| part.part_number),
        parts: Some(parts),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        ..Default::default()
    }))
}

/// All uploads of a bucket by key and id, with when they began.
fn uploads(rooms: &Rooms, bucket: &str) -> Result<Vec<(String, String, Upload, Timestamp)>, Fail> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder(rooms, bucket)?) else { return Ok(found) };
    for entry in entries.flatten() {
        let (path, Ok(id)) = (entry.path(), entry.file_name().into_string()) else { continue };
        let Some(upload) = read(&path) else { continue };
        let begun = std::fs::metadata(path.join(FILE)).and_then(|meta| meta.modified());
        let Ok(begun) = begun else { continue };
        found.push((upload.key.clone(), id, upload, Timestamp::from(begun)));
    }
    found.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    Ok(found)
}

pub(crate) async fn list_uploads(
    rooms: &Rooms,
    request: S3Request<ListMultipartUploadsInput>,
) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
    let input = request.input;
    check_owner(&input.expected_bucket_owner, &rooms.settings.account_id)?;
    let url = wants_url(input.encoding_type.as_ref())?;
    let (this, bucket) = (rooms.clone(), input.bucket.clone());
    let found = blocking(move || uploads(&this, &bucket)).await?;
    let max = input.max_uploads.unwrap_or(1_000).clamp(0, 1_000);
    let page = usize::try_from(max).unwrap_or_default();
    let prefix = input.prefix.clone().unwrap_or_default();
    let key_marker = input.key_marker.clone().unwrap_or_default();
    let id_marker = input.upload_id_marker.clone().filter(|_| !key_marker.is_empty());
    let delimiter = input.delimiter.clone().filter(|delimiter| !delimiter.is_empty());
    let owner = rooms.owner();
    let (mut told, mut prefixes, mut last, mut more) = (Vec::new(), Vec::new(), None, false);
    for (key, id, upload, begun) in found {
        let after = match &id_marker {
            Some(marker) => (&key, &id) > (&key_marker, marker),
            None => key > key_marker,
        };
        let Some(rest) = key.strip_prefix(&prefix).filter(|_| after) else { continue };
        let end = delimiter.as_ref().and_then(|d| Some(rest.find(d.as_str())? + d.len()));
        let rolled = end.and_then(|end| rest.get(..end)).map(|rest| format!("{prefix}{rest}"));
        if let Some(rolled) = &rolled
            && (prefixes.last() == Some(rolled) || key_marker.starts_with(rolled.as_str()))
        {
            continue;
        }
        if told.len() + prefixes.len() >= page {
            more = true;
            break;
        }
        match rolled {
            Some(rolled) => {
                last = Some((rolled.clone(), String::new()));
                prefixes.push(rolled);
            }
            None => {
                last = Some((key.clone(), id.clone()));
                told.push(MultipartUpload {
                    checksum_type: upload.algorithm.as_ref().map(|_| checksum_type(upload.full)),
                    checksum_algorithm: upload.algorithm.map(ChecksumAlgorithm::from),
                    initiated: Some(begun),
                    initiator: Some(Initiator {
                        display_name: owner.display_name.clone(),
                        id: owner.id.clone(),
                    }),
                    key: Some(encoded(&key, url)),
                    owner: Some(owner.clone()),
                    storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
                    upload_id: Some(id),
                });
            }
        }
    }
    let (next_key, next_id) = last.filter(|_| more).unzip();
    let prefixes = prefixes
        .into_iter()
        .map(|prefix| CommonPrefix { prefix: Some(encoded(&prefix, url)) })
        .collect();
    Ok(S3Response::new(ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        common_prefixes: Some(prefixes),
        delimiter: input.delimiter.map(|delimiter| encoded(&delimiter, url)),
        encoding_type: input.encoding_type,
        is_truncated: Some(more),
        key_marker: Some(encoded(&key_marker, url)),
        max_uploads: Some(max),
        next_key_marker: next_key.map(|key: String| encoded(&key, url)),
        next_upload_id_marker: next_id,
        prefix: Some(encoded(&prefix, url)),
        request_charged: None,
        upload_id_marker: input.upload_id_marker,
        uploads: Some(told),
    }))
}
