"""What exactly-once sinks write to Kafka, seen by an independent reader of committed messages, through kills of server and broker.

The reader is confluent-kafka, which shares no code with the server. The kill loop keeps a ledger of numbered rows; its length and seed
come from THALWEG_KILLS and THALWEG_KILL_SEED, rows per second from THALWEG_KILL_RATE, and it prints what it ran with and where the kills fell.
"""

import json
import os
import random
import threading
import time
import zlib
from collections import Counter

import confluent_kafka
import confluent_kafka.admin
import psycopg
import pytest

import process
import topics
from topics import PARTITIONS, Topic

WAIT_S = 300.0
KILLS = int(os.environ.get("THALWEG_KILLS", "6"))
SEED = int(os.environ.get("THALWEG_KILL_SEED", "1"))
RATE = int(os.environ.get("THALWEG_KILL_RATE", "2000"))
# Rows that our own reader of a topic takes a second, at least.
READ_A_SECOND = 10_000

# The server's own words say what a kill interrupts.
TRACE = "info,thalweg_engine=trace,thalweg_connectors=trace"
WINDOWS = {
    "transaction": ("transaction begins", ["transaction ends"]),
    # A checkpoint that has nothing to commit ends at once.
    "run write": ("checkpoint writes runs", ["checkpoint commits", "checkpoint ends"]),
    "manifest commit": ("checkpoint commits", ["checkpoint ends"]),
    "backfill": ("backfill begins", ["backfill ends"]),
}


@pytest.fixture(scope="module")
def server():
    """A server that traces what it does."""
    os.environ["THALWEG_LOG"] = TRACE
    running = process.Server()
    try:
        yield running.start()
    finally:
        running.close()
        del os.environ["THALWEG_LOG"]


def options(kafka, topic, more=""):
    """WITH clause of a sink or source."""
    return f"WITH (connector = 'kafka', topic = '{topic}', properties.bootstrap.server = '{kafka.bootstrap}'{more})"


def view_rows(session):
    """The view as the topic should hold it."""
    rows = session("SELECT user_id, n, total FROM per_user")
    return {json.dumps({"user_id": user}, separators=(",", ":")).encode(): {"user_id": user, "n": n, "total": total} for user, n, total in rows}


def test_new_sinks_deliver_exactly_once(kafka, session):
    kafka.topic("once", PARTITIONS)
    session("CREATE TABLE clicks (id int PRIMARY KEY, user_id int, cost int)")
    session("CREATE MATERIALIZED VIEW per_user AS SELECT user_id, count(*) AS n, sum(cost) AS total FROM clicks GROUP BY user_id")
    session("INSERT INTO clicks SELECT v, v % 20, v FROM unnest(array[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]) AS t(v)")
    session(f"CREATE SINK out FROM per_user {options(kafka, 'once', ', primary_key = ' + repr('user_id'))} FORMAT UPSERT ENCODE JSON")
    assert session("SHOW SINKS") == [("out", "kafka", "exactly once")]
    session("WAIT FOR out")
    topic = Topic(kafka.bootstrap, "once")
    process.until(lambda: topic.newest() == view_rows(session), "the first rows", WAIT_S)
    assert len(topic.messages) == 20
    session("UPDATE clicks SET cost = 1000 WHERE user_id = 3")
    session("DELETE FROM clicks WHERE user_id = 4")
    session("FLUSH")
    process.until(lambda: topic.newest() == view_rows(session), "what changed", WAIT_S)
    assert sorted(message[1:] for message in topic.messages[20:]) == [
        (b'{"user_id":3}', b'{"user_id":3,"n":1,"total":1000}'),
        (b'{"user_id":4}', None),
    ]
    staged, delivered, waiting = session("SELECT staged_epoch, delivered_epoch, waiting_bytes FROM sys.sinks WHERE name = 'out'")[0]
    assert waiting == 0 and 0 < delivered <= staged


def test_a_killed_server_repeats_nothing(kafka, server, session):
    topic = Topic(kafka.bootstrap, "once")
    process.until(lambda: topic.newest() == view_rows(session), "the topic before the kill", WAIT_S)
    before = len(topic.messages)
    server.kill()
    server.start()
    session("WAIT FOR out")
    session("DELETE FROM clicks WHERE user_id = 5")
    session("WAIT FOR out")
    process.until(lambda: len(topic.read()) > before, "the deletion", WAIT_S)
    assert [message[1:] for message in topic.messages[before:]] == [(b'{"user_id":5}', None)]


