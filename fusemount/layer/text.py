"""Law: prints the text form of a layer's index (native/index/index.h): one line for each member, in
the archive's order.

    kind path mode uid gid size mtime atime ctime rdev link xattrs header extents

Names, links and xattrs are escaped as in `imgmount dump`.  kind is a word.  mode has six octal
digits and includes the file type.  Times are seconds.nanoseconds.  header is the byte offset of the
member's first block.  extents are file-offset+length@archive-offset, joined by ",", or "-".
Whiteouts are shown as the regular files that they are in the archive.
"""

from __future__ import annotations

from collections.abc import Iterator

from fusemount import _native
from fusemount.escape import escape, format_xattrs


def _time(ns: int) -> bytes:
    return b"%d.%09d" % divmod(ns, 10**9)


def _line(m: _native.Member) -> bytes:
    extents = b",".join(b"%d+%d@%d" % extent for extent in m.extents)
    fields = (
        m.kind.encode(),
        escape(b"/" + m.path),
        b"%06o" % m.mode,
        b"%d" % m.uid,
        b"%d" % m.gid,
        b"%d" % m.size,
        _time(m.mtime_ns),
        _time(m.atime_ns),
        _time(m.ctime_ns),
        b"%d:%d" % m.rdev if m.kind in ("char", "block") else b"-",
        escape(m.link) if m.link else b"-",
        format_xattrs(dict(m.xattrs)),
        b"%d" % m.header_offset,
        extents or b"-",
    )
    return b" ".join(fields)


def index_lines(index: _native.LayerIndex) -> Iterator[bytes]:
    """The lines of an index, without line ends."""
    for i in range(len(index)):
        yield _line(index.member(i))
