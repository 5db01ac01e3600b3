"""Parses `--filter KEY=VALUE` into a Selection.

Law: a key that the verb does not take is an error.

dangling=true|false  label=KEY[=VALUE]  label!=KEY[=VALUE]  reference=GLOB
before=IMAGE  since=IMAGE  until=2024-01-02[T03:04:05[Z]]|UNIX-TIME|24h30m
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from fusemount.errors import UsageError

if TYPE_CHECKING:
    from fusemount.store import Store
    from fusemount.store.listing import Selection

_TRUE, _FALSE = ("1", "t", "T", "true", "TRUE", "True"), ("0", "f", "F", "false", "FALSE", "False")
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:h|m|s|ms|us|ns))+")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def add_filter(parser: argparse.ArgumentParser, keys: Sequence[str], *short: str) -> None:
    parser.add_argument(*short, "--filter", action="append", default=[], metavar="KEY=VALUE",
                        help=f"only those: {', '.join(keys)}")  # fmt: skip


def parse_filters(
    texts: Sequence[str], keys: Sequence[str], store: Store, reference: str | None = None
) -> Selection:
    """keys: the keys that the verb takes.  reference: one more value of the key `reference`.

    Raises UsageError, and ImageNotFound for before= and since=.
    """
    from fusemount.store.listing import Selection, moment

    by_key: dict[str, list[str]] = {}
    for text in texts:
        key, value = _split(text, keys)
        by_key.setdefault(key, []).append(value)
    times = {
        key: [moment(store.find(value).summary.created) for value in by_key.get(key, [])]
        for key in ("before", "since")
    }
    dangling = {_truth(value) for value in by_key.get("dangling", [])}
    if len(dangling) > 1:
        raise UsageError("--filter: dangling=true and dangling=false leave nothing")
    until = [_until(value) for value in by_key.get("until", [])]
    return Selection(
        references=(*by_key.get("reference", ()), *((reference,) if reference else ())),
        dangling=dangling.pop() if dangling else None,
        labels=tuple(map(_label, by_key.get("label", ()))),
        without=tuple(map(_label, by_key.get("label!", ()))),
        before=min(times["before"], default=None),
        since=max(times["since"], default=None),
        until=min(until, default=None),
    )


def _split(text: str, keys: Sequence[str]) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    key = key.strip().lower()
    if not sign:
        raise UsageError(f"--filter {text}: expected KEY=VALUE")
    if key.removesuffix("!") not in keys or (key.endswith("!") and key != "label!"):
        raise UsageError(f"--filter {text}:  no filter {key!r}; there are {', '.join(keys)}")
    return key, value.strip()


def _truth(value: str) -> bool:
    if value not in (*_TRUE, *_FALSE):
        raise UsageError(f"--filter dangling={value}: expected true or false")
    return value in _TRUE


def _label(value: str) -> tuple[str, str | None]:
    key, sign, wanted = value.partition("=")
    return key, wanted if sign else None


def _until(text: str) -> datetime:
    """Parses docker's timestamps (api/types/time/timestamp.go); a duration counts back from now."""
    if _DURATION.fullmatch(text):
        seconds = sum(
            float(number) * _UNITS[unit]
            for number, unit in re.findall(r"([\d.]+)(ms|us|ns|h|m|s)", text)
        )
        return datetime.now(UTC) - timedelta(seconds=seconds)
    try:
        if re.fullmatch(r"\d+(\.\d+)?", text) and "-" not in text:
            return datetime.fromtimestamp(float(text), UTC)
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"--filter until={text}: neither a time (2024-01-02T03:04:05Z) nor a duration (24h)"
        ) from None
    return found if found.tzinfo is not None else found.astimezone()
