//! Bytes to and from Arrow batches: the JSON scan, schema inference, Parquet.
