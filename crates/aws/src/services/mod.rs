//! One module a service: its table of operations and what each does to the rooms.

use crate::call::Service;

mod application_autoscaling;
mod athena;
mod cloudwatch;
mod firehose;
mod glue;
mod iam;
mod iot;
mod iot_data;
mod logs;
mod sagemaker;
mod sagemaker_runtime;
mod sts;
mod text_serde;

pub use athena::Queries;
pub(crate) use cloudwatch::ringing;
pub use firehose::CatalogSchemas;
pub use glue::{JobRuns, RunJob, crawl_as_scheduled, start_for as start_job_for};
pub use sagemaker::{Trainings, capture_table, captured_endpoint};
pub use sagemaker_runtime::{InvocationLabels, answer_invocation};

/// Every service, in the order of the coverage page. `sagemaker` is two services under one
/// scope: the control plane has targets, the runtime has paths.
pub(crate) static ALL: &[&Service] = &[
    &iot::SERVICE,
    &iot_data::SERVICE,
    &firehose::SERVICE,
    &glue::SERVICE,
    &athena::SERVICE,
    &sagemaker::SERVICE,
    &sagemaker_runtime::SERVICE,
    &logs::SERVICE,
    &cloudwatch::SERVICE,
    &application_autoscaling::SERVICE,
    &sts::SERVICE,
    &iam::SERVICE,
];

/// Stands for a service that is not there, so that its refusal can be written.
pub(crate) static NONE: Service = Service {
    name: "none",
    scopes: &[],
    protocol: crate::protocol::Protocol::Json { target: "", version: "1.1" },
    codes: |_kind| ("UnknownOperationException", 400),
    body_bytes_max: 0,
    operations: &[],
};
