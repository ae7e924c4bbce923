"""pandas, PyArrow, DuckDB, Polars and Spark read what jobs write; SQL reads what they write.

Usage: readers_agree.py FOREBAY DATA_DIR

The source is written by PyArrow from rows made here, and every answer is compared with those rows
or with an aggregate computed from them in plain Python. Without Java Spark is left out, which is
said on a line SKIPPED.
"""
import collections, datetime, decimal, json, math, os, random, shutil, subprocess, sys
from datetime import date, timedelta

import duckdb, numpy, pandas, polars
import pyarrow as pa, pyarrow.compute as pc, pyarrow.dataset as pads, pyarrow.parquet as pq

FOREBAY, DATA = sys.argv[1], sys.argv[2]
LAKE = os.path.join(DATA, "lake", "lake")
random.seed(6)


def forebay(*args, fails=False):
    done = subprocess.run([FOREBAY, *args, "--json", "--data-dir", DATA], capture_output=True, text=True)
    assert (done.returncode != 0) == fails, (args, done.stdout, done.stderr)
    return json.loads(done.stdout)


def sql(query):
    return forebay("lake", "sql", query)["rows"]


def session():
    """Spark, or nothing where there is no Java."""
    if shutil.which("java") is None:
        print("SKIPPED: Spark among the readers: no Java")
        return None
    from pyspark.sql import SparkSession
    builder = SparkSession.builder.master("local[2]").appName("readers")
    for key, value in {
        "spark.ui.enabled": "false", "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.shuffle.partitions": "1", "spark.sql.session.timeZone": "UTC", "spark.driver.memory": "1g",
        "spark.sql.warehouse.dir": os.path.join(DATA, "warehouse"),
    }.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


# The rows.

ROWS = 3000
PARTS = ["plain", "a b", "a/b", "x=y", "Größe é 日", "100%", "%41", "it's \"q\"", "..", None]
WORDS = ["", "ozone", "Größe", "日本語", "emoji 🛰", "with\nline", "tab\t", "nul\u0001", "\"quoted\"", "long " * 40]
TINY, SMALL, INT, BIG = (2**7, 2**15, 2**31, 2**63)


def maybe(value, chance=0.1):
    return None if random.random() < chance else value


def row(n):
    whole = lambda bound: random.choice([-bound, bound - 1, 0, random.randrange(-bound, bound)])
    at = datetime.datetime(2026, 2, 28, 23, 59, 59) + timedelta(microseconds=random.randrange(10**14))
    return {
        "id": n,
        "flag": maybe(random.random() < 0.5),
        "tiny": maybe(whole(TINY)),
        "small": maybe(whole(SMALL)),
        "number": maybe(whole(INT)),
        "big": maybe(whole(BIG)),
        "real": maybe(float(numpy.float32(random.uniform(-1e6, 1e6)))),
        "value": maybe(random.choice([0.1, -2.5, random.uniform(-1e12, 1e12)])),
        "odd": random.choice([math.nan, math.inf, -math.inf, -0.0, 1.5, None]),
        "price": maybe(decimal.Decimal(random.randrange(-10**11, 10**11)).scaleb(-3)),
        "wide": maybe(decimal.Decimal(random.randrange(-10**37, 10**37)).scaleb(-10, decimal.Context(prec=60))),
        "day": maybe(date(1969, 12, 25) + timedelta(days=random.randrange(30000))),
        "moment": maybe(at),
        "word": maybe(random.choice(WORDS)),
        "raw": maybe(random.choice([b"", b"\x00\xff\xfe", b"plain", random.randbytes(9)])),
        "items": maybe(random.choice([[], [None], [1, None, -3], [random.randrange(9)]])),
        "point": maybe({"x": maybe(random.uniform(0, 1)), "label": maybe(random.choice(WORDS))}),
        "tags": maybe(random.choice([[], [("a", 1)], [("b", None), ("ü", 7)]])),
        "nothing": None,
        "part": random.choice(PARTS),
        "year": random.choice([2025, 2026, None]),
    }


