"""Guards the terminal against control codes in untrusted text: names, labels, tags, error bodies.

Law: a message is one line, and only our own code moves a cursor, sets a title or clears a screen.
Output to a file or a pipe is not changed; tables and messages are escaped there too.
"""

from __future__ import annotations

import io
import re
import sys
from typing import TextIO, cast

from fusemount.escape import printable

_KEPT = "\n\t"
# repr() of a name shows bytes that are not UTF-8 as U+DC80 to U+DCFF.
_REPR_OF_BYTE = re.compile(r"(?<!\\)\\udc([89a-f][0-9a-f])")


class Terminal(io.TextIOWrapper):
    """Standard output that is a terminal: escapes unprintable characters."""

    def write(self, text: str) -> int:
        return super().write(printable(text, _KEPT))


def guard_output() -> None:
    """Makes standard output safe for untrusted text; a byte that is not UTF-8 is no error."""
    out = sys.stdout
    if not isinstance(out, io.TextIOWrapper):
        return
    if not out.isatty():
        out.reconfigure(errors="surrogateescape")
        return
    encoding, number = out.encoding, out.fileno()
    binary = open(number, "wb", closefd=False)
    guarded = Terminal(binary, encoding, errors="backslashreplace", line_buffering=True)
    sys.stdout = cast(TextIO, guarded)


def drive(codes: str) -> None:
    """Writes our own control codes to a terminal."""
    sys.stdout.flush()
    sys.stdout.buffer.write(codes.encode())


def message_line(text: str) -> str:
    """The text as one printable line, with readable escapes."""
    return _REPR_OF_BYTE.sub(r"\\x\1", printable(text))


def tell(text: str) -> None:
    """Prints a line on standard error."""
    sys.stderr.write(f"imgmount: {message_line(text)}\n")
