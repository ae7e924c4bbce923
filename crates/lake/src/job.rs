//! Jobs: graphs as data, their runs, and the commit of what a run made.

pub(crate) mod graph;
