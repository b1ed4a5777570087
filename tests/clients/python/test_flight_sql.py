"""Flight SQL beyond queries: parameters, ingest, and the metadata that tools ask for."""

import decimal
import time

import adbc_driver_flightsql.dbapi
import pyarrow
import pyarrow.flight
import pytest

import drivers


@pytest.fixture
def connection(server):
    with adbc_driver_flightsql.dbapi.connect(f"grpc://{server.flight}", autocommit=True) as connection:
        yield connection


@pytest.fixture
def cursor(connection):
    with connection.cursor() as cursor:
        yield cursor


@pytest.fixture
def table():
    return f"f{time.monotonic_ns()}"


def test_parameters(cursor, table):
    cursor.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, name text, price numeric(10,2))")
    cursor.execute(f"INSERT INTO {table} VALUES ($1, $2, $3)", (1, "one", decimal.Decimal("1.50")))
    cursor.executemany(f"INSERT INTO {table} (id, name) VALUES ($1, $2)", [(n, f"n{n}") for n in range(2, 12)])
    cursor.execute(f"SELECT name, price FROM {table} WHERE id = $1", (1,))
    assert cursor.fetchall() == [("one", decimal.Decimal("1.50"))]
    cursor.execute(f"SELECT count(*) FROM {table} WHERE id > $1 AND name <> $2", (2, "n5"))
    assert cursor.fetchall() == [(8,)]
    cursor.execute("SELECT $1::int + 1, $2::text IS NULL", (41, None))
    assert cursor.fetchall() == [(42, True)]
    # All rows of an executemany or none.
    with pytest.raises(Exception, match="23505"):
        cursor.executemany(f"INSERT INTO {table} (id) VALUES ($1)", [(100,), (101,), (1,)])
    cursor.execute(f"SELECT count(*) FROM {table}")
    assert cursor.fetchall() == [(11,)]
    with pytest.raises(Exception, match="22023"):
        cursor.execute(f"SELECT name FROM {table} WHERE id = $1", (2**40,))


def test_a_prepared_statement_tells_its_parameters(connection, cursor, table):
    cursor.execute(f"CREATE TABLE {table} (id int, name text)")
    schema = cursor.adbc_prepare(f"SELECT name FROM {table} WHERE id = $1 AND name LIKE $2")
    assert schema.types == [pyarrow.int32(), pyarrow.string()]
    assert cursor.adbc_execute_schema(f"SELECT id, name FROM {table}").names == ["id", "name"]


def test_ingest(cursor, table):
    data = pyarrow.table({"id": pyarrow.array([1, 2, None], pyarrow.int32()), "name": ["a", None, "ü"], "x": [1.5, 2.5, None]})
    assert cursor.adbc_ingest(table, data, mode="create") == 3
    cursor.execute(f"SELECT id, name, x FROM {table} ORDER BY id")
    assert cursor.fetchall() == [(1, "a", 1.5), (2, None, 2.5), (None, "ü", None)]
    assert cursor.adbc_ingest(table, data.slice(0, 1), mode="append") == 1
    assert cursor.adbc_ingest(table, data.select(["name"]), mode="create_append") == 3
    cursor.execute(f"SELECT count(*), count(id) FROM {table}")
    assert cursor.fetchall() == [(7, 3)]
    with pytest.raises(Exception, match="42P07"):
        cursor.adbc_ingest(table, data, mode="create")
    with pytest.raises(Exception, match="42P01"):
        cursor.adbc_ingest(f"{table}_nosuch", data, mode="append")
    assert cursor.adbc_ingest(table, data.slice(0, 2), mode="replace") == 2
    cursor.execute(f"SELECT count(*) FROM {table}")
    assert cursor.fetchall() == [(2,)]


def test_ingest_is_all_or_nothing(cursor, table):
    cursor.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, v int NOT NULL)")
    with pytest.raises(Exception, match="23505"):
        cursor.adbc_ingest(table, pyarrow.table({"id": [1, 2, 1], "v": [1, 2, 3]}), mode="append")
    with pytest.raises(Exception, match="23502"):
        cursor.adbc_ingest(table, pyarrow.table({"id": [5, 6], "v": [1, None]}), mode="append")
    with pytest.raises(Exception, match="22023"):
        cursor.adbc_ingest(table, pyarrow.table({"id": [2**40], "v": [1]}), mode="append")
    cursor.execute(f"SELECT count(*) FROM {table}")
    assert cursor.fetchall() == [(0,)]
    big = pyarrow.table({"id": pyarrow.array(range(200_000), pyarrow.int64()), "v": pyarrow.array(range(200_000), pyarrow.int64())})
    assert cursor.adbc_ingest(table, big, mode="append") == 200_000
    cursor.execute(f"SELECT count(*), sum(v) FROM {table}")
    assert cursor.fetchall() == [(200_000, 199_999 * 100_000)]


def test_objects(connection, cursor, table):
    cursor.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, name text)")
    cursor.execute(f"CREATE MATERIALIZED VIEW {table}_view AS SELECT name FROM {table}")
    tree = connection.adbc_get_objects(depth="all", table_name_filter=f"{table}%").read_all().to_pylist()
    found = {
        entry["table_name"]: (entry["table_type"], [column["column_name"] for column in entry["table_columns"]])
        for catalog in tree
        for schema in catalog["catalog_db_schemas"]
        if schema["db_schema_name"] == "public"
        for entry in schema["db_schema_tables"]
    }
    assert found == {table: ("TABLE", ["id", "name"]), f"{table}_view": ("MATERIALIZED VIEW", ["name"])}
    assert [catalog["catalog_name"] for catalog in tree] == ["thalweg"]
    assert "MATERIALIZED VIEW" in connection.adbc_get_table_types()
    assert connection.adbc_get_table_schema(table).names == ["id", "name"]
    assert connection.adbc_get_info()["vendor_name"] == "Thalweg"


def test_get_schema_runs_nothing(server, cursor, table):
    with pyarrow.flight.connect(f"grpc://{server.flight}") as client:
        descriptor = lambda text: pyarrow.flight.FlightDescriptor.for_command(drivers.statement_query(text))
        schema = client.get_schema(descriptor("SELECT 1 AS a, 'x' AS b")).schema
        assert schema.names == ["a", "b"]
        assert client.get_schema(descriptor(f"CREATE TABLE {table} (a int)")).schema.names == []
        with pytest.raises(pyarrow.lib.ArrowException):
            client.get_schema(pyarrow.flight.FlightDescriptor.for_command(b"nonsense"))
    with pytest.raises(Exception, match="42P01"):
        cursor.execute(f"SELECT * FROM {table}")
        cursor.fetchall()
