"""INSERT INTO by boto3, one statement at a time: prepares, starts, and says what is there."""

import json
import sys
import time

import boto3

ROWS, PARTITIONS = 10_000, 40
athena, s3 = boto3.client("athena"), boto3.client("s3")


def start(sql):
    answer = athena.start_query_execution(
        QueryString=sql,
        QueryExecutionContext={"Database": "forebay"},
        ResultConfiguration={"OutputLocation": "s3://sink/results/"},
    )
    return answer["QueryExecutionId"]


def status(id):
    return athena.get_query_execution(QueryExecutionId=id)["QueryExecution"]


def ended(id):
    while True:
        found = status(id)
        if found["Status"]["State"] not in ("QUEUED", "RUNNING"):
            return found
        time.sleep(0.02)


def done(sql):
    id = start(sql)
    found = ended(id)
    assert found["Status"]["State"] == "SUCCEEDED", (sql, found["Status"])
    return id


def rows(sql):
    answer = athena.get_query_results(QueryExecutionId=done(sql))
    return [[d.get("VarCharValue") for d in row["Data"]] for row in answer["ResultSet"]["Rows"][1:]]


def prepare():
    s3.create_bucket(Bucket="sink")
    done(
        "CREATE TABLE numbers AS SELECT n, n % "
        f"{PARTITIONS} AS k FROM UNNEST(sequence(1, {ROWS})) AS t(n)"
    )
    for name, stored in (
        ("parquet", "STORED AS PARQUET"),
        ("json", "ROW FORMAT SERDE 'org.openx.data.jsonserde.JsonSerDe'"),
        ("csv", "ROW FORMAT DELIMITED FIELDS TERMINATED BY ','"),
    ):
        done(
            f"CREATE EXTERNAL TABLE to_{name} (n bigint) PARTITIONED BY (k bigint) {stored} "
            f"LOCATION 's3://sink/to_{name}/'"
        )


def listed(prefix):
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="sink", Prefix=prefix)
    return [found["Key"] for page in pages for found in page.get("Contents", ())]


def check(table, ids):
    """Every statement is there whole or not at all, and its state says which."""
    succeeded = 0
    for id in ids:
        found = ended(id)
        succeeded += found["Status"]["State"] == "SUCCEEDED"
        files = [key for key in listed(f"{table}/") if id in key]
        if found["Status"]["State"] == "SUCCEEDED":
            assert len(files) == PARTITIONS, (id, len(files))
            told = athena.get_query_results(QueryExecutionId=id)
            assert told["UpdateCount"] == ROWS, told
            manifest = found["Statistics"]["DataManifestLocation"].removeprefix("s3://sink/")
            text = s3.get_object(Bucket="sink", Key=manifest)["Body"].read().decode()
            assert sorted(text.split()) == sorted(f"s3://sink/{key}" for key in files)
        else:
            assert not files, (found["Status"], files)
    count, distinct = rows(f"SELECT count(*), count(DISTINCT n) FROM {table}")[0]
    assert int(count) == succeeded * ROWS, (table, count, succeeded)
    assert int(distinct) == (ROWS if succeeded else 0), distinct
    partitions = athena.get_query_results(QueryExecutionId=done(f"SHOW PARTITIONS {table}"))
    assert len(partitions["ResultSet"]["Rows"]) == (PARTITIONS if succeeded else 0)
    print(json.dumps({"succeeded": succeeded}))


