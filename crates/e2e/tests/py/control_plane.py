"""The control plane by boto3, and what its answers mean.

Where a walk over the operations only asks that each answers, this one asks that a rule rules,
a policy refuses, a crawl finds the types, a bookmark keeps inputs from being taken twice, a
filter filters and a page ends. Usage: MQTTS_PORT=… ROOT_CA=… control_plane.py [service ...]
"""
import base64, datetime, gzip, http.server, io, json, os, sys, tempfile, threading, time, urllib.request, uuid, zipfile

import boto3
import paho.mqtt.client as mqtt
import pandas as pd
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

BUCKET = "control-lake"
clients = {}
calls = 0


def aws(service):
    """A client, counting its calls."""
    if service not in clients:
        client = clients[service] = boto3.client(service)

        def count(**_):
            global calls
            calls += 1

        client.meta.events.register("before-send", count)
    return clients[service]


ACCOUNT = boto3.client("sts").get_caller_identity()["Account"]
REGION = boto3.Session().region_name
ROLE = f"arn:aws:iam::{ACCOUNT}:role/service-role/control"
DEEPAR = f"522234722520.dkr.ecr.{REGION}.amazonaws.com/forecasting-deepar:1"


def same(left, right, what=""):
    assert left == right, f"{what}: {left!r} is not {right!r}"


def shadow_or_none(data, thing):
    try:
        return json.loads(data.get_thing_shadow(thingName=thing)["payload"].read())
    except ClientError:
        return None


def refused(code, call, *words, **arguments):
    """The call fails with this code, and its message says these words."""
    try:
        answer = call(**arguments)
    except ClientError as error:
        told = error.response["Error"]
        same(told["Code"], code, f"{call.__name__} {told['Message']}")
        for word in words:
            assert word in told["Message"], f"{call.__name__}: {told['Message']!r} does not say {word!r}"
        assert error.response["ResponseMetadata"]["RequestId"]
        return
    raise AssertionError(f"{call.__name__} should be refused with {code}, but answered {answer}")


def until(what, done, seconds=180, every=0.3):
    end = time.monotonic() + seconds
    while True:
        answer = done()
        if answer:
            return answer
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(every)


def pages(call, key, token, size, **arguments):
    """All items, a page at a time by hand: every page but the last is full."""
    items, more = [], {}
    while True:
        answer = call(**arguments, **size, **more)
        page = answer[key]
        items += page
        limit = next(iter(size.values()))
        assert len(page) <= limit, (call.__name__, len(page))
        name, given = token
        if not answer.get(given):
            return items
        more = {name: answer[given]}


def stamped(moment):
    """A time within the last hour, with a zone."""
    now = datetime.datetime.now(datetime.timezone.utc)
    assert moment.tzinfo and datetime.timedelta(minutes=-1) < now - moment < datetime.timedelta(hours=1), moment


def bucket():
    try:
        aws("s3").create_bucket(Bucket=BUCKET)
    except aws("s3").exceptions.BucketAlreadyOwnedByYou:
        pass


def identity():
    caller = aws("sts").get_caller_identity()
    assert ":assumed-role/" in caller["Arn"], caller
    role = caller["Arn"].split("/")[1]
    found = aws("iam").get_role(RoleName=role)["Role"]
    assert found["Arn"].startswith(f"arn:aws:iam::{ACCOUNT}:role/") and found["Arn"].endswith(role), found
    refused("NoSuchEntity", aws("iam").get_role, RoleName="nobody-made-this")
    trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "glue.amazonaws.com"}, "Action": "sts:AssumeRole"}]}
    made = aws("iam").create_role(RoleName="control-role", AssumeRolePolicyDocument=json.dumps(trust), Description="made by a test")["Role"]
    again = aws("iam").get_role(RoleName="control-role")["Role"]
    same(again["Arn"], made["Arn"])
    same(again["AssumeRolePolicyDocument"], trust)
    refused("EntityAlreadyExists", aws("iam").create_role, RoleName="control-role", AssumeRolePolicyDocument=json.dumps(trust))
    aws("iam").attach_role_policy(RoleName="control-role", PolicyArn="arn:aws:iam::aws:policy/AmazonS3FullAccess")

    lent = aws("sts").assume_role(RoleArn=made["Arn"], RoleSessionName="an-hour")
    keys = lent["Credentials"]
    assert keys["Expiration"] > datetime.datetime.now(datetime.timezone.utc)
    borrower = boto3.Session(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])
    same(borrower.client("sts").get_caller_identity()["Arn"], f"arn:aws:sts::{ACCOUNT}:assumed-role/control-role/an-hour")
    assert borrower.client("s3").list_buckets()["ResponseMetadata"]["HTTPStatusCode"] == 200
    without = boto3.Session(keys["AccessKeyId"], keys["SecretAccessKey"])
    refused("InvalidClientTokenId", without.client("sts").get_caller_identity)


