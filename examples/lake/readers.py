#!/usr/bin/env python3
"""pandas, PyArrow and DuckDB read the lake's Parquet over S3, each by its own way.

    eval "$(forebay env)"
    python readers.py pollution-lake/output/

Needs pandas, pyarrow, duckdb, boto3 and fsspec; no extension is downloaded.
"""
import io
import os
import sys

import boto3
import duckdb
import pandas as pd
import pyarrow.dataset
import pyarrow.fs
from fsspec.implementations.arrow import ArrowFSWrapper


class Lake(ArrowFSWrapper):
    """What DuckDB opens `lake://bucket/key` with."""

    protocol = "lake"

    @classmethod
    def _strip_protocol(cls, path):
        return path.removeprefix("lake://")


def by_boto3(bucket, keys):
    """Whole objects, as a notebook does it."""
    s3 = boto3.client("s3")
    bodies = [s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys]
    return pd.concat([pd.read_parquet(io.BytesIO(body)) for body in bodies], ignore_index=True)


def by_link(bucket, keys):
    """Through links that expire: pandas opens them without any key of its own."""
    s3 = boto3.client("s3")
    links = [
        s3.generate_presigned_url(
            "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=300
        )
        for key in keys
    ]
    return pd.concat([pd.read_parquet(link) for link in links], ignore_index=True)


def main():
    bucket, _, prefix = sys.argv[1].partition("/")
    listed = boto3.client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix)
    keys = [item["Key"] for item in listed["Contents"] if item["Key"].endswith(".parquet")]
    whole = by_boto3(bucket, keys)

    scheme, _, address = os.environ["AWS_ENDPOINT_URL"].rstrip("/").partition("://")
    arrow = pyarrow.fs.S3FileSystem(
        access_key=os.environ["AWS_ACCESS_KEY_ID"],
        secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        session_token=os.environ.get("AWS_SESSION_TOKEN"),
        region=os.environ["AWS_DEFAULT_REGION"],
        endpoint_override=address,
        scheme=scheme,
    )
    paths = [f"{bucket}/{key}" for key in keys]
    by_ranges = pyarrow.dataset.dataset(paths, filesystem=arrow, format="parquet")
    pandas_rows = pd.read_parquet(paths, filesystem=arrow)

    duck = duckdb.connect()
    duck.register_filesystem(Lake(arrow))
    names = [f"lake://{path}" for path in paths]
    counted, mean = duck.execute(
        "SELECT count(*), avg(ozone) FROM read_parquet($names)", {"names": names}
    ).fetchone()

    counts = {
        "objects, pandas": len(whole),
        "links, pandas": len(by_link(bucket, keys)),
        "S3 file system, pandas": len(pandas_rows),
        "S3 file system, Arrow": by_ranges.count_rows(),
        "DuckDB": counted,
    }
    for reader, rows in counts.items():
        print(f"{reader}: {rows}")
    if len(set(counts.values())) != 1 or abs(mean - whole["ozone"].mean()) > 1e-9:
        raise SystemExit("the readers disagree")
    if list(by_ranges.schema.names) != list(whole.columns):
        raise SystemExit(f"columns: {by_ranges.schema.names} and {list(whole.columns)}")
    print("READERS OK", counted)


if __name__ == "__main__":
    main()
