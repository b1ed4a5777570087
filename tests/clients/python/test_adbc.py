"""Arrow Flight SQL: ADBC's driver and pyarrow's own Flight client."""

import adbc_driver_flightsql.dbapi
import pyarrow
import pyarrow.flight
import pytest

import drivers


@pytest.fixture
def cursor(server):
    with adbc_driver_flightsql.dbapi.connect(f"grpc://{server.flight}", autocommit=True) as connection:
        with connection.cursor() as cursor:
            yield cursor


def test_ddl_dml_and_select(cursor):
    cursor.execute("CREATE TABLE flights (id int PRIMARY KEY, place text, price numeric(10,2))")
    cursor.execute("CREATE MATERIALIZED VIEW by_place AS SELECT place, count(*) AS n, sum(price) AS total FROM flights GROUP BY place")
    cursor.execute("INSERT INTO flights VALUES (1, 'ams', 10.5), (2, 'ber', 20), (3, 'ams', NULL)")
    assert cursor.rowcount in (3, -1)
    cursor.execute("SELECT place, n, total FROM by_place ORDER BY place")
    table = cursor.fetch_arrow_table()
    assert table.column_names == ["place", "n", "total"]
    assert drivers.level(drivers.rows_of(table)) == [("ams", 2, drivers.one(__import__("decimal").Decimal("10.5"))), ("ber", 1, 20)]
    cursor.execute("DELETE FROM flights WHERE id = 3")
    cursor.execute("SELECT n FROM by_place WHERE place = 'ams'")
    assert cursor.fetchall() == [(1,)]


def test_arrow_types(cursor):
    cursor.execute(
        "SELECT 1::int2 AS a, 1 AS b, 1::int8 AS c, 1.5::float8 AS d, 'x'::text AS e, true AS f, date '2024-01-01' AS g,"
        " timestamp '2024-01-01' AS h, timestamptz '2024-01-01 00:00:00Z' AS i, 1.25::numeric(10,2) AS j, '\\x01'::bytea AS k, ARRAY[1, 2] AS l"
    )
    types = {field.name: field.type for field in cursor.fetch_arrow_table().schema}
    assert types["a"] == pyarrow.int16() and types["b"] == pyarrow.int32() and types["c"] == pyarrow.int64()
    assert types["d"] == pyarrow.float64() and types["e"] == pyarrow.string() and types["f"] == pyarrow.bool_()
    assert types["g"] == pyarrow.date32() and types["h"] == pyarrow.timestamp("us")
    assert types["i"] == pyarrow.timestamp("us", "UTC") and types["j"] == pyarrow.decimal128(10, 2)
    assert pyarrow.types.is_binary(types["k"]) and pyarrow.types.is_list(types["l"])


def test_a_large_result_streams(cursor):
    cursor.execute("SELECT n, n * 2 AS twice FROM generate_series(1, 200000) AS g(n)")
    reader = cursor.fetch_record_batch()
    rows = total = batches = 0
    for batch in reader:
        batches += 1
        rows += batch.num_rows
        total += sum(batch.column(0).to_pylist())
    assert (rows, total) == (200_000, 200_000 * 200_001 // 2) and batches > 1


def test_an_empty_result_has_its_schema(cursor):
    cursor.execute("SELECT 1 AS a, 'x'::text AS b WHERE false")
    table = cursor.fetch_arrow_table()
    assert table.num_rows == 0 and table.column_names == ["a", "b"]


def test_errors_are_errors(cursor):
    for text in ("SELECT nosuch", "SELEC 1", "SELECT * FROM nosuch"):
        with pytest.raises(Exception) as caught:
            cursor.execute(text)
            cursor.fetchall()
        assert "panic" not in str(caught.value).lower()
    cursor.execute("SELECT 1")
    assert cursor.fetchall() == [(1,)]


def test_pyarrow_flight(server):
    assert drivers.with_pyarrow_flight(server, "SELECT 1 AS a, 'x' AS b UNION ALL SELECT 2, NULL ORDER BY a") == [(1, "x"), (2, None)]


def test_a_foreign_ticket_is_refused(server):
    with pyarrow.flight.connect(f"grpc://{server.flight}") as client:
        for raw in (b"", b"nonsense", b"\xff" * 1000):
            with pytest.raises(pyarrow.lib.ArrowException):
                client.do_get(pyarrow.flight.Ticket(raw)).read_all()
    assert server.alive()
