//! `/metrics` of a server under load: a page that any scraper takes, and figures that add up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use e2e::Server;
use e2e::mqtt::{self, Session};
use e2e::prometheus::{self, Page};

const LIMIT: Duration = Duration::from_secs(60);
const READINGS: u64 = 20_000;
/// Counts are whole.
const TOLERANCE: f64 = 0.5;

fn page(server: &Server) -> Page {
    let (status, body) = e2e::http_get(server.http, "/metrics").unwrap();
    assert_eq!(status, 200);
    prometheus::parse(&body).unwrap_or_else(|said| panic!("{said}\n{body}"))
}

fn same(left: f64, right: f64) -> bool {
    (left - right).abs() < TOLERANCE
}

/// What must hold at any moment, with load or without.
fn check_always(page: &Page) {
    let received = page.with("broker_messages_received_total", &[("qos", "1")])
        + page.with("broker_messages_received_total", &[("qos", "2")]);
    let answered = page.sum("broker_messages_acknowledged_total");
    assert!(answered <= received, "{answered} acknowledged, {received} received");
    for name in [
        "journal_records_lost_total",
        "delivery_records_lost_total",
        "delivery_records_doubled_total",
        "rules_records_lost_total",
        "journal_failed",
        "broker_messages_unanswered_total",
    ] {
        assert!(page.has(name), "{name} is not on the page");
        assert!(same(page.sum(name), 0.0), "{name} is {}", page.sum(name));
    }
}

/// What must hold of a stream once nothing is under way.
fn check_stream(page: &Page, stream: &str) {
    let of = |name: &str| page.with(name, &[("stream", stream)]);
    let logged = page.sum("journal_durable_offset") - of("delivery_first_offset");
    let accounted = of("delivery_records_read_total")
        + of("delivery_records_lost_total")
        + of("delivery_lag_records");
    assert!(same(logged, accounted), "{stream}: {logged} logged, {accounted} accounted for");
    let (matched, set_aside) =
        (of("delivery_records_matched_total"), of("delivery_records_set_aside_total"));
    let acted = of("delivery_records_acted_total");
    assert!(same(matched, acted + set_aside), "{matched} = {acted} + {set_aside}");
}

/// No counter of `before` is lower in `after`.
fn check_rising(before: &Page, after: &Page) {
    for ((name, labels), value) in &before.values {
        if page_kind(before, name) == Some("counter") {
            let now = after.values.get(&(name.clone(), labels.clone()));
            assert!(now.is_some_and(|now| now >= value), "{name} {labels:?}: {value} to {now:?}");
        }
    }
}

fn page_kind<'p>(page: &'p Page, name: &str) -> Option<&'p str> {
    page.kinds.get(name).map(String::as_str)
}

