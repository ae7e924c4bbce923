"""Publishes readings in a persistent session until told to finish, whatever the server does.

resend.py CLIENT PORT QOS KIT: says "publishing" once it is connected, then waits for a line on
its input, then until everything is acknowledged, and says what it came to as JSON. What was not
acknowledged is sent again by the client library alone.
"""

import glob
import json
import sys
import threading
import time

client, port, qos, kit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
TOPIC = "load/resender/readings"
WINDOW = 60
lock = threading.Condition()
sent, acknowledged = 0, set()
# Readings sent again, as far as the library tells, and unsettled ones whenever the server went.
again, under_way = 0, 0


def reading(seq):
    return json.dumps({"device": "resender", "seq": seq, "timestamp": "2026-01-01T00:00:00Z"})


def settled(seq):
    with lock:
        acknowledged.add(seq)
        lock.notify_all()


def cut_off():
    global under_way
    with lock:
        under_way += sent - len(acknowledged)


def paho(version):
    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    five = version == "5"
    session = {} if five else {"clean_session": False}
    protocol = mqtt.MQTTv5 if five else mqtt.MQTTv311
    c = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="resender", protocol=protocol, **session)
    c.max_inflight_messages_set(40)
    c.reconnect_delay_set(min_delay=1, max_delay=1)
    here, seqs = threading.Event(), {}

    def on_publish(_client, _userdata, mid, *_):
        # The answer may be faster than publish() returns.
        with lock:
            lock.wait_for(lambda: mid in seqs, 30)
            seq = seqs.pop(mid)
        settled(seq)

    def on_log(_client, _userdata, _level, text):
        global again
        # "Sending PUBLISH (d1, q1, r0, m7), ..." is one that was sent before.
        if text.startswith("Sending PUBLISH (d1"):
            again += 1

    c.on_connect = lambda *_: here.set()
    c.on_publish = on_publish
    c.on_disconnect = lambda *_: cut_off()
    c.on_log = on_log
    if five:
        kept = Properties(PacketTypes.CONNECT)
        kept.SessionExpiryInterval = 300
        c.connect(
            "127.0.0.1", port, 30, properties=kept, clean_start=mqtt.MQTT_CLEAN_START_FIRST_ONLY
        )
    else:
        c.connect("127.0.0.1", port, 30)
    c.loop_start()
    assert here.wait(20), "no CONNACK"

    def publish(seq):
        info = c.publish(TOPIC, reading(seq), qos=qos)
        with lock:
            seqs[info.mid] = seq
            lock.notify_all()

    return publish, lambda: again


def found(ending):
    return glob.glob(f"{kit}/*{ending}")[0]


def awscrt_3():
    from awscrt import mqtt
    from awsiot import mqtt_connection_builder

    c = mqtt_connection_builder.mtls_from_path(
        endpoint="localhost",
        port=port,
        cert_filepath=found(".cert.pem"),
        pri_key_filepath=found(".private.key"),
        ca_filepath=found("root-CA.crt"),
        client_id="resender",
        clean_session=False,
        keep_alive_secs=30,
        reconnect_min_timeout_secs=1,
        reconnect_max_timeout_secs=1,
        on_connection_interrupted=lambda *_, **__: cut_off(),
    )
    c.connect().result(20)

    def publish(seq):
        future, _ = c.publish(TOPIC, reading(seq), mqtt.QoS(qos))
        # A publish that the library gave up is not acknowledged, and the test waits in vain.
        future.add_done_callback(lambda done: done.exception() or settled(seq))

    return publish, lambda: None


def awscrt_5():
    from awscrt import mqtt5
    from awsiot import mqtt5_client_builder

    here = threading.Event()
    c = mqtt5_client_builder.mtls_from_path(
        endpoint="localhost",
        port=port,
        cert_filepath=found(".cert.pem"),
        pri_key_filepath=found(".private.key"),
        ca_filepath=found("root-CA.crt"),
        connect_options=mqtt5.ConnectPacket(
            client_id="resender", keep_alive_interval_sec=30, session_expiry_interval_sec=300
        ),
        session_behavior=mqtt5.ClientSessionBehaviorType.REJOIN_ALWAYS,
        min_reconnect_delay_ms=500,
        max_reconnect_delay_ms=1000,
        on_lifecycle_connection_success=lambda _: here.set(),
        on_lifecycle_disconnection=lambda _: cut_off(),
        # By default it keeps AWS's quota of a hundred messages a second.
        extended_validation_and_flow_control_options=(
            mqtt5.ExtendedValidationAndFlowControlOptions.NONE
        ),
    )
    c.start()
    assert here.wait(20), "no CONNACK"

    def publish(seq):
        packet = mqtt5.PublishPacket(topic=TOPIC, payload=reading(seq), qos=mqtt5.QoS(qos))
        c.publish(packet).add_done_callback(lambda done: done.exception() or settled(seq))

    return publish, lambda: None


kind, version = client.split("-")
publish, sent_again = {
    "paho": lambda: paho(version),
    "awscrt": lambda: awscrt_5() if version == "5" else awscrt_3(),
}[kind]()
print("publishing", flush=True)
finish = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), finish.set()), daemon=True).start()
while not finish.is_set():
    with lock:
        lock.wait_for(lambda: sent - len(acknowledged) < WINDOW, 0.2)
        if sent - len(acknowledged) >= WINDOW:
            continue
    publish(sent)
    with lock:
        sent += 1
deadline = time.monotonic() + 60
with lock:
    while len(acknowledged) < sent and time.monotonic() < deadline:
        lock.wait(0.2)
said = {"sent": sent, "acknowledged": len(acknowledged), "again": sent_again()}
print(json.dumps({**said, "under_way": under_way}), flush=True)
# What still runs in the background has nothing left to do.
import os

os._exit(0)
