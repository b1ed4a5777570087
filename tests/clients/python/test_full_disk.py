"""A disk that somebody fills to the last byte and frees again: the server refuses what it cannot write, and goes on by itself.

The disk is a small tmpfs, which takes the right to mount; without it the test is skipped and says so.
"""

import os
import subprocess
import time

import psycopg
import pytest

import process

SIZE = "96m"
WAIT_S = 180.0


@pytest.fixture(scope="module")
def server():
    """A server whose data dir is a disk of its own, of which it keeps nothing free."""
    running = process.Server()
    disk = running.data_dir / "data"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", disk], capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        running.close()
        pytest.skip(f"SKIPPED, no tmpfs can be mounted here: {mounted.stderr.strip()}")
    with open(running.data_dir / "thalweg.toml", "a") as config:
        config.write("disk_reserve = '0'\ncheckpoint_interval = '100 ms'\n")
    try:
        yield running.start()
    finally:
        running.kill()
        subprocess.run(["umount", disk], check=True)
        running.close()


def fill(path):
    """Takes every byte that is left, as long as something frees some."""
    with open(path, "ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                pass


def insert(server, number, there, refused):
    """Inserts one wide row, which is acknowledged or refused for want of room."""
    try:
        server.sql(f"INSERT INTO t VALUES ({number}, repeat('{number % 10}', 20000))")
        there.add(number)
    except psycopg.Error as error:
        assert error.sqlstate == "53100", error
        refused.add(number)


def held(server):
    return {row[0] for row in server.sql("SELECT id FROM t")}


def test_a_disk_that_was_full_to_the_last_byte_needs_no_restart(server):
    server.sql("CREATE TABLE t (id int PRIMARY KEY, wide text)")
    server.sql("CREATE SOURCE s (id bigint) WITH (connector = 'datagen', rows_per_second = 500, fields.id.kind = 'sequence')")
    server.sql("CREATE MATERIALIZED VIEW seen AS SELECT count(*) AS n, count(DISTINCT id) AS ids, max(id) - min(id) + 1 AS span FROM s")
    server.sql("CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM t")
    ballast, there, refused, number = server.data_dir / "data" / "ballast", set(), set(), 0
    for _ in range(3):
        for _ in range(20):
            insert(server, number, there, refused)
            number += 1
        before = len(refused)
        deadline = time.monotonic() + WAIT_S
        while len(refused) < before + 5:
            fill(ballast)
            insert(server, number, there, refused)
            number += 1
            assert time.monotonic() < deadline, "no statement met a full disk"
        state = "SELECT state FROM sys.sources WHERE name = 's'"
        process.until(lambda: fill(ballast) or server.sql(state) == [("HELD",)], "the source waits", WAIT_S)
        # It answers meanwhile, and shows what it has acknowledged.
        assert held(server) == there
        os.remove(ballast)
        process.until(lambda: server.sql(f"INSERT INTO t VALUES ({number}, 'room')") == 1, "room is used", WAIT_S)
        there.add(number)
        number += 1
        process.until(lambda: server.sql(state) == [("RUNNING",)], "the source goes on", WAIT_S)
        rows = server.sql("SELECT n FROM seen")
        process.until(lambda: server.sql("SELECT n FROM seen") > rows, "the view goes on", WAIT_S)
        assert held(server) == there
    for _ in range(2):
        assert server.sql("SELECT n = ids AND n = span FROM seen") == [(True,)]
        assert server.sql("SELECT n FROM counted") == [(len(there),)] and held(server) == there
        server.kill()
        server.start()
    assert not there & refused
