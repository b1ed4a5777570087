"""SUBSCRIBE through stock drivers, while another session writes.

Every reader adds up what it is sent and compares the sum with the model at every progress mark. The model is exact: each
transaction of the writer has a number, which is in the rows, so that a mark between two transactions, a change that is missing
and one that comes twice all show.
"""

import asyncio
import collections
import random
import threading
import time

import asyncpg
import psycopg
import pyarrow.flight
import pytest

import drivers
import process

TRANSACTIONS = 150
QUERIES = {
    "plain": "SELECT id, v, k FROM {table}",
    "groups": "SELECT v % 7 AS id, sum(v)::bigint AS v, max(k) AS k FROM {table} GROUP BY v % 7",
}


def of(kind, rows):
    """What the view holds when the table holds `rows` (id -> (v, k))."""
    if kind == "plain":
        return collections.Counter({(id, v, k): 1 for id, (v, k) in rows.items()})
    groups = {}
    for v, k in rows.values():
        total, newest = groups.get(v % 7, (0, 0))
        groups[v % 7] = (total + v, max(newest, k))
    return collections.Counter({(id, v, k): 1 for id, (v, k) in groups.items()})


class Writer:
    """Transactions on one table, and what it holds after each."""

    def __init__(self, server, name, seed):
        self.server, self.name, self.random = server, name, random.Random(seed)
        self.rows, self.after = {0: (0, 0)}, []
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, v bigint, k bigint)")
            connection.execute(f"INSERT INTO {name} VALUES (0, 0, 0)")
            for kind, query in QUERIES.items():
                connection.execute(f"CREATE MATERIALIZED VIEW {name}_{kind} AS {query.format(table=name)}")
        self.after.append(dict(self.rows))

    def run(self, count):
        """`count` more transactions."""
        with psycopg.connect(self.server.dsn()) as connection:
            for number in range(len(self.after), len(self.after) + count):
                state = dict(self.rows)
                for _ in range(self.random.randrange(1, 5)):
                    id = self.random.randrange(1, 40)
                    if id in state and self.random.random() < 0.3:
                        connection.execute(f"DELETE FROM {self.name} WHERE id = {id}")
                        del state[id]
                    else:
                        # Often the same value again, whose net change is only the number.
                        v = self.random.randrange(3)
                        connection.execute(
                            f"INSERT INTO {self.name} VALUES ({id}, {v}, {number})"
                            " ON CONFLICT (id) DO UPDATE SET v = excluded.v, k = excluded.k"
                        )
                        state[id] = (v, number)
                connection.execute(f"UPDATE {self.name} SET v = {number}, k = {number} WHERE id = 0")
                state[0] = (number, number)
                # Readers may be told before this returns.
                self.after.append(dict(state))
                self.rows = state
                connection.commit()


class Ledger:
    """Adds up rows (ts, progressed, diff, id, v, k) and checks the sum at every mark."""

    def __init__(self, kind, writer):
        self.kind, self.writer = kind, writer
        self.content, self.ts, self.mark, self.marks, self.newest = collections.Counter(), 0, 0, 0, -1

    def add(self, ts, progressed, diff, *row):
        assert ts >= self.ts, "epochs go back"
        self.ts = ts
        if not progressed:
            assert ts >= self.mark, f"epoch {ts} after the mark {self.mark}"
            assert diff != 0
            self.content[row] += diff
            assert self.content[row] >= 0, f"{row} is deleted before it is there"
            if not self.content[row]:
                del self.content[row]
            return
        self.mark, self.marks = ts, self.marks + 1
        number = max(k for _, _, k in self.content)
        assert self.content == of(self.kind, self.writer.after[number]), f"at mark {ts}, transaction {number}"
        assert number >= self.newest
        self.newest = number

    def done(self, count=TRANSACTIONS):
        return self.newest >= count


@pytest.fixture(params=list(QUERIES))
def followed(request, server):
    name = f"s{time.monotonic_ns()}"
    writer = Writer(server, name, seed=7)
    return Ledger(request.param, writer), f"{name}_{request.param}", writer


def writing(writer, count=TRANSACTIONS):
    thread = threading.Thread(target=writer.run, args=(count,), daemon=True)
    thread.start()
    return thread


