"""Law: prints the text forms of what is kept of a layer: its index, its access points, and which of
its chunks are kept.

The index (native/index/index.h): one line for each member, in the archive's order.

    kind path mode uid gid size mtime atime ctime rdev link xattrs header extents

Names, links and xattrs are escaped as in `imgmount dump`.  kind is a word.  mode has six octal
digits and includes the file type.  Times are seconds.nanoseconds.  header is the byte offset of the
member's first block.  extents are file-offset+length@archive-offset, joined by ",", or "-".
Whiteouts are shown as the regular files that they are in the archive.

The access points (native/packed/points.h), and the chunks that are kept (chunkfile.h):

    point offset-in-the-tar blob|sidecar offset-there bytes-of-state
    chunk offset-in-the-tar generation seconds-of-its-last-use
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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


def point_lines(points: _native.Points) -> Iterator[bytes]:
    for out, at, state, in_sidecar in points.rows():
        yield b"point %d %s %d %d" % (out, b"sidecar" if in_sidecar else b"blob", at, state)


def chunk_lines(states: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """states: of layer.chunkcache, for all chunks of a tar."""
    for chunk, (generation, used) in enumerate(states):
        if used:
            yield b"chunk %d %d %d" % (chunk * _native.CHUNK, generation, used)
