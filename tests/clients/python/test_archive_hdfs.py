"""Archives on a real HDFS and what goes wrong around it: NameNodes that are dead, two servers with one folder, writers that are killed
while their files are open, and stores that take no bytes for a while. Rows are counted in the files that the manifests name.
"""

import json
import os
import shutil
import socket
import subprocess

import psycopg
import pytest

import process
from test_archive import Writer, rows_of

USER = os.environ.get("USER", "root")
# Longer than a client waits for a NameNode.
PATIENCE_S = 180


def options(hdfs, folder, **other):
    """Options of an archive in a folder of HDFS."""
    all = {"connector": "hdfs", "path": hdfs.url + folder, "user": USER} | {name.replace("_", "."): value for name, value in other.items()}
    return ", ".join(f"{name} = '{value}'" for name, value in all.items())


def found(hdfs, folder):
    """Ids in the files that the manifests name."""
    listed = {path.removeprefix(f"{folder}/") for path in hdfs.files(folder)}
    return rows_of(lambda path: hdfs.ask(f"{folder}/{path}", "OPEN"), listed)


def failure(server, text):
    """What a statement is refused with."""
    with pytest.raises(psycopg.Error) as error:
        server.sql(text)
    return error.value.diag


def add(files, ids):
    """More lines of the file that a source follows."""
    with open(files / "lines.json", "a") as lines:
        lines.write("".join(json.dumps({"id": id, "text": f"{id:09}" * 20}) + "\n" for id in ids))


def source(server):
    """A source over that file."""
    server.sql("CREATE SOURCE lines (id bigint, text text) WITH (connector = 'file', path = 'lines.json', follow = 'true')")


def sink(server, name):
    """State and error of what fills an archive."""
    return server.sql("SELECT state, error FROM sys.sinks WHERE name = %s", name)[0]


def configuration(folder, service, addresses):
    """A folder as Hadoop's own programs have it, with the NameNodes of a service."""
    folder.mkdir()

    def write(name, properties):
        text = "".join(f"<property><name>{key}</name><value>{value}</value></property>\n" for key, value in properties.items())
        (folder / name).write_text(f'<?xml version="1.0"?>\n<configuration>\n{text}</configuration>\n')

    names = [f"nn{number}" for number in range(len(addresses))]
    write("core-site.xml", {"fs.defaultFS": "hdfs://${dfs.nameservices}", "dfs.client.failover.sleep.base.millis": "50"})
    properties = {"dfs.nameservices": service, f"dfs.ha.namenodes.{service}": "\n  " + ", ".join(names) + "\n"}
    for name, address in zip(names, addresses):
        properties[f"dfs.namenode.rpc-address.{service}.{name}"] = address
    write("hdfs-site.xml", properties)
    return folder


def test_name_services_are_found_as_hadoop_finds_them(server, hdfs, tmp_path):
    live = hdfs.url.removeprefix("hdfs://")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead = "127.0.0.1:%d" % closed.getsockname()[1]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hangs = "127.0.0.1:%d" % silent.getsockname()[1]
        for number, first in enumerate((dead, hangs)):
            folder = configuration(tmp_path / f"conf{number}", "lake", [first, live])
            name, place = f"named{number}", f"/lake/named{number}"
            where = f"connector = 'hdfs', path = 'hdfs://lake{place}', user = '{USER}', hadoop.conf.dir = '{folder}'"
            server.sql(f"CREATE ARCHIVE {name} (id bigint, region text) WITH ({where})")
            server.sql(f"INSERT INTO {name} SELECT n, 'r' FROM generate_series(0, 99) n")
            assert server.sql(f"SELECT count(*), sum(id)::bigint FROM {name}") == [(100, 4950)]
            assert found(hdfs, place) == list(range(100))
            # A restart begins with the NameNode that does not answer again.
            server.kill()
            server.start()
            process.until(lambda: server.sql(f"INSERT INTO {name} VALUES (100, 'r')"), "a row more", PATIENCE_S)
            assert found(hdfs, place) == list(range(101))
    folder = tmp_path / "conf0"
    # The environment of the server says the same, and what the file system is when the path does not.
    other = process.Server({"HADOOP_CONF_DIR": str(folder)})
    try:
        other.start()
        for name, path in (("full", "hdfs://lake/lake/of_environment"), ("short", "/lake/of_default")):
            other.sql(f"CREATE ARCHIVE {name} (id bigint) WITH (connector = 'hdfs', path = '{path}', user = '{USER}')")
            other.sql(f"INSERT INTO {name} VALUES (1)")
        assert found(hdfs, "/lake/of_environment") == found(hdfs, "/lake/of_default") == [1]
    finally:
        other.close()
    for path, config, said in (
        ("hdfs://pond/lake/x", folder, 'name service "pond" is not known'),
        ("hdfs://lake/lake/x", tmp_path / "nowhere", "neither core-site.xml nor hdfs-site.xml"),
    ):
        where = f"connector = 'hdfs', path = '{path}', hadoop.conf.dir = '{config}'"
        told = failure(server, f"CREATE ARCHIVE x (id bigint) WITH ({where})")
        assert told.sqlstate == "22023" and said in told.message_primary and told.message_hint, told


