"""Law: where words meet a terminal.  Names, labels, tags and error bodies come from strangers: a
message is one line, and nothing but this program moves a cursor, sets a title or clears a screen.

What goes to a file or a pipe stays as it is; tables and messages are legible there too.
"""

from __future__ import annotations

import io
import re
import sys
from typing import TextIO, cast

from fusemount.escape import printable

_KEPT = "\n\t"
# repr() of a name has U+DC80 to U+DCFF for bytes that are no UTF-8
_REPR_OF_BYTE = re.compile(r"(?<!\\)\\udc([89a-f][0-9a-f])")


class Terminal(io.TextIOWrapper):
    """Standard output where it is a terminal."""

    def write(self, text: str) -> int:
        return super().write(printable(text, _KEPT))


def guard_output() -> None:
    """Makes standard output fit for strangers' words; a byte that is no UTF-8 is no error."""
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
    """Our own control codes, to a terminal."""
    sys.stdout.flush()
    sys.stdout.buffer.write(codes.encode())


def message_line(text: str) -> str:
    """One line for a person, whatever is in it."""
    return _REPR_OF_BYTE.sub(r"\\x\1", printable(text))


def tell(text: str) -> None:
    """A line on standard error."""
    sys.stderr.write(f"imgmount: {message_line(text)}\n")
