"""A Kafka topic becomes live views: 300 k JSON events, 1 % of them malformed, over 4 partitions of a real broker.

Proves: views equal a batch count over the good rows; every malformed row is in the errors relation with its partition and
offset, once; a second session sees consistent snapshots throughout; a broker killed in the middle and a server killed at
the end change nothing; psql, psycopg, asyncpg and ADBC read the same rows.
The truth is counted here, in Python, from the producer's delivery reports; no code of the server takes part.
"""

import json
import os
import threading
from collections import Counter

import psycopg
import pytest

import drivers
import process
import topics

EVENTS = int(os.environ.get("THALWEG_E2E_EVENTS", "300000"))
PARTITIONS = 4
ACTIONS = ("start", "stop", "switch", "pause", "ad")
CATCH_UP_S = 300.0

MALFORMED = (
    b'{"id": 1, "user_id": ',
    b"[1, 2, 3]",
    b'"text"',
    b'{"id": "many", "user_id": 1}',
    b'{"id": 99999999999999999999999, "user_id": 1}',
    b"\xff\xfe not utf-8",
    b'{"id": 1, "user_id": 1, "amount": {"nested": true}}',
)


class Truth:
    """What was produced, by delivery report."""

    def __init__(self):
        self.delivered = 0
        self.failed = []
        self.bad = set()
        self.good = 0
        self.ids = 0
        self.by_action = {}
        self.by_partition = Counter()

    def note(self, number, malformed, error, message):
        """One delivery report."""
        if error is not None:
            self.failed.append(str(error))
            return
        self.delivered += 1
        if malformed:
            self.bad.add((message.partition(), message.offset()))
            return
        self.good += 1
        self.ids += number
        n, total = self.by_action.get(ACTIONS[number % 5], (0, 0))
        self.by_action[ACTIONS[number % 5]] = (n + 1, total + number % 97)
        self.by_partition[message.partition()] += 1


