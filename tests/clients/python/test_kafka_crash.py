"""A server that fails inside a delivery to Kafka, at every named step of it: an independent reader of committed messages sees each row once.

The steps are read from the server's list of crash points, so one that is added there is tried here, and one that is never reached
fails. Each is tried at its first, second and a later hit, by an error, a panic and the end of the process. Kills fall into open
transactions, too: of what one INSERT wrote, readers see all or nothing.
"""

import json
import os
import random
import re
import threading
from collections import Counter

import psycopg
import pytest

import process
from topics import PARTITIONS, Topic

WAIT_S = 180.0
SEED = int(os.environ.get("THALWEG_KILL_SEED", "1"))
KILLS = 5
ROWS = 3000
# Deliveries until the armed one has to have come.
DELIVERIES = 12
POINTS = re.findall(r'"(kafka\.[a-z_]+)"', (process.ROOT / "server/state/src/point.rs").read_text())


@pytest.fixture(scope="module")
def server():
    """A server that saves often and traces what it does; each start may be told where to fail."""
    running = process.Server({"THALWEG_LOG": "info,thalweg_connectors=trace"})
    with open(running.data_dir / "thalweg.toml", "a") as config:
        config.write("checkpoint_interval = '20 ms'\n")
    try:
        yield running.start()
    finally:
        running.close()


def restart(server, crash_at=None):
    """Starts a server anew, told to fail at a step or nowhere."""
    server.kill()
    server.start(crash_at)


def log_since(server, start):
    """What the server has said since then."""
    with open(server.data_dir / "server.log", "rb") as log:
        log.seek(start)
        return log.read().decode(errors="replace")


def sink(session, kafka, table, topic):
    """A table whose rows go to a topic."""
    kafka.topic(topic, PARTITIONS)
    session(f"CREATE TABLE {table} (id int PRIMARY KEY, batch int)")
    session(
        f"CREATE SINK {topic} FROM {table} WITH (connector = 'kafka', topic = '{topic}', "
        f"properties.bootstrap.server = '{kafka.bootstrap}', force_append_only = 'true') FORMAT PLAIN ENCODE JSON"
    )
    session(f"WAIT FOR {topic}")


def seen(topic):
    """How often committed readers see each row."""
    return Counter(json.loads(value)["id"] for _, _, value in topic.read())


def test_a_failure_at_any_step_of_a_delivery_repeats_and_loses_nothing(kafka, server, session):
    assert len(POINTS) == 4
    chance = random.Random(SEED)
    print(f"THALWEG_KILL_SEED={SEED}")
    sink(session, kafka, "steps", "crashed")
    topic = Topic(kafka.bootstrap, "crashed")
    there, next_id, missed = set(), 0, []
    for point in POINTS:
        for hit in (1, 2, chance.randint(3, 5)):
            for action in ("error", "panic", "abort"):
                cell = f"{point}:{hit}:{action}"
                began = (server.data_dir / "server.log").stat().st_size
                restart(server, cell)
                failed = lambda: not server.alive() or f"crash point {point} was reached" in log_since(server, began)
                for _ in range(DELIVERIES):
                    try:
                        session(f"INSERT INTO steps VALUES ({next_id}, 0)")
                        there.add(next_id)
                        session("WAIT FOR crashed")
                    except psycopg.OperationalError:
                        process.until(lambda: not server.alive(), cell)
                        break
                    finally:
                        next_id += 1
                    if failed():
                        break
                if not failed():
                    missed.append(cell)
                if not server.alive():
                    restart(server)
                session("WAIT FOR crashed")
                # What was not answered is there or not.
                rows = {row[0] for row in session("SELECT id FROM steps")}
                assert there <= rows <= set(range(next_id)), cell
                there = rows
                process.until(lambda: len(seen(topic)) >= len(there), cell, WAIT_S)
                assert seen(topic) == Counter(there), cell
    assert not missed, f"never reached: {missed}"
    assert session("SELECT state, waiting_bytes FROM sys.sinks WHERE name = 'crashed'") == [("RUNNING", 0)]


def insert(session, batch, answered):
    """Inserts many rows by one statement that a kill may interrupt."""
    try:
        session(f"INSERT INTO many SELECT i, {batch} FROM generate_series({batch * ROWS}, {batch * ROWS + ROWS - 1}) AS g(i)")
        answered.add(batch)
    except psycopg.Error:
        pass


def test_an_insert_that_is_killed_is_all_there_or_not_at_all(kafka, server, session):
    restart(server)
    sink(session, kafka, "many", "killed")
    topic = Topic(kafka.bootstrap, "killed")
    answered, fell, batch = set(), 0, 0
    batches = lambda: Counter(json.loads(value)["batch"] for _, _, value in topic.read())
    while fell < KILLS:
        batch += 1
        assert batch < 20 * KILLS, f"only {fell} kills fell into a transaction"
        began = (server.data_dir / "server.log").stat().st_size
        writing = threading.Thread(target=insert, args=(session, batch, answered), daemon=True)
        writing.start()
        process.until(lambda: "transaction begins" in log_since(server, began), "a transaction", WAIT_S)
        server.kill()
        log = log_since(server, began)
        fell += log.count("transaction begins") > log.count("transaction ends")
        writing.join()
        # Whatever readers see before anyone has cleaned up is whole.
        assert set(batches().values()) <= {ROWS}
        restart(server)
        session("WAIT FOR killed")
        held = Counter(dict(session("SELECT batch, count(*) FROM many GROUP BY batch")))
        assert answered <= set(held) and set(held.values()) <= {ROWS}
        process.until(lambda: sum(batches().values()) >= sum(held.values()), "every row", WAIT_S)
        assert batches() == held
    assert set(Counter(json.loads(value)["id"] for _, _, value in topic.read()).values()) == {1}
    print(f"{fell} of {batch} kills fell into an open transaction")
