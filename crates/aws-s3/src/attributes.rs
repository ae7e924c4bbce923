//! What is known of an object, asked by name.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use crate::fail::{check_owner, check_version, refuse_customer_key};
use crate::object::{length_i64, open, set_sums};
use crate::record::{Record, wire_time};
use crate::service::Rooms;

/// S3's page of parts.
const PARTS_MAX: i32 = 1_000;

pub(crate) async fn get(
    rooms: &Rooms,
    request: S3Request<GetObjectAttributesInput>,
) -> S3Result<S3Response<GetObjectAttributesOutput>> {
    let input = request.input;
    check_owner(&input.expected_bucket_owner, &rooms.settings.account_id)?;
    check_version(&input.version_id)?;
    refuse_customer_key!(input);
    let (_, found, record) = open(rooms, &input.bucket, &input.key).await?;
    let mut output = GetObjectAttributesOutput {
        last_modified: Some(wire_time(found.meta.modified_at)),
        ..Default::default()
    };
    let asked = input.object_attributes.iter().flat_map(|names| names.as_str().split(','));
    for asked in asked {
        match asked.trim() {
            "ETag" => output.e_tag = Some(record.etag()),
            "ObjectSize" => output.object_size = length_i64(found.meta.bytes),
            "StorageClass" => {
                output.storage_class = Some(StorageClass::from_static(StorageClass::STANDARD));
            }
            "Checksum" if !record.sums.is_empty() => output.checksum = Some(record.sums.wire()),
            "Checksum" => {}
            "ObjectParts" if !record.parts.is_empty() => {
                output.object_parts =
                    Some(parts(&record, input.part_number_marker, input.max_parts)?);
            }
            "ObjectParts" => {}
            other => {
                return Err(s3_error!(
                    InvalidArgument,
                    "Invalid attribute name specified: {other}"
                ));
            }
        }
    }
    Ok(S3Response::new(output))
}

/// A page of an object's parts after `marker`.
fn parts(
    record: &Record,
    marker: Option<i32>,
    max: Option<i32>,
) -> S3Result<GetObjectAttributesParts> {
    let (after, max) = (marker.unwrap_or_default(), max.unwrap_or(PARTS_MAX).min(PARTS_MAX));
    let (Ok(skipped), Ok(wanted)) = (usize::try_from(after), usize::try_from(max)) else {
        return Err(s3_error!(
            InvalidArgument,
            "x-amz-max-parts and x-amz-part-number-marker must be no less than 0"
        ));
    };
    let numbered = (1..).zip(&record.parts).enumerate();
    let page: Vec<ObjectPart> = numbered
        .skip(skipped)
        .take(wanted)
        .map(|(index, (number, bytes))| {
            let sums = record.sums_of_part(index);
            let mut part = ObjectPart {
                part_number: Some(number),
                size: length_i64(*bytes),
                ..Default::default()
            };
            set_sums!(part, sums);
            part
        })
        .collect();
    let last = page.last().and_then(|part| part.part_number);
    Ok(GetObjectAttributesParts {
        is_truncated: Some(skipped + page.len() < record.parts.len()),
        max_parts: Some(max),
        next_part_number_marker: Some(last.unwrap_or(after)),
        part_number_marker: Some(after),
        parts: Some(page),
        total_parts_count: i32::try_from(record.parts.len()).ok(),
    })
}
