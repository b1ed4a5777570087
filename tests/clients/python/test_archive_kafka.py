"""Kafka to HDFS, through kills of the server, the NameNode and the DataNode: the archive, HYBRID, pyarrow and Spark agree on every row.

THALWEG_ARCHIVE_KILLS says how often servers are killed, THALWEG_ARCHIVE_FEED_S for how many seconds rows come before each kill,
THALWEG_KILL_RATE how many a second, THALWEG_ARCHIVE_TARGET how large VACUUM makes files, THALWEG_SEED when kills come. Where there is a
Spark (`spark.py`) it reads along.
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
from test_archive import KILLS, SEED, kill, tables_of
from test_kafka_exactly_once import RATE, Feed, checksum

FEED_S = float(os.environ.get("THALWEG_ARCHIVE_FEED_S", "1.5"))
TARGET = os.environ.get("THALWEG_ARCHIVE_TARGET", "512kB")
TARGET_BYTES = int(TARGET.rstrip("MkB")) * {"kB": 1000, "MB": 1_000_000}[TARGET[-2:]]
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
    """By key: rows, different numbers, the first and the last number, the sum of the checksums."""
    table = pyarrow.concat_tables([table.select(["key", "seq", "sum"]) for table in tables])
    kinds = [("seq", "count"), ("seq", "count_distinct"), ("seq", "min"), ("seq", "max"), ("sum", "sum")]
    counted = table.group_by("key").aggregate(kinds).to_pylist()
    return {row["key"]: tuple(row[f"{column}_{kind}"] for column, kind in kinds) for row in counted}


class Truth:
    """What there is, by what was written."""

    def __init__(self):
        self.produced, self.sums = {}, {}

    def extend(self, produced):
        for key, last in produced.items():
            before = self.produced.get(key, 0)
            self.sums[key] = self.sums.get(key, 0) + sum(checksum(key, seq) for seq in range(before + 1, last + 1))
        self.produced = dict(produced)

    def rows(self):
        return sum(self.produced.values())

    def numbered(self):
        return {key: (last, last, 1, last, self.sums[key]) for key, last in self.produced.items()}

    def totals(self):
        """As TOTALS tells, and rows by partition."""
        parts = {}
        for key, last in self.produced.items():
            parts[str(key % 4)] = parts.get(str(key % 4), 0) + last
        seqs = sum(last * (last + 1) // 2 for last in self.produced.values())
        return (self.rows(), seqs, sum(self.sums.values())), parts


class History:
    """An archive on HDFS that a topic fills, and what is known of it."""

    def __init__(self, server, hdfs, kafka):
        self.server, self.hdfs, self.seen, self.views = server, hdfs, 0, []
        # Seconds that the archive took to have everything after a kill, at most.
        self.longest = 0.0
        kafka.topic("history", 3)
        source = f"WITH (connector = 'kafka', topic = 'history', properties.bootstrap.server = '{kafka.bootstrap}')"
        server.sql(f"CREATE SOURCE history (key bigint, seq bigint, sum bigint) {source} FORMAT PLAIN ENCODE JSON")
        options = f"connector = 'hdfs', path = '{hdfs.url}{FOLDER}', user = '{os.environ.get('USER', 'root')}', rollover.interval = '1 s', compaction.target.size = '{TARGET}'"
        server.sql(f"CREATE ARCHIVE kept FROM history PARTITION BY (key % 4 AS part) WITH ({options})")

    def begin_view(self):
        """Begins a view over all of it, in the middle of whatever happens."""
        number = int(self.views[-1].removeprefix("since_")) + 1 if self.views else 0
        self.views.append(f"since_{number}")
        query = "SELECT count(*) AS n, count(DISTINCT key * 100000000 + seq) AS ids FROM HYBRID(kept, history)"
        self.server.sql(f"CREATE MATERIALIZED VIEW {self.views[-1]} AS {query}")
        if len(self.views) > VIEWS:
            self.server.sql(f"DROP MATERIALIZED VIEW {self.views.pop(0)}")

    def both(self):
        """Rows and different rows in archive and source; a row that was seen once stays."""
        query = "SELECT count(*), count(DISTINCT key * 100000000 + seq) FROM HYBRID(kept, history)"
        rows, ids = process.until(lambda: self.server.sql(query)[0], "an answer", 120)
        assert rows == ids and rows >= self.seen, f"{rows} rows, {ids} different, {self.seen} before"
        self.seen = rows
        return rows

    def has(self, total):
        """All of it, as soon as the broker has it; views a little later."""
        assert self.both() == total
        for view in self.views:
            process.until(lambda: self.server.sql(f"SELECT n, ids FROM {view}") == [(total, total)], f"{total} rows in {view}", 120)

    def await_archived(self):
        """Waits until it has everything; when it does not go on, its reason is in the failure."""
        began = time.monotonic()

        def goes_on():
            [(error,)] = self.server.sql("SELECT error FROM sys.sinks WHERE name = 'kept'")
            assert error is None, error
            return True

        process.until(goes_on, "the archive goes on", 300)
        self.server.sql("WAIT FOR kept")
        self.longest = max(self.longest, time.monotonic() - began)

    def open(self, path):
        return self.hdfs.ask(path, "OPEN")

    def committed(self):
        """What the files hold that the manifests name."""
        listed = {path.removeprefix(FOLDER + "/") for path in self.hdfs.files(FOLDER)}
        return numbered(tables_of(lambda path: self.open(f"{FOLDER}/{path}"), listed))

    def visible(self):
        """The files that others see."""
        return [path for path in self.hdfs.files(FOLDER) if path.endswith(".parquet") and "/_" not in path]

    def files(self):
        """How many, and the size of the largest."""
        return self.server.sql("SELECT count(*), max(bytes) FROM sys.archive_files WHERE archive = 'kept'")[0]

    def ledger(self):
        totals = self.server.sql(f"SELECT {', '.join(f'{total}::bigint' for total in TOTALS)} FROM kept")[0]
        return totals, {str(part): rows for part, rows in self.server.sql("SELECT part, count(*) FROM kept GROUP BY part")}

    def check(self, truth, reader):
        """Every row is in the archive once, whoever reads it."""
        assert self.committed() == truth.numbered()
        assert self.ledger() == truth.totals()
        deadline = time.monotonic() + 120
        while reader:
            # A DataNode that has just come back may not serve at once; but a row is never there twice.
            found = reader.read(self.hdfs.url + FOLDER, TOTALS, "part")
            if found == truth.totals():
                return
            assert isinstance(found, str) or found[0][0] < truth.rows(), f"Spark finds {found} instead of {truth.totals()}"
            assert time.monotonic() < deadline, f"Spark finds {found} instead of {truth.totals()}"


def test_kafka_to_hdfs_loses_and_doubles_nothing(server, hdfs, kafka, reader):
    print(f"THALWEG_SEED={SEED} THALWEG_ARCHIVE_KILLS={KILLS} THALWEG_ARCHIVE_FEED_S={FEED_S} THALWEG_KILL_RATE={RATE}")
    chance, began, fed = random.Random(SEED), time.monotonic(), 0.0
    history, truth = History(server, hdfs, kafka), Truth()
    victims = [("server", "namenode", "datanode")[turn % 3] for turn in range(max(KILLS, 3))]
    chance.shuffle(victims)
    for victim in victims:
        began_feeding = time.monotonic()
        feed = Feed(kafka.bootstrap, "history", truth.produced)
        history.begin_view()
        until = time.monotonic() + FEED_S * (0.5 + chance.random())
        while time.monotonic() < until:
            least = feed.acknowledged
            assert least <= history.both() <= sum(feed.next.values())
        kill(server, hdfs, victim)
        time.sleep(chance.random())
        truth.extend(feed.end())
        fed += time.monotonic() - began_feeding
        history.has(truth.rows())
        if reader:
            history.await_archived()
            history.check(truth, reader)
    history.await_archived()
    history.check(truth, reader)
    took, spark_read = time.monotonic() - began, "with" if reader else "without"
    print(f"{truth.rows()} rows in {fed:.0f} s of {took:.0f} s, {len(victims)} kills, {spark_read} Spark; all in the archive within {history.longest:.0f} s of each")
    files, before = history.files()
    server.sql("VACUUM ARCHIVE kept")
    left, largest = history.files()
    # What one commit made may be larger than the target; what VACUUM makes is not.
    assert 4 <= left < files and largest <= max(TARGET_BYTES, before), f"{left} of {files} files, {largest} bytes"
    history.check(truth, reader)
    visible = history.visible()
    assert len(visible) == left
    tables = [pyarrow.parquet.read_table(io.BytesIO(history.open(path))) for path in visible]
    assert numbered(tables) == truth.numbered()
    assert history.both() == truth.rows()
    assert server.sql("SELECT part, count(*) FROM kept WHERE part <> key % 4 GROUP BY part") == []
