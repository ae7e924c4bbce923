#!/usr/bin/env python3
"""The article's pipeline from device to Parquet, made with boto3 and nothing else.

    eval "$(forebay env)"
    python pipeline.py connect kit-1 --root-ca plant/ca/root-CA.crt
    node device.js kit-1 --count 500 --interval 5
    python pipeline.py collect --readings 500

`connect` makes what the console's wizards make: a bucket, a thing, its certificate and policy
(written as a connection kit), a delivery stream and the rule that feeds it. `collect` waits
for the readings in the bucket, crawls them into a table and runs a job that writes Parquet,
which is what notebook.py reads.

Only AWS's own variables are read: AWS_ENDPOINT_URL, AWS_DEFAULT_REGION and the keys. Without
AWS_ENDPOINT_URL the same program works on AWS; take its root certificate from there.
"""
import argparse
import json
import pathlib
import shutil
import time

import boto3


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bucket", default="pollution-lake")
    parser.add_argument("--name", default="pollution", help="of the stream, rule, crawler and job")
    steps = parser.add_subparsers(dest="step", required=True)
    connect = steps.add_parser("connect", help="thing, kit, stream and rule")
    connect.add_argument("kit", type=pathlib.Path, help="folder of the kit; its name is the thing's")
    connect.add_argument("--root-ca", type=pathlib.Path, required=True)
    connect.add_argument("--host", help="where the device connects; else as the service says")
    connect.add_argument("--port", type=int, default=8883)
    connect.add_argument("--buffer-seconds", type=int, default=60)
    collect = steps.add_parser("collect", help="crawler, table and Parquet")
    collect.add_argument("--readings", type=int, required=True, help="how many to wait for")
    return parser.parse_args()


