//! Errors of the rooms in S3's words, and refusals of what is not done here.

use base::ErrorKind;
use s3s::dto::{ObjectCannedACL, ServerSideEncryption, StorageClass};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

/// An error on its way out; rooms' errors are told from S3's own.
#[derive(Debug)]
pub(crate) struct Fail(pub(crate) S3Error);

impl From<S3Error> for Fail {
    fn from(error: S3Error) -> Self {
        Fail(error)
    }
}

impl From<base::Error> for Fail {
    fn from(error: base::Error) -> Self {
        Fail(of_room(error))
    }
}

impl From<Fail> for S3Error {
    fn from(fail: Fail) -> Self {
        fail.0
    }
}

/// A room's error. Its text goes out where it is about the caller's own names only.
pub(crate) fn of_room(error: base::Error) -> S3Error {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::NotFound if text.starts_with("bucket ") => no_such_bucket(),
        ErrorKind::NotFound => no_such_key(),
        ErrorKind::Invalid if text.contains("longer than") => s3_error!(KeyTooLongError, "{text}"),
        ErrorKind::Invalid => s3_error!(InvalidArgument, "{text}"),
        ErrorKind::Conflict => s3_error!(
            InvalidArgument,
            "This key and another stand in each other's way: where k is an object there can be \
             none named k/sub, since objects are files. Use another key, or delete the other."
        ),
        ErrorKind::Unsupported => s3_error!(NotImplemented, "{text}"),
        ErrorKind::Corrupt => s3_error!(InternalError, "{text}"),
        ErrorKind::Exhausted => {
            tracing::error!(%error, "no room for an object");
            let mut full = s3_error!(ServiceUnavailable, "There is no space left to store this.");
            full.set_status_code(http::StatusCode::INSUFFICIENT_STORAGE);
            full
        }
        _ => {
            tracing::error!(%error, "an S3 request failed");
            s3_error!(InternalError)
        }
    }
}

/// An error by a name that the protocol crate does not know.
pub(crate) fn custom(code: &'static str, status: http::StatusCode, text: String) -> S3Error {
    let mut error = S3Error::with_message(S3ErrorCode::Custom(code.into()), text);
    error.set_status_code(status);
    error
}

/// The body is not what its signed digest says.
pub(crate) fn sha256_mismatch() -> S3Error {
    let text = "The provided 'x-amz-content-sha256' header does not match what was computed.";
    custom("XAmzContentSHA256Mismatch", http::StatusCode::BAD_REQUEST, text.to_owned())
}

pub(crate) fn no_such_bucket() -> S3Error {
    s3_error!(NoSuchBucket, "The specified bucket does not exist")
}

pub(crate) fn no_such_key() -> S3Error {
    s3_error!(NoSuchKey, "The specified key does not exist.")
}

pub(crate) fn no_such_upload() -> S3Error {
    s3_error!(
        NoSuchUpload,
        "The specified upload does not exist. The upload ID may be invalid, or the upload may \
         have been aborted or completed."
    )
}

pub(crate) fn precondition() -> S3Error {
    s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold")
}

pub(crate) fn bad_digest(what: &str) -> S3Error {
    s3_error!(BadDigest, "The {what} you specified did not match the calculated checksum.")
}

/// A header or parameter that asks for what is not done here.
pub(crate) fn unsupported(what: &str, why: &str) -> S3Error {
    s3_error!(
        NotImplemented,
        "A header you provided implies functionality that is not implemented: {what} ({why})"
    )
}

/// Refuses a value that is there.
pub(crate) fn refuse<T>(given: &Option<T>, what: &str, why: &str) -> S3Result<()> {
    match given {
        Some(_) => Err(unsupported(what, why)),
        None => Ok(()),
    }
}

/// Runs file work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fail> + Send + 'static,
) -> S3Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(S3Error::from),
        Err(cause) => {
            tracing::error!(%cause, "file work ended");
            Err(S3Error::new(S3ErrorCode::InternalError))
        }
    }
}

