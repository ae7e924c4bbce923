//! Training jobs around any estimator: channels, child process, artifacts.
