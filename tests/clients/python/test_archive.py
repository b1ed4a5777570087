"""CREATE ARCHIVE: Parquet on local disk and on HDFS, read by pyarrow as it lies, through kills of the server and of HDFS.

THALWEG_ARCHIVE_KILLS says how often servers are killed, THALWEG_SEED when.
"""

import io
import json
import os
import random
import threading
import time

import psycopg
import pyarrow.dataset
import pyarrow.parquet
import pytest

import process

SEED = int(os.environ.get("THALWEG_SEED", "7"))
KILLS = int(os.environ.get("THALWEG_ARCHIVE_KILLS", "3"))


def vacuuming(server, archive):
    """A thread that runs VACUUM, of which a kill may come in the middle."""

    def attempt():
        try:
            server.sql(f"VACUUM ARCHIVE {archive}")
        except psycopg.Error:
            pass

    thread = threading.Thread(target=attempt)
    thread.start()
    return thread


def explained(server, text):
    """The line of EXPLAIN about the archive."""
    return [row[0] for row in server.sql("EXPLAIN " + text) if row[0].startswith("Archive ")]


def tables_of(read, listed):
    """What is in the files that the manifests name. `read` gives the bytes of a path."""
    files = {}
    for number in range(1, 1_000_000):
        name = f"_manifest/{number:020}.json"
        if name not in listed:
            assert number > 1 and not any(path > name for path in listed if path.startswith("_manifest/"))
            break
        manifest = json.loads(read(name))
        for path in manifest.get("remove", []):
            del files[path]
        files.update((file["path"], file) for file in manifest.get("add", []))
    for file in files.values():
        content = read(file["path"])
        assert len(content) == file["bytes"], file["path"]
        table = pyarrow.parquet.read_table(io.BytesIO(content), partitioning=None)
        assert table.num_rows == file["rows"], file["path"]
        yield table


def rows_of(read, listed, columns=("id",)):
    """The rows in the files that the manifests name, in order; of one column its values."""
    rows = []
    for table in tables_of(read, listed):
        values = [table.column(name).to_pylist() for name in columns]
        rows += values[0] if len(values) == 1 else zip(*values)
    return sorted(rows)


class Writer(threading.Thread):
    """Inserts rows, and keeps which inserts were acknowledged and which were refused for certain."""

    def __init__(self, server, table, first=0):
        super().__init__(daemon=True)
        self.server, self.table, self.next = server, table, first
        self.done, self.refused, self.unsure, self.ending = [], [], [], threading.Event()

    def run(self):
        while not self.ending.is_set():
            ids = list(range(self.next, self.next + 5))
            self.next += 5
            try:
                values = ", ".join(f"({id}, 'r{id % 3}')" for id in ids)
                self.server.sql(f"INSERT INTO {self.table} (id, region) VALUES {values}")
                self.done += ids
            except psycopg.Error as error:
                unsure = error.sqlstate is None or error.sqlstate in ("08007", "57P01")
                (self.unsure if unsure else self.refused).extend(ids)
                time.sleep(0.05)

    def end(self):
        self.ending.set()
        self.join(60)
        assert not self.is_alive()

    def check(self, found):
        """Every acknowledged row is there once, no refused one is, and no row is there twice."""
        assert len(found) == len(set(found))
        there = set(found)
        assert not set(self.done) - there, "acknowledged rows are lost"
        assert not there & set(self.refused), "refused rows are there"
        assert not there - set(self.done) - set(self.unsure)


