//! What S3 does here, operation by operation, and where it differs.

/// Every operation that is answered, and how it differs from AWS (empty: it does not that we
/// know of). Everything else is refused as `NotImplemented`, by name.
pub const OPERATIONS: &[(&str, &str)] = &[
    ("AbortMultipartUpload", "x-amz-if-match-initiated-time is refused"),
    (
        "CompleteMultipartUpload",
        "the answer comes when the object is durable, without whitespace sent meanwhile",
    ),
    (
        "CopyObject",
        "bytes are copied; encryption, ACL grants, object lock and website redirects are refused",
    ),
    ("CreateBucket", "any LocationConstraint is accepted; ACLs and object lock are refused"),
    (
        "CreateMultipartUpload",
        "STANDARD only; encryption, ACL grants, object lock and website redirects are refused; an \
         upload that nothing is added to for 7 days is removed",
    ),
    ("DeleteBucket", "uploads in progress go with the bucket"),
    ("DeleteBucketTagging", ""),
    ("DeleteObject", "no versions; x-amz-mfa, if-match by size and by time are refused"),
    ("DeleteObjectTagging", ""),
    ("DeleteObjects", "no versions"),
    ("GetBucketAcl", "always: the owner has full control"),
    ("GetBucketLocation", ""),
    ("GetBucketOwnershipControls", "always: BucketOwnerEnforced"),
    ("GetBucketTagging", ""),
    ("GetBucketVersioning", "always: never enabled"),
    ("GetObject", "no versions; encryption by the customer's key is refused"),
    ("GetObjectAcl", "always: the owner has full control"),
    ("GetObjectAttributes", "ObjectParts lists parts without checksums, too"),
    ("GetObjectTagging", ""),
    ("HeadBucket", ""),
    ("HeadObject", "no versions; encryption by the customer's key is refused"),
    ("ListBuckets", ""),
    ("ListMultipartUploads", ""),
    ("ListObjectVersions", "every object is its own only version, null"),
    ("ListObjects", "checksum algorithms and restore state are not listed"),
    ("ListObjectsV2", "checksum algorithms and restore state are not listed"),
    ("ListParts", ""),
    ("PostObject", "a form is at most 16 MiB; otherwise as PutObject"),
    ("PutBucketAcl", "takes what says that the owner alone has full control, and nothing else"),
    ("PutBucketOwnershipControls", "takes BucketOwnerEnforced, and nothing else"),
    ("PutBucketTagging", ""),
    (
        "PutObject",
        "STANDARD only; encryption, ACL grants, object lock and website redirects are refused; \
         of k and k/sub, tables and jobs see the one that came first",
    ),
    ("PutObjectAcl", "takes what says that the owner alone has full control, and nothing else"),
    ("PutObjectTagging", ""),
    ("UploadPart", "a chunk of an aws-chunked body is in memory until it is checked"),
    ("UploadPartCopy", ""),
];
