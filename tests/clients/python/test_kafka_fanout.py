"""Ten views over one topic: each record that comes is decoded once for all of them, and each view is the batch answer.

`THALWEG_FANOUT_EVENTS=1000000 pytest test_kafka_fanout.py` is the long run; the gate makes a shorter one.
"""

import os
import re
import urllib.request

import psycopg

import process
from test_kafka_e2e import Truth, produce

EVENTS = int(os.environ.get("THALWEG_FANOUT_EVENTS", "20000"))
WAIT_S = 900.0
QUERIES = (
    "SELECT count(*) AS n FROM events",
    "SELECT action, count(*) AS n, sum(amount) AS total FROM events GROUP BY action",
    "SELECT user_id, max(id) AS newest, min(at) AS first FROM events GROUP BY user_id",
    "SELECT id, amount * 2 AS twice FROM events WHERE amount > 90",
    "SELECT DISTINCT user_id % 50 AS bucket, action FROM events",
    "SELECT a.action, count(*) AS n FROM events a JOIN actions b ON a.action = b.name GROUP BY a.action",
    "SELECT id FROM events WHERE user_id = 7 UNION ALL SELECT -id FROM events WHERE user_id = 8",
    "SELECT extract(hour FROM at) AS hour, count(DISTINCT user_id) AS users FROM events GROUP BY 1",
    "SELECT p, min(o) AS first, max(o) AS last, count(*) AS n FROM events GROUP BY p",
    "SELECT action, avg(amount)::numeric(10, 4) AS mean FROM events WHERE id % 2 = 0 GROUP BY action HAVING count(*) > 1",
)


def decoded(server):
    """Records read in all, and those of them that scans read."""
    page = urllib.request.urlopen(f"http://127.0.0.1:{server.http.rsplit(':', 1)[1]}/metrics", timeout=60).read().decode()
    value = lambda name: int(float(re.search(rf"^{re.escape(name)} (\S+)$", page, re.M).group(1)))
    return (
        value('thalweg_source_records_total{fate="read",source="events"}'),
        value('thalweg_source_records_scanned_total{source="events"}'),
    )


def compare(server, truth):
    """Waits for the views, and holds each against its query over the whole topic."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        count = lambda: connection.execute("SELECT n FROM v0").fetchone()[0]
        process.until(lambda: count() >= truth.good, f"{truth.good} rows in the first view", WAIT_S)
        for number, query in enumerate(QUERIES):
            connection.execute(f"WAIT FOR v{number}")
            kept = sorted(map(repr, connection.execute(f"SELECT * FROM v{number}").fetchall()))
            assert kept, query
            assert kept == sorted(map(repr, connection.execute(query).fetchall())), query


def test_ten_views_decode_a_topic_once(server, kafka):
    kafka.topic("fanout", 4)
    truth = Truth()
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("CREATE TABLE actions (name text PRIMARY KEY)")
        connection.execute("INSERT INTO actions VALUES ('start'), ('stop'), ('pause')")
        connection.execute(
            "CREATE SOURCE events (id bigint, user_id int, action text, amount int, at timestamptz)"
            " INCLUDE PARTITION AS p INCLUDE OFFSET AS o"
            f" WITH (connector = 'kafka', topic = 'fanout', properties.bootstrap.server = '{kafka.bootstrap}', scan.startup.mode = 'earliest')"
            " FORMAT PLAIN ENCODE JSON"
        )
        for number, query in enumerate(QUERIES):
            connection.execute(f"CREATE MATERIALIZED VIEW v{number} AS {query}")
        for number in range(len(QUERIES)):
            connection.execute(f"WAIT FOR v{number}")
    produce(kafka.bootstrap, truth, range(0, EVENTS), "fanout")
    compare(server, truth)
    assert decoded(server) == (EVENTS, 0), "followed: each record once for ten views"
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        last = connection.execute("SELECT max(epoch) FROM sys.epochs").fetchone()[0]
        saved = lambda: connection.execute("SELECT max(epoch) FROM sys.checkpoints").fetchone()[0] or 0
        process.until(lambda: saved() >= last, "a checkpoint of everything", WAIT_S)
    # After a restart the views go on from their checkpoints and read what they have not seen together; the answers are the same.
    server.kill()
    produce(kafka.bootstrap, truth, range(EVENTS, EVENTS + EVENTS // 10), "fanout")
    server.start()
    compare(server, truth)
    scanned = decoded(server)[1]
    print(f"{scanned} records scanned for a gap of {EVENTS // 10}")
    assert scanned < 4 * (EVENTS // 10), "views that stood at one place read the gap once"
