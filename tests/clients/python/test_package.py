"""The package in clients/python: statements, tables, and subscriptions that survive a broken connection.

`THALWEG_SUBSCRIBE_CHANGES=1000000 pytest test_package.py -k without_a_gap` is the long run; the gate makes a shorter one.
"""

import datetime
import decimal
import os
import socket
import sys
import threading
import time
import uuid

import psycopg
import pytest

import process

sys.path.insert(0, str(process.ROOT / "clients" / "python"))
import thalweg  # noqa: E402

CHANGES = int(os.environ.get("THALWEG_SUBSCRIBE_CHANGES", "20000"))
TYPES = (
    "SELECT 1::int2 AS a, 2 AS b, 3::int8 AS c, 1.5::float8 AS d, 'x'::text AS e, true AS f, date '2024-01-02' AS g,"
    " timestamp '2024-01-02 03:04:05' AS h, timestamptz '2024-01-02 03:04:05Z' AS i, 1.25::numeric(10,2) AS j, '\\x01'::bytea AS k,"
    " ARRAY[1, NULL, 2] AS l, time '01:02:03' AS m, NULL::text AS n"
)


class Proxy:
    """A TCP relay that can cut its connections."""

    def __init__(self, port):
        self.port_behind, self.pairs = port, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.port_behind))
            except OSError:
                return
            self.pairs.append((near, far))
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._relay, args=(source, target), daemon=True).start()

    @staticmethod
    def _relay(source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, target):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def cut(self):
        """Breaks every connection there is."""
        pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for end in pair:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def close(self):
        self.listener.close()
        self.cut()


@pytest.fixture
def db(server):
    with thalweg.connect(server.pg) as db:
        yield db


@pytest.fixture
def table():
    return f"p{time.monotonic_ns()}"


def test_statements_and_queries(db, table):
    db.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, name text)")
    assert db.execute(f"INSERT INTO {table} VALUES (%s, %s), (2, NULL)", (1, "one")) == 2
    result = db.query(f"SELECT id, name FROM {table} WHERE id < %s ORDER BY id", (3,))
    assert result.columns == ["id", "name"] and len(result) == 2
    assert list(result) == result.rows == [(1, "one"), (2, None)]
    assert result.to_dicts()[1] == {"id": 2, "name": None}
    assert list(db.stream("SELECT * FROM generate_series(1, 5)")) == [(n,) for n in range(1, 6)]
    with pytest.raises(thalweg.Error) as caught:
        db.query("SELECT 1 / 0")
    assert caught.value.sqlstate == "22012"
    with pytest.raises(thalweg.Error) as caught:
        db.execute(f"INSERT INTO {table} VALUES (1, 'again')")
    assert caught.value.sqlstate == "23505" and caught.value.detail


def test_arrow_pandas_and_polars(server, db):
    flight = thalweg.connect(f"grpc://{server.flight}")
    for one in (db, flight):
        arrow = one.query(TYPES).to_arrow()
        assert arrow.num_rows == 1
        row = arrow.to_pylist()[0]
        assert (row["a"], row["b"], row["c"], row["d"], row["e"], row["f"], row["n"]) == (1, 2, 3, 1.5, "x", True, None)
        assert row["g"] == datetime.date(2024, 1, 2) and row["h"] == datetime.datetime(2024, 1, 2, 3, 4, 5)
        assert row["i"] == datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
        assert row["j"] == decimal.Decimal("1.25") and row["k"] == b"\x01" and row["l"] == [1, None, 2]
        assert row["m"] == datetime.time(1, 2, 3)
        assert one.query("SELECT g AS a FROM generate_series(1, 3) AS s(g)").to_pandas()["a"].tolist() == [1, 2, 3]
        assert one.query("SELECT g AS a FROM generate_series(1, 3) AS s(g)").to_polars()["a"].to_list() == [1, 2, 3]
    assert db.query(TYPES).to_arrow().schema.types == flight.query(TYPES).to_arrow().schema.types
    empty = db.query("SELECT 1::int8 AS a, 'x'::text AS b WHERE false").to_arrow()
    assert empty.num_rows == 0 and [str(field.type) for field in empty.schema] == ["int64", "string"]
    identity = uuid.uuid4()
    assert db.query("SELECT %s::uuid AS u", (identity,)).to_arrow()["u"].to_pylist() == [str(identity)]
    with pytest.raises(thalweg.Error) as caught:
        flight.query("SELECT * FROM nosuch")
    assert caught.value.sqlstate == "42P01"
    with pytest.raises(thalweg.Error):
        flight.subscribe("x")
    flight.close()


