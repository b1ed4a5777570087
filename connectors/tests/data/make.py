"""Writes pyarrow.parquet and int96.parquet, which `columnar` is tested with: types as pyarrow has them."""

import datetime
import decimal

import pyarrow
import pyarrow.parquet

MOMENTS = [datetime.datetime(2024, 2, 29, 1, 2, 3, 123456), None, datetime.datetime(1969, 12, 31, 23, 59, 59)]
columns = {
    "i1": pyarrow.array([1, None, -3], pyarrow.int8()),
    "u8": pyarrow.array([2**63, None, 0], pyarrow.uint64()),
    "f2": pyarrow.array([0.5, None, -2.0], pyarrow.float16()),
    "d": pyarrow.array([decimal.Decimal("12.50"), None, decimal.Decimal("-0.01")], pyarrow.decimal128(5, 2)),
    "wide": pyarrow.array([decimal.Decimal("1.5"), None, decimal.Decimal(10) ** 40], pyarrow.decimal256(50, 1)),
    "s": pyarrow.array(MOMENTS, pyarrow.timestamp("us")).cast(pyarrow.timestamp("s"), safe=False),
    "ms": pyarrow.array(MOMENTS, pyarrow.timestamp("us")).cast(pyarrow.timestamp("ms"), safe=False),
    "us": pyarrow.array(MOMENTS, pyarrow.timestamp("us", "Europe/Berlin")),
    "ns": pyarrow.array(MOMENTS, pyarrow.timestamp("ns")),
    "day": pyarrow.array([datetime.date(2024, 2, 29), None, datetime.date(1, 1, 1)]),
    "clock": pyarrow.array([datetime.time(1, 2, 3, 4), None, datetime.time(0)], pyarrow.time64("ns")),
    "span": pyarrow.array([1500, None, -1], pyarrow.duration("ms")),
    "word": pyarrow.array(["a", None, "\u00e9"]).dictionary_encode(),
    "id": pyarrow.array([bytes([7]) * 16, None, bytes(16)], pyarrow.binary(16)),
    "words": pyarrow.array([["a", None], None, []]),
    "spot": pyarrow.array([{"x": 1, "Y": ["p"]}, None, {"x": None, "Y": None}]),
    "counts": pyarrow.array([[("a", 1)], None, [("b", None)]], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
}
pyarrow.parquet.write_table(pyarrow.table(columns), "pyarrow.parquet", compression="zstd")
far = [datetime.datetime(2024, 2, 29, 1, 2, 3, 123456), None, datetime.datetime(1969, 12, 31, 23, 59, 59, 999999)]
table = pyarrow.table({"at": pyarrow.array(far, pyarrow.timestamp("us"))})
pyarrow.parquet.write_table(table, "int96.parquet", use_deprecated_int96_timestamps=True, compression="snappy")
