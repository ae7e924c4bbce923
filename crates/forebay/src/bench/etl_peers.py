"""What `forebay bench etl` has other tools do, each in a process of its own.

    etl_peers.py TOOL convert READINGS.json FOLDER
    etl_peers.py duckdb queries FOLDER QUERIES.json REPETITIONS

Prints one JSON object: what its start cost, and what another process of it cost.
"""

import json
import resource
import sys

INTEGERS = ["ozone", "particullate_matter", "carbon_monoxide", "sulfure_dioxide",
            "nitrogen_dioxide"]
REALS = ["longitude", "latitude"]
HOUR = "%Y-%m-%dT%H"


def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def duckdb_convert(source, folder):
    import duckdb

    connection = duckdb.connect()
    # With two, rows of a partition may come out of order; one costs it a little less.
    connection.execute("SET threads = 1")
    started = cpu()
    columns = {"device_id": "VARCHAR", **{name: "SMALLINT" for name in INTEGERS},
               **{name: "DOUBLE" for name in REALS}, "timestamp": "TIMESTAMP_MS"}
    connection.execute(f"""
        COPY (SELECT *, strftime(timestamp, '{HOUR}') AS hour
              FROM read_json('{source}', format = 'newline_delimited', columns = {columns})
              ORDER BY hour, device_id, timestamp)
        TO '{folder}' (FORMAT parquet, COMPRESSION zstd, PARTITION_BY (hour))""")
    return {"version": duckdb.__version__, "start_cpu_seconds": started}


def polars_convert(source, folder):
    import polars as pl

    started = cpu()
    # Its reader of JSON knows no smaller numbers.
    schema = {"device_id": pl.String, **{name: pl.Int64 for name in INTEGERS},
              **{name: pl.Float64 for name in REALS}, "timestamp": pl.String}
    moment = pl.col("timestamp").str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="ms")
    readings = (
        pl.scan_ndjson(source, schema=schema)
        .with_columns(moment, *[pl.col(name).cast(pl.Int16) for name in INTEGERS])
        .with_columns(pl.col("timestamp").dt.strftime(HOUR).alias("hour"))
        .sort("hour", "device_id", "timestamp")
    )
    target = pl.PartitionBy(folder, key="hour", include_key=False)
    readings.sink_parquet(target, compression="zstd", compression_level=3, mkdir=True)
    return {"version": pl.__version__, "start_cpu_seconds": started}


def pyspark_convert(source, folder):
    import pyspark
    from pyspark.sql import SparkSession, functions, types

    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.driver.memory", "4g")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MILLIS")
        .config("spark.sql.shuffle.partitions", "8")
        .getOrCreate()
    )
    started = cpu()
    machine = session.sparkContext._gateway.proc.pid
    fields = [types.StructField("device_id", types.StringType())]
    fields += [types.StructField(name, types.ShortType()) for name in INTEGERS]
    fields += [types.StructField(name, types.DoubleType()) for name in REALS]
    fields += [types.StructField("timestamp", types.TimestampType())]
    machine_started = cpu_of(machine)
    readings = session.read.schema(types.StructType(fields)).json(source)
    readings = readings.withColumn(
        "hour", functions.date_format("timestamp", "yyyy-MM-dd'T'HH"))
    (readings.repartition("hour").sortWithinPartitions("hour", "device_id", "timestamp")
     .write.partitionBy("hour").option("compression", "zstd").parquet(folder))
    # The work is done by a Java process, which is no longer there once the session ends.
    answer = {"version": pyspark.__version__, "start_cpu_seconds": started + machine_started,
              "other_cpu_seconds": cpu_of(machine), "other_peak_rss_bytes": peak_of(machine)}
    session.stop()
    return answer


def cpu_of(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def peak_of(pid):
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def duckdb_queries(folder, queries, repetitions):
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET threads = 2")
    started = cpu()
    connection.execute(f"""CREATE VIEW readings AS SELECT * FROM
        read_parquet('{folder}/*/*.parquet', hive_partitioning = true, hive_types_autocast = false)
        """)
    answers = []
    with open(queries) as file:
        queries = json.load(file)
    for query in queries:
        rows = connection.execute(query).fetchall()
        before = cpu()
        for _ in range(int(repetitions)):
            connection.execute(query).fetchall()
        took = (cpu() - before) / max(int(repetitions), 1)
        answers.append({"cpu_seconds": took, "rows": [[str(cell) for cell in row] for row in rows]})
    return {"start_cpu_seconds": started, "answers": answers}


if __name__ == "__main__":
    _, tool, work, *arguments = sys.argv
    print(json.dumps(globals()[f"{tool}_{work}"](*arguments)))
