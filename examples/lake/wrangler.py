#!/usr/bin/env python3
"""AWS SDK for pandas (awswrangler) on the lake: read, ask, write a table, read it back.

    eval "$(forebay env)"
    python wrangler.py --bucket pollution-lake --database pollution --table raw --parquet output/
"""
import argparse

import awswrangler as wr
import pandas as pd


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--database", required=True, help="database of the crawled table")
    parser.add_argument("--table", required=True, help="the crawled table")
    parser.add_argument("--parquet", required=True, help="prefix of the job's Parquet")
    parser.add_argument("--new-database", default="hourly")
    return parser.parse_args()


def same(left, right, what):
    """A check that says both sides, also under `python -O`."""
    if left != right:
        raise SystemExit(f"{what}: {left!r} is not {right!r}")


def main():
    given = arguments()
    home = f"s3://{given.bucket}"
    answers = f"{home}/athena-results/"

    # The job's Parquet as one frame. A year or a letter must not become a number.
    frame = wr.s3.read_parquet(f"{home}/{given.parquet}", dataset=True)
    print("parquet:", len(frame), "rows of", ", ".join(frame.columns))
    frame["timestamp"] = pd.to_datetime(frame["timestamp"], utc=True)

    # The crawled JSON by SQL, both ways that awswrangler can ask: straight, and through a
    # table that it lets Athena write and then reads as Parquet.
    question = (
        f"SELECT count(*) AS readings, avg(ozone) AS mean, min(ozone) AS low, max(ozone) AS high "
        f"FROM {given.table}"
    )
    for ctas in (False, True):
        answer = wr.athena.read_sql_query(
            question, database=given.database, ctas_approach=ctas, s3_output=answers
        )
        same(list(answer.columns), ["readings", "mean", "low", "high"], "columns")
        row = answer.iloc[0]
        same(int(row["readings"]), len(frame), "rows by SQL and in Parquet")
        same(int(row["low"]), int(frame["ozone"].min()), "lowest")
        same(int(row["high"]), int(frame["ozone"].max()), "highest")
        if abs(float(row["mean"]) - float(frame["ozone"].mean())) > 1e-9:
            raise SystemExit(f"mean {row['mean']} is not {frame['ozone'].mean()}")
        print("athena, ctas" if ctas else "athena:", row.to_dict())

    # A table of our own, by hour, partitioned by day.
    hourly = (
        frame.set_index("timestamp")["ozone"]
        .resample("1h")
        .agg(["mean", "count"])
        .reset_index()
        .rename(columns={"mean": "ozone", "count": "readings", "timestamp": "hour"})
    )
    hourly["day"] = hourly["hour"].dt.strftime("%Y-%m-%d")
    hourly["hour"] = hourly["hour"].dt.tz_localize(None)
    wr.catalog.create_database(given.new_database, exist_ok=True)
    wr.s3.to_parquet(
        hourly,
        path=f"{home}/hourly/",
        dataset=True,
        database=given.new_database,
        table="ozone_by_hour",
        partition_cols=["day"],
        mode="overwrite",
    )
    kinds = wr.catalog.get_table_types(database=given.new_database, table="ozone_by_hour")
    same(
        kinds,
        {"hour": "timestamp", "ozone": "double", "readings": "bigint", "day": "string"},
        "types in the catalog",
    )
    parts = wr.catalog.get_partitions(database=given.new_database, table="ozone_by_hour")
    same(len(parts), hourly["day"].nunique(), "partitions")

    # Read back from the bucket, and by SQL.
    back = wr.s3.read_parquet_table(database=given.new_database, table="ozone_by_hour")
    same(int(back["readings"].sum()), len(frame), "readings in the new table")
    asked = wr.athena.read_sql_query(
        "SELECT day, sum(readings) AS readings FROM ozone_by_hour GROUP BY day ORDER BY day",
        database=given.new_database,
        ctas_approach=False,
        s3_output=answers,
    )
    expected = hourly.groupby("day")["readings"].sum().to_dict()
    same({row.day: int(row.readings) for row in asked.itertuples()}, expected, "readings by day")

    # More of it joins what is there.
    more = hourly.assign(day="1999-12-31")
    wr.s3.to_parquet(
        more,
        path=f"{home}/hourly/",
        dataset=True,
        database=given.new_database,
        table="ozone_by_hour",
        partition_cols=["day"],
        mode="append",
    )
    asked = wr.athena.read_sql_query(
        "SELECT count(*) AS n FROM ozone_by_hour WHERE day = '1999-12-31'",
        database=given.new_database,
        ctas_approach=False,
        s3_output=answers,
    )
    same(int(asked["n"].iloc[0]), len(more), "rows appended")
    wr.catalog.delete_table_if_exists(database=given.new_database, table="ozone_by_hour")
    print("WRANGLER OK", wr.__version__)


if __name__ == "__main__":
    main()
