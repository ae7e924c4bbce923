//! The engine over real lakes in temporary folders.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod altered;
mod as_of;
mod athena;
mod by_path;
mod damaged;
mod etl;
mod hostile;
mod nodes;
mod sql;
mod targets;
mod world;
