"""Formats times and sizes as docker does (go-units)."""

from __future__ import annotations

import re
from datetime import UTC, datetime


def age(created: str, now: datetime) -> str:
    """duration() with "ago".  Returns a time that cannot be parsed as it is, and "N/A" for ""."""
    try:
        then = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", created))
        return duration(then.replace(tzinfo=then.tzinfo or UTC), now) + " ago"
    except (ValueError, OverflowError):  # a time zone may lead beyond the year 9999
        return created or "N/A"


def local_time(created: str) -> str:
    """The local time by RFC 3339, in whole seconds.

    Returns Go's zero time for "", and a time that cannot be parsed as it is.
    """
    try:
        then = datetime.fromisoformat(created)
        then = then.replace(tzinfo=then.tzinfo or UTC, microsecond=0).astimezone()
    except (ValueError, OverflowError):
        return created or "0001-01-01T00:00:00Z"
    return then.isoformat().removesuffix("+00:00") + ("" if then.utcoffset() else "Z")


def duration(then: datetime, now: datetime) -> str:
    """The time between the two, as go-units' HumanDuration writes it."""
    seconds = int((now - then).total_seconds())
    minutes, hours = seconds // 60, round(seconds / 3600)
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return "1 second" if seconds == 1 else f"{seconds} seconds"
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{hours // 24 // 365} years"


def human_size(size: int) -> str:
    """The size as go-units' HumanSize writes it: powers of 1000, three significant digits."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.3g}{unit}"
