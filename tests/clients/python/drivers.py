"""One query through every driver, as plain Python rows that can be compared.

Invariant: a difference in how drivers name a type is levelled here; a difference in value never is.
"""

import asyncio
import datetime
import decimal
import json
import shutil
import subprocess
import uuid

import adbc_driver_flightsql.dbapi
import asyncpg
import psycopg
import pyarrow.flight


def with_psycopg(server, query):
    """psycopg 3, extended protocol, text results."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        return level(connection.execute(query).fetchall())


def with_psycopg_binary(server, query):
    """psycopg 3, binary results."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        return level(connection.execute(query, binary=True).fetchall())


def with_psycopg_simple(server, query):
    """psycopg 3, simple protocol."""
    with psycopg.ClientCursor(psycopg.connect(server.dsn(), autocommit=True)) as cursor:
        rows = level(cursor.execute(query).fetchall())
        cursor.connection.close()
        return rows


def with_asyncpg(server, query):
    """asyncpg, binary results."""

    async def ask():
        connection = await asyncpg.connect(host="127.0.0.1", port=server.pg_port, user="app", database="thalweg")
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    return level(asyncio.run(ask()))


def with_adbc(server, query):
    """ADBC Flight SQL."""
    with adbc_driver_flightsql.dbapi.connect(f"grpc://{server.flight}", autocommit=True) as connection:
        with connection.cursor() as cursor:
            cursor.execute(query)
            return level(rows_of(cursor.fetch_arrow_table()))


def with_pyarrow_flight(server, query):
    """Flight SQL by hand over pyarrow's Flight client: GetFlightInfo, then DoGet of each endpoint."""
    with pyarrow.flight.connect(f"grpc://{server.flight}") as client:
        descriptor = pyarrow.flight.FlightDescriptor.for_command(statement_query(query))
        rows = []
        for endpoint in client.get_flight_info(descriptor).endpoints:
            rows += rows_of(client.do_get(endpoint.ticket).read_all())
        return level(rows)


def with_psql(server, query):
    """psql, text; only for queries whose values are text anyway."""
    result = subprocess.run(
        ["psql", server.dsn(), "-X", "-A", "-t", "-F", "\t", "-P", "null=\\N", "-c", query],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return [tuple(None if cell == "\\N" else cell for cell in line.split("\t")) for line in result.stdout.splitlines()]


READERS = [with_psycopg, with_psycopg_binary, with_psycopg_simple, with_asyncpg, with_adbc, with_pyarrow_flight]
HAS_PSQL = shutil.which("psql") is not None


def statement_query(query: str) -> bytes:
    """google.protobuf.Any with CommandStatementQuery { query = 1 }."""

    def field(number: int, value: bytes) -> bytes:
        return bytes([number << 3 | 2]) + varint(len(value)) + value

    url = b"type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery"
    return field(1, url) + field(2, field(1, query.encode()))


def varint(value: int) -> bytes:
    """Base-128, low groups first."""
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def rows_of(table):
    """The rows of an Arrow table."""
    columns = [column.to_pylist() for column in table.columns]
    return list(zip(*columns)) if columns else [() for _ in range(table.num_rows)]


def level(rows):
    """Values in one shape whatever the driver."""
    return [tuple(one(value) for value in row) for row in rows]


def one(value):
    """uuid, bytes, json, decimals and instants look alike after this."""
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, decimal.Decimal):
        return value.normalize() + 0
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return value.astimezone(datetime.timezone.utc)
    if isinstance(value, list):
        return [one(item) for item in value]
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True)
    return value
