"""CREATE TABLE ... WITH (connector = 'hbase'): read and written in SQL, checked by HBase's own client, through lost gateways."""

import datetime
import decimal
import http.server
import json
import os
import random
import shutil
import struct
import threading

import psycopg
import pytest

import process
import topics


@pytest.fixture()
def sql(server):
    """Runs SQL on one connection."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:

        def run(text, *parameters):
            cursor = connection.execute(text, parameters or None)
            return cursor.fetchall() if cursor.description else cursor.rowcount

        yield run


def refused(sql, text):
    """SQLSTATE of a statement that fails."""
    with pytest.raises(psycopg.Error) as error:
        sql(text)
    return error.value.sqlstate


def explained(sql, text):
    """The lines of EXPLAIN about HBase."""
    return [row[0] for row in sql("EXPLAIN " + text) if row[0].startswith("HBase ")]


def define(sql, hbase, name, columns, **options):
    """Declares a table; a machine that is busy with other tests is waited for."""
    given = {"thrift.servers": hbase.servers, "table": name, "lookup.timeout": "60 s", **options}
    listed = ", ".join(f"{key} = '{value}'" for key, value in given.items())
    sql(f"CREATE TABLE {name} ({columns}) WITH (connector = 'hbase', {listed})")


def test_a_table_of_another_program_is_read_and_changed(sql, hbase):
    hbase.ask("create profiles info 3")
    hbase.ask("put profiles 616e6e info 6e 416e6e 1000")
    hbase.ask("put profiles 616e6e info 616765 0000001e 1000")
    hbase.ask("put profiles 626f info 616765 00000007 4000000000000")
    define(
        sql,
        hbase,
        "profiles",
        "rowkey text PRIMARY KEY, name text OPTIONS (column = 'info:n'), age int OPTIONS (column = 'info:age', encoding = 'bytes')",
    )
    assert sql("SELECT * FROM profiles ORDER BY rowkey") == [("ann", "Ann", 30), ("bo", None, 7)]
    assert sql("SELECT name FROM profiles WHERE rowkey = %s", "ann") == [("Ann",)]
    assert sql("SELECT count(*), sum(age) FROM profiles") == [(2, 37)]
    assert sql("INSERT INTO profiles VALUES ('cy', 'Cy', NULL), ('ann', 'Anna', 31)") == 2
    # A cell from a clock that is ahead is changed all the same.
    assert sql("UPDATE profiles SET age = age + 1, name = 'Bo' WHERE age < 10") == 1
    assert sql("SELECT * FROM profiles ORDER BY rowkey") == [("ann", "Anna", 31), ("bo", "Bo", 8), ("cy", "Cy", None)]
    assert hbase.ask("get profiles 626f")[1].split()[:4] == ["626f", "info", "616765", "00000008"]
    # The key may change too, also onto one that is there.
    assert sql("UPDATE profiles SET rowkey = 'b' || rowkey WHERE rowkey <> 'cy'") == 2
    assert sql("SELECT rowkey, age FROM profiles ORDER BY 1") == [("bann", 31), ("bbo", 8), ("cy", None)]
    assert sql("DELETE FROM profiles WHERE age IS NULL OR age = 8") == 2
    assert [line.split()[0] for line in hbase.ask("scan profiles")] == ["62616e6e"] * 3
    assert sql("INSERT INTO profiles SELECT 'n' || n, 'N', n FROM generate_series(1, 3000) n") == 3000
    assert sql("SELECT count(*), sum(age), min(rowkey), max(rowkey) FROM profiles") == [(3001, 4501531, "bann", "n999")]


def test_keys_ranges_and_filters_are_pushed_down(sql, hbase):
    columns = "user_id bigint, day date, clicks bigint NOT NULL, spend numeric(12, 2), seen timestamptz, PRIMARY KEY (user_id, day)"
    define(sql, hbase, "user_day", columns, family="d", create="if-missing", **{"value.encoding": "string"})
    sql(
        "INSERT INTO user_day SELECT u, DATE '2024-01-01' + d, u * 10 + d, u / 4.0, TIMESTAMPTZ '2024-01-01 00:00:00.123456Z' "
        "FROM generate_series(-20, 20) u, generate_series(0, 9) d"
    )
    assert sql("SELECT count(*) FROM user_day") == [(410,)]
    for where, lines, count in [
        ("user_id = 7 AND day = '2024-01-03'", ["HBase user_day: 1 row keys"], 1),
        ("user_id IN (7, 9, 11, 13) AND day = '2024-01-03'", ["HBase user_day: 4 row keys"], 4),
        # A list of two becomes a disjunction.
        ("user_id IN (7, 9) AND day = '2024-01-03'", ["HBase user_day: 2 row keys"], 2),
        ("user_id = -7", ["HBase user_day: 1 ranges of row keys"], 10),
        ("user_id BETWEEN -1 AND 1 AND clicks >= 0", ["HBase user_day: 1 ranges of row keys"], 20),
        ("user_id < 0 AND day > '2024-01-08'", ["HBase user_day: 1 ranges of row keys"], 40),
        # Of numbers written as text only what is not one can be told by its bytes.
        ("clicks = 75", ["HBase user_day: all rows"], 1),
        ("clicks <> 75", ["HBase user_day: all rows, filtered by clicks"], 409),
        ("user_id < 3 AND spend IS NOT NULL", ["HBase user_day: 1 ranges of row keys, filtered by spend"], 230),
        ("day = '2024-01-03'", ["HBase user_day: all rows"], 41),
        ("user_id = NULL", [], 0),
    ]:
        query = f"SELECT * FROM user_day WHERE {where}"
        assert (explained(sql, query), len(sql(query))) == (lines, count), where
    row = (7, datetime.date(2024, 1, 3), 72, decimal.Decimal("1.75"))
    assert sql("SELECT user_id, day, clicks, spend FROM user_day WHERE user_id = 7 AND day = '2024-01-03'") == [row]
    assert len(sql("SELECT user_id FROM user_day LIMIT 5")) == 5
    # The last ones come first, and no more of them than are wanted where the key alone selects them.
    for query, line in [
        ("user_id, day FROM user_day ORDER BY user_id DESC, day DESC LIMIT 3", "all rows, last key first, at most 3 rows"),
        ("user_id, day FROM user_day WHERE user_id = 7 ORDER BY day DESC LIMIT 2", "1 ranges of row keys, last key first, at most 2 rows"),
        ("user_id, d.day, d.clicks FROM user_day d WHERE d.user_id > 3 ORDER BY d.user_id LIMIT 4 OFFSET 2", "1 ranges of row keys, in key order, at most 6 rows"),
        ("day AS other FROM user_day WHERE user_id = 7 ORDER BY other LIMIT 2", "1 ranges of row keys, in key order, at most 2 rows"),
        ("user_id, clicks FROM user_day WHERE clicks > 0 ORDER BY user_id DESC, day DESC LIMIT 3", "all rows, last key first"),
        ("user_id FROM user_day WHERE user_id = 7 LIMIT 3", "1 ranges of row keys, at most 3 rows"),
        ("user_id, day FROM user_day ORDER BY day DESC LIMIT 3", "all rows"),
        ("user_id, day FROM user_day ORDER BY user_id DESC, day LIMIT 3", "all rows"),
        ("user_id FROM user_day WHERE spend IS NULL ORDER BY user_id DESC LIMIT 3", "all rows, filtered by spend, last key first"),
    ]:
        whole = query.split(" LIMIT ")[0]
        assert explained(sql, f"SELECT {query}") == [f"HBase user_day: {line}"], query
        skip, most = (2, 4) if "OFFSET" in query else (0, int(query.split(" LIMIT ")[1]))
        rows = sql(f"SELECT {query}")
        if "ORDER BY" in query:
            # By the same order, computed here.
            ordered = sql(f"SELECT * FROM (SELECT *, row_number() OVER (ORDER BY {whole.split('ORDER BY ')[1].replace('other', 'day')}) AS n FROM user_day d WHERE {'true' if 'WHERE' not in whole else whole.split('WHERE ')[1].split(' ORDER BY ')[0]}) q ORDER BY n")
            assert len(rows) == len(ordered[skip : skip + most]), query
            name = {"user_id": 0, "day": 1}[whole.split("ORDER BY ")[1].replace("d.", "").replace("other", "day").split(",")[0].split(" ")[0]]
            column = 0 if "AS other" in query else [part.strip().split(".")[-1] for part in whole.split(" FROM ")[0].split(",")].index(["user_id", "day"][name])
            assert [row[column] for row in rows] == [row[name] for row in ordered[skip : skip + most]], query
        else:
            assert len(rows) == most
    # Of a pattern only its beginning is a range of keys: what follows it is applied before rows are counted.
    define(sql, hbase, "visits", "k text PRIMARY KEY, n int", family="d", create="if-missing")
    sql("INSERT INTO visits SELECT 'user_' || n, n FROM generate_series(1, 300) n")
    patterns = [("user_2%", 4), (r"user\_2%", 4), ("user_200", 1), ("user_%9", 4), (r"user\_2_", 4), (r"user\_2_7", 4), ("%99", 3)]
    for pattern, count in patterns:
        found = sorted(row[0] for row in sql(f"SELECT k FROM visits WHERE k LIKE '{pattern}'"))
        rows = [row[0] for row in sql(f"SELECT k FROM visits WHERE k LIKE '{pattern}' LIMIT 4")]
        assert len(rows) == count and set(rows) <= set(found), pattern
        last = f"SELECT k FROM visits WHERE k LIKE '{pattern}' ORDER BY k DESC LIMIT 4"
        assert [row[0] for row in sql(last)] == found[::-1][:4], pattern
    # Together with what we keep ourselves.
    sql("CREATE TABLE names (id bigint PRIMARY KEY, name text)")
    sql("INSERT INTO names VALUES (1, 'one'), (2, 'two')")
    joined = "SELECT name, sum(clicks) FROM user_day JOIN names ON id = user_id GROUP BY name ORDER BY name"
    assert sql(joined) == [("one", 145), ("two", 245)]
    sql("CREATE VIEW busy AS SELECT user_id, clicks FROM user_day WHERE clicks > 205")
    assert sql("SELECT count(*) FROM busy") == [(4,)]
    assert refused(sql, "INSERT INTO user_day (user_id, day) VALUES (1, '2024-01-01')") == "23502"
    assert refused(sql, "INSERT INTO user_day (user_id, clicks) VALUES (1, 1)") == "23502"


def test_columns_of_a_key_may_descend(sql, hbase):
    columns = "user_id bigint, day date, n int, PRIMARY KEY (user_id, day)"
    define(sql, hbase, "newest_first", columns, family="d", create="if-missing", **{"key.desc": "day"})
    sql("INSERT INTO newest_first SELECT n % 5, DATE '2024-01-01' + n / 5, n FROM generate_series(0, 499) n")
    last = "SELECT n FROM newest_first WHERE user_id = 3 ORDER BY day DESC LIMIT 2"
    assert explained(sql, last) == ["HBase newest_first: 1 ranges of row keys, in key order, at most 2 rows"]
    assert sql(last) == [(498,), (493,)]
    both = "SELECT n FROM newest_first ORDER BY user_id DESC, day LIMIT 2"
    assert explained(sql, both) == ["HBase newest_first: all rows, last key first, at most 2 rows"]
    assert sql(both) == [(4,), (9,)]
    assert explained(sql, "SELECT n FROM newest_first ORDER BY user_id, day LIMIT 2") == ["HBase newest_first: all rows"]
    some = "SELECT count(*), min(n), max(n) FROM newest_first WHERE user_id = 1 AND day BETWEEN '2024-01-11' AND '2024-01-20'"
    assert explained(sql, some) == ["HBase newest_first: 1 ranges of row keys"]
    assert sql(some) == [(10, 51, 96)]
    # User 0, and the last of a hundred days, whose sign is turned and then every bit.
    day = (datetime.date(2024, 4, 9) - datetime.date(1970, 1, 1)).days
    assert hbase.ask("scan newest_first")[0].split()[0] == f"{1 << 63:016x}{(1 << 31) - 1 - day:08x}"
    for wrong in ("n", "none"):
        assert refused(sql, f"CREATE TABLE x ({columns}) WITH (connector = 'hbase', thrift.servers = 'h:1', table = 't', family = 'd', key.desc = '{wrong}')") == "22023"


def test_what_is_not_possible_is_said(sql, hbase):
    hbase.ask("create plain d 1")
    define(sql, hbase, "plain", "k text PRIMARY KEY, v int", family="d")
    sql("CREATE TABLE base (k text, v int)")
    define(sql, hbase, "whole", "k text PRIMARY KEY, v int", family="d", create="if-missing", **{"scan.consistency": "committed"})
    for text, state in [
        ("CREATE TABLE x (k text PRIMARY KEY, v int) WITH (connector = 'hbase', thrift.servers = '%s', table = 'nowhere', family = 'd')" % hbase.servers, "42P01"),
        ("CREATE TABLE x (k text PRIMARY KEY, v int) WITH (connector = 'hbase', thrift.servers = '%s', table = 'plain', family = 'zz')" % hbase.servers, "42703"),
        ("CREATE TABLE x (k text, v int) WITH (connector = 'hbase', thrift.servers = 'h:1', table = 'plain', family = 'd')", "42601"),
        ("CREATE TABLE x (k text PRIMARY KEY, v int) WITH (connector = 'hbase', thrift.servers = 'h:1', table = 'plain')", "22023"),
        ("CREATE TABLE x (k text PRIMARY KEY, v int) WITH (connector = 'hbase', thrift.servers = 'h:1', tabel = 'plain')", "22023"),
        ("CREATE TABLE x (k text PRIMARY KEY, v int OPTIONS (colum = 'd:v')) WITH (connector = 'hbase', thrift.servers = 'h:1', table = 'plain')", "22023"),
        ("CREATE TABLE x (k text PRIMARY KEY, v int CHECK (v > 0)) WITH (connector = 'hbase', thrift.servers = 'h:1', table = 'plain', family = 'd')", "0A000"),
        ("CREATE MATERIALIZED VIEW x AS SELECT * FROM plain", "0A000"),
        ("SUBSCRIBE plain", "0A000"),
        ("SUBSCRIBE (SELECT b.k FROM base b JOIN plain FOR SYSTEM_TIME AS OF PROCTIME() p ON p.k = b.k)", "0A000"),
        ("CREATE MATERIALIZED VIEW x AS SELECT b.k FROM base b JOIN plain FOR SYSTEM_TIME AS OF PROCTIME() p ON p.v = b.v", "0A000"),
        ("CREATE MATERIALIZED VIEW x AS SELECT b.k FROM base b JOIN plain FOR SYSTEM_TIME AS OF PROCTIME() p ON p.k = b.k ORDER BY b.v LIMIT 3", "0A000"),
        ("CREATE MATERIALIZED VIEW x AS SELECT b.k FROM base b JOIN base FOR SYSTEM_TIME AS OF PROCTIME() p ON p.k = b.k", "0A000"),
        ("INSERT INTO plain VALUES ('a', 1) ON CONFLICT DO NOTHING", "0A000"),
        ("INSERT INTO plain VALUES ('a', 1) RETURNING v", "0A000"),
        ("CREATE SINK x INTO whole AS SELECT k, max(v) AS v FROM base GROUP BY k WITH (delivery = 'at_least_once')", "22023"),
        ("TRUNCATE plain", "42809"),
        ("INSERT INTO plain VALUES ('', 1)", "54000"),
    ]:  # fmt: skip
        assert refused(sql, text) == state, text
    hbase.ask("put plain 61 d 76 0102")
    assert refused(sql, "SELECT * FROM plain") == "22P03"
    assert sql("SELECT k FROM plain") == [("a",)]
    hbase.ask("disable plain")
    assert refused(sql, "SELECT * FROM plain") == "55000"
    assert refused(sql, "INSERT INTO plain VALUES ('b', 1)") == "55000"
    hbase.ask("drop plain")
    assert refused(sql, "SELECT * FROM plain") == "42P01"
    sql("DROP TABLE plain")
    assert refused(sql, "SELECT * FROM plain") == "42P01"


def test_declarations_survive_and_lost_gateways_are_made_up_for(server, hbase):
    def session(text):
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            cursor = connection.execute(text)
            return cursor.fetchall() if cursor.description else cursor.rowcount

    define(session, hbase, "kept", "k int PRIMARY KEY, v int", family="d", create="if-missing")
    session("INSERT INTO kept SELECT n, n FROM generate_series(0, 4999) n")
    server.kill()
    server.start()
    expected = [(5000, sum(range(5000)))]
    assert session("SELECT count(*), sum(v) FROM kept") == expected
    for verb, role, back in [("kill", "gateway", "restart"), ("pause", "gateway2", "resume")]:
        hbase.verb(verb, role)
        assert session("SELECT count(*), sum(v) FROM kept") == expected
        assert session("UPDATE kept SET v = -v WHERE k < 100") == 100
        assert session("UPDATE kept SET v = -v WHERE k < 100") == 100
        assert session("SELECT count(*), sum(v) FROM kept") == expected
        hbase.verb(back, role)
    assert session("SELECT 1") == [(1,)]
    process.until(lambda: session("SELECT count(*) FROM kept") == [(5000,)], "all gateways are back")


def test_rows_find_what_is_there_when_they_come(sql, server, hbase, kafka):
    columns = "id int PRIMARY KEY, name text, age int NOT NULL"
    define(sql, hbase, "people", columns, family="d", create="if-missing", **{"lookup.cache.ttl": "1 ms", "lookup.timeout": "15 s"})
    sql("INSERT INTO people SELECT n, 'p' || n, n % 50 FROM generate_series(1, 2000) n")
    sql("CREATE TABLE buys (buy int PRIMARY KEY, person int, amount int)")
    sql("INSERT INTO buys SELECT n, n % 2500, n FROM generate_series(1, 5000) n")
    joined = "FROM buys b LEFT JOIN people FOR SYSTEM_TIME AS OF PROCTIME() AS p ON p.id = b.person"
    query = f"SELECT b.buy, b.amount, p.name {joined}"
    plan = [row[0].strip() for row in sql(f"EXPLAIN STREAM {query}")]
    assert any(line.startswith("Left lookup join people on id = b.person") for line in plan), plan
    assert "cache: at most 100000 rows of people, each for 1 ms" in plan
    assert "state: the row of people that each row of the input found, bounded" in plan
    sql(f"CREATE MATERIALIZED VIEW bought AS {query}")
    sql(f"CREATE MATERIALIZED VIEW per_age AS SELECT p.age, count(*) AS n {joined} AND p.age >= 10 GROUP BY p.age")
    sql("CREATE MATERIALIZED VIEW others AS SELECT count(*) AS n FROM buys")
    assert sql(f"SELECT * FROM bought EXCEPT ALL {query}") == []
    assert sql("SELECT count(*), count(name), sum(amount) FROM bought") == [(5000, 4000, 12502500)]
    assert sql("SELECT count(*), sum(n) FROM per_age") == [(41, 5000)]
    # What the table becomes later does not reach rows that are there.
    sql("UPDATE people SET name = 'new' WHERE id <= 100")
    sql("DELETE FROM people WHERE id BETWEEN 101 AND 200")
    sql("INSERT INTO buys VALUES (6001, 1, 0), (6002, 150, 0), (6003, NULL, 0), (6004, 300, 0)")
    assert sql("SELECT buy, name FROM bought WHERE buy > 6000 ORDER BY buy") == [(6001, "new"), (6002, None), (6003, None), (6004, "p300")]
    assert sql("SELECT count(*), count(name) FROM bought") == [(5004, 4002)]
    assert sql("SELECT count(*), count(p.name) " + joined) == [(5004, 3802)]
    # A query asks for the rows that its left side names, and gets what a scan would give.
    keys = ["HBase people: the row keys that the left side names"]
    for text in [
        "SELECT b.buy, p.name, p.age {0}",
        "SELECT b.buy, b.amount + p.age {0} AND p.age > 20 AND p.name <> 'p77'",
        "SELECT b.buy, p.name {1} AND p.age > b.amount % 40 WHERE b.buy < 900 AND p.name LIKE 'p1%'",
        "SELECT p.name, count(*) {1} GROUP BY p.name",
        "SELECT b.buy, p.name, q.age FROM buys b JOIN people {2} AS p ON p.id = b.person JOIN people {2} AS q ON q.id = p.age",
        "SELECT b.buy FROM buys b WHERE EXISTS (SELECT 1 FROM buys c JOIN people {2} AS p ON p.id = c.person WHERE c.buy = b.buy AND p.age = 3)",
        "SELECT b.buy, p.id FROM (SELECT buy, person FROM buys ORDER BY buy LIMIT 50) b LEFT JOIN people {2} AS p ON p.id = b.person",
        "SELECT b.buy, p.name FROM buys b LEFT JOIN people {2} AS p ON p.id = 7 AND b.buy < 30",
    ]:
        now = "FOR SYSTEM_TIME AS OF PROCTIME()"
        asked, scanned = (
            text.format(f"FROM buys b LEFT JOIN people {now} AS p ON p.id = b.person", f"FROM buys b JOIN people {now} AS p ON p.id = b.person", now).replace(now, spelled)
            for spelled in (now, "")
        )
        # Below EXISTS the join is no join of two tables any more, and the table is scanned.
        assert set(explained(sql, asked)) == set(keys) or "EXISTS" in asked, asked
        assert sorted(sql(asked), key=str) == sorted(sql(scanned), key=str), asked
    # And what goes is what came.
    assert sql("DELETE FROM buys WHERE person BETWEEN 1 AND 200 AND buy < 6000") == 400
    assert sql("UPDATE buys SET amount = 1 WHERE buy = 6001") == 1
    assert sql("SELECT count(*), count(name) FROM bought") == [(4604, 3602)]
    assert sql("SELECT sum(n) FROM per_age") == [(4604,)]
    # Without HBase the view waits and says why; others go on, and a sink of what it reads delivers.
    kafka.topic("few_out", 1)
    sql("CREATE MATERIALIZED VIEW few AS SELECT buy, person FROM buys WHERE buy > 6000")
    sql("CREATE MATERIALIZED VIEW named AS SELECT f.buy, p.name FROM few f LEFT JOIN people FOR SYSTEM_TIME AS OF PROCTIME() AS p ON p.id = f.person")
    sql("CREATE MATERIALIZED VIEW of_name AS SELECT count(name) AS n FROM named")
    target = f"connector = 'kafka', topic = 'few_out', properties.bootstrap.server = '{kafka.bootstrap}', primary_key = 'buy'"
    sql(f"CREATE SINK few_out FROM few WITH ({target}) FORMAT UPSERT ENCODE JSON")
    sql("WAIT FOR few_out")
    for role in ("gateway", "gateway2"):
        hbase.verb("kill", role)
    sql("INSERT INTO buys VALUES (7001, 400, 0), (7002, 401, 0)")
    states = lambda: sql("SELECT name, state, error FROM sys.jobs WHERE name IN ('bought', 'others') ORDER BY name")
    waiting = process.until(lambda: [row for row in states() if row[0] == "bought" and row[2]], "the view says what it waits for")
    assert "could not reach HBase" in waiting[0][2]
    assert sql("SELECT n FROM others") == [(4606,)]
    process.until(lambda: sql("SELECT error FROM sys.jobs WHERE name = 'named' AND error IS NOT NULL"), "another one says so too")
    sql("WAIT FOR few_out")
    assert sql("SELECT count(*) > 0 FROM sys.errors WHERE object = 'bought'") == [(True,)]
    for role in ("gateway", "gateway2"):
        hbase.verb("restart", role)
    sql("WAIT FOR bought")
    assert sql("SELECT buy, name FROM bought WHERE buy > 7000 ORDER BY buy") == [(7001, "p400"), (7002, "p401")]
    assert [row[2] for row in states()] == [None, None]
    # A restart takes nothing up again: rows have found what was there when they came.
    last = sql("SELECT max(epoch) FROM sys.epochs")[0][0]
    process.until(lambda: (sql("SELECT max(epoch) FROM sys.checkpoints")[0][0] or 0) >= last, "a checkpoint of everything")
    sql("UPDATE people SET name = 'later' WHERE id = 300")
    server.kill()
    server.start()
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        again = lambda text: connection.execute(text).fetchall()
        connection.execute("WAIT FOR bought")
        assert again("SELECT count(*), count(name) FROM bought") == [(4606, 3604)]
        assert again("SELECT name FROM bought WHERE buy = 6004") == [("p300",)]
        assert again("SELECT n FROM of_name") == [(4,)]
        assert again("SELECT message FROM sys.errors WHERE reason = '01000'") == []
        connection.execute("DROP SINK few_out")
        connection.execute("DELETE FROM buys")
        assert again("SELECT count(*) FROM bought") == [(0,)]
        assert again("SELECT count(*) FROM per_age") == [(0,)]


def test_families_are_structs(sql, hbase):
    hbase.ask("create people_by_family info,m 1")
    hbase.ask("put people_by_family 61 info 6e616d65 416e6e 1000")
    columns = "rowkey text PRIMARY KEY, info STRUCT<name text, age int>, n bigint OPTIONS (column = 'm:n'), at timestamptz OPTIONS (column = ':timestamp')"
    define(sql, hbase, "people_by_family", columns)
    assert sql("INSERT INTO people_by_family (rowkey, info, n) VALUES ('b', ROW('Bo', 7), 1), ('c', NULL, 2)") == 2
    assert sql("SELECT rowkey, (info).name, (info).age, n FROM people_by_family ORDER BY 1") == [("a", "Ann", None, None), ("b", "Bo", 7, 1), ("c", None, None, 2)]
    assert sql("SELECT at FROM people_by_family WHERE rowkey = 'a'") == [(datetime.datetime(1970, 1, 1, 0, 0, 1, tzinfo=datetime.timezone.utc),)]
    assert sql("SELECT count(*) FROM people_by_family WHERE at > now() - INTERVAL '1 hour'") == [(2,)]
    assert sql("UPDATE people_by_family SET info = ROW('Cy', NULL::int) WHERE rowkey = 'c'") == 1
    assert [line.split()[1:4] for line in hbase.ask("get people_by_family 63")] == [["info", "5f", "-"], ["info", "6e616d65", "4379"], ["m", "6e", "0000000000000002"]]
    assert refused(sql, "INSERT INTO people_by_family VALUES ('d', NULL, 1, now())") == "428C9"
    assert refused(sql, "UPDATE people_by_family SET at = now()") == "428C9"


def test_other_servers_are_told_apart(sql, hbase):
    class Web(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        column = "k text PRIMARY KEY, v int"
        for address, options, states in [
            # It waits for the end of a line.
            (f"127.0.0.1:{web.server_port}", ", lookup.timeout = '1 s'", {"08P01", "08001"}),
            (hbase.servers, ", thrift.transport = 'unframed', lookup.timeout = '1 s'", {"08P01", "08001"}),
            (hbase.servers, ", thrift.protocol = 'binary', lookup.timeout = '1 s'", {"08P01", "08001"}),
        ]:
            text = f"CREATE TABLE elsewhere ({column}) WITH (connector = 'hbase', thrift.servers = '{address}', table = 't', family = 'd'{options})"
            assert refused(sql, text) in states, text
        web.shutdown()


def test_gateways_over_http_and_https_serve_as_the_others_do(sql, hbase):
    trusting = {"thrift.ssl.ca.pem": hbase.certificate}
    for name, servers, options in [
        ("over_http", hbase.http, {}),
        ("over_https", hbase.https, trusting),
        ("over_all", f"{hbase.servers},{hbase.http},{hbase.https}", trusting),
    ]:
        given = {"thrift.servers": servers, "family": "d", "create": "if-missing", **options}
        define(sql, hbase, name, "k bigint PRIMARY KEY, v text, w int", **given)
        assert sql(f"INSERT INTO {name} SELECT n, repeat('x', 200) || n, n FROM generate_series(1, 5000) n") == 5000
        assert sql(f"SELECT k, w FROM {name} WHERE k = 7") == [(7, 7)]
        assert sql(f"SELECT count(*), sum(w), max(length(v)) FROM {name}") == [(5000, 12502500, 204)]
        assert sql(f"UPDATE {name} SET w = -w WHERE k <= 3") == 3
        assert sql(f"DELETE FROM {name} WHERE k > 10") == 4990
        assert sql(f"SELECT sum(w) FROM {name}") == [(43,)]
        # Three cells of each row, the marker among them.
        assert len(hbase.ask(f"scan {name}")) == 30
        sql(f"CREATE TABLE {name}_in (k bigint PRIMARY KEY, v text, w int)")
        sql(f"CREATE SINK {name}_sink INTO {name} AS SELECT k, v, w FROM {name}_in")
        sql(f"INSERT INTO {name}_in VALUES (11, 'eleven', 11), (12, NULL, 12)")
        process.until(lambda name=name: sql(f"SELECT v, w FROM {name} WHERE k > 10 ORDER BY k") == [("eleven", 11), (None, 12)], "the sink has written")


def test_a_gateway_over_http_that_dies_is_left_and_comes_back(sql, hbase):
    servers = f"{hbase.http},{hbase.https}"
    options = {"thrift.ssl.ca.pem": hbase.certificate, "lookup.timeout": "30 s"}
    define(sql, hbase, "web_kept", "k bigint PRIMARY KEY, v int", family="d", create="if-missing", **{"thrift.servers": servers, **options})
    assert sql("INSERT INTO web_kept SELECT n, n FROM generate_series(1, 2000) n") == 2000
    for role in ("http_gateway", "https_gateway"):
        hbase.verb("kill", role)
        assert sql("SELECT count(*) FROM web_kept") == [(2000,)]
        assert sql("INSERT INTO web_kept VALUES (0, 0)") == 1
        assert sql("DELETE FROM web_kept WHERE k = 0") == 1
        hbase.verb("restart", role)
    assert sql("SELECT count(*) FROM web_kept") == [(2000,)]


def test_what_is_wrong_with_a_gateway_over_http_is_said(sql, hbase):
    class Web(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_error(int(self.path[1:]))

        def log_message(self, *_):
            pass

    def told(servers, certificate=None):
        """SQLSTATE, detail and hint."""
        given = {"thrift.servers": servers, "table": "t", "family": "d", "lookup.timeout": "3 s"}
        given |= {"thrift.ssl.ca.pem": certificate} if certificate else {}
        listed = ", ".join(f"{key} = '{value}'" for key, value in given.items())
        with pytest.raises(psycopg.Error) as error:
            sql(f"CREATE TABLE elsewhere (k text PRIMARY KEY, v int) WITH (connector = 'hbase', {listed})")
        return error.value.sqlstate, error.value.diag.message_detail or "", error.value.diag.message_hint or ""

    raw = hbase.servers.split(",")[0]
    bare_http, bare_https = hbase.http.split("/")[2], hbase.https.split("/")[2]
    port = bare_https.split(":")[1]
    for servers, certificate, state, detail, hint in [
        # Nobody whom this machine trusts has signed it, and it has another name.
        (hbase.https, None, "08001", "UnknownIssuer", "thrift.ssl.ca.pem"),
        (f"https://localhost:{port}/", hbase.certificate, "08001", "localhost", "as its certificate does"),
        # One way of speaking for the other.
        (bare_http, None, "08P01", "it speaks HTTP", "http://host:port/"),
        (bare_https, None, "08P01", "it speaks TLS", "https://host:port/"),
        (f"https://{bare_http}/", hbase.certificate, "08P01", "does not speak TLS", "http://host:port/"),
        (f"http://{bare_https}/", None, "08P01", "is no HTTP", "https://host:port/"),
        (f"http://{raw}/", None, "08001", "it hangs up on HTTP", "thrift.servers"),
        (f"https://{raw}/", hbase.certificate, "08001", "it hangs up on TLS", "thrift.servers"),
        ("https://gw1:9090/", "no certificate", "22023", "", "PEM text"),
        ("http://gw1:9090/?user=me", None, "22023", "", "http://host:port/"),
    ]:
        found = told(servers, certificate)
        assert found[0] == state and detail in found[1] and hint in found[2], (servers, found)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        for status, state in [(401, "28000"), (403, "28000"), (404, "08P01"), (503, "08001")]:
            found = told(f"http://127.0.0.1:{web.server_port}/{status}")
            assert found[0] == state and f"HTTP status {status}" in found[1], found
        web.shutdown()


def test_a_crash_of_the_region_servers_costs_time_and_nothing_else(sql, hbase):
    define(sql, hbase, "crashed", "k int PRIMARY KEY, v int", family="d", create="if-missing")
    sql("INSERT INTO crashed SELECT n, n FROM generate_series(1, 3000) n")
    sql("CREATE TABLE changes (k int PRIMARY KEY, v int)")
    define(sql, hbase, "crashed_sums", "k int PRIMARY KEY, v bigint", family="d", create="if-missing", **{"lookup.timeout": "10 s"})
    query = "SELECT k, sum(v) AS v FROM changes GROUP BY k"
    sql(f"CREATE SINK to_crashed INTO crashed_sums AS {query}")
    sql("INSERT INTO changes SELECT n, n FROM generate_series(1, 500) n")
    hbase.verb("kill", "server")
    sql("UPDATE changes SET v = v + 1")
    back = threading.Thread(target=hbase.verb, args=("restart", "server"))
    back.start()
    # Asked while nothing answers; every acknowledged row is there when it does.
    assert sql("SELECT count(*), sum(v) FROM crashed") == [(3000, sum(range(3001)))]
    assert sql("UPDATE crashed SET v = -v WHERE k <= 10") == 10
    back.join()
    sql("WAIT FOR to_crashed")
    assert sql(f"SELECT * FROM crashed_sums EXCEPT ALL {query}") == sql(f"{query} EXCEPT ALL SELECT * FROM crashed_sums") == []
    # A table that is disabled is waited for, and says so; others go on. The master takes longer to come back than the regions do.
    process.until(lambda: hbase.ask("disable crashed_sums") == [], "the master disables a table")
    sql("UPDATE changes SET v = v * 2")
    # The gateway says so, or tries again itself for longer than it is waited for.
    told = "SELECT error FROM sys.sinks WHERE name = 'to_crashed' AND error LIKE 'HBase table \"crashed_sums\" %'"
    process.until(lambda: sql(told), "the sink names the table")
    assert sql("SELECT count(*) FROM crashed") == [(3000,)]
    hbase.ask("enable crashed_sums")
    sql("WAIT FOR to_crashed")
    assert sql(f"SELECT * FROM crashed_sums EXCEPT ALL {query}") == sql(f"{query} EXCEPT ALL SELECT * FROM crashed_sums") == []
    sql("DROP SINK to_crashed")


def test_two_servers_on_one_data_dir_do_not_take_turns(hbase):
    first, second = process.Server(), process.Server()
    try:
        first.start()
        with psycopg.connect(first.dsn(), autocommit=True) as connection:
            run = lambda text: connection.execute(text)
            define(run, hbase, "fenced", "k int PRIMARY KEY, v int", family="d", create="if-missing")
            run("CREATE TABLE base (k int PRIMARY KEY, v int)")
            run("CREATE SINK to_fenced INTO fenced AS SELECT k, v FROM base")
            run("INSERT INTO base VALUES (1, 1)")
            run("WAIT FOR to_fenced")
        first.terminate()
        shutil.rmtree(second.data_dir, ignore_errors=True)
        shutil.copytree(first.data_dir, second.data_dir)
        first.start()
        error = lambda connection: connection.execute("SELECT error FROM sys.sinks WHERE name = 'to_fenced'").fetchone()[0]
        with psycopg.connect(first.dsn(), autocommit=True) as one:
            one.execute("INSERT INTO base VALUES (2, 2)")
            one.execute("WAIT FOR to_fenced")
            # Both are at the same place: the one that starts last goes on.
            second.start()
            with psycopg.connect(second.dsn(), autocommit=True) as two:
                two.execute("ALTER SINK to_fenced RESUME")
                two.execute("INSERT INTO base VALUES (3, 3)")
                two.execute("WAIT FOR to_fenced")
                one.execute("INSERT INTO base VALUES (4, 4)")
                process.until(lambda: "another server" in (error(one) or ""), "the first says that it is shut out")
                for number in range(5, 8):
                    two.execute(f"INSERT INTO base VALUES ({number}, {number})")
                    two.execute("WAIT FOR to_fenced")
                    assert error(two) is None and "another server" in error(one)
        second.terminate()
        first.terminate()
        first.start()
        with psycopg.connect(first.dsn(), autocommit=True) as one:
            process.until(lambda: "another server" in (error(one) or ""), "it stays shut out over a restart")
            one.execute("ALTER SINK to_fenced RESUME")
            one.execute("WAIT FOR to_fenced")
            assert one.execute("SELECT k FROM fenced WHERE k IN (1, 2, 4) ORDER BY k").fetchall() == [(1,), (2,), (4,)]
    finally:
        first.close()
        second.close()


def test_a_sink_keeps_a_table_equal_to_its_query(sql, hbase):
    columns = "person int, day date, n bigint, spent numeric(12, 2), note text, PRIMARY KEY (person, day)"
    define(sql, hbase, "daily", columns, family="d", create="if-missing", **{"lookup.timeout": "15 s"})
    sql("CREATE TABLE paid (id int PRIMARY KEY, person int, day date, amount numeric(12, 2), note text)")
    query = "SELECT person, day, count(*) AS n, sum(amount) AS spent, max(note) AS note FROM paid GROUP BY person, day"
    sql(f"CREATE SINK to_daily INTO daily AS {query}")
    assert sql("SELECT delivery FROM sys.sinks WHERE name = 'to_daily'") == [("exactly_once",)]
    sql("INSERT INTO paid SELECT n, n % 300, DATE '2024-01-01' + n % 7, n / 4.0, CASE WHEN n % 2 = 0 THEN 'x' END FROM generate_series(1, 4000) n")

    def equal():
        sql("WAIT FOR to_daily")
        return sql(f"SELECT * FROM daily EXCEPT ALL {query}") == [] and sql(f"{query} EXCEPT ALL SELECT * FROM daily") == []

    assert equal()
    assert sql("SELECT n FROM daily WHERE person = 7 AND day = '2024-01-01'") == sql("SELECT count(*) FROM paid WHERE person = 7 AND day = '2024-01-01'")
    sql("DELETE FROM paid WHERE person < 20")
    sql("UPDATE paid SET note = NULL, amount = amount + 1 WHERE person = 30")
    sql("INSERT INTO paid VALUES (5001, 3, '2024-01-01', 1, NULL)")
    assert equal()
    # The other side sees the same rows, and nothing of what went.
    keys = {line.split()[0] for line in hbase.ask("scan daily")}
    assert len(keys) == sql("SELECT count(*) FROM (SELECT DISTINCT person, day FROM paid) q")[0][0]
    # What was written last tells how far the sink has come.
    markers = [line.split()[3] for line in hbase.ask("scan thalweg_commits") if line.split()[2] == b"marker".hex()]
    assert markers and all(bytes.fromhex(marker).decode().endswith("/0/last") for marker in markers)
    # Lost gateways are waited for; what cannot be held is an error of its row alone.
    for role in ("gateway", "gateway2"):
        hbase.verb("kill", role)
    sql("INSERT INTO paid SELECT 6000 + n, n % 300, DATE '2024-02-01', n, repeat('y', CASE n WHEN 17 THEN 11000000 ELSE 3 END) FROM generate_series(1, 200) n")
    process.until(lambda: sql("SELECT 1 FROM sys.sinks WHERE name = 'to_daily' AND error IS NOT NULL"), "the sink says what it waits for")
    for role in ("gateway", "gateway2"):
        hbase.verb("restart", role)
    sql("WAIT FOR to_daily")
    refused_rows = sql("SELECT message FROM sys.errors WHERE object = 'to_daily' AND reason = '54000'")
    assert len(refused_rows) == 1 and "over the limit" in refused_rows[0][0], refused_rows
    assert sql("SELECT count(*) FROM daily WHERE day = '2024-02-01'") == [(199,)]
    assert refused(sql, "CREATE SINK s INTO daily AS SELECT person, day FROM paid") == "42P10"
    sql("DROP SINK to_daily")


def customer_day(key, cells):
    """A row of customer_days from its bytes: integers of a key with the sign turned, values as HBase's own Bytes writes them."""
    customer, day = (part - 2**31 for part in struct.unpack(">II", key))
    country, amount = cells.get("country"), cells["amount"]
    unscaled = int.from_bytes(amount[4:], "big", signed=True)
    return (
        customer,
        datetime.date(1970, 1, 1) + datetime.timedelta(days=day),
        country and country.decode(),
        int.from_bytes(cells["orders"], "big"),
        decimal.Decimal(unscaled).scaleb(-int.from_bytes(amount[:4], "big")),
    )


