"""Views become topics: what an independent consumer reads is what the view holds, through killed brokers and servers.

The consumer is confluent-kafka, which shares no code with the server; the truth is the view's own content, read over SQL, and for
rows a count made here.
"""

import json
from collections import Counter

import psycopg
import pytest

import process
import topics
from topics import PARTITIONS, Topic

WAIT_S = 300.0


def murmur2_partition(key, partitions):
    """The partition a Java client chooses for a key, written from the algorithm's description."""
    mask, length = 0xFFFFFFFF, len(key)
    h = (0x9747B28C ^ length) & mask
    for at in range(0, length - length % 4, 4):
        k = int.from_bytes(key[at : at + 4], "little") * 0x5BD1E995 & mask
        k = (k ^ k >> 24) * 0x5BD1E995 & mask
        h = (h * 0x5BD1E995 & mask) ^ k
    tail = key[length - length % 4 :]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * 0x5BD1E995 & mask
    h = (h ^ h >> 13) * 0x5BD1E995 & mask
    h ^= h >> 15
    return (h & 0x7FFFFFFF) % partitions


def options(kafka, topic, more=""):
    """WITH clause of a sink that delivers at least once."""
    return f"WITH (connector = 'kafka', topic = '{topic}', properties.bootstrap.server = '{kafka.bootstrap}', delivery = 'at_least_once'{more})"


def rows_by_key(session, view, columns, key):
    """A view's rows as the topic should hold them."""
    names = [name.strip() for name in columns.split(",")]
    found = {}
    for row in session(f"SELECT {columns} FROM {view}"):
        value = dict(zip(names, row))
        found[json.dumps({key: value[key]}, separators=(",", ":")).encode()] = value
    return found


def await_equal(topic, wanted, what):
    """Waits until the newest messages say exactly what is wanted."""
    process.until(lambda: topic.newest() == wanted(), what, WAIT_S)


def test_a_view_becomes_a_keyed_topic(kafka, session):
    kafka.topic("per_user", PARTITIONS)
    session("CREATE TABLE clicks (id int PRIMARY KEY, user_id int, cost int)")
    session("CREATE MATERIALIZED VIEW per_user AS SELECT user_id, count(*) AS n, max(cost) AS top FROM clicks GROUP BY user_id")
    session("INSERT INTO clicks SELECT v, v % 20, v FROM unnest(array[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25]) AS t(v)")
    session(f"CREATE SINK out FROM per_user {options(kafka, 'per_user', ', primary_key = ' + repr('user_id'))} FORMAT UPSERT ENCODE JSON")
    topic = Topic(kafka.bootstrap, "per_user")
    wanted = lambda: rows_by_key(session, "per_user", "user_id, n, top", "user_id")
    await_equal(topic, wanted, "the view's first rows")
    assert len(topic.newest()) == 20
    session("UPDATE clicks SET cost = 1000 WHERE user_id = 3")
    session("DELETE FROM clicks WHERE user_id = 4")
    session("INSERT INTO clicks VALUES (100, 77, 5)")
    session("WAIT FOR out")
    topic.read()
    await_equal(topic, wanted, "an update, a deletion and an insertion")
    assert any(value is None for _, _, value in topic.messages), "a deletion is a tombstone"
    assert b'{"user_id":4}' not in topic.newest()
    for partition, key, _ in topic.messages:
        assert partition == murmur2_partition(key, PARTITIONS), key
    assert [row[1:] for row in session("SHOW SINKS")] == [("kafka", "at least once")]


def test_a_restart_delivers_what_changed_and_nothing_else(kafka, server, session):
    topic = Topic(kafka.bootstrap, "per_user")
    wanted = lambda: rows_by_key(session, "per_user", "user_id, n, top", "user_id")
    await_equal(topic, wanted, "the topic before the restart")
    before = len(topic.messages)
    # That the last delivery is through reaches the disk with the next write; killed before that, the server would repeat it.
    session("CREATE TABLE a_write (id int)")
    server.kill()
    server.start()
    session("WAIT FOR out")
    session("DELETE FROM clicks WHERE user_id = 5")
    session("WAIT FOR out")
    process.until(lambda: len(topic.read()) > before, "the deletion", WAIT_S)
    assert [message[1:] for message in topic.messages[before:]] == [(b'{"user_id":5}', None)]