def formats():
    """CREATE TABLE AS and UNLOAD as Athena has them, read back by their own files."""
    import gzip

    done(
        "CREATE TABLE halves WITH (format = 'JSON', partitioned_by = ARRAY['k'], "
        "external_location = 's3://sink/halves/') AS SELECT n, 'x' || CAST(n AS varchar) AS s, "
        "n % 2 AS k FROM numbers WHERE n <= 10"
    )
    keys = listed("halves/")
    assert {key.split("/")[1] for key in keys} == {"k=0", "k=1"}, keys
    body = s3.get_object(Bucket="sink", Key=keys[0])["Body"].read()
    lines = [json.loads(line) for line in gzip.decompress(body).splitlines()]
    assert {"n": 2, "s": "x2"} in lines, lines
    assert rows("SELECT sum(n), count(DISTINCT s) FROM halves WHERE k = 1") == [["25", "5"]]
    done("INSERT INTO halves VALUES (12, 'x12', 0)")
    assert rows("SELECT max(n) FROM halves") == [["12"]]

    done(
        "CREATE TABLE sheet WITH (format = 'TEXTFILE', field_delimiter = ';', "
        "write_compression = 'NONE') AS SELECT n, CASE WHEN n > 1 THEN 'a,b' END AS s FROM "
        "numbers WHERE n <= 2"
    )
    assert rows("SELECT n, s FROM sheet ORDER BY n") == [["1", None], ["2", "a,b"]]

    done(
        "UNLOAD (SELECT n, k FROM numbers WHERE k < 3) TO 's3://sink/out/' WITH (format = "
        "'TEXTFILE', field_delimiter = ',', compression = 'gzip', partitioned_by = ARRAY['k'])"
    )
    keys = listed("out/")
    assert sorted(key.split("/")[1] for key in keys) == ["k=0", "k=1", "k=2"], keys
    body = gzip.decompress(s3.get_object(Bucket="sink", Key=keys[1])["Body"].read())
    assert sorted(map(int, body.split())) == list(range(1, ROWS + 1, PARTITIONS)), body[:20]

    done(
        "UNLOAD (SELECT n FROM numbers) TO 's3://sink/packed/' WITH (format = 'PARQUET', "
        "compression = 'GZIP')"
    )
    for sql, part in (
        ("UNLOAD (SELECT 1 AS a) TO 's3://sink/o/' WITH (format = 'ORC')", "'JSON' or 'TEXTFILE'"),
        ("UNLOAD (SELECT 1 AS a) TO 's3://sink/o/' WITH (format = 'AVRO')", "'JSON' or 'TEXTFILE'"),
        ("CREATE TABLE o WITH (format = 'ORC') AS SELECT 1 AS a", "'JSON' or 'TEXTFILE'"),
        ("CREATE TABLE o WITH (bucketed_by = ARRAY['a']) AS SELECT 1 AS a", "no buckets"),
        (
            "CREATE TABLE o WITH (partitioned_by = ARRAY['a']) AS SELECT 1 AS a, 2 AS b",
            "HIVE_COLUMN_ORDER_MISMATCH",
        ),
        (
            "CREATE TABLE o WITH (partitioned_by = ARRAY['a']) AS SELECT n, n AS a FROM numbers",
            "HIVE_TOO_MANY_OPEN_PARTITIONS",
        ),
    ):
        found = ended(start(sql))["Status"]
        assert found["State"] == "FAILED" and part in found["StateChangeReason"], (sql, found)
    assert not listed("o/")
    classified()
    print("FORMATS OK")


def classified():
    """A document that is one array of records, and text with a delimiter of its own."""
    glue = boto3.client("glue")
    s3.put_object(Bucket="sink", Key="docs/list/a.json", Body=b'[{"n": 1}, {"n": 2}]')
    s3.put_object(Bucket="sink", Key="docs/sheet_hash/a.txt", Body=b"ann#1\nbob#2\n")
    glue.create_classifier(JsonClassifier={"Name": "items", "JsonPath": "$[*]"})
    glue.create_classifier(
        CsvClassifier={
            "Name": "hashes",
            "Delimiter": "#",
            "ContainsHeader": "ABSENT",
            "Header": ["who", "n"],
        }
    )
    names = [list(c.values())[0]["Name"] for c in glue.get_classifiers()["Classifiers"]]
    assert names == ["hashes", "items"], names
    try:
        glue.create_classifier(
            GrokClassifier={"Name": "g", "Classification": "log", "GrokPattern": "%{WORD:a}"}
        )
    except glue.exceptions.InvalidInputException as refused:
        assert "GrokClassifier" in str(refused), refused
    else:
        raise AssertionError("a Grok classifier was taken")
    glue.create_crawler(
        Name="docs",
        Role="anyone",
        DatabaseName="forebay",
        Targets={"S3Targets": [{"Path": "s3://sink/docs/"}]},
        Classifiers=["items", "hashes"],
    )
    glue.start_crawler(Name="docs")
    while glue.get_crawler(Name="docs")["Crawler"]["State"] != "READY":
        time.sleep(0.05)
    table = glue.get_table(DatabaseName="forebay", Name="list")["Table"]
    assert table["Parameters"]["jsonPath"] == "$[*]", table
    assert rows("SELECT sum(n), count(*) FROM list") == [["3", "2"]]
    assert rows("SELECT who FROM sheet_hash WHERE n = 2") == [["bob"]]


verb, *rest = sys.argv[1:]
if verb == "prepare":
    prepare()
elif verb == "start":
    print(start(f"INSERT INTO {rest[0]} SELECT n, k FROM numbers"), flush=True)
elif verb == "check":
    check(rest[0], rest[1:])
elif verb == "formats":
    formats()
