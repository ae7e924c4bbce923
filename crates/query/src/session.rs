//! A DataFusion session that can read what it is given and nothing else.

use std::path::PathBuf;
use std::sync::Arc;

use base::{Error, Result};
use datafusion::execution::FunctionRegistry;
use datafusion::execution::SessionState;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::functions::Stop;
use crate::statement::CATALOG;

/// Functions that make gigabytes of a few characters, outside the memory pool.
const FUNCTIONS_REFUSED: &[&str] = &[
    "array_repeat",
    "list_repeat",
    "array_resize",
    "list_resize",
    "generate_series",
    "range",
    "repeat",
];

/// What all sessions share: the memory pool and the folder for what does not fit in it.
pub(crate) fn environment(
    memory_bytes: u64,
    spill_folder: PathBuf,
    spill_bytes_max: u64,
) -> Result<Arc<RuntimeEnv>> {
    let memory = usize::try_from(memory_bytes).unwrap_or(usize::MAX);
    std::fs::create_dir_all(&spill_folder).map_err(|cause| {
        Error::io(format!("making the folder {}", spill_folder.display()), cause)
    })?;
    let disk = DiskManagerBuilder::default()
        .with_mode(DiskManagerMode::Directories(vec![spill_folder]))
        .with_max_temp_directory_size(spill_bytes_max);
    RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(memory)))
        .with_disk_manager_builder(disk)
        .build_arc()
        .map_err(crate::error::explain)
}

/// A session without tables. `database` is where unqualified names are looked up; its functions end
/// with `stop`.
pub(crate) fn session(
    environment: &Arc<RuntimeEnv>,
    database: &str,
    partitions: usize,
    stop: &Stop,
) -> Result<SessionContext> {
    let mut config = SessionConfig::new()
        .with_target_partitions(partitions.max(1))
        .with_default_catalog_and_schema(CATALOG, database)
        .with_create_default_catalog_and_schema(true)
        .with_information_schema(false);
    let options = config.options_mut();
    options.execution.enable_recursive_ctes = false;
    // What a join learns from one side leaves out rows of the other whose key is null, though
    // EXCEPT and INTERSECT take nulls for equal; files of nothing but nulls would go.
    options.optimizer.enable_join_dynamic_filter_pushdown = false;
    // A plan knows of some CASE that it is never null, its operator does not, and that is all that
    // the check would find.
    options.execution.skip_physical_aggregate_schema_check = true;
    // As Athena has it, whichever way it goes.
    options.sql_parser.default_null_ordering = "nulls_last".into();
    // Half the pool must not be promised to a sort that may never spill.
    options.execution.sort_spill_reservation_bytes = 1024 * 1024;
    let mut state: SessionState = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(Arc::clone(environment))
        .with_default_features()
        .with_analyzer_rule(Arc::new(crate::zeros::OneZero))
        .with_analyzer_rule(Arc::new(crate::one_group::OneGroup))
        .with_optimizer_rule(Arc::new(crate::each_once::EachOnce))
        .with_physical_optimizer_rules(crate::same_names::rules())
        .with_physical_optimizer_rule(Arc::new(crate::by_runs::RULE))
        .with_physical_optimizer_rule(Arc::new(crate::sliding::RULE))
        .with_physical_optimizer_rule(Arc::new(crate::moving::RULE))
        .with_physical_optimizer_rule(Arc::new(crate::late::RULE))
        .with_physical_optimizer_rule(Arc::new(crate::once::RULE))
        .build();
    for name in FUNCTIONS_REFUSED {
        state.deregister_udf(name).map_err(crate::error::explain)?;
        state.deregister_udtf(name).map_err(crate::error::explain)?;
    }
    for name in crate::runs::DEAR {
        let function = state.udf(name).map_err(crate::error::explain)?;
        let quick = crate::runs::OnRuns::around(function);
        state.register_udf(Arc::new(quick)).map_err(crate::error::explain)?;
    }
    for function in crate::functions::all(stop) {
        state.register_udf(Arc::new(function)).map_err(crate::error::explain)?;
    }
    for function in crate::functions::aggregates() {
        state.register_udaf(Arc::new(function)).map_err(crate::error::explain)?;
    }
    for function in crate::functions::higher(stop) {
        state.register_higher_order_function(Arc::new(function)).map_err(crate::error::explain)?;
    }
    Ok(SessionContext::new_with_state(state))
}
