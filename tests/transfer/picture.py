"""The image that tests of transfers use, and its dump."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from busyboximage import busybox_layers
from tarwriter import TarWriter

TIME = 1_400_000_000_123_456_789


def image_layers() -> list[bytes]:
    """busybox, and a second layer that removes, replaces and links files."""
    low = TarWriter().dir("d", mtime_ns=TIME).dir("d/sub", mtime_ns=TIME)
    low.file("d/a", b"a" * 70_000, mtime_ns=TIME).file("d/sub/b", b"b").file("gone", b"g")
    low.file("one", b"linked", mode=0o4755, uid=7, gid=8).hardlink("d/two", "one")
    low.file("tagged", b"", xattrs={"user.note": b"a=b"}).symlink("dangle", "nowhere")
    top = TarWriter().whiteout("gone").dir("d", mtime_ns=TIME).dir("d/sub", mtime_ns=TIME)
    top.opaque("d/sub").file("d/sub/c", b"c")
    return [*busybox_layers(), low.tar(), top.tar()]


@dataclass(frozen=True)
class Pictured:
    """One image as archive:NAME and oci:layout:t, its layers gzipped there; lines: its dump."""

    archive: Path
    layout: Path
    layers: list[bytes]
    lines: list[bytes]
