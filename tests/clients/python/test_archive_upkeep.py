"""What the server does for archives by itself: closed partitions get large files and a marker, old rows go. Other programs read the
folders as they lie all the while.
"""

import datetime
import time

import duckdb
import pyarrow.dataset

import process
from test_archive import SEED, Writer, rows_of, vacuuming

DAY = datetime.timedelta(days=1)


def files_below(folder):
    """Every file of an archive on the local disk, by its path below the folder."""
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def by_duckdb(folder):
    """Rows, different ids, and their sum, in the folders as DuckDB finds them."""
    query = f"SELECT count(*), count(DISTINCT id), sum(id)::BIGINT FROM read_parquet('{folder}/*=*/*.parquet', hive_partitioning = true)"
    return duckdb.connect().execute(query).fetchone()


def by_pyarrow(folder):
    table = pyarrow.dataset.dataset(folder, partitioning="hive").to_table(columns=["id"])
    ids = table.column("id").to_pylist()
    return len(ids), len(set(ids)), sum(ids)


def by_manifests(folder):
    files = files_below(folder)
    ids = rows_of(lambda path: files[path].read_bytes(), set(files))
    return len(ids), len(set(ids)), sum(ids)


def by_us(server, name):
    return server.sql(f"SELECT count(*), count(DISTINCT id), sum(id)::bigint FROM {name}")[0]


def test_closed_partitions_and_old_rows(server):
    today = datetime.datetime.now(datetime.timezone.utc).date()
    server.sql(
        "CREATE ARCHIVE days (id bigint, dt date) PARTITION BY (dt) WITH (connector = 'file', path = 'lake/days', "
        "partition.close.grace = '3 s', retention = '30 days', reader.grace = '0 s')",
    )
    for part in range(4):
        values = f"SELECT n, DATE '{today - 3 * DAY}' + (n % 5)::int FROM generate_series({part * 100}, {part * 100 + 99}) n"
        server.sql(f"INSERT INTO days {values}")
    server.sql(f"INSERT INTO days VALUES (1000, DATE '{today - 40 * DAY}')")
    folder = server.files / "lake" / "days"
    # Three days are over; today and tomorrow go on however long nothing comes.
    over = [f"dt={today - back * DAY}" for back in (3, 2, 1)]
    marked = lambda: sorted(path.split("/")[0] for path in files_below(folder) if path.endswith("_SUCCESS"))
    process.until(lambda: marked() == over, "the days that are over have markers", 60)
    counts = dict(server.sql("SELECT partition, count(*) FROM sys.archive_files WHERE archive = 'days' GROUP BY 1"))
    assert counts == {**{day: 1 for day in over}, f"dt={today}": 4, f"dt={today + DAY}": 4}
    everything = (400, 400, sum(range(400)))
    assert by_us(server, "days") == by_duckdb(folder) == by_pyarrow(folder) == by_manifests(folder) == everything
    assert not (folder / f"dt={today - 40 * DAY}").exists() or not list((folder / f"dt={today - 40 * DAY}").iterdir())
    # A row that comes late takes the marker away until its day is closed again.
    server.sql(f"INSERT INTO days VALUES (2000, DATE '{today - 2 * DAY}')")
    assert marked() == [over[0], over[2]]
    process.until(lambda: marked() == over, "the day is closed again", 60)
    assert by_us(server, "days") == by_duckdb(folder) == by_manifests(folder) == (401, 401, everything[2] + 2000)


def test_folders_are_right_for_others_after_every_kill(server):
    print(f"seed {SEED}")
    server.sql(
        "CREATE ARCHIVE shared (id bigint, region text) PARTITION BY (region) WITH (connector = 'file', path = 'lake/shared', "
        "partition.close.grace = '1 s', reader.grace = '0 s')",
    )
    folder = server.files / "lake" / "shared"

    def agreed():
        """What everybody finds, once nothing changes places."""
        found = [by_us(server, "shared"), by_duckdb(folder), by_pyarrow(folder), by_manifests(folder)]
        return found[0] if all(each == found[0] for each in found) else None

    for turn in range(3):
        writer = Writer(server, "shared", first=turn * 1_000_000)
        writer.start()
        process.until(lambda: len(writer.done) > 50, "rows are written")
        vacuum = vacuuming(server, "shared")
        time.sleep(0.05 * turn)
        server.kill()
        server.start()
        writer.end()
        vacuum.join()
        # What a kill has left half done is finished by the next write.
        server.sql("INSERT INTO shared VALUES (%s, 'last')", -1 - turn)
        rows, different, _ = by_duckdb(folder)
        assert rows == different
        ledger = process.until(agreed, "all readers agree", 30)
        assert ledger[0] == ledger[1] >= len(writer.done)
        server.sql("VACUUM ARCHIVE shared")
        assert process.until(agreed, "all readers agree", 30) == ledger
