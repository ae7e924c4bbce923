//! Batches of records to objects, exactly once.
