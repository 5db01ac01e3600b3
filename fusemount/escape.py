r"""Law: bytes as printable fields, so that any name survives a line of text and comes back.

A byte outside printable ASCII, a space, a backslash, and a "-" that is a whole field: \xNN.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_UNSAFE = re.compile(rb"[^!-\[\]-~]")
_UNSAFE_XATTR = re.compile(rb"[^!-+\--<>-\[\]-~]")  # "," and "=" as well


def _hex(match: re.Match[bytes]) -> bytes:
    return b"\\x%02x" % match.group()[0]


def escape(raw: bytes) -> bytes:
    """A field that holds any bytes; an empty one is empty."""
    return _UNSAFE.sub(_hex, raw) if raw != b"-" else b"\\x2d"


def format_xattrs(xattrs: Mapping[bytes, bytes]) -> bytes:
    """name=value,name=value by name, or "-"."""
    pairs = (
        _UNSAFE_XATTR.sub(_hex, name) + b"=" + _UNSAFE_XATTR.sub(_hex, value)
        for name, value in sorted(xattrs.items())
    )
    return b",".join(pairs) or b"-"
