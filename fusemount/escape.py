r"""Law: bytes as printable fields, so that any name survives a line of text and comes back; and
text as lines that people read, which no stranger's word can break or drive a terminal with.

Fields: a byte outside printable ASCII, a space, a backslash, and a "-" that is a whole field: \xNN.
Lines: what cannot be printed is \xNN, \uNNNN or \n; a byte that is no UTF-8 is \xNN.
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


def printable(text: str, kept: str = "") -> str:
    """For people.  kept: unprintable characters that stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else _legible(c) for c in text)


def quoted(text: str) -> str:
    """A name in a message, in quotes."""
    return "'" + printable(text).replace("'", "\\'") + "'"


def _legible(character: str) -> str:
    """os.fsdecode() has U+DC80 to U+DCFF for bytes that are no UTF-8."""
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def format_xattrs(xattrs: Mapping[bytes, bytes]) -> bytes:
    """name=value,name=value by name, or "-"."""
    pairs = (
        _UNSAFE_XATTR.sub(_hex, name) + b"=" + _UNSAFE_XATTR.sub(_hex, value)
        for name, value in sorted(xattrs.items())
    )
    return b",".join(pairs) or b"-"
