//! The lake at its border: catalog, crawls, runs, and what a crash leaves of them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod catalog;
mod crash;
mod crawl;
mod graph;
mod policies;
mod run;
mod swap;
mod triggers;
mod world;
mod writes;