def iot():
    c = aws("iot")
    host = c.describe_endpoint(endpointType="iot:Data-ATS")["endpointAddress"]
    assert host and "/" not in host and ":" not in host, host
    kind = f"kind-{uuid.uuid4().hex[:8]}"
    c.create_thing_type(thingTypeName=kind)
    things = [f"{kind}-{n}" for n in range(5)]
    for n, name in enumerate(things):
        made = c.create_thing(thingName=name, thingTypeName=kind, attributePayload={"attributes": {"floor": str(n % 2)}})
        same(made["thingArn"], f"arn:aws:iot:{REGION}:{ACCOUNT}:thing/{name}")
    listed = pages(c.list_things, "things", ("nextToken", "nextToken"), {"maxResults": 2}, thingTypeName=kind)
    same(sorted(t["thingName"] for t in listed), things)
    listed = c.list_things(attributeName="floor", attributeValue="1", thingTypeName=kind)["things"]
    same(sorted(t["thingName"] for t in listed), things[1::2], "things by attribute")
    one = c.describe_thing(thingName=things[0])
    same((one["thingTypeName"], one["attributes"], one["version"]), (kind, {"floor": "0"}, 1))
    c.update_thing(thingName=things[0], attributePayload={"attributes": {"roof": "flat"}, "merge": True}, expectedVersion=1)
    one = c.describe_thing(thingName=things[0])
    same((one["attributes"], one["version"]), ({"floor": "0", "roof": "flat"}, 2))
    refused("VersionConflictException", c.update_thing, thingName=things[0], attributePayload={"attributes": {}}, expectedVersion=1)
    refused("ResourceNotFoundException", c.describe_thing, "nothing-here", thingName="nothing-here")
    refused("ResourceAlreadyExistsException", c.create_thing, thingName=things[0], thingTypeName=kind, attributePayload={"attributes": {"floor": "9"}})

    made = c.create_keys_and_certificate(setAsActive=False)
    arn, identity_ = made["certificateArn"], made["certificateId"]
    same(arn, f"arn:aws:iot:{REGION}:{ACCOUNT}:cert/{identity_}")
    assert len(identity_) == 64 and set(identity_) <= set("0123456789abcdef"), identity_
    assert made["keyPair"]["PrivateKey"].startswith("-----BEGIN") and "PRIVATE KEY" in made["keyPair"]["PrivateKey"]
    told = c.describe_certificate(certificateId=identity_)["certificateDescription"]
    same((told["status"], told["certificatePem"]), ("INACTIVE", made["certificatePem"]))
    c.update_certificate(certificateId=identity_, newStatus="ACTIVE")
    same(c.describe_certificate(certificateId=identity_)["certificateDescription"]["status"], "ACTIVE")
    assert identity_ in [one["certificateId"] for one in pages(c.list_certificates, "certificates", ("marker", "nextMarker"), {"pageSize": 2})]

    name = f"{kind}-policy"
    document = lambda n: json.dumps({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "iot:Connect", "Resource": f"arn:aws:iot:{REGION}:{ACCOUNT}:client/" + "${iot:Connection.Thing.ThingName}"},
        {"Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"], "Resource": f"arn:aws:iot:{REGION}:{ACCOUNT}:topic/control/{n}"},
        {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": f"arn:aws:iot:{REGION}:{ACCOUNT}:topicfilter/control/*"},
        {"Effect": "Deny", "Action": "iot:Publish", "Resource": f"arn:aws:iot:{REGION}:{ACCOUNT}:topic/control/forbidden"}]})
    refused("MalformedPolicyException", c.create_policy, policyName=name, policyDocument="{")
    c.create_policy(policyName=name, policyDocument=document(1))
    refused("ResourceAlreadyExistsException", c.create_policy, policyName=name, policyDocument=document(1))
    for n in range(2, 6):
        version = c.create_policy_version(policyName=name, policyDocument=document(n), setAsDefault=n == 5)
        same(version["policyVersionId"], str(n))
    refused("VersionsLimitExceededException", c.create_policy_version, policyName=name, policyDocument=document(6))
    same(c.get_policy(policyName=name)["defaultVersionId"], "5")
    refused("DeleteConflictException", c.delete_policy_version, policyName=name, policyVersionId="5")
    c.set_default_policy_version(policyName=name, policyVersionId="1")
    c.delete_policy_version(policyName=name, policyVersionId="5")
    same(sorted(v["versionId"] for v in c.list_policy_versions(policyName=name)["policyVersions"]), ["1", "2", "3", "4"])
    c.attach_policy(policyName=name, target=arn)
    c.attach_thing_principal(thingName=things[0], principal=arn)
    same([p["policyName"] for p in c.list_attached_policies(target=arn)["policies"]], [name])
    same(c.list_targets_for_policy(policyName=name)["targets"], [arn])
    same(c.list_thing_principals(thingName=things[0])["principals"], [arn])
    same(c.list_principal_things(principal=arn)["things"], [things[0]])

    def decides(action, resource):
        answer = c.test_authorization(principal=arn, clientId=things[0], authInfos=[{"actionType": action, "resources": [resource]}])
        return answer["authResults"][0]["authDecision"]

    where = f"arn:aws:iot:{REGION}:{ACCOUNT}:"
    same(decides("PUBLISH", where + "topic/control/1"), "ALLOWED")
    same(decides("PUBLISH", where + "topic/control/2"), "IMPLICIT_DENY")
    same(decides("PUBLISH", where + "topic/control/forbidden"), "EXPLICIT_DENY")
    same(decides("SUBSCRIBE", where + "topicfilter/control/#"), "ALLOWED")

    rule = kind.replace("-", "_")
    refused("SqlParseException", c.create_topic_rule, ruleName=rule, topicRulePayload={"sql": "SELEKT", "actions": [{"republish": {"topic": "t", "roleArn": ROLE}}]})
    payload = {"sql": f"SELECT ozone FROM 'control/{kind}'", "ruleDisabled": False, "awsIotSqlVersion": "2016-03-23",
               "actions": [{"firehose": {"deliveryStreamName": kind, "roleArn": ROLE, "separator": "\n"}}]}
    c.create_topic_rule(ruleName=rule, topicRulePayload=payload)
    refused("ResourceAlreadyExistsException", c.create_topic_rule, ruleName=rule, topicRulePayload=payload)
    kept = c.get_topic_rule(ruleName=rule)["rule"]
    same((kept["sql"], kept["actions"], kept["ruleDisabled"]), (payload["sql"], payload["actions"], False))
    same([r["ruleName"] for r in c.list_topic_rules(topic=f"control/{kind}")["rules"]], [rule], "rules of a topic")
    same(c.list_topic_rules(topic="elsewhere/entirely")["rules"], [])
    c.disable_topic_rule(ruleName=rule)
    assert c.get_topic_rule(ruleName=rule)["rule"]["ruleDisabled"]
    c.enable_topic_rule(ruleName=rule)
    refused("UnauthorizedException", c.get_topic_rule, ruleName="no_such_rule")
    aws("iot-data").publish(topic=f"control/{kind}/kept", qos=1, retain=True, payload=b'{"ozone":7}')
    same(aws("iot-data").get_retained_message(topic=f"control/{kind}/kept")["payload"], b'{"ozone":7}')
    aws("iot-data").publish(topic=f"control/{kind}/kept", qos=1, retain=True, payload=b"")
    refused("ResourceNotFoundException", aws("iot-data").get_retained_message, topic=f"control/{kind}/kept")

    # A thing's shadows: what is wished, what is, and what is between them.
    data, thing = aws("iot-data"), f"{kind}-lamp"
    refused("ResourceNotFoundException", data.get_thing_shadow, "No shadow exists", thingName=thing)
    shadow = lambda answer: json.loads(answer["payload"].read())
    wish = json.dumps({"state": {"desired": {"colour": {"r": 255, "g": 0}}}, "clientToken": "t"})
    accepted = shadow(data.update_thing_shadow(thingName=thing, payload=wish))
    same((accepted["version"], accepted["clientToken"]), (1, "t"))
    report = json.dumps({"state": {"reported": {"colour": {"r": 255}}}, "version": 1})
    data.update_thing_shadow(thingName=thing, payload=report)
    refused("ConflictException", data.update_thing_shadow, "Version conflict", thingName=thing, payload=report)
    told = shadow(data.get_thing_shadow(thingName=thing))
    same((told["version"], told["state"]["delta"]), (2, {"colour": {"g": 0}}))
    assert told["metadata"]["desired"]["colour"]["g"]["timestamp"] <= told["timestamp"]
    data.update_thing_shadow(thingName=thing, shadowName="night", payload=wish)
    same(data.list_named_shadows_for_thing(thingName=thing)["results"], ["night"])
    refused("InvalidRequestException", data.update_thing_shadow, "Missing required node", thingName=thing, payload="{}")
    refused("RequestEntityTooLargeException", data.update_thing_shadow, thingName=thing, payload=json.dumps({"state": {"desired": {"x": "y" * 9000}}}))
    for which in ({}, {"shadowName": "night"}):
        data.delete_thing_shadow(thingName=thing, **which)
        refused("ResourceNotFoundException", data.get_thing_shadow, thingName=thing, **which)

    # The rule rules: published through the API, selected by SQL, delivered by the stream.
    bucket()
    stream(kind, "ruled/")
    for value in range(3):
        aws("iot-data").publish(topic=f"control/{kind}", qos=1, payload=json.dumps({"ozone": value, "hidden": 1}).encode())
    c.disable_topic_rule(ruleName=rule)
    aws("iot-data").publish(topic=f"control/{kind}", qos=1, payload=b'{"ozone": 99}')
    lines = until("the rule's records", lambda: (found := text_below("ruled/").split()) and len(found) >= 3 and found)
    same(sorted(lines), ['{"ozone":0}', '{"ozone":1}', '{"ozone":2}'], "what the rule selected")
    c.delete_topic_rule(ruleName=rule)
    aws("firehose").delete_delivery_stream(DeliveryStreamName=kind)

    # A rule that names topic and headers by the message, and one that reports into a shadow.
    to_shadow, data = f"{rule}_shadow", aws("iot-data")
    c.create_topic_rule(ruleName=to_shadow, topicRulePayload={
        "sql": f"SET @o = ozone SELECT @o AS state.reported.ozone FROM 'sensors/{kind}/+'", "awsIotSqlVersion": "2016-03-23",
        "actions": [
            {"republish": {"topic": "$$aws/things/${topic(3)}/shadow/update", "qos": 1, "roleArn": ROLE}},
            {"republish": {"topic": f"copies/{kind}/${{@o}}", "roleArn": ROLE, "headers": {"contentType": "${topic(3)}", "userProperties": [{"key": "from", "value": "${clientid()}"}]}}},
        ]})
    kept = c.get_topic_rule(ruleName=to_shadow)["rule"]["actions"][1]["republish"]
    same(kept["headers"]["userProperties"], [{"key": "from", "value": "${clientid()}"}])
    data.publish(topic=f"sensors/{kind}/{kind}-roof", qos=1, payload=b'{"ozone": 7}')
    reported = until("the shadow of the rule", lambda: shadow_or_none(data, f"{kind}-roof"))
    same(reported["state"]["reported"], {"ozone": 7})
    refused("InvalidRequestException", c.create_topic_rule, "substitution template", ruleName=f"{rule}_bad", topicRulePayload={"sql": "SELECT * FROM 'a'", "actions": [{"republish": {"topic": "a/${topic(", "roleArn": ROLE}}]})
    c.delete_topic_rule(ruleName=to_shadow)

    # One that puts its output into an object, a log group and a metric; what fails is reported
    # as an object, too.
    elsewhere, group, s3, put = f"{rule}_elsewhere", f"/{kind}", aws("s3"), {"bucketName": BUCKET, "roleArn": ROLE}
    aws("logs").create_log_group(logGroupName=group)
    actions = [
        {"s3": {**put, "key": f"single/{kind}/${{ozone}}.json"}},
        {"s3": {**put, "bucketName": "no-such-bucket", "key": "k"}},
        {"cloudwatchLogs": {"logGroupName": group, "roleArn": ROLE}},
        {"cloudwatchMetric": {"metricNamespace": kind, "metricName": "ozone", "metricValue": "${ozone}", "metricUnit": "None", "roleArn": ROLE}},
    ]
    c.create_topic_rule(ruleName=elsewhere, topicRulePayload={"sql": f"SELECT * FROM 'elsewhere/{kind}'", "actions": actions, "errorAction": {"s3": {**put, "key": f"failed/{kind}/${{ozone}}"}}})
    same(c.get_topic_rule(ruleName=elsewhere)["rule"]["actions"], actions)
    refused("InvalidRequestException", c.create_topic_rule, "metricUnit", ruleName=f"{rule}_bad", topicRulePayload={"sql": "SELECT * FROM 'a'", "actions": [{"cloudwatchMetric": {**actions[3]["cloudwatchMetric"], "metricValue": "1", "metricUnit": "Apples"}}]})
    for value in (3, 4):
        data.publish(topic=f"elsewhere/{kind}", qos=1, payload=json.dumps({"ozone": value}).encode())
    keys = lambda prefix: [o["Key"] for o in s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])]
    until("the second object", lambda: len(keys(f"single/{kind}/")) == 2)
    same(s3.get_object(Bucket=BUCKET, Key=f"single/{kind}/4.json")["Body"].read(), b'{"ozone": 4}')
    until("the second report", lambda: len(keys(f"failed/{kind}/")) == 2)
    report = json.loads(s3.get_object(Bucket=BUCKET, Key=f"failed/{kind}/3")["Body"].read())
    same([(f["failedAction"], f["failedResource"]) for f in report["failures"]], [("S3Action", "no-such-bucket")])
    events = until("the log events", lambda: (e := aws("logs").filter_log_events(logGroupName=group)["events"]) and len(e) == 2 and e)
    same(sorted(json.loads(e["message"])["ozone"] for e in events), [3, 4])
    now = datetime.datetime.now(datetime.timezone.utc)
    ago = now - datetime.timedelta(minutes=10)
    points = aws("cloudwatch").get_metric_statistics(Namespace=kind, MetricName="ozone", StartTime=ago, EndTime=now + datetime.timedelta(minutes=1), Period=3600, Statistics=["Sum", "SampleCount"])["Datapoints"]
    same((sum(p["Sum"] for p in points), sum(p["SampleCount"] for p in points)), (7.0, 2.0))
    c.delete_topic_rule(ruleName=elsewhere)
    posts_to_an_endpoint(c, rule)

    refused("DeleteConflictException", c.delete_policy, policyName=name)
    refused("CertificateStateException", c.delete_certificate, certificateId=identity_)
    c.update_certificate(certificateId=identity_, newStatus="INACTIVE")
    refused("DeleteConflictException", c.delete_certificate, certificateId=identity_)
    c.detach_thing_principal(thingName=things[0], principal=arn)
    c.detach_policy(policyName=name, target=arn)
    c.delete_certificate(certificateId=identity_)
    refused("ResourceNotFoundException", c.describe_certificate, certificateId=identity_)
    for version in ("2", "3", "4"):
        c.delete_policy_version(policyName=name, policyVersionId=version)
    c.delete_policy(policyName=name)
    for thing in things:
        c.delete_thing(thingName=thing)
    same(c.list_things(thingTypeName=kind)["things"], [])
    certificates_made_elsewhere()


def posts_to_an_endpoint(c, rule):
    """A rule's endpoint, as somebody else's program: it confirms, and is told what happens."""
    seen = []

    class Endpoint(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            seen.append((self.path, self.headers, json.loads(body)))
            self.send_response(418 if b"spill" in body else 200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    endpoint = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=endpoint.serve_forever, daemon=True).start()
    at, data, s3 = f"http://127.0.0.1:{endpoint.server_port}/in", aws("iot-data"), aws("s3")
    posts, topic = f"{rule}_posts", f"posts/{rule}"
    action = {"http": {"url": at + "/${kind}", "confirmationUrl": at, "headers": [{"key": "X-Topic", "value": "${topic()}"}]}}
    sink = {"s3": {"bucketName": BUCKET, "roleArn": ROLE, "key": f"posts/{rule}/${{kind}}"}}
    refused("InvalidRequestException", c.create_topic_rule, "rules.http_allowed", ruleName=posts, topicRulePayload={"sql": "SELECT * FROM 'a'", "actions": [{"http": {"url": "http://192.168.0.1/"}}]})
    c.create_topic_rule(ruleName=posts, topicRulePayload={"sql": f"SELECT *, sourceip() AS ip FROM '{topic}'", "actions": [action], "errorAction": sink})
    same(c.get_topic_rule(ruleName=posts)["rule"]["actions"], [action])

    # Until the endpoint says that it wants them, it gets nothing, and the error action does.
    asked = until("the question", lambda: seen and seen.pop())
    same((asked[0], asked[2]["messageType"]), (f"/in?confirmationToken={asked[2]['confirmationToken']}", "DestinationConfirmation"))
    destination = c.get_topic_rule_destination(arn=asked[2]["arn"])["topicRuleDestination"]
    same((destination["status"], destination["httpUrlProperties"]), ("IN_PROGRESS", {"confirmationUrl": at}))
    publish = lambda kind: data.publish(topic=topic, qos=1, payload=json.dumps({"kind": kind}).encode())
    report = lambda kind: json.loads(until(f"the report of {kind}", lambda: below(s3, f"posts/{rule}/{kind}")))["failures"][0]
    publish("early")
    same(report("early")["failedAction"], "HttpAction")
    same(seen, [])
    same(urllib.request.urlopen(asked[2]["enableUrl"]).status, 200)
    same(c.get_topic_rule_destination(arn=asked[2]["arn"])["topicRuleDestination"]["status"], "ENABLED")

    publish("rain")
    path, headers, body = until("the post", lambda: seen and seen.pop())
    same((path, headers["X-Topic"], body["kind"]), ("/in/rain", topic, "rain"))
    publish("spill")
    assert "418" in report("spill")["errorMessage"], report("spill")
    same(len(seen), 1, "what is refused is not posted again")
    c.update_topic_rule_destination(arn=asked[2]["arn"], status="DISABLED")
    publish("late")
    same((report("late")["failedResource"], len(seen)), (at + "/${kind}", 1))
    same([d["arn"] for d in c.list_topic_rule_destinations()["destinationSummaries"]], [asked[2]["arn"]])
    c.delete_topic_rule(ruleName=posts)
    c.delete_topic_rule_destination(arn=asked[2]["arn"])
    refused("UnauthorizedException", c.get_topic_rule_destination, arn=asked[2]["arn"])
    endpoint.shutdown()


def below(s3, key):
    """The bytes of an object, once it is there."""
    try:
        return s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    except ClientError as error:
        assert error.response["Error"]["Code"] == "NoSuchKey", error
        return None


class Issuer:
    """A CA of somebody else's, as a factory has one for the devices it makes."""

    def __init__(self, name):
        self.name, self.key = named(name), ec.generate_private_key(ec.SECP256R1())
        self.pem = self.sign(self.name, self.key, x509.BasicConstraints(ca=True, path_length=None))

    def sign(self, subject, key, *extensions):
        now = datetime.datetime.now(datetime.timezone.utc)
        made = x509.CertificateBuilder(
            self.name, subject, key.public_key(), x509.random_serial_number(),
            now - datetime.timedelta(hours=1), now + datetime.timedelta(days=30))
        for extension in extensions:
            made = made.add_extension(extension, critical=True)
        return made.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def device(self, name):
        """A certificate and its key, which Forebay never sees."""
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return self.sign(named(name), key), private.decode()


def named(name):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def publishes(client, certificate, key, topic, payload=b"{}"):
    """Whether a device with this certificate is let in, and its message is acknowledged."""
    with tempfile.TemporaryDirectory() as folder:
        files = [os.path.join(folder, name) for name in ("cert.pem", "private.key")]
        for path, text in zip(files, (certificate, key)):
            with open(path, "w") as file:
                file.write(text)
        device = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client)
        device.tls_set(os.environ["ROOT_CA"], *files)
        try:
            device.connect("localhost", int(os.environ["MQTTS_PORT"]), 10)
            device.loop_start()
            sent = device.publish(topic, payload, qos=1)
            sent.wait_for_publish(3)
            return sent.is_published()
        except (OSError, RuntimeError):  # The handshake failed; the connection was ended.
            return False
        finally:
            device.disconnect()
            device.loop_stop()


def certificates_made_elsewhere():
    c = aws("iot")
    issuer, stranger = Issuer("A factory"), Issuer("Another factory")
    of_ca, of_ca_key = issuer.device("of-ca")
    alone, alone_key = stranger.device("alone")

    # Whoever registers a CA shows that they hold its key.
    refused("CertificateValidationException", c.register_certificate, certificatePem=of_ca, caCertificatePem=issuer.pem)
    code = c.get_registration_code()["registrationCode"]
    wrong, _ = issuer.device("not-the-code")
    refused("RegistrationCodeValidationException", c.register_ca_certificate, caCertificate=issuer.pem, verificationCertificate=wrong)
    forged, _ = stranger.device(code)
    refused("CertificateValidationException", c.register_ca_certificate, caCertificate=issuer.pem, verificationCertificate=forged)
    proof, _ = issuer.device(code)
    ca = c.register_ca_certificate(caCertificate=issuer.pem, verificationCertificate=proof, setAsActive=True)
    told = c.describe_ca_certificate(certificateId=ca["certificateId"])["certificateDescription"]
    same((told["status"], told["certificatePem"]), ("ACTIVE", issuer.pem))
    assert ca["certificateId"] in [one["certificateId"] for one in pages(
        c.list_ca_certificates, "certificates", ("marker", "nextMarker"), {"pageSize": 1})]

    by_ca = c.register_certificate(certificatePem=of_ca, caCertificatePem=issuer.pem, status="ACTIVE")
    by_itself = c.register_certificate_without_ca(certificatePem=alone, status="ACTIVE")
    refused("ResourceAlreadyExistsException", c.register_certificate_without_ca, certificatePem=alone)
    listed = c.list_certificates_by_ca(caCertificateId=ca["certificateId"])["certificates"]
    same([one["certificateId"] for one in listed], [by_ca["certificateId"]])

    # A registered certificate connects as one of ours does: by its policy, while it is ACTIVE.
    where = f"arn:aws:iot:{REGION}:{ACCOUNT}:"
    c.create_policy(policyName="elsewhere", policyDocument=json.dumps({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "iot:Connect", "Resource": where + "client/from-*"},
        {"Effect": "Allow", "Action": "iot:Publish", "Resource": [where + "topic/elsewhere/*", where + "topic/$aws/rules/direct/*"]}]}))
    # What AWS IoT itself says of them goes through a rule, as does what they say to one alone.
    bucket()
    stream("presence", "presence/")
    action = {"firehose": {"deliveryStreamName": "presence", "roleArn": ROLE, "separator": "\n"}}
    for rule, sql in (("presence", "SELECT * FROM '$aws/events/presence/+/+' WHERE startswith(clientId, 'from-')"),
                      ("direct", "SELECT ozone, topic() AS via FROM 'nobody/publishes/here'")):
        c.create_topic_rule(ruleName=rule, topicRulePayload={"sql": sql, "actions": [action], "awsIotSqlVersion": "2016-03-23"})
    for made, certificate, key in ((by_ca, of_ca, of_ca_key), (by_itself, alone, alone_key)):
        client = f"from-{made['certificateId'][:6]}"
        assert not publishes(client, certificate, key, "elsewhere/air"), "published without a policy"
        c.attach_policy(policyName="elsewhere", target=made["certificateArn"])
        assert publishes(client, certificate, key, "elsewhere/air")
        assert publishes(client, certificate, key, "$aws/rules/direct/air", b'{"ozone": 5, "hidden": 1}')
        assert not publishes(client, certificate, key, "other/air"), "published where no policy allows it"
        c.update_certificate(certificateId=made["certificateId"], newStatus="INACTIVE")
        assert not publishes(client, certificate, key, "elsewhere/air"), "an INACTIVE certificate got in"
        c.detach_policy(policyName="elsewhere", target=made["certificateArn"])
        c.delete_certificate(certificateId=made["certificateId"])
    unknown, unknown_key = issuer.device("unknown")
    assert not publishes("from-nowhere", unknown, unknown_key, "elsewhere/air"), "its CA alone got it in"

    def presence():
        found = [json.loads(line) for line in text_below("presence/").splitlines()]
        direct = [one for one in found if "via" in one]
        said = [one for one in found if one.get("clientId") == f"from-{by_ca['certificateId'][:6]}"]
        return (direct, said) if len(direct) >= 2 and len(said) >= 6 else None

    direct, said = until("what was said of them", presence)
    same(direct, [{"ozone": 5, "via": "air"}] * 2, "basic ingest")
    # Connected and gone, three times; then paho tries again what it may not do.
    goodbye = [None, "CLIENT_INITIATED_DISCONNECT"]
    same([one.get("disconnectReason") for one in said[:6]], goodbye * 2 + [None, "FORBIDDEN_ACCESS"], "how they ended")
    same({one["principalIdentifier"] for one in said}, {by_ca["certificateId"]})
    assert all(one["versionNumber"] == two["versionNumber"] for one, two in zip(said[::2], said[1::2])), said
    for rule in ("presence", "direct"):
        c.delete_topic_rule(ruleName=rule)
    aws("firehose").delete_delivery_stream(DeliveryStreamName="presence")

    c.delete_policy(policyName="elsewhere")
    refused("CertificateStateException", c.delete_ca_certificate, certificateId=ca["certificateId"])
    c.update_ca_certificate(certificateId=ca["certificateId"], newStatus="INACTIVE")
    c.delete_ca_certificate(certificateId=ca["certificateId"])
    refused("ResourceNotFoundException", c.describe_ca_certificate, certificateId=ca["certificateId"])


def stream(name, prefix):
    c = aws("firehose")
    c.create_delivery_stream(DeliveryStreamName=name, ExtendedS3DestinationConfiguration={
        "RoleARN": ROLE, "BucketARN": f"arn:aws:s3:::{BUCKET}", "Prefix": prefix, "ErrorOutputPrefix": "errors/!{firehose:error-output-type}/",
        "BufferingHints": {"SizeInMBs": 1, "IntervalInSeconds": 1}, "CompressionFormat": "UNCOMPRESSED"})
    until("the stream", lambda: describe(name)["DeliveryStreamStatus"] == "ACTIVE")


def describe(name):
    return aws("firehose").describe_delivery_stream(DeliveryStreamName=name)["DeliveryStreamDescription"]


def keys_below(prefix):
    listed = aws("s3").get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return [item["Key"] for page in listed for item in page.get("Contents", [])]


def text_below(prefix):
    return "".join(aws("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read().decode() for key in keys_below(prefix))


def firehose():
    bucket()
    c = aws("firehose")
    name = "control-stream"
    stream(name, "direct/")
    refused("ResourceInUseException", c.create_delivery_stream, DeliveryStreamName=name,
            ExtendedS3DestinationConfiguration={"RoleARN": ROLE, "BucketARN": f"arn:aws:s3:::{BUCKET}"})
    told = describe(name)
    same((told["VersionId"], told["DeliveryStreamType"]), ("1", "DirectPut"))
    destination = told["Destinations"][0]
    same(destination["ExtendedS3DestinationDescription"]["BufferingHints"], {"SizeInMBs": 1, "IntervalInSeconds": 1})
    assert c.put_record(DeliveryStreamName=name, Record={"Data": b'{"n":0}\n'})["RecordId"]
    answer = c.put_record_batch(DeliveryStreamName=name, Records=[{"Data": b'{"n":%d}\n' % n} for n in range(1, 500)])
    same((answer["FailedPutCount"], len({r["RecordId"] for r in answer["RequestResponses"]})), (0, 499))
    refused("InvalidArgumentException", c.put_record, DeliveryStreamName=name, Record={"Data": b"x" * (1024 * 1000 + 1)})
    refused("ResourceNotFoundException", c.put_record, "not-there", DeliveryStreamName="not-there", Record={"Data": b"x"})
    whole = until("500 records", lambda: (t := text_below("direct/")).count("\n") >= 500 and t)
    same([json.loads(line)["n"] for line in whole.splitlines()], list(range(500)), "records, once and in order")
    update = {"BufferingHints": {"SizeInMBs": 2, "IntervalInSeconds": 60}}
    refused("ConcurrentModificationException", c.update_destination, DeliveryStreamName=name, CurrentDeliveryStreamVersionId="7",
            DestinationId=destination["DestinationId"], ExtendedS3DestinationUpdate=update)
    c.update_destination(DeliveryStreamName=name, CurrentDeliveryStreamVersionId="1", DestinationId=destination["DestinationId"], ExtendedS3DestinationUpdate=update)
    told = describe(name)
    same((told["VersionId"], told["Destinations"][0]["ExtendedS3DestinationDescription"]["BufferingHints"]), ("2", update["BufferingHints"]))
    same(told["Destinations"][0]["ExtendedS3DestinationDescription"]["Prefix"], "direct/", "what an update does not name stays")
    c.tag_delivery_stream(DeliveryStreamName=name, Tags=[{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}])
    c.untag_delivery_stream(DeliveryStreamName=name, TagKeys=["a"])
    same(c.list_tags_for_delivery_stream(DeliveryStreamName=name)["Tags"], [{"Key": "b", "Value": "2"}])
    assert name in c.list_delivery_streams(Limit=10000)["DeliveryStreamNames"]
    refused("InvalidArgumentException", c.create_delivery_stream, DeliveryStreamName="control-gone",
            ExtendedS3DestinationConfiguration={"RoleARN": ROLE, "BucketARN": f"arn:aws:s3:::{BUCKET}", "BufferingHints": {"SizeInMBs": 999, "IntervalInSeconds": 60}})
    c.delete_delivery_stream(DeliveryStreamName=name)
    until("the stream's end", lambda: name not in c.list_delivery_streams()["DeliveryStreamNames"])
    partitioned_parquet()
    for packing, extension in (("GZIP", ".gz"), ("ZIP", ".zip"), ("Snappy", ".snappy"), ("HADOOP_SNAPPY", ".hsnappy")):
        packed(packing, extension)


def partitioned_parquet():
    """Records by device, as Parquet of a table's columns, with a copy as they came; asked in SQL at last."""
    c, g = aws("firehose"), aws("glue")
    name, database = "control-shapes", "control_shapes"
    g.create_database(DatabaseInput={"Name": database})
    serde = {"SerializationLibrary": "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe"}
    parquet_table = {"Location": f"s3://{BUCKET}/shapes/", "SerdeInfo": serde, "Columns": [{"Name": "device", "Type": "string"}, {"Name": "pm25", "Type": "double"}],
                     "InputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat", "OutputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat"}
    g.create_table(DatabaseName=database, TableInput={"Name": "readings", "TableType": "EXTERNAL_TABLE", "StorageDescriptor": parquet_table,
                   "PartitionKeys": [{"Name": "d", "Type": "string"}], "Parameters": {"classification": "parquet"}})
    query = {"Type": "MetadataExtraction", "Parameters": [{"ParameterName": "MetadataExtractionQuery", "ParameterValue": "{d: .device}"}, {"ParameterName": "JsonParsingEngine", "ParameterValue": "JQ-1.6"}]}
    apart = {"Type": "RecordDeAggregation", "Parameters": [{"ParameterName": "SubRecordType", "ParameterValue": "JSON"}]}
    backup = {"RoleARN": ROLE, "BucketARN": f"arn:aws:s3:::{BUCKET}", "Prefix": "shapes-source/", "CompressionFormat": "GZIP"}
    asked = {
        "RoleARN": ROLE, "BucketARN": f"arn:aws:s3:::{BUCKET}", "Prefix": "shapes/d=!{partitionKeyFromQuery:d}/", "ErrorOutputPrefix": "shapes-errors/!{firehose:error-output-type}/",
        "BufferingHints": {"SizeInMBs": 64, "IntervalInSeconds": 1}, "CustomTimeZone": "Asia/Tokyo",
        "DynamicPartitioningConfiguration": {"Enabled": True, "RetryOptions": {"DurationInSeconds": 300}},
        "ProcessingConfiguration": {"Enabled": True, "Processors": [query, apart]}, "S3BackupMode": "Enabled", "S3BackupConfiguration": backup,
        "DataFormatConversionConfiguration": {"Enabled": True,
            "SchemaConfiguration": {"RoleARN": ROLE, "DatabaseName": database, "TableName": "readings", "Region": REGION, "VersionId": "LATEST"},
            "InputFormatConfiguration": {"Deserializer": {"OpenXJsonSerDe": {}}}, "OutputFormatConfiguration": {"Serializer": {"ParquetSerDe": {}}}}}
    c.create_delivery_stream(DeliveryStreamName=name, ExtendedS3DestinationConfiguration=asked)
    told = describe(name)["Destinations"][0]["ExtendedS3DestinationDescription"]
    same((told["S3BackupDescription"]["Prefix"], told["DataFormatConversionConfiguration"], told["DynamicPartitioningConfiguration"]["Enabled"]),
         ("shapes-source/", asked["DataFormatConversionConfiguration"], True))
    good = [{"Data": b"".join(b'{"device":"d%d","PM25":%d}' % (n % 3, n) for n in (3 * i, 3 * i + 1))} for i in range(40)]
    bad = [{"Data": b'{"device":"d1","pm25":"many"}'}, {"Data": b'{"pm25":1}'}]
    same(c.put_record_batch(DeliveryStreamName=name, Records=good + bad)["FailedPutCount"], 0)
    until("records of two devices", lambda: {key.split("/")[1] for key in keys_below("shapes/")} == {"d=d0", "d=d1"})
    frame = parquet("shapes/")
    same((sorted(frame["pm25"])[:3], len(frame), str(frame["pm25"].dtype)), ([0.0, 1.0, 3.0], 80, "float64"), "rows")
    stamp = datetime.datetime.strptime(keys_below("shapes/")[0].rsplit("/", 1)[1][len(name) + 3:][:19], "%Y-%m-%d-%H-%M-%S")
    tokyo = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None) + datetime.timedelta(hours=9)
    assert abs(tokyo - stamp) < datetime.timedelta(minutes=5), (stamp, tokyo)
    unplaced, misfit = (json.loads(text_below(f"shapes-errors/{kind}-failed/")) for kind in ("dynamic-partitioning", "format-conversion"))
    same((unplaced["errorCode"], misfit["lastErrorCode"]), ("DynamicPartitioning.MetadataExtractionFailed", "DataFormatConversion.MalformedData"))
    same(base64.b64decode(misfit["rawData"]), bad[0]["Data"])
    source = b"".join(gzip.decompress(aws("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read()) for key in keys_below("shapes-source/"))
    same(source, b"".join(record["Data"] for record in good + bad), "a copy of every record as it came")
    for device in ("d0", "d1"):
        g.create_partition(DatabaseName=database, TableName="readings", PartitionInput={"Values": [device], "StorageDescriptor": {**parquet_table, "Location": f"s3://{BUCKET}/shapes/d={device}/"}})
    same(sql(f"SELECT d, count(*), max(pm25) FROM {database}.readings GROUP BY d ORDER BY d"), [["d0", "40", "117.0"], ["d1", "40", "118.0"]])
    refused("InvalidArgumentException", c.update_destination, DeliveryStreamName=name, CurrentDeliveryStreamVersionId="1", DestinationId="destinationId-000000000001",
            ExtendedS3DestinationUpdate={"DynamicPartitioningConfiguration": {"Enabled": False}})
    c.update_destination(DeliveryStreamName=name, CurrentDeliveryStreamVersionId="1", DestinationId="destinationId-000000000001",
                         ExtendedS3DestinationUpdate={"S3BackupUpdate": {"Prefix": "shapes-later/"}})
    same(describe(name)["Destinations"][0]["ExtendedS3DestinationDescription"]["S3BackupDescription"], {**backup, "Prefix": "shapes-later/"})
    c.delete_delivery_stream(DeliveryStreamName=name)
    g.delete_table(DatabaseName=database, Name="readings")
    g.delete_database(Name=database)


def packed(packing, extension):
    c, name, prefix = aws("firehose"), f"control-{packing.lower()}", f"packed/{packing}/"
    c.create_delivery_stream(DeliveryStreamName=name, ExtendedS3DestinationConfiguration={
        "RoleARN": ROLE, "BucketARN": f"arn:aws:s3:::{BUCKET}", "Prefix": prefix, "BufferingHints": {"SizeInMBs": 1, "IntervalInSeconds": 1}, "CompressionFormat": packing})
    text = b"".join(b'{"n":%d}\n' % n for n in range(5000))
    c.put_record(DeliveryStreamName=name, Record={"Data": text})
    key = until("an object", lambda: keys_below(prefix))[0]
    assert key.endswith(extension), key
    body = aws("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read()
    assert len(body) < len(text) / 2, (packing, len(body))
    if packing == "GZIP":
        same(gzip.decompress(body), text)
    elif packing == "ZIP":
        archive = zipfile.ZipFile(io.BytesIO(body))
        same([archive.read(member) for member in archive.namelist()], [text])
    c.delete_delivery_stream(DeliveryStreamName=name)


def glue():
    bucket()
    c, s3 = aws("glue"), aws("s3")
    database, crawler, job = "control_db", "control-crawler", "control-job"
    for hour in (8, 9):
        rows = [{"station": f"s{n % 3}", "ozone": n, "share": n / 4, "ok": n % 2 == 0, "at": f"2026-02-05T{hour:02}:00:{n:02}Z"} for n in range(20)]
        s3.put_object(Bucket=BUCKET, Key=f"crawl/2026/02/05/{hour:02}/a.json", Body="".join(map(json.dumps, rows)).encode())
    c.create_database(DatabaseInput={"Name": database, "Description": "first"})
    refused("AlreadyExistsException", c.create_database, DatabaseInput={"Name": database})
    c.update_database(Name=database, DatabaseInput={"Name": database, "Description": "second"})
    same(c.get_database(Name=database)["Database"]["Description"], "second")
    assert database in [d["Name"] for d in c.get_databases()["DatabaseList"]]
    refused("EntityNotFoundException", c.get_database, "nowhere", Name="nowhere")
    c.create_crawler(Name=crawler, Role=ROLE, DatabaseName=database, TablePrefix="t_", Targets={"S3Targets": [{"Path": f"s3://{BUCKET}/crawl/"}]},
                     SchemaChangePolicy={"UpdateBehavior": "UPDATE_IN_DATABASE", "DeleteBehavior": "DEPRECATE_IN_DATABASE"})
    refused("CrawlerNotRunningException", c.stop_crawler, Name=crawler)
    run_crawler(crawler)
    table = c.get_table(DatabaseName=database, Name="t_crawl")["Table"]
    same([(x["Name"], x["Type"]) for x in table["StorageDescriptor"]["Columns"]],
         [("station", "string"), ("ozone", "int"), ("share", "double"), ("ok", "boolean"), ("at", "string")], "columns in order of appearance")
    same([x["Name"] for x in table["PartitionKeys"]], ["partition_0", "partition_1", "partition_2", "partition_3"])
    same((table["TableType"], table["Parameters"]["classification"], table["StorageDescriptor"]["Location"]),
         ("EXTERNAL_TABLE", "json", f"s3://{BUCKET}/crawl/"))
    parts = c.get_partitions(DatabaseName=database, TableName="t_crawl")["Partitions"]
    same(sorted(p["Values"] for p in parts), [["2026", "02", "05", "08"], ["2026", "02", "05", "09"]])
    found = c.get_partitions(DatabaseName=database, TableName="t_crawl", Expression="partition_3 = '09'")["Partitions"]
    same([p["Values"][3] for p in found], ["09"], "partitions by expression")
    crawl = c.list_crawls(CrawlerName=crawler)["Crawls"][0]
    same((crawl["State"], json.loads(crawl["Summary"])["PARTITION"]["ADD"]["Count"]), ("COMPLETED", 2))
    same(c.list_crawls(CrawlerName=crawler, Filters=[{"FieldName": "CRAWL_ID", "FilterOperator": "NE", "FieldValue": crawl["CrawlId"]}])["Crawls"], [])
    metrics = c.get_crawler_metrics(CrawlerNameList=[crawler])["CrawlerMetricsList"][0]
    same((metrics["TablesCreated"], metrics["StillEstimating"]), (1, False))
    c.update_crawler(Name=crawler, Description="looks again")
    same(c.get_crawler(Name=crawler)["Crawler"]["Version"], 2)
    arn = f"arn:aws:glue:{REGION}:{ACCOUNT}:crawler/{crawler}"
    c.tag_resource(ResourceArn=arn, TagsToAdd={"team": "air", "gone": "x"})
    c.untag_resource(ResourceArn=arn, TagsToRemove=["gone"])
    same(c.get_tags(ResourceArn=arn)["Tags"], {"team": "air"})
    same(c.list_crawlers(Tags={"team": "air"})["CrawlerNames"], [crawler])
    # A column that appears later joins the table; what was there stays.
    s3.put_object(Bucket=BUCKET, Key="crawl/2026/02/05/10/a.json", Body=b'{"station":"s9","ozone":3000000000,"late":"yes"}')
    run_crawler(crawler)
    columns = {x["Name"]: x["Type"] for x in c.get_table(DatabaseName=database, Name="t_crawl")["Table"]["StorageDescriptor"]["Columns"]}
    same((columns["ozone"], columns["late"], columns["share"]), ("bigint", "string", "double"), "a widened and a new column")
    s3.delete_object(Bucket=BUCKET, Key="crawl/2026/02/05/10/a.json")

    nodes = {
        "source": {"CatalogSource": {"Name": "source", "Database": database, "Table": "t_crawl"}},
        "few": {"Filter": {"Name": "few", "Inputs": ["source"], "LogicalOperator": "AND", "Filters": [
            {"Operation": "GTE", "Negated": False, "Values": [{"Type": "COLUMNEXTRACTED", "Value": ["ozone"]}, {"Type": "CONSTANT", "Value": ["10"]}]}]}},
        "map": {"ApplyMapping": {"Name": "map", "Inputs": ["few"], "Mapping": [
            {"FromPath": ["station"], "FromType": "string", "ToKey": "place", "ToType": "string"},
            {"FromPath": ["ozone"], "FromType": "bigint", "ToKey": "level", "ToType": "double"},
            {"FromPath": ["late"], "FromType": "string", "ToKey": "never", "ToType": "int"}]}},
        "nulls": {"DropNullFields": {"Name": "nulls", "Inputs": ["map"], "NullCheckBoxList": {"IsEmpty": True, "IsNegOne": True}}},
        "target": {"S3GlueParquetTarget": {"Name": "target", "Inputs": ["nulls"], "Path": f"s3://{BUCKET}/mapped/", "Compression": "snappy"}}}
    definition = dict(Role=ROLE, GlueVersion="4.0", WorkerType="G.1X", NumberOfWorkers=2, CodeGenConfigurationNodes=nodes,
                      Command={"Name": "glueetl", "ScriptLocation": f"s3://{BUCKET}/scripts/{job}.py", "PythonVersion": "3"},
                      DefaultArguments={"--job-bookmark-option": "job-bookmark-enable"})
    c.create_job(Name=job, **definition)
    refused("AlreadyExistsException", c.create_job, Name=job, **definition)
    kept = c.get_job(JobName=job)["Job"]
    same((kept["CodeGenConfigurationNodes"], kept["NumberOfWorkers"]), (nodes, 2))
    run_job(job)
    frame = parquet("mapped/")
    same((list(frame.columns), len(frame), frame["level"].min(), str(frame["level"].dtype)), (["place", "level"], 20, 10.0, "float64"), "the job's output")
    run_job(job)
    same(len(parquet("mapped/")), 20, "the bookmark kept the inputs from being taken twice")
    entry = c.get_job_bookmark(JobName=job)["JobBookmarkEntry"]
    same(entry["JobName"], job)
    c.reset_job_bookmark(JobName=job)
    run_job(job)
    same(len(parquet("mapped/")), 40, "after the reset they are taken again")
    same(len(pages(c.get_job_runs, "JobRuns", ("NextToken", "NextToken"), {"MaxResults": 2}, JobName=job)), 3)
    refused("EntityNotFoundException", c.start_job_run, JobName="no-job")
    broken = {**nodes, "map": {"ApplyMapping": {"Name": "map", "Inputs": ["nowhere"], "Mapping": nodes["map"]["ApplyMapping"]["Mapping"]}}}
    refused("InvalidInputException", c.create_job, "nowhere", Name="control-broken", **{**definition, "CodeGenConfigurationNodes": broken})
    c.delete_job(JobName=job)
    refused("EntityNotFoundException", c.get_job, JobName=job)
    by_path(job, definition)

    columns = [{"Name": "a", "Type": "int"}]
    storage = {"Columns": columns, "Location": f"s3://{BUCKET}/by-hand/",
               "SerdeInfo": {"SerializationLibrary": "org.openx.data.jsonserde.JsonSerDe"}}
    c.create_table(DatabaseName=database, TableInput={"Name": "by_hand", "StorageDescriptor": storage, "PartitionKeys": [{"Name": "day", "Type": "string"}], "TableType": "EXTERNAL_TABLE"})
    inputs = [{"Values": [f"2026-01-{day:02}"]} for day in range(1, 8)]
    same(c.batch_create_partition(DatabaseName=database, TableName="by_hand", PartitionInputList=inputs).get("Errors", []), [])
    errors = c.batch_create_partition(DatabaseName=database, TableName="by_hand", PartitionInputList=inputs[:1])["Errors"]
    same(errors[0]["ErrorDetail"]["ErrorCode"], "AlreadyExistsException")
    found = pages(c.get_partitions, "Partitions", ("NextToken", "NextToken"), {"MaxResults": 3}, DatabaseName=database, TableName="by_hand")
    same(len(found), 7)
    c.batch_delete_partition(DatabaseName=database, TableName="by_hand", PartitionsToDelete=[{"Values": ["2026-01-01"]}])
    refused("EntityNotFoundException", c.get_partition, DatabaseName=database, TableName="by_hand", PartitionValues=["2026-01-01"])
    c.update_table(DatabaseName=database, TableInput={"Name": "by_hand", "StorageDescriptor": {**storage, "Columns": columns + [{"Name": "b", "Type": "string"}]}, "PartitionKeys": [{"Name": "day", "Type": "string"}]})
    same(len(c.get_table(DatabaseName=database, Name="by_hand")["Table"]["StorageDescriptor"]["Columns"]), 2)
    assert len(c.get_table_versions(DatabaseName=database, TableName="by_hand")["TableVersions"]) >= 2
    same(sorted(t["Name"] for t in c.get_tables(DatabaseName=database)["TableList"]), ["by_hand", "t_crawl"])
    same([t["Name"] for t in c.get_tables(DatabaseName=database, Expression="t_.*")["TableList"]], ["t_crawl"])
    athena(database)
    c.delete_crawler(Name=crawler)
    c.delete_table(DatabaseName=database, Name="by_hand")
    c.delete_table(DatabaseName=database, Name="t_crawl")
    c.delete_database(Name=database)
    refused("EntityNotFoundException", c.get_table, DatabaseName=database, Name="t_crawl")


def by_path(job, definition):
    """A graph that knows no catalog: objects by their path, a sample on the way."""
    c, s3 = aws("glue"), aws("s3")
    readings = [{"station": f"s{n % 3}", "ozone": n} for n in range(30)]
    for hour in range(2):
        body = "\n".join(json.dumps(r) for r in readings[hour * 15:][:15])
        s3.put_object(Bucket=BUCKET, Key=f"by-path/json/hour={hour}/a.json.gz", Body=gzip.compress(body.encode()))
    s3.put_object(Bucket=BUCKET, Key="by-path/json/_temporary/a.json", Body=b"no json")
    s3.put_object(Bucket=BUCKET, Key="by-path/csv/places.csv", Body="id;town\ns0;'Porto'\ns1;'Vila; Nova'\n".encode())
    nodes = {
        "json": {"S3JsonSource": {"Name": "json", "Paths": [f"s3://{BUCKET}/by-path/json/"], "CompressionType": "gzip", "Exclusions": ["**/_temporary/**"], "Recurse": True}},
        "csv": {"S3CsvSource": {"Name": "csv", "Paths": [f"s3://{BUCKET}/by-path/csv/"], "Separator": "semicolon", "QuoteChar": "single_quote", "WithHeader": True}},
        "join": {"Join": {"Name": "join", "Inputs": ["json", "csv"], "JoinType": "left", "Columns": [
            {"From": "json", "Keys": [["station"]]}, {"From": "csv", "Keys": [["id"]]}]}},
        "seen": {"Spigot": {"Name": "seen", "Inputs": ["join"], "Path": f"s3://{BUCKET}/by-path/seen", "Topk": 7}},
        "target": {"S3GlueParquetTarget": {"Name": "target", "Inputs": ["seen"], "Path": f"s3://{BUCKET}/by-path/out/", "Compression": "snappy"}}}
    c.create_job(Name=job, **{**definition, "CodeGenConfigurationNodes": nodes})
    same(c.get_job(JobName=job)["Job"]["CodeGenConfigurationNodes"], nodes)
    run_job(job)
    frame = parquet("by-path/out/")
    same(frame.fillna({"town": "nowhere"}).groupby("town")["ozone"].sum().to_dict(), {"Porto": 135, "Vila; Nova": 145, "nowhere": 155}, "joined by path")
    def seen():
        keys = [key for key in keys_below("by-path/seen/") if key.endswith(".jsonl")]
        return [json.loads(line) for key in keys for line in s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().splitlines()]
    same((len(seen()), {row["station"] for row in seen()} <= {"s0", "s1", "s2"}), (7, True), "the sample")
    # The bookmark knows objects by their path, too.
    s3.put_object(Bucket=BUCKET, Key="by-path/json/hour=2/a.json", Body=b'{"station":"s1","ozone":1000}')
    run_job(job)
    same(int(parquet("by-path/out/")["ozone"].sum()), 435 + 1000, "what is new")
    several = {**nodes, "json": {"S3JsonSource": {**nodes["json"]["S3JsonSource"], "Paths": ["s3://a/b/", "s3://a/c/"]}}}
    refused("InvalidInputException", c.create_job, "Union", Name="control-several", **{**definition, "CodeGenConfigurationNodes": several})
    c.delete_job(JobName=job)


def run_crawler(name):
    c = aws("glue")
    c.start_crawler(Name=name)
    until("the crawler", lambda: c.get_crawler(Name=name)["Crawler"]["State"] == "READY")
    last = c.get_crawler(Name=name)["Crawler"]["LastCrawl"]
    same(last["Status"], "SUCCEEDED", last.get("ErrorMessage"))


def run_job(name):
    c = aws("glue")
    run = c.start_job_run(JobName=name)["JobRunId"]
    assert run.startswith("jr_")
    done = ("SUCCEEDED", "FAILED", "STOPPED", "TIMEOUT", "ERROR")
    told = until("the job", lambda: (r := c.get_job_run(JobName=name, RunId=run)["JobRun"])["JobRunState"] in done and r)
    same(told["JobRunState"], "SUCCEEDED", told.get("ErrorMessage"))
    stamped(told["StartedOn"])


def parquet(prefix):
    bodies = [aws("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys_below(prefix) if key.endswith(".parquet")]
    return pd.concat([pd.read_parquet(io.BytesIO(body)) for body in bodies], ignore_index=True)


def sql(statement):
    """The rows of an answer, without the names."""
    c = aws("athena")
    query = c.start_query_execution(QueryString=statement, ResultConfiguration={"OutputLocation": f"s3://{BUCKET}/asked/"})["QueryExecutionId"]
    told = until("the query", lambda: (q := c.get_query_execution(QueryExecutionId=query)["QueryExecution"])["Status"]["State"] in ("SUCCEEDED", "FAILED") and q)
    same(told["Status"]["State"], "SUCCEEDED", told["Status"].get("StateChangeReason"))
    rows = c.get_query_results(QueryExecutionId=query)["ResultSet"]["Rows"]
    return [[cell.get("VarCharValue") for cell in row["Data"]] for row in rows[1:]]


def athena(database):
    c = aws("athena")

    def ask(sql, state="SUCCEEDED", **more):
        started = c.start_query_execution(QueryString=sql, QueryExecutionContext={"Database": database, "Catalog": "AwsDataCatalog"},
                                          ResultConfiguration={"OutputLocation": f"s3://{BUCKET}/asked/"}, WorkGroup="primary", **more)["QueryExecutionId"]
        told = until("the query", lambda: (q := c.get_query_execution(QueryExecutionId=started)["QueryExecution"])["Status"]["State"] in ("SUCCEEDED", "FAILED", "CANCELLED") and q)
        same(told["Status"]["State"], state, f"{sql}: {told['Status'].get('StateChangeReason')}")
        return told

    told = ask("SELECT station, sum(ozone) AS total, avg(share) AS mean FROM t_crawl WHERE partition_3 = '08' GROUP BY station ORDER BY station")
    answer = c.get_query_results(QueryExecutionId=told["QueryExecutionId"])["ResultSet"]
    rows = [[cell.get("VarCharValue") for cell in row["Data"]] for row in answer["Rows"]]
    same(rows, [["station", "total", "mean"], ["s0", "63", "2.25"], ["s1", "70", "2.5"], ["s2", "57", "2.375"]], "the answer, its header first")
    same([x["Type"] for x in answer["ResultSetMetadata"]["ColumnInfo"]], ["varchar", "bigint", "double"])
    same(told["StatementType"], "DML")
    place = told["ResultConfiguration"]["OutputLocation"]
    key = place.removeprefix(f"s3://{BUCKET}/")
    same(key, f"asked/{told['QueryExecutionId']}.csv")
    text = aws("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read().decode()
    same(text.splitlines()[0], '"station","total","mean"')
    same(text.splitlines()[1], '"s0","63","2.25"')
    many = ask("SELECT station, ozone, late FROM t_crawl")["QueryExecutionId"]
    token, total = {}, 0
    while True:
        page = c.get_query_results(QueryExecutionId=many, MaxResults=7, **token)
        total += len(page["ResultSet"]["Rows"])
        if "NextToken" not in page:
            break
        token = {"NextToken": page["NextToken"]}
    same(total, 41, "rows over all pages, and one header")
    same(page["ResultSet"]["Rows"][-1]["Data"][2], {}, "NULL is an empty cell")
    wrong = ask("SELECT nonsense FROM t_crawl", "FAILED")
    assert "nonsense" in wrong["Status"]["StateChangeReason"].lower(), wrong["Status"]
    refused("InvalidRequestException", c.get_query_results, QueryExecutionId=wrong["QueryExecutionId"])
    refused("InvalidRequestException", c.get_query_execution, QueryExecutionId=str(uuid.uuid4()))
    listed = c.list_query_executions(WorkGroup="primary")["QueryExecutionIds"]
    assert many in listed and wrong["QueryExecutionId"] in listed
    both = c.batch_get_query_execution(QueryExecutionIds=[many, wrong["QueryExecutionId"]])["QueryExecutions"]
    same({q["Status"]["State"] for q in both}, {"SUCCEEDED", "FAILED"})
    same(c.get_work_group(WorkGroup="primary")["WorkGroup"]["State"], "ENABLED")
    assert "primary" in [w["Name"] for w in c.list_work_groups()["WorkGroups"]]
    assert "AwsDataCatalog" in [x["CatalogName"] for x in c.list_data_catalogs()["DataCatalogsSummary"]]
    assert database in [d["Name"] for d in c.list_databases(CatalogName="AwsDataCatalog")["DatabaseList"]]
    told = c.get_table_metadata(CatalogName="AwsDataCatalog", DatabaseName=database, TableName="t_crawl")["TableMetadata"]
    same(told["Columns"][0], {"Name": "station", "Type": "string"})
    names = [t["Name"] for t in c.list_table_metadata(CatalogName="AwsDataCatalog", DatabaseName=database)["TableMetadataList"]]
    same(sorted(names), ["by_hand", "t_crawl"])


def variant(name, model, weight=1):
    return {"VariantName": name, "ModelName": model, "InitialInstanceCount": 1, "InstanceType": "ml.m4.xlarge", "InitialVariantWeight": weight}


def sagemaker():
    bucket()
    c, run, s3 = aws("sagemaker"), aws("sagemaker-runtime"), aws("s3")
    series = [{"start": "2026-01-01 00:00:00", "target": [float((hour * 7 + n) % 24) for hour in range(120)]} for n in range(6)]
    for channel in ("train", "test"):
        s3.put_object(Bucket=BUCKET, Key=f"deepar/{channel}/series.json", Body="\n".join(map(json.dumps, series)).encode())
    job = f"control-{uuid.uuid4().hex[:8]}"

    def train(name, **hyper):
        parameters = {"time_freq": "H", "context_length": "12", "prediction_length": "6", "epochs": "2", "num_cells": "10", **hyper}
        channel = lambda name: {"ChannelName": name, "ContentType": "json", "DataSource": {"S3DataSource": {
            "S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/deepar/{name}/", "S3DataDistributionType": "FullyReplicated"}}}
        return c.create_training_job(TrainingJobName=name, RoleArn=ROLE, AlgorithmSpecification={"TrainingImage": DEEPAR, "TrainingInputMode": "File"},
                                     HyperParameters=parameters, InputDataConfig=[channel("train"), channel("test")], OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}/trained/"},
                                     ResourceConfig={"InstanceType": "ml.c4.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 1}, StoppingCondition={"MaxRuntimeInSeconds": 600},
                                     Tags=[{"Key": "by", "Value": "control"}])["TrainingJobArn"]

    def trained(name):
        done = ("Completed", "Failed", "Stopped")
        return until(f"training {name}", lambda: (d := c.describe_training_job(TrainingJobName=name))["TrainingJobStatus"] in done and d)

    arn = train(job)
    same(arn, f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:training-job/{job}")
    refused("ResourceInUse", train, name=job)
    told = trained(job)
    same(told["TrainingJobStatus"], "Completed", told.get("FailureReason"))
    artifact = told["ModelArtifacts"]["S3ModelArtifacts"]
    same(artifact, f"s3://{BUCKET}/trained/{job}/output/model.tar.gz")
    assert s3.head_object(Bucket=BUCKET, Key=f"trained/{job}/output/model.tar.gz")["ContentLength"] > 1000
    same([t["Status"] for t in told["SecondaryStatusTransitions"]][-1], "Completed")
    assert {"train:final_loss", "test:RMSE", "test:mean_wQuantileLoss"} <= {m["MetricName"] for m in told["FinalMetricDataList"]}
    assert told["HyperParameters"]["epochs"] == "2" and told["TrainingEndTime"] >= told["TrainingStartTime"]
    same(c.list_tags(ResourceArn=arn)["Tags"], [{"Key": "by", "Value": "control"}])
    same([s["TrainingJobName"] for s in c.list_training_jobs(NameContains=job)["TrainingJobSummaries"]], [job])
    streams = aws("logs").describe_log_streams(logGroupName="/aws/sagemaker/TrainingJobs", logStreamNamePrefix=f"{job}/")
    assert "nextToken" not in streams and len(streams["logStreams"]) == 1, streams
    stream_name = streams["logStreams"][0]["logStreamName"]
    events, token = [], {}
    while True:
        page = aws("logs").get_log_events(logGroupName="/aws/sagemaker/TrainingJobs", logStreamName=stream_name, startFromHead=True, **token)
        if not page["events"]:
            break
        events += page["events"]
        token = {"nextToken": page["nextForwardToken"]}
    text = "\n".join(event["message"] for event in events)
    assert "#quality_metric: host=algo-1, epoch=1, train loss <loss>=" in text and "#test_score (algo-1, RMSE)" in text, text[-2000:]
    filtered = aws("logs").filter_log_events(logGroupName="/aws/sagemaker/TrainingJobs", logStreamNames=[stream_name], filterPattern="test_score")["events"]
    assert filtered and all("test_score" in event["message"] for event in filtered)
    refused("ResourceNotFoundException", aws("logs").get_log_events, logGroupName="/aws/sagemaker/TrainingJobs", logStreamName="nobody/algo-1")

    train(job + "-wrong", epochs="many")
    failed = trained(job + "-wrong")
    same(failed["TrainingJobStatus"], "Failed")
    assert failed["FailureReason"].startswith("ClientError") and "epochs" in failed["FailureReason"], failed["FailureReason"]
    train(job + "-long", epochs="1000")
    time.sleep(1)
    c.stop_training_job(TrainingJobName=job + "-long")
    same(trained(job + "-long")["TrainingJobStatus"], "Stopped")
    refused("ValidationException", c.describe_training_job, "Requested resource not found", TrainingJobName="nobody")

    for name in ("control-blue", "control-green"):
        c.create_model(ModelName=name, ExecutionRoleArn=ROLE, PrimaryContainer={"Image": DEEPAR, "ModelDataUrl": artifact, "Environment": {}})
    refused("ValidationException", c.create_model, "Cannot create already existing model", ModelName="control-blue", ExecutionRoleArn=ROLE, PrimaryContainer={"Image": DEEPAR, "ModelDataUrl": artifact})
    same(c.describe_model(ModelName="control-blue")["PrimaryContainer"]["ModelDataUrl"], artifact)
    refused("ValidationException", c.describe_model, "Could not find", ModelName="nobody")
    same(sorted(m["ModelName"] for m in c.list_models(NameContains="control-")["Models"]), ["control-blue", "control-green"])
    c.create_endpoint_config(EndpointConfigName="control-one", ProductionVariants=[variant("AllTraffic", "control-blue")])
    c.create_endpoint_config(EndpointConfigName="control-ab", ProductionVariants=[variant("blue", "control-blue", 9), variant("green", "control-green", 1)])
    refused("ValidationException", c.create_endpoint_config, EndpointConfigName="control-bad", ProductionVariants=[variant("x", "no-such-model")])
    refused("ValidationException", c.create_endpoint, "Could not find", EndpointName="control-end", EndpointConfigName="no-such-config")
    c.create_endpoint(EndpointName="control-end", EndpointConfigName="control-one")
    wait = lambda: c.get_waiter("endpoint_in_service").wait(EndpointName="control-end", WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    wait()
    refused("ValidationException", c.create_endpoint, "Cannot create already existing", EndpointName="control-end", EndpointConfigName="control-one")
    body = json.dumps({"instances": [{"start": "2026-01-01 00:00:00", "target": series[0]["target"]}] * 2,
                       "configuration": {"num_samples": 50, "output_types": ["mean", "quantiles", "samples"], "quantiles": ["0.1", "0.9"]}})
    answer = run.invoke_endpoint(EndpointName="control-end", ContentType="application/json", Body=body)
    same((answer["ContentType"], answer["InvokedProductionVariant"]), ("application/json", "AllTraffic"))
    predictions = json.loads(answer["Body"].read())["predictions"]
    same([len(predictions), len(predictions[0]["mean"]), len(predictions[0]["samples"]), len(predictions[0]["samples"][0]), sorted(predictions[0]["quantiles"])], [2, 6, 50, 6, ["0.1", "0.9"]])
    assert all(a <= b for a, b in zip(predictions[0]["quantiles"]["0.1"], predictions[0]["quantiles"]["0.9"]))
    refused("ModelError", run.invoke_endpoint, EndpointName="control-end", ContentType="application/json", Body=b"{")
    refused("ValidationError", run.invoke_endpoint, EndpointName="nobody", ContentType="application/json", Body=body)
    refused("ValidationError", run.invoke_endpoint, EndpointName="control-end", ContentType="application/json", Body=body, TargetVariant="none-such")

    c.update_endpoint(EndpointName="control-end", EndpointConfigName="control-ab")
    wait()
    told = c.describe_endpoint(EndpointName="control-end")
    same({v["VariantName"]: (v["CurrentWeight"], v["DesiredWeight"]) for v in told["ProductionVariants"]}, {"blue": (9.0, 9.0), "green": (1.0, 1.0)})
    same(run.invoke_endpoint(EndpointName="control-end", ContentType="application/json", Body=body, TargetVariant="green")["InvokedProductionVariant"], "green")
    c.update_endpoint_weights_and_capacities(EndpointName="control-end", DesiredWeightsAndCapacities=[{"VariantName": "blue", "DesiredWeight": 0}])
    wait()
    small = json.dumps({"instances": [{"start": "2026-01-01 00:00:00", "target": series[0]["target"]}], "configuration": {"num_samples": 1, "output_types": ["mean"]}})
    drawn = {run.invoke_endpoint(EndpointName="control-end", ContentType="application/json", Body=small)["InvokedProductionVariant"] for _ in range(20)}
    same(drawn, {"green"}, "a weight of 0 draws nothing")

    s3.put_object(Bucket=BUCKET, Key="batch/in/lines.json", Body=("\n".join(map(json.dumps, series)) + "\n").encode())
    c.create_transform_job(TransformJobName=job, ModelName="control-blue", BatchStrategy="SingleRecord", MaxPayloadInMB=6, MaxConcurrentTransforms=1,
                           Environment={"DEEPAR_INFERENCE_CONFIG": json.dumps({"num_samples": 20, "output_types": ["quantiles"], "quantiles": ["0.5"]})},
                           TransformInput={"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/batch/in"}}, "ContentType": "application/jsonlines", "SplitType": "Line", "CompressionType": "None"},
                           TransformOutput={"S3OutputPath": f"s3://{BUCKET}/batch/out/", "Accept": "application/jsonlines", "AssembleWith": "Line"},
                           TransformResources={"InstanceType": "ml.m4.xlarge", "InstanceCount": 1})
    told = until("the transform", lambda: (d := c.describe_transform_job(TransformJobName=job))["TransformJobStatus"] in ("Completed", "Failed", "Stopped") and d)
    same(told["TransformJobStatus"], "Completed", told.get("FailureReason"))
    lines = [json.loads(line) for line in text_below("batch/out/").splitlines()]
    same((len(lines), len(lines[0]["quantiles"]["0.5"])), (6, 6), f"transformed {keys_below('batch/out/')}")

    c.delete_endpoint(EndpointName="control-end")
    c.get_waiter("endpoint_deleted").wait(EndpointName="control-end", WaiterConfig={"Delay": 1, "MaxAttempts": 30})
    refused("ValidationException", c.describe_endpoint, "Could not find", EndpointName="control-end")
    for name in ("control-one", "control-ab"):
        c.delete_endpoint_config(EndpointConfigName=name)
    for name in ("control-blue", "control-green"):
        c.delete_model(ModelName=name)
    refused("ValidationException", c.delete_model, "Could not find", ModelName="control-blue")


def cloudwatch():
    c = aws("cloudwatch")
    now = datetime.datetime.now(datetime.timezone.utc).replace(second=0, microsecond=0)
    dimensions = [{"Name": "Station", "Value": "roof"}]
    c.put_metric_data(Namespace="Control", MetricData=[
        {"MetricName": "Level", "Dimensions": dimensions, "Timestamp": now, "Value": value, "Unit": "Count"} for value in (1.0, 2.0, 6.0)])
    told = c.get_metric_statistics(Namespace="Control", MetricName="Level", Dimensions=dimensions, StartTime=now - datetime.timedelta(minutes=5),
                                   EndTime=now + datetime.timedelta(minutes=5), Period=60, Statistics=["Average", "Sum", "Minimum", "Maximum", "SampleCount"])["Datapoints"]
    same([(p["Average"], p["Sum"], p["Minimum"], p["Maximum"], p["SampleCount"]) for p in told], [(3.0, 9.0, 1.0, 6.0, 3.0)])
    query = {"Id": "level", "MetricStat": {"Metric": {"Namespace": "Control", "MetricName": "Level", "Dimensions": dimensions}, "Period": 60, "Stat": "Maximum"}}
    found = c.get_metric_data(MetricDataQueries=[query], StartTime=now - datetime.timedelta(minutes=5), EndTime=now + datetime.timedelta(minutes=5))["MetricDataResults"]
    same([(f["Id"], f["Label"], f["Timestamps"], f["Values"], f["StatusCode"]) for f in found], [("level", "Level", [now], [6.0], "Complete")])
    same([m["MetricName"] for m in c.list_metrics(Namespace="Control")["Metrics"]], ["Level"])
    alarm = dict(AlarmName="control-alarm", Namespace="Control", MetricName="Level", Dimensions=dimensions, Statistic="Maximum", Period=60, EvaluationPeriods=1,
                 Threshold=5, ComparisonOperator="GreaterThanThreshold", TreatMissingData="notBreaching")
    c.put_metric_alarm(**alarm)
    kept = c.describe_alarms(AlarmNames=["control-alarm"])["MetricAlarms"][0]
    same((kept["Threshold"], kept["Statistic"], kept["Dimensions"]), (5.0, "Maximum", dimensions))
    c.set_alarm_state(AlarmName="control-alarm", StateValue="ALARM", StateReason="a test")
    same(c.describe_alarms(AlarmNames=["control-alarm"])["MetricAlarms"][0]["StateValue"], "ALARM")
    same([a["AlarmName"] for a in c.describe_alarms(StateValue="ALARM", AlarmNamePrefix="control-")["MetricAlarms"]], ["control-alarm"])
    c.delete_alarms(AlarmNames=["control-alarm"])
    same(c.describe_alarms(AlarmNames=["control-alarm"])["MetricAlarms"], [])
    refused("ResourceNotFound", c.set_alarm_state, AlarmName="control-alarm", StateValue="OK", StateReason="gone")


if __name__ == "__main__":
    wanted = sys.argv[1:]
    for step in (identity, iot, firehose, glue, cloudwatch, sagemaker):
        if not wanted or step.__name__ in wanted:
            before, began = calls, time.monotonic()
            step()
            print(f"{step.__name__}: {calls - before} calls, {time.monotonic() - began:.1f} s", flush=True)
    print("CONTROL PLANE HOLDS", calls)
