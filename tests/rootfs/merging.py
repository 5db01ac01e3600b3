"""Helpers of the tests of merged layers: a lower layer, and functions that read a merged tree."""

from __future__ import annotations

import stat
from collections.abc import Sequence

import pytest
from layers import rootfs_of
from tarwriter import TarWriter

from fusemount.errors import MalformedImage
from fusemount.rootfs.treetext import dump_lines

TIME = 1_600_000_000_123_456_789


def names(tars: Sequence[bytes], follow: bool = False) -> list[str]:
    """All paths of the merged tree except the root's."""
    with rootfs_of(tars, follow=follow) as view:
        return [line.split(b" ")[0].decode() for line in dump_lines(view)][1:]


def fields(tars: Sequence[bytes], path: str, follow: bool = False) -> list[str]:
    with rootfs_of(tars, follow=follow) as view:
        return next(iter(dump_lines(view, path.encode(), True))).decode().split(" ")


def contents(tars: Sequence[bytes], path: str, follow: bool = False) -> bytes:
    with rootfs_of(tars, follow=follow) as view:
        return view.read(view.tree.resolve(path.encode()), 0, 1 << 20)


def refused(tars: Sequence[bytes]) -> str:
    with pytest.raises(MalformedImage) as caught, rootfs_of(tars):
        pass
    return str(caught.value)


def base() -> TarWriter:
    t = TarWriter().dir(".", mode=0o755, mtime_ns=TIME)
    t.dir("d", mode=0o750, mtime_ns=TIME).file("d/x", b"lower x", mtime_ns=TIME)
    t.dir("d/sub", mtime_ns=TIME).file("d/sub/deep", b"deep", mtime_ns=TIME)
    return t.file("f", b"lower f", mtime_ns=TIME).symlink("l", "d", mtime_ns=TIME)


def inode(tars: Sequence[bytes], *paths: str) -> list[tuple[int, int, bytes]]:
    with rootfs_of(tars) as view:
        found = []
        for path in paths:
            attr = view.getattr(view.tree.resolve(path.encode(), False))
            data = view.read(attr.ino, 0, 99) if stat.S_ISREG(attr.mode) else b""
            found.append((attr.ino, attr.nlink, data))
        return found
