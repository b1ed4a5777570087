"""psycopg2: the simple protocol, text results, named cursors and COPY."""

import datetime
import decimal
import io
import json
import time
import uuid

import psycopg2
import psycopg2.extras
import pytest

psycopg2.extras.register_uuid()


@pytest.fixture
def connection(server):
    connection = psycopg2.connect(server.dsn())
    connection.autocommit = True
    yield connection
    connection.close()


@pytest.fixture
def table():
    return f"old{time.monotonic_ns()}"


def one(connection, text, parameters=None):
    with connection.cursor() as cursor:
        cursor.execute(text, parameters)
        return cursor.fetchone()


def test_types_round_trip(connection):
    values = [
        ("int2", 7), ("int4", -5), ("int8", 2**40), ("float8", 1.25), ("numeric", decimal.Decimal("12.50")), ("text", "it's ü"),
        ("bool", True), ("date", datetime.date(2024, 2, 29)), ("timestamp", datetime.datetime(2024, 1, 2, 3, 4, 5, 678)),
        ("time", datetime.time(1, 2, 3)), ("interval", datetime.timedelta(days=2, seconds=3)), ("uuid", uuid.UUID(int=5)),
        ("int[]", [1, None, 3]), ("text[]", ["a", "b,c", None, 'q"']), ("jsonb", {"a": [1, None]}),
    ]
    for name, value in values:
        parameter = json.dumps(value) if name == "jsonb" else value
        assert one(connection, f"SELECT %s::{name}", (parameter,)) == (value,), name
        assert one(connection, f"SELECT NULL::{name}") == (None,), name
    assert bytes(one(connection, "SELECT %s::bytea", (b"\x00\xff",))[0]) == b"\x00\xff"
    instant = datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.timezone.utc)
    assert one(connection, "SELECT %s::timestamptz", (instant,)) == (instant,)


def test_transactions_and_errors(server, table):
    connection = psycopg2.connect(server.dsn())
    with connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {table} (id int PRIMARY KEY)")
    with connection, connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {table} VALUES (1), (2)")
        assert cursor.rowcount == 2
    with pytest.raises(psycopg2.errors.UniqueViolation) as caught:
        with connection, connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO {table} VALUES (3)")
            cursor.execute(f"INSERT INTO {table} VALUES (1)")
    assert caught.value.pgcode == "23505"
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table}")
        assert cursor.fetchone() == (2,)
    connection.close()


def test_named_cursor(server):
    connection = psycopg2.connect(server.dsn())
    with connection.cursor("numbers") as cursor:
        cursor.itersize = 9
        cursor.execute("SELECT g FROM generate_series(1, 50) AS s(g)")
        assert [row[0] for row in cursor] == list(range(1, 51))
    connection.rollback()
    connection.close()


def test_copy_and_batches(connection, table):
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {table} (id int, name text)")
        cursor.copy_expert(f"COPY {table} FROM STDIN WITH CSV HEADER", io.StringIO("id,name\n1,a\n2,\n"))
        psycopg2.extras.execute_values(cursor, f"INSERT INTO {table} VALUES %s", [(3, "c"), (4, "d")])
        out = io.StringIO()
        cursor.copy_expert(f"COPY (SELECT * FROM {table} ORDER BY id) TO STDOUT", out)
        assert out.getvalue() == "1\ta\n2\t\\N\n3\tc\n4\td\n"


def test_metadata(connection, table):
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {table} (id int, price numeric(10,2), name varchar(20))")
        cursor.execute(f"SELECT * FROM {table}")
        found = [(column.name, column.type_code, column.precision, column.scale) for column in cursor.description]
        assert [entry[:2] for entry in found] == [("id", 23), ("price", 1700), ("name", 1043)]
        assert found[1][2:] == (10, 2)
        assert cursor.description[0].table_oid == one(connection, f"SELECT '{table}'::regclass::oid")[0]


def test_subscribe_by_copy(server, connection, table):
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {table} (a int)")
        cursor.execute(f"INSERT INTO {table} VALUES (1), (2)")

    class Enough(Exception):
        pass

    class Lines(io.StringIO):
        def write(self, text):
            super().write(text)
            if self.getvalue().count("\n") == 3:
                raise Enough

    lines = Lines()
    with pytest.raises(Exception):
        with connection.cursor() as cursor:
            cursor.copy_expert(f"COPY (SUBSCRIBE {table} WITH (PROGRESS)) TO STDOUT", lines)
    rows = [line.split("\t") for line in lines.getvalue().splitlines()]
    assert sorted(row[1:] for row in rows) == [["f", "1", "1"], ["f", "1", "2"], ["t", "\\N", "\\N"]]
