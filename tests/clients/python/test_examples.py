"""The SQL of examples/ against a real Kafka, as a reader of the repository would run it.

The topics are made, the broker's address is put in, events are produced here, and what the sinks wrote is read by a consumer that
shares no code with the server.
"""

import json
from collections import Counter
from decimal import Decimal

import confluent_kafka
import psycopg
import pytest

import process
import topics

PARTITIONS = 2


def run_example(server, kafka, name):
    """Runs a script the way `thalweg sql -f` does: all of it, with the broker's address in place."""
    text = (process.ROOT / "examples" / name).read_text().replace("localhost:9092", kafka.bootstrap)
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(text)


def produce(kafka, topic, rows):
    """Sends JSON rows."""
    producer = topics.producer(kafka.bootstrap)
    for number, row in enumerate(rows):
        producer.produce(topic, json.dumps(row).encode(), partition=number % PARTITIONS)
    assert producer.flush(60) == 0


class Reader:
    """What a topic holds."""

    def __init__(self, kafka, topic):
        self.messages = []
        self.consumer = confluent_kafka.Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "examples", "enable.auto.commit": False, "log_level": 0})
        self.consumer.assign([confluent_kafka.TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])

    def read(self):
        """Takes what has arrived."""
        self.messages.extend((m.key(), m.value()) for m in self.consumer.consume(5000, 0.2) if m.error() is None)
        return self.messages

    def newest(self):
        """The newest row of each key."""
        held = {}
        for key, value in self.read():
            held[key] = json.loads(value) if value is not None else None
        return {key: row for key, row in held.items() if row is not None}


@pytest.fixture
def fresh():
    """A server of its own: the examples use the same names."""
    running = process.Server()
    try:
        yield running.start()
    finally:
        running.close()


def test_tv(fresh, kafka):
    for topic in ("viewer_events", "show_activity"):
        kafka.topic(topic, PARTITIONS)
    events = [
        {"event_id": n, "viewer_id": n % 50, "show_id": n % 4 + 1, "action": ("start", "stop", "switch")[n % 3], "ts": "2024-03-01T20:15:00Z"}
        for n in range(1200)
    ]
    produce(kafka, "viewer_events", events)
    run_example(fresh, kafka, "tv_kafka.sql")
    produce(kafka, "viewer_events", [{"event_id": 9999, "viewer_id": 1, "show_id": 1, "action": "jump"}])
    reader = Reader(kafka, "show_activity")
    starts = Counter(event["show_id"] for event in events if event["action"] == "start")
    wanted = lambda: {row["show_id"]: row["starts"] for row in reader.newest().values()} == dict(starts)
    process.until(wanted, "the starts of each show in the topic")
    with psycopg.connect(fresh.dsn(), autocommit=True) as connection:
        ask = lambda: connection.execute("SELECT reason FROM viewer_events_errors").fetchall()
        process.until(lambda: ask() == [("constraint",)], "the unknown action among the errors")


def test_shop(fresh, kafka):
    for topic in ("orders", "payments", "sales", "revenue"):
        kafka.topic(topic, PARTITIONS)
    orders = [
        {"order_id": n, "customer_id": n % 30, "country": ("DE", "FR", "SE")[n % 3], "amount": f"{n}.50", "ts": "2024-03-01T20:15:00Z"}
        for n in range(300)
    ]
    produce(kafka, "orders", orders)
    run_example(fresh, kafka, "shop_kafka.sql")
    produce(kafka, "payments", [{"order_id": n, "outcome": "paid" if n % 10 else "failed"} for n in range(300)])
    large, revenue = Reader(kafka, "sales"), Reader(kafka, "revenue")
    process.until(lambda: len(large.read()) >= 200, "the large orders")
    assert sorted(int(key) for key, _ in large.messages) == list(range(100, 300))
    paid = Counter(order["country"] for order in orders if order["order_id"] % 10)
    wanted = lambda: {row["country"]: row["orders"] for row in revenue.newest().values()} == dict(paid)
    process.until(wanted, "revenue by country")
    german = sum(Decimal(f"{n}.50") for n in range(300) if n % 3 == 0 and n % 10)
    assert Decimal(revenue.newest()[b'{"country":"DE"}']["amount"]) == german


def test_nexmark(fresh, kafka):
    for topic in ("nexmark", "auction_prices"):
        kafka.topic(topic, PARTITIONS)
    run_example(fresh, kafka, "nexmark_kafka.sql")
    events, prices = Reader(kafka, "nexmark"), Reader(kafka, "auction_prices")
    process.until(lambda: len(events.read()) >= 5000, "the events in the topic")
    rows = [json.loads(value) for _, value in events.messages]
    assert Counter(row["event_type"] for row in rows) == {0: 100, 1: 300, 2: 4600}
    best = {}
    for row in rows:
        if row["bid"]:
            best[row["bid"]["auction"]] = max(best.get(row["bid"]["auction"], 0), row["bid"]["price"])
    wanted = lambda: {row["id"]: row["price"] for row in prices.newest().values()} == best
    process.until(wanted, "the best price of each auction")