def test_a_dead_broker_delays_delivery_and_nothing_else(kafka, server, session):
    topic = Topic(kafka.bootstrap, "once")
    process.until(lambda: topic.newest() == view_rows(session), "the topic before", WAIT_S)
    before = len(topic.messages)
    kafka.verb("kill")
    for step in range(3):
        session(f"INSERT INTO clicks VALUES ({100 + step}, {100 + step}, 1)")
        session("FLUSH")
        time.sleep(1.2)
    process.until(lambda: session("SELECT error FROM sys.sinks WHERE name = 'out'")[0][0], "the sink says what is wrong", WAIT_S)
    process.until(lambda: session("SELECT waiting_bytes > 0 FROM sys.sinks WHERE name = 'out'") == [(True,)], "a delivery waits", WAIT_S)
    server.kill()
    server.start()
    kafka.verb("restart")
    session("WAIT FOR out")
    process.until(lambda: topic.newest() == view_rows(session), "everything after both came back", WAIT_S)
    assert len(topic.messages) == before + 3
    assert session("SELECT state, error, waiting_bytes FROM sys.sinks WHERE name = 'out'") == [("RUNNING", None, 0)]


def test_what_does_not_fit_is_refused(kafka, session):
    for text, sqlstate in (
        (f"CREATE SINK bad FROM per_user {options(kafka, 'nowhere', ', primary_key = ' + repr('user_id'))} FORMAT UPSERT ENCODE JSON", "42P01"),
        ("ALTER SINK nothing RESUME", "42P01"),
        ("ALTER SINK per_user RESUME", "42809"),
        ("ALTER TABLE out PAUSE", "0A000"),
    ):
        with pytest.raises(psycopg.Error) as refused:
            session(text)
        assert refused.value.sqlstate == sqlstate, text


def expire(kafka, topic):
    """Has the broker remove every record that a topic has so far."""
    ends = [confluent_kafka.TopicPartition(topic, partition, confluent_kafka.OFFSET_END) for partition in range(PARTITIONS)]
    admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": kafka.bootstrap})
    for removed in admin.delete_records(ends).values():
        removed.result(WAIT_S)


def test_what_the_topic_has_lost_stays_delivered(kafka, server, session):
    for topic in ("fleeting", "each", "per_key"):
        kafka.topic(topic, PARTITIONS)
    session(f"CREATE SOURCE fleeting (key bigint, seq bigint) {options(kafka, 'fleeting')} FORMAT PLAIN ENCODE JSON")
    session(f"CREATE SINK each AS SELECT key, seq FROM fleeting {options(kafka, 'each')} FORMAT PLAIN ENCODE JSON")
    session(
        "CREATE SINK per_key AS SELECT key, count(*) AS n, min(seq) AS first, max(seq) AS last FROM fleeting GROUP BY key"
        f" {options(kafka, 'per_key', ', primary_key = ' + repr('key'))} FORMAT UPSERT ENCODE JSON"
    )
    producer = topics.producer(kafka.bootstrap)
    each, per_key = Topic(kafka.bootstrap, "each"), Topic(kafka.bootstrap, "per_key")
    for round in range(4):
        for seq in range(round * 50, round * 50 + 50):
            # A key that comes in the first rounds only has no record left in the end.
            key = seq % 8 if round < 2 else seq % 5
            producer.produce("fleeting", json.dumps({"key": key, "seq": seq}).encode(), partition=key % PARTITIONS)
        assert producer.flush(60) == 0
        session("WAIT FOR each")
        session("WAIT FOR per_key")
        rows = [(seq % 8 if seq < 100 else seq % 5, seq) for seq in range(round * 50 + 50)]
        process.until(lambda: len(each.read()) >= len(rows), "every row", WAIT_S)
        assert sorted((row["key"], row["seq"]) for row in map(json.loads, (value for _, _, value in each.read()))) == sorted(rows)
        wanted = {key: [seq for own, seq in rows if own == key] for key, _ in rows}
        wanted = {key: (len(seqs), seqs[0], seqs[-1]) for key, seqs in wanted.items()}
        held = lambda: {row["key"]: (row["n"], row["first"], row["last"]) for row in per_key.newest().values()}
        process.until(lambda: held() == wanted, f"the totals of round {round}", WAIT_S)
        assert not [key for _, key, value in per_key.messages if value is None], "nothing was taken back"
        # Delivered means saved: neither the server nor the topic needs to have it any longer.
        server.kill()
        expire(kafka, "fleeting")
        server.start()
    assert session("SELECT message FROM sys.errors WHERE reason = '01000'") == []


