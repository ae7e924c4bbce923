//! Buckets: make, find, list, remove, and their objects page by page.

use objects::{Entry, Listing, Page};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use crate::fail::{Fail, blocking, check_owner, refuse, unsupported};
use crate::record::{Record, wire_time};
use crate::service::Rooms;

/// Where S3 began, and keeps some manners of its own.
const FIRST_REGION: &str = "us-east-1";
/// S3's page.
const KEYS_MAX: i32 = 1_000;
/// What `encoding-type=url` leaves as it is.
const URL: AsciiSet =
    NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b'/');

pub(crate) fn encoded(text: &str, encoding: bool) -> String {
    match encoding {
        true => utf8_percent_encode(text, &URL).to_string(),
        false => text.to_owned(),
    }
}

pub(crate) fn wants_url(encoding: Option<&EncodingType>) -> S3Result<bool> {
    match encoding.map(EncodingType::as_str) {
        None => Ok(false),
        Some("url") => Ok(true),
        Some(_) => Err(s3_error!(InvalidArgument, "Invalid Encoding Method specified in Request")),
    }
}

pub(crate) async fn list_all(
    rooms: &Rooms,
    request: S3Request<ListBucketsInput>,
) -> S3Result<S3Response<ListBucketsOutput>> {
    let input = request.input;
    let max = usize::try_from(input.max_buckets.unwrap_or(10_000)).unwrap_or_default();
    if !(1..=10_000).contains(&max) {
        return Err(s3_error!(InvalidArgument, "max-buckets must be from 1 to 10000: {max}"));
    }
    let this = rooms.clone();
    let prefix = input.prefix.clone().unwrap_or_default();
    let after = input.continuation_token.unwrap_or_default();
    let here = input.bucket_region.is_none_or(|region| region == rooms.settings.region);
    let (found, more) = blocking(move || {
        let mut names = this.buckets.list_buckets()?;
        names.retain(|name| here && name.starts_with(&prefix) && *name > after);
        let more = names.len() > max;
        names.truncate(max);
        let mut found = Vec::new();
        for name in names {
            // Removed since: it is no longer there.
            let Ok(created) = this.buckets.bucket_created(&name) else { continue };
            found.push(Bucket {
                bucket_region: Some(this.settings.region.clone()),
                creation_date: Some(wire_time(created)),
                name: Some(name),
            });
        }
        Ok((found, more))
    })
    .await?;
    let last = found.last().and_then(|bucket| bucket.name.clone());
    Ok(S3Response::new(ListBucketsOutput {
        buckets: Some(found),
        continuation_token: last.filter(|_| more),
        owner: Some(rooms.owner()),
        prefix: input.prefix,
    }))
}

pub(crate) async fn create(
    rooms: &Rooms,
    request: S3Request<CreateBucketInput>,
) -> S3Result<S3Response<CreateBucketOutput>> {
    let input = request.input;
    match input.acl.as_ref().map(BucketCannedACL::as_str) {
        None | Some("private") => {}
        Some(other) => return Err(unsupported("x-amz-acl", other)),
    }
    let acl = "everything is private to the account";
    refuse(&input.grant_full_control, "x-amz-grant-full-control", acl)?;
    refuse(&input.grant_read, "x-amz-grant-read", acl)?;
    refuse(&input.grant_read_acp, "x-amz-grant-read-acp", acl)?;
    refuse(&input.grant_write, "x-amz-grant-write", acl)?;
    refuse(&input.grant_write_acp, "x-amz-grant-write-acp", acl)?;
    match input.object_ownership.as_ref().map(ObjectOwnership::as_str) {
        None | Some(ObjectOwnership::BUCKET_OWNER_ENFORCED) => {}
        Some(other) => return Err(unsupported("x-amz-object-ownership", other)),
    }
    let lock = input.object_lock_enabled_for_bucket.filter(|wanted| *wanted);
    refuse(&lock, "x-amz-bucket-object-lock-enabled", "there is no object lock")?;
    if let Some(configuration) = &input.create_bucket_configuration {
        refuse(&configuration.bucket, "Bucket", "directory buckets")?;
        refuse(&configuration.location, "Location", "directory buckets")?;
    }
    let (this, name) = (rooms.clone(), input.bucket.clone());
    blocking(move || match this.buckets.create_bucket(&name) {
        // The first region takes it for a repetition, as it always did.
        Err(error)
            if error.kind() == base::ErrorKind::AlreadyExists
                && this.settings.region == FIRST_REGION =>
        {
            Ok(())
        }
        Err(error) if error.kind() == base::ErrorKind::AlreadyExists => {
            let taken = "Your previous request to create the named bucket succeeded and you \
                         already own it.";
            Err(s3_error!(BucketAlreadyOwnedByYou, "{taken}").into())
        }
        Err(error) if error.kind() == base::ErrorKind::Invalid => {
            Err(s3_error!(InvalidBucketName).into())
        }
        other => other.map_err(Fail::from),
    })
    .await?;
    let location = Some(format!("/{}", input.bucket));
    Ok(S3Response::new(CreateBucketOutput { location }))
}

