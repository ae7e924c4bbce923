//! The figures on `/metrics`, in Prometheus' text form.

use std::fmt::Write;

use base::MessageRef;
use delivery::StreamStatus;
use journal::Journal;

use crate::Node;

/// All figures of a node.
pub(crate) fn render(node: &Node) -> String {
    let mut page = Page::default();
    if let Ok(broker) = node.broker() {
        for metric in broker.stats().metrics() {
            page.add(metric.name, metric.help, metric.labels, metric.value);
        }
    }
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
        "Records whose bytes were found damaged.",
        "",
        log.corrupt_records,
    );
    page.add(
        "journal_failed",
        "1 when the log stopped acknowledging.",
        "",
        u64::from(log.failed.is_some()),
    );
    for row in node.streams.list().unwrap_or_default() {
        let Ok(stream) = node.streams.status(row.name()) else { continue };
        // Stream names are letters, digits, '_', '.' and '-': nothing to escape.
        let label = format!("stream=\"{}\"", row.name());
        let totals = &stream.totals;
        page.add("delivery_lag_records", "Log records not delivered yet.", &label, stream.lag);
        page.add(
            "delivery_records_matched_total",
            "Records a rule or a put gave to the stream.",
            &label,
            totals.matched,
        );
        page.add(
            "delivery_records_delivered_total",
            "Records in delivered objects.",
            &label,
            totals.records,
        );
        page.add("delivery_objects_total", "Objects delivered.", &label, totals.objects);
        page.add(
            "delivery_lag_seconds",
            "How long ago the oldest record arrived that is not delivered yet.",
            &label,
            lag_secs(node, &stream),
        );
        page.add(
            "delivery_records_lost_total",
            "Log records that were gone or damaged when the stream came to them; must be 0.",
            &label,
            totals.skipped.values().sum(),
        );
        page.add(
            "delivery_attempts_failed_total",
            "Attempts to deliver that failed since the start; each is tried again.",
            &label,
            stream.failures,
        );
        page.add(
            "delivery_failing_seconds",
            "How long the stream has been failing; 0 while it delivers.",
            &label,
            stream.retrying_since.map_or(0, |at| node.clock.now().since(at).as_secs()),
        );
        for (reason, count) in &totals.set_aside {
            let label = format!("{label},reason=\"{}\"", escape(reason));
            page.add(
                "delivery_records_set_aside_total",
                "Records in the error prefix.",
                &label,
                *count,
            );
        }
    }
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
    if let Ok(rules) = node.streams.republished() {
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
    }
    page.add("process_resident_memory_bytes", "Resident memory.", "", base::usage::rss_bytes());
    page.text()
}

fn lag_secs(node: &Node, stream: &StreamStatus) -> u64 {
    if stream.lag == 0 {
        return 0;
    }
    let read = node.journal.read(stream.next, 1);
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
    lines: String,
}

impl Page {
    fn add(&mut self, name: &str, help: &str, labels: &str, value: u64) {
        let at = self.families.iter().position(|family| family.name == name);
        let at = at.unwrap_or_else(|| {
            let (name, help) = (name.to_owned(), help.to_owned());
            self.families.push(Family { name, help, lines: String::new() });
            self.families.len() - 1
        });
        let lines = &mut self.families[at].lines;
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        writeln!(lines, "{name}{labels} {value}").expect("a string takes every write");
    }

    fn text(&self) -> String {
        let of = |Family { name, help, lines }: &Family| {
            let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
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
            page.add("lag", "How far.", &label, 1);
            page.add("done_total", "How much.", &label, 2);
        }
        let expected = "# HELP lag How far.\n# TYPE lag gauge\nlag{stream=\"a\"} 1\n\
                        lag{stream=\"b\"} 1\n# HELP done_total How much.\n\
                        # TYPE done_total counter\ndone_total{stream=\"a\"} 2\n\
                        done_total{stream=\"b\"} 2\n";
        assert_eq!(page.text(), expected);
    }
}