def checksum(key, seq):
    """What a numbered row carries."""
    return zlib.crc32(f"{key}/{seq}".encode())


class Feed:
    """Writes numbered rows to a topic, each key to one partition, until told to stop. `after` says how many rows each key has."""

    def __init__(self, bootstrap, topic, after=()):
        self.producer = topics.producer(bootstrap, linger_ms=5)
        self.topic, self.next, self.stop = topic, Counter(after), threading.Event()
        # How many rows the broker has for certain.
        self.acknowledged, self.failed = sum(self.next.values()), 0
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        """So many rows a second at most that even a thousand kills are over few enough to compare them all."""
        while not self.stop.wait(40 / RATE):
            for key in range(40):
                self.next[key] += 1
                row = {"key": key, "seq": self.next[key], "sum": checksum(key, self.next[key])}
                self.write(json.dumps(row).encode(), key % PARTITIONS)
            self.producer.poll(0)

    def write(self, payload, partition):
        """Waits for room when the broker is slower than we are."""
        while True:
            try:
                return self.producer.produce(self.topic, payload, partition=partition, on_delivery=self.note)
            except BufferError:
                self.producer.poll(0.05)

    def note(self, error, _):
        self.failed += error is not None
        self.acknowledged += error is None

    def end(self):
        """How many rows each key has."""
        self.stop.set()
        self.thread.join()
        assert self.producer.flush(60) == 0 and self.failed == 0
        assert self.acknowledged == sum(self.next.values())
        return self.next


class Windows:
    """Which windows a log that grows is inside of; each line is looked at once, so that a window of a millisecond is not missed."""

    def __init__(self):
        self.rest, self.open = b"", Counter()

    def read(self, more):
        """Takes what the log has grown by."""
        *lines, self.rest = (self.rest + more).split(b"\n")
        for line in lines:
            for name, (begin, ends) in WINDOWS.items():
                if begin.encode() in line:
                    self.open[name] += 1
                elif self.open[name] and any(end.encode() in line for end in ends):
                    self.open[name] -= 1

    def interrupted(self):
        """The windows that the log ends inside of."""
        return [name for name in WINDOWS if self.open[name] > 0]


def kill_in(server, window, chance, start):
    """Kills the server when its log, from `start`, says that it is in a window, or after some time; tells what was interrupted."""
    path = server.data_dir / "server.log"
    deadline = time.monotonic() + chance.uniform(0.2, 3.0) if window is None else time.monotonic() + 20
    windows = Windows()
    with open(path, "rb") as log:
        log.seek(start)
        while time.monotonic() < deadline:
            windows.read(log.read())
            if window in windows.interrupted():
                break
            time.sleep(0.0002)
        server.kill()
        windows.read(log.read() + b"\n")
    return windows.interrupted()


def story(log):
    """What the server says of its beginnings, and of what went wrong."""
    words = ("goes on", "goes back", "computed from", "are gone", "reopening", "retrying", "ready", " ERROR ")
    return "\n".join(line for line in log.read_text(errors="replace").splitlines() if any(word in line for word in words))


def attempt(session, text):
    """Runs a statement that a kill may interrupt."""
    try:
        session(text)
    except psycopg.Error:
        pass


def drop_checked(session, view):
    """Drops a view over all rows, when there is one; it agrees with the sums at the moment that one statement sees."""
    if session(f"SELECT 1 FROM sys.jobs WHERE name = '{view}'"):
        # Kills may have kept it from reading all rows; it gets the time now.
        session(f"WAIT FOR {view}")
        n, total, *sums = session(f"SELECT n, total, (SELECT sum(n) FROM sums), (SELECT sum(total) FROM sums) FROM {view}")[0]
        assert [n, total] == sums, view
        session(f"DROP MATERIALIZED VIEW {view}")


