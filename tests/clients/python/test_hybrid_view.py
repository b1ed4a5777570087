"""Materialized views FROM HYBRID(archive, source): history from files first, then Kafka from exactly there, through kills.

THALWEG_ARCHIVE_KILLS says how often the server is killed, THALWEG_SEED when.
"""

import random
import time
from collections import Counter

import confluent_kafka
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

import process
from test_archive import KILLS, SEED, vacuuming
from test_kafka_exactly_once import Feed

PARTITIONS = 3


def declare(server, kafka, topic):
    """A topic, the source over it, and the archive that the source fills."""
    kafka.topic(topic, PARTITIONS)
    options = f"connector = 'kafka', topic = '{topic}', properties.bootstrap.server = '{kafka.bootstrap}'"
    server.sql(f"CREATE SOURCE {topic} (key bigint, seq bigint, sum bigint) WITH ({options}) FORMAT PLAIN ENCODE JSON")
    server.sql(
                f"CREATE ARCHIVE {topic}_kept FROM {topic} PARTITION BY (key % 4 AS part) "
        f"WITH (connector = 'file', path = 'lake/{topic}', rollover.interval = '1 s')",
    )


def feed(kafka, topic, produced, seconds):
    """What each key has after more rows were written for a while."""
    writer = Feed(kafka.bootstrap, topic, produced)
    time.sleep(seconds)
    return writer.end()


def forget(kafka, topic):
    """Has the broker delete every row of a topic, as its retention does; how many there were."""
    consumer = confluent_kafka.Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "forget"})
    places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    ends = [consumer.get_watermark_offsets(place, timeout=120)[1] for place in places]
    consumer.close()
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    due = [TopicPartition(topic, place.partition, end) for place, end in zip(places, ends)]
    for deleted in admin.delete_records(due).values():
        deleted.result(30)
    return sum(ends)


def told(server, view):
    """What the view says of each key: rows, and the last of them."""
    return {key: (rows, last) for key, rows, last in server.sql(f"SELECT key, n, last FROM {view}")}


def expected(produced):
    return {key: (last, last) for key, last in produced.items()}


def test_a_view_has_history_that_kafka_has_deleted(server, kafka):
    declare(server, kafka, "old")
    produced = feed(kafka, "old", {}, 1.5)
    server.sql("WAIT FOR old_kept")
    gone = forget(kafka, "old")
    assert gone == sum(produced.values()) > 1000
    produced = feed(kafka, "old", produced, 0.5)
    grouped = "SELECT key, count(*) AS n, max(seq) AS last FROM HYBRID(old_kept, old) GROUP BY key"
    server.sql(f"CREATE MATERIALIZED VIEW per_key AS {grouped}")
    server.sql("CREATE MATERIALIZED VIEW late AS SELECT seq, key FROM HYBRID(old_kept, old) WHERE key % 10 = 3")
    process.until(lambda: told(server, "per_key") == expected(produced), "the view has every row", 60)
    late = sum(last for key, last in produced.items() if key % 10 == 3)
    assert server.sql("SELECT count(*), count(DISTINCT key * 1000000 + seq) FROM late") == [(late, late)]
    # The same query as a batch gives the same, whatever has moved in the archive's folder.
    server.sql("VACUUM ARCHIVE old_kept")
    both = f"SELECT count(*) FROM (({grouped} EXCEPT SELECT key, n, last FROM per_key) UNION ALL (SELECT key, n, last FROM per_key EXCEPT {grouped})) x"
    assert server.sql(both) == [(0,)]
    server.kill()
    server.start()
    produced = feed(kafka, "old", produced, 0.5)
    process.until(lambda: told(server, "per_key") == expected(produced), "the view goes on", 60)
    server.sql("WAIT FOR old_kept")
    assert server.sql(both) == [(0,)]


def test_kills_while_a_view_begins_lose_and_double_nothing(server, kafka):
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    declare(server, kafka, "busy")
    produced = feed(kafka, "busy", {}, 4)
    server.sql("WAIT FOR busy_kept")
    forget(kafka, "busy")
    produced = Counter(produced)
    for number in range(KILLS):
        view = f"begun_{number}"
        writer = Feed(kafka.bootstrap, "busy", produced)
        vacuum = vacuuming(server, "busy_kept")
        server.sql(f"CREATE MATERIALIZED VIEW {view} AS SELECT key, count(*) AS n, max(seq) AS last FROM HYBRID(busy_kept, busy) GROUP BY key")
        time.sleep(chance.random() * 0.6)
        server.kill()
        server.start()
        vacuum.join()
        time.sleep(chance.random() * 0.3)
        produced = writer.end()
        process.until(lambda: told(server, view) == expected(produced), f"view {number} has every row", 90)
        server.sql("WAIT FOR busy_kept")
    for number in range(KILLS):
        process.until(lambda: told(server, f"begun_{number}") == expected(produced), f"view {number} still has every row", 60)
