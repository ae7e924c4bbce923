//! The words every room uses: messages, topics, offsets, clocks, errors and limits.
//!
//! No I/O but the lines that ask the system for the time and for this process's cost; no async. A type lives here
//! when two rooms hand it to each other; everything else belongs to the room that means it.

mod clock;
mod error;
pub mod limits;
mod message;
mod offset;
mod properties;
mod topic;
pub mod usage;

pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use error::{Error, ErrorKind, Result};
pub use message::{Extras, Message, MessageRef, QoS};
pub use offset::Offset;
pub use properties::Properties;
pub use topic::{TopicFilter, TopicName};
