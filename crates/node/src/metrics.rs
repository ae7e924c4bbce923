//! The figures on `/metrics`, in Prometheus' text form.
//!
//! What must hold between them, whenever nothing is under way:
//!
//! * of QoS 1 and 2, received = acknowledged + refused + unanswered;
//! * for each stream, durable offset - first offset = read + lost + lag;
//! * for each stream, matched = acted + set aside;
//! * lost and doubled are 0 everywhere.

use std::fmt::{Display, Write};
use std::time::Duration;

use base::MessageRef;
use delivery::{StreamRow, StreamStatus};
use journal::Journal;
use serving::Status;

use crate::Node;

/// Why log records can be lost to a stream: each has its line, so that a zero is a statement.
/// The last is what nobody noticed when it happened.
const LOST: [&str; 5] = ["trimmed", "corrupt", "missing", "undecodable", "unaccounted"];

/// All figures of a node. Reads rows, the log and the disk.
pub(crate) fn render(node: &Node) -> String {
    let mut page = Page::default();
    broker(node, &mut page);
    log(node, &mut page);
    for row in node.streams.list().unwrap_or_default() {
        if let Ok(status) = node.streams.status(row.name()) {
            stream(node, &row, &status, &mut page);
        }
    }
    objects(node, &mut page);
    rules(node, &mut page);
    endpoints(node, &mut page);
    captures(node, &mut page);
    machine(node, &mut page);
    page.text()
}

fn broker(node: &Node, page: &mut Page) {
    let Ok(broker) = node.broker() else { return };
    for metric in broker.stats().metrics() {
        page.add(metric.name, metric.help, metric.labels, metric.value);
    }
    let (connected, kept) = broker.session_counts();
    page.add("broker_sessions_connected", "Sessions with a connection.", "", connected);
    page.add("broker_sessions_kept", "Sessions that wait for their client to come back.", "", kept);
}

fn log(node: &Node, page: &mut Page) {
    let log = node.journal.status();
    page.add("journal_bytes", "Bytes of log in use.", "", log.bytes);
    page.add("journal_bytes_max", "Bytes the log may use.", "", log.bytes_max);
    page.add(
        "journal_durable_offset",
        "Records on stable storage since the log was made.",
        "",
        log.durable.0,
    );
    page.add("journal_first_offset", "The oldest record kept.", "", log.first.0);
    page.add("journal_commits_total", "Syncs since the start.", "", log.commits);
    page.add(
        "journal_records_lost_total",
        "Records whose bytes were found damaged or gone when they were read, each once since the \
         start; must be 0.",
        "",
        log.corrupt_records,
    );
    page.add(
        "journal_failed",
        "1 when the log stopped acknowledging.",
        "",
        u64::from(log.failed.is_some()),
    );
    let receipts = node.journal.receipts();
    page.histogram(
        "journal_receipt_seconds",
        "From a record's append to stable storage, when its receipt is due. Every record counts \
         with the wait of the first one of its commit, so none waited longer.",
        "",
        &receipts.buckets,
        (receipts.records, receipts.waited),
    );
}

