//! Interoperation with a client that somebody else wrote.

use std::time::Duration;

use rumqttc::v5;
use tokio::time::timeout;

use crate::raw::SOON;
use crate::support::World;

fn v4(world: &World, id: &str) -> (rumqttc::AsyncClient, rumqttc::EventLoop) {
    let mut options = rumqttc::MqttOptions::new(id, "127.0.0.1", world.address.port());
    options.set_keep_alive(Duration::from_secs(30));
    rumqttc::AsyncClient::new(options, 100)
}

fn v5_client(world: &World, id: &str) -> (v5::AsyncClient, v5::EventLoop) {
    let mut options = v5::MqttOptions::new(id, "127.0.0.1", world.address.port());
    options.set_keep_alive(Duration::from_secs(30));
    v5::AsyncClient::new(options, 100)
}

#[tokio::test]
async fn mqtt_3_1_1_at_every_quality_both_ways() {
    use rumqttc::{Event, Packet, QoS};
    let world = World::new().await;
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let (subscriber, mut inbox) = v4(&world, "sub");
        let (publisher, mut outbox) = v4(&world, "pub");
        subscriber.subscribe("t/+", qos).await.unwrap();
        let driven = tokio::spawn(async move { while outbox.poll().await.is_ok() {} });
        let mut received = Vec::new();
        let receiving = async {
            while received.len() < 50 {
                match inbox.poll().await.unwrap() {
                    Event::Incoming(Packet::SubAck(_)) => {
                        for number in 0..50 {
                            publisher.publish("t/x", qos, false, number.to_string()).await.unwrap();
                        }
                    }
                    Event::Incoming(Packet::Publish(publish)) => {
                        assert_eq!(publish.qos, qos);
                        received.push(String::from_utf8(publish.payload.to_vec()).unwrap());
                    }
                    _ => {}
                }
            }
        };
        timeout(SOON, receiving).await.expect("messages are missing");
        assert_eq!(received, (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
        driven.abort();
    }
    world.until("all is acknowledged", |w| w.broker.stats().acknowledged == 100).await;
}

#[tokio::test]
async fn mqtt_5_at_every_quality_both_ways() {
    use v5::Event;
    use v5::mqttbytes::QoS;
    use v5::mqttbytes::v5::Packet;
    let world = World::new().await;
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let (subscriber, mut inbox) = v5_client(&world, "sub");
        let (publisher, mut outbox) = v5_client(&world, "pub");
        subscriber.subscribe("t/+", qos).await.unwrap();
        let driven = tokio::spawn(async move { while outbox.poll().await.is_ok() {} });
        let mut received = Vec::new();
        let receiving = async {
            while received.len() < 50 {
                match inbox.poll().await.unwrap() {
                    Event::Incoming(Packet::SubAck(_)) => {
                        for number in 0..50 {
                            publisher.publish("t/x", qos, false, number.to_string()).await.unwrap();
                        }
                    }
                    Event::Incoming(Packet::Publish(publish)) => {
                        assert_eq!(publish.qos, qos);
                        received.push(String::from_utf8(publish.payload.to_vec()).unwrap());
                    }
                    _ => {}
                }
            }
        };
        timeout(SOON, receiving).await.expect("messages are missing");
        assert_eq!(received, (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
        driven.abort();
    }
    world.until("all is acknowledged", |w| w.broker.stats().acknowledged == 100).await;
}

#[tokio::test]
async fn mqtt_5_is_told_what_is_not_available() {
    use v5::Event;
    use v5::mqttbytes::v5::Packet;
    let world = World::new().await;
    let (_client, mut events) = v5_client(&world, "dev");
    let connack = timeout(SOON, async {
        loop {
            if let Event::Incoming(Packet::ConnAck(connack)) = events.poll().await.unwrap() {
                return connack;
            }
        }
    })
    .await
    .unwrap();
    let properties = connack.properties.unwrap();
    assert_eq!(properties.retain_available, Some(0));
    // Not said is available.
    assert_eq!(properties.shared_subscription_available, None);
    assert_eq!(properties.subscription_identifiers_available, None);
    assert_eq!(properties.receive_max, Some(1024));
    assert_eq!(properties.topic_alias_max, Some(16));
    assert_eq!(properties.max_packet_size, Some(128 * 1024 + 80 * 1024));
    assert_eq!(properties.max_qos, None);
}
