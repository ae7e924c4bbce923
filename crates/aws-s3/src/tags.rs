//! Tags of objects and buckets.

use std::collections::BTreeMap;

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};
use serde::{Deserialize, Serialize};

use crate::fail::{Fail, blocking, check_owner, check_version};
use crate::object::absent;
use crate::record::Record;
use crate::service::Rooms;

const OBJECT_TAGS_MAX: usize = 10;
const BUCKET_TAGS_MAX: usize = 50;
const KEY_CHARS_MAX: usize = 128;
const VALUE_CHARS_MAX: usize = 256;

type Tags = BTreeMap<String, String>;

fn checked(tags: Vec<(String, String)>, max: usize, whose: &str) -> S3Result<Tags> {
    if tags.len() > max {
        return Err(crate::fail::custom(
            "BadRequest",
            http::StatusCode::BAD_REQUEST,
            format!("{whose} tags cannot be greater than {max}"),
        ));
    }
    let mut kept = Tags::new();
    for (key, value) in tags {
        if key.is_empty() || key.chars().count() > KEY_CHARS_MAX || key.starts_with("aws:") {
            return Err(s3_error!(
                InvalidTag,
                "The TagKey you have provided is invalid: {key:?} (1 to {KEY_CHARS_MAX} \
                 characters, not beginning with aws:)"
            ));
        }
        if value.chars().count() > VALUE_CHARS_MAX {
            return Err(s3_error!(
                InvalidTag,
                "The TagValue you have provided is invalid: longer than {VALUE_CHARS_MAX}"
            ));
        }
        if kept.insert(key.clone(), value).is_some() {
            return Err(s3_error!(
                InvalidTag,
                "Cannot provide multiple Tags with the same key: {key:?}"
            ));
        }
    }
    Ok(kept)
}

/// The tags of an x-amz-tagging header, which is written like a query.
pub(crate) fn of_header(header: Option<&str>) -> S3Result<Tags> {
    let text = |part: &str| {
        let part = part.replace('+', " ");
        let decoded = percent_encoding::percent_decode_str(&part).decode_utf8();
        decoded.map(|text| text.into_owned()).map_err(|_not_text| {
            s3_error!(InvalidArgument, "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name duplicates.")
        })
    };
    let mut tags = Vec::new();
    for pair in header.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        tags.push((text(key)?, text(value)?));
    }
    checked(tags, OBJECT_TAGS_MAX, "Object")
}

fn of_wire(tagging: Tagging, max: usize, whose: &str) -> S3Result<Tags> {
    let pairs = tagging
        .tag_set
        .into_iter()
        .map(|tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default()))
        .collect();
    checked(pairs, max, whose)
}

fn wire(tags: Tags) -> TagSet {
    tags.into_iter().map(|(key, value)| Tag { key: Some(key), value: Some(value) }).collect()
}

pub(crate) async fn get_object(
    rooms: &Rooms,
    request: S3Request<GetObjectTaggingInput>,
) -> S3Result<S3Response<GetObjectTaggingOutput>> {
    let input = request.input;
    check_owner(&input.expected_bucket_owner, &rooms.settings.account_id)?;
    check_version(&input.version_id)?;
    let this = rooms.clone();
    let tags = blocking(move || {
        let found = this.buckets.find(&input.bucket, &input.key)?;
        let found = found.ok_or_else(|| absent(&this, &input.bucket))?;
        Ok(Record::of(&found).tags)
    })
    .await?;
    let output = GetObjectTaggingOutput { tag_set: wire(tags), version_id: None };
    Ok(S3Response::new(output))
}

/// Gives an object other tags; everything else of it stays.
async fn change(rooms: &Rooms, bucket: String, key: String, tags: Tags) -> S3Result<()> {
    let this = rooms.clone();
    blocking(move || {
        let changed = this.buckets.change_attributes::<Fail>(&bucket, &key, |found| {
            Ok(Record { tags, ..Record::of(found) }.bytes())
        })?;
        changed.ok_or_else(|| absent(&this, &bucket).into())
    })
    .await
}

