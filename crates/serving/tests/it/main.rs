//! Endpoints at the room's border: rows, restarts, routing, overload.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod deepar;
mod host;
mod trial;