SCHEMA = pa.schema([
    ("id", pa.int64()), ("flag", pa.bool_()), ("tiny", pa.int8()), ("small", pa.int16()), ("number", pa.int32()),
    ("big", pa.int64()), ("real", pa.float32()), ("value", pa.float64()), ("odd", pa.float64()),
    ("price", pa.decimal128(12, 3)), ("wide", pa.decimal128(38, 10)), ("day", pa.date32()), ("moment", pa.timestamp("us")),
    ("word", pa.string()), ("raw", pa.binary()), ("items", pa.list_(pa.int32())),
    ("point", pa.struct([("x", pa.float64()), ("label", pa.string())])), ("tags", pa.map_(pa.string(), pa.int32())),
    ("nothing", pa.string()), ("part", pa.string()), ("year", pa.int32()),
])
# `moment` once more in milliseconds, which is made by the job.
EXPECTED = pa.schema([*SCHEMA][:13] + [pa.field("moment_ms", pa.timestamp("ms"))] + [*SCHEMA][13:19])
KEYS = ["part", "year"]
COLUMNS = EXPECTED.names


def plain(value):
    """A value as every reader's can be written: None, numbers, text, bytes, tuples."""
    if value is None or value is pandas.NaT or value is pandas.NA:
        return None
    if isinstance(value, (bool, numpy.bool_)):
        return bool(value)
    if isinstance(value, (int, numpy.integer)):
        return int(value)
    if isinstance(value, (float, numpy.floating)):
        # Nulls in a column of numbers are NaN to pandas; rows() puts them right.
        return "NaN" if math.isnan(value) else float(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, pandas.Timestamp):
        return value.to_pydatetime()
    if hasattr(value, "asDict"):
        value = value.asDict()
    if isinstance(value, dict):
        return tuple(sorted(((plain(k), plain(v)) for k, v in value.items()), key=repr))
    if isinstance(value, (list, tuple, numpy.ndarray, polars.Series)):
        return tuple(plain(one) for one in value)
    return value


def as_map(value):
    """A map as sorted pairs, whether it came as a dict, as pairs or as key-value structs."""
    if value is None:
        return None
    if isinstance(value, dict):
        return tuple(sorted(value.items(), key=repr))
    pairs = [(one["key"], one["value"]) if isinstance(one, dict) else tuple(one) for one in value]
    return tuple(sorted(pairs, key=repr))


def multiset(rows, columns):
    rows = [tuple(as_map(r[c]) if c == "tags" else plain(r[c]) for c in columns) for r in rows]
    return collections.Counter(repr(row) for row in rows)


def same(reader, rows, reference, columns):
    ours, theirs = multiset(reference, columns), multiset(rows, columns)
    if ours != theirs:
        print(reader, "lacks", list((ours - theirs).items())[:2], "has", list((theirs - ours).items())[:2])
        raise AssertionError(f"{reader} reads other rows")


