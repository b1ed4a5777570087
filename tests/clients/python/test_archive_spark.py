"""Spark reads the folders of an archive as they lie, with partition discovery, after every kill and after VACUUM.

Without a Spark (`spark.py`) these are skipped.
"""

import time

import pytest

import process
import spark
from test_archive import SEED, vacuuming

TOTALS = ["count(*)", "count(DISTINCT id)", "sum(id)"]


@pytest.fixture(scope="module")
def reader():
    """A function that tells what Spark finds in a folder."""
    running = spark.here()
    if not running:
        pytest.skip("SKIPPED, no Spark here: THALWEG_SPARK names no Python that has pyspark")
    try:
        yield lambda folder: running.read(folder, TOTALS, "region")
    finally:
        running.close()


def ledger(server):
    totals = server.sql("SELECT count(*), count(DISTINCT id), sum(id)::bigint FROM lake")[0]
    return totals, {str(region): rows for region, rows in server.sql("SELECT region, count(*) FROM lake GROUP BY region")}


def test_spark_finds_every_row_once(server, reader):
    print(f"seed {SEED}")
    server.sql(
        "CREATE ARCHIVE lake (id bigint, region text, at timestamptz) PARTITION BY (region) "
        "WITH (connector = 'file', path = 'lake', partition.close.grace = '1 s', reader.grace = '0 s')",
    )
    folder, first = server.files / "lake", 0
    for turn in range(4):
        for _ in range(15):
            region = "CASE n % 4 WHEN 0 THEN 'a/b' WHEN 1 THEN NULL ELSE 'r' || n % 4 END"
            server.sql(f"INSERT INTO lake SELECT n, {region}, now() FROM generate_series({first}, {first + 99}) n")
            first += 100
        vacuum = vacuuming(server, "lake")
        time.sleep(0.03 * turn)
        server.kill()
        server.start()
        vacuum.join()
        # What a kill has left half done is finished by the next write.
        server.sql(f"INSERT INTO lake VALUES ({first}, 'last', now())")
        first += 1
        assert ledger(server)[0] == (first, first, sum(range(first)))
        process.until(lambda: reader(folder) == ledger(server), "Spark finds the same after a kill")
        server.sql("VACUUM ARCHIVE lake")
        process.until(lambda: reader(folder) == ledger(server), "Spark finds the same after VACUUM")
