//! What S3 keeps with an object: its headers, metadata, tags, ETag and checksums.

use std::collections::BTreeMap;

use objects::Found;
use s3s::dto::{Checksum, ChecksumAlgorithm, ChecksumType, ETag, Timestamp};
use serde::{Deserialize, Serialize};

/// The attributes of an object in its bucket, or of a part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    /// Without quotes. Empty where the file's own mark serves.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) etag: String,
    #[serde(flatten)]
    pub(crate) headers: Headers,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) tags: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Sums::is_empty")]
    pub(crate) sums: Sums,
    /// The sizes of the parts, if it was uploaded in parts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) parts: Vec<u64>,
    /// The parts' own checksums, if they have any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) part_sums: Vec<String>,
    /// The upload it came from, if it was uploaded in parts.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) upload: String,
}

/// The headers that are given back as they came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Headers {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache_control: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_disposition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_language: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<Timestamp>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) metadata: BTreeMap<String, String>,
}

/// Checksums in base64 by algorithm; of all bytes, or of the parts' checksums.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Sums {
    #[serde(flatten)]
    pub(crate) values: BTreeMap<String, String>,
}

/// The algorithms, by the names S3 gives them.
pub(crate) const ALGORITHMS: [&str; 5] = [
    ChecksumAlgorithm::CRC32,
    ChecksumAlgorithm::CRC32C,
    ChecksumAlgorithm::CRC64NVME,
    ChecksumAlgorithm::SHA1,
    ChecksumAlgorithm::SHA256,
];

impl Sums {
    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub(crate) fn get(&self, algorithm: &str) -> Option<String> {
        self.values.get(algorithm).cloned()
    }

    pub(crate) fn set(&mut self, algorithm: &str, value: Option<String>) {
        if let Some(value) = value {
            self.values.insert(algorithm.to_owned(), value);
        }
    }

    /// A checksum of parts' checksums is written with their number.
    pub(crate) fn kind(&self) -> Option<ChecksumType> {
        let value = self.values.values().next()?;
        let kind = match value.contains('-') {
            true => ChecksumType::COMPOSITE,
            false => ChecksumType::FULL_OBJECT,
        };
        Some(ChecksumType::from_static(kind))
    }

    pub(crate) fn wire(&self) -> Checksum {
        Checksum {
            checksum_crc32: self.get(ChecksumAlgorithm::CRC32),
            checksum_crc32c: self.get(ChecksumAlgorithm::CRC32C),
            checksum_crc64nvme: self.get(ChecksumAlgorithm::CRC64NVME),
            checksum_sha1: self.get(ChecksumAlgorithm::SHA1),
            checksum_sha256: self.get(ChecksumAlgorithm::SHA256),
            checksum_type: self.kind(),
        }
    }

    pub(crate) fn of_wire(sums: Checksum) -> Self {
        let mut ours = Sums::default();
        ours.set(ChecksumAlgorithm::CRC32, sums.checksum_crc32);
        ours.set(ChecksumAlgorithm::CRC32C, sums.checksum_crc32c);
        ours.set(ChecksumAlgorithm::CRC64NVME, sums.checksum_crc64nvme);
        ours.set(ChecksumAlgorithm::SHA1, sums.checksum_sha1);
        ours.set(ChecksumAlgorithm::SHA256, sums.checksum_sha256);
        ours
    }
}

impl Record {
    /// The record of an object; one that an engine wrote gets what its file tells.
    pub(crate) fn of(found: &Found) -> Record {
        let kept = found.attributes.as_deref().and_then(|bytes| serde_json::from_slice(bytes).ok());
        let mut record: Record = kept.unwrap_or_default();
        if record.etag.is_empty() {
            record.etag = found.meta.etag.clone();
        }
        record
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        // Strings, numbers and maps of strings: there is nothing that could fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(crate) fn etag(&self) -> ETag {
        ETag::Strong(self.etag.clone())
    }

    /// The checksum of a part, counted from zero.
    pub(crate) fn sums_of_part(&self, index: usize) -> Sums {
        let mut sums = Sums::default();
        if let Some(algorithm) = self.sums.values.keys().next() {
            sums.set(algorithm, self.part_sums.get(index).cloned());
        }
        sums
    }

    pub(crate) fn content_type(&self) -> String {
        self.headers.content_type.clone().unwrap_or_else(|| "binary/octet-stream".to_owned())
    }
}

/// The time of an object on the wire.
pub(crate) fn wire_time(at: base::Timestamp) -> Timestamp {
    let millis = u64::try_from(at.millis()).unwrap_or_default();
    Timestamp::from(std::time::UNIX_EPOCH + std::time::Duration::from_millis(millis))
}
