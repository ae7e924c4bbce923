//! The broker over real sockets, against bytes written by hand and clients written by others.

#![expect(clippy::unwrap_used, reason = "tests")]

mod bypass;
mod certificates;
mod clients;
mod damaged;
mod durability;
mod events;
mod foreign;
mod gatehouse;
mod hostile;
mod load;
mod model;
mod policy;
mod quotas;
mod raw;
mod restart;
mod retained;
mod revocation;
mod sessions;
mod shadows;
mod shared;
mod standard;
mod subscribers;
mod support;
mod tls;
mod websocket;