pub(crate) async fn head(
    rooms: &Rooms,
    request: S3Request<HeadBucketInput>,
) -> S3Result<S3Response<HeadBucketOutput>> {
    check_owner(&request.input.expected_bucket_owner, &rooms.settings.account_id)?;
    rooms.need_bucket(&request.input.bucket)?;
    let bucket_region = Some(rooms.settings.region.clone());
    Ok(S3Response::new(HeadBucketOutput { bucket_region, ..Default::default() }))
}

pub(crate) async fn delete(
    rooms: &Rooms,
    request: S3Request<DeleteBucketInput>,
) -> S3Result<S3Response<DeleteBucketOutput>> {
    check_owner(&request.input.expected_bucket_owner, &rooms.settings.account_id)?;
    rooms.need_bucket(&request.input.bucket)?;
    rooms.buckets.delete_bucket(&request.input.bucket).await.map_err(|error| {
        match error.kind() {
            base::ErrorKind::Conflict => {
                s3_error!(BucketNotEmpty, "The bucket you tried to delete is not empty")
            }
            _ => crate::fail::of_room(error),
        }
    })?;
    let output = DeleteBucketOutput::default();
    Ok(S3Response::with_status(output, http::StatusCode::NO_CONTENT))
}

pub(crate) async fn location(
    rooms: &Rooms,
    request: S3Request<GetBucketLocationInput>,
) -> S3Result<S3Response<GetBucketLocationOutput>> {
    check_owner(&request.input.expected_bucket_owner, &rooms.settings.account_id)?;
    rooms.need_bucket(&request.input.bucket)?;
    let region = rooms.settings.region.clone();
    // The first region is told by silence.
    let location_constraint =
        (region != FIRST_REGION).then(|| BucketLocationConstraint::from(region));
    Ok(S3Response::new(GetBucketLocationOutput { location_constraint }))
}

pub(crate) async fn versioning(
    rooms: &Rooms,
    request: S3Request<GetBucketVersioningInput>,
) -> S3Result<S3Response<GetBucketVersioningOutput>> {
    check_owner(&request.input.expected_bucket_owner, &rooms.settings.account_id)?;
    rooms.need_bucket(&request.input.bucket)?;
    Ok(S3Response::new(GetBucketVersioningOutput::default()))
}

/// What one page of a listing asks, in either version.
struct Asked {
    bucket: String,
    prefix: String,
    delimiter: Option<String>,
    after: String,
    /// The generation of the page before.
    as_of: Option<u64>,
    max: Option<i32>,
    url: bool,
    owner: bool,
}

struct Listed {
    objects: Vec<Object>,
    prefixes: Vec<CommonPrefix>,
    max: i32,
    /// The last entry, if there are more.
    next: Option<String>,
    generation: u64,
}

