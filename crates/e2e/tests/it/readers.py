"""What pandas, PyArrow and DuckDB find in the Parquet files of a folder, as JSON."""

import sys, json, glob, os
import pandas, pyarrow.parquet, duckdb
folder = sys.argv[1]
files = sorted(glob.glob(os.path.join(folder, "**", "*.parquet"), recursive=True))
frame = pandas.concat(pandas.read_parquet(f) for f in files)
arrow = [pyarrow.parquet.ParquetFile(f) for f in files]
duck = duckdb.sql(f"SELECT count(*) FROM read_parquet({files!r})").fetchall()[0][0]
nulls = {c: int(frame[c].isna().sum()) for c in frame.columns}
duck_nulls = {c: duckdb.sql(f'SELECT count(*) - count("{c}") FROM read_parquet({files!r})').fetchall()[0][0] for c in frame.columns}
assert nulls == duck_nulls, (nulls, duck_nulls)
print(json.dumps({
    "files": len(files), "pandas": len(frame), "pyarrow": sum(f.metadata.num_rows for f in arrow), "duckdb": duck,
    "columns": list(frame.columns), "nulls": nulls, "pyarrow_columns": arrow[0].schema_arrow.names,
}))
