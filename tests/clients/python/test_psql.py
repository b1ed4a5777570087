"""psql: its backslash commands are catalog queries that must answer."""

import subprocess

import psycopg
import pytest

import drivers

pytestmark = pytest.mark.skipif(not drivers.HAS_PSQL, reason="no psql on the PATH")


@pytest.fixture(scope="module", autouse=True)
def objects(server):
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("CREATE TABLE shelf (id int PRIMARY KEY, name text NOT NULL, price numeric(8,2) DEFAULT 1)")
        connection.execute("CREATE VIEW cheap AS SELECT id FROM shelf WHERE price < 2")
        connection.execute("CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM shelf")


def psql(server, *commands):
    """Runs commands; standard output. An error of any of them fails."""
    arguments = ["psql", server.dsn(), "-X", "-v", "ON_ERROR_STOP=1"]
    for command in commands:
        arguments += ["-c", command]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0 and "ERROR" not in result.stderr, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    "command, words",
    [
        ("\\d", ["shelf", "cheap", "counted"]),
        ("\\dt", ["shelf"]),
        ("\\dv", ["cheap"]),
        ("\\dm", ["counted"]),
        ("\\d shelf", ["id", "integer", "not null", "numeric(8,2)"]),
        ("\\d cheap", ["id"]),
        ("\\d counted", ["n", "bigint"]),
        ("\\d+ shelf", ["price"]),
        ("\\dn", ["public"]),
        ("\\l", ["thalweg"]),
        ("\\du", []),
        ("\\df", []),
        ("\\di", []),
        ("\\conninfo", ["thalweg"]),
    ],
)
def test_backslash_commands_answer(server, command, words):
    out = psql(server, command)
    for word in words:
        assert word in out


def test_statements_and_tags(server):
    out = psql(server, "INSERT INTO shelf VALUES (1, 'a'), (2, 'b')", "SELECT n FROM counted", "DELETE FROM shelf")
    assert "INSERT 0 2" in out and "DELETE 2" in out and "(1 row)" in out


def test_several_statements_in_one_string(server):
    assert "2" in psql(server, "SELECT 1; SELECT 2")


def test_copy_of_a_query_to_stdout_or_a_named_refusal(server):
    result = subprocess.run(["psql", server.dsn(), "-X", "-c", "COPY (SELECT 1) TO STDOUT"], capture_output=True, text=True, timeout=300)
    assert result.stdout == "1\n" or "COPY" in result.stderr
