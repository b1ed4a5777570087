"""Errors of this package.

Invariant: whatever driver an error comes from, users catch `Error` and find the SQLSTATE in it.
"""

from __future__ import annotations

import re
from typing import Optional


class Error(Exception):
    """A statement failed, or the server cannot be reached."""

    def __init__(self, message: str, sqlstate: Optional[str] = None, detail: Optional[str] = None, hint: Optional[str] = None):
        super().__init__(message)
        self.sqlstate = sqlstate
        self.detail = detail
        self.hint = hint


class SubscriptionLost(Error):
    """A subscription cannot continue without a gap; `mark` is up to where its changes are complete."""

    def __init__(self, message: str, mark: Optional[int], sqlstate: Optional[str] = None, detail: Optional[str] = None):
        super().__init__(message, sqlstate, detail, "Subscribe again with a snapshot.")
        self.mark = mark


def from_psycopg(error: Exception) -> Error:
    """psycopg's error with the fields that the server sent."""
    diagnosis = getattr(error, "diag", None)
    return Error(
        (diagnosis and diagnosis.message_primary) or str(error),
        getattr(error, "sqlstate", None),
        diagnosis and diagnosis.message_detail,
        diagnosis and diagnosis.message_hint,
    )


def from_flight(error: Exception) -> Error:
    """ADBC's error; the server writes the SQLSTATE into the message."""
    found = re.search(r"\(SQLSTATE ([0-9A-Z]{5})\)", str(error))
    return Error(str(error), found.group(1) if found else None)
