//! Endpoints around any predictor: the SageMaker request and its answer.
//!
//! What is asked is text ([`request`]), what is answered is text ([`answer`]); in between
//! stands a [`forecast::Predictor`] that a loader makes of a model file. [`Host`] keeps the
//! endpoints: their rows survive a restart, their models lie in memory, and invocations run
//! on a few threads of their own behind a bounded queue. There is no HTTP here; whoever has a
//! socket calls [`Host::invoke`].
//!
//! Invariants
//! * An endpoint is InService only while every one of its variants is loaded; a model that
//!   does not load makes it Failed with the reason, or leaves an update undone.
//! * An accepted request gets one answer, of one variant, also while an update swaps the models:
//!   it keeps the ones it started with. Two may have been asked, where one is on trial.
//! * Every wait has a bound: the queue refuses with [`base::ErrorKind::Exhausted`], an answer
//!   that takes too long ends with [`base::ErrorKind::Unavailable`].
//! * What goes out is valid JSON whatever the model computed.
//!
//! What an error of an invocation means, for whoever maps it to a wire code:
//!
//! | kind | meaning | SageMaker |
//! |---|---|---|
//! | `Invalid` | the body is wrong; names the instance and the field | ModelError 424, original 400 |
//! | `Unsupported` | the content type or the accepted types | ModelError 424, original 415 |
//! | `NotFound` | no such endpoint, variant or target model | ValidationError 400 |
//! | `Conflict` | a target model where there is one model, or none where there are many | ValidationError 400 |
//! | `Exhausted` | the queue is full; retry | 503 (or 429) |
//! | `Unavailable` | not in service yet, or took too long | 503 |
//! | `Internal` | the model failed | ModelError 424, original 500 |

pub mod answer;
pub mod batch;

mod counters;
mod endpoint;
mod fleet;
mod host;
mod lifecycle;
mod media;
mod models;
mod pool;
pub mod request;
mod rollout;
mod route;
mod shelf;
mod trial;

pub use counters::{LATENCY_BOUNDS_MICROS, Snapshot};
pub use endpoint::{
    Deployed, Endpoint, EndpointConfig, Holding, Model, Pending, Previous, Status, Variant,
};
pub use host::{Answer, Host, Invocation, Settings};
pub use lifecycle::{Accuracy, Comparison};
pub use media::Media;
pub use models::Loader;
pub use request::{Configuration, Request, Shape};
pub use rollout::{Rollout, Watch};
pub use route::Wheel;
pub use trial::Guard;
