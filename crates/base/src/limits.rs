//! Every named bound that rooms share. A limit that only one room knows stays in that room.

/// Longest topic name or filter, in bytes (MQTT's own bound on a string).
pub const TOPIC_BYTES_MAX: usize = 65_535;

/// Largest payload of a PUBLISH by default: AWS IoT Core's 128 KiB.
pub const PAYLOAD_BYTES_MAX: usize = 128 * 1024;

/// Longest client identifier: AWS IoT Core's 128 bytes.
pub const CLIENT_ID_BYTES_MAX: usize = 128;

/// Deepest nesting of a JSON document that is read, checked before any recursive parser.
pub const JSON_DEPTH_MAX: usize = 64;

/// Bytes of log kept on disk by default before publishers are held back.
pub const JOURNAL_BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;