pub(crate) fn check_storage_class(class: &Option<StorageClass>) -> S3Result<()> {
    match class {
        Some(class) if class.as_str() != StorageClass::STANDARD => Err(s3_error!(
            InvalidStorageClass,
            "The storage class you specified is not valid: {} (only STANDARD is stored here)",
            class.as_str()
        )),
        _ => Ok(()),
    }
}

pub(crate) fn check_acl(acl: &Option<ObjectCannedACL>) -> S3Result<()> {
    match acl.as_ref().map(ObjectCannedACL::as_str) {
        None | Some("private" | "bucket-owner-full-control" | "bucket-owner-read") => Ok(()),
        Some(other) => Err(unsupported("x-amz-acl", &format!("{other}: everything is private"))),
    }
}

pub(crate) fn check_encryption(asked: &Option<ServerSideEncryption>) -> S3Result<()> {
    refuse(asked, "x-amz-server-side-encryption", "objects are stored as they are")
}

/// The account that a request expects a bucket to belong to.
pub(crate) fn check_owner(expected: &Option<String>, account: &str) -> S3Result<()> {
    match expected {
        Some(expected) if expected != account => Err(s3_error!(AccessDenied, "Access Denied")),
        _ => Ok(()),
    }
}

pub(crate) fn check_version(version: &Option<String>) -> S3Result<()> {
    match version.as_deref() {
        None | Some("null") => Ok(()),
        Some(_) => Err(s3_error!(
            NoSuchVersion,
            "The specified version does not exist: objects here have the version null only"
        )),
    }
}

/// The headers of a write that would change its meaning and are not done here.
macro_rules! refuse_in_write {
    ($input:expr) => {{
        $crate::fail::check_storage_class(&$input.storage_class)?;
        $crate::fail::check_acl(&$input.acl)?;
        $crate::fail::check_encryption(&$input.server_side_encryption)?;
        let acl = "everything is private to the account";
        $crate::fail::refuse(&$input.grant_full_control, "x-amz-grant-full-control", acl)?;
        $crate::fail::refuse(&$input.grant_read, "x-amz-grant-read", acl)?;
        $crate::fail::refuse(&$input.grant_read_acp, "x-amz-grant-read-acp", acl)?;
        $crate::fail::refuse(&$input.grant_write_acp, "x-amz-grant-write-acp", acl)?;
        let lock = "there is no object lock";
        $crate::fail::refuse(&$input.object_lock_mode, "x-amz-object-lock-mode", lock)?;
        $crate::fail::refuse(
            &$input.object_lock_legal_hold_status,
            "x-amz-object-lock-legal-hold",
            lock,
        )?;
        $crate::fail::refuse(
            &$input.object_lock_retain_until_date,
            "x-amz-object-lock-retain-until-date",
            lock,
        )?;
        let key = "objects are stored as they are";
        $crate::fail::refuse(
            &$input.ssekms_key_id,
            "x-amz-server-side-encryption-aws-kms-key-id",
            key,
        )?;
        $crate::fail::refuse(
            &$input.ssekms_encryption_context,
            "x-amz-server-side-encryption-context",
            key,
        )?;
        $crate::fail::refuse_customer_key!($input);
        $crate::fail::refuse(
            &$input.website_redirect_location,
            "x-amz-website-redirect-location",
            "there is no website hosting",
        )?;
    }};
}

/// The headers of encryption by the customer's key.
macro_rules! refuse_customer_key {
    ($input:expr) => {{
        let key = "objects are stored as they are";
        $crate::fail::refuse(
            &$input.sse_customer_algorithm,
            "x-amz-server-side-encryption-customer-algorithm",
            key,
        )?;
        $crate::fail::refuse(
            &$input.sse_customer_key,
            "x-amz-server-side-encryption-customer-key",
            key,
        )?;
        $crate::fail::refuse(
            &$input.sse_customer_key_md5,
            "x-amz-server-side-encryption-customer-key-MD5",
            key,
        )?;
    }};
}

pub(crate) use {refuse_customer_key, refuse_in_write};
