//! The whole system from outside. One binary, so that one link pays for all tests.

#![expect(clippy::unwrap_used, reason = "tests stop where they are")]

mod crash;
mod demo;
mod input;