async fn page(rooms: &Rooms, asked: Asked) -> S3Result<Listed> {
    let max = asked.max.unwrap_or(KEYS_MAX);
    let Ok(wanted) = usize::try_from(max) else {
        return Err(s3_error!(
            InvalidArgument,
            "Argument maxKeys must be an integer between 0 and 2147483647"
        ));
    };
    let max = max.min(KEYS_MAX);
    let listing = Listing {
        prefix: asked.prefix,
        delimiter: asked.delimiter,
        after: asked.after,
        max: wanted.min(KEYS_MAX as usize),
        as_of: asked.as_of,
    };
    let (buckets, bucket) = (rooms.buckets.clone(), asked.bucket);
    let Page { entries, more, generation } =
        blocking(move || Ok(buckets.page(&bucket, &listing)?)).await?;
    let next = entries.last().filter(|_| more).map(|entry| entry.name().to_owned());
    let owner = asked.owner.then(|| rooms.owner());
    let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
    for entry in entries {
        match entry {
            Entry::Prefix(prefix) => {
                prefixes.push(CommonPrefix { prefix: Some(encoded(&prefix, asked.url)) });
            }
            Entry::Object(found) => objects.push(Object {
                e_tag: Some(Record::of(&found).etag()),
                key: Some(encoded(&found.meta.key, asked.url)),
                last_modified: Some(wire_time(found.meta.modified_at)),
                owner: owner.clone(),
                size: i64::try_from(found.meta.bytes).ok(),
                storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
                ..Default::default()
            }),
        }
    }
    Ok(Listed { objects, prefixes, max, next, generation })
}

pub(crate) async fn list(
    rooms: &Rooms,
    request: S3Request<ListObjectsInput>,
) -> S3Result<S3Response<ListObjectsOutput>> {
    let input = request.input;
    check_owner(&input.expected_bucket_owner, &rooms.settings.account_id)?;
    refuse(&input.optional_object_attributes, "x-amz-optional-object-attributes", "no restores")?;
    let url = wants_url(input.encoding_type.as_ref())?;
    let has_delimiter = input.delimiter.as_ref().is_some_and(|d| !d.is_empty());
    let listed = page(
        rooms,
        Asked {
            bucket: input.bucket.clone(),
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone(),
            after: input.marker.clone().unwrap_or_default(),
            as_of: None,
            max: input.max_keys,
            url,
            owner: true,
        },
    )
    .await?;
    let text =
        |text: Option<String>| text.filter(|text| !text.is_empty()).map(|text| encoded(&text, url));
    Ok(S3Response::new(ListObjectsOutput {
        name: Some(input.bucket),
        prefix: Some(encoded(&input.prefix.unwrap_or_default(), url)),
        marker: Some(encoded(&input.marker.unwrap_or_default(), url)),
        max_keys: Some(listed.max),
        is_truncated: Some(listed.next.is_some()),
        contents: Some(listed.objects),
        common_prefixes: Some(listed.prefixes),
        delimiter: text(input.delimiter),
        // Without a delimiter the last key says it.
        next_marker: text(listed.next.filter(|_| has_delimiter)),
        encoding_type: input.encoding_type,
        request_charged: None,
    }))
}

/// What a listing goes on with: the generation that its first page showed, and the last name of
/// this one. No key holds U+0000.
fn token(generation: u64, last: &str) -> String {
    crate::base64::encode(format!("{generation}\0{last}").as_bytes())
}

fn read_token(token: &str) -> Option<(Option<u64>, String)> {
    let text = String::from_utf8(crate::base64::decode(token)?).ok()?;
    let (generation, after) = match text.split_once('\0') {
        Some((generation, after)) => (Some(generation.parse().ok()?), after.to_owned()),
        // Given out before listings had generations.
        None => (None, text),
    };
    (!after.is_empty()).then_some((generation, after))
}

