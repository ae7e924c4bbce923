//! MQTT 3.1.1 and 5 over TCP and mutual TLS; acknowledges when the journal says durable.
