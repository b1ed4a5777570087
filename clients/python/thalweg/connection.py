"""Connections: statements and queries over the Postgres wire or over Arrow Flight SQL.

Invariant: every statement of a connection runs in one session of the server, so it sees what the connection wrote before.
"""

from __future__ import annotations

from typing import Any, Iterator, Optional, Sequence, Tuple

import psycopg

from .errors import Error, from_flight, from_psycopg
from .result import Result
from .subscription import Subscription

Parameters = Optional[Sequence[Any]]


def connect(address: str = "127.0.0.1:5433", *, user: str = "thalweg", database: str = "thalweg", **options: Any) -> "Connection":
    """Opens a connection.

    `address` is `host:port` or a libpq connection string or URI of the Postgres wire, or `grpc://host:port` of Arrow Flight SQL.
    `options` go to the driver.
    """
    if address.startswith("grpc"):
        return Connection(_Flight(address, options))
    return Connection(_Postgres(conninfo(address, user, database), options))


def conninfo(address: str, user: str, database: str) -> str:
    """A libpq connection string."""
    if "=" in address or "://" in address:
        return address
    host, _, port = address.rpartition(":")
    return psycopg.conninfo.make_conninfo("", host=host.strip("[]") or "127.0.0.1", port=port, user=user, dbname=database)


class Connection:
    """A session of the server. Not to be shared between threads."""

    def __init__(self, driver: Any):
        self._driver = driver

    def execute(self, statement: str, parameters: Parameters = None) -> int:
        """Runs a statement; the number of rows it changed or returned, -1 when it has none. It is durable on return."""
        return self._driver.execute(statement, parameters)

    def query(self, query: str, parameters: Parameters = None) -> Result:
        """Runs a query and takes its whole result."""
        return self._driver.query(query, parameters)

    def stream(self, query: str, parameters: Parameters = None) -> Iterator[Tuple[Any, ...]]:
        """Runs a query and gives its rows as they come. No other statement can run meanwhile."""
        return self._driver.stream(query, parameters)

    def subscribe(self, relation: Optional[str] = None, *, query: Optional[str] = None, **options: Any) -> Subscription:
        """Follows a relation or a query, on a connection of its own; see `Subscription`."""
        if not isinstance(self._driver, _Postgres):
            raise Error("subscribe() needs a connection over the Postgres wire", "0A000")
        return Subscription(self._driver.conninfo, relation, query=query, **options)

    def close(self) -> None:
        """Closes the connection."""
        self._driver.close()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class _Postgres:
    def __init__(self, address: str, options: Any):
        self.conninfo = address
        try:
            self.connection = psycopg.connect(address, autocommit=True, **options)
        except psycopg.Error as error:
            raise from_psycopg(error) from error

    def execute(self, statement: str, parameters: Parameters) -> int:
        try:
            return self.connection.execute(statement, parameters).rowcount
        except psycopg.Error as error:
            raise from_psycopg(error) from error

    def query(self, query: str, parameters: Parameters) -> Result:
        try:
            cursor = self.connection.execute(query, parameters)
            if cursor.description is None:
                return Result([], [])
            types = [(cursor.pgresult.ftype(at), cursor.pgresult.fmod(at)) for at in range(len(cursor.description))]
            return Result([column.name for column in cursor.description], cursor.fetchall(), types)
        except psycopg.Error as error:
            raise from_psycopg(error) from error

    def stream(self, query: str, parameters: Parameters) -> Iterator[Tuple[Any, ...]]:
        try:
            with self.connection.cursor() as cursor:
                yield from cursor.stream(query, parameters)
        except psycopg.Error as error:
            raise from_psycopg(error) from error

    def close(self) -> None:
        self.connection.close()


class _Flight:
    def __init__(self, address: str, options: Any):
        from adbc_driver_flightsql import dbapi

        self.errors = dbapi.Error
        try:
            self.connection = dbapi.connect(address, autocommit=True, **options)
        except dbapi.Error as error:
            raise from_flight(error) from error

    def execute(self, statement: str, parameters: Parameters) -> int:
        try:
            with self.connection.cursor() as cursor:
                cursor.execute(statement, parameters)
                return cursor.rowcount
        except self.errors as error:
            raise from_flight(error) from error

    def query(self, query: str, parameters: Parameters) -> Result:
        try:
            with self.connection.cursor() as cursor:
                cursor.execute(query, parameters)
                table = cursor.fetch_arrow_table()
                return Result(table.column_names, table=table)
        except self.errors as error:
            raise from_flight(error) from error

    def stream(self, query: str, parameters: Parameters) -> Iterator[Tuple[Any, ...]]:
        try:
            with self.connection.cursor() as cursor:
                cursor.execute(query, parameters)
                for batch in cursor.fetch_record_batch():
                    yield from Result(batch.schema.names, table=batch).rows
        except self.errors as error:
            raise from_flight(error) from error

    def close(self) -> None:
        self.connection.close()
