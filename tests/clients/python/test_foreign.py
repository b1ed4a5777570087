"""Drivers of other languages: node-postgres, pgjdbc and the Flight SQL JDBC driver, each as a program of its own.

What they need is fetched into the clients' cache once. Where that cannot be done they are skipped, visibly, unless CI requires them.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import process

sys.path.insert(0, str(process.SERVICES))
import fetched  # noqa: E402
import maven  # noqa: E402

CLIENTS = process.ROOT / "tests" / "clients"
CACHE = Path(os.environ.get("THALWEG_CLIENTS_CACHE", process.ROOT / ".cache" / "clients"))
PACKAGES = ["pg@8.13.1", "pg-cursor@2.12.1"]
JARS = {
    "pgjdbc": ["org.postgresql:postgresql:42.7.4"],
    "flight-jdbc": ["org.apache.arrow:flight-sql-jdbc-driver:18.1.0"],
}


def unavailable(reason):
    if os.environ.get("THALWEG_REQUIRE_SERVICES") == "1":
        pytest.fail(reason)
    pytest.skip(f"SKIPPED, {reason}")


def modules() -> Path:
    """A folder with node-postgres."""
    folder = CACHE / ("node-" + "-".join(PACKAGES).replace("@", "-"))
    if (folder / "ready").exists():
        return folder
    if not shutil.which("npm"):
        unavailable("no npm on the PATH")
    folder.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), *PACKAGES]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if result.returncode != 0:
        unavailable(f"npm cannot install {PACKAGES}: {result.stderr[-500:]}")
    (folder / "ready").touch()
    return folder


def jars(name: str) -> Path:
    """A folder with a driver's jars."""
    folder = CACHE / f"{name}-{JARS[name][0].rsplit(':', 1)[1]}"
    try:
        lib = fetched.complete(folder / "lib", lambda part: maven.fetch(name, JARS[name], part))
        maven.java()
    except fetched.Unavailable as error:
        unavailable(str(error))
    return lib


def run(command, **options):
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert result.returncode == 0 and result.stdout.strip().endswith("ok"), f"{result.stdout}\n{result.stderr}"


def test_node_postgres(server):
    folder = modules()
    run(["node", str(CLIENTS / "node" / "check.js"), str(server.pg_port)], env={**os.environ, "NODE_PATH": str(folder / "node_modules")})


def test_pgjdbc(server):
    lib = jars("pgjdbc")
    run([maven.java(), "-cp", f"{lib}/*", str(CLIENTS / "java" / "PgJdbc.java"), str(server.pg_port)])


def test_flight_jdbc(server):
    lib = jars("flight-jdbc")
    port = server.flight.rsplit(":", 1)[1]
    opens = "--add-opens=java.base/java.nio=ALL-UNNAMED"
    run([maven.java(), opens, "-cp", f"{lib}/*", str(CLIENTS / "java" / "FlightJdbc.java"), port])
