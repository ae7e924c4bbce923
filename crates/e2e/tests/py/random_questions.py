"""Random statements, asked of Athena's API and of DuckDB.

    random_questions.py SEED COUNT

Three small tables, full of nulls, zeros and equal keys, lie in the lake as Parquet and as
JSON. Statements are made of the grammar below, which keeps to what means the same in both dialects;
whatever differs is printed with the rows that only one of them has, and the program ends with 1.
"""

import decimal, json, math, random, sys, time

import boto3
import duckdb

BUCKET, DATABASE = "questions", "questions"
ROWS = {"a": 300, "b": 120, "c": 40}
COLUMNS = "k int, v double, s varchar, f boolean, d date, id bigint"
LETTERS = ["", "x", "ab", "Porto", "porto", "a_b", "%", "zz"]
REALS = [0.0, 1.5, -2.25, 3.0, 7.125, 100.5, 0.1]

athena, s3, glue = boto3.client("athena"), boto3.client("s3"), boto3.client("glue")
duck = duckdb.connect()


def ask(statement):
    """The rows of an answer and the types of its columns."""
    place = {"OutputLocation": f"s3://{BUCKET}/asked/"}
    query = athena.start_query_execution(QueryString=statement, QueryExecutionContext={"Database": DATABASE}, ResultConfiguration=place)["QueryExecutionId"]
    while (status := athena.get_query_execution(QueryExecutionId=query)["QueryExecution"]["Status"])["State"] not in ("SUCCEEDED", "FAILED", "CANCELLED"):
        time.sleep(0.003)
    if status["State"] != "SUCCEEDED":
        raise RuntimeError(status.get("StateChangeReason"))
    rows, token = [], {}
    while True:
        page = athena.get_query_results(QueryExecutionId=query, MaxResults=1000, **token)
        rows += [tuple(cell.get("VarCharValue") for cell in row["Data"]) for row in page["ResultSet"]["Rows"]]
        if "NextToken" not in page:
            return rows[1:], [column["Type"] for column in page["ResultSet"]["ResultSetMetadata"]["ColumnInfo"]]
        token = {"NextToken": page["NextToken"]}


def make_tables():
    data = random.Random(5)
    s3.create_bucket(Bucket=BUCKET)
    glue.create_database(DatabaseInput={"Name": DATABASE})
    for name, count in ROWS.items():
        rows = [(data.choice([None, *range(-3, 12)]), data.choice([None, *REALS, *[round(data.uniform(-50, 50), 3) for _ in range(16)]]),
                 data.choice([None, *LETTERS]), data.choice([None, True, False]),
                 data.choice([None, *[f"2024-{data.randint(1, 9):02}-{data.randint(1, 28):02}" for _ in range(9)]]), at) for at in range(count)]
        duck.execute(f"CREATE TABLE {name} ({COLUMNS})")
        duck.executemany(f"INSERT INTO {name} VALUES (?, ?, ?, ?, ?, ?)", rows)
        # Several objects each, so that a query has several readers.
        for part in range(3):
            lines = "\n".join(json.dumps(dict(zip("k v s f d id".split(), row))) for row in rows[part::3])
            s3.put_object(Bucket=BUCKET, Key=f"{name}/{part}.json", Body=lines.encode())
        columns = [{"Name": column.split()[0], "Type": column.split()[1].replace("varchar", "string")} for column in COLUMNS.split(", ")]
        serde = {"SerializationLibrary": "org.openx.data.jsonserde.JsonSerDe"}
        glue.create_table(DatabaseName=DATABASE, TableInput={"Name": f"{name}_json", "TableType": "EXTERNAL_TABLE", "Parameters": {"classification": "json"},
                          "StorageDescriptor": {"Columns": columns, "Location": f"s3://{BUCKET}/{name}/", "SerdeInfo": serde}})
        ask(f"CREATE TABLE {name}_parquet WITH (format = 'PARQUET', external_location = 's3://{BUCKET}/{name}_parquet/') AS SELECT * FROM {name}_json WHERE id < 20")
        ask(f"INSERT INTO {name}_parquet SELECT * FROM {name}_json WHERE id >= 20")


