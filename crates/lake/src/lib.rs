//! Tables over objects: catalog, crawler, jobs, commit.