ALL = [row(n) for n in range(ROWS)]
REFERENCE = [{**r, "moment_ms": None if r["moment"] is None else r["moment"].replace(microsecond=r["moment"].microsecond // 1000 * 1000)} for r in ALL]


def prepare():
    folder = os.path.join(LAKE, "source/everything")
    os.makedirs(folder)
    columns = {f.name: [r[f.name] for r in ALL] for f in SCHEMA}
    pq.write_table(pa.table(columns, schema=SCHEMA), os.path.join(folder, "a.parquet"))
    many = os.path.join(LAKE, "source/many")
    os.makedirs(many)
    count = 1_300_000
    n = pa.array(numpy.arange(count) * 7919 % count)
    pq.write_table(pa.table({
        "n": n, "device": pc.binary_join_element_wise("device", pc.cast(pc.bit_wise_and(n, 7), pa.string()), "-"),
    }), os.path.join(many, "a.parquet"))
    forebay("lake", "crawl", "lake/source/everything/", "--table-prefix", "s_")
    forebay("lake", "crawl", "lake/source/many/", "--table-prefix", "s_")
    picked = ", ".join(f"arrow_cast(moment, 'Timestamp(Millisecond, None)') AS moment_ms" if c == "moment_ms" else c for c in [*COLUMNS, *KEYS])
    for name, source, query, more in [
        ("parted", "s_everything", f"SELECT {picked} FROM input", ["--partition-by", "part", "--partition-by", "year"]),
        ("snappy", "s_everything", f"SELECT {picked} FROM input", ["--compression", "snappy"]),
        ("many", "s_many", "SELECT * FROM input ORDER BY device, n", []),
        ("empty", "s_everything", "SELECT * FROM input WHERE id < 0", []),
    ]:
        forebay("job", "create", name, "--source", source, "--target", f"lake/tables/{name}/", "--table", name, "--sql", query, *more)
        run = forebay("job", "run", name)
        assert run["state"] == "SUCCEEDED" and run["set_aside"] == 0, run


def files(name):
    found = []
    for folder, _, names in os.walk(os.path.join(LAKE, "tables", name)):
        found += [os.path.join(folder, n) for n in names if n.endswith(".parquet")]
    return sorted(found)


# What each reader finds in one folder: its types in the order of its columns, its rows, and an
# aggregate that it computes itself.

AGGREGATES = ["count", "sum_number", "min_price", "max_price", "max_moment", "words", "mean_real"]


def in_python(rows):
    def values(c):
        return [r[c] for r in rows if r[c] is not None]
    return [len(rows), sum(values("number")), min(values("price")), max(values("price")), max(values("moment")),
            len(set(values("word"))), sum(values("real")) / len(values("real"))]


SELECT = ("count(*), sum(number), min(price), max(price), max(moment), count(DISTINCT word), avg(CAST(real AS double))")


def by_pyarrow(path, keys):
    # Without this the keys come as dictionaries.
    table = pads.dataset(path, partitioning="hive" if keys else None).to_table()
    c = lambda f, name: f(table[name]).as_py()
    told = [table.num_rows, c(pc.sum, "number"), c(pc.min, "price"), c(pc.max, "price"), c(pc.max, "moment"),
            pc.count_distinct(table["word"]).as_py(), pc.mean(pc.cast(table["real"], pa.float64())).as_py()]
    return [(f.name, f.type) for f in table.schema], table.to_pylist(), told


def by_pandas(path, keys):
    frame = pandas.read_parquet(path, dtype_backend="pyarrow")
    told = [len(frame), frame.number.sum(), frame.price.min(), frame.price.max(), frame["moment"].max(),
            frame.word.nunique(), frame.real.astype("float64").mean()]
    types = [(c, getattr(t, "pyarrow_dtype", t)) for c, t in frame.dtypes.items()]
    return types, pa.Table.from_pandas(frame, preserve_index=False).to_pylist(), told


def by_duckdb(path, keys):
    source = f"read_parquet('{path}/**/*.parquet', hive_partitioning={str(bool(keys)).lower()})"
    types = [(name, kind) for name, kind, *_ in duckdb.sql(f"DESCRIBE SELECT * FROM {source}").fetchall()]
    relation = duckdb.sql(f"SELECT * FROM {source}")
    names = relation.columns
    rows = [dict(zip(names, r)) for r in relation.fetchall()]
    return types, rows, list(duckdb.sql(f"SELECT {SELECT} FROM {source}").fetchall()[0])


def by_polars(path, keys):
    frame = polars.read_parquet(f"{path}/**/*.parquet" if keys else path + "/*.parquet", hive_partitioning=bool(keys))
    c = polars.col
    told = list(frame.select(
        polars.len(), c("number").cast(polars.Int64).sum().alias("s"), c("price").min().alias("a"), c("price").max().alias("b"),
        c("moment").max(), c("word").drop_nulls().n_unique(), c("real").cast(polars.Float64).mean()).row(0))
    return list(frame.schema.items()), frame.to_dicts(), told


def by_spark(spark, path, keys):
    frame = spark.read.parquet(path)
    told = list(frame.selectExpr("count(*)", "sum(number)", "min(price)", "max(price)", "max(moment)", "count(DISTINCT word)",
                                 "avg(CAST(real AS double))").collect()[0])
    types = [(f.name, f.dataType.simpleString()) for f in frame.schema.fields]
    rows = [r.asDict() for r in frame.collect()]
    return types, rows, told


TYPES = {
    "DuckDB": ["BIGINT", "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "DOUBLE", "DECIMAL(12,3)",
               "DECIMAL(38,10)", "DATE", "TIMESTAMP", "TIMESTAMP_MS|TIMESTAMP", "VARCHAR", "BLOB", "INTEGER[]",
               "STRUCT(x DOUBLE, \"label\" VARCHAR)|STRUCT(x DOUBLE, label VARCHAR)", "MAP(VARCHAR, INTEGER)", "VARCHAR"],
    "Spark": ["bigint", "boolean", "tinyint", "smallint", "int", "bigint", "float", "double", "double", "decimal(12,3)",
              "decimal(38,10)", "date", "timestamp_ntz", "timestamp_ntz", "string", "binary", "array<int>",
              "struct<x:double,label:string>", "map<string,int>", "string"],
    "Polars": ["Int64", "Boolean", "Int8", "Int16", "Int32", "Int64", "Float32", "Float64", "Float64",
               "Decimal(precision=12, scale=3)", "Decimal(precision=38, scale=10)", "Date", "Datetime(time_unit='us', time_zone=None)",
               "Datetime(time_unit='ms', time_zone=None)", "String", "Binary", "List(Int32)",
               "Struct({'x': Float64, 'label': String})", "Map(String, Int32)", "String"],
}


def check_types(reader, types, keys):
    names = [name for name, _ in types]
    assert names == COLUMNS + keys, f"{reader} has the columns {names}"
    if reader in TYPES:
        for (name, kind), wanted in zip(types, TYPES[reader]):
            assert str(kind) in wanted.split("|"), f"{reader}: {name} is {kind}, not {wanted}"
    else:
        for (name, kind), field in zip(types, EXPECTED):
            same_kind = kind.equals(field.type) or str(kind).replace("element", "item") == str(field.type).replace("element", "item")
            assert same_kind, f"{reader}: {name} is {kind}, not {field.type}"
    for name, kind in types[len(COLUMNS):]:
        whole = {"year": ("int32", "int64", "BIGINT", "Int64", "int"), "part": ("string", "large_string", "VARCHAR", "String", "dictionary<values=string, indices=int32, ordered=0>")}
        assert str(kind) in whole[name] or (name == "year" and str(kind).startswith("dictionary<values=int32")), f"{reader}: key {name} is {kind}"


def read_ours(spark):
    readers = {"PyArrow": by_pyarrow, "pandas": by_pandas, "DuckDB": by_duckdb, "Polars": by_polars}
    if spark:
        readers["Spark"] = lambda path, keys: by_spark(spark, path, keys)
    wanted = in_python(REFERENCE)
    flat = COLUMNS + KEYS
    for table, keys in [("parted", KEYS), ("snappy", [])]:
        path = os.path.join(LAKE, "tables", table)
        for reader, read in readers.items():
            types, rows, told = read(path, keys)
            if keys:
                check_types(reader, types, keys)
            else:
                assert [name for name, _ in types] == flat, (reader, types)
            same(f"{reader} of {table}", rows, REFERENCE, flat)
            for what, ours, theirs in zip(AGGREGATES, wanted, told):
                theirs = plain(theirs)
                close = math.isclose(ours, theirs, rel_tol=1e-9) if isinstance(ours, float) else ours == theirs
                assert close, f"{reader} of {table}: {what} is {theirs}, not {ours}"
            print(f"{reader} reads {table}: {len(rows)} rows")
        rows = sql(f"SELECT count(*), sum(number), min(price), max(price), max(moment), count(DISTINCT word), avg(CAST(real AS double)) FROM {table}")
        told = [rows[0][0], rows[0][1], decimal.Decimal(str(rows[0][2])), decimal.Decimal(str(rows[0][3])),
                datetime.datetime.fromisoformat(str(rows[0][4])).replace(tzinfo=None), rows[0][5], rows[0][6]]
        for what, ours, theirs in zip(AGGREGATES, wanted, told):
            close = math.isclose(ours, theirs, rel_tol=1e-9) if isinstance(ours, float) else ours == theirs
            assert close, f"SQL of {table}: {what} is {theirs}, not {ours}"
    empty = files("empty")
    assert sql("SELECT count(*) FROM empty") == [[0]] and empty == [], empty


# What the footers say.

def check_statistics(name, least_exact):
    exact = 0
    for path in files(name):
        file = pq.ParquetFile(path)
        for group in range(file.metadata.num_row_groups):
            table = file.read_row_group(group)
            told = file.metadata.row_group(group)
            for at in range(told.num_columns):
                column = told.column(at)
                statistics = column.statistics
                if statistics is None:
                    continue
                if "." in column.path_in_schema:
                    continue
                data = table[column.path_in_schema]
                assert statistics.null_count == data.null_count, (path, column.path_in_schema)
                if not statistics.has_min_max:
                    continue
                if pa.types.is_floating(data.type):
                    data = data.filter(pc.invert(pc.is_nan(data)))
                values = pc.min_max(data).as_py() if not pa.types.is_boolean(data.type) else {
                    "min": min(v for v in data.to_pylist() if v is not None), "max": max(v for v in data.to_pylist() if v is not None)}
                low, high = statistics.min, statistics.max
                shown = f"{path}: {column.path_in_schema}: {low!r} to {high!r}, in truth {values}"
                # Long texts are bounded by shorter ones.
                assert low <= values["min"] and values["max"] <= high, shown
                if column.physical_type not in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"):
                    assert (low, high) == (values["min"], values["max"]), shown
                exact += (low, high) == (values["min"], values["max"])
    assert exact >= least_exact, exact


def check_many():
    """Row groups, dictionaries that grow too large, order: all of it as a reader sees it."""
    found = files("many")
    file = pq.ParquetFile(found[0])
    groups = [file.metadata.row_group(g) for g in range(file.metadata.num_row_groups)]
    assert len(found) > 1 or len(groups) > 1, (found, groups)
    device, n = groups[0].column(1), groups[0].column(0)
    assert device.has_dictionary_page and "RLE_DICTIONARY" in device.encodings, device
    assert "PLAIN" in n.encodings, n
    assert {c.compression for g in groups for c in (g.column(0), g.column(1))} == {"ZSTD"}
    count, total = 1_300_000, sum(range(1_300_000))
    assert duckdb.sql(f"SELECT count(*), sum(n), count(DISTINCT n) FROM read_parquet({found})").fetchall()[0] == (count, total, count)
    told = polars.scan_parquet(found).select(polars.len(), polars.col("n").sum()).collect().row(0)
    assert told == (count, total), told
    # Pruned by statistics, and still right.
    for value in (0, 7, count - 1):
        device = f"device-{value & 7}"
        assert pads.dataset(found).to_table(filter=(pc.field("n") == value) & (pc.field("device") == device)).num_rows == 1
    in_order = [(r["device"], r["n"]) for path in found for r in pq.read_table(path).slice(0, 20_000).to_pylist()]
    assert in_order[:20_000] == sorted(in_order[:20_000])
    assert {f"{c.compression}" for path in files("snappy") for c in [pq.ParquetFile(path).metadata.row_group(0).column(0)]} == {"SNAPPY"}


# What the five write.

FOREIGN = 500
BASE = pa.table({
    "n": pa.array(range(FOREIGN), pa.int64()),
    "w": pa.array([None if i % 7 == 0 else f"wört {i % 50}" for i in range(FOREIGN)], pa.string()),
    "x": pa.array([None if i % 11 == 0 else i / 8 for i in range(FOREIGN)], pa.float64()),
    "t": pa.array([datetime.datetime(2026, 1, 1) + timedelta(seconds=61 * i, milliseconds=i) for i in range(FOREIGN)], pa.timestamp("us")),
    "d": pa.array([date(2026, 1, 1) + timedelta(days=i) for i in range(FOREIGN)], pa.date32()),
    "m": pa.array([decimal.Decimal(i * 25).scaleb(-2) for i in range(FOREIGN)], pa.decimal128(10, 2)),
    "b": pa.array([i % 3 == 0 for i in range(FOREIGN)], pa.bool_()),
    "l": pa.array([[i, None] if i % 2 else [] for i in range(FOREIGN)], pa.list_(pa.int64())),
    "s": pa.array([{"a": i, "c": str(i)} if i % 5 else None for i in range(FOREIGN)], pa.struct([("a", pa.int64()), ("c", pa.string())])),
})
ANSWER = {
    "count(*)": FOREIGN, "sum(n)": sum(range(FOREIGN)), "count(w)": FOREIGN - len(range(0, FOREIGN, 7)),
    "count(DISTINCT w)": len({i % 50 for i in range(FOREIGN) if i % 7}),
    "sum(x)": sum(i / 8 for i in range(FOREIGN) if i % 11), "count(x)": FOREIGN - len(range(0, FOREIGN, 11)),
    "max(t)": "2026-01-01 08:27:19.499", "max(d)": "2027-05-15", "sum(m)": "31187.50",
    "count(CASE WHEN b THEN 1 END)": len(range(0, FOREIGN, 3)),
    "sum(CASE WHEN l IS NULL THEN 0 ELSE cardinality(l) END)": 2 * (FOREIGN // 2),
    "sum(s['a'])": sum(i for i in range(FOREIGN) if i % 5),
}


def target(name):
    folder = os.path.join(LAKE, "foreign", name)
    os.makedirs(folder)
    return folder


CRAWLED = set()


def agrees(name, answer=None, columns=None, where=""):
    """Crawls what somebody wrote and compares the aggregates of SQL."""
    if name not in CRAWLED:
        forebay("lake", "crawl", f"lake/foreign/{name}/", "--table-prefix", "f_")
        CRAWLED.add(name)
    answer = answer or {what: told for what, told in ANSWER.items() if columns is None or what in columns}
    row = sql(f"SELECT {', '.join(answer)} FROM f_{name.replace('-', '_')} {where}")[0]
    for (what, wanted), told in zip(answer.items(), row):
        text = str(told).replace("T", " ").removesuffix("Z")
        fits = math.isclose(wanted, float(text), rel_tol=1e-12) if isinstance(wanted, float) else text.rstrip("0") == str(wanted).rstrip("0")
        assert fits, f"{name}: {what} is {told!r}, not {wanted!r}"
    print(f"SQL reads {name}")


def refused(name, *words):
    """What cannot be read is left out with its reason, and never told as a table without rows."""
    told = forebay("lake", "crawl", f"lake/foreign/{name}/", "--table-prefix", "f_")
    assert told["left_out"] == told["found"] > 0 and told["tables"] == [], told
    whole = [one for one in told["objects"] if one["key"].endswith(".parquet")]
    for one in whole:
        assert one["decision"] == "left_out" and all(word in one["why"] for word in words), told
    forebay("lake", "sql", f"SELECT 1 FROM f_{name.replace('-', '_')}", fails=True)
    print(f"{name} is refused: {whole[0]['why']}")


FLAT = ["n", "w", "x", "t", "d", "m", "b"]


def write_pyarrow():
    for name, options in {
        "arrow-default": {}, "arrow-v2": {"data_page_version": "2.0", "version": "2.6"}, "arrow-nodict": {"use_dictionary": False},
        "arrow-int96": {"use_deprecated_int96_timestamps": True}, "arrow-old": {"version": "1.0", "store_schema": False},
        "arrow-snappy": {"compression": "snappy"}, "arrow-zstd": {"compression": "zstd"}, "arrow-none": {"compression": "none"},
        "arrow-pages": {"data_page_size": 100, "row_group_size": 37, "write_page_index": True},
        "arrow-nostats": {"write_statistics": False}, "arrow-checked": {"write_page_checksum": True},
        "arrow-delta": {"use_dictionary": False, "column_encoding": {"n": "DELTA_BINARY_PACKED", "w": "DELTA_LENGTH_BYTE_ARRAY", "x": "BYTE_STREAM_SPLIT"}},
        "arrow-nocompliant": {"use_compliant_nested_type": False},
        "arrow-gzip": {"compression": "gzip"}, "arrow-brotli": {"compression": "brotli"}, "arrow-lz4": {"compression": "lz4"},
    }.items():
        pq.write_table(BASE, os.path.join(target(name), "a.parquet"), **options)
        agrees(name)
    kinds = pa.table({
        "u8": pa.array([0, 255, None], pa.uint8()), "u16": pa.array([0, 65535, None], pa.uint16()), "u32": pa.array([0, 2**32 - 1, None], pa.uint32()),
        "u64": pa.array([0, 2**64 - 1, None], pa.uint64()), "big": pa.array(["a", "é", None], pa.large_string()),
        "cat": pa.array(["a", "b", None]).dictionary_encode(), "rome": pa.array([0, 10**9, None], pa.timestamp("ms", "Europe/Rome")),
        "ns": pa.array([0, 1_500_000_000, None], pa.timestamp("ns")), "half": pa.array([numpy.float16(1), numpy.float16(2.5), None], pa.float16()),
        "fixed": pa.array([b"ab", b"cd", None], pa.binary(2)), "lists": pa.array([[[1], []], None, [None]], pa.list_(pa.list_(pa.int32()))),
        "map": pa.array([[("a", {"q": [1]})], [], None], pa.map_(pa.string(), pa.struct([("q", pa.list_(pa.int8()))]))),
        "d32": pa.array([decimal.Decimal("1.5"), decimal.Decimal("-2.5"), None], pa.decimal32(5, 1)), "none": pa.nulls(3),
        "Ünï cödé": pa.array([1, 2, 3]), "sec": pa.array([0, 86399, None], pa.time32("s")),
    })
    pq.write_table(kinds.select(["u8", "sec"]), os.path.join(target("arrow-time"), "a.parquet"))
    refused("arrow-time", 'column "sec"', "Time32")
    pq.write_table(kinds.drop(["sec"]), os.path.join(target("arrow-kinds"), "a.parquet"))
    agrees("arrow-kinds", {
        "sum(u8)": 255, "sum(u16)": 65535, "sum(u32)": 2**32 - 1, "max(u64)": 2**64 - 1, "max(big)": "é", "count(DISTINCT cat)": 2,
        "max(rome)": "1970-01-12 13:46:40", "max(ns)": "1970-01-01 00:00:01.5", "sum(half)": 3.5, "count(fixed)": 2, "count(lists)": 2,
        "count(map)": 2, "sum(d32)": "-1.0", "count(none)": 0, 'sum("Ünï cödé")': 6,
    })
    parted = BASE.append_column("k", pa.array([["a b", "x/y", "é=1", None][i % 4] for i in range(FOREIGN)]))
    pads.write_dataset(parted, target("arrow-hive"), format="parquet", partitioning=pads.partitioning(pa.schema([("k", pa.string())]), flavor="hive"))
    agrees("arrow-hive")
    agrees("arrow-hive", {"count(*)": FOREIGN // 4}, where="WHERE k = 'x/y'")
    agrees("arrow-hive", {"count(*)": FOREIGN // 4}, where="WHERE k IS NULL")


def write_pandas():
    frame = BASE.select(FLAT).to_pandas()
    frame["c"] = pandas.Categorical(["a", "b"] * (FOREIGN // 2))
    frame["z"] = pandas.to_datetime(frame.t).dt.tz_localize("Europe/Rome")
    frame.to_parquet(os.path.join(target("pandas-default"), "a.parquet"))
    columns = [what for what in ANSWER if "l" not in what.split("(")[1].split(")")[0] and "s[" not in what and "l IS" not in what]
    agrees("pandas-default", columns=columns)
    agrees("pandas-default", {"count(DISTINCT c)": 2, "max(z)": "2026-01-01 07:27:19.499"})
    frame["k"] = [["one", "two words"][i % 2] for i in range(FOREIGN)]
    frame.drop(columns=["c", "z"]).to_parquet(target("pandas-parted"), partition_cols=["k"], index=False)
    agrees("pandas-parted", columns=columns)
    agrees("pandas-parted", {"count(*)": FOREIGN // 2}, where="WHERE k = 'two words'")


def write_polars():
    frame = polars.from_arrow(BASE)
    frame.write_parquet(os.path.join(target("polars-default"), "a.parquet"))
    agrees("polars-default")
    frame.with_columns(polars.col("w").cast(polars.Categorical)).write_parquet(
        os.path.join(target("polars-snappy"), "a.parquet"), compression="snappy", row_group_size=64, data_page_size=512)
    agrees("polars-snappy")
    frame.with_columns((polars.col("n") % 3).alias("k")).write_parquet(target("polars-hive"), partition_by="k")
    agrees("polars-hive")
    agrees("polars-hive", {"count(*)": 167}, where="WHERE k = 1")


def write_duckdb():
    base = BASE
    for name, options in {"duck-default": "", "duck-v2": ", PARQUET_VERSION v2", "duck-zstd": ", COMPRESSION zstd, ROW_GROUP_SIZE 2048"}.items():
        duckdb.sql(f"COPY base TO '{target(name)}/a.parquet' (FORMAT parquet{options})")
        agrees(name)
    shutil.rmtree(target("duck-hive"))
    duckdb.sql(f"COPY (SELECT *, ['a b', 'é', NULL][n % 3 + 1] AS k, n % 2 AS j FROM base) TO '{os.path.join(LAKE, 'foreign/duck-hive')}' (FORMAT parquet, PARTITION_BY (k, j))")
    agrees("duck-hive")
    agrees("duck-hive", {"count(*)": len([i for i in range(FOREIGN) if i % 3 == 0 and i % 2])}, where="WHERE k = 'a b' AND j = 1")
    duckdb.sql(f"COPY (SELECT n::HUGEINT AS n, w, uuid() AS id, x::FLOAT AS x, t::TIMESTAMPTZ AS t FROM base) TO '{target('duck-kinds')}/a.parquet' (FORMAT parquet)")
    agrees("duck-kinds", {"count(id)": FOREIGN, "sum(n)": float(sum(range(FOREIGN))), "count(w)": ANSWER["count(w)"]})


def write_spark(spark):
    frame = spark.read.parquet(os.path.join(LAKE, "foreign/arrow-default"))
    for name, options, settings in [
        ("spark-default", {}, {}), ("spark-zstd", {"compression": "zstd"}, {}),
        ("spark-int96", {}, {"spark.sql.parquet.outputTimestampType": "INT96"}),
        ("spark-legacy", {}, {"spark.sql.parquet.writeLegacyFormat": "true"}),
        ("spark-v2", {"parquet.writer.version": "PARQUET_2_0"}, {}),
        ("spark-gzip", {"compression": "gzip"}, {}),
    ]:
        for key, value in settings.items():
            spark.conf.set(key, value)
        # INT96 is for instants; the others are without a zone.
        given = frame.selectExpr("n", "w", "x", "CAST(t AS timestamp) AS t", "d", "m", "b", "l", "s") if name == "spark-int96" else frame
        writer = given.coalesce(2).write.mode("overwrite")
        for key, value in options.items():
            writer = writer.option(key, value)
        writer.parquet(target(name))
        for key in settings:
            spark.conf.unset(key)
        agrees(name)
    frame.selectExpr("*", "CASE n % 3 WHEN 0 THEN 'a b' WHEN 1 THEN 'x/y=z' END AS k").write.mode("overwrite").partitionBy("k").parquet(target("spark-hive"))
    agrees("spark-hive")
    agrees("spark-hive", {"count(*)": len(range(1, FOREIGN, 3))}, where="WHERE k = 'x/y=z'")
    agrees("spark-hive", {"count(*)": len(range(2, FOREIGN, 3))}, where="WHERE k IS NULL")


def main():
    spark = session()
    prepare()
    read_ours(spark)
    check_statistics("parted", 400)
    check_statistics("snappy", 10)
    check_statistics("many", 2)
    check_many()
    write_pyarrow()
    write_pandas()
    write_polars()
    write_duckdb()
    if spark:
        write_spark(spark)
        spark.stop()
    print("READERS AGREE")


main()
