"""COPY both ways, TRUNCATE, PREPARE / EXECUTE, cursors over queries, and statements between two Syncs."""

import asyncio
import datetime
import decimal
import io
import random
import subprocess
import time
import uuid

import asyncpg
import psycopg
import pytest

import drivers

COLUMNS = "id int PRIMARY KEY, t text, n numeric(12,3), b bytea, at timestamptz, l int[], j jsonb, u uuid, f float8, d date, o bool"
NAMES = "id, t, n, b, at, l, j, u, f, d, o"


@pytest.fixture
def connection(server):
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        yield connection


@pytest.fixture
def table():
    return f"c{time.monotonic_ns()}"


def rows(seed, count):
    """Rows with everything that a format has to quote."""
    made = random.Random(seed)
    texts = ["", "\\N", "\\.", "a\tb", "line\nend", "cr\r", 'q"uo"te', "comma,", "back\\slash", "ü日本", "NULL", " pad ", "\x01\x08\x0b\x0c", None]
    for id in range(count):
        yield (
            id,
            made.choice(texts),
            None if made.random() < 0.1 else decimal.Decimal(made.randrange(-(10**9), 10**9)).scaleb(-3),
            made.randbytes(made.randrange(4)),
            datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc) + datetime.timedelta(microseconds=made.randrange(10**15)),
            [made.choice([1, -5, None]) for _ in range(made.randrange(3))],
            made.choice(['{"a": 1}', '"x"', None]),
            uuid.UUID(int=made.getrandbits(128)),
            made.choice([1.5, -0.25, float("inf")]),
            datetime.date(2024, 2, 29),
            made.choice([True, False, None]),
        )


@pytest.mark.parametrize("options", ["", "(FORMAT csv)", "(FORMAT csv, HEADER match, DELIMITER ';', NULL 'nil', QUOTE '''')", "(NULL 'nil', DELIMITER '|')", "(FORMAT binary)"])
def test_copy_out_reads_back_in(connection, table, options):
    seed = time.monotonic_ns() % 10**6
    connection.execute(f"CREATE TABLE {table} ({COLUMNS})")
    connection.execute(f"CREATE TABLE {table}_again ({COLUMNS})")
    with connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO {table} VALUES ({', '.join(['%s'] * 11)})", list(rows(seed, 60)))
    with connection.cursor().copy(f"COPY {table} TO STDOUT {options}") as out:
        data = b"".join(bytes(part) for part in out)
    cursor = connection.cursor()
    with cursor.copy(f"COPY {table}_again FROM STDIN {options}") as into:
        cuts = random.Random(seed)
        at = 0
        while at < len(data):
            step = cuts.randrange(1, 40)
            into.write(data[at : at + step])
            at += step
    assert cursor.statusmessage == "COPY 60"
    select = f"SELECT {NAMES} FROM {{}} ORDER BY id"
    assert connection.execute(select.format(f"{table}_again")).fetchall() == connection.execute(select.format(table)).fetchall(), f"seed {seed}"


def test_psycopg_writes_rows(connection, table):
    connection.execute(f"CREATE TABLE {table} (id int, name text DEFAULT 'none', twice int GENERATED ALWAYS AS (id * 2) STORED)")
    with connection.cursor().copy(f"COPY {table} (id) FROM STDIN") as copy:
        for id in range(20_000):
            copy.write_row((id,))
    assert connection.execute(f"SELECT count(*), sum(twice), min(name) FROM {table}").fetchone() == (20_000, 20_000 * 19_999, "none")


def test_a_bad_line_is_named_and_nothing_is_there(connection, table):
    connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, v int NOT NULL, CHECK (v < 100))")
    cases = [
        ("1\t2\n2\tx\n", "22P02", f"COPY {table}, line 2, column v: \"x\""),
        ("1\t2\n2\n", "22P04", f"COPY {table}, line 2"),
        ("1\t2\t3\n", "22P04", f"COPY {table}, line 1"),
        ("1\t2\n2\t\\N\n", "23502", f"COPY {table}, line 2, column v: null input"),
        ("1\t2\n1\t3\n", "23505", f"COPY {table}, line 2"),
        ("1\t200\n", "23514", f"COPY {table}, line 1"),
        ("1\t99999999999\n", "22003", f"COPY {table}, line 1, column v: \"99999999999\""),
    ]
    for data, state, context in cases:
        with pytest.raises(psycopg.Error) as caught:
            with connection.cursor().copy(f"COPY {table} FROM STDIN") as copy:
                copy.write(data)
        assert (caught.value.sqlstate, caught.value.diag.context) == (state, context), data
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    with pytest.raises(psycopg.errors.QueryCanceled):
        with connection.cursor().copy(f"COPY {table} FROM STDIN") as copy:
            copy.write("1\t1\n")
            raise psycopg.errors.QueryCanceled("the client gives up")
    assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    for text, state in [
        (f"COPY {table} (nosuch) FROM STDIN", "42703"),
        (f"COPY {table} (id, id) FROM STDIN", "42701"),
        ("COPY nosuch FROM STDIN", "42P01"),
        ("COPY (DELETE FROM nosuch) TO STDOUT", "42P01"),
    ]:
        with pytest.raises(psycopg.Error) as caught:
            with connection.cursor().copy(text) as copy:
                copy.write(b"")
        assert caught.value.sqlstate == state, text