def test_other_programs_read_the_files_as_they_lie(server):
    server.sql(
        "CREATE ARCHIVE lake (id bigint, at timestamptz, price numeric(12, 2), region text) PARTITION BY (at::date AS dt, region) "
        "WITH (connector = 'file', path = 'lake/all')",
    )
    server.sql(
        "INSERT INTO lake SELECT n, TIMESTAMPTZ '2026-01-01 00:00:00Z' + n * INTERVAL '1 minute', n / 4.0, 'r' || n % 2 "
        "FROM generate_series(0, 9999) n",
    )
    server.sql("INSERT INTO lake (id) VALUES (10000)")
    folder = server.files / "lake" / "all"
    table = pyarrow.dataset.dataset(folder, partitioning="hive").to_table()
    assert (table.num_rows, sum(table.column("id").to_pylist())) == (10001, 50005000)
    assert table.schema.field("at").type == pyarrow.timestamp("us", tz="UTC")
    assert str(table.schema.field("price").type) == "decimal128(12, 2)"
    ours = server.sql("SELECT count(*), sum(id), sum(price)::text, min(at), count(DISTINCT dt) FROM lake")[0]
    assert (ours[0], int(ours[1]), ours[4]) == (10001, 50005000, 7)
    day = table.filter(pyarrow.compute.field("dt") == "2026-01-03")
    where = "FROM lake WHERE dt = '2026-01-03' AND region = 'r1'"
    assert server.sql("SELECT count(*) " + where) == [(day.num_rows // 2,)]
    assert explained(server, "SELECT id " + where)[0].startswith("Archive lake: 1 of 15 files")
    # What no partition tells, the bounds of columns do.
    assert explained(server, "SELECT id FROM lake WHERE id BETWEEN 100 AND 102")[0].startswith("Archive lake: 2 of 15 files")
    assert server.sql("SELECT id FROM lake WHERE id BETWEEN 100 AND 102 ORDER BY id") == [(100,), (101,), (102,)]


def test_no_kill_of_the_server_loses_or_doubles_a_row(server):
    server.sql("CREATE ARCHIVE crash (id bigint, region text) PARTITION BY (region) WITH (connector = 'file', path = 'lake/crash')")
    writer = Writer(server, "crash")
    writer.start()
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    for _ in range(KILLS):
        before = len(writer.done)
        process.until(lambda: len(writer.done) > before + 20, "rows are written")
        time.sleep(chance.random() * 0.1)
        server.kill()
        server.start()
    writer.end()
    server.sql("INSERT INTO crash VALUES (-1, 'last')")
    folder = server.files / "lake" / "crash"
    listed = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    found = rows_of(lambda path: (folder / path).read_bytes(), listed)
    assert found[0] == -1
    writer.check(found[1:])
    assert [row[0] for row in server.sql("SELECT id FROM crash ORDER BY id")] == found
    # What dead writers left is gone, so whoever lists the folders reads the same.
    foreign = pyarrow.dataset.dataset(folder, partitioning="hive").to_table()
    assert sorted(foreign.column("id").to_pylist()) == found


def test_open_files_of_an_archive_are_part_of_memory_and_stay_small():
    limited = process.Server({"THALWEG_MEMORY_LIMIT": "64MB"})
    try:
        limited.start()
        rows, parts = 200_000, 40
        generated = f"connector = 'datagen', rows = {rows}, rows_per_second = 1000000, seed = 7"
        sequence = f"fields.id.kind = 'sequence', fields.id.start = 0, fields.id.end = {rows}"
        limited.sql(f"CREATE SOURCE numbers (id bigint) WITH ({generated}, {sequence})")
        limited.sql("CREATE VIEW texts AS SELECT id, md5(id::text) || md5((id + 1)::text) || md5((-id)::text) AS text FROM numbers")
        where = "connector = 'file', path = 'lake/wide', rollover.interval = '1 hour'"
        limited.sql(f"CREATE ARCHIVE wide FROM texts PARTITION BY (id % {parts} AS part) WITH ({where})")
        held = "SELECT bytes FROM sys.memory WHERE component = 'archive wide: files being written'"
        process.until(lambda: limited.sql(held), "it holds rows")
        limited.sql("WAIT FOR wide")
        assert limited.sql(held) == [], "what is committed is not held"
        assert limited.sql("SELECT count(*), count(DISTINCT id) FROM wide") == [(rows, rows)]
        paths = [limited.files / "lake" / "wide" / row[0] for row in limited.sql("SELECT path FROM sys.archive_files WHERE archive = 'wide'")]
        groups = [pyarrow.parquet.ParquetFile(path).num_row_groups for path in paths]
        # Each partition has a file; for the sake of memory their row groups are small.
        assert len(paths) == parts and max(groups) > 1, groups
    finally:
        limited.close()


def test_an_archive_on_hdfs(server, hdfs):
    server.sql(
        "CREATE ARCHIVE remote (id bigint, region text) PARTITION BY (region) "
        f"WITH (connector = 'hdfs', path = '{hdfs.url}/lake/remote', user = '{os.environ.get('USER', 'root')}')",
    )
    assert server.sql("SELECT count(*) FROM remote") == [(0,)]
    server.sql("INSERT INTO remote SELECT n, CASE n % 3 WHEN 0 THEN 'a/b' WHEN 1 THEN NULL ELSE 'eu' END FROM generate_series(0, 999) n")
    server.sql("INSERT INTO remote VALUES (1000, 'eu')")
    assert server.sql("SELECT count(*), sum(id)::bigint FROM remote") == [(1001, 500500)]
    assert server.sql("SELECT count(*) FROM remote WHERE region = 'a/b'") == [(334,)]
    files = hdfs.files("/lake/remote")
    listed = {path.removeprefix("/lake/remote/") for path in files}
    told = {row[0]: row[1] for row in server.sql("SELECT path, bytes FROM sys.archive_files WHERE archive = 'remote'")}
    assert told == {path.removeprefix("/lake/remote/"): size for path, size in files.items() if "/_" not in path}
    assert rows_of(lambda path: hdfs.ask(f"/lake/remote/{path}", "OPEN"), listed) == list(range(1001))
    # Declared again on a new server, it has its rows.
    server.kill()
    server.start()
    assert server.sql("SELECT count(*) FROM remote") == [(1001,)]
    server.sql("INSERT INTO remote VALUES (1001, 'eu')")
    assert server.sql("SELECT max(id) FROM remote") == [(1001,)]


def test_closed_partitions_on_hdfs(server, hdfs):
    folder = "/lake/closed"
    options = f"connector = 'hdfs', path = '{hdfs.url}{folder}', user = '{os.environ.get('USER', 'root')}'"
    server.sql(
        "CREATE ARCHIVE closed (id bigint, region text) PARTITION BY (region) "
        f"WITH ({options}, partition.close.grace = '2 s', reader.grace = '0 s')",
    )
    for first in range(0, 40, 10):
        server.sql(f"INSERT INTO closed SELECT n, 'r' || n % 3 FROM generate_series({first}, {first + 9}) n")

    def found(part):
        return [path for path in hdfs.files(folder) if part in path]

    process.until(lambda: len(found("/_SUCCESS")) == 3, "all partitions have markers")
    assert server.sql("SELECT count(*) FROM sys.archive_files WHERE archive = 'closed'") == [(3,)]
    server.sql("INSERT INTO closed VALUES (40, 'r1')")
    assert len(found("/_SUCCESS")) == 2
    process.until(lambda: len(found("/_SUCCESS")) == 3 and not found("/_replaced/"), "the partition is closed again")
    listed = {path.removeprefix(folder + "/") for path in hdfs.files(folder)}
    assert rows_of(lambda path: hdfs.ask(f"{folder}/{path}", "OPEN"), listed) == list(range(41))


def refused(server, text):
    """The SQLSTATE of what a statement is refused with."""
    with pytest.raises(psycopg.Error) as error:
        server.sql(text)
    return error.value.sqlstate


def test_what_hdfs_refuses_is_an_error_and_costs_no_row(server, hdfs):
    user = os.environ.get("USER", "root")
    options = f"connector = 'hdfs', path = '{hdfs.url}/guarded/rows', user = '{user}'"
    server.sql(f"CREATE ARCHIVE guarded (id bigint) WITH ({options})")
    server.sql("INSERT INTO guarded VALUES (1)")
    hdfs.admin("--safemode", "enter")
    assert refused(server, "INSERT INTO guarded VALUES (-1)") in ("08006", "08007")
    # Reading goes on.
    assert server.sql("SELECT id FROM guarded") == [(1,)]
    hdfs.admin("--safemode", "leave")
    process.until(lambda: server.sql("INSERT INTO guarded VALUES (2)"), "rows come again")
    hdfs.admin("--quota", "/guarded", "1")
    assert refused(server, "INSERT INTO guarded VALUES (-2)") == "53100"
    assert server.sql("SELECT id FROM guarded ORDER BY 1") == [(1,), (2,)]
    hdfs.admin("--quota", "/guarded", "none")
    process.until(lambda: server.sql("INSERT INTO guarded VALUES (3)"), "rows come again")
    found = rows_of(lambda path: hdfs.ask(f"/guarded/rows/{path}", "OPEN"), {path.removeprefix("/guarded/rows/") for path in hdfs.files("/guarded/rows")})
    assert found == [1, 2, 3] == [row[0] for row in server.sql("SELECT id FROM guarded ORDER BY 1")]
    hdfs.permit("/guarded", "755", user)
    stranger = f"connector = 'hdfs', path = '{hdfs.url}/guarded/theirs', user = 'stranger'"
    assert refused(server, f"CREATE ARCHIVE theirs (id bigint) WITH ({stranger})") == "42501"
    assert refused(server, "SELECT * FROM theirs") == "42P01"


def test_a_name_node_that_hangs_costs_time_and_no_row(server, hdfs):
    options = f"connector = 'hdfs', path = '{hdfs.url}/lake/hung', user = '{os.environ.get('USER', 'root')}'"
    server.sql(f"CREATE ARCHIVE hung (id bigint) WITH ({options})")
    server.sql("INSERT INTO hung VALUES (1)")
    hdfs.verb("pause", "namenode")
    try:
        unsure = refused(server, "INSERT INTO hung VALUES (2)")
        assert unsure in ("08006", "08007")
        assert refused(server, "SELECT * FROM hung") == "08006"
    finally:
        hdfs.verb("resume", "namenode")
    process.until(lambda: server.sql("INSERT INTO hung VALUES (3)"), "rows come again")
    found = [row[0] for row in server.sql("SELECT id FROM hung ORDER BY id")]
    assert found == [1, 3] or unsure == "08007" and found == [1, 2, 3]


def kill(server, hdfs, victim):
    """Kills the server, or a server of HDFS, and starts it again."""
    if victim == "server":
        server.kill()
        server.start()
    else:
        hdfs.verb("kill", victim)
        hdfs.verb("restart", victim)


def test_no_kill_of_hdfs_or_the_server_loses_or_doubles_a_row(server, hdfs):
    options = f"connector = 'hdfs', path = '{hdfs.url}/lake/shaken', user = '{os.environ.get('USER', 'root')}'"
    server.sql(f"CREATE ARCHIVE shaken (id bigint, region text) PARTITION BY (region) WITH ({options})")
    writer = Writer(server, "shaken")
    writer.start()
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    for victim in ["server", "namenode", "datanode"] * (KILLS // 3 or 1):
        before = len(writer.done)
        process.until(lambda: len(writer.done) > before, "rows are written", 120)
        time.sleep(chance.random())
        kill(server, hdfs, victim)
    before = len(writer.done)
    process.until(lambda: len(writer.done) > before, "rows are written", 120)
    writer.end()
    process.until(lambda: server.sql("INSERT INTO shaken VALUES (-1, 'last')"), "a last row", 120)
    listed = {path.removeprefix("/lake/shaken/") for path in hdfs.files("/lake/shaken")}
    found = rows_of(lambda path: hdfs.ask(f"/lake/shaken/{path}", "OPEN"), listed)
    assert found[0] == -1
    writer.check(found[found.count(-1) :])
    assert [row[0] for row in server.sql("SELECT id FROM shaken ORDER BY id")] == found
