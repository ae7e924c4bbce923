//! The whole system from outside. One binary, so that one link pays for all tests.

#![expect(clippy::unwrap_used, reason = "tests stop where they are")]
#![expect(clippy::print_stdout, reason = "figures of a run are read by people")]

mod aws;
mod bench;
mod clients;
mod clock;
mod contract;
mod crash;
mod demo;
mod input;
mod metrics;
mod models;
mod pipeline;
mod remote;
mod retained;
mod sessions;
mod shadows;
mod trial;
