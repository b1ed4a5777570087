"""Fixtures: a server per test file, a broker per session, and one way to read rows with every driver."""

import os
import sys
from pathlib import Path

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


@pytest.fixture(scope="module")
def hbase():
    """A real HBase; skipped visibly when it cannot be had, unless CI requires it."""
    try:
        running = process.HBase()
    except process.Unavailable as error:
        if os.environ.get("THALWEG_REQUIRE_SERVICES") == "1":
            pytest.fail(str(error))
        pytest.skip(f"SKIPPED, no HBase here: {error}")
    try:
        yield running
    finally:
        running.close()


@pytest.fixture(scope="module")
def hdfs():
    """A real HDFS; skipped visibly when it cannot be had, unless CI requires it."""
    try:
        running = process.Hdfs()
    except process.Unavailable as error:
        if os.environ.get("THALWEG_REQUIRE_SERVICES") == "1":
            pytest.fail(str(error))
        pytest.skip(f"SKIPPED, no HDFS here: {error}")
    try:
        yield running
    finally:
        running.close()


@pytest.fixture(scope="session")
def kafka():
    """A real broker; skipped visibly when it cannot be had, unless CI requires it."""
    try:
        broker = process.Kafka()
    except process.Unavailable as error:
        if os.environ.get("THALWEG_REQUIRE_SERVICES") == "1":
            pytest.fail(str(error))
        pytest.skip(f"SKIPPED, no Kafka here: {error}")
    try:
        yield broker
    finally:
        broker.close()