fn stream(node: &Node, row: &StreamRow, status: &StreamStatus, page: &mut Page) {
    // Stream names are letters, digits, '_', '.' and '-': nothing to escape.
    let label = format!("stream=\"{}\"", row.name());
    let totals = &status.totals;
    page.add(
        "delivery_first_offset",
        "The first log record the stream looks at.",
        &label,
        row.created_from.0,
    );
    page.add(
        "delivery_records_read_total",
        "Log records that the stream is done with: durable offset - first offset = read + lost + \
         lag.",
        &label,
        // What is no message was read, and counts as lost.
        totals.read.saturating_sub(totals.skipped.get("undecodable").copied().unwrap_or(0)),
    );
    page.add("delivery_lag_records", "Log records not delivered yet.", &label, status.lag);
    page.add(
        "delivery_lag_bytes",
        "About how many bytes of log are not delivered yet, those of other streams included.",
        &label,
        node.journal.bytes_from(status.next),
    );
    page.add(
        "delivery_lag_seconds",
        "How long ago, by the wall clock, the oldest record arrived that is not delivered yet.",
        &label,
        lag_secs(node, status),
    );
    page.add(
        "delivery_held_bytes",
        "Bytes that wait in memory for their batch to end.",
        &label,
        status.held_bytes,
    );
    page.add(
        "delivery_records_matched_total",
        "Times a rule or a put gave a log record to the stream: matched = acted + set aside.",
        &label,
        totals.matched,
    );
    page.add(
        "delivery_records_acted_total",
        "Of those matched, those of which all is in delivered objects.",
        &label,
        totals.acted,
    );
    page.add(
        "delivery_records_delivered_total",
        "Records in delivered objects, several of a log record that was taken apart.",
        &label,
        totals.records,
    );
    page.add(
        "delivery_bytes_delivered_total",
        "Bytes of these records before they were packed.",
        &label,
        totals.record_bytes,
    );
    page.add("delivery_objects_total", "Objects delivered.", &label, totals.objects);
    page.add(
        "delivery_object_bytes_total",
        "Bytes of these objects as they were stored.",
        &label,
        totals.object_bytes,
    );
    for reason in LOST {
        let count = match reason {
            "unaccounted" => status.balance.lost,
            told => totals.skipped.get(told).copied().unwrap_or(0),
        };
        page.add(
            "delivery_records_lost_total",
            "Log records that the stream passed without delivering them: they were trimmed, \
             corrupt or missing when it came to them, were no message, or its cursor passed them \
             without any batch having counted them (unaccounted); must be 0.",
            &format!("{label},reason=\"{reason}\""),
            count,
        );
    }
    page.add(
        "delivery_records_doubled_total",
        "Log records that the stream's batches counted beyond those its cursor passed: looked at, \
         and so delivered, more than once; must be 0.",
        &label,
        status.balance.doubled,
    );
    page.declare(
        "delivery_records_set_aside_total",
        "Log records of which something is in the error prefix, by reason.",
    );
    for (reason, count) in &totals.set_aside {
        let label = format!("{label},reason=\"{}\"", escape(reason));
        page.add("delivery_records_set_aside_total", "", &label, *count);
    }
    page.add(
        "delivery_retrying",
        "1 while a step of the delivery fails and is tried again.",
        &label,
        u64::from(status.retrying.is_some()),
    );
    page.add(
        "delivery_attempts_failed_total",
        "Attempts to deliver that failed since the start; each is tried again.",
        &label,
        status.failures,
    );
    page.add(
        "delivery_failing_seconds",
        "How long the stream has been failing; 0 while it delivers.",
        &label,
        status.retrying_since.map_or(0, |at| node.clock.now().since(at).as_secs()),
    );
}

fn rules(node: &Node, page: &mut Page) {
    let Ok(rules) = node.streams.republished() else { return };
    page.add(
        "rules_outputs_total",
        "Outputs of rules that were republished or put elsewhere.",
        "",
        rules.outputs,
    );
    page.add("rules_actions_failed_total", "Actions of rules that failed.", "", rules.failures);
    page.add("rules_reports_total", "Reports to error actions.", "", rules.reports);
    page.add(
        "rules_messages_looped_total",
        "Messages not republished again because they went round.",
        "",
        rules.looped,
    );
    page.add(
        "rules_records_lost_total",
        "Log records that were gone or damaged when a worker that republishes or puts came to \
         them; must be 0.",
        "",
        rules.lost,
    );
}

fn captures(node: &Node, page: &mut Page) {
    let (written, dropped) = node.captured();
    page.add(
        "serving_capture_written_total",
        "Requests written to data capture since the start.",
        "",
        written,
    );
    page.add(
        "serving_capture_dropped_total",
        "Requests that data capture left out, since their place could not be written to as quickly \
         as they came; no invocation waits for it.",
        "",
        dropped,
    );
}

fn objects(node: &Node, page: &mut Page) {
    let sums = node.buckets.sum_totals();
    page.add(
        "objects_verified_total",
        "Objects compared with the checksum they were written with, since the start.",
        "",
        sums.verified,
    );
    page.add(
        "objects_altered_total",
        "Of these, objects whose bytes were altered, which nothing reads any more; must be 0.",
        "",
        sums.altered,
    );
}

