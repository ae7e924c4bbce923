//! The load client against our own broker.

use std::time::Duration;

use broker::bench::{Load, idle, run};

use crate::support::World;

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
