r"""Law: escapes untrusted bytes and text for output: as fields of the text form, which can be read
back, and as text for people, so that a name can neither break a line nor control a terminal.

Fields: a byte outside printable ASCII, a space, a backslash, and a field that is only "-": \xNN.
Text: a character that cannot be printed is \xNN, \uNNNN or \n; a byte that is no UTF-8 is \xNN.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_UNSAFE = re.compile(rb"[^!-\[\]-~]")
_UNSAFE_XATTR = re.compile(rb"[^!-+\--<>-\[\]-~]")  # "," and "=" as well


def _hex(match: re.Match[bytes]) -> bytes:
    return b"\\x%02x" % match.group()[0]


def escape(raw: bytes) -> bytes:
    """The bytes as one field; no bytes give an empty field."""
    return _UNSAFE.sub(_hex, raw) if raw != b"-" else b"\\x2d"


def printable(text: str, kept: str = "") -> str:
    """The text for people.  kept: unprintable characters that are not escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else _legible(c) for c in text)


def quoted(text: str) -> str:
    """A name in a message, in quotes."""
    return "'" + printable(text).replace("'", "\\'") + "'"


def _legible(character: str) -> str:
    """One unprintable character, escaped; os.fsdecode() uses U+DC80 to U+DCFF for bytes that are no
    UTF-8."""
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    number = ord(character)  # no codec: `run` imports nothing when it is in an image's root
    if character in "\t\n\r":
        return {"\t": "\\t", "\n": "\\n", "\r": "\\r"}[character]
    return f"\\x{number:02x}" if number < 0x100 else _beyond_latin(number)


def _beyond_latin(number: int) -> str:
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def format_xattrs(xattrs: Mapping[bytes, bytes]) -> bytes:
    """name=value,name=value by name, or "-"."""
    pairs = (
        _UNSAFE_XATTR.sub(_hex, name) + b"=" + _UNSAFE_XATTR.sub(_hex, value)
        for name, value in sorted(xattrs.items())
    )
    return b",".join(pairs) or b"-"
