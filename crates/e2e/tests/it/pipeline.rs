//! A stream, a rule and a job made once, and the walk from the log to a Parquet table: what
//! several tests stand on.

use e2e::Server;

/// Makes stream `readings`, whose objects end early so that faults find deliveries under way,
/// and the rule that feeds it from `load/+/readings`.
pub(crate) fn prepare(server: &Server) {
    server.forebay(&[
        "stream",
        "create",
        "readings",
        "--prefix",
        "raw/readings/",
        "--error-prefix",
        "errors/readings/",
        "--interval-secs",
        "1",
        "--size-mb",
        "1",
        "--gzip",
    ]);
    let sql = "SELECT * FROM 'load/+/readings'";
    server.forebay(&["rule", "create", "readings", "--sql", sql, "--stream", "readings"]);
}

/// Makes the job from the crawled table to `readings`.
pub(crate) fn create_job(server: &Server) {
    server.forebay(&[
        "job",
        "create",
        "readings",
        "--source",
        "raw_readings",
        "--target",
        "lake/tables/readings/",
        "--table",
        "readings",
    ]);
}

pub(crate) const FLUSH: [&str; 3] = ["stream", "flush", "readings"];
pub(crate) const CRAWL: [&str; 5] =
    ["lake", "crawl", "lake/raw/readings/", "--table-prefix", "raw_"];
pub(crate) const RUN: [&str; 3] = ["job", "run", "readings"];

/// Takes everything acknowledged so far into the table; every step must succeed.
pub(crate) fn to_table(server: &Server) {
    server.forebay(&FLUSH);
    server.forebay(&CRAWL);
    let run = server.forebay(&RUN);
    assert_eq!(run["state"], "SUCCEEDED", "{run}");
    assert_eq!(run["set_aside"], 0, "{run}");
}

/// As [`to_table`], and makes the job the first time, when its source has been crawled.
pub(crate) fn to_table_or_create(server: &Server, job_exists: &mut bool) {
    if !*job_exists {
        server.forebay(&FLUSH);
        server.forebay(&CRAWL);
        create_job(server);
        *job_exists = true;
    }
    to_table(server);
}
