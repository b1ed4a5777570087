"""Fixtures: a server per test file, a broker per session, and one way to read rows with every driver."""

import os
import sys
from pathlib import Path

import psycopg
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import process  # noqa: E402


@pytest.fixture(scope="module")
def server():
    """A running server with an empty data dir."""
    if not process.binary().exists():
        pytest.fail(f"no server binary at {process.binary()}: build it, or set THALWEG_BIN")
    running = process.Server()
    try:
        yield running.start()
    finally:
        running.close()


def service(name, start):
    """Starts a real service and stops it; skipped visibly when it cannot be had, unless CI requires it."""
    try:
        running = start()
    except process.Unavailable as error:
        if os.environ.get("THALWEG_REQUIRE_SERVICES") == "1":
            pytest.fail(str(error))
        pytest.skip(f"SKIPPED, no {name} here: {error}")
    try:
        yield running
    finally:
        running.close()


@pytest.fixture(scope="module")
def session(server, kafka):
    """A function that runs SQL on a server that has a broker; it finds the server again after a restart."""

    def run(text):
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            cursor = connection.execute(text)
            return cursor.fetchall() if cursor.description else None

    return run


@pytest.fixture(scope="session")
def hbase():
    """A real HBase."""
    yield from service("HBase", process.HBase)


@pytest.fixture(scope="module")
def hbase_others():
    """A real HBase with gateways of other kinds, and a region server that can die alone."""
    yield from service("HBase", lambda: process.HBase("--others"))


@pytest.fixture(scope="module")
def hdfs():
    """A real HDFS."""
    yield from service("HDFS", process.Hdfs)


@pytest.fixture(scope="module")
def s3():
    """S3 as moto has it."""
    yield from service("S3", process.S3)


@pytest.fixture(scope="module")
def azure():
    """Azure Blob Storage as azurite has it."""
    yield from service("Azure", process.Azure)


@pytest.fixture(scope="session")
def kafka():
    """A real broker."""
    yield from service("Kafka", process.Kafka)