def test_a_subscription_yields_epochs(db, table):
    db.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, v text)")
    db.execute(f"INSERT INTO {table} VALUES (1, 'a'), (2, 'b')")
    with db.subscribe(table) as changes:
        first = next(changes)
        assert first.snapshot and first.columns == ["id", "v"] and sorted(first.rows) == [(1, (1, "a")), (1, (2, "b"))]
        db.execute(f"UPDATE {table} SET v = 'c' WHERE id = 2")
        second = next(changes)
        assert not second.snapshot and second.rows == [(-1, (2, "b")), (1, (2, "c"))] and second.epoch < second.mark
        assert second.to_arrow().to_pylist() == [{"_diff": -1, "id": 2, "v": "b"}, {"_diff": 1, "id": 2, "v": "c"}]
    db.execute(f"DELETE FROM {table}")
    with db.subscribe(table, after=second.mark) as changes:
        assert sorted(next(changes).rows) == [(-1, (1, "a")), (-1, (2, "c"))]
    with db.subscribe(query=f"SELECT count(*) AS n FROM {table}") as changes:
        assert next(changes).rows == [(1, (0,))]
    with db.subscribe(table, snapshot=False, progress=True, heartbeat_s=0.05) as changes:
        marks = [next(changes) for _ in range(3)]
        assert all(not mark.rows and not mark.snapshot for mark in marks)
    with pytest.raises(thalweg.Error) as caught:
        next(db.subscribe("nosuch"))
    assert caught.value.sqlstate == "42P01"
    with pytest.raises(thalweg.SubscriptionLost) as caught:
        next(db.subscribe(table, after=1))
    assert caught.value.mark == 1 and caught.value.sqlstate == "55000"
    assert next(db.subscribe(table, after=1, on_loss="snapshot")).snapshot


def test_close_from_another_thread(db, table):
    db.execute(f"CREATE TABLE {table} (a int)")
    changes = db.subscribe(table)
    assert next(changes).snapshot
    threading.Timer(0.2, changes.close).start()
    assert list(changes) == []


def test_follows_a_view_without_a_gap(server, db, table):
    """Every change once, across connections that break in the middle."""
    db.execute(f"CREATE TABLE {table} (n int PRIMARY KEY, v int)")
    db.execute(f"CREATE MATERIALIZED VIEW {table}_view AS SELECT n, v * 2 AS w FROM {table}")
    batch = max(500, CHANGES // 200)

    def write():
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            for start in range(0, CHANGES, batch):
                end = min(start + batch, CHANGES) - 1
                connection.execute(f"INSERT INTO {table} SELECT g, g + 1 FROM generate_series({start}, {end}) AS s(g)")
                connection.execute(f"DELETE FROM {table} WHERE n >= {start} AND n % 10 = 0")

    proxy = Proxy(server.pg_port)
    writer = threading.Thread(target=write, daemon=True)
    content, inserted, deleted, seen = {}, 0, 0, 0
    with thalweg.connect(f"127.0.0.1:{proxy.port}") as through:
        changes = through.subscribe(f"{table}_view")
        assert next(changes).rows == []
        writer.start()
        mark = -1
        for change in changes:
            assert change.mark > mark and not change.snapshot
            mark = change.mark
            for diff, (n, w) in change.rows:
                if diff > 0:
                    assert diff == 1 and n not in content and w == (n + 1) * 2
                    content[n] = w
                    inserted += 1
                else:
                    assert diff == -1 and content.pop(n) == w
                    deleted += 1
            seen += 1
            if seen % 15 == 0:
                proxy.cut()
            if inserted == CHANGES and deleted == CHANGES // 10:
                break
        assert changes.connections > 1
        changes.close()
    writer.join()
    proxy.close()
    assert sorted(content) == [n for n in range(CHANGES) if n % 10]
    assert db.query(f"SELECT count(*) FROM {table}_view").rows == [(len(content),)]
    print(f"{inserted + deleted} changes in {seen} epochs over {changes.connections} connections")


def test_a_restart_is_a_loss_that_is_told(table):
    server = process.Server().start()
    try:
        with thalweg.connect(server.pg) as db:
            db.execute(f"CREATE TABLE {table} (a int)")
            db.execute(f"INSERT INTO {table} VALUES (1)")
            db.execute(f"CREATE MATERIALIZED VIEW {table}_view AS SELECT sum(a) AS s FROM {table}")
        proxy = Proxy(server.pg_port)
        changes = thalweg.connect(f"127.0.0.1:{proxy.port}").subscribe(f"{table}_view", on_loss="snapshot")
        assert next(changes).rows == [(1, (1,))]
        server.kill()
        server.start()
        proxy.port_behind = server.pg_port
        with thalweg.connect(server.pg) as db:
            db.execute(f"INSERT INTO {table} VALUES (2)")
        again = next(changes)
        while not again.snapshot and (1, (3,)) not in again.rows:
            again = next(changes)
        content = dict() if not again.snapshot else {row: diff for diff, row in again.rows}
        while again.snapshot and content != {(3,): 1}:
            for diff, row in next(changes).rows:
                content[row] = content.get(row, 0) + diff
            content = {row: count for row, count in content.items() if count}
        changes.close()
        proxy.close()
    finally:
        server.close()
