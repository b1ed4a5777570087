"""Subscriptions: the changes of a relation, epoch by epoch.

Invariant: every epoch is yielded whole and once. What was received of an epoch without its progress mark is thrown away when the
connection breaks, because the server sends it again after the last mark.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple

import psycopg

from .errors import Error, SubscriptionLost, from_psycopg
from .result import Row, to_table

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0


@dataclasses.dataclass(frozen=True)
class Changes:
    """What one epoch changed."""

    epoch: int
    """The epoch; of a mark without changes, the one before the mark."""
    mark: int
    """Nothing below this will follow; `subscribe(after=mark)` continues here."""
    snapshot: bool
    """The rows are the whole content, not changes of it."""
    rows: List[Tuple[int, Row]]
    """`(diff, row)`: how many copies came (positive) or went (negative)."""
    columns: List[str]
    types: Sequence[Tuple[int, int]] = dataclasses.field(repr=False, default=())

    def to_arrow(self) -> Any:
        """A `pyarrow.Table` with `_diff` as its first column."""
        rows = [(diff, *row) for diff, row in self.rows]
        return to_table(["_diff", *self.columns], [(20, -1), *self.types], rows)


class Subscription:
    """Iterates over `Changes`. It has a connection of its own, which `close()` or the end of a `with` block closes.

    - `after`: continue from this mark instead of starting with a snapshot; `snapshot=False` starts with the next change.
    - `up_to`: end when nothing below this epoch is missing.
    - `progress`: also yield marks without changes, at least every `heartbeat_s` seconds.
    - `reconnect_s`: how long to try again after a broken connection; 0 raises at once.
    - `on_loss`: `"raise"` SubscriptionLost when the changes cannot be continued, or begin again with a `"snapshot"`.
    """

    def __init__(
        self,
        conninfo: str,
        relation: Optional[str] = None,
        *,
        query: Optional[str] = None,
        snapshot: bool = True,
        after: Optional[int] = None,
        up_to: Optional[int] = None,
        progress: bool = False,
        heartbeat_s: float = 5.0,
        reconnect_s: float = 60.0,
        on_loss: str = "raise",
        sleep: Callable[[float], None] = time.sleep,
    ):
        if (relation is None) == (query is None):
            raise ValueError("give either a relation or query=")
        if on_loss not in ("raise", "snapshot"):
            raise ValueError('on_loss is "raise" or "snapshot"')
        self.mark: Optional[int] = after
        """Up to where changes were yielded."""
        self.columns: List[str] = []
        self.connections = 0
        """Connections made so far."""
        self._conninfo, self._followed = conninfo, relation if query is None else f"({query})"
        self._snapshot, self._up_to, self._progress = snapshot, up_to, progress
        self._heartbeat_ms = max(1, int(heartbeat_s * 1000))
        self._reconnect_s, self._on_loss, self._sleep = reconnect_s, on_loss, sleep
        self._types: Sequence[Tuple[int, int]] = ()
        self._connection: Optional[psycopg.Connection[Any]] = None
        self._closed = False
        self._changes = self._run()

    def __iter__(self) -> Iterator[Changes]:
        return self

    def __next__(self) -> Changes:
        return next(self._changes)

    def __enter__(self) -> "Subscription":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Ends the subscription; safe to call from another thread."""
        self._closed = True
        if self._connection is not None:
            try:
                self._connection.cancel_safe(timeout=1.0)
            except Exception:  # The server may be gone, which ends the subscription as well.
                pass
            self._connection.close()

    def _statement(self) -> str:
        options = [f"PROGRESS = true, HEARTBEAT = '{self._heartbeat_ms}ms'"]
        if self.mark is None and not self._snapshot:
            options.append("SNAPSHOT = false")
        text = f"SUBSCRIBE TO {self._followed} WITH ({', '.join(options)})"
        if self.mark is not None:
            text += f" AFTER {self.mark}"
        return text if self._up_to is None else f"{text} UP TO {self._up_to}"

    def _run(self) -> Iterator[Changes]:
        pause, deadline = _FIRST_PAUSE_S, None
        while not self._closed:
            try:
                for changes in self._follow():
                    pause, deadline = _FIRST_PAUSE_S, None
                    if changes is not None:
                        yield changes
                return
            except psycopg.Error as error:
                if self._closed:
                    return
                if not _broken(error):
                    if not self._lost(error):
                        raise from_psycopg(error) from error
                    continue
                now = time.monotonic()
                deadline = deadline or now + self._reconnect_s
                if now >= deadline:
                    raise from_psycopg(error) from error
                self._sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_S)

    def _lost(self, error: psycopg.Error) -> bool:
        """True when the subscription begins again with a snapshot; raises when it cannot go on without a gap."""
        state = error.sqlstate
        # 55000 is also said of a view that was dropped or is in state ERROR, which a snapshot would not help.
        forgotten = state == "55000" and "not kept" in str(error)
        if state != "53400" and not forgotten:
            return False
        if self._on_loss == "raise" or (state == "53400" and self._closed):
            found = from_psycopg(error)
            raise SubscriptionLost(str(found), self.mark, state, found.detail) from error
        self.mark, self._snapshot = None, True
        return True

    def _follow(self) -> Iterator[Optional[Changes]]:
        """One connection's worth; `None` says that it works."""
        self.connections += 1
        connection = self._connection = psycopg.connect(self._conninfo, autocommit=True)
        try:
            yield from self._epochs(connection.cursor())
        finally:
            connection.close()

    def _epochs(self, cursor: Any) -> Iterator[Optional[Changes]]:
        first = self.mark is None
        rows: List[Tuple[int, Row]] = []
        epoch = -1
        for ts, progressed, diff, *row in cursor.stream(self._statement()):
            if not self.columns:
                self._describe(cursor)
            if not progressed:
                epoch = ts
                rows.append((diff, tuple(row)))
                continue
            self.mark = ts
            whole = first and self._snapshot
            if rows or whole or self._progress:
                yield Changes(epoch if rows else ts - 1, ts, whole, rows, self.columns, self._types)
            else:
                yield None
            first, rows = False, []
        if rows:
            raise Error("the subscription ended in the middle of an epoch", "08006")

    def _describe(self, cursor: Any) -> None:
        description, result = cursor.description or (), cursor.pgresult
        self.columns = [column.name for column in description[3:]]
        self._types = [(result.ftype(at), result.fmod(at)) for at in range(3, len(description))]


def _broken(error: psycopg.Error) -> bool:
    """True when the connection ended, and not the statement."""
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError)
    return state.startswith("08") or state in ("57P01", "57P02", "57P03", "53300")
