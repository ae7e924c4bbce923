"""Publishes readings and asks questions about them.

publish PORT SOURCE LINES   SOURCE: a Parquet file of readings, or how many hours to make up.
                            Writes what was published to LINES; prints how many.
compare FOREBAY DATA_DIR QUESTIONS LINES TABLE...
                            Asks each question of each table and of DuckDB; prints what differs.
"""

import datetime, decimal, json, math, random, socket, struct, subprocess, sys
import duckdb

NUMBERS = ["ozone", "particulate_matter", "pm10", "carbon_monoxide", "sulfur_dioxide", "nitrogen_dioxide",
           "temperature", "pressure", "dew_point", "rain", "wind_speed"]
STATIONS = ["Aotizhongxin", "Changping", "Dingling", "Dongsi", "Guanyuan", "Gucheng",
            "Huairou", "Nongzhanguan", "Shunyi", "Tiantan", "Wanliu", "Wanshouxigong"]


def made_up(hours):
    chance = random.Random(20130301)
    start = datetime.datetime(2013, 3, 1)
    winds = ["N", "NNE", "E", "SE", "S", "W", "NW", None]
    for hour in range(hours):
        at = start + datetime.timedelta(hours=hour)
        for station in STATIONS:
            warm = 12 * math.sin(hour / 24 * math.tau) + 10
            row = {"device": station, "timestamp": at.strftime("%Y-%m-%dT%H:%M:%SZ")}
            means = [55, 80, 100, 1200, 15, 45, warm, 1011, 2, 0.1, 2]
            for name, mean in zip(NUMBERS, means):
                    # Not -0.0, which is below 0.0 to us (docs/sql.md).
                value = round(mean + chance.gauss(0, 1 + abs(mean) / 5), 1) + 0.0
                value = max(value, 0.0) if name in ("rain", "wind_speed") else value
                row[name] = None if chance.random() < 0.03 else value
            row["wind_dir"] = chance.choice(winds)
            yield row


def real(path):
    # The shortest text of a 32-bit number, read as a 64-bit one: what a device would write.
    numbers = ", ".join(f"CAST(CAST({name} AS VARCHAR) AS DOUBLE) AS {name}" for name in NUMBERS)
    sql = f"SELECT device, strftime(timestamp, '%Y-%m-%dT%H:%M:%SZ') AS timestamp, {numbers}, wind_dir FROM read_parquet(?)"
    rows = duckdb.execute(sql, [path])
    names = [column[0] for column in rows.description]
    while some := rows.fetchmany(10_000):
        for row in some:
            yield dict(zip(names, row))


def packet(kind, body):
    length, size = b"", len(body)
    while True:
        size, digit = divmod(size, 128)
        length += bytes([digit | (128 if size else 0)])
        if not size:
            return bytes([kind]) + length + body


def text(value):
    value = value.encode()
    return struct.pack(">H", len(value)) + value


def publish(port, source, lines):
    stream = socket.create_connection(("127.0.0.1", int(port)))
    stream.sendall(packet(0x10, text("MQTT") + b"\x04\x02\x00\x3c" + text("beijing")))
    assert stream.recv(4)[3] == 0
    answers, count, waiting = stream.makefile("rb"), 0, 0
    rows = made_up(int(source)) if source.isdigit() else real(source)
    with open(lines, "w") as kept:
        for row in rows:
            line = json.dumps(row, separators=(",", ":"))
            kept.write(line + "\n")
            body = text(f"air/{row['device']}/readings") + struct.pack(">H", count % 60_000 + 1) + line.encode()
            stream.sendall(packet(0x32, body))
            count, waiting = count + 1, waiting + 1
            if waiting == 500:
                assert len(answers.read(4 * waiting)) == 4 * waiting
                waiting = 0
        assert len(answers.read(4 * waiting)) == 4 * waiting
    print(count)


MACROS = """
CREATE MACRO from_iso8601_timestamp(x) AS CAST(replace(x, 'Z', '') AS TIMESTAMP);
CREATE MACRO day_of_week(x) AS isodow(x);
CREATE MACRO date_format(x, pattern) AS strftime(x, pattern);
CREATE MACRO regexp_like(x, pattern) AS regexp_matches(x, pattern);
CREATE MACRO array_join(x, delimiter) AS array_to_string(x, delimiter);
"""


def plain(value):
    if isinstance(value, (datetime.datetime, datetime.date)):
        return value.isoformat()
    return float(value) if isinstance(value, decimal.Decimal) else value


def same(ours, theirs):
    if isinstance(ours, (int, float)) and isinstance(theirs, (int, float)):
        if isinstance(ours, int) and isinstance(theirs, int):
            return ours == theirs
        return ours == theirs or abs(ours - theirs) <= 1e-9 * max(abs(ours), abs(theirs))
    return ours == theirs


def questions(path):
    found, name, lines = [], None, []
    for line in open(path):
        if line.startswith("-- "):
            name, lines = line[3:].strip(), []
        elif line.strip():
            lines.append(line)
        elif name and lines:
            found.append((name, "".join(lines)))
            name, lines = None, []
    return found + ([(name, "".join(lines))] if name and lines else [])


def compare(forebay, data_dir, path, lines, *tables):
    types = {"device": "VARCHAR", "timestamp": "VARCHAR", **{name: "DOUBLE" for name in NUMBERS}, "wind_dir": "VARCHAR"}
    duckdb.sql(MACROS)
    duckdb.sql(f"CREATE TABLE readings AS SELECT * FROM read_json('{lines}', format='newline_delimited', columns={types})")
    asked, wrong = 0, []
    for name, sql in questions(path):
        theirs = [[plain(cell) for cell in row] for row in duckdb.sql(sql.replace("{t}", "readings").replace(" OFFSET 20 LIMIT 30", " LIMIT 30 OFFSET 20")).fetchall()]
        assert theirs, f"{name}: DuckDB answers nothing"
        for table in tables:
            asked += 1
            command = [forebay, "lake", "sql", sql.replace("{t}", table), "--json", "--data-dir", data_dir]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                wrong.append(f"{name} of {table}: {done.stdout}{done.stderr}")
                continue
            ours = json.loads(done.stdout)["rows"]
            differ = [(a, b) for a, b in zip(ours, theirs) if len(a) != len(b) or not all(map(same, a, b))]
            if len(ours) != len(theirs) or differ:
                wrong.append(f"{name} of {table}: {len(ours)} rows and {len(theirs)}; {differ[:2]}")
    print(json.dumps({"asked": asked, "questions": len(questions(path)), "wrong": wrong}))


{"publish": publish, "compare": compare}[sys.argv[1]](*sys.argv[2:])