class Pipeline:
    """The names of one pipeline, and the steps that make it."""

    def __init__(self, name, bucket):
        self.bucket = bucket
        self.stream = f"{name}-stream"
        self.rule = name.replace("-", "_") + "_to_lake"
        self.database = name.replace("-", "_")
        self.crawler = f"{name}-crawler"
        self.job = f"{name}-to-parquet"
        self.topics = f"{name}/+"
        self.topic = f"{name}/{{thing}}"
        self.account = boto3.client("sts").get_caller_identity()["Account"]
        self.region = boto3.Session().region_name
        self.role = f"arn:aws:iam::{self.account}:role/service-role/{name}"

    def make_bucket(self):
        s3 = boto3.client("s3")
        place = {}
        if self.region != "us-east-1":
            place = {"CreateBucketConfiguration": {"LocationConstraint": self.region}}
        try:
            s3.create_bucket(Bucket=self.bucket, **place)
        except s3.exceptions.BucketAlreadyOwnedByYou:
            print("bucket", self.bucket, "is there already")

    def make_stream(self, buffer_seconds):
        """All as the console proposes it, but the time a reading may wait."""
        firehose = boto3.client("firehose")
        firehose.create_delivery_stream(
            DeliveryStreamName=self.stream,
            DeliveryStreamType="DirectPut",
            ExtendedS3DestinationConfiguration={
                "RoleARN": self.role,
                "BucketARN": f"arn:aws:s3:::{self.bucket}",
                "Prefix": "raw/",
                "ErrorOutputPrefix": "errors/!{firehose:error-output-type}/",
                "BufferingHints": {"SizeInMBs": 5, "IntervalInSeconds": buffer_seconds},
                "CompressionFormat": "UNCOMPRESSED",
            },
        )

        def status():
            answer = firehose.describe_delivery_stream(DeliveryStreamName=self.stream)
            return answer["DeliveryStreamDescription"]["DeliveryStreamStatus"]

        wait_until("the stream is active", lambda: status() == "ACTIVE")

    def make_rule(self):
        """The article's rule. It names no separator, so records lie end to end in an object."""
        boto3.client("iot").create_topic_rule(
            ruleName=self.rule,
            topicRulePayload={
                "sql": f"SELECT * FROM '{self.topics}'",
                "ruleDisabled": False,
                "awsIotSqlVersion": "2016-03-23",
                "actions": [
                    {"firehose": {"deliveryStreamName": self.stream, "roleArn": self.role}}
                ],
            },
        )

    def make_device(self, kit, root_ca, host, port):
        """A thing that may connect under its own name and use its own topic."""
        iot = boto3.client("iot")
        thing = kit.name
        topic = self.topic.format(thing=thing)
        iot.create_thing(thingName=thing)
        made = iot.create_keys_and_certificate(setAsActive=True)
        arn = f"arn:aws:iot:{self.region}:{self.account}:"
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                allow("iot:Connect", arn + "client/${iot:Connection.Thing.ThingName}"),
                allow(["iot:Publish", "iot:Receive"], arn + f"topic/{topic}"),
                allow("iot:Subscribe", arn + f"topicfilter/{topic}"),
            ],
        }
        iot.create_policy(policyName=f"{thing}-Policy", policyDocument=json.dumps(policy))
        iot.attach_policy(policyName=f"{thing}-Policy", target=made["certificateArn"])
        iot.attach_thing_principal(thingName=thing, principal=made["certificateArn"])
        if host is None:
            host = iot.describe_endpoint(endpointType="iot:Data-ATS")["endpointAddress"]

        kit.mkdir(parents=True)
        key = kit / f"{thing}.private.key"
        key.touch(mode=0o600)
        key.write_text(made["keyPair"]["PrivateKey"])
        (kit / f"{thing}.public.key").write_text(made["keyPair"]["PublicKey"])
        (kit / f"{thing}.cert.pem").write_text(made["certificatePem"])
        (kit / "connection.json").write_text(
            json.dumps({"thing": thing, "host": host, "port": port, "topic": topic})
        )
        shutil.copyfile(root_ca, kit / "root-CA.crt")
        print(f"kit {kit}: {thing} publishes to {topic} at {host}:{port}")

    def wait_for_readings(self, count):
        """Until the bucket holds `count` readings; more would be a reading too many."""
        s3 = boto3.client("s3")
        found = 0

        def all_here():
            nonlocal found
            pages = s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix="raw/")
            keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
            objects = (s3.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in keys)
            found = sum(count_records(text.decode()) for text in objects)
            return found >= count

        wait_until(f"{count} readings lie in {self.bucket}/raw/", all_here)
        if found > count:
            raise SystemExit(f"{found} readings lie in the bucket, {count} were sent")
        print(found, "readings in the bucket")

    def crawl(self):
        glue = boto3.client("glue")
        glue.create_database(DatabaseInput={"Name": self.database})
        glue.create_crawler(
            Name=self.crawler,
            Role=self.role,
            DatabaseName=self.database,
            Targets={"S3Targets": [{"Path": f"s3://{self.bucket}/raw/"}]},
        )
        glue.start_crawler(Name=self.crawler)

        def crawler():
            return glue.get_crawler(Name=self.crawler)["Crawler"]

        wait_until("the crawler is done", lambda: crawler()["State"] == "READY")
        last = crawler()["LastCrawl"]
        if last["Status"] != "SUCCEEDED":
            raise SystemExit(f"the crawl ended {last}")
        table = glue.get_table(DatabaseName=self.database, Name="raw")["Table"]
        columns = [column["Name"] for column in table["StorageDescriptor"]["Columns"]]
        partitions = [key["Name"] for key in table["PartitionKeys"]]
        print("table raw:", ", ".join(columns), "by", ", ".join(partitions))
        return [
            (column["Name"], column["Type"])
            for column in table["StorageDescriptor"]["Columns"] + table["PartitionKeys"]
        ]

    def to_parquet(self, columns):
        """The three boxes of Glue Studio: catalog, mapping, Parquet."""
        glue = boto3.client("glue")
        mapping = [
            {"FromPath": [name], "FromType": kind, "ToKey": name, "ToType": kind}
            for name, kind in columns
        ]
        glue.create_job(
            Name=self.job,
            Role=self.role,
            GlueVersion="4.0",
            Command={
                "Name": "glueetl",
                "ScriptLocation": f"s3://{self.bucket}/scripts/{self.job}.py",
                "PythonVersion": "3",
            },
            DefaultArguments={"--job-bookmark-option": "job-bookmark-enable"},
            CodeGenConfigurationNodes={
                "source": {
                    "CatalogSource": {"Name": "readings", "Database": self.database, "Table": "raw"}
                },
                "mapping": {
                    "ApplyMapping": {"Name": "columns", "Inputs": ["source"], "Mapping": mapping}
                },
                "target": {
                    "S3GlueParquetTarget": {
                        "Name": "parquet",
                        "Inputs": ["mapping"],
                        "Path": f"s3://{self.bucket}/output/",
                        "Compression": "snappy",
                    }
                },
            },
        )
        run = glue.start_job_run(JobName=self.job)["JobRunId"]

        def state():
            return glue.get_job_run(JobName=self.job, RunId=run)["JobRun"]

        busy = ("STARTING", "RUNNING", "STOPPING", "WAITING")
        wait_until("the job is done", lambda: state()["JobRunState"] not in busy)
        if state()["JobRunState"] != "SUCCEEDED":
            raise SystemExit(f"the job ended {state()}")
        listed = boto3.client("s3").list_objects_v2(Bucket=self.bucket, Prefix="output/")
        for item in listed.get("Contents", []):
            print(item["Size"], item["Key"])


def allow(action, resource):
    return {"Effect": "Allow", "Action": action, "Resource": resource}


def count_records(text):
    """JSON objects in a text, whatever stands between them."""
    decoder, at, count = json.JSONDecoder(), 0, 0
    text = text.rstrip()
    while at < len(text):
        _, at = decoder.raw_decode(text, at)
        while at < len(text) and text[at].isspace():
            at += 1
        count += 1
    return count


def wait_until(what, done, seconds=600):
    """Asks every half second; gives up with what it waited for."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise SystemExit(f"waited {seconds} s until {what}")
        time.sleep(0.5)


def main():
    given = arguments()
    pipeline = Pipeline(given.name, given.bucket)
    if given.step == "connect":
        pipeline.make_bucket()
        pipeline.make_stream(given.buffer_seconds)
        pipeline.make_rule()
        pipeline.make_device(given.kit, given.root_ca, given.host, given.port)
    else:
        pipeline.wait_for_readings(given.readings)
        pipeline.to_parquet(pipeline.crawl())
    print("PIPELINE OK", given.step)


if __name__ == "__main__":
    main()
