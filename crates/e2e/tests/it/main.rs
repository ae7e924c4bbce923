//! The whole system from outside. One binary, so that one link pays for all tests.

#![expect(clippy::unwrap_used, reason = "tests stop where they are")]
#![expect(clippy::print_stdout, reason = "figures of a run are read by people")]

mod accuracy;
mod arrivals;
mod aws;
mod bench;
mod clients;
mod clock;
mod contract;
mod crash;
mod damage;
mod demo;
mod hostile_sql;
mod input;
mod inserts;
mod jobs;
mod lake;
mod large;
mod metrics;
mod models;
mod peers;
mod pipeline;
mod questions;
mod readers;
mod refusals;
mod remote;
mod resend;
mod retained;
mod serving;
mod sessions;
mod shadows;
mod sheets;
mod storage;
mod topics;
mod training;
mod transforms;
mod trial;
mod upkeep;
