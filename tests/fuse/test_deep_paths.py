"""R 38: objects whose path is too long for a mark can be changed like all others.

overlayfs names a place in the layers by its whole path, in an xattr, and ext4 has one block for all
xattrs of an object.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mounted import Command, Workshop
from oracle import dump_directory
from tarwriter import TarWriter

TIME = 1_600_000_000_123_456_789


@pytest.mark.parametrize("depth", [4, 11, 19])
def test_r38_changes_far_down(tmp_path: Path, fastpath: bool, depth: int) -> None:
    """Paths of 800, 2,200 and 3,800 bytes; a mark with the longer ones does not fit on ext4."""
    way = [f"{i:0200}" for i in range(depth)]
    layer = TarWriter()
    for i in range(depth):
        layer.dir("/".join(way[: i + 1]), mtime_ns=TIME)
    deep = "/".join(way)
    for name in ("chmod", "link", "move", "touch", "xattr", "write", "cut", "h1"):
        layer.file(f"{deep}/{name}", b"data " * 1000, mtime_ns=TIME)
    layer.hardlink(f"{deep}/h2", f"{deep}/h1").symlink(f"{deep}/l", "x", mtime_ns=TIME)
    layer.dir(f"{deep}/sub", mtime_ns=TIME).file(f"{deep}/sub/f", b"below", mtime_ns=TIME)
    workshop = Workshop(Command(tmp_path / "dirs", fastpath), tmp_path, [layer.tar()])
    with workshop.mounted() as at:
        here = os.open(at, os.O_DIRECTORY)
        for name in way:
            above, here = here, os.open(name, os.O_DIRECTORY, dir_fd=here)
            os.close(above)
        _change(f"/proc/self/fd/{here}")
        os.close(here)
        seen = dump_directory(at)
    workshop.check_upper(seen)


def _change(here: str) -> None:
    os.chmod(f"{here}/chmod", 0o600)
    os.link(f"{here}/link", f"{here}/linked")
    os.rename(f"{here}/move", f"{here}/moved")
    os.utime(f"{here}/touch", ns=(TIME, TIME + 1))
    os.setxattr(f"{here}/xattr", "user.a", b"b")
    os.lchown(f"{here}/l", 5, 6)
    with open(f"{here}/write", "r+b") as f:
        f.write(b"NEW")
        f.flush()
        os.fsync(f.fileno())
    os.truncate(f"{here}/cut", 7)
    os.chmod(f"{here}/h1", 0o640)
    os.truncate(f"{here}/h2", 9)
    os.rename(f"{here}/sub", f"{here}/sub2")
    assert os.listdir(f"{here}/sub2") == ["f"]
