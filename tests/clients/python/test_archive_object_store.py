"""CREATE ARCHIVE on S3 (moto) and Azure (azurite): read by pyarrow's own clients, through kills of the server and outages of the store.

THALWEG_ARCHIVE_KILLS says how often the server is killed, THALWEG_SEED when.
"""

import io
import random
import threading
import time

import psycopg
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet
import pytest

import process
from test_archive import KILLS, SEED, Writer, rows_of
from test_kafka_exactly_once import Feed


@pytest.fixture(params=["s3", "azure"])
def store(request):
    """Each of the stores."""
    return request.getfixturevalue(request.param)


def files(store, folder):
    """Every object below a folder, by its path there, with its length."""
    base = f"{store.bucket}/{folder}"
    found = store.files().get_file_info(pyarrow.fs.FileSelector(base, recursive=True, allow_not_found=True))
    return {one.path.removeprefix(base + "/"): one.size for one in found if one.is_file}


def read(store, folder, path):
    """The bytes of an object."""
    with store.files().open_input_stream(f"{store.bucket}/{folder}/{path}") as stream:
        return stream.read()


def by_manifests(store, folder, columns=("id",)):
    """The rows in the files that the manifests name."""
    return rows_of(lambda path: read(store, folder, path), set(files(store, folder)), columns)


def by_listing(store, folder):
    """The ids that a program finds which lists the folders."""
    base = f"{store.bucket}/{folder}"
    table = pyarrow.dataset.dataset(base, filesystem=store.files(), format="parquet", partitioning="hive").to_table(columns=["id"])
    return sorted(table.column("id").to_pylist())


def by_us(server, name):
    return [row[0] for row in server.sql(f"SELECT id FROM {name} ORDER BY id")]


def refused(server, text):
    """What a statement is refused with: SQLSTATE, message, detail and hint."""
    with pytest.raises(psycopg.Error) as error:
        server.sql(text)
    told = error.value.diag
    print(f"{told.sqlstate}: {told.message_primary} | {told.message_detail} | {told.message_hint}")
    return told


def test_rows_come_back_and_other_programs_read_them(server, store):
    folder = "lake/all"
    server.sql(
        "CREATE ARCHIVE lake_all (id bigint, region text, body text) PARTITION BY (region) "
        f"WITH ({store.options(folder)}) ENCODE PARQUET (compression = 'none')",
    )
    assert server.sql("SELECT count(*) FROM lake_all") == [(0,)]
    server.sql(
        "INSERT INTO lake_all SELECT n, CASE n % 3 WHEN 0 THEN 'a/b c' WHEN 1 THEN NULL ELSE 'ä%' END, 'x' FROM generate_series(0, 999) n",
    )
    assert server.sql("SELECT count(*), sum(id)::bigint FROM lake_all") == [(1000, 499500)]
    assert server.sql("SELECT count(*) FROM lake_all WHERE region = 'a/b c'") == [(334,)]
    assert by_manifests(store, folder) == by_listing(store, folder) == list(range(1000))
    # A file of several parts.
    server.sql(
        "INSERT INTO lake_all SELECT n, 'large', repeat(md5(n::text), 100) FROM generate_series(1000, 4999) n",
    )
    told = {row[0]: row[1] for row in server.sql("SELECT path, bytes FROM sys.archive_files WHERE archive = 'lake_all'")}
    found = files(store, folder)
    assert told == {path: size for path, size in found.items() if not path.startswith("_")}
    assert max(told.values()) > 11 << 20
    assert by_manifests(store, folder) == by_listing(store, folder) == list(range(5000))
    assert server.sql("SELECT count(*), count(DISTINCT body), min(length(body)) FROM lake_all WHERE id >= 1000") == [(4000, 4000, 3200)]
    server.kill()
    server.start()
    assert by_us(server, "lake_all") == list(range(5000))
    server.sql("INSERT INTO lake_all VALUES (5000, 'a/b c', NULL)")
    assert by_listing(store, folder) == list(range(5001))
    # DROP leaves everything; who goes on says so.
    server.sql("DROP ARCHIVE lake_all")
    columns = "id bigint, region text, body text"
    create = f"CREATE ARCHIVE lake_all ({columns}) PARTITION BY (region) WITH ({store.options(folder)}"
    assert refused(server, create + ")").sqlstate == "42710"
    server.sql(create + ", attach = 'true')")
    assert by_us(server, "lake_all") == list(range(5001))
    server.sql("DROP ARCHIVE lake_all")


def test_no_secret_is_shown(server, store):
    server.sql(f"CREATE ARCHIVE hidden (id bigint) WITH ({store.options('lake/hidden')})")
    shown = str(server.sql("SHOW CREATE ARCHIVE hidden")) + str(server.sql("SELECT * FROM sys.archive_files"))
    assert store.secret not in shown and "[redacted]" in shown
    assert store.secret not in server.log_tail(100_000)
    server.sql("DROP ARCHIVE hidden")