def test_the_first_refused_row_is_named(connection, table):
    connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, v int, half smallint GENERATED ALWAYS AS (v / 2) STORED, CHECK (v <> 13))")
    connection.execute(f"INSERT INTO {table} (id, v) VALUES (17001, 0)")

    def refused(data, options=""):
        with pytest.raises(psycopg.Error) as caught:
            with connection.cursor().copy(f"COPY {table} (id, v) FROM STDIN {options}") as copy:
                copy.write(data)
        return caught.value.sqlstate, caught.value.diag.context

    rows = lambda count, bad={}: "".join(f"{bad.get(n, n)}\t{n % 10}\n" for n in range(1, count + 1))
    assert refused(rows(20_000)) == ("23505", f"COPY {table}, line 17001")
    assert refused(rows(10_000, {9_000: 8_999, 9_500: 1})) == ("23505", f"COPY {table}, line 9000")
    assert refused("1\t1\n2\t13\n3\t1\n") == ("23514", f"COPY {table}, line 2")
    assert refused("1\t1\n2\t1\n3\t99999\n") == ("22003", f"COPY {table}, line 3")
    # A header counts, and a row that runs over lines is named by its last, as in Postgres.
    assert refused("id,v\n1,1\n1,2\n", "(FORMAT csv, HEADER)") == ("23505", f"COPY {table}, line 3")
    assert refused('1,"1\n"\n2,13\n', "(FORMAT csv)")[1].endswith(("line 2, column v: \"1\n\"", "line 3"))
    assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (1,)
    with connection.transaction(force_rollback=True):
        connection.execute(f"INSERT INTO {table} (id, v) VALUES (5, 5)")
        assert refused("4\t1\n5\t1\n") == ("23505", f"COPY {table}, line 2")
    assert refused("4\t1\n17001\t1\n") == ("23505", f"COPY {table}, line 2")


def test_copy_in_a_block(server, connection, table):
    connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY)")
    with psycopg.connect(server.dsn()) as block:
        with block.cursor().copy(f"COPY {table} FROM STDIN (FORMAT csv, HEADER)") as copy:
            copy.write("id\n1\n2\n")
        assert block.execute(f"SELECT count(*) FROM {table}").fetchone() == (2,)
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
        block.rollback()
        assert block.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_asyncpg_copies(server, table):
    async def work():
        connection = await asyncpg.connect(host="127.0.0.1", port=server.pg_port, user="app", database="thalweg")
        await connection.execute(f"CREATE TABLE {table} (id int, name text)")
        assert await connection.copy_records_to_table(table, records=[(1, "a"), (2, None)]) == "COPY 2"
        assert await connection.copy_to_table(table, source=io.BytesIO(b"3,c\n"), format="csv") == "COPY 1"
        out = io.BytesIO()
        assert await connection.copy_from_query(f"SELECT * FROM {table} WHERE id > $1 ORDER BY id", 1, output=out) == "COPY 2"
        assert out.getvalue() == b"2\t\\N\n3\tc\n"
        await connection.close()

    asyncio.run(work())


def test_truncate(server, connection, table):
    connection.execute(f"CREATE TABLE {table} (a int PRIMARY KEY)")
    connection.execute(f"CREATE TABLE {table}_b (a int)")
    connection.execute(f"CREATE MATERIALIZED VIEW {table}_n AS SELECT count(*) AS n FROM {table}")
    fill = f"INSERT INTO {table} VALUES (1), (2)"
    connection.execute(fill)
    connection.execute(f"INSERT INTO {table}_b VALUES (1)")
    assert connection.execute(f"TRUNCATE {table}").statusmessage == "TRUNCATE TABLE"
    connection.execute("FLUSH")
    assert connection.execute(f"SELECT n FROM {table}_n").fetchone() == (0,)
    connection.execute(fill)
    with psycopg.connect(server.dsn()) as block:
        block.execute(f"TRUNCATE TABLE {table}, {table}_b")
        assert block.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
        block.rollback()
    assert connection.execute(f"SELECT count(*) FROM {table}_b").fetchone() == (1,)
    connection.execute(f"TRUNCATE {table}, {table}_b")
    assert connection.execute(f"SELECT (SELECT count(*) FROM {table}), (SELECT count(*) FROM {table}_b)").fetchone() == (0, 0)
    with pytest.raises(psycopg.errors.WrongObjectType):
        connection.execute(f"TRUNCATE {table}_n")


