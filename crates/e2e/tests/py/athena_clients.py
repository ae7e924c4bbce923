"""Athena by the interfaces that programs for databases know: PyAthena's DB-API and SQLAlchemy.

Usage: athena_clients.py, with the environment that `forebay env` tells.
"""
import os
from datetime import datetime
from urllib.parse import quote_plus

import boto3
import pandas
from pyathena import connect
from pyathena.async_cursor import AsyncCursor
from pyathena.cursor import DictCursor
from pyathena.error import OperationalError
from pyathena.pandas.cursor import PandasCursor
from sqlalchemy import create_engine, inspect, text

BUCKET, DATABASE, ENDPOINT = "athena-clients", "athena_clients", os.environ["AWS_ENDPOINT_URL"]
boto3.client("s3").create_bucket(Bucket=BUCKET)
RESULTS = f"s3://{BUCKET}/results/"


def connection(**more):
    return connect(s3_staging_dir=RESULTS, schema_name=DATABASE, endpoint_url=ENDPOINT, **more)


cursor = connection().cursor()
cursor.execute(f"CREATE DATABASE {DATABASE}")
cursor.execute(
    "CREATE EXTERNAL TABLE readings (ozone double, at timestamp) PARTITIONED BY (device string) "
    f"STORED AS PARQUET LOCATION 's3://{BUCKET}/readings/'"
)
rows = [(1.5, "2024-01-01 00:00:00", "a"), (None, "2024-01-02 00:00:00", "a"), (4.0, "2024-01-03 00:00:00", "b")]
cursor.executemany(
    "INSERT INTO readings VALUES (%(ozone)s, CAST(%(at)s AS timestamp), %(device)s)",
    [dict(zip(("ozone", "at", "device"), row)) for row in rows],
)
cursor.execute("SELECT device, count(*), sum(ozone), max(at) FROM readings GROUP BY device ORDER BY device")
assert [column[0] for column in cursor.description][0] == "device", cursor.description
assert cursor.fetchall() == [("a", 2, 1.5, datetime(2024, 1, 2)), ("b", 1, 4.0, datetime(2024, 1, 3))]
cursor.execute("SELECT ozone FROM readings WHERE device = %(device)s AND ozone > %(least)d", {"device": "a", "least": 1})
assert cursor.fetchall() == [(1.5,)]
cursor.execute("SELECT ozone FROM readings WHERE device = ? AND ozone > 1", ["'b'"], paramstyle="qmark")
assert cursor.fetchone() == (4.0,)
assert connection().cursor(DictCursor).execute("SELECT ozone FROM readings WHERE device = 'b'").fetchone() == {"ozone": 4.0}
for unload in (False, True):
    frame = connection(cursor_class=PandasCursor).cursor(unload=unload).execute("SELECT * FROM readings").as_pandas()
    assert frame.shape == (3, 3) and frame["ozone"].sum() == 5.5, frame
_, future = connection(cursor_class=AsyncCursor).cursor().execute("SELECT 1 AS x")
assert future.result().fetchall() == [(1,)]
assert [table.name for table in cursor.list_table_metadata("AwsDataCatalog", DATABASE)] == ["readings"]
try:
    cursor.execute("SELECT nothing FROM readings")
except OperationalError as refused:
    assert "nothing" in str(refused), refused
else:
    raise AssertionError("a column that is not there was found")

engine = create_engine(
    f"awsathena+rest://@athena.us-east-1.amazonaws.com:443/{DATABASE}?s3_staging_dir={quote_plus(RESULTS)}"
    f"&endpoint_url={quote_plus(ENDPOINT)}&location={quote_plus(f's3://{BUCKET}/frames/')}&file_format=parquet"
)
with engine.connect() as session:
    assert session.execute(text("SELECT count(*) FROM readings")).scalar() == 3
    inspector = inspect(engine)
    # What is not there is told from what failed.
    assert not inspector.has_table("frame") and inspector.has_table("readings")
    assert [(c["name"], str(c["type"])) for c in inspector.get_columns("readings")] == [
        ("ozone", "DOUBLE"),
        ("at", "TIMESTAMP"),
        ("device", "VARCHAR"),
    ]
    frame = pandas.DataFrame({"device": ["a", "b", "a"], "ozone": [1.5, None, 4.0]})
    frame.to_sql("frame", session, schema=DATABASE, index=False, if_exists="replace", method="multi")
    back = pandas.read_sql("SELECT device, ozone FROM frame ORDER BY ozone", session)
    assert back["device"].tolist() == ["a", "a", "b"] and back["ozone"].sum() == 5.5, back
print("ATHENA CLIENTS OK")