def test_closed_partitions_and_vacuum(server, store):
    folder = "lake/closed"
    server.sql(
        "CREATE ARCHIVE closed (id bigint, region text) PARTITION BY (region) "
        f"WITH ({store.options(folder)}, partition.close.grace = '2 s', reader.grace = '0 s')",
    )
    for first in range(0, 40, 10):
        server.sql(f"INSERT INTO closed SELECT n, 'r' || n % 3 FROM generate_series({first}, {first + 9}) n")

    def found(part):
        return [path for path in files(store, folder) if part in path]

    process.until(lambda: len(found("/_SUCCESS")) == 3, "all partitions have markers")
    assert server.sql("SELECT count(*) FROM sys.archive_files WHERE archive = 'closed'") == [(3,)]
    server.sql("INSERT INTO closed VALUES (40, 'r1')")
    assert len(found("/_SUCCESS")) == 2
    server.sql("VACUUM ARCHIVE closed")
    assert server.sql("SELECT count(*) FROM sys.archive_files WHERE archive = 'closed'") == [(3,)]
    assert by_manifests(store, folder) == by_listing(store, folder) == by_us(server, "closed") == list(range(41))
    process.until(lambda: len(found("/_SUCCESS")) == 3 and not found("_replaced/"), "the partition is closed again")
    assert len([path for path in found(".parquet") if not path.startswith("_")]) == 3
    server.sql("DROP ARCHIVE closed")


def test_no_kill_of_the_server_loses_or_doubles_a_row(server, store):
    folder = "lake/crash"
    server.sql(f"CREATE ARCHIVE crash (id bigint, region text) PARTITION BY (region) WITH ({store.options(folder)})")
    writer = Writer(server, "crash")
    writer.start()
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    for _ in range(KILLS):
        before = len(writer.done)
        process.until(lambda: len(writer.done) > before + 10, "rows are written", 120)
        time.sleep(chance.random() * 0.3)
        server.kill()
        server.start()
    writer.end()
    server.sql("INSERT INTO crash VALUES (-1, 'last')")
    found = by_manifests(store, folder)
    assert found[0] == -1
    writer.check(found[1:])
    assert by_us(server, "crash") == found
    # What dead writers left is gone, so whoever lists the folders reads the same.
    assert by_listing(store, folder) == found
    server.sql("DROP ARCHIVE crash")


def test_a_source_through_kills_and_an_outage(server, store, kafka):
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    folder, topic = "lake/history", f"history-{store.service}"
    kafka.topic(topic, 3)
    server.sql(
        "CREATE SOURCE history (key bigint, seq bigint, sum bigint) "
        f"WITH (connector = 'kafka', topic = '{topic}', properties.bootstrap.server = '{kafka.bootstrap}') FORMAT PLAIN ENCODE JSON",
    )
    server.sql(
        "CREATE ARCHIVE kept FROM history PARTITION BY (key % 4 AS part) "
        f"WITH ({store.options(folder)}, rollover.interval = '1 s')",
    )

    def trouble():
        return server.sql("SELECT error FROM sys.sinks WHERE name = 'kept'")[0][0]

    produced = {}
    for victim in ["server"] * KILLS + ["store"]:
        feed = Feed(kafka.bootstrap, topic, produced)
        time.sleep(1 + chance.random())
        if victim == "server":
            server.kill()
            server.start()
        else:
            store.verb("pause")
            told = process.until(trouble, "the outage is told", 240)
            print(f"told of the outage: {told}")
            store.verb("resume")
            process.until(lambda: trouble() is None, "the archive goes on", 240)
        produced = feed.end()
        total = sum(produced.values())

        def both():
            return server.sql("SELECT count(*), count(DISTINCT key * 1000000 + seq) FROM HYBRID(kept, history)")[0]

        process.until(lambda: both() == (total, total), f"{total} rows in archive and source", 120)
    server.sql("WAIT FOR kept")
    expected = [(key, seq) for key, last in sorted(produced.items()) for seq in range(1, last + 1)]
    assert by_manifests(store, folder, ("key", "seq")) == expected
    server.sql("VACUUM ARCHIVE kept")
    assert by_manifests(store, folder, ("key", "seq")) == expected
    assert server.sql("SELECT count(*) FROM kept") == [(len(expected),)]
    visible = [path for path in files(store, folder) if path.endswith(".parquet") and not path.startswith("_")]
    tables = [pyarrow.parquet.read_table(io.BytesIO(read(store, folder, path)), columns=["key", "seq"]) for path in visible]
    assert sorted(row for table in tables for row in zip(*table.to_pydict().values())) == expected
    server.sql("DROP ARCHIVE kept")
    server.sql("DROP SOURCE history")


