//! DeepAR from the papers: pure, deterministic by seed.
