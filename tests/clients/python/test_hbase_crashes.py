"""Deliveries into HBase of a server that dies in the middle of them, or fails at a step: by HBase's own client each is there once, whole.

The steps are the crash points `hbase.*` of a debug build. Kills at random times come from THALWEG_KILLS and THALWEG_KILL_SEED, which it prints.
"""

import os
import random
import struct
import threading
import time

import psycopg
import pytest

import process

KILLS = int(os.environ.get("THALWEG_KILLS", "5"))
SEED = int(os.environ.get("THALWEG_KILL_SEED", "1"))
GROUPS = 120
# A step, and which time it is reached. A delivery is of many requests, so some are sent when the fourth is about to be.
STEPS = ["hbase.rows:1", "hbase.request:1", "hbase.request:4", "hbase.marker:1", "hbase.marked:1"]


class Crashing:
    """A server whose sink keeps a table of HBase equal to a view, and what HBase's own client sees of it."""

    def __init__(self, hbase):
        self.hbase, self.server, self.runs = hbase, process.Server(), 0
        with open(self.server.data_dir / "thalweg.toml", "a") as settings:
            settings.write("checkpoint_interval = '50 ms'\n")

    def start(self, crash_at=None):
        """Starts the server, which fails at a step if one is given."""
        self.server.start(crash_at)

    def sql(self, text):
        """One statement on a connection of its own."""
        return self.server.sql(text)

    def define(self):
        """The table, the view, and the sink between them. Cells keep their versions, so that nothing that was ever written is hidden."""
        columns = "g int PRIMARY KEY, n bigint, total bigint, note text"
        options = {
            "thrift.servers": self.hbase.servers,
            "table": "crashing",
            "family": "d",
            "create": "if-missing",
            "create.versions": "1000",
            "value.encoding": "string",
            "key.encoding": "ordered",
            "write.batch.bytes": "1kB",
            "lookup.timeout": "60 s",
        }
        listed = ", ".join(f"{key} = '{value}'" for key, value in options.items())
        self.sql(f"CREATE TABLE crashing ({columns}) WITH (connector = 'hbase', {listed})")
        self.sql("CREATE TABLE base (k int PRIMARY KEY, v bigint, note text)")
        self.sql(f"CREATE MATERIALIZED VIEW kept AS SELECT k % {GROUPS} AS g, count(*) AS n, sum(v)::bigint AS total, max(note) AS note FROM base GROUP BY 1")
        self.sql("CREATE SINK to_crashing INTO crashing AS SELECT * FROM kept")
        self.sql(f"INSERT INTO base SELECT n, n, CASE WHEN n % 3 = 0 THEN 'x' END FROM generate_series(1, {3 * GROUPS}) n")
        self.sql("WAIT FOR to_crashing")

    def change(self):
        """Changes every group in one statement: of some the note comes or goes, a few come or go themselves."""
        self.runs += 1
        gone, back = self.runs % GROUPS, (self.runs - 1) % GROUPS
        notes = f"CASE WHEN (k + {self.runs}) % 3 = 0 THEN 'run {self.runs}' END"
        self.sql(f"UPDATE base SET v = CASE WHEN k % {GROUPS} = {gone} THEN NULL ELSE coalesce(v, 0) + 1 END, note = {notes}")
        self.sql(f"DELETE FROM base WHERE k % {GROUPS} = {gone}")
        self.sql(f"INSERT INTO base SELECT {back} + {GROUPS} * n, n, NULL FROM generate_series(1, 2) n ON CONFLICT DO NOTHING")

    def seen(self, verb):
        """Cells of the table: row key, qualifier, value, timestamp and type."""
        found = []
        for line in self.hbase.ask(f"{verb} crashing"):
            key, _, qualifier, value, stamp, kind = line.split()
            group = struct.unpack(">I", bytes.fromhex(key))[0] - 2**31
            text = bytes.fromhex(value.removeprefix("-")).decode()
            found.append((group, bytes.fromhex(qualifier).decode(), text, int(stamp), kind))
        return found

    def stamps(self):
        """The timestamps of deliveries that were committed, or that a marker was about to be written for, as the control table ever had them."""
        lines = [line.split() for line in self.hbase.ask("raw thalweg_commits")]
        stamp = b"stamp".hex()
        return {int(bytes.fromhex(words[3])) for words in lines if words[2] == stamp}

    def check(self, at):
        """The table is the view, cell by cell, and holds nothing of a delivery that was never committed."""
        self.sql("WAIT FOR to_crashing")
        wanted = set()
        for group, n, total, note in self.sql("SELECT g, n, total, note FROM kept"):
            cells = {"_": "", "n": n, "total": total, "note": note}
            wanted |= {(group, name, str(value)) for name, value in cells.items() if value is not None}
        cells = self.seen("scan")
        assert {cell[:3] for cell in cells} == wanted, at
        assert len(cells) == len(wanted), at
        # Each row is of one delivery.
        times = {}
        for group, _, _, stamp, _ in cells:
            times.setdefault(group, set()).add(stamp)
        assert all(len(stamps) == 1 for stamps in times.values()), (at, times)
        committed = self.stamps()
        raw = self.seen("raw")
        puts = {stamp for *_, stamp, kind in raw if kind == "Put"}
        deletes = {stamp for *_, stamp, kind in raw if kind != "Put"}
        assert puts <= committed, (at, puts - committed)
        assert deletes <= {stamp - 1 for stamp in committed}, (at, deletes)


@pytest.fixture(scope="module")
def crashing(hbase):
    """A server with a sink that has delivered once."""
    running = Crashing(hbase)
    try:
        running.start()
        running.define()
        running.check("at the beginning")
        yield running
    finally:
        running.server.close()


def failed(server):
    """Whether the step that was armed has failed."""
    return not server.alive() or "crash point" in (server.data_dir / "server.log").read_text(errors="replace")


@pytest.mark.parametrize("action", ["error", "abort"])
@pytest.mark.parametrize("step", STEPS)
def test_a_delivery_that_fails_at_a_step_is_there_once(crashing, step, action):
    server = crashing.server
    server.kill()
    (server.data_dir / "server.log").write_text("")
    crashing.start(f"{step}:{action}")
    try:
        crashing.change()
    except psycopg.Error:
        # It died while it answered.
        assert action == "abort"
    process.until(lambda: failed(server), f"{step}:{action} is reached")
    if action == "abort":
        process.until(lambda: not server.alive(), "the server ends")
        crashing.start()
    crashing.check(f"{step}:{action}")
    # One statement is of one delivery.
    crashing.sql("UPDATE base SET v = coalesce(v, 0) + 1")
    crashing.check(f"after {step}:{action}")
    stamps = {stamp for *_, stamp, _ in crashing.seen("scan")}
    assert len(stamps) == 1 and stamps <= crashing.stamps()


def test_kills_at_random_times_leave_nothing_behind(crashing):
    print(f"replay: THALWEG_KILLS={KILLS} THALWEG_KILL_SEED={SEED}")
    chance, server = random.Random(SEED), crashing.server
    for kill in range(KILLS):
        done = threading.Event()

        def write():
            while not done.is_set():
                try:
                    crashing.change()
                except (psycopg.Error, OSError):
                    # Killed, and not started again yet.
                    done.wait(0.05)

        writer = threading.Thread(target=write)
        writer.start()
        time.sleep(chance.uniform(0.2, 1.5))
        server.kill()
        done.set()
        writer.join()
        crashing.start()
        crashing.check(f"kill {kill}")