def test_kills_lose_double_and_reorder_nothing(kafka, server, session):
    print(f"THALWEG_KILLS={KILLS} THALWEG_KILL_SEED={SEED} THALWEG_KILL_RATE={RATE}")
    chance = random.Random(SEED)
    for topic in ("numbered", "ledger", "sums"):
        kafka.topic(topic, PARTITIONS)
    columns = "(key bigint, seq bigint, sum bigint)"
    session(f"CREATE SOURCE numbered {columns} {options(kafka, 'numbered')} FORMAT PLAIN ENCODE JSON")
    session("CREATE TABLE kept (key bigint, seq bigint, sum bigint)")
    session("CREATE SINK keeps INTO kept AS SELECT key, seq, sum FROM numbered")
    session("CREATE MATERIALIZED VIEW sums AS SELECT key, count(*) AS n, max(seq) AS top, sum(sum) AS total FROM numbered GROUP BY key")
    session(f"CREATE SINK ledger AS SELECT key, seq, sum FROM numbered {options(kafka, 'ledger', ', primary_key = ' + repr('key'))} FORMAT PLAIN ENCODE JSON")
    session(f"CREATE SINK sums_out FROM sums {options(kafka, 'sums', ', primary_key = ' + repr('key'))} FORMAT UPSERT ENCODE JSON")
    feed = Feed(kafka.bootstrap, "numbered")
    fell = Counter()
    aims = [None, *WINDOWS]
    log = server.data_dir / "server.log"
    began, late = log.stat().st_size, []
    for kill in range(KILLS):
        aim = aims[kill % len(aims)]
        # Views that were begun earlier are begun again at every start.
        if aim == "backfill" and kill % (2 * len(aims)) < len(aims):
            late.append(f"late_{kill}")
            text = f"CREATE MATERIALIZED VIEW {late[-1]} AS SELECT count(*) AS n, sum(sum) AS total FROM numbered"
            threading.Thread(target=attempt, args=(session, text), daemon=True).start()
        fell.update(kill_in(server, aim, chance, began))
        began = log.stat().st_size
        server.start()
        if len(late) > 3:
            drop_checked(session, late.pop(0))
    produced = feed.end()
    total = sum(produced.values())
    for sink in ("ledger", "sums_out", "keeps"):
        session(f"WAIT FOR {sink}")
    print(f"{KILLS} kills over {total} rows fell into: {dict(fell)}")
    rows = {key: (n, top, int(sums)) for key, n, top, sums in session("SELECT key, n, top, total FROM sums")}
    expected = {key: (count, count, sum(checksum(key, seq) for seq in range(1, count + 1))) for key, count in produced.items()}
    wrong = {key: (rows.get(key), row) for key, row in expected.items() if rows.get(key) != row}
    assert not wrong and len(rows) == 40, f"{wrong} after {story(log)}"
    for view in late:
        # Whether it was created is for its killed statement to know.
        if session(f"SELECT 1 FROM sys.jobs WHERE name = '{view}'"):
            session(f"WAIT FOR {view}")
            assert session(f"SELECT n FROM {view}") == [(total,)]
    assert session("SELECT count(*) FROM kept") == [(total,)]
    assert session("SELECT key, seq FROM kept GROUP BY key, seq HAVING count(*) <> 1") == []
    ledger = Topic(kafka.bootstrap, "ledger")
    process.until(lambda: len(ledger.read()) >= total, "the ledger", WAIT_S + total / READ_A_SECOND)
    last = Counter()
    for _, _, value in ledger.read():
        row = json.loads(value)
        assert row["sum"] == checksum(row["key"], row["seq"]), row
        assert row["seq"] == last[row["key"]] + 1, f"{row} after {last[row['key']]}"
        last[row["key"]] = row["seq"]
    assert last == produced
    sums = Topic(kafka.bootstrap, "sums")
    wanted = {key: (n, top) for key, n, top in session("SELECT key, n, top FROM sums")}
    held = lambda: {row["key"]: (row["n"], row["top"]) for row in sums.newest().values()}
    process.until(lambda: held() == wanted, "the sums", WAIT_S)
    unread = Topic(kafka.bootstrap, "ledger", "read_uncommitted")
    process.until(lambda: len(unread.read()) >= total, "the ledger with what was aborted", WAIT_S + total / READ_A_SECOND)
    print(f"{len(unread.messages) - total} messages of aborted transactions")
    # On a machine that has little time for us a few kills may come too late for their windows.
    if KILLS >= 50:
        assert not set(WINDOWS) - set(fell), f"no kill fell into {set(WINDOWS) - set(fell)}"
