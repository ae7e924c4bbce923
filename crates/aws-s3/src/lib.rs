//! S3 onto the buckets, through the protocol crate `s3s`.