def test_broker_and_server_die_and_nothing_is_lost(kafka, server, session):
    topic = Topic(kafka.bootstrap, "per_user")
    wanted = lambda: rows_by_key(session, "per_user", "user_id, n, top", "user_id")
    insert = lambda low, high: session(
        "INSERT INTO clicks VALUES " + ", ".join(f"({v}, {v % 300}, {v})" for v in range(low, high))
    )
    insert(1000, 2000)
    kafka.verb("kill")
    # The table and its view go on without the broker.
    insert(2000, 3000)
    session("DELETE FROM clicks WHERE user_id < 50")
    session("WAIT FOR per_user")
    assert session("SELECT count(*) FROM per_user WHERE user_id < 50") == [(0,)]
    process.until(lambda: session("SELECT error FROM sys.sinks WHERE name = 'out'")[0][0], "the sink says what is wrong", WAIT_S)
    server.kill()
    server.start()
    insert(3000, 3500)
    kafka.verb("restart")
    session("WAIT FOR out")
    await_equal(topic, wanted, "everything after both came back")
    assert session("SELECT state, error FROM sys.sinks WHERE name = 'out'") == [("RUNNING", None)]


def test_rows_of_a_source_are_appended(kafka, server, session):
    kafka.topic("events_in", PARTITIONS)
    kafka.topic("events_out", PARTITIONS)
    producer = topics.producer(kafka.bootstrap)
    for number in range(3000):
        producer.produce("events_in", json.dumps({"id": number, "at": "2024-03-01T00:00:00Z"}).encode(), partition=number % PARTITIONS)
    assert producer.flush(60) == 0
    session(
        "CREATE SOURCE events (id bigint, at timestamptz)"
        f" WITH (connector = 'kafka', topic = 'events_in', properties.bootstrap.server = '{kafka.bootstrap}') FORMAT PLAIN ENCODE JSON"
    )
    session("CREATE MATERIALIZED VIEW even AS SELECT id, id * 1.5 AS price, at FROM events WHERE id % 2 = 0")
    session(
        f"CREATE SINK appended AS SELECT id, price, at FROM even {options(kafka, 'events_out', ', primary_key = ' + repr('id'))}"
        " FORMAT PLAIN ENCODE JSON KEY ENCODE TEXT"
    )
    topic = Topic(kafka.bootstrap, "events_out")
    process.until(lambda: len(topic.read()) >= 1500, "all even rows", WAIT_S)
    session("WAIT FOR appended")
    server.kill()
    for number in range(3000, 4000):
        producer.produce("events_in", json.dumps({"id": number, "at": "2024-03-01T00:00:00Z"}).encode(), partition=number % PARTITIONS)
    assert producer.flush(60) == 0
    server.start()
    process.until(lambda: len(topic.read()) >= 2000, "the rows after the restart", WAIT_S)
    session("WAIT FOR appended")
    topic.read()
    arrived = Counter(value for _, _, value in topic.messages)
    expected = {f'{{"id":{v},"price":"{v * 3 // 2}","at":"2024-03-01T00:00:00Z"}}'.encode() for v in range(0, 4000, 2)}
    assert set(arrived) == expected
    assert set(arrived.values()) == {1}, "a clean stop of delivery repeats nothing"
    assert all(key == str(json.loads(value)["id"]).encode() for _, key, value in topic.messages)


def test_what_cannot_be_promised_is_refused(kafka, session):
    upsert = lambda more: f"CREATE SINK bad FROM per_user {options(kafka, 'per_user', more)} FORMAT UPSERT ENCODE JSON"
    plain = f"CREATE SINK bad FROM per_user {options(kafka, 'per_user')} FORMAT PLAIN ENCODE JSON"
    missing = f"CREATE SINK bad FROM per_user {options(kafka, 'nowhere', ', primary_key = ' + repr('user_id'))} FORMAT UPSERT ENCODE JSON"
    for text, sqlstate in (
        (upsert(""), "22023"),
        (upsert(", primary_key = 'n'"), "42P10"),
        (upsert(", primary_key = 'nothing'"), "42703"),
        (upsert(", primary_key = 'user_id', sink_log.max_bytes = '1GB'"), "22023"),
        (plain, "0A000"),
        (missing, "42P01"),
    ):
        with pytest.raises(psycopg.Error) as refused:
            session(text)
        assert refused.value.sqlstate == sqlstate, text
    kafka.topic("forced", PARTITIONS)
    session(f"CREATE SINK forced FROM per_user {options(kafka, 'forced', ', force_append_only = true')} FORMAT PLAIN ENCODE JSON")
    topic = Topic(kafka.bootstrap, "forced")
    count = session("SELECT count(*) FROM per_user")[0][0]
    process.until(lambda: len(topic.read()) >= count, "the view's rows", WAIT_S)
    session("DELETE FROM clicks WHERE user_id = 99")
    session("WAIT FOR forced")
    assert all(value is not None for _, _, value in topic.read())
    session("DROP SINK forced")
