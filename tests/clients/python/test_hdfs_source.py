"""File sources on HDFS: the rows and dead letters of the same files on disk, through kills of the NameNode and of the server.

THALWEG_SEED says when the kills come.
"""

import io
import json
import os
import random
import time

import psycopg
import pyarrow
import pyarrow.parquet
import pytest

import process

SEED = int(os.environ.get("THALWEG_SEED", "7"))
COLUMNS = "id bigint, t text, at timestamptz"


def lines(ids, width=0):
    """JSON lines of these ids."""
    return "".join(json.dumps({"id": id, "t": f"r{id % 7}" + "x" * width}) + "\n" for id in ids).encode()


def parquet(ids):
    """A Parquet file of these ids."""
    content = io.BytesIO()
    table = pyarrow.table({"id": pyarrow.array(ids, pyarrow.int64()), "t": [f"r{id % 7}" for id in ids]})
    pyarrow.parquet.write_table(table, content, row_group_size=300)
    return content.getvalue()


FILES = {
    "json": {
        "2026/a.json": lines(range(100)) + b'{"id": "many"}\n' + lines(range(100, 200)),
        "2026/11/b.json": lines(range(200, 1000)) + b"not json\n{}",
        "2026/11/_temporary/0/c.json": lines([-1]),
        "2026/.d.json": lines([-1]),
        "2026/e.text": lines([-1]),
    },
    "csv": {
        "2026/a.csv": b'T,id\n"two\nlines",1\n,2\nx,many\n',
        "2026/11/b.csv": b"id,t,at\n3,,2026-11-22 10:00:00+01\n4,y\n5,z,soon\n",
    },
    "parquet": {
        "2026/a.parquet": parquet(range(1000)),
        "2026/11/b.parquet": parquet(range(1000, 1010)),
        "2026/11/c.parquet": b"no Parquet at all" * 9,
    },
}


@pytest.mark.parametrize("format", FILES)
@pytest.mark.parametrize("follow", ["false", "true"])
def test_files_are_what_they_are_on_disk(server, hdfs, format, follow):
    name = f"{format}_{follow}"
    for path, content in FILES[format].items():
        # What others have not finished is passed over on HDFS, where it is usual.
        if "_temporary" not in path:
            local = server.files / name / path
            local.parent.mkdir(parents=True, exist_ok=True)
            local.write_bytes(content)
        hdfs.write(f"/logs/{name}/{path}", content)
    options = f"format = '{format}', follow = '{follow}'"
    user = os.environ.get("USER", "root")
    server.sql(f"CREATE SOURCE disk_{name} ({COLUMNS}) WITH (connector = 'file', path = '{name}/**/*.{format}', {options})")
    server.sql(
        f"CREATE SOURCE hdfs_{name} ({COLUMNS}) WITH (connector = 'file', path = '{hdfs.url}/logs/{name}/**/*.{format}', "
        f"user = '{user}', {options})",
    )
    found = {}
    for place in ("disk", "hdfs"):
        source = f"{place}_{name}"
        read = server.sql(f"SELECT id, t, at FROM {source} ORDER BY id, t")
        server.sql(f"CREATE MATERIALIZED VIEW kept_{source} AS SELECT id, t, at FROM {source}")
        assert server.sql(f"SELECT id, t, at FROM kept_{source} ORDER BY id, t") == read

        def letters():
            letters = server.sql(f'SELECT topic, "offset", reason, message, payload FROM {source}_errors ORDER BY 1, 2')
            return [(letter[0].removeprefix("/logs/"), letter[1], letter[2], letter[3].replace("/logs/", ""), letter[4]) for letter in letters]

        found[place] = (read, process.until(letters, "dead letters"))
    assert found["hdfs"] == found["disk"]
    assert len(found["hdfs"][0]) > 3 and not [row for row in found["hdfs"][0] if row[0] == -1]


