//! The store at its border.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod file;
mod suite;