def test_of_two_servers_the_one_that_took_over_last_writes(server, hdfs):
    folder = "/lake/two"
    server.sql(f"CREATE ARCHIVE two (id bigint, region text) WITH ({options(hdfs, folder)})")
    server.sql("INSERT INTO two VALUES (1, 'a')")
    other = process.Server()
    try:
        other.start()
        other.sql(f"CREATE ARCHIVE two (id bigint, region text) WITH ({options(hdfs, folder)}, attach = 'true')")
        other.sql("INSERT INTO two VALUES (2, 'a')")
        told = failure(server, "INSERT INTO two VALUES (-1, 'a')")
        assert (told.sqlstate, told.message_primary) == ("55000", f'archive "{hdfs.url}{folder}" has another writer')
        assert told.message_detail and told.message_hint
        assert [row[0] for row in server.sql("SELECT id FROM two ORDER BY 1")] == found(hdfs, folder) == [1, 2]
        # Both write while the first is killed and takes over again and again.
        server.kill()
        server.start()
        writers = [Writer(server, "two", 1_000), Writer(other, "two", 1_000_000)]
        for writer in writers:
            writer.start()
        for _ in range(3):
            before = sum(len(writer.done) for writer in writers)
            process.until(lambda: sum(len(writer.done) for writer in writers) > before + 10, "rows are written", PATIENCE_S)
            server.kill()
            server.start()
        for writer in writers:
            writer.end()
        there = [id for id in found(hdfs, folder) if id >= 1_000]
        writers[0].check([id for id in there if id < 1_000_000])
        writers[1].check([id for id in there if id >= 1_000_000])
    finally:
        other.close()


def test_a_fed_archive_that_another_server_took_over_stops_until_its_owner_resumes_it(server, hdfs):
    folder = "/lake/fed"
    add(server.files, range(100))
    source(server)
    server.sql(f"CREATE ARCHIVE fed FROM lines WITH ({options(hdfs, folder, rollover_interval='100 ms')})")
    server.sql("WAIT FOR fed")
    server.terminate()
    # A copy of the data dir, such as a restored backup, writes as the same archive.
    other = process.Server()
    try:
        shutil.copytree(server.data_dir / "data", other.data_dir / "data")
        server.start()
        add(server.files, range(100, 200))
        server.sql("WAIT FOR fed")
        shutil.copy(server.files / "lines.json", other.files / "lines.json")
        other.start()
        # It finds more than it knows of.
        said = process.until(lambda: sink(other, "fed")[1], "the copy says what is wrong", PATIENCE_S)
        assert "does not know of" in said
        process.until(lambda: add(server.files, [server.sql("SELECT count(*) FROM lines")[0][0]]) or sink(server, "fed")[1], "it is shut out", PATIENCE_S)
        process.until(lambda: "another server delivers" in sink(server, "fed")[1], "it waits for its owner", PATIENCE_S)
        lines = server.sql("SELECT count(*) FROM lines")[0][0]
        held = found(hdfs, folder)
        assert held == list(range(len(held))) and 200 <= len(held) <= lines
        other.kill()
        server.sql("ALTER ARCHIVE fed RESUME")
        add(server.files, [lines])
        server.sql("WAIT FOR fed")
        assert found(hdfs, folder) == list(range(lines + 1))
        assert server.sql("SELECT count(*), count(DISTINCT id) FROM HYBRID(fed, lines)") == [(lines + 1, lines + 1)]
    finally:
        other.close()
        server.sql("DROP ARCHIVE fed")
        server.sql("DROP SOURCE lines")
        (server.files / "lines.json").unlink()


