//! The load client against our own broker.

use std::sync::Arc;
use std::time::Duration;

use base::{MessageRef, Offset, SystemClock};
use broker::Broker;
use broker::bench::{Load, idle, run};
use journal::{Journal, Options, SegmentLog};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::support::{Everybody, World, quiet};

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_message_is_logged_and_delivered() {
    let world = World::new().await;
    let load = Load {
        publishers: 4,
        duration: Duration::from_millis(500),
        subscriber: true,
        ..Load::standard(world.address)
    };
    let report = run(&load).await.unwrap();
    assert!(report.acknowledged > 1000, "{report:?}");
    assert_eq!(report.delivered_share, Some(1.0));
    assert!(report.puback_ms.p50 <= report.puback_ms.p99);
    assert_eq!(world.journal.appended() as u64, report.acknowledged);
    assert_eq!(world.broker.stats().acknowledged, report.acknowledged);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_in_the_segment_log_after_it_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let options = || Options { segment_bytes: 4 << 20, ..Options::default() };
    let log = SegmentLog::open(folder.path(), options()).unwrap();
    let clock = Arc::new(SystemClock);
    let broker = Broker::new(log, Arc::new(Everybody), clock, quiet()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (shutdown, stop) = watch::channel(false);
    let serving = tokio::spawn({
        let broker = Arc::clone(&broker);
        async move { broker.serve_tcp(listener, stop).await }
    });
    let load = Load {
        publishers: 4,
        duration: Duration::from_millis(300),
        subscriber: true,
        ..Load::standard(address)
    };
    let report = run(&load).await.unwrap();
    assert_eq!(report.delivered_share, Some(1.0));
    shutdown.send_replace(true);
    serving.await.unwrap().unwrap();
    broker.close().await;
    drop(broker);
    let log = SegmentLog::open(folder.path(), options()).unwrap();
    let mut found = 0;
    let mut at = Offset(0);
    while at < log.durable() {
        let records = log.read(at, 1 << 20).unwrap();
        for (_, record) in &records.items {
            let message = MessageRef::decode(record).unwrap();
            assert!(message.client_id.starts_with("bench-") && message.payload.len() == 200);
            found += 1;
        }
        at = records.next;
    }
    assert_eq!(found, report.acknowledged);
}

#[tokio::test]
async fn idle_connections_stay_connected() {
    let world = World::new().await;
    let connections = idle(world.address, 50).await.unwrap();
    assert_eq!(world.broker.stats().connections, 50);
    drop(connections);
    world.until("they are gone", |w| w.broker.stats().connections == 0).await;
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_an_error() {
    let refused = run(&Load::standard(([127, 0, 0, 1], 1).into())).await.unwrap_err();
    assert!(refused.to_string().contains("127.0.0.1:1"), "{refused}");
}
