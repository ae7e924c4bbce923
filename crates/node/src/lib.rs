//! One process: settings, wiring, supervision, shutdown.
