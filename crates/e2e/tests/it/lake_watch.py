"""Reads a lake as others do, again and again, while it is at work: by paged S3 listings with a
GET of each key, and by globbing the folder with DuckDB.

Told "go" it reads until told "stop", then says what it saw. A torn object, a listed key that is
not there, a row met twice or a count that shrank ends it with the reason. Only a server that is
away excuses a reading, and for the glob a file that was taken out of sight after it was listed.
"""

import gzip
import io
import json
import sys
import threading

import boto3
import botocore
import duckdb
import pyarrow.parquet as parquet
from botocore.config import Config

lake = sys.argv[1]
AWAY = (
    botocore.exceptions.ConnectionError,
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.ConnectionClosedError,
    botocore.exceptions.ResponseStreamingError,
    botocore.exceptions.IncompleteReadError,
)
s3 = boto3.client(
    "s3",
    config=Config(retries={"max_attempts": 1}, connect_timeout=5, read_timeout=20,
                  s3={"addressing_style": "path"}),
)
go, idle, over = threading.Event(), threading.Event(), threading.Event()
best = {}
seen = {"listings": 0, "objects": 0, "globs": 0, "vanished": 0, "away": 0}


def grew(what, rows):
    assert len(rows) == len(set(rows)), f"{what}: {len(rows) - len(set(rows))} rows met twice"
    assert len(rows) >= best.get(what, 0), f"{what}: {len(rows)} rows, {best[what]} before"
    best[what] = len(rows)


def keys(prefix, version):
    call = "list_objects_v2" if version == 2 else "list_objects"
    pages = s3.get_paginator(call).paginate(Bucket="lake", Prefix=prefix, PaginationConfig={"PageSize": 3})
    return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


def listing(turn):
    for prefix in ["tables/readings/", "raw/readings/"]:
        rows = []
        for key in keys(prefix, 2 if turn % 2 else 1):
            body = s3.get_object(Bucket="lake", Key=key)["Body"].read()
            seen["objects"] += 1
            if prefix.startswith("tables"):
                rows += parquet.read_table(io.BytesIO(body), columns=["seq"])["seq"].to_pylist()
            else:
                for line in gzip.decompress(body).decode().splitlines():
                    rows.append(json.loads(line)["seq"])
        grew(prefix, rows)
    seen["listings"] += 1


def glob():
    try:
        rows = duckdb.sql(f"SELECT seq FROM read_parquet('{lake}/tables/readings/**/*.parquet', union_by_name=true)").fetchall()
    except duckdb.IOException as error:
        text = str(error)
        assert any(said in text for said in ("No files found", "No such file", "Input/output")), text
        seen["vanished"] += 1
        return
    grew("glob", [row[0] for row in rows])
    seen["globs"] += 1


def watch():
    turn = 0
    while not over.is_set():
        if not go.is_set():
            idle.set()
            go.wait(0.05)
            continue
        idle.clear()
        turn += 1
        try:
            glob()
            listing(turn)
        except AWAY:
            seen["away"] += 1
        except botocore.exceptions.ClientError as error:
            # A server that starts or stops says so; a key that was listed must be there.
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status not in (500, 503) and error.response["Error"]["Code"] != "NoSuchBucket":
                fail(f"listed and not there: {error}")
            seen["away"] += 1
        except BaseException as error:
            fail(f"{type(error).__name__}: {error}")


def fail(why):
    print(json.dumps({"failed": why}), flush=True)
    over.set()
    idle.set()


thread = threading.Thread(target=watch, daemon=True)
thread.start()
for line in sys.stdin:
    if line.strip() == "go":
        idle.clear()
        go.set()
    elif line.strip() == "stop":
        go.clear()
        idle.wait()
        if over.is_set():
            break
        print(json.dumps(seen | best), flush=True)
