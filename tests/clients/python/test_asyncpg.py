"""asyncpg: binary throughout, introspection of types by its own catalog query."""

import asyncio
import datetime
import decimal
import uuid

import asyncpg
import pytest


def run(server, work):
    """Runs `work(connection)`."""

    async def inside():
        connection = await asyncpg.connect(host="127.0.0.1", port=server.pg_port, user="app", database="thalweg", timeout=120)
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(inside())


@pytest.fixture(scope="module", autouse=True)
def table(server):
    async def make(connection):
        await connection.execute("CREATE TABLE items (id int PRIMARY KEY, name text, tags text[], price numeric(10,2))")
        await connection.execute("CREATE MATERIALIZED VIEW count_items AS SELECT count(*) AS n FROM items")
        await connection.executemany(
            "INSERT INTO items VALUES ($1, $2, $3, $4)",
            [(n, f"i{n}", ["a", f"t{n % 3}"], decimal.Decimal(n)) for n in range(1, 101)],
        )

    run(server, make)


def test_fetch_and_parameters(server):
    async def work(connection):
        assert await connection.fetchval("SELECT $1::int + 1", 41) == 42
        rows = await connection.fetch("SELECT id, name FROM items WHERE id <= $1 ORDER BY id", 3)
        assert [tuple(row) for row in rows] == [(1, "i1"), (2, "i2"), (3, "i3")]
        assert (await connection.fetchrow("SELECT n FROM count_items"))["n"] == 100

    run(server, work)


def test_types_in_and_out(server):
    identity = uuid.UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")
    instant = datetime.datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=datetime.timezone.utc)
    values = [
        ("int2", 7), ("int8", 2**40), ("float8", 1.25), ("text", "grün"), ("bool", False), ("numeric", decimal.Decimal("1.25")),
        ("uuid", identity), ("timestamptz", instant), ("timestamp", instant.replace(tzinfo=None)), ("date", instant.date()),
        ("time", datetime.time(1, 2, 3)), ("interval", datetime.timedelta(days=2, seconds=3)), ("bytea", b"\x00\x01"),
    ]

    async def work(connection):
        for name, value in values:
            assert await connection.fetchval(f"SELECT $1::{name}", value) == value, name
            assert await connection.fetchval(f"SELECT $1::{name}", None) is None, name

    run(server, work)


def test_arrays(server):
    async def work(connection):
        assert await connection.fetchval("SELECT $1::int[]", [1, None, 3]) == [1, None, 3]
        assert await connection.fetchval("SELECT tags FROM items WHERE id = 4") == ["a", "t1"]
        assert len(await connection.fetch("SELECT id FROM items WHERE id = ANY($1::int[])", [1, 5, 7])) == 3

    run(server, work)


def test_transactions(server):
    async def work(connection):
        async with connection.transaction(readonly=True):
            assert await connection.fetchval("SELECT count(*) FROM items") == 100
        with pytest.raises(asyncpg.DivisionByZeroError):
            async with connection.transaction():
                await connection.fetchval("SELECT 1 / 0")
        assert await connection.fetchval("SELECT 1") == 1

    run(server, work)


def test_cursor_reads_in_portions(server):
    async def work(connection):
        seen = []
        async with connection.transaction():
            async for row in connection.cursor("SELECT id FROM items ORDER BY id", prefetch=7):
                seen.append(row["id"])
        assert seen == list(range(1, 101))

    run(server, work)


def test_errors(server):
    async def work(connection):
        with pytest.raises(asyncpg.UndefinedTableError):
            await connection.fetch("SELECT * FROM nosuch")
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute("INSERT INTO items (id) VALUES (1)")
        assert await connection.execute("UPDATE items SET name = name WHERE id < 6") == "UPDATE 5"

    run(server, work)


def test_pool(server):
    async def work():
        address = {"host": "127.0.0.1", "port": server.pg_port, "user": "app", "database": "thalweg"}
        async with asyncpg.create_pool(**address, min_size=2, max_size=5) as pool:
            answers = await asyncio.gather(*(pool.fetchval("SELECT $1::int", n) for n in range(40)))
            assert answers == list(range(40))

    asyncio.run(work())