def test_a_folder_that_is_followed_through_kills(server, hdfs):
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    next_id = 0

    def ids(count):
        nonlocal next_id
        next_id += count
        return range(next_id - count, next_id)

    # One of them is long enough that a kill comes in the middle of it.
    hdfs.write("/live/a.json", lines(ids(20_000), width=200))
    for number in range(10):
        hdfs.write(f"/live/b{number}.json", lines(ids(500)))
    options = "follow = 'true', source_rate_limit = '6000'"
    server.sql(f"CREATE SOURCE live (id bigint, t text) WITH (connector = 'file', path = '{hdfs.url}/live/*.json', {options})")
    server.sql("CREATE MATERIALIZED VIEW by_text AS SELECT substr(t, 1, 2) AS t, count(*) AS n, sum(id) AS ids FROM live GROUP BY 1")

    def all_of_it():
        found = server.sql("SELECT sum(n)::bigint, sum(ids)::bigint FROM by_text")
        return found == [(next_id, next_id * (next_id - 1) // 2)]

    def state():
        return server.sql("SELECT state FROM sys.sources WHERE name = 'live'")[0][0]

    time.sleep(chance.random())
    for victim in ["namenode", "server", "datanode", "server", "namenode"]:
        if victim == "server":
            server.kill()
            server.start()
        else:
            hdfs.verb("kill", victim)
            time.sleep(chance.random() * 3)
            # The server answers meanwhile.
            assert server.sql("SELECT 1") == [(1,)]
            hdfs.verb("restart", victim)
        time.sleep(chance.random())
        process.until(lambda: hdfs.write("/live/probe", b"") is None, "HDFS takes files", 120)
        hdfs.write(f"/live/c{next_id}.json", lines(ids(300)))
        hdfs.write("/live/b0.json", lines(ids(7)), append=True)
    process.until(all_of_it, f"{next_id} rows", 120)
    # Now that all was read: an outage is said, nothing changes, and what comes after it is read.
    process.until(lambda: state() == "RUNNING", "the source runs")
    hdfs.verb("kill", "namenode")
    process.until(lambda: state() == "ERROR", "the outage is said")
    assert all_of_it()
    hdfs.verb("restart", "namenode")
    process.until(lambda: hdfs.write("/live/b1.json", lines(range(next_id, next_id + 5)), append=True) is None, "HDFS takes files", 120)
    ids(5)
    process.until(lambda: all_of_it() and state() == "RUNNING", f"{next_id} rows", 120)
    assert server.sql("SELECT count(*) FROM live_errors") == [(0,)]


def test_a_file_that_is_gone_is_said_and_the_name_node_is_needed_at_the_beginning(server, hdfs):
    for name in ("a", "b"):
        hdfs.write(f"/gone/{name}.json", lines(range(10)))
    source = f"WITH (connector = 'file', path = '{hdfs.url}/gone/*.json')"
    server.sql(f"CREATE SOURCE gone (id bigint) {source}")
    hdfs.delete("/gone/b.json")
    server.sql("CREATE MATERIALIZED VIEW left_over AS SELECT id FROM gone")

    def said():
        try:
            return not server.sql("SELECT count(*) FROM left_over")
        except psycopg.Error as error:
            return "/gone/b.json" in f"{error} {error.diag.message_detail}"

    process.until(said, "what is missing")
    # Nothing is shown rather than half of it; when the file is back all of it is there.
    hdfs.write("/gone/b.json", lines(range(10)))
    process.until(lambda: server.sql("SELECT count(*) FROM left_over") == [(20,)], "all rows")
    with pytest.raises(psycopg.Error) as refused:
        server.sql(f"CREATE SOURCE none (id bigint) WITH (connector = 'file', path = '{hdfs.url}/nothing/*.json')")
    assert refused.value.sqlstate == "58P01"
    hdfs.verb("kill", "namenode")
    with pytest.raises(psycopg.Error) as refused:
        server.sql(f"CREATE SOURCE away (id bigint) {source}")
    assert refused.value.sqlstate == "08006"
    hdfs.verb("restart", "namenode")
