//! The durable log: group commit, checksums, cursors, bounded bytes.
