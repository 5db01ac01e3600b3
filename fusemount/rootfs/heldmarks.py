"""Law: reads and writes the text of the marks `held` and `times`, which keep attributes of an
object while a copy-up changes them.

objects.py has the format, copyup.py the rules (C4, C6).
"""

from __future__ import annotations

import re

from fusemount.dataclass import dataclass


@dataclass(frozen=True)
class Held:
    """The attributes of a file that the mark `held` keeps; the mode is the 07777 part."""

    mode: int
    atime_ns: int
    mtime_ns: int
    capability: bytes | None


def format_held(held: Held) -> bytes:
    capability = b"-" if held.capability is None else held.capability.hex().encode()
    return b"%o %d %d %s" % (held.mode, held.atime_ns, held.mtime_ns, capability)


_HELD = re.compile(rb"([0-7]{1,4}) (-?\d{1,20}) (-?\d{1,20}) (-|(?:[0-9a-f]{2}){1,64})")
_TIMES = re.compile(rb"(-?\d{1,20}) (-?\d{1,20})")


def parse_held(text: bytes | None) -> Held | None:
    """None for a mark that is not there or that we did not write."""
    parts = _HELD.fullmatch(text or b"")
    if not parts:
        return None
    capability = None if parts[4] == b"-" else bytes.fromhex(parts[4].decode())
    return Held(int(parts[1], 8), int(parts[2]), int(parts[3]), capability)


def parse_times(text: bytes | None) -> tuple[int, int] | None:
    """(atime, mtime) in ns of the mark `times`; None as for parse_held."""
    parts = _TIMES.fullmatch(text or b"")
    return (int(parts[1]), int(parts[2])) if parts else None
