"""Kafka to HDFS, through kills of the server, the NameNode and the DataNode: the archive, HYBRID, pyarrow and Spark agree on every row.

THALWEG_ARCHIVE_KILLS says how often servers are killed, THALWEG_ARCHIVE_FEED_S for how many seconds rows come before each kill,
THALWEG_KILL_RATE how many a second, THALWEG_SEED when. Where there is a Spark (`spark.py`) it reads along.
"""

import io
import os
import random
import time

import pyarrow
import pyarrow.parquet
import pytest

import process
import spark
from test_archive import KILLS, SEED, kill, run, tables_of
from test_kafka_exactly_once import RATE, Feed

FEED_S = float(os.environ.get("THALWEG_ARCHIVE_FEED_S", "1.5"))
FOLDER = "/lake/history"
TOTALS = ["count(*)", "sum(seq)", "sum(sum)"]
# Views over all of it that begin while rows come; the oldest goes when there is another.
VIEWS = 3


@pytest.fixture(scope="module")
def reader():
    """Spark, where there is one."""
    running = spark.here()
    try:
        yield running
    finally:
        if running:
            running.close()


def numbered(tables):
    """By key: rows, different numbers, the first and the last number."""
    table = pyarrow.concat_tables([table.select(["key", "seq"]) for table in tables])
    kinds = ("count", "count_distinct", "min", "max")
    counted = table.group_by("key").aggregate([("seq", kind) for kind in kinds]).to_pylist()
    return {row["key"]: tuple(row[f"seq_{kind}"] for kind in kinds) for row in counted}


class History:
    """An archive on HDFS that a topic fills, and what is known of it."""

    def __init__(self, server, hdfs, kafka):
        self.server, self.hdfs, self.seen, self.views = server, hdfs, 0, []
        kafka.topic("history", 3)
        source = f"WITH (connector = 'kafka', topic = 'history', properties.bootstrap.server = '{kafka.bootstrap}')"
        run(server, f"CREATE SOURCE history (key bigint, seq bigint, sum bigint) {source} FORMAT PLAIN ENCODE JSON")
        options = f"connector = 'hdfs', path = '{hdfs.url}{FOLDER}', user = '{os.environ.get('USER', 'root')}', rollover.interval = '1 s'"
        run(server, f"CREATE ARCHIVE kept FROM history PARTITION BY (key % 4 AS part) WITH ({options})")

    def begin_view(self):
        """Begins a view over all of it, in the middle of whatever happens."""
        number = int(self.views[-1].removeprefix("since_")) + 1 if self.views else 0
        self.views.append(f"since_{number}")
        query = "SELECT count(*) AS n, count(DISTINCT key * 100000000 + seq) AS ids FROM HYBRID(kept, history)"
        run(self.server, f"CREATE MATERIALIZED VIEW {self.views[-1]} AS {query}")
        if len(self.views) > VIEWS:
            run(self.server, f"DROP MATERIALIZED VIEW {self.views.pop(0)}")

    def both(self):
        """Rows and different rows in archive and source; a row that was seen once stays."""
        query = "SELECT count(*), count(DISTINCT key * 100000000 + seq) FROM HYBRID(kept, history)"
        rows, ids = process.until(lambda: run(self.server, query)[0], "an answer", 120)
        assert rows == ids and rows >= self.seen, f"{rows} rows, {ids} different, {self.seen} before"
        self.seen = rows
        return rows

    def await_rows(self, total):
        deadline = time.monotonic() + 120
        while self.both() != total:
            assert time.monotonic() < deadline, f"{self.seen} of {total} rows"
        for view in self.views:
            process.until(lambda: run(self.server, f"SELECT n, ids FROM {view}") == [(total, total)], f"{total} rows in {view}", 120)

    def await_archived(self):
        process.until(lambda: run(self.server, "SELECT error FROM sys.sinks WHERE name = 'kept'") == [(None,)], "the archive goes on", 120)
        run(self.server, "WAIT FOR kept")

    def open(self, path):
        return self.hdfs.ask(path, "OPEN")

    def committed(self):
        """What the files hold that the manifests name."""
        listed = {path.removeprefix(FOLDER + "/") for path in self.hdfs.files(FOLDER)}
        return numbered(tables_of(lambda path: self.open(f"{FOLDER}/{path}"), listed))

    def visible(self):
        """The files that others see."""
        return [path for path in self.hdfs.files(FOLDER) if path.endswith(".parquet") and "/_" not in path]

    def ledger(self):
        totals = run(self.server, f"SELECT {', '.join(f'{total}::bigint' for total in TOTALS)} FROM kept")[0]
        return totals, {str(part): rows for part, rows in run(self.server, "SELECT part, count(*) FROM kept GROUP BY part")}

    def check(self, produced, reader):
        """Every row is in the archive once, whoever reads it."""
        assert self.committed() == {key: (last, last, 1, last) for key, last in produced.items()}
        totals, parts = self.ledger()
        assert totals[0] == sum(produced.values())
        if reader:
            # A DataNode that has just come back may not serve at once.
            process.until(lambda: reader.read(self.hdfs.url + FOLDER, TOTALS, "part") == (totals, parts), "Spark finds the same", 120)


def test_kafka_to_hdfs_loses_and_doubles_nothing(server, hdfs, kafka, reader):
    print(f"THALWEG_SEED={SEED} THALWEG_ARCHIVE_KILLS={KILLS} THALWEG_ARCHIVE_FEED_S={FEED_S} THALWEG_KILL_RATE={RATE}")
    chance, began = random.Random(SEED), time.monotonic()
    history, produced = History(server, hdfs, kafka), {}
    victims = ["server", "namenode", "datanode"] * (KILLS // 3 or 1)
    chance.shuffle(victims)
    for victim in victims:
        feed = Feed(kafka.bootstrap, "history", produced)
        history.begin_view()
        until = time.monotonic() + FEED_S * (0.5 + chance.random())
        while time.monotonic() < until:
            assert history.both() <= sum(feed.next.values())
        kill(server, hdfs, victim)
        time.sleep(chance.random())
        produced = feed.end()
        history.await_rows(sum(produced.values()))
        if reader:
            history.await_archived()
            history.check(produced, reader)
    history.await_archived()
    history.check(produced, reader)
    total, before = sum(produced.values()), history.ledger()
    took = time.monotonic() - began
    print(f"{total} rows in {took:.0f} s, {len(victims)} kills, {'with' if reader else 'without'} Spark")
    files = run(server, "SELECT count(*) FROM sys.archive_files WHERE archive = 'kept'")[0][0]
    run(server, "VACUUM ARCHIVE kept")
    assert run(server, "SELECT count(*), max(bytes) < 128000000 FROM sys.archive_files WHERE archive = 'kept'") == [(4, True)] and files > 4
    history.check(produced, reader)
    assert history.ledger() == before
    visible = history.visible()
    assert len(visible) == 4
    tables = [pyarrow.parquet.read_table(io.BytesIO(history.open(path))) for path in visible]
    assert numbered(tables) == {key: (last, last, 1, last) for key, last in produced.items()}
    assert history.both() == total
    assert run(server, "SELECT part, count(*) FROM kept WHERE part <> key % 4 GROUP BY part") == []
