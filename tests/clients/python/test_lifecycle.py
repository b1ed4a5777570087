"""Start, stop, crash and abuse of the server process."""

import os
import socket
import subprocess
import urllib.request

import psycopg
import pytest

import process


@pytest.fixture
def own():
    server = process.Server()
    try:
        yield server.start()
    finally:
        server.close()


def test_sigterm_ends_in_time_with_code_0(own):
    with psycopg.connect(own.dsn(), autocommit=True) as connection:
        connection.execute("CREATE TABLE t (a int)")
        connection.execute("INSERT INTO t VALUES (1)")
        assert own.terminate() == 0


def test_ready_is_the_only_line_on_stdout(own):
    with psycopg.connect(own.dsn(), autocommit=True) as connection:
        connection.execute("SELECT 1")
    own.terminate()
    assert own.lines.get(timeout=60) == ""


def test_acknowledged_writes_survive_kill_9(own):
    with psycopg.connect(own.dsn(), autocommit=True) as connection:
        connection.execute("CREATE TABLE t (a int PRIMARY KEY, b text)")
        connection.execute("CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n, sum(a) AS s FROM t")
        connection.execute("CREATE MATERIALIZED VIEW mm AS SELECT n * 2 AS twice FROM m")
        for number in range(50):
            connection.execute("INSERT INTO t VALUES (%s, 'x')", (number,))
        connection.execute("DELETE FROM t WHERE a < 10")
    for _ in range(2):
        own.kill()
        own.start()
        with psycopg.connect(own.dsn(), autocommit=True) as connection:
            assert connection.execute("SELECT n, s FROM m").fetchone() == (40, sum(range(10, 50)))
            assert connection.execute("SELECT twice FROM mm").fetchone() == (80,)
            with pytest.raises(psycopg.errors.DuplicateTable):
                connection.execute("CREATE TABLE t (a int)")
    with psycopg.connect(own.dsn(), autocommit=True) as connection:
        connection.execute("INSERT INTO t VALUES (100, 'y')")
        assert connection.execute("SELECT n FROM m").fetchone() == (41,)


def test_a_second_server_on_the_same_data_is_refused(own):
    command = [process.binary(), "serve", "--data-dir", own.data_dir / "data", "--pg", "127.0.0.1:0", "--flight", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120)
    assert result.returncode == 1 and "ready" not in result.stdout
    with psycopg.connect(own.dsn()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_health_and_metrics(own):
    with urllib.request.urlopen(f"http://{own.http}/healthz", timeout=60) as answer:
        assert answer.status == 200
    with urllib.request.urlopen(f"http://{own.http}/metrics", timeout=60) as answer:
        assert b"# TYPE" in answer.read()


def test_random_bytes_on_every_port(own):
    seed = int(os.environ.get("THALWEG_SEED", int.from_bytes(os.urandom(4), "big")))
    print(f"replay: THALWEG_SEED={seed} pytest test_lifecycle.py -k random_bytes")
    import random

    generator = random.Random(seed)
    for address in (own.pg, own.flight, own.http):
        for size in (1, 4, 8, 100, 5000):
            host, port = address.rsplit(":", 1)
            with socket.create_connection((host, int(port)), timeout=60) as sock:
                try:
                    sock.sendall(generator.randbytes(size))
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(4096):
                        pass
                except OSError:  # The server may have closed first.
                    pass
    assert own.alive()
    with psycopg.connect(own.dsn()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_half_open_connections_do_not_block_others(own):
    host, port = own.pg.rsplit(":", 1)
    held = [socket.create_connection((host, int(port))) for _ in range(20)]
    held[0].sendall(b"\x00\x00")
    with psycopg.connect(own.dsn(), connect_timeout=60) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    for sock in held:
        sock.close()


def test_a_10_mb_statement_is_refused(own):
    with psycopg.connect(own.dsn(), autocommit=True) as connection:
        with pytest.raises(psycopg.errors.ProgramLimitExceeded):
            connection.execute("SELECT '" + "x" * 10_000_000 + "'")
        assert connection.execute("SELECT 1").fetchone() == (1,)
