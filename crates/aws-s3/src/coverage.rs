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
        "STANDARD only; encryption, ACL grants, object lock and website redirects are refused",
    ),
    ("DeleteBucket", "uploads in progress go with the bucket"),
    ("DeleteBucketTagging", ""),
    ("DeleteObject", "no versions; x-amz-mfa, if-match by size and by time are refused"),
    ("DeleteObjectTagging", ""),
    ("DeleteObjects", "no versions"),
    ("GetBucketAcl", "always: the owner has full control"),
    ("GetBucketLocation", ""),
    ("GetBucketTagging", ""),
    ("GetBucketVersioning", "always: never enabled"),
    ("GetObject", "no versions; encryption by the customer's key is refused"),
    ("GetObjectAcl", "always: the owner has full control"),
    ("GetObjectAttributes", "ObjectParts gives the number of parts, not each"),
    ("GetObjectTagging", ""),
    ("HeadBucket", ""),
    ("HeadObject", "no versions; encryption by the customer's key is refused"),
    ("ListBuckets", ""),
    ("ListMultipartUploads", ""),
    ("ListObjects", "checksum algorithms and restore state are not listed"),
    ("ListObjectsV2", "checksum algorithms and restore state are not listed"),
    ("ListParts", ""),
    ("PutBucketTagging", ""),
    (
        "PutObject",
        "STANDARD only; encryption, ACL grants, object lock and website redirects are refused; \
         a key cannot be an object and a folder at once (k beside k/sub)",
    ),
    ("PutObjectTagging", ""),
    ("UploadPart", "a chunk of an aws-chunked body is in memory until it is checked"),
    ("UploadPartCopy", ""),
];