def test_of_two_servers_the_one_that_wrote_last_writes(server, s3):
    folder = "lake/two"
    table = "CREATE ARCHIVE two (id bigint) WITH "
    server.sql(f"{table} ({s3.options(folder)})")
    server.sql("INSERT INTO two VALUES (1)")
    # The other one has its credentials from its environment.
    other = process.Server(s3.environment())
    try:
        other.start()
        without = s3.options(folder, access_key_id=None, secret_access_key=None)
        other.sql(f"{table} ({without}, attach = 'true')")
        other.sql("INSERT INTO two VALUES (2)")
        told = refused(server, "INSERT INTO two VALUES (-1)")
        assert (told.sqlstate, told.message_primary) == ("55000", f'archive "{s3.path(folder)}" has another writer')
        other.sql("INSERT INTO two VALUES (3)")
        assert by_us(server, "two") == by_us(other, "two") == by_manifests(s3, folder) == [1, 2, 3]
        # Both at once, again and again: who is refused for certain is not there, who is acknowledged is.
        server.kill()
        server.start()
        writers = [Writer(server, "two2", 1_000), Writer(other, "two2", 1_000_000)]
        create = "CREATE ARCHIVE two2 (id bigint, region text) WITH "
        server.sql(f"{create} ({s3.options('lake/two2')})")
        other.sql(f"{create} ({s3.options('lake/two2', access_key_id=None, secret_access_key=None)})")
        for writer in writers:
            writer.start()
        for _ in range(3):
            done = sum(len(writer.done) for writer in writers)
            process.until(lambda: sum(len(writer.done) for writer in writers) > done + 10, "rows are written", 120)
            server.kill()
            server.start()
        for writer in writers:
            writer.end()
        found = by_manifests(s3, "lake/two2")
        first, second = ([id for id in found if (id < 1_000_000) == ours] for ours in (True, False))
        writers[0].check(first)
        writers[1].check(second)
        # Which of them writes more is a matter of luck.
        assert found
    finally:
        other.close()
        server.sql("DROP ARCHIVE two")
        server.sql("DROP ARCHIVE two2")


def test_an_insert_waits_through_a_short_outage(server, store):
    folder = "lake/outage"
    server.sql(f"CREATE ARCHIVE outage (id bigint) WITH ({store.options(folder)})")
    store.verb("pause")
    done = threading.Event()

    def insert():
        server.sql("INSERT INTO outage VALUES (1)")
        done.set()

    thread = threading.Thread(target=insert)
    thread.start()
    assert not done.wait(3)
    store.verb("resume")
    thread.join(60)
    assert done.is_set()
    assert by_us(server, "outage") == by_manifests(store, folder) == [1]
    server.sql("DROP ARCHIVE outage")


def test_what_s3_refuses_is_told(server, s3):
    create = "CREATE ARCHIVE wrong (id bigint) WITH "
    told = refused(server, f"{create} ({s3.options('x', path='s3://nowhere/x')})")
    assert (told.sqlstate, told.message_detail) == ("58P01", "NoSuchBucket: The specified bucket does not exist")
    told = refused(server, f"{create} ({s3.options('x', access_key_id='nobody')})")
    assert told.sqlstate == "42501" and told.message_detail.startswith("InvalidAccessKeyId: ")
    assert "s3.access.key.id" in told.message_hint
    told = refused(server, f"{create} ({s3.options('x', secret_access_key='hunter2')})")
    assert told.sqlstate == "42501" and told.message_detail.startswith("SignatureDoesNotMatch: ")
    told = refused(server, f"{create} ({s3.options('x', endpoint='http://127.0.0.1:9')})")
    assert told.sqlstate == "08006" and "refused" in told.message_detail
    told = refused(server, f"{create} ({s3.options('x', allow_http=None)})")
    assert told.sqlstate == "22023" and "s3.allow.http" in told.message_hint
    told = refused(server, f"{create} ({s3.options('x', secret_access_key=None)})")
    assert told.sqlstate == "22023"
    told = refused(server, f"{create} ({s3.options('x', acces_key_id='x')})")
    assert told.sqlstate == "22023" and told.message_hint == 'Perhaps you meant "s3.access.key.id".'
    assert server.sql("SHOW ARCHIVES") == []
    assert files(s3, "x") == {}


def test_what_azure_refuses_is_told(server, azure):
    create = "CREATE ARCHIVE wrong (id bigint) WITH "
    told = refused(server, f"{create} ({azure.options('x', path='azure://nowhere/x')})")
    assert told.sqlstate == "58P01" and told.message_detail.startswith("ContainerNotFound: ")
    told = refused(server, f"{create} ({azure.options('x', access_key='aHVudGVyMg==')})")
    assert told.sqlstate == "42501" and told.message_detail.startswith("AuthorizationFailure: ")
    assert "azure" in told.message_hint
    told = refused(server, f"{create} ({azure.options('x', endpoint='http://127.0.0.1:9/thalweg')})")
    assert told.sqlstate == "08006" and "refused" in told.message_detail
    told = refused(server, f"{create} ({azure.options('x', access_key=None)})")
    assert told.sqlstate == "22023" and "azure.access.key" in told.message_hint
    assert files(azure, "x") == {}