pub(crate) async fn put_object(
    rooms: &Rooms,
    request: S3Request<PutObjectTaggingInput>,
) -> S3Result<S3Response<PutObjectTaggingOutput>> {
    let input = request.input;
    check_owner(&input.expected_bucket_owner, &rooms.settings.account_id)?;
    check_version(&input.version_id)?;
    let tags = of_wire(input.tagging, OBJECT_TAGS_MAX, "Object")?;
    change(rooms, input.bucket, input.key, tags).await?;
    Ok(S3Response::new(PutObjectTaggingOutput::default()))
}

pub(crate) async fn delete_object(
    rooms: &Rooms,
    request: S3Request<DeleteObjectTaggingInput>,
) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
    let input = request.input;
    check_owner(&input.expected_bucket_owner, &rooms.settings.account_id)?;
    check_version(&input.version_id)?;
    change(rooms, input.bucket, input.key, Tags::new()).await?;
    let output = DeleteObjectTaggingOutput::default();
    Ok(S3Response::with_status(output, http::StatusCode::NO_CONTENT))
}

/// What is kept of a bucket besides its objects.
#[derive(Default, Serialize, Deserialize)]
struct BucketRow {
    tags: Tags,
}

const BUCKET_FILE: &str = "bucket.json";

fn read_bucket(rooms: &Rooms, bucket: &str) -> Result<BucketRow, Fail> {
    let path = rooms.buckets.side_folder(bucket)?.join(BUCKET_FILE);
    let bytes = std::fs::read(path).unwrap_or_default();
    Ok(serde_json::from_slice(&bytes).unwrap_or_default())
}

fn write_bucket(rooms: &Rooms, bucket: &str, row: &BucketRow) -> Result<(), Fail> {
    let path = rooms.buckets.side_folder(bucket)?.join(BUCKET_FILE);
    let bytes = serde_json::to_vec(row).unwrap_or_default();
    Ok(rooms.buckets.write_side(&path, &bytes)?)
}

pub(crate) async fn get_bucket(
    rooms: &Rooms,
    request: S3Request<GetBucketTaggingInput>,
) -> S3Result<S3Response<GetBucketTaggingOutput>> {
    let input = request.input;
    check_owner(&input.expected_bucket_owner, &rooms.settings.account_id)?;
    let this = rooms.clone();
    let row = blocking(move || read_bucket(&this, &input.bucket)).await?;
    if row.tags.is_empty() {
        return Err(s3_error!(NoSuchTagSet, "The TagSet does not exist"));
    }
    Ok(S3Response::new(GetBucketTaggingOutput { tag_set: wire(row.tags) }))
}

pub(crate) async fn put_bucket(
    rooms: &Rooms,
    request: S3Request<PutBucketTaggingInput>,
) -> S3Result<S3Response<PutBucketTaggingOutput>> {
    let input = request.input;
    check_owner(&input.expected_bucket_owner, &rooms.settings.account_id)?;
    let tags = of_wire(input.tagging, BUCKET_TAGS_MAX, "Bucket")?;
    let this = rooms.clone();
    blocking(move || write_bucket(&this, &input.bucket, &BucketRow { tags })).await?;
    let output = PutBucketTaggingOutput::default();
    Ok(S3Response::with_status(output, http::StatusCode::NO_CONTENT))
}

pub(crate) async fn delete_bucket(
    rooms: &Rooms,
    request: S3Request<DeleteBucketTaggingInput>,
) -> S3Result<S3Response<DeleteBucketTaggingOutput>> {
    let input = request.input;
    check_owner(&input.expected_bucket_owner, &rooms.settings.account_id)?;
    let this = rooms.clone();
    blocking(move || write_bucket(&this, &input.bucket, &BucketRow::default())).await?;
    let output = DeleteBucketTaggingOutput::default();
    Ok(S3Response::with_status(output, http::StatusCode::NO_CONTENT))
}
