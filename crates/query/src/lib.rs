//! SQL and ETL graphs on DataFusion; the only crate that names it.
