"""Reads SOURCE_DATE_EPOCH (https://reproducible-builds.org/specs/source-date-epoch/)."""

from __future__ import annotations

import os

from fusemount.errors import UsageError

_MAX = 253402300799  # the last second of the year 9999


def source_date_epoch() -> int | None:
    """Seconds since 1970; None if it is not set.  Raises UsageError."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if text.isascii() and text.isdecimal() and int(text[:13]) <= _MAX and len(text) <= 13:
        return int(text)
    raise UsageError(f"SOURCE_DATE_EPOCH={text}: not a number of seconds since 1970")
