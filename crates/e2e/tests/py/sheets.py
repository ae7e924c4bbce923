"""CSV as pandas writes it: crawled by Glue's API on a schedule, asked by Athena's, and the same
objects declared by hand. The answers are pandas' own."""

import io
import sys
import time

import boto3
import numpy as np
import pandas as pd

BUCKET = "sheets"
s3, glue, athena = boto3.client("s3"), boto3.client("glue"), boto3.client("athena")


def frame(day, rows=500):
    chance = np.random.default_rng(day)
    return pd.DataFrame({
        "device": [f"station {n % 7}" for n in range(rows)],
        "at": pd.date_range(f"2026-03-{day:02}", periods=rows, freq="min"),
        "count": chance.integers(0, 10**12, rows),
        "level": np.where(chance.random(rows) < 0.1, np.nan, chance.normal(20, 5, rows)),
        "ok": chance.random(rows) < 0.5,
        "note": [f'said "{n}", twice' if n % 5 == 0 else f"plain {n}" for n in range(rows)],
    })


def ask(sql):
    started = athena.start_query_execution(
        QueryString=sql,
        QueryExecutionContext={"Database": "sheets"},
        ResultConfiguration={"OutputLocation": f"s3://{BUCKET}-results/"},
    )["QueryExecutionId"]
    while True:
        found = athena.get_query_execution(QueryExecutionId=started)["QueryExecution"]["Status"]
        if found["State"] not in ("QUEUED", "RUNNING"):
            break
        time.sleep(0.05)
    assert found["State"] == "SUCCEEDED", (sql, found)
    rows = athena.get_query_results(QueryExecutionId=started)["ResultSet"]["Rows"]
    return [[cell.get("VarCharValue") for cell in row["Data"]] for row in rows]


def text(data, packed=None, **options):
    out = io.BytesIO()
    data.to_csv(out, index=False, compression=packed, **options)
    return out.getvalue()


for bucket in (BUCKET, f"{BUCKET}-results"):
    s3.create_bucket(Bucket=bucket)
days = {day: frame(day) for day in (1, 2, 3)}
put = lambda key, body: s3.put_object(Bucket=BUCKET, Key=key, Body=body)
put("crawled/day=1/a.csv", text(days[1]))
# Other packing, other order of columns: they are found by their names.
put("crawled/day=2/b.csv.gz", text(days[2][list(reversed(days[2].columns))], "gzip"))
put("crawled/day=3/c.csv.zip", text(days[3], {"method": "zip", "archive_name": "c.csv"}))
put("crawled/day=3/junk.csv", b"\x00\x01\x02 not, text\n" * 20)
glue.create_database(DatabaseInput={"Name": "sheets"})
glue.create_crawler(
    Name="sheets", Role="r", DatabaseName="sheets", Schedule="cron(* * * * ? *)",
    Targets={"S3Targets": [{"Path": f"s3://{BUCKET}/crawled/"}]},
    SchemaChangePolicy={"UpdateBehavior": "UPDATE_IN_DATABASE", "DeleteBehavior": "LOG"},
    Configuration='{"Version":1.0,"CrawlerOutput":{"Tables":{"AddOrUpdateBehavior":"MergeNewColumns"}}}',
)
assert glue.get_crawler(Name="sheets")["Crawler"]["Schedule"]["State"] == "SCHEDULED"
deadline = time.time() + 90
while not (last := glue.get_crawler(Name="sheets")["Crawler"].get("LastCrawl")):
    assert time.time() < deadline, "the schedule was not kept"
    time.sleep(0.25)
assert last["Status"] == "SUCCEEDED", last
glue.stop_crawler_schedule(CrawlerName="sheets")
table = glue.get_table(DatabaseName="sheets", Name="crawled")["Table"]
types = {column["Name"]: column["Type"] for column in table["StorageDescriptor"]["Columns"]}
expected = {"device": "string", "at": "string", "count": "bigint", "level": "double",
            "ok": "boolean", "note": "string"}
assert types == expected, types
assert table["Parameters"]["classification"] == "csv", table["Parameters"]

everything = pd.concat(days.values())
found = ask(
    "SELECT device, count(*), sum(count), count(level), sum(level),"
    " sum(CASE WHEN ok THEN 1 ELSE 0 END), max(at) FROM crawled GROUP BY device ORDER BY device"
)[1:]
groups = everything.groupby("device")
assert len(found) == 7, found
for row, (device, group) in zip(found, groups):
    assert row[0] == device
    assert int(row[1]) == len(group) and int(row[2]) == group["count"].sum(), (row, device)
    assert int(row[3]) == group["level"].count()
    assert abs(float(row[4]) - group["level"].sum()) < 1e-6, (row, device)
    assert int(row[5]) == group["ok"].sum()
    assert row[6] == str(group["at"].max()), (row, group["at"].max())
quoted = ask("SELECT count(*) FROM crawled WHERE note LIKE 'said \"%\", twice'")[1][0]
assert int(quoted) == everything["note"].str.startswith("said").sum()
one = ask("SELECT count(*) FROM crawled WHERE day = '2'")[1][0]
assert int(one) == len(days[2])

# As Athena's users declare it: tabs and no quotes, and OpenCSVSerde with a header to skip.
put("tabs/a.tsv", text(days[1][["device", "count", "level"]], sep="\t", header=False, na_rep="\\N"))
ask(f"""CREATE EXTERNAL TABLE tabs (device string, n bigint, level double)
    ROW FORMAT DELIMITED FIELDS TERMINATED BY '\\t' LOCATION 's3://{BUCKET}/tabs/'""")
put("semi/a.csv", text(days[2], sep=";", date_format="%Y-%m-%dT%H:%M:%S"))
ask(f"""CREATE EXTERNAL TABLE semi (d string, t timestamp, n bigint, l double, ok boolean, s string)
    ROW FORMAT SERDE 'org.apache.hadoop.hive.serde2.OpenCSVSerde'
    WITH SERDEPROPERTIES ('separatorChar' = ';') LOCATION 's3://{BUCKET}/semi/'
    TBLPROPERTIES ('skip.header.line.count' = '1')""")
row = ask("SELECT count(*), sum(n), count(level) FROM tabs")[1]
assert row == [str(len(days[1])), str(days[1]["count"].sum()), str(days[1]["level"].count())], row
row = ask("SELECT count(*), sum(n), count(l), max(t) FROM semi WHERE s LIKE '%'")[1]
assert row[:3] == [str(len(days[2])), str(days[2]["count"].sum()), str(days[2]["level"].count())], row
assert row[3].startswith(str(days[2]["at"].max())), row
print("SHEETS OK", file=sys.stdout)
