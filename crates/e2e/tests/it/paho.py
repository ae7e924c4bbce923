"""Both directions through the broker, checked message by message. Prints how many were sent."""

import sys, threading, time
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
host, port, version, transport = "127.0.0.1", int(sys.argv[1]), sys.argv[2], sys.argv[3]
protocol = {"3.1.1": MQTTProtocolVersion.MQTTv311, "5": MQTTProtocolVersion.MQTTv5}[version]

def client(name):
    c = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=protocol, transport=transport)
    c.ready, c.granted, c.seen = threading.Event(), threading.Event(), []
    def on_connect(c, userdata, flags, reason, properties):
        assert reason == 0, reason
        c.ready.set()
    c.on_connect = on_connect
    c.on_subscribe = lambda c, u, mid, reasons, p: (c.codes.extend(int(r.value) for r in reasons), c.granted.set())
    c.on_message = lambda c, u, m: c.seen.append((m.topic, m.payload, m.qos))
    c.codes = []
    c.connect(host, port, keepalive=30)
    c.loop_start()
    assert c.ready.wait(10), "no CONNACK"
    return c

def until(what, done):
    deadline = time.time() + 15
    while not done():
        assert time.time() < deadline, what()
        time.sleep(0.005)

subscribers = []
for qos in (0, 1, 2):
    s = client(f"sub-{version}-{qos}")
    s.subscribe([("air/+/readings", qos), ("other/#", qos)])
    assert s.granted.wait(10), "no SUBACK"
    assert s.codes == [qos, qos], s.codes
    subscribers.append((qos, s))
every = client(f"sub-{version}-every")
every.subscribe("#", 2)
assert every.granted.wait(10)

publisher = client(f"pub-{version}")
sent = []
for number in range(60):
    qos = number % 3
    topic = ["air/roof-1/readings", "air/roof-2/readings", "other", "other/deep/er", "elsewhere/x"][number % 5]
    payload = b"" if number == 59 else bytes([number]) * (number * 100 + 1)
    info = publisher.publish(topic, payload, qos=qos)
    info.wait_for_publish(10)
    assert info.is_published(), (topic, qos)
    sent.append((topic, payload, qos))
matching = [m for m in sent if m[0] != "elsewhere/x"]
for qos, s in subscribers:
    expected = [(t, p, min(q, qos)) for t, p, q in matching]
    until(lambda: f"qos {qos}: {len(s.seen)} of {len(expected)}", lambda: len(s.seen) >= len(expected))
until(lambda: f"#: {len(every.seen)}", lambda: len(every.seen) >= len(sent))
time.sleep(0.3)
for qos, s in subscribers:
    # Nothing is missing or comes twice. Each quality keeps its order; across them there is none,
    # since a client hands a QoS 2 message over only after its second exchange.
    expected = [(t, p, min(q, qos)) for t, p, q in matching]
    assert sorted(s.seen) == sorted(expected), (qos, len(s.seen), len(expected))
    for level in (0, 1, 2):
        assert [m for m in s.seen if m[2] == level] == [m for m in expected if m[2] == level], (qos, level)
for level in (0, 1, 2):
    assert [m for m in every.seen if m[2] == level] == [m for m in sent if m[2] == level], level
assert len(every.seen) == len(sent)

# Unsubscribed is over.
_, s = subscribers[1]
done = threading.Event()
s.on_unsubscribe = lambda *a: done.set()
s.unsubscribe("air/+/readings")
assert done.wait(10), "no UNSUBACK"
before = len(s.seen)
publisher.publish("air/roof-1/readings", b"after", qos=1).wait_for_publish(10)
publisher.publish("other", b"after", qos=1).wait_for_publish(10)
until(lambda: "the last message", lambda: len(s.seen) >= before + 1)
time.sleep(0.2)
assert s.seen[before:] == [("other", b"after", 1)], s.seen[before:]

# A kept session gets at its return what came while it was away.
def kept():
    if version == "5":
        from paho.mqtt.properties import Properties
        from paho.mqtt.packettypes import PacketTypes
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 300
        c = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="kept-5", protocol=protocol, transport=transport)
        how = dict(clean_start=False, properties=properties)
    else:
        c = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="kept-3", protocol=protocol, clean_session=False, transport=transport)
        how = {}
    c.ready, c.seen, c.present, c.granted = threading.Event(), [], None, threading.Event()
    def on_connect(c, userdata, flags, reason, properties):
        c.present = flags.session_present
        c.ready.set()
    c.on_connect = on_connect
    c.on_subscribe = lambda *a: c.granted.set()
    c.on_message = lambda c, u, m: c.seen.append(m.payload)
    c.connect(host, port, keepalive=30, **how)
    c.loop_start()
    assert c.ready.wait(10)
    return c
k = kept()
assert not k.present
k.subscribe("kept/#", 1)
assert k.granted.wait(10)
k.disconnect(); k.loop_stop()
for number in range(20):
    publisher.publish("kept/x", str(number).encode(), qos=1).wait_for_publish(10)
k = kept()
assert k.present, "the session was forgotten"
until(lambda: f"kept: {k.seen}", lambda: len(k.seen) >= 20)
assert k.seen == [str(n).encode() for n in range(20)], k.seen

# Members of a shared subscription get each message once between them, and MQTT 5 says by which
# subscription.
def shares(name):
    c = client(f"share-{version}-{name}")
    c.marks = []
    def on_message(c, u, m):
        c.seen.append(m.payload)
        if version == "5":
            c.marks.append(m.properties.SubscriptionIdentifier)
    c.on_message = on_message
    if version == "5":
        from paho.mqtt.properties import Properties
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.subscribeoptions import SubscribeOptions
        properties = Properties(PacketTypes.SUBSCRIBE)
        properties.SubscriptionIdentifier = 300
        c.subscribe("$share/crew/shared/+", options=SubscribeOptions(qos=1), properties=properties)
    else:
        c.subscribe("$share/crew/shared/+", 1)
    assert c.granted.wait(10) and c.codes == [1], c.codes
    return c
crew = [shares(name) for name in "ab"]
for number in range(40):
    publisher.publish("shared/x", str(number).encode(), qos=1).wait_for_publish(10)
until(lambda: [len(c.seen) for c in crew], lambda: sum(len(c.seen) for c in crew) >= 40)
time.sleep(0.2)
assert sorted(int(p) for c in crew for p in c.seen) == list(range(40)), [c.seen for c in crew]
assert all(len(c.seen) > 5 for c in crew), [len(c.seen) for c in crew]
if version == "5":
    assert all(mark == [300] for c in crew for mark in c.marks), [c.marks for c in crew]
for c in [publisher, every, k] + crew + [s for _, s in subscribers]:
    c.disconnect(); c.loop_stop()
print(len(sent))
