"""A server that lives through kills, broker restarts and DDL again and again keeps its memory, its files and its descriptors.

A round feeds rows, makes views and sinks and drops them, changes a table, restarts the broker or kills the server. THALWEG_SOAK_S says
how long the rounds go on (30 minutes for the full run). A kill ends a life of the server, of which there are four: within each, what is
held at its end is compared with what was held after its beginning, and from life to life the files on disk.
"""

import json
import os
import time

import pytest

import process
from topics import PARTITIONS, Topic, producer

WAIT_S = 300.0
SOAK_S = float(os.environ.get("THALWEG_SOAK_S", "3"))
KEYS = 40
ROWS = 2000
# Rounds between two restarts of the broker.
BROKER_EVERY = 7
LIVES = 4


@pytest.fixture(scope="module")
def topics(kafka):
    """The topics of this file."""
    for topic in ("soak_in", "soak_out", "soak_rows"):
        kafka.topic(topic, PARTITIONS)


def held(server):
    """What the server holds: resident megabytes, open descriptors, files in its data dir."""
    proc = f"/proc/{server.process.pid}"
    with open(f"{proc}/statm") as pages:
        resident = int(pages.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    files = sum(len(names) for _, _, names in os.walk(server.data_dir / "data"))
    return resident, len(os.listdir(f"{proc}/fd")), files


def options(kafka, topic, more=""):
    """WITH clause of a sink or source."""
    return f"WITH (connector = 'kafka', topic = '{topic}', properties.bootstrap.server = '{kafka.bootstrap}'{more})"


class Feed:
    """Writes rows; knows the total of each key."""

    def __init__(self, kafka):
        self.producer = producer(kafka.bootstrap, linger_ms=5)
        self.rows = 0

    def write(self):
        for _ in range(ROWS):
            key = self.rows % KEYS
            self.producer.produce("soak_in", json.dumps({"key": key, "value": self.rows}).encode(), partition=key % PARTITIONS)
            self.rows += 1
        assert self.producer.flush(WAIT_S) == 0


def change(kafka, session, number):
    """DDL and DML that leave everything as it was, but for what they wrote to a topic."""
    session(f"CREATE MATERIALIZED VIEW late_{number} AS SELECT t.note, count(*) AS n FROM noted t JOIN totals s ON t.key = s.key GROUP BY t.note")
    session(f"CREATE SINK late_sink FROM late_{number} {options(kafka, 'soak_rows', ', primary_key = ' + repr('note'))} FORMAT UPSERT ENCODE JSON")
    session(f"INSERT INTO noted SELECT key, 'round {number}' FROM totals")
    session("WAIT FOR late_sink")
    assert session(f"SELECT note, n FROM late_{number} WHERE note = 'round {number}'") == [(f"round {number}", KEYS)]
    session(f"DELETE FROM noted WHERE note = 'round {number}'")
    session("DROP SINK late_sink")
    session(f"DROP MATERIALIZED VIEW late_{number}")


def test_nothing_grows(kafka, topics, server, session):
    session(f"CREATE SOURCE fed (key bigint, value bigint) {options(kafka, 'soak_in')} FORMAT PLAIN ENCODE JSON")
    session("CREATE TABLE noted (key bigint, note text)")
    session("CREATE MATERIALIZED VIEW totals AS SELECT key, count(*) AS n, sum(value) AS total FROM fed GROUP BY key")
    session(f"CREATE SINK totals_out FROM totals {options(kafka, 'soak_out', ', primary_key = ' + repr('key'))} FORMAT UPSERT ENCODE JSON")
    feed, lives, number = Feed(kafka), [[]], 0
    began = time.monotonic()
    while time.monotonic() < began + SOAK_S or number < 2:
        number += 1
        feed.write()
        process.until(lambda: session("SELECT sum(n) FROM totals") == [(feed.rows,)], "every row", WAIT_S)
        change(kafka, session, number)
        lives[-1].append(held(server))
        if number % BROKER_EVERY == 0:
            kafka.verb("kill")
            kafka.verb("restart")
        if time.monotonic() > began + SOAK_S * len(lives) / LIVES:
            server.kill()
            server.start()
            lives.append([])
    assert session("SELECT sum(total) FROM totals") == [(feed.rows * (feed.rows - 1) // 2,)]
    assert session("SELECT name, state, error FROM sys.jobs WHERE error IS NOT NULL") == []
    session("WAIT FOR totals_out")
    wanted = {key: (n, total) for key, n, total in session("SELECT key, n, total::text FROM totals")}
    out = Topic(kafka.bootstrap, "soak_out")
    process.until(lambda: {row["key"]: (row["n"], str(row["total"])) for row in out.newest().values()} == wanted, "the totals", WAIT_S)
    compare([life for life in lives if life])


def compare(lives):
    """Fails when the last quarter of a life held more than the second, or the last life more files than the second; a few rounds are no
    evidence. Memory and files count at their most. Descriptors count at their least: a leak stays, while a dozen come and go with
    files that are merged and a broker that comes back."""
    most = lambda rounds: [max(column) for column in zip(*rounds)]
    counted = lambda rounds: dict(zip(("memory", "descriptors", "files"), (max(row[0] for row in rounds), min(row[1] for row in rounds), max(row[2] for row in rounds))))
    for life in lives:
        quarter = len(life) // 4
        if quarter < 5:
            continue
        early, late = life[quarter : 2 * quarter], life[-quarter:]
        print(f"{len(life)} rounds: MB, descriptors, files at most {most(early)} in the second quarter, {most(late)} in the last")
        spare = {"memory": 16, "descriptors": 3, "files": 16}
        for name, before in counted(early).items():
            after = counted(late)[name]
            assert after <= before * 1.02 + spare[name], f"{name} grew from {before} to {after}"
    files = [most(life)[2] for life in lives]
    print(f"files at most, by life: {files}")
    if len(files) >= LIVES and len(lives[-1]) >= 20:
        assert files[-1] <= files[1] + 16, f"files grew: {files}"
