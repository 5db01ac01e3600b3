"""Law: reads the bytes of one file through the RootFs; holes are not read.

A hole costs nothing to make, but much to write out or to hash as zeros, so these zeros are counted.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from fusemount._native import Attr
from fusemount.budget import Holes
from fusemount.errors import ImgmountError
from fusemount.rootfs.view import RootFs

PIECE = 1 << 20
_ZEROS = bytes(PIECE)


def contents(rootfs: RootFs, attr: Attr, path: bytes, holes: Holes) -> Iterator[bytes]:
    """Exactly attr.size bytes of a file, in pieces.

    Raises ImgmountError, which names path; MalformedImage beyond the limit that `holes` has.
    """
    at = 0
    where = "/" + os.fsdecode(path.lstrip(b"/"))
    try:
        for start, length in data_runs(rootfs, attr):
            holes.spend(where, attr.size, start - at)
            yield from _zeros(start - at)
            at = start
            while at < start + length:
                piece = rootfs.read(attr.ino, at, min(PIECE, start + length - at))
                if not piece:
                    raise EOFError
                yield piece
                at += len(piece)
    except EOFError:
        raise ImgmountError(f"{where}: shrank while it was read") from None
    except FileNotFoundError:
        raise ImgmountError(f"{where}: was taken away while it was read") from None
    except OSError as error:
        raise ImgmountError(f"{where}: cannot be read: {error.strerror or error}") from error
    holes.spend(where, attr.size, attr.size - at)
    yield from _zeros(attr.size - at)


def _zeros(count: int) -> Iterator[bytes]:
    for at in range(0, count, PIECE):
        yield _ZEROS[: min(PIECE, count - at)]


def data_runs(rootfs: RootFs, attr: Attr) -> Iterator[tuple[int, int]]:
    """(offset, length) of each run of data between the holes of a file. Raises OSError; EOFError if
    the file is shorter than attr.size."""
    if rootfs.native is None or rootfs.leases is None or not attr.upper or attr.meta:
        end = 0
        while end < attr.size and (run := rootfs.tree.next_data(attr.ino, end)):
            start, end = run[0], min(sum(run), attr.size)
            if start < end:
                yield start, end - start
        return
    rootfs.leases.open_file(attr.ino)
    fd = rootfs.native.pin(attr.ino)
    try:
        end = 0
        while end < attr.size:
            start = _next_data(fd, end)
            if start >= attr.size:
                break
            end = min(os.lseek(fd, start, os.SEEK_HOLE), attr.size)
            yield start, end - start
        if os.fstat(fd).st_size < attr.size:
            raise EOFError
    finally:
        rootfs.native.unpin(attr.ino)


def _next_data(fd: int, offset: int) -> int:
    """The offset of the next data; 2^63, beyond any file, if only a hole follows."""
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return 2**63
