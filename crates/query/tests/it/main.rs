//! The engine over real lakes in temporary folders.

mod etl;
mod hostile;
mod sql;
mod world;