def test_files_that_a_killed_server_had_open_hold_up_nobody_and_are_swept(server, hdfs):
    folder = "/lake/open"
    add(server.files, range(3_000))
    source(server)
    # Rows of many partitions are written and wait for their commit.
    where = options(hdfs, folder, rollover_interval="1 hour")
    server.sql(f"CREATE ARCHIVE kept FROM lines PARTITION BY (id % 20 AS part) WITH ({where}) ENCODE PARQUET (row.group.rows = '50')")
    server.sql("WAIT FOR kept")
    expected = 3_000
    for round in range(2):
        add(server.files, range(expected, expected + 3_000))
        expected += 3_000

        def staged():
            return [path for path in hdfs.files(folder) if "/_staging/" in path and path.endswith(".parquet")]

        left = set(process.until(staged, "files are being written", PATIENCE_S))
        server.kill()
        assert left <= set(staged()), "nobody has closed or removed them"
        server.start()
        server.sql("WAIT FOR kept")
        assert found(hdfs, folder) == list(range(expected))
        assert not left & set(hdfs.files(folder)), f"round {round}: what the killed server left is gone"
    visible = [path for path in hdfs.files(folder) if path.endswith(".parquet") and "/_" not in path]
    assert len(visible) == server.sql("SELECT count(*) FROM sys.archive_files WHERE archive = 'kept'")[0][0]
    server.sql("DROP ARCHIVE kept")
    server.sql("DROP SOURCE lines")
    (server.files / "lines.json").unlink()


def goes_on_by_itself(server, name, count, stop, resume):
    """While a store takes no bytes an archive says so, and later it goes on. Tells how many rows there are then."""
    stop()
    try:
        add(server.files, range(count, count + 20_000))

        def error():
            state, said = sink(server, name)
            assert state != "FAILED"
            return said

        said = process.until(error, "it says what is wrong", 600)
        assert server.sql("SELECT 1") == [(1,)], "nobody else waits"
    finally:
        resume()
    count += 20_000
    process.until(lambda: sink(server, name)[1] is None, "it goes on", PATIENCE_S)
    process.until(lambda: server.sql(f"WAIT FOR {name}") is not None, "everything is there", PATIENCE_S)
    assert server.sql(f"SELECT count(*), count(DISTINCT id) FROM {name}") == [(count, count)]
    return count, said


def test_an_archive_waits_for_data_nodes(server, hdfs):
    folder = "/lake/waits"
    add(server.files, range(10))
    source(server)
    server.sql(f"CREATE ARCHIVE waits FROM lines WITH ({options(hdfs, folder, rollover_interval='500 ms')})")
    server.sql("WAIT FOR waits")
    count, said = goes_on_by_itself(server, "waits", 10, lambda: hdfs.verb("kill", "datanode"), lambda: hdfs.verb("restart", "datanode"))
    assert "could not" in said
    assert found(hdfs, folder) == list(range(count))
    server.sql("DROP ARCHIVE waits")
    server.sql("DROP SOURCE lines")
    (server.files / "lines.json").unlink()


def test_an_archive_waits_for_room_on_a_local_disk(server):
    folder = server.files / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"SKIPPED, no small disk can be made here: {mounted.stderr.strip()}")
    ballast = folder / "ballast"
    try:
        add(server.files, range(10))
        source(server)
        where = "connector = 'file', path = 'small/rows', rollover.interval = '500 ms'"
        server.sql(f"CREATE ARCHIVE small FROM lines WITH ({where}) ENCODE PARQUET (compression = 'none', row.group.rows = '100')")
        server.sql("WAIT FOR small")

        def fill():
            with open(ballast, "wb", buffering=0) as file, pytest.raises(OSError):
                while True:
                    file.write(b"x" * 4096)

        _, said = goes_on_by_itself(server, "small", 10, fill, ballast.unlink)
        assert "could not" in said
        state = server.sql("SELECT count(*) FROM sys.errors WHERE reason = '53100'")
        assert state[0][0] > 0
        server.sql("DROP ARCHIVE small")
    finally:
        server.sql("DROP SOURCE lines CASCADE")
        subprocess.run(["umount", "-l", str(folder)], check=False)
        (server.files / "lines.json").unlink()
