"""HBase gateways of other kinds, and what is said of those that do not fit; a region server that dies alone."""

import threading

import psycopg
import pytest

import process

COLUMNS = "k bigint PRIMARY KEY, v text, w int"


@pytest.fixture()
def sql(server):
    """Runs SQL on one connection."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:

        def run(text):
            cursor = connection.execute(text)
            return cursor.fetchall() if cursor.description else cursor.rowcount

        yield run


def define(sql, name, servers, **options):
    """Declares a table that is made when it is not there."""
    given = {"thrift.servers": servers, "table": name, "family": "d", "create": "if-missing", "lookup.timeout": "90 s", **options}
    listed = ", ".join(f"{key} = '{value}'" for key, value in given.items())
    sql(f"CREATE TABLE {name} ({COLUMNS}) WITH (connector = 'hbase', {listed})")


UNFRAMED = {"thrift.transport": "unframed", "thrift.protocol": "binary"}


def test_an_unframed_gateway_serves_as_the_others_do(sql, hbase_others):
    define(sql, "plain", hbase_others.values["HBASE_UNFRAMED_GATEWAY"], **UNFRAMED, **{"scan.page.bytes": "64kB"})
    assert sql("INSERT INTO plain SELECT n, repeat('x', 200) || n, n FROM generate_series(1, 3000) n") == 3000
    assert sql("SELECT k, w FROM plain WHERE k = 7") == [(7, 7)]
    assert sql("SELECT count(*), sum(w), max(length(v)) FROM plain") == [(3000, 4501500, 204)]
    assert sql("UPDATE plain SET w = -w WHERE k <= 3") == 3
    assert sql("DELETE FROM plain WHERE k > 10") == 2990
    # Three cells of each row, the marker among them.
    assert len(hbase_others.ask("scan plain")) == 30
    sql("CREATE TABLE plain_in (k bigint PRIMARY KEY, v text, w int)")
    sql("CREATE SINK to_plain INTO plain AS SELECT k, v, w FROM plain_in")
    sql("INSERT INTO plain_in VALUES (11, 'eleven', 11), (12, NULL, 12)")
    sql("WAIT FOR to_plain")
    assert sql("SELECT v, w FROM plain WHERE k > 10 ORDER BY k") == [("eleven", 11), (None, 12)]
    sql("DROP SINK to_plain")


@pytest.mark.parametrize(
    "gateway, options, state, detail",
    [
        # It takes the length of a frame for that of a name, and waits for the rest.
        ("UNFRAMED_GATEWAY", {}, "08001", "does not answer"),
        ("UNFRAMED_GATEWAY", {"thrift.protocol": "binary"}, "08001", "does not answer"),
        ("UNFRAMED_GATEWAY", {"thrift.transport": "unframed"}, "08001", "closed the connection"),
        ("THRIFT", UNFRAMED, "08001", "closed the connection"),
        ("THRIFT", {"thrift.transport": "unframed"}, "08001", "closed the connection"),
        ("THRIFT1_GATEWAY", UNFRAMED, "08P01", "it is a Thrift1 gateway"),
        ("THRIFT1_GATEWAY", {}, "08001", "does not answer"),
    ],
)
def test_a_gateway_that_was_started_otherwise_is_said(sql, hbase_others, gateway, options, state, detail):
    servers = hbase_others.values[f"HBASE_{gateway}"]
    with pytest.raises(psycopg.Error) as error:
        define(sql, "elsewhere", servers, **{"lookup.timeout": "1 s", **options})
    said = error.value.diag
    assert (error.value.sqlstate, servers in (said.message_primary or "")) == (state, True), said.message_primary
    assert detail in said.message_detail, said.message_detail
    assert "thrift.transport" in said.message_hint and "thrift.protocol" in said.message_hint


def test_a_region_server_that_dies_alone_costs_time_and_nothing_else(sql, hbase_others):
    hbase, port = hbase_others, hbase_others.values["HBASE_REGION_SERVER"].rsplit(":", 1)[1]
    hbase.ask(f"create alone d 1 {8 << 60:016x} {(8 << 60) + 1000:016x} {(8 << 60) + 2000:016x}")
    define(sql, "alone", hbase.servers, **{"key.encoding": "ordered", "scan.page.bytes": "4kB"})
    assert sql("INSERT INTO alone SELECT n, 'row ' || n, n FROM generate_series(1, 3000) n") == 3000
    sql("CREATE TABLE alone_in (k bigint PRIMARY KEY, v text, w int)")
    query = "SELECT k, v, w FROM alone_in"
    define(sql, "alone_out", hbase.servers, **{"key.encoding": "ordered"})
    sql(f"CREATE SINK to_alone INTO alone_out AS {query}")

    def gathered():
        for table in ("alone", "alone_out"):
            hbase.ask(f"gather {table} {port}")
        held = [line.split()[2] for table in ("alone", "alone_out") for line in hbase.ask(f"regions {table}")]
        return all(f",{port}," in server for server in held)

    for turn in range(2):
        process.until(gathered, "the region server holds every region of both tables")
        sql(f"INSERT INTO alone_in SELECT n + 1000 * {turn}, 'turn {turn}', n FROM generate_series(1, 500) n")
        hbase.verb("kill", "region_server")
        sql(f"UPDATE alone_in SET w = w + 1, v = NULLIF(v, 'turn {turn - 1}')")
        back = threading.Thread(target=hbase.verb, args=("restart", "region_server"))
        back.start()
        # Asked while nobody serves these regions; every acknowledged row is there when somebody does.
        assert sql("SELECT count(*), sum(w) FROM alone") == [(3000, sum(range(3001)))]
        assert sql("SELECT k FROM alone ORDER BY k DESC LIMIT 3") == [(3000,), (2999,), (2998,)]
        assert sql("UPDATE alone SET v = 'changed' WHERE k <= 10") == 10
        back.join()
        sql("WAIT FOR to_alone")
        assert sql(f"SELECT * FROM alone_out EXCEPT ALL {query}") == sql(f"{query} EXCEPT ALL SELECT * FROM alone_out") == []
        rows = {line.split()[0] for line in hbase.ask("scan alone_out")}
        assert len(rows) == sql("SELECT count(*) FROM alone_in")[0][0]
    sql("DROP SINK to_alone")
