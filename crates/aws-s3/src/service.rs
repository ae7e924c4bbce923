//! The operations `s3s` hands over, each to its function.

use std::sync::Arc;

use objects::Buckets;
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result};

use crate::{Settings, acl, attributes, bucket, fail, multipart, object, tags};

/// The account's owner, as IAM calls the only user there is.
const OWNER: &str = "root";

/// What an operation works with.
#[derive(Clone)]
pub(crate) struct Rooms {
    pub(crate) buckets: Buckets,
    pub(crate) settings: Arc<Settings>,
    pub(crate) uploads: multipart::Locks,
}

impl Rooms {
    /// Refuses what names a bucket that is not there, before a body is read.
    pub(crate) fn need_bucket(&self, bucket: &str) -> S3Result<()> {
        self.buckets.side_folder(bucket).map(drop).map_err(fail::of_room)
    }

    pub(crate) fn owner(&self) -> Owner {
        Owner { display_name: Some(OWNER.to_owned()), id: Some(self.settings.account_id.clone()) }
    }
}

macro_rules! operations {
    ($($name:ident $input:ident $output:ident => $function:path;)*) => {
        #[async_trait::async_trait]
        impl S3 for Rooms {
            $(
                async fn $name(
                    &self,
                    request: S3Request<$input>,
                ) -> S3Result<S3Response<$output>> {
                    Box::pin($function(self, request)).await
                }
            )*
        }
    };
}

operations! {
    list_buckets ListBucketsInput ListBucketsOutput => bucket::list_all;
    create_bucket CreateBucketInput CreateBucketOutput => bucket::create;
    head_bucket HeadBucketInput HeadBucketOutput => bucket::head;
    delete_bucket DeleteBucketInput DeleteBucketOutput => bucket::delete;
    get_bucket_location GetBucketLocationInput GetBucketLocationOutput => bucket::location;
    get_bucket_versioning GetBucketVersioningInput GetBucketVersioningOutput => bucket::versioning;
    get_bucket_acl GetBucketAclInput GetBucketAclOutput => acl::of_bucket;
    get_object_acl GetObjectAclInput GetObjectAclOutput => acl::of_object;
    put_bucket_acl PutBucketAclInput PutBucketAclOutput => acl::put_bucket;
    put_object_acl PutObjectAclInput PutObjectAclOutput => acl::put_object;
    get_bucket_ownership_controls GetBucketOwnershipControlsInput GetBucketOwnershipControlsOutput => acl::ownership_of;
    put_bucket_ownership_controls PutBucketOwnershipControlsInput PutBucketOwnershipControlsOutput => acl::put_ownership;
    list_objects ListObjectsInput ListObjectsOutput => bucket::list;
    list_objects_v2 ListObjectsV2Input ListObjectsV2Output => bucket::list_v2;
    list_object_versions ListObjectVersionsInput ListObjectVersionsOutput => bucket::list_versions;
    put_object PutObjectInput PutObjectOutput => object::put;
    get_object GetObjectInput GetObjectOutput => object::get;
    head_object HeadObjectInput HeadObjectOutput => object::head;
    copy_object CopyObjectInput CopyObjectOutput => object::copy;
    delete_object DeleteObjectInput DeleteObjectOutput => object::delete;
    delete_objects DeleteObjectsInput DeleteObjectsOutput => object::delete_many;
    get_object_attributes GetObjectAttributesInput GetObjectAttributesOutput => attributes::get;
    get_object_tagging GetObjectTaggingInput GetObjectTaggingOutput => tags::get_object;
    put_object_tagging PutObjectTaggingInput PutObjectTaggingOutput => tags::put_object;
    delete_object_tagging DeleteObjectTaggingInput DeleteObjectTaggingOutput => tags::delete_object;
    get_bucket_tagging GetBucketTaggingInput GetBucketTaggingOutput => tags::get_bucket;
    put_bucket_tagging PutBucketTaggingInput PutBucketTaggingOutput => tags::put_bucket;
    delete_bucket_tagging DeleteBucketTaggingInput DeleteBucketTaggingOutput => tags::delete_bucket;
    create_multipart_upload CreateMultipartUploadInput CreateMultipartUploadOutput => multipart::create;
    upload_part UploadPartInput UploadPartOutput => multipart::upload;
    upload_part_copy UploadPartCopyInput UploadPartCopyOutput => multipart::upload_copy;
    complete_multipart_upload CompleteMultipartUploadInput CompleteMultipartUploadOutput => multipart::complete;
    abort_multipart_upload AbortMultipartUploadInput AbortMultipartUploadOutput => multipart::abort;
    list_parts ListPartsInput ListPartsOutput => multipart::list_parts;
    list_multipart_uploads ListMultipartUploadsInput ListMultipartUploadsOutput => multipart::list_uploads;
}
