"""Spark reads the folders of an archive as they lie, with partition discovery, after every kill and after VACUUM.

Spark is 500 MB, so it is no part of the other clients: THALWEG_SPARK names a Python that has pyspark 4, and without it these are skipped.
"""

import ast
import os
import subprocess
import time

import pytest

import process
from test_archive import SEED, run, vacuuming

# Reads a folder for each line of its input: rows, different ids, their sum; then rows by region.
SCRIPT = """
import sys
from pyspark.sql import SparkSession

settings = {"spark.ui.enabled": "false", "spark.driver.memory": "600m", "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
builder = SparkSession.builder.master("local[1]")
for name, value in settings.items():
    builder = builder.config(name, value)
session = builder.getOrCreate()
for line in sys.stdin:
    rows = session.read.parquet(line.strip())
    totals = rows.selectExpr("count(*)", "count(DISTINCT id)", "sum(id)").collect()[0]
    regions = {str(row[0]): row[1] for row in rows.groupBy("region").count().collect()}
    print("ANSWER", (tuple(totals), regions), flush=True)
"""


@pytest.fixture(scope="module")
def spark():
    """A function that tells what Spark finds in a folder."""
    python = os.environ.get("THALWEG_SPARK")
    if not python:
        pytest.skip("SKIPPED, no Spark here: THALWEG_SPARK names no Python that has pyspark")
    child = subprocess.Popen([python, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def read(folder):
        print(folder, file=child.stdin, flush=True)
        answer = next(line for line in child.stdout if line.startswith("ANSWER "))
        return ast.literal_eval(answer.removeprefix("ANSWER "))

    try:
        yield read
    finally:
        child.stdin.close()
        child.wait(60)


def ledger(server):
    totals = run(server, "SELECT count(*), count(DISTINCT id), sum(id)::bigint FROM lake")[0]
    return totals, {str(region): rows for region, rows in run(server, "SELECT region, count(*) FROM lake GROUP BY region")}


def test_spark_finds_every_row_once(server, spark):
    print(f"seed {SEED}")
    run(
        server,
        "CREATE ARCHIVE lake (id bigint, region text, at timestamptz) PARTITION BY (region) "
        "WITH (connector = 'file', path = 'lake', partition.close.grace = '1 s', reader.grace = '0 s')",
    )
    folder, first = server.files / "lake", 0
    for turn in range(4):
        for _ in range(15):
            region = "CASE n % 4 WHEN 0 THEN 'a/b' WHEN 1 THEN NULL ELSE 'r' || n % 4 END"
            run(server, f"INSERT INTO lake SELECT n, {region}, now() FROM generate_series({first}, {first + 99}) n")
            first += 100
        vacuum = vacuuming(server, "lake")
        time.sleep(0.03 * turn)
        server.kill()
        server.start()
        vacuum.join()
        # What a kill has left half done is finished by the next write.
        run(server, f"INSERT INTO lake VALUES ({first}, 'last', now())")
        first += 1
        assert ledger(server)[0] == (first, first, sum(range(first)))
        process.until(lambda: spark(folder) == ledger(server), "Spark finds the same after a kill")
        run(server, "VACUUM ARCHIVE lake")
        process.until(lambda: spark(folder) == ledger(server), "Spark finds the same after VACUUM")
