"""Every driver reads the same rows: text, binary and Arrow are three pictures of one value."""

import psycopg
import pytest

import drivers

QUERIES = [
    "SELECT id, b, i2, i4, i8, f8 FROM every ORDER BY id",
    "SELECT id, n, tx, vc FROM every ORDER BY id",
    "SELECT id, d, ts, tz FROM every ORDER BY id",
    "SELECT id, u, by FROM every ORDER BY id",
    "SELECT id, ia, ta FROM every ORDER BY id",
    "SELECT g, n, s, lo, hi FROM groups ORDER BY g",
    "SELECT count(*), sum(i4), min(tx), max(tz), sum(n) FROM every",
    "SELECT id FROM every WHERE false",
]


@pytest.fixture(scope="module", autouse=True)
def tables(server):
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE every (id int PRIMARY KEY, b bool, i2 int2, i4 int4, i8 int8, f8 float8, n numeric(12,3), tx text, vc varchar(8),"
            " d date, ts timestamp, tz timestamptz, u uuid, by bytea, ia int[], ta text[])"
        )
        connection.execute(
            "INSERT INTO every VALUES (1, true, -7, 2147483647, -9223372036854775808, 0.1, 123456.789, 'grün', 'v', '2024-02-29',"
            " '2024-02-29 12:34:56.789', '2024-02-29 12:00+02', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '\\x00ff', '{1,NULL,3}', '{a,\"b c\"}'),"
            " (2, false, 0, 0, 0, '-1.5e300', -0.001, '', '', '1969-12-31', '1969-12-31 23:59:59', '1900-01-01 00:00:00Z',"
            " '00000000-0000-0000-0000-000000000000', '', '{}', '{\"\"}')"
        )
        connection.execute("INSERT INTO every (id) VALUES (3)")
        connection.execute("INSERT INTO every (id, i4, n) SELECT g, g, g / 8.0 FROM generate_series(10, 500) AS s(g)")
        connection.execute(
            "CREATE MATERIALIZED VIEW groups AS SELECT i4 % 5 AS g, count(*) AS n, sum(n) AS s, min(i4) AS lo, max(id) AS hi FROM every GROUP BY 1"
        )


@pytest.mark.parametrize("query", QUERIES)
def test_drivers_agree(server, query):
    expected = drivers.with_psycopg(server, query)
    for reader in drivers.READERS[1:]:
        assert reader(server, query) == expected, reader.__name__


@pytest.mark.skipif(not drivers.HAS_PSQL, reason="no psql on the PATH")
def test_psql_agrees(server):
    query = "SELECT g::text, n::text, s::text FROM groups ORDER BY groups.g"
    assert drivers.with_psql(server, query) == drivers.with_psycopg(server, query)
