//! Access control lists: the owner has full control and nobody else has any, always. In S3's
//! words: the bucket's owner owns every object, enforced.
//!
//! What says so is taken; what says anything else is refused, since it would not be kept.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result};

use crate::fail::{blocking, check_acl, check_owner, check_version, refuse, unsupported};
use crate::object::absent;
use crate::service::Rooms;

const PRIVATE: &str = "everything is private to the account";

fn owner_controls(rooms: &Rooms) -> Vec<Grant> {
    let owner = rooms.owner();
    vec![Grant {
        grantee: Some(Grantee {
            display_name: owner.display_name,
            email_address: None,
            id: owner.id,
            type_: Type::from_static(Type::CANONICAL_USER),
            uri: None,
        }),
        permission: Some(Permission::from_static(Permission::FULL_CONTROL)),
    }]
}

pub(crate) async fn of_bucket(
    rooms: &Rooms,
    request: S3Request<GetBucketAclInput>,
) -> S3Result<S3Response<GetBucketAclOutput>> {
    check_owner(&request.input.expected_bucket_owner, &rooms.settings.account_id)?;
    rooms.need_bucket(&request.input.bucket)?;
    let (grants, owner) = (Some(owner_controls(rooms)), Some(rooms.owner()));
    Ok(S3Response::new(GetBucketAclOutput { grants, owner }))
}

pub(crate) async fn of_object(
    rooms: &Rooms,
    request: S3Request<GetObjectAclInput>,
) -> S3Result<S3Response<GetObjectAclOutput>> {
    let input = request.input;
    check_owner(&input.expected_bucket_owner, &rooms.settings.account_id)?;
    check_version(&input.version_id)?;
    need_object(rooms, input.bucket, input.key).await?;
    let (grants, owner) = (Some(owner_controls(rooms)), Some(rooms.owner()));
    Ok(S3Response::new(GetObjectAclOutput { grants, owner, request_charged: None }))
}

async fn need_object(rooms: &Rooms, bucket: String, key: String) -> S3Result<()> {
    let this = rooms.clone();
    blocking(move || {
        let found = this.buckets.find(&bucket, &key)?;
        found.map(drop).ok_or_else(|| absent(&this, &bucket).into())
    })
    .await
}

/// Whether a list gives full control to the owner, and nothing to others.
fn check_list(rooms: &Rooms, list: Option<&AccessControlPolicy>) -> S3Result<()> {
    let Some(list) = list else { return Ok(()) };
    let owner = rooms.owner().id;
    let ours = |grant: &Grant| {
        grant.grantee.as_ref().is_some_and(|grantee| grantee.id == owner)
            && grant.permission.as_ref().map(Permission::as_str) == Some(Permission::FULL_CONTROL)
    };
    let grants = list.grants.as_deref().unwrap_or_default();
    match !grants.is_empty() && grants.iter().all(ours) {
        true => Ok(()),
        false => Err(unsupported("AccessControlPolicy", PRIVATE)),
    }
}

macro_rules! refuse_grants {
    ($input:expr) => {{
        refuse(&$input.grant_full_control, "x-amz-grant-full-control", PRIVATE)?;
        refuse(&$input.grant_read, "x-amz-grant-read", PRIVATE)?;
        refuse(&$input.grant_read_acp, "x-amz-grant-read-acp", PRIVATE)?;
        refuse(&$input.grant_write, "x-amz-grant-write", PRIVATE)?;
        refuse(&$input.grant_write_acp, "x-amz-grant-write-acp", PRIVATE)?;
    }};
}

pub(crate) async fn put_bucket(
    rooms: &Rooms,
    request: S3Request<PutBucketAclInput>,
) -> S3Result<S3Response<PutBucketAclOutput>> {
    let input = request.input;
    check_owner(&input.expected_bucket_owner, &rooms.settings.account_id)?;
    rooms.need_bucket(&input.bucket)?;
    refuse_grants!(input);
    check_list(rooms, input.access_control_policy.as_ref())?;
    match input.acl.as_ref().map(BucketCannedACL::as_str) {
        None | Some(BucketCannedACL::PRIVATE) => {}
        Some(other) => return Err(unsupported("x-amz-acl", &format!("{other}: {PRIVATE}"))),
    }
    Ok(S3Response::new(PutBucketAclOutput::default()))
}

pub(crate) async fn put_object(
    rooms: &Rooms,
    request: S3Request<PutObjectAclInput>,
) -> S3Result<S3Response<PutObjectAclOutput>> {
    let input = request.input;
    check_owner(&input.expected_bucket_owner, &rooms.settings.account_id)?;
    check_version(&input.version_id)?;
    refuse_grants!(input);
    check_list(rooms, input.access_control_policy.as_ref())?;
    check_acl(&input.acl)?;
    need_object(rooms, input.bucket, input.key).await?;
    Ok(S3Response::new(PutObjectAclOutput::default()))
}

fn ownership() -> OwnershipControls {
    let enforced = ObjectOwnership::from_static(ObjectOwnership::BUCKET_OWNER_ENFORCED);
    OwnershipControls { rules: vec![OwnershipControlsRule { object_ownership: enforced }] }
}

pub(crate) async fn ownership_of(
    rooms: &Rooms,
    request: S3Request<GetBucketOwnershipControlsInput>,
) -> S3Result<S3Response<GetBucketOwnershipControlsOutput>> {
    check_owner(&request.input.expected_bucket_owner, &rooms.settings.account_id)?;
    rooms.need_bucket(&request.input.bucket)?;
    let ownership_controls = Some(ownership());
    Ok(S3Response::new(GetBucketOwnershipControlsOutput { ownership_controls }))
}

pub(crate) async fn put_ownership(
    rooms: &Rooms,
    request: S3Request<PutBucketOwnershipControlsInput>,
) -> S3Result<S3Response<PutBucketOwnershipControlsOutput>> {
    let input = request.input;
    check_owner(&input.expected_bucket_owner, &rooms.settings.account_id)?;
    rooms.need_bucket(&input.bucket)?;
    for rule in &input.ownership_controls.rules {
        let asked = rule.object_ownership.as_str();
        if asked != ObjectOwnership::BUCKET_OWNER_ENFORCED {
            return Err(unsupported("ObjectOwnership", &format!("{asked}: {PRIVATE}")));
        }
    }
    Ok(S3Response::new(PutBucketOwnershipControlsOutput::default()))
}