/// What every variant in memory answered. Names are letters, digits and hyphens.
fn endpoints(node: &Node, page: &mut Page) {
    let host = &node.models.host;
    for endpoint in host.endpoints().unwrap_or_default() {
        let label = format!("endpoint=\"{}\"", endpoint.name);
        page.add(
            "serving_in_service",
            "1 while the endpoint answers.",
            &label,
            u64::from(matches!(endpoint.status, Status::InService | Status::Updating)),
        );
        let served = endpoint.wanted.as_ref().is_none_or(|wanted| *wanted == endpoint.config);
        page.add(
            "serving_other_than_wanted",
            "1 while the endpoint serves another configuration than it was asked to: an update \
             is under way, or was undone.",
            &label,
            u64::from(!served),
        );
        let trial = host.on_trial(&endpoint.name);
        page.add(
            "serving_trial_share",
            "The share of requests that variants on trial answer; 0 while there are none.",
            &label,
            trial.map_or(0.0, |(_, share)| share),
        );
    }
    for seen in host.counters() {
        let label = format!(
            "endpoint=\"{}\",config=\"{}\",variant=\"{}\",shadow=\"{}\"",
            seen.endpoint, seen.config, seen.variant, seen.shadow
        );
        page.add("serving_invocations_total", "Requests to the variant.", &label, seen.invocations);
        let help = "Requests that were not answered, by reason.";
        for (reason, count) in [
            ("request", seen.client_errors),
            ("model", seen.model_errors),
            ("overload", seen.refused),
            ("timeout", seen.timed_out),
        ] {
            let label = format!("{label},reason=\"{reason}\"");
            page.add("serving_errors_total", help, &label, count);
        }
        page.add(
            "serving_not_finite_total",
            "Answers with a number that is not finite.",
            &label,
            seen.not_finite,
        );
        page.add(
            "serving_stood_in_total",
            "Requests that the variants before answered, since this one, on trial, did not.",
            &label,
            seen.stood_in,
        );
        page.add("serving_series_total", "Series forecast.", &label, seen.series);
        page.add(
            "serving_model_seconds_total",
            "What the model took of the answered requests' time.",
            &label,
            seconds(seen.model_micros),
        );
        page.add("serving_models_held", "Models in memory.", &label, seen.models_held);
        page.add("serving_model_loads_total", "Models loaded on demand.", &label, seen.loads);
        page.add(
            "serving_model_load_seconds_total",
            "What loading them took.",
            &label,
            seconds(seen.load_micros),
        );
        page.add(
            "serving_model_hits_total",
            "Requests whose model was in memory already.",
            &label,
            seen.hits,
        );
        let bounds =
            serving::LATENCY_BOUNDS_MICROS.iter().map(|bound| Duration::from_micros(*bound));
        let buckets = bounds.zip(cumulated(&seen.latencies)).collect::<Vec<_>>();
        page.histogram(
            "serving_latency_seconds",
            "From a request's arrival to its answer.",
            &label,
            &buckets,
            (seen.latencies.iter().sum(), Duration::from_micros(seen.latency_micros)),
        );
    }
    let (models, bytes) = host.models_held();
    page.add("serving_shelf_models", "Models of multi-model endpoints in memory.", "", models);
    page.add("serving_shelf_bytes", "Bytes they take.", "", bytes);
}