def test_psycopg_copy(server, followed):
    ledger, view, writer = followed
    writer.run(5)
    thread = writing(writer)
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        with connection.cursor().copy(f"COPY (SUBSCRIBE {view} WITH (PROGRESS)) TO STDOUT") as copy:
            copy.set_types(["int8", "bool", "int8", "int4" if ledger.kind == "plain" else "int8", "int8", "int8"])
            for row in copy.rows():
                ledger.add(*row)
                if ledger.done(TRANSACTIONS + 5):
                    connection.cancel()
                    break
            with pytest.raises(psycopg.errors.QueryCanceled):
                for row in copy.rows():
                    pass
        thread.join()
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert ledger.marks > 3


def test_psycopg_stream(server, followed):
    ledger, view, writer = followed
    thread = writing(writer)
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        with connection.cursor() as cursor:
            for row in cursor.stream(f"SUBSCRIBE TO {view} WITH (PROGRESS)"):
                ledger.add(*row)
                if ledger.done():
                    break
        assert connection.execute("SELECT 1").fetchone() == (1,)
    thread.join()


def test_cursor_with_timeout(server, followed):
    ledger, view, writer = followed
    with psycopg.connect(server.dsn()) as connection:
        connection.execute(f"DECLARE c CURSOR FOR SUBSCRIBE {view} WITH (PROGRESS)")
        for row in connection.execute("FETCH ALL FROM c WITH (timeout = '5s')"):
            ledger.add(*row)
        assert connection.execute("FETCH 10 FROM c WITH (timeout = '0s')").fetchall() == []
        started = time.monotonic()
        assert connection.execute("FETCH 10 FROM c WITH (timeout = '200ms')").fetchall() == []
        assert 0.15 < time.monotonic() - started < 60
        thread = writing(writer)
        while not ledger.done():
            rows = connection.execute("FETCH 7 FROM c WITH (timeout = '120s')").fetchall()
            assert 0 < len(rows) <= 7
            for row in rows:
                ledger.add(*row)
        thread.join()
        connection.execute("CLOSE c")
        with pytest.raises(psycopg.errors.InvalidCursorName):
            connection.execute("FETCH 1 FROM c")


def test_a_cancelled_fetch_loses_nothing(server, followed):
    ledger, view, writer = followed
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(f"DECLARE c CURSOR WITH HOLD FOR SUBSCRIBE {view} WITH (PROGRESS)")
        thread = writing(writer)
        cancels = 0
        while not ledger.done():
            timer = threading.Timer(0.002, connection.cancel)
            timer.start()
            try:
                for row in connection.execute("FETCH 5 FROM c"):
                    ledger.add(*row)
            except psycopg.errors.QueryCanceled:
                cancels += 1
            timer.join()
        thread.join()


def test_asyncpg_cursor(server, followed):
    ledger, view, writer = followed
    thread = writing(writer)

    async def follow():
        connection = await asyncpg.connect(host="127.0.0.1", port=server.pg_port, user="app", database="thalweg")
        await connection.execute("SET portal_early_suspend = on")
        async with connection.transaction():
            async for row in connection.cursor(f"SUBSCRIBE {view} WITH (PROGRESS)", prefetch=50):
                ledger.add(*row)
                if ledger.done():
                    break
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()

    asyncio.run(asyncio.wait_for(follow(), 120))
    thread.join()


def test_flight(server, followed):
    ledger, view, writer = followed
    thread = writing(writer)
    with pyarrow.flight.connect(f"grpc://{server.flight}") as client:
        descriptor = pyarrow.flight.FlightDescriptor.for_command(drivers.statement_query(f"SUBSCRIBE {view} WITH (PROGRESS)"))
        reader = client.do_get(client.get_flight_info(descriptor).endpoints[0].ticket)
        for chunk in reader:
            for row in drivers.rows_of(chunk.data):
                ledger.add(*row)
            if ledger.done():
                break
        reader.cancel()
    thread.join()
    assert ledger.marks > 3


def test_a_query_of_its_own(server):
    name = f"q{time.monotonic_ns()}"
    writer = Writer(server, name, seed=8)
    ledger = Ledger("groups", writer)
    thread = writing(writer)
    query = QUERIES["groups"].format(table=name)
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        with connection.cursor() as cursor:
            for row in cursor.stream(f"SUBSCRIBE ({query}) WITH (PROGRESS)"):
                ledger.add(*row)
                if ledger.done():
                    break
        thread.join()
        # The query goes with its reader.
        jobs = "SELECT count(*) FROM sys.jobs WHERE kind = 'query'"
        process.until(lambda: connection.execute(jobs).fetchone() == (0,), "the subscription's query is dropped")
        connection.execute(f"DROP TABLE {name} CASCADE")


