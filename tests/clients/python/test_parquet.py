"""Parquet files that pyarrow wrote, as sources: every type, unit and compression, next to what pyarrow reads back."""

import datetime
import decimal

import psycopg
import pyarrow
import pyarrow.parquet
import pytest

import process

UTC = datetime.timezone.utc
MOMENTS = [
    datetime.datetime(2024, 2, 29, 1, 2, 3, 123456),
    None,
    datetime.datetime(1969, 12, 31, 23, 59, 59),
    datetime.datetime(1, 1, 1),
    datetime.datetime(9999, 12, 31, 23, 59, 59, 999999),
]


def session(server, text):
    """Runs SQL on a connection of its own."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        cursor = connection.execute(text)
        return cursor.fetchall() if cursor.description else None


def declare(server, name, columns, options=""):
    session(server, f"CREATE SOURCE {name} ({columns}) WITH (connector = 'file', path = '{name}/*.parquet', format = 'parquet'{options})")


def write(server, name, table, file="a", **options):
    folder = server.files / name
    folder.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(table, folder / f"{file}.parquet", **options)


@pytest.mark.parametrize("compression", ["zstd", "snappy", "lz4", "none"])
@pytest.mark.parametrize("version", ["1.0", "2.6"])
def test_scalars(server, compression, version):
    name = f"scalars_{compression}_{version[0]}"
    rows = 5000
    numbers = [None if n % 7 == 0 else n - 2500 for n in range(rows)]
    columns = {
        "b": (pyarrow.bool_(), "boolean", [None if n is None else n % 2 == 0 for n in numbers]),
        "i1": (pyarrow.int8(), "smallint", [None if n is None else n % 100 for n in numbers]),
        "i2": (pyarrow.int16(), "smallint", numbers),
        "i4": (pyarrow.int32(), "int", numbers),
        "i8": (pyarrow.int64(), "bigint", [None if n is None else n * 10**15 for n in numbers]),
        "u4": (pyarrow.uint32(), "bigint", [None if n is None else abs(n) + 2**31 for n in numbers]),
        "u8": (pyarrow.uint64(), "numeric(20)", [None if n is None else abs(n) + 2**63 for n in numbers]),
        "f4": (pyarrow.float32(), "real", [None if n is None else n / 4 for n in numbers]),
        "f8": (pyarrow.float64(), "double precision", [None if n is None else n / 3 for n in numbers]),
        "d": (pyarrow.decimal128(12, 2), "numeric(12, 2)", [None if n is None else decimal.Decimal(n) / 4 for n in numbers]),
        "t": (pyarrow.string(), "text", [None if n is None else f"\u00e9{n % 50}" for n in numbers]),
        "bin": (pyarrow.binary(), "bytea", [None if n is None else bytes([abs(n) % 256]) for n in numbers]),
        "day": (pyarrow.date32(), "date", [None if n is None else datetime.date(1970, 1, 1) + datetime.timedelta(days=n) for n in numbers]),
        "clock": (pyarrow.time64("us"), "time", [None if n is None else datetime.time(n % 24, 1, 2, 3) for n in numbers]),
    }
    table = pyarrow.table({column: pyarrow.array(values, ty) for column, (ty, _, values) in columns.items()})
    write(server, name, table, compression=compression, version=version, row_group_size=700, data_page_size=2000)
    declare(server, name, "row int, " + ", ".join(f"{column} {ty}" for column, (_, ty, _) in columns.items()))
    assert session(server, f"SELECT {', '.join(columns)} FROM {name}") == list(zip(*(values for _, _, values in columns.values())))
    assert session(server, f"SELECT count(*) FROM {name}_errors") == [(0,)]


def test_timestamps_of_all_units(server):
    kinds = {unit: {"coerce_timestamps": None} for unit in ("s", "ms", "us")}
    table = pyarrow.table({unit: pyarrow.array(MOMENTS, pyarrow.timestamp("us")).cast(pyarrow.timestamp(unit), safe=False) for unit in kinds})
    table = table.append_column("zoned", pyarrow.array(MOMENTS, pyarrow.timestamp("us", "UTC")))
    table = table.append_column("ns", pyarrow.array([None if moment is None or moment.year in (1, 9999) else moment for moment in MOMENTS], pyarrow.timestamp("ns")))
    write(server, "moments", table, version="2.6")
    declare(server, "moments", "s timestamp, ms timestamp, us timestamp, zoned timestamptz, ns timestamp, missing text")
    rows = session(server, "SELECT us, zoned, ns, s, ms, missing FROM moments")
    for moment, (us, zoned, ns, s, ms, missing) in zip(MOMENTS, rows, strict=True):
        assert us == moment and missing is None
        assert zoned == (moment and moment.replace(tzinfo=UTC))
        assert ns is None or ns == moment
        assert s == (moment and moment.replace(microsecond=0))
        assert ms == (moment and moment.replace(microsecond=moment.microsecond // 1000 * 1000))


def test_the_old_timestamps(server):
    write(server, "int96", pyarrow.table({"at": pyarrow.array(MOMENTS, pyarrow.timestamp("us"))}), use_deprecated_int96_timestamps=True)
    declare(server, "int96", "at timestamp")
    read = [row[0] for row in session(server, "SELECT at FROM int96")]
    # pyarrow itself writes nanoseconds, so the far ends wrap before they reach the file.
    expected = pyarrow.parquet.read_table(server.files / "int96", coerce_int96_timestamp_unit="us")["at"].to_pylist()
    assert read == expected


def test_nested_values_and_dictionaries(server):
    table = pyarrow.table(
        {
            "words": pyarrow.array([["a", None], [], None, ["b"]]),
            "matrix": pyarrow.array([[[1, 2], []], None, [None, [3]], []], pyarrow.list_(pyarrow.list_(pyarrow.int64()))),
            "spot": pyarrow.array([{"x": 1, "Y": "p"}, None, {"x": None, "Y": "q"}, {"x": 4, "Y": None}]),
            "counts": pyarrow.array([[("a", 1)], [], None, [("b", 2), ("c", None)]], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
            "kind": pyarrow.array(["x", "y", None, "x"]).dictionary_encode(),
            "id": pyarrow.array([bytes([n]) * 16 for n in range(4)], pyarrow.binary(16)),
        }
    )
    write(server, "nested", table)
    declare(server, "nested", "words text[], matrix jsonb, spot STRUCT<x int, y text>, counts jsonb, kind varchar(3), id uuid")
    rows = session(server, "SELECT words, matrix, (spot).x, (spot).y, spot IS NULL, counts, kind, id::text FROM nested")
    assert [row[0] for row in rows] == [["a", None], [], None, ["b"]]
    assert [row[1] for row in rows] == [[[1, 2], []], None, [None, [3]], []]
    assert [row[2:5] for row in rows] == [(1, "p", False), (None, None, True), (None, "q", False), (4, None, False)]
    assert [row[5] for row in rows] == [{"a": 1}, {}, None, {"b": 2, "c": None}]
    assert [row[6] for row in rows] == ["x", "y", None, "x"]
    assert rows[3][7] == "03030303-0303-0303-0303-030303030303"


def test_files_come_while_the_source_is_followed_through_a_kill(server):
    (server.files / "grown").mkdir()
    declare(server, "grown", "n int", ", follow = 'true'")
    session(server, "CREATE MATERIALIZED VIEW seen AS SELECT count(*) AS rows, count(DISTINCT n) AS n FROM grown")
    part = lambda low, high: pyarrow.table({"n": pyarrow.array(range(low, high), pyarrow.int64())})
    rows = lambda: session(server, "SELECT rows, n FROM seen")
    write(server, "grown", part(0, 1000), "a")
    process.until(lambda: rows() == [(1000, 1000)], "the first file")
    writer = pyarrow.parquet.ParquetWriter(server.files / "grown" / "b.parquet", part(0, 1).schema)
    writer.write_table(part(1000, 1500))
    (server.files / "grown" / "c.parquet").write_text("no table")
    process.until(lambda: session(server, "SELECT topic FROM grown_errors") == [("grown/c.parquet",)], "the file that is none")
    server.kill()
    server.start()
    assert process.until(rows, "the view is back") == [(1000, 1000)]
    writer.close()
    write(server, "grown", part(2000, 2500), "d")
    process.until(lambda: rows() == [(2000, 2000)], "the file that is complete now, and another")
    assert session(server, "SELECT count(*) FROM grown_errors") == [(1,)]
