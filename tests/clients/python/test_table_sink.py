"""CREATE SINK ... INTO a table through killed servers: every row once, whatever was in flight."""

import process

ROWS = 12000


def test_rows_of_a_stream_are_in_the_table_once(server):
    server.sql(
        "CREATE SOURCE numbers (id bigint, k int) WITH (connector = 'datagen', rows = "
        f"{ROWS}, rows_per_second = 2500, fields.id.kind = 'sequence', fields.id.start = 1, fields.k.kind = 'random', fields.k.start = 0, fields.k.end = 20)",
    )
    server.sql("CREATE TABLE history (id bigint, k int)")
    server.sql("CREATE TABLE newest (k int PRIMARY KEY, n bigint, top bigint)")
    server.sql("CREATE SINK keep INTO history AS SELECT id, k FROM numbers WHERE id > 0")
    server.sql("CREATE SINK fold INTO newest AS SELECT k, count(*) AS n, max(id) AS top FROM numbers GROUP BY k")
    count = lambda: server.sql("SELECT count(*) FROM history")[0][0]
    seen = 0
    for part in (1, 2, 3):
        seen = process.until(lambda: count() >= part * ROWS // 4 and count(), "the table grows", 60)
        server.kill()
        server.start()
        assert count() >= seen, "what was shown stays"
    process.until(lambda: count() >= ROWS, "all rows", 120)
    server.sql("WAIT FOR keep")
    server.sql("WAIT FOR fold")
    assert server.sql("SELECT count(*), count(DISTINCT id), min(id), max(id) FROM history") == [(ROWS, ROWS, 1, ROWS)]
    difference = "SELECT count(*) FROM (SELECT k, count(*) AS n, max(id) AS top FROM history GROUP BY k) h FULL JOIN newest w ON h.k = w.k WHERE h.n IS DISTINCT FROM w.n OR h.top IS DISTINCT FROM w.top"
    assert server.sql(difference) == [(0,)]


def test_a_file_is_followed_through_a_kill(server):
    path = server.files / "log.json"
    path.write_text("")
    write = lambda low, high: path.open("a").write("".join(f'{{"n": {n}}}\n' for n in range(low, high)))
    server.sql("CREATE SOURCE log (n int) WITH (connector = 'file', path = '*.json', follow = 'true')")
    server.sql("CREATE MATERIALIZED VIEW lines AS SELECT count(*) AS rows, count(DISTINCT n) AS n FROM log")
    write(0, 1000)
    rows = lambda: server.sql("SELECT rows, n FROM lines")
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
    assert server.sql("SELECT topic, convert_from(payload, 'UTF8') FROM log_errors") == [("log.json", "nonsense")]