pub(crate) async fn list_v2(
    rooms: &Rooms,
    request: S3Request<ListObjectsV2Input>,
) -> S3Result<S3Response<ListObjectsV2Output>> {
    let input = request.input;
    check_owner(&input.expected_bucket_owner, &rooms.settings.account_id)?;
    refuse(&input.optional_object_attributes, "x-amz-optional-object-attributes", "no restores")?;
    let url = wants_url(input.encoding_type.as_ref())?;
    // An empty one asks for the beginning.
    let given = input.continuation_token.as_ref().filter(|token| !token.is_empty());
    let (as_of, after) = match given {
        Some(token) => read_token(token).ok_or_else(|| {
            s3_error!(InvalidArgument, "The continuation token provided is incorrect")
        })?,
        None => (None, input.start_after.clone().unwrap_or_default()),
    };
    let listed = page(
        rooms,
        Asked {
            bucket: input.bucket.clone(),
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone(),
            after,
            as_of,
            max: input.max_keys,
            url,
            owner: input.fetch_owner == Some(true),
        },
    )
    .await?;
    let count = listed.objects.len() + listed.prefixes.len();
    let text =
        |text: Option<String>| text.filter(|text| !text.is_empty()).map(|text| encoded(&text, url));
    Ok(S3Response::new(ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: Some(encoded(&input.prefix.unwrap_or_default(), url)),
        max_keys: Some(listed.max),
        key_count: i32::try_from(count).ok(),
        continuation_token: input.continuation_token,
        is_truncated: Some(listed.next.is_some()),
        next_continuation_token: listed.next.map(|next| token(listed.generation, &next)),
        contents: Some(listed.objects),
        common_prefixes: Some(listed.prefixes),
        delimiter: text(input.delimiter),
        encoding_type: input.encoding_type,
        start_after: text(input.start_after),
        request_charged: None,
    }))
}

/// Every object is its own only version, named `null` as in a bucket that never had versions.
pub(crate) async fn list_versions(
    rooms: &Rooms,
    request: S3Request<ListObjectVersionsInput>,
) -> S3Result<S3Response<ListObjectVersionsOutput>> {
    let input = request.input;
    check_owner(&input.expected_bucket_owner, &rooms.settings.account_id)?;
    refuse(&input.optional_object_attributes, "x-amz-optional-object-attributes", "no restores")?;
    let url = wants_url(input.encoding_type.as_ref())?;
    let key_marker = input.key_marker.clone().unwrap_or_default();
    if key_marker.is_empty() && input.version_id_marker.as_ref().is_some_and(|id| !id.is_empty()) {
        return Err(s3_error!(
            InvalidArgument,
            "A version-id marker cannot be specified without a key marker."
        ));
    }
    let listed = page(
        rooms,
        Asked {
            bucket: input.bucket.clone(),
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone(),
            after: key_marker.clone(),
            as_of: None,
            max: input.max_keys,
            url,
            owner: true,
        },
    )
    .await?;
    let standard = ObjectVersionStorageClass::from_static(ObjectVersionStorageClass::STANDARD);
    let versions = listed.objects.into_iter().map(|object| ObjectVersion {
        e_tag: object.e_tag,
        is_latest: Some(true),
        key: object.key,
        last_modified: object.last_modified,
        owner: object.owner,
        size: object.size,
        storage_class: Some(standard.clone()),
        version_id: Some("null".to_owned()),
        ..Default::default()
    });
    let text =
        |text: Option<String>| text.filter(|text| !text.is_empty()).map(|text| encoded(&text, url));
    Ok(S3Response::new(ListObjectVersionsOutput {
        versions: Some(versions.collect()),
        name: Some(input.bucket),
        prefix: Some(encoded(&input.prefix.unwrap_or_default(), url)),
        key_marker: Some(encoded(&key_marker, url)),
        version_id_marker: Some(input.version_id_marker.unwrap_or_default()),
        max_keys: Some(listed.max),
        is_truncated: Some(listed.next.is_some()),
        next_version_id_marker: listed.next.is_some().then(|| "null".to_owned()),
        next_key_marker: text(listed.next),
        common_prefixes: Some(listed.prefixes),
        delimiter: text(input.delimiter),
        encoding_type: input.encoding_type,
        ..Default::default()
    }))
}
