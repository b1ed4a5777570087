"""CREATE SINK ... INTO a table through killed servers: every row once, whatever was in flight."""

import psycopg

import process

ROWS = 12000


def session(server, text):
    """Runs SQL on a connection of its own."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        cursor = connection.execute(text)
        return cursor.fetchall() if cursor.description else None


def test_rows_of_a_stream_are_in_the_table_once(server):
    session(
        server,
        "CREATE SOURCE numbers (id bigint, k int) WITH (connector = 'datagen', rows = "
        f"{ROWS}, rows_per_second = 2500, fields.id.kind = 'sequence', fields.id.start = 1, fields.k.kind = 'random', fields.k.start = 0, fields.k.end = 20)",
    )
    session(server, "CREATE TABLE history (id bigint, k int)")
    session(server, "CREATE TABLE newest (k int PRIMARY KEY, n bigint, top bigint)")
    session(server, "CREATE SINK keep INTO history AS SELECT id, k FROM numbers WHERE id > 0")
    session(server, "CREATE SINK fold INTO newest AS SELECT k, count(*) AS n, max(id) AS top FROM numbers GROUP BY k")
    count = lambda: session(server, "SELECT count(*) FROM history")[0][0]
    seen = 0
    for part in (1, 2, 3):
        seen = process.until(lambda: count() >= part * ROWS // 4 and count(), "the table grows", 60)
        server.kill()
        server.start()
        assert count() >= seen, "what was shown stays"
    process.until(lambda: count() >= ROWS, "all rows", 120)
    session(server, "WAIT FOR keep")
    session(server, "WAIT FOR fold")
    assert session(server, "SELECT count(*), count(DISTINCT id), min(id), max(id) FROM history") == [(ROWS, ROWS, 1, ROWS)]
    difference = "SELECT count(*) FROM (SELECT k, count(*) AS n, max(id) AS top FROM history GROUP BY k) h FULL JOIN newest w ON h.k = w.k WHERE h.n IS DISTINCT FROM w.n OR h.top IS DISTINCT FROM w.top"
    assert session(server, difference) == [(0,)]


def test_a_file_is_followed_through_a_kill(server):
    path = server.files / "log.json"
    path.write_text("")
    write = lambda low, high: path.open("a").write("".join(f'{{"n": {n}}}\n' for n in range(low, high)))
    session(server, "CREATE SOURCE log (n int) WITH (connector = 'file', path = '*.json', follow = 'true')")
    session(server, "CREATE MATERIALIZED VIEW lines AS SELECT count(*) AS rows, count(DISTINCT n) AS n FROM log")
    write(0, 1000)
    rows = lambda: session(server, "SELECT rows, n FROM lines")
    process.until(lambda: rows() == [(1000, 1000)], "the first lines")
    with path.open("a") as file:
        file.write('{"n": 10')
    server.kill()
    with path.open("a") as file:
        file.write("00}\nnonsense\n")
    (server.files / "later.json").write_text('{"n": 5000}\n')
    server.start()
    process.until(lambda: rows() == [(1002, 1002)], "the line that was cut in two, and another file")
    write(2000, 2500)
    process.until(lambda: rows() == [(1502, 1502)], "more lines")
    assert session(server, "SELECT topic, convert_from(payload, 'UTF8') FROM log_errors") == [("log.json", "nonsense")]
