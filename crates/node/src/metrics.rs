//! The figures on `/metrics`, in Prometheus' text form.

use std::fmt::Write;

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
        let Ok(stream) = node.streams.status(&row.name) else { continue };
        // Stream names are letters, digits, '_', '.' and '-': nothing to escape.
        let label = format!("stream=\"{}\"", row.name);
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
    page.add("process_resident_memory_bytes", "Resident memory.", "", base::usage::rss_bytes());
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
    last: String,
}

impl Page {
    fn add(&mut self, name: &str, help: &str, labels: &str, value: u64) {
        if self.last != name {
            let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
            self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
            name.clone_into(&mut self.last);
        }
        if labels.is_empty() {
            self.line(format_args!("{name} {value}"));
        } else {
            self.line(format_args!("{name}{{{labels}}} {value}"));
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("a string takes every write");
    }
}

fn escape(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