def test_the_shop_keeps_its_days_while_gateways_die(hbase, kafka):
    """examples/shop_hbase.sql as it stands. HBASE_KILLS, HBASE_ORDERS and HBASE_SEED make it longer."""
    kills, count = int(os.environ.get("HBASE_KILLS", 2)), int(os.environ.get("HBASE_ORDERS", 20_000))
    seed = int(os.environ.get("HBASE_SEED", 1))
    print(f"replay: HBASE_KILLS={kills} HBASE_ORDERS={count} HBASE_SEED={seed}")
    chance = random.Random(seed)
    # Other examples have a topic of that name on the same broker.
    kafka.topic("hbase_orders", 4)
    text = (process.ROOT / "examples" / "shop_hbase.sql").read_text()
    text = text.replace("localhost:9092", kafka.bootstrap).replace("localhost:9090", hbase.servers)
    text = text.replace("topic = 'orders'", "topic = 'hbase_orders'")
    server = process.Server()
    try:
        server.start()
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute(text)
            sql = lambda text: connection.execute(text).fetchall()
            connection.execute("INSERT INTO customers SELECT n, 'customer ' || n, CASE WHEN n % 3 = 0 THEN 'NL' ELSE 'DE' END FROM generate_series(0, 399) n")
            producer = topics.producer(kafka.bootstrap, linger_ms=20)
            expected = {}
            for part in range(kills + 1):
                for number in range(part * count // (kills + 1), (part + 1) * count // (kills + 1)):
                    # Every eighth customer is unknown.
                    customer, day, cents = chance.randrange(457), chance.randrange(1, 6), chance.randrange(1, 10_000)
                    row = {"order_id": number, "customer_id": customer, "amount": f"{cents // 100}.{cents % 100:02}", "ts": f"2024-03-0{day}T10:00:00Z"}
                    producer.produce("hbase_orders", json.dumps(row).encode(), partition=number % 4)
                    held = expected.setdefault((customer, datetime.date(2024, 3, day)), [0, 0])
                    held[0], held[1] = held[0] + 1, held[1] + cents
                assert producer.flush(60) == 0
                if part < kills:
                    role = chance.choice(["gateway", "gateway2"])
                    hbase.verb("kill", role)
                    # The other one serves; with both gone everything waits, which another test shows.
                    assert len(sql("SELECT * FROM customer_days WHERE customer_id = 7 AND day = '2024-03-01'")) <= 1
                    days = [row[0] for row in sql("SELECT day FROM customer_days WHERE customer_id = 7 AND day >= '2024-03-02' ORDER BY day")]
                    assert days == sorted(set(days)) and len(days) <= 4
                    assert all(row[0] % 3 == 0 for row in sql("SELECT customer_id FROM customer_days WHERE country = 'NL' AND customer_id < 30"))
                    hbase.verb("restart", role)
            sql_rows = lambda: sql("SELECT customer_id, day, country, orders, amount FROM customer_days ORDER BY 1, 2")
            connection.execute("WAIT FOR to_customer_days")
            country = lambda customer: None if customer >= 400 else "NL" if customer % 3 == 0 else "DE"
            wanted = [(customer, day, country(customer), n, decimal.Decimal(cents) / 100) for (customer, day), (n, cents) in sorted(expected.items())]
            assert sql_rows() == wanted
            one = wanted[0]
            assert sql(f"SELECT orders FROM customer_days WHERE customer_id = {one[0]} AND day = '{one[1]}'") == [(one[3],)]
            of_seven = [row[1] for row in wanted if row[0] == 7 and row[1] >= datetime.date(2024, 3, 2)]
            assert [row[0] for row in sql("SELECT day FROM customer_days WHERE customer_id = 7 AND day >= '2024-03-02' ORDER BY day")] == of_seven
            assert sql("SELECT sum(orders) FROM customer_days WHERE country = 'NL'") == [(sum(row[3] for row in wanted if row[2] == "NL"),)]
            # HBase's own client sees the same cells.
            cells = {}
            for line in hbase.ask("scan customer_days"):
                key, _, qualifier, value = line.split()[:4]
                cells.setdefault(bytes.fromhex(key), {})[bytes.fromhex(qualifier).decode()] = bytes.fromhex(value.removeprefix("-"))
            found = sorted((customer_day(key, row) for key, row in cells.items()), key=lambda row: row[:2])
            assert found == wanted
    finally:
        server.close()