def test_continue_after_a_mark(server, followed):
    ledger, view, writer = followed
    thread = writing(writer)
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        rounds = 0
        while not ledger.done():
            start = f"AFTER {ledger.mark}" if ledger.mark else ""
            rounds += 1
            with connection.cursor() as cursor:
                marks = 0
                for row in cursor.stream(f"SUBSCRIBE {view} WITH (PROGRESS) {start}"):
                    ledger.add(*row)
                    marks += row[1]
                    # After the last change no mark may come any more.
                    if marks > 3 or ledger.done():
                        break
    thread.join()
    assert rounds > 2


def test_up_to_and_snapshot_off(server):
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("CREATE TABLE bounded (a int)")
        connection.execute("INSERT INTO bounded VALUES (1), (1), (2)")
        cursor = connection.cursor()
        first = next(cursor.stream("SUBSCRIBE bounded WITH (PROGRESS, SNAPSHOT = false)"))
        mark = first[0]
        assert first == (mark, True, None, None)
        connection.execute("DELETE FROM bounded WHERE a = 1")
        connection.execute("INSERT INTO bounded VALUES (5)")
        # Only the future ends, so both changes are there when the second is.
        with connection.cursor() as cursor:
            rows = []
            for row in cursor.stream(f"SUBSCRIBE bounded AFTER {mark}"):
                rows.append(row[1:])
                if len(rows) == 2:
                    break
        assert rows == [(-2, 1), (1, 5)]
        done = connection.execute(f"SUBSCRIBE bounded AS OF {mark - 1} UP TO {mark}")
        assert sorted(row[1:] for row in done.fetchall()) == [(1, 1), (1, 1), (1, 2)]
        assert done.statusmessage == "SUBSCRIBE 3"
        for text, state in [
            (f"SUBSCRIBE bounded AS OF {mark + 10**6}", "22023"),
            ("SUBSCRIBE bounded AFTER 1", "55000"),
            ("SUBSCRIBE nosuch", "42P01"),
            ("SUBSCRIBE bounded WITH (HEARTBEAT = '1s')", "22023"),
        ]:
            with pytest.raises(psycopg.Error) as caught:
                connection.execute(text)
            assert caught.value.sqlstate == state, text


def test_heartbeat(server):
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("CREATE TABLE quiet (a int)")
        rows = connection.cursor().stream("SUBSCRIBE quiet WITH (PROGRESS, HEARTBEAT = '50ms')")
        marks = [next(rows) for _ in range(5)]
        assert all(row[1] for row in marks)
        rows.close()


def test_drop_ends_a_subscription(server):
    with psycopg.connect(server.dsn(), autocommit=True) as connection, psycopg.connect(server.dsn(), autocommit=True) as other:
        connection.execute("CREATE TABLE gone (a int)")
        connection.execute("CREATE MATERIALIZED VIEW gone_view AS SELECT a FROM gone")
        for text in ("SUBSCRIBE gone_view", "SUBSCRIBE (SELECT count(*) FROM gone)"):
            rows = other.cursor().stream(f"{text} WITH (PROGRESS)")
            next(rows)
            if text == "SUBSCRIBE gone_view":
                connection.execute("DROP MATERIALIZED VIEW gone_view")
            else:
                connection.execute("DROP TABLE gone")
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="was dropped"):
                for _ in rows:
                    pass
        assert other.execute("SELECT 1").fetchone() == (1,)


def test_a_view_in_error_says_so(server):
    with psycopg.connect(server.dsn(), autocommit=True) as connection, psycopg.connect(server.dsn(), autocommit=True) as other:
        connection.execute("CREATE TABLE divisors (a int)")
        connection.execute("CREATE MATERIALIZED VIEW quotients WITH (on_compute_error = 'fail') AS SELECT 10 / a AS q FROM divisors")
        rows = other.cursor().stream("SUBSCRIBE quotients WITH (PROGRESS)")
        next(rows)
        connection.execute("INSERT INTO divisors VALUES (0)")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="ERROR"):
            for _ in rows:
                pass
        connection.execute("DROP TABLE divisors CASCADE")


def test_a_reader_that_leaves_is_noticed(server):
    connection = psycopg.connect(server.dsn(), autocommit=True)
    connection.execute("CREATE TABLE left_behind (a int)")
    rows = connection.cursor().stream("SUBSCRIBE (SELECT sum(a) FROM left_behind) WITH (PROGRESS)")
    next(rows)
    connection.pgconn.finish()
    with psycopg.connect(server.dsn(), autocommit=True) as other:
        jobs = "SELECT count(*) FROM sys.jobs WHERE kind = 'query'"
        process.until(lambda: other.execute(jobs).fetchone() == (0,), "the subscription's query is dropped")