def event(number):
    """The payload of event `number`."""
    if number % 100 == 37:
        return True, MALFORMED[number // 100 % len(MALFORMED)]
    seconds = number % 86400
    at = f"2024-03-01T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}Z"
    body = {"id": number, "user_id": number % 1000, "action": ACTIONS[number % 5], "amount": number % 97, "at": at}
    return False, json.dumps(body).encode()


def produce(bootstrap, truth, numbers, topic="events"):
    """Sends events, each to a fixed partition; returns when all are acknowledged."""
    producer = topics.producer(bootstrap, linger_ms=5, message_timeout_ms=120000)
    for number in numbers:
        malformed, payload = event(number)
        report = lambda error, message, number=number, malformed=malformed: truth.note(number, malformed, error, message)
        while True:
            try:
                producer.produce(topic, payload, partition=number % PARTITIONS, on_delivery=report)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    assert producer.flush(120) == 0


class Witness(threading.Thread):
    """A second session that reads several objects in one query, over and over."""

    QUERY = (
        "SELECT (SELECT n FROM totals), (SELECT coalesce(sum(n), 0) FROM by_action),"
        " (SELECT coalesce(sum(n), 0) FROM by_partition), (SELECT coalesce(sum(n), 0) FROM busiest)"
    )

    def __init__(self, dsn):
        super().__init__(daemon=True)
        self.dsn, self.stop, self.seen, self.wrong = dsn, threading.Event(), [], None

    def run(self):
        try:
            with psycopg.connect(self.dsn, autocommit=True) as connection:
                while not self.stop.is_set():
                    row = tuple(int(value) for value in connection.execute(self.QUERY).fetchone())
                    if len(set(row[:3])) != 1:
                        raise AssertionError(f"views of one query disagree: {row}")
                    if self.seen and row[0] < self.seen[-1]:
                        raise AssertionError(f"a later query saw an earlier moment: {self.seen[-1]} then {row[0]}")
                    self.seen.append(row[0])
        except BaseException as error:
            self.wrong = error

    def finish(self):
        """Ends the session and passes on what it found."""
        self.stop.set()
        self.join(30)
        if self.wrong:
            raise self.wrong


def define(server, bootstrap):
    """The source and its views, two of them on another view."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(
            "CREATE SOURCE events (id bigint, user_id int, action text, amount int, at timestamptz)"
            " INCLUDE PARTITION AS p INCLUDE OFFSET AS o"
            f" WITH (connector = 'kafka', topic = 'events', properties.bootstrap.server = '{bootstrap}', scan.startup.mode = 'earliest')"
            " FORMAT PLAIN ENCODE JSON"
        )
        for text in (
            "CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS n, coalesce(sum(id), 0) AS ids FROM events",
            "CREATE MATERIALIZED VIEW by_action AS SELECT action, count(*) AS n, sum(amount) AS total FROM events GROUP BY action",
            "CREATE MATERIALIZED VIEW by_partition AS SELECT p, count(*) AS n, count(DISTINCT o) AS offsets FROM events GROUP BY p",
            "CREATE MATERIALIZED VIEW busiest AS SELECT action, n FROM by_action ORDER BY n DESC, action LIMIT 2",
            "CREATE MATERIALIZED VIEW shares AS SELECT count(*) AS actions, sum(total) AS total FROM by_action",
        ):
            connection.execute(text)


def await_all(server, truth):
    """Waits until the first view has every good row, then for the others."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        count = lambda: connection.execute("SELECT n FROM totals").fetchone()[0]
        process.until(lambda: count() >= truth.good, f"{truth.good} rows in the view", CATCH_UP_S)
        for view in ("totals", "by_action", "by_partition", "busiest", "shares"):
            connection.execute(f"WAIT FOR {view}")


def check(server, truth):
    """Compares everything with the truth."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        ask = lambda text: [tuple(int(v) if not isinstance(v, str) else v for v in row) for row in connection.execute(text).fetchall()]
        assert ask("SELECT n, ids FROM totals") == [(truth.good, truth.ids)]
        by_action = sorted((action, n, total) for action, (n, total) in truth.by_action.items())
        assert ask("SELECT action, n, total FROM by_action ORDER BY action") == by_action
        assert ask("SELECT p, n, offsets FROM by_partition ORDER BY p") == sorted((p, n, n) for p, n in truth.by_partition.items())
        busiest = sorted(((action, n) for action, n, _ in by_action), key=lambda row: (-row[1], row[0]))[:2]
        assert ask("SELECT action, n FROM busiest ORDER BY n DESC, action") == busiest
        assert ask("SELECT actions, total FROM shares") == [(len(by_action), sum(total for _, _, total in by_action))]
        errors = connection.execute('SELECT partition, "offset", reason FROM events_errors').fetchall()
        assert len(errors) == len(truth.bad), "each malformed row once"
        assert {(partition, offset) for partition, offset, _ in errors} == truth.bad
        assert {reason for _, _, reason in errors} == {"decode"}


@pytest.fixture(scope="module")
def run(server, kafka):
    """Everything that happens once; the tests look at the result."""
    kafka.topic("events", PARTITIONS)
    truth = Truth()
    define(server, kafka.bootstrap)
    witness = Witness(server.dsn())
    witness.start()
    third = EVENTS // 3
    produce(kafka.bootstrap, truth, range(0, third))
    # The broker dies without a word while events flow, and comes back with the same data and port.
    feeder = threading.Thread(target=produce, args=(kafka.bootstrap, truth, range(third, EVENTS)))
    feeder.start()
    process.until(lambda: truth.delivered > third + EVENTS // 20, "events flow again", 120)
    kafka.verb("kill")
    kafka.verb("restart")
    feeder.join(300)
    assert not feeder.is_alive() and not truth.failed, truth.failed[:3]
    assert truth.delivered == EVENTS
    await_all(server, truth)
    witness.finish()
    return truth, witness


def test_views_equal_a_batch_count(server, run):
    truth, _ = run
    assert len(truth.bad) == EVENTS // 100
    check(server, truth)


def test_a_second_session_saw_consistent_snapshots(run):
    truth, witness = run
    print(f"witness read {len(witness.seen)} snapshots, {len(set(witness.seen))} different")
    assert len(set(witness.seen)) >= 5, "the witness must have seen the count grow"
    assert witness.seen[-1] <= truth.good


def test_an_ad_hoc_query_and_a_late_view_agree(server, run):
    truth, _ = run
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        text = "SELECT user_id % 7 AS k, count(*) AS n, sum(amount) AS total FROM events GROUP BY 1"
        ad_hoc = sorted(connection.execute(text).fetchall())
        assert sum(row[1] for row in ad_hoc) == truth.good
        connection.execute(f"CREATE MATERIALIZED VIEW late AS {text}")
        connection.execute("WAIT FOR late")
        assert sorted(connection.execute("SELECT k, n, total FROM late").fetchall()) == ad_hoc


def test_drivers_read_the_same_rows(server, run):
    query = "SELECT action, n, total FROM by_action ORDER BY action"
    expected = drivers.with_psycopg(server, query)
    for reader in drivers.READERS[1:]:
        assert reader(server, query) == expected, reader.__name__
    if drivers.HAS_PSQL:
        assert drivers.with_psql(server, query) == [tuple(str(value) for value in row) for row in expected]


def test_kill_9_of_the_server_changes_nothing(server, kafka, run):
    truth, _ = run
    server.kill()
    server.start()
    await_all(server, truth)
    check(server, truth)


def test_events_after_the_restart_are_counted_once(server, kafka, run):
    truth, _ = run
    produce(kafka.bootstrap, truth, range(EVENTS, EVENTS + 1000))
    await_all(server, truth)
    check(server, truth)