fn cumulated(classes: &[u64]) -> impl Iterator<Item = u64> {
    classes.iter().scan(0, |sum, class| {
        *sum += class;
        Some(*sum)
    })
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

fn machine(node: &Node, page: &mut Page) {
    let (forward, backward, seconds) = node.steps.seen();
    let help = "Times the wall clock was set since the start, by direction.";
    page.add("node_clock_steps_total", help, "direction=\"forward\"", forward);
    page.add("node_clock_steps_total", help, "direction=\"backward\"", backward);
    page.add(
        "node_clock_step_seconds_total",
        "By how much the wall clock was set, both directions added up.",
        "",
        seconds,
    );
    let disk = node.disk.measure(&node.data_dir);
    page.add(
        "journal_disk_bytes",
        "Bytes on disk of the log, blank segments included.",
        "",
        disk.journal,
    );
    page.add(
        "lake_disk_bytes",
        "Bytes on disk of all buckets; counted now and then, not at every look.",
        "",
        disk.lake,
    );
    page.add("metastore_disk_bytes", "Bytes on disk of the database.", "", disk.database);
    page.add("process_resident_memory_bytes", "Resident memory.", "", base::usage::rss_bytes());
    page.add(
        "process_cpu_seconds_total",
        "User and system seconds of the server's process.",
        "",
        base::usage::cpu_seconds(),
    );
}

fn lag_secs(node: &Node, status: &StreamStatus) -> u64 {
    if status.lag == 0 {
        return 0;
    }
    let read = node.journal.read(status.next, 1);
    let oldest = read.ok().and_then(|records| {
        let (_, record) = records.items.first()?;
        Some(MessageRef::decode(record).ok()?.received_at)
    });
    oldest.map_or(0, |at| node.clock.now().since(at).as_secs())
}

/// The page by metric, since all values of one must stand together.
#[derive(Default)]
struct Page {
    families: Vec<Family>,
}

struct Family {
    name: String,
    help: String,
    kind: &'static str,
    lines: String,
}

impl Page {
    fn add(&mut self, name: &str, help: &str, labels: &str, value: impl Display) {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let lines = &mut self.declare(name, help).lines;
        writeln!(lines, "{name}{labels} {value}").expect("a string takes every write");
    }

    /// The family of a metric, which may stay without a value.
    fn declare(&mut self, name: &str, help: &str) -> &mut Family {
        let at = self.families.iter().position(|family| family.name == name);
        let at = at.unwrap_or_else(|| {
            let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
            let (name, help) = (name.to_owned(), help.to_owned());
            self.families.push(Family { name, help, kind, lines: String::new() });
            self.families.len() - 1
        });
        &mut self.families[at]
    }

    /// Cumulated counts by their upper bounds, and the count and the sum of all.
    fn histogram(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        buckets: &[(Duration, u64)],
        (count, sum): (u64, Duration),
    ) {
        let family = self.declare(name, help);
        family.kind = "histogram";
        let (comma, own) = match label.is_empty() {
            true => ("", String::new()),
            false => (",", format!("{{{label}}}")),
        };
        for (bound, count) in buckets {
            let bound = bound.as_secs_f64();
            writeln!(family.lines, "{name}_bucket{{{label}{comma}le=\"{bound}\"}} {count}")
                .expect("a string takes every write");
        }
        let sum = sum.as_secs_f64();
        writeln!(
            family.lines,
            "{name}_bucket{{{label}{comma}le=\"+Inf\"}} {count}\n{name}_sum{own} {sum}\n{name}_count{own} {count}"
        )
        .expect("a string takes every write");
    }

    fn text(&self) -> String {
        let of = |Family { name, help, kind, lines }: &Family| {
            format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}")
        };
        self.families.iter().map(of).collect()
    }
}

fn escape(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prometheus refuses a page on which a metric is described twice.
    #[test]
    fn values_of_one_metric_stand_together() {
        let mut page = Page::default();
        for stream in ["a", "b"] {
            let label = format!("stream=\"{stream}\"");
            page.add("lag", "How far.", &label, 1_u64);
            page.add("done_total", "How much.", &label, 2_u64);
        }
        let expected = "# HELP lag How far.\n# TYPE lag gauge\nlag{stream=\"a\"} 1\n\
                        lag{stream=\"b\"} 1\n# HELP done_total How much.\n\
                        # TYPE done_total counter\ndone_total{stream=\"a\"} 2\n\
                        done_total{stream=\"b\"} 2\n";
        assert_eq!(page.text(), expected);
    }
    #[test]
    fn a_histogram_counts_up_to_everything() {
        let mut page = Page::default();
        let buckets = [(Duration::from_micros(250), 3), (Duration::from_secs(1), 5)];
        let all = (6, Duration::from_millis(1500));
        page.histogram("wait_seconds", "How long.", "", &buckets, all);
        page.histogram("of_seconds", "How long.", "of=\"a\"", &buckets[..1], all);
        let expected = "# HELP wait_seconds How long.\n# TYPE wait_seconds histogram\n\
                        wait_seconds_bucket{le=\"0.00025\"} 3\n\
                        wait_seconds_bucket{le=\"1\"} 5\n\
                        wait_seconds_bucket{le=\"+Inf\"} 6\n\
                        wait_seconds_sum 1.5\nwait_seconds_count 6\n\
                        # HELP of_seconds How long.\n# TYPE of_seconds histogram\n\
                        of_seconds_bucket{of=\"a\",le=\"0.00025\"} 3\n\
                        of_seconds_bucket{of=\"a\",le=\"+Inf\"} 6\n\
                        of_seconds_sum{of=\"a\"} 1.5\nof_seconds_count{of=\"a\"} 6\n";
        assert_eq!(page.text(), expected);
    }
}