def test_prepare_and_execute(connection, table):
    connection.execute(f"CREATE TABLE {table} (a int, b text)")
    connection.execute(f"PREPARE put (int) AS INSERT INTO {table} VALUES ($1, $2)")
    assert connection.execute("EXECUTE put (1 + 1, 'x' || 'y')").statusmessage == "INSERT 0 1"
    connection.execute(f"PREPARE ask AS SELECT a, b FROM {table} WHERE a = $1")
    assert connection.execute("EXECUTE ask (2)").fetchall() == [(2, "xy")]
    assert connection.execute("EXECUTE ask ('2')").fetchall() == [(2, "xy")]
    for text, state in [("EXECUTE ask", "42601"), ("EXECUTE ask ('x')", "22P02"), ("EXECUTE nosuch", "26000"), ("PREPARE ask AS SELECT 1", "42P05")]:
        with pytest.raises(psycopg.Error) as caught:
            connection.execute(text)
        assert caught.value.sqlstate == state, text
    connection.execute("DEALLOCATE ask")
    with pytest.raises(psycopg.errors.InvalidSqlStatementName):
        connection.execute("EXECUTE ask (1)")
    with psycopg.ClientCursor(connection) as simple:
        assert simple.execute("PREPARE two AS SELECT $1::int * 2; EXECUTE two (21)").nextset()
        assert simple.fetchone() == (42,)


def test_cursors_over_queries(server, connection):
    with psycopg.connect(server.dsn()) as block:
        with block.cursor("numbers") as cursor:
            cursor.itersize = 7
            cursor.execute("SELECT g FROM generate_series(1, %s) AS s(g)", (100,))
            assert [row[0] for row in cursor] == list(range(1, 101))
        block.execute("DECLARE c CURSOR FOR SELECT g FROM generate_series(1, 10) AS s(g)")
        assert block.execute("FETCH 3 FROM c").fetchall() == [(1,), (2,), (3,)]
        assert block.execute("MOVE 2 FROM c").statusmessage == "MOVE 2"
        assert block.execute("FETCH NEXT FROM c").fetchall() == [(6,)]
        assert block.execute("FETCH ALL FROM c").statusmessage == "FETCH 4"
        assert block.execute("FETCH c").fetchall() == []
        block.commit()
        with pytest.raises(psycopg.errors.InvalidCursorName):
            block.execute("FETCH c")
        block.rollback()
        block.execute("DECLARE held CURSOR WITH HOLD FOR SELECT 1 AS a UNION ALL SELECT 2 ORDER BY a")
        block.commit()
        assert block.execute("FETCH ALL FROM held").fetchall() == [(1,), (2,)]
        block.execute("CLOSE held")
    with pytest.raises(psycopg.Error) as caught:
        connection.execute("DECLARE c CURSOR FOR SELECT 1")
    assert caught.value.sqlstate == "25P01"


def test_statements_between_two_syncs_stand_or_fall_together(connection, table):
    connection.execute(f"CREATE TABLE {table} (a int PRIMARY KEY)")
    with pytest.raises(psycopg.errors.UniqueViolation):
        with connection.pipeline():
            connection.execute(f"INSERT INTO {table} VALUES (1)")
            connection.execute(f"INSERT INTO {table} VALUES (2)")
            connection.execute(f"INSERT INTO {table} VALUES (1)")
    assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    with connection.pipeline() as pipeline:
        connection.execute(f"INSERT INTO {table} VALUES (1)")
        count = connection.execute(f"SELECT count(*) FROM {table}")
        connection.execute(f"INSERT INTO {table} VALUES (2)")
        pipeline.sync()
        assert count.fetchone() == (1,)
        connection.execute(f"INSERT INTO {table} VALUES (3)")
    assert connection.execute(f"SELECT a FROM {table} ORDER BY a").fetchall() == [(1,), (2,), (3,)]
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


@pytest.mark.skipif(not drivers.HAS_PSQL, reason="SKIPPED: psql is not on the PATH")
def test_psql_copies(server, connection, table, tmp_path):
    connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, name text)")
    (tmp_path / "in.csv").write_text('id,name\n1,"a, b"\n2,\n')

    def psql(command):
        result = subprocess.run(["psql", server.dsn(), "-X", "-q", "-c", command], capture_output=True, text=True, timeout=300)
        return result.stdout, result.stderr

    assert psql(f"\\copy {table} from '{tmp_path}/in.csv' with csv header") == ("", "")
    assert psql(f"\\copy (select * from {table} order by id) to '{tmp_path}/out.txt'") == ("", "")
    assert (tmp_path / "out.txt").read_text() == "1\ta, b\n2\t\\N\n"
    assert psql(f"COPY {table} TO STDOUT (FORMAT csv)")[0] == '1,"a, b"\n2,\n'
    (tmp_path / "bad.csv").write_text("3,c\nx,d\n")
    assert f'CONTEXT:  COPY {table}, line 2, column id: "x"' in psql(f"\\copy {table} from '{tmp_path}/bad.csv' csv")[1]
