"""The result of a query, as rows or as a table of the library that is wanted.

Invariant: rows and Arrow hold the same values; an Arrow column has the type that the server's type maps to, also when it is empty
or all NULL.
"""

from __future__ import annotations

import json
import uuid
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

Row = Tuple[Any, ...]

_SCALARS = {
    16: "bool_", 17: "binary", 18: "string", 19: "string", 20: "int64", 21: "int16", 23: "int32", 25: "string", 26: "int64",
    114: "string", 700: "float32", 701: "float64", 1042: "string", 1043: "string", 1082: "date32", 1186: "month_day_nano_interval",
    2950: "string", 3802: "string",
}
_ARRAYS = {
    1000: 16, 1001: 17, 1005: 21, 1007: 23, 1009: 25, 1014: 1042, 1015: 1043, 1016: 20, 1021: 700, 1022: 701, 1028: 26, 1115: 1114,
    1182: 1082, 1183: 1083, 1185: 1184, 1187: 1186, 1231: 1700, 199: 114, 2951: 2950, 3807: 3802,
}


def arrow_type(oid: int, typmod: int = -1) -> Any:
    """The Arrow type of a Postgres type."""
    import pyarrow

    if oid in _ARRAYS:
        return pyarrow.list_(arrow_type(_ARRAYS[oid], typmod))
    if oid == 1700:
        # A bare numeric is what the server computes with; its values may be integers beyond that scale.
        return pyarrow.decimal128((typmod - 4) >> 16 & 0xFFFF, typmod - 4 & 0x7FF) if typmod >= 4 else pyarrow.decimal128(38, 10)
    if oid == 1083:
        return pyarrow.time64("us")
    if oid == 1114:
        return pyarrow.timestamp("us")
    if oid == 1184:
        return pyarrow.timestamp("us", "UTC")
    return getattr(pyarrow, _SCALARS.get(oid, "string"))()


def arrow_value(oid: int, value: Any) -> Any:
    """A value of psycopg as pyarrow takes it."""
    if value is None:
        return None
    if oid in _ARRAYS:
        return [arrow_value(_ARRAYS[oid], item) for item in value]
    if oid in (114, 3802):
        return value if isinstance(value, str) else json.dumps(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    if oid == 1186:
        return (0, value.days, (value.seconds * 1_000_000 + value.microseconds) * 1000)
    return value


class Result:
    """Columns and rows. Iterating gives the rows."""

    def __init__(self, columns: Sequence[str], rows: Optional[List[Row]] = None, types: Sequence[Tuple[int, int]] = (), table: Any = None):
        self.columns = list(columns)
        self._rows, self._types, self._table = rows, types, table

    @property
    def rows(self) -> List[Row]:
        """All rows as tuples."""
        if self._rows is None:
            values = [column.to_pylist() for column in self._table.columns]
            self._rows = list(zip(*values)) if values else [()] * self._table.num_rows
        return self._rows

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows) if self._table is None else self._table.num_rows

    def to_dicts(self) -> List[Dict[str, Any]]:
        """All rows as dictionaries."""
        return [dict(zip(self.columns, row)) for row in self.rows]

    def to_arrow(self) -> Any:
        """A `pyarrow.Table`."""
        if self._table is None:
            self._table = to_table(self.columns, self._types, self.rows)
        return self._table

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame`."""
        return self.to_arrow().to_pandas()

    def to_polars(self) -> Any:
        """A `polars.DataFrame`."""
        import polars

        return polars.from_arrow(self.to_arrow())


def to_table(columns: Sequence[str], types: Sequence[Tuple[int, int]], rows: Sequence[Row]) -> Any:
    """A `pyarrow.Table` of psycopg's rows."""
    import pyarrow

    arrays = []
    for at, (oid, typmod) in enumerate(types):
        values = [arrow_value(oid, row[at]) for row in rows]
        arrays.append(pyarrow.array(values, type=arrow_type(oid, typmod)))
    return pyarrow.Table.from_arrays(arrays, names=list(columns))