class Grammar:
    """Statements over `{a}`, `{b}` and `{c}`, which stand for the tables."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.one = self.random.choice
        self.number_of_names = 0

    def name(self):
        self.number_of_names += 1
        return f"q{self.number_of_names}"

    def chance(self, *weighted):
        """One of the makers, each (weight, maker), made."""
        weights, makers = zip(*weighted)
        return self.random.choices(makers, weights)[0]()

    def int(self, low, high):
        return self.random.randint(low, high)

    def negation(self):
        return self.one(["", "NOT "])

    def number(self, t, depth=0):
        if depth > 2:
            return self.one([f"{t}.k", f"{t}.v", f"{t}.id"])
        deeper = lambda: self.number(t, depth + 1)
        return self.chance(
            (10, lambda: self.one([f"{t}.k", f"{t}.v", f"{t}.id"])),
            (2, lambda: str(self.one([0, 1, -1, 2, 7, 3, "1.5e0", "-2.25e0"]))),
            (3, lambda: f"({deeper()} {self.one('+-*')} {deeper()})"),
            (1, lambda: f"abs({deeper()})"),
            (1, lambda: f"coalesce({deeper()}, {deeper()})"),
            (1, lambda: f"CASE WHEN {self.condition(t, depth + 1)} THEN {deeper()} ELSE {deeper()} END"),
            (1, lambda: f"nullif({deeper()}, {deeper()})"),
            (1, lambda: f"round({t}.v{self.one(['', ', 1'])})"),
            (1, lambda: f"length({self.text(t, depth + 1)})"))

    def text(self, t, depth=0):
        if depth > 2:
            return f"{t}.s"
        return self.chance(
            (6, lambda: f"{t}.s"),
            (1, lambda: f"{self.one(['upper', 'lower', 'reverse', 'trim'])}({self.text(t, depth + 1)})"),
            (1, lambda: f"({self.text(t, depth + 1)} || {self.text(t, depth + 1)})"),
            (1, lambda: f"coalesce({self.text(t, depth + 1)}, 'none')"),
            (1, lambda: f"substr({t}.s, 1, {self.int(0, 3)})"),
            (1, lambda: f"CAST({t}.k AS varchar)"))

    def condition(self, t, depth=0):
        compared = lambda: f"{self.number(t, depth + 1)} {self.one(['<', '<=', '=', '<>', '>', '>='])} {self.number(t, depth + 1)}"
        if depth > 2:
            return compared()
        return self.chance(
            (6, compared),
            (1, lambda: f"{t}.s {self.one(['=', '<>', '<', '>='])} '{self.one(LETTERS)}'"),
            (1, lambda: f"{t}.{self.one('kvsfd')} IS {self.negation()}NULL"),
            (1, lambda: f"{t}.s {self.negation()}LIKE '{self.one(['%o%', 'a_b', '_', '%', 'P%', ''])}'"),
            (1, lambda: f"{t}.k {self.negation()}IN ({', '.join(str(self.int(-3, 12)) for _ in range(self.int(1, 4)))}{self.one(['', '', ', NULL'])})"),
            (1, lambda: f"{t}.v {self.negation()}IN (0, 3, -2.25e0)"),
            (1, lambda: f"{self.number(t, depth + 1)} {self.negation()}BETWEEN {self.int(-10, 5)} AND {self.int(0, 60)}"),
            (1, lambda: f"{t}.f"),
            (1, lambda: f"NOT ({self.condition(t, depth + 1)})"),
            (4, lambda: f"({self.condition(t, depth + 1)} {self.one(['AND', 'OR'])} {self.condition(t, depth + 1)})"),
            (1, lambda: f"{t}.d {self.one(['<', '>=', '='])} DATE '2024-{self.int(1, 9):02}-1{self.int(0, 9)}'"),
            (1, lambda: f"{t}.k IS {self.negation()}DISTINCT FROM {self.one([f'{t}.id', '3'])}"),
            (.5, lambda: self.one(["TRUE", "FALSE"])))

    def question(self, t):
        """A condition with a sub-query."""
        u, table = self.name(), "{" + self.one("abc") + "}"
        rows = lambda: f"FROM {table} {u} WHERE {self.condition(u, 1)}"
        return self.chance(
            (3, lambda: f"{t}.k {self.negation()}IN (SELECT {u}.k {rows()})"),
            (1, lambda: f"{t}.k {self.negation()}IN (SELECT max({u}.k) {rows()} GROUP BY {u}.s)"),
            (1, lambda: f"{t}.k {self.negation()}IN (SELECT {u}.k FROM {table} {u} WHERE {u}.s = {t}.s)"),
            (2, lambda: f"{self.negation()}EXISTS (SELECT 1 {rows()} AND {u}.k = {t}.k)"),
            (1, lambda: f"{self.negation()}EXISTS (SELECT {self.one(['count(*)', f'sum({u}.v)'])} {rows()} AND {u}.k = {t}.k)"),
            (1, lambda: f"{self.negation()}EXISTS (SELECT {u}.k {rows()} AND {u}.k = {t}.k GROUP BY {u}.k HAVING count(*) > {self.int(0, 4)})"),
            (1, lambda: f"{t}.v {self.one('<>')} (SELECT {self.one(['avg', 'max'])}({u}.v) FROM {table} {u} WHERE {u}.k = {t}.k)"),
            (1, lambda: f"{t}.id = (SELECT count(*) FROM {table} {u} WHERE {u}.k = {t}.k)"))

    def where(self, t):
        return self.chance(
            (2, lambda: ""),
            (4, lambda: f" WHERE {self.condition(t)}"),
            (2, lambda: f" WHERE {self.condition(t, 1)} {self.one(['AND', 'OR'])} {self.question(t)}"),
            (1, lambda: f" WHERE NOT ({self.condition(t, 1)} {self.one(['AND', 'OR'])} {self.question(t)})"))

    def table(self, t):
        inner = self.name()
        some = lambda: "{" + self.one("aab") + "}"
        return self.chance(
            (6, lambda: f"{some()} {t}"),
            (1, lambda: f"(SELECT * FROM {some()} {inner}{self.where(inner)}) {t}"),
            (1, lambda: f"(SELECT k, sum(v) AS v, max(s) AS s, bool_or(f) AS f, min(d) AS d, count(*) AS id FROM {some()} GROUP BY k) {t}"),
            (1, lambda: f"(SELECT * FROM {some()} UNION ALL SELECT * FROM {{c}}) {t}"),
            (1, lambda: f"(SELECT * FROM {some()} ORDER BY id DESC LIMIT {self.int(1, 50)}) {t}"),
            (1, lambda: f"(SELECT DISTINCT k, v, s, f, d, id FROM {some()}) {t}"))

    def aggregate(self, t, in_window=False):
        made = self.chance(
            (5, lambda: f"{self.one(['sum', 'avg', 'min', 'max', 'count'])}({self.number(t, 1)})"),
            (1, lambda: "count(*)"),
            (1, lambda: f"{self.one(['count', 'sum'])}(DISTINCT {self.one([f'{t}.k', f'{t}.v'])})"),
            (1, lambda: f"{self.one(['min', 'max'])}({self.one([f'{t}.s', f'{t}.d'])})"),
            (1, lambda: f"{self.one(['bool_and', 'bool_or'])}({self.condition(t, 1)})"),
            (1, lambda: f"{self.one(['stddev_pop', 'var_pop', 'stddev', 'variance'])}({t}.v)"),
            (0 if in_window else 1, lambda: f"{self.one(['max_by', 'min_by'])}({t}.id, {t}.id)"))
        return made + (f" FILTER (WHERE {self.condition(t, 1)})" if self.random.random() < .2 else "")

    def window(self, t):
        by = self.one(["", f"PARTITION BY {t}.k ", f"PARTITION BY {t}.s, {t}.f "])
        order = f"ORDER BY {t}.id{self.one(['', ' DESC'])}"
        ties = f"ORDER BY {t}.{self.one('kv')} {self.one(['', 'DESC '])}NULLS {self.one(['FIRST', 'LAST'])}"
        frame = lambda: self.one([
            "", "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW", "ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING", "ROWS BETWEEN 1 FOLLOWING AND 3 FOLLOWING",
            f"ROWS BETWEEN {self.int(0, 4)} PRECEDING AND {self.int(0, 3)} FOLLOWING", f"ROWS BETWEEN {self.int(2, 5)} PRECEDING AND {self.int(0, 2)} PRECEDING",
            f"RANGE BETWEEN {self.int(3, 9)} PRECEDING AND {self.int(0, 2)} PRECEDING", f"RANGE BETWEEN {self.int(0, 2)} FOLLOWING AND {self.int(3, 9)} FOLLOWING",
            f"GROUPS BETWEEN {self.int(2, 5)} PRECEDING AND {self.int(0, 2)} PRECEDING"])
        return self.chance(
            (2, lambda: f"{self.one(['rank', 'dense_rank', 'percent_rank', 'cume_dist'])}() OVER ({by}{ties})"),
            (1, lambda: f"{self.one(['row_number()', 'ntile(3)'])} OVER ({by}{ties}, {t}.id)"),
            (2, lambda: f"{self.one(['lag', 'lead'])}({t}.{self.one('kvs')}{self.one(['', ', 2'])}) OVER ({by}{ties}, {t}.id)"),
            (1, lambda: f"{self.one(['first_value', 'last_value'])}({t}.{self.one('kv')}) OVER ({by}{ties}, {t}.id {self.one(['', 'ROWS BETWEEN 2 PRECEDING AND 1 FOLLOWING'])})"),
            (6, lambda: f"{self.aggregate(t, True)} OVER ({by}{order} {frame()})"))

    def statement(self):
        """A statement, and whether it says in which order its rows come."""
        columns = lambda many, make: ", ".join(f"{make()} AS x{at}" for at in range(self.int(1, many)))

        def rows():
            return f"SELECT {self.one(['', 'DISTINCT '])}{columns(3, lambda: self.one([self.number, self.text])('t'))} FROM {self.table('t')}{self.where('t')}"

        def groups():
            keys = sorted({self.one(["t.k", "t.s", "t.f", "t.k % 3", "upper(t.s)", "t.d", "year(t.d)", "round(t.v / 20)"]) for _ in range(self.int(1, 2))})
            by = self.one(["{}", "{}", "{}", "ROLLUP ({})", "CUBE ({})"]).format(", ".join(keys))
            having = self.one(["", "", f" HAVING count(*) > {self.int(0, 20)}", f" HAVING sum(t.v) > {self.int(-20, 50)}"])
            named = ", ".join(f"{key} AS g{at}" for at, key in enumerate(keys))
            return f"SELECT {named}, {columns(3, lambda: self.aggregate('t'))} FROM {self.table('t')}{self.where('t')} GROUP BY {by}{having}"

        def totals():
            return f"SELECT {columns(4, lambda: self.aggregate('t'))} FROM {self.table('t')}{self.where('t')}"

        def joins():
            join = self.one(["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"])
            on = self.one(["t.k = u.k", "t.k = u.k AND t.s = u.s", "t.id = u.id", "t.k = u.k AND t.v > u.v", "t.v = u.v", "t.s = u.s AND t.id < u.id"])
            more = self.one(["", f" AND {self.condition('u', 1)}", f" AND {self.condition('t', 1)}"])
            where = self.one(["", f" WHERE {self.condition('t', 1)}", f" WHERE {self.condition('u', 1)}", " WHERE u.id IS NULL"])
            what, by = self.one([("t.id AS i, u.id AS j, u.v AS v", ""), (f"t.k AS k, {self.aggregate('u')} AS x, {self.aggregate('t')} AS y", " GROUP BY t.k")])
            return f"SELECT {what} FROM {self.table('t')} {join} {{{self.one('bc')}}} u ON {on}{more}{where}{by}"

        def sets():
            what = self.one(["k, s", "k", "s, f", "v", "k, v, s"])
            both = self.one(["UNION", "UNION ALL", "INTERSECT", "EXCEPT"])
            return f"SELECT {what} FROM {self.table('t')}{self.where('t')} {both} SELECT {what} FROM {{{self.one('bc')}}} u WHERE {self.condition('u', 1)}"

        def windows():
            return f"SELECT t.id AS i, {columns(2, lambda: self.window('t'))} FROM {{{self.one('ab')}}} t{self.where('t')}"

        def scalars():
            u, table = self.name(), "{" + self.one("abc") + "}"
            value = self.one([f"{self.one(['max', 'sum', 'count'])}({u}.v)", "count(*)"])
            return f"SELECT t.id AS i, (SELECT {value} FROM {table} {u} WHERE {u}.k = t.k) AS x FROM {self.table('t')}{self.where('t')}"

        def first():
            keys = ", ".join(f"t.{self.one('kvsdf')} {self.one(['', 'DESC '])}NULLS {self.one(['FIRST', 'LAST'])}" for _ in range(self.int(1, 2)))
            return f"SELECT t.id AS i, t.k AS k, t.v AS v FROM {{{self.one('ab')}}} t{self.where('t')} ORDER BY {keys}, t.id LIMIT {self.int(1, 30)}"

        make = self.random.choices([rows, groups, totals, joins, sets, windows, scalars, first], [4, 4, 2, 4, 2, 4, 1, 2])[0]
        return make(), make is first


def plain(value, of_type=None):
    """A value as both say it: numbers to nine digits, everything else as text."""
    if value is None or value == "NaN":
        return value
    if isinstance(value, bool) or of_type == "boolean":
        return str(value).lower()
    if isinstance(value, (int, float, decimal.Decimal)) or of_type in ("tinyint", "smallint", "integer", "bigint", "float", "real", "double") or (of_type or "").startswith("decimal"):
        number = float(value)
        return "NaN" if math.isnan(number) else float(f"{number:.9g}") + 0.0
    return str(value)


def same(left, right):
    both_numbers = isinstance(left, float) and isinstance(right, float)
    return left == right or both_numbers and abs(left - right) <= 1e-6 * max(1, abs(left), abs(right))


def compare(statement, ordered):
    expected = [tuple(map(plain, row)) for row in duck.execute(statement.format(a="a", b="b", c="c")).fetchall()]
    for stored in ("parquet", "json"):
        asked = statement.format(**{table: f"{table}_{stored}" for table in ROWS})
        try:
            rows, types = ask(asked)
        except RuntimeError as refused:
            return f"{asked}\n    is refused: {refused}"
        found = [tuple(map(plain, row, types)) for row in rows]
        if not ordered:
            order = lambda row: [(cell is None, str(type(cell)), cell if isinstance(cell, float) else str(cell)) for cell in row]
            expected.sort(key=order)
            found.sort(key=order)
        if len(expected) != len(found) or not all(all(map(same, one, other)) for one, other in zip(expected, found)):
            only = lambda rows, others: [row for row in rows if row not in others][:3]
            return f"{asked}\n    {len(expected)} rows of DuckDB, {only(expected, found)}\n    {len(found)} of ours, {only(found, expected)}"


def main(seed, count):
    make_tables()
    grammar, wrong, began = Grammar(seed), [], time.time()
    for _ in range(count):
        told = compare(*grammar.statement())
        if told:
            wrong.append(told)
            print(told, flush=True)
    print(f"{count} statements, {len(wrong)} answered otherwise, seed {seed}, {time.time() - began:.0f} s")
    if wrong:
        sys.exit(1)
    print("ALL ANSWERS ARE DUCKDB'S")


main(int(sys.argv[1]), int(sys.argv[2]))