#[test]
fn every_message_is_accounted_for_on_the_metrics_page() {
    let folder = tempfile::tempdir().unwrap();
    // Nothing but what the clients send is logged.
    let server = Server::start_with(
        folder.path(),
        &["--set", "broker.lifecycle_events=false", "--set", "broker.payload_bytes_max=20000"],
        &[],
    );
    let create = ["stream", "create", "readings", "--interval-secs", "1", "--size-mb", "1"];
    server.forebay(&create);
    let sql = "SELECT * FROM 'load/#'";
    server.forebay(&["rule", "create", "readings", "--sql", sql, "--stream", "readings"]);

    let (done, mut pages) = (AtomicBool::new(false), Vec::new());
    let acknowledged = std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..3_u64)
            .map(|index| {
                let broker = server.mqtt;
                scope.spawn(move || {
                    let (id, topic) = (format!("device-{index}"), format!("load/{index}"));
                    mqtt::publish(broker, &id, &topic, 0, READINGS, 100, LIMIT).acknowledged.len()
                })
            })
            .collect();
        let scraper = scope.spawn(|| {
            let mut pages = Vec::new();
            while !done.load(Ordering::SeqCst) {
                pages.push(page(&server));
            }
            pages
        });
        let acknowledged: usize = publishers.into_iter().map(|p| p.join().unwrap()).sum();
        done.store(true, Ordering::SeqCst);
        pages = scraper.join().unwrap();
        acknowledged as u64
    });
    assert_eq!(acknowledged, 3 * READINGS);
    assert!(pages.len() >= 3, "{} pages under load", pages.len());
    pages.iter().for_each(check_always);
    pages.windows(2).for_each(|pair| check_rising(&pair[0], &pair[1]));
    let under_load = |page: &Page| {
        let received = page.sum("broker_messages_received_total");
        received > 0.0 && received < (3 * READINGS) as f64
    };
    assert!(pages.iter().any(under_load), "no page was made while messages came in");

    // Some that are refused, some that no rule takes and some that cannot be evaluated.
    let mut odd = Session::plain(server.mqtt, "odd").unwrap();
    for _ in 0..5 {
        odd.publish("$SYS/secrets", b"{}").expect("MQTT 3.1.1 has no other way to say no");
    }
    for _ in 0..7 {
        odd.publish("elsewhere", b"{}").unwrap();
        odd.publish("load/odd", b"no json").unwrap();
    }
    let mut large = Session::plain(server.mqtt, "large").unwrap();
    assert!(large.publish("load/large", &[b'x'; 30_000]).is_err(), "too large, and taken");
    drop(large);
    server.forebay(&["stream", "flush", "readings"]);

    let page = page(&server);
    check_always(&page);
    pages.last().into_iter().for_each(|last| check_rising(last, &page));
    let received = page.sum("broker_messages_received_total");
    assert!(same(received, (acknowledged + 5 + 14 + 1) as f64), "{received} received");
    let refused = |reason| page.with("broker_messages_refused_total", &[("reason", reason)]);
    assert!(same(refused("topic"), 5.0) && same(refused("size"), 1.0));
    let answered = page.sum("broker_messages_acknowledged_total");
    let all_refused = page.sum("broker_messages_refused_total");
    assert!(same(received, answered + all_refused), "{received} = {answered} + {all_refused}");
    let logged = page.sum("broker_messages_logged_total");
    assert!(same(logged, answered), "{logged} logged, {answered} acknowledged");
    assert!(same(logged, page.sum("journal_durable_offset")));
    assert!(same(logged, page.sum("journal_receipt_seconds_count")));
    assert!(page.sum("journal_receipt_seconds_sum") > 0.0);

    check_stream(&page, "readings");
    let of = |name: &str| page.with(name, &[("stream", "readings")]);
    assert!(same(of("delivery_records_read_total"), logged));
    assert!(same(of("delivery_records_matched_total"), (acknowledged + 7) as f64));
    let failed = [("stream", "readings"), ("reason", "Rule.EvaluationFailed")];
    assert!(same(page.with("delivery_records_set_aside_total", &failed), 7.0));
    assert!(same(of("delivery_records_delivered_total"), acknowledged as f64));
    for name in ["delivery_lag_records", "delivery_lag_bytes", "delivery_lag_seconds"] {
        assert!(same(of(name), 0.0), "{name} is {}", of(name));
    }
    assert!(same(page.sum("broker_sessions_connected"), 1.0), "odd is still there");
    assert!(same(page.sum("broker_sessions_kept"), 0.0));
    for name in ["journal_disk_bytes", "lake_disk_bytes", "metastore_disk_bytes"] {
        assert!(page.sum(name) >= 4096.0, "{name} is {}", page.sum(name));
    }
    assert!(page.sum("process_cpu_seconds_total") > 0.0);
}

#[test]
fn what_waits_shows_as_lag_and_a_kill_neither_loses_nor_doubles_on_the_page() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let late = ["stream", "create", "late", "--interval-secs", "900", "--size-mb", "128"];
    server.forebay(&late);
    let sql = "SELECT * FROM 'load/#'";
    server.forebay(&["rule", "create", "late", "--sql", sql, "--stream", "late"]);
    let count = 2_000;
    let sent = mqtt::publish(server.mqtt, "device", "load/1", 0, count, 100, LIMIT);
    assert_eq!(sent.acknowledged.len() as u64, count);
    e2e::wait_for("a second of lag", Duration::from_secs(20), || {
        page(&server).sum("delivery_lag_seconds") >= 1.0
    });
    let waiting = page(&server);
    assert!(waiting.sum("delivery_lag_records") >= count as f64);
    // A reading has 80 bytes and more.
    assert!(waiting.sum("delivery_lag_bytes") >= (80 * count) as f64);
    check_stream(&waiting, "late");
    server.kill();
    server.restart();
    server.forebay(&["stream", "flush", "late"]);
    let page = page(&server);
    check_always(&page);
    check_stream(&page, "late");
    let of = |name: &str| page.with(name, &[("stream", "late")]);
    assert!(same(of("delivery_records_delivered_total"), count as f64));
    assert!(same(of("delivery_lag_bytes"), 0.0));
}
