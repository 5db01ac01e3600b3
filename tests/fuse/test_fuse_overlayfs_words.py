"""`noxattrs` and `static_nlink`: fuse-overlayfs is the oracle."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mounted import Command
from oracle import run


@contextmanager
def mounted(command: Command | None, base: Path, option: str) -> Iterator[Path]:
    """Mounts with imgmount or with fuse-overlayfs."""
    words = f"lowerdir={base}/low,upperdir={base}/up,workdir={base}/work,{option}"
    if command is None:
        run("fuse-overlayfs", "-o", words, base / "mnt")
    else:
        command("-o", f"{words},fastpath={'on' if command.fastpath else 'off'}", base / "mnt")
    try:
        yield base / "mnt"
    finally:
        if command is None:
            run("umount", base / "mnt")
        else:
            command("umount", base / "mnt")


def refused(call: object, *arguments: object) -> int:
    try:
        call(*arguments)  # type: ignore[operator]
    except OSError as error:
        return error.errno or 0
    return 0


def seen(at: Path) -> list[object]:
    """The results that these options change."""
    os.mkdir(at / "d/made")
    links = [os.stat(at / name).st_nlink for name in (".", "d", "d/made", "d/sub", "f")]
    codes = [
        refused(os.getxattr, at / "f", "user.x"),
        refused(os.listxattr, at / "f"),
        refused(os.setxattr, at / "f", "user.y", b"1"),
        refused(os.setxattr, at / "d", "trusted.y", b"1"),
    ]
    os.chmod(at / "f", 0o600)  # copies up, xattrs too
    return [links, codes]


@pytest.mark.parametrize("option", ["noxattrs=1", "static_nlink"])
def test_as_fuse_overlayfs_has_them(tmp_path: Path, fastpath: bool, option: str) -> None:
    both = []
    for command in (Command(tmp_path / "ours", fastpath), None):
        base = tmp_path / ("ours" if command else "theirs")
        for name in ("low/d/sub", "up", "work", "mnt"):
            (base / name).mkdir(parents=True)
        (base / "low/f").write_text("lower")
        os.setxattr(base / "low/f", "user.x", b"y")
        with mounted(command, base, option) as at:
            both.append(seen(at))
        assert os.getxattr(base / "up/f", "user.x") == b"y"
    assert both[0] == both[1]
    assert (both[0][0][1] == 1) == (option == "static_nlink")  # type: ignore[index]
    assert (errno.EOPNOTSUPP in both[0][1]) == (option == "noxattrs=1")  # type: ignore[operator]


def test_without_xattrs_no_write_is_lost(tmp_path: Path) -> None:
    """The kernel then announces no first write, so nothing may be pushed into the page cache."""
    for name in ("low/d", "up", "work", "mnt"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "low/d/a").write_bytes(b"a")
    (tmp_path / "low/d/b").write_bytes(b"L" * 4096)
    with mounted(Command(tmp_path, fastpath=True), tmp_path, "noxattrs=1") as at:
        with open(at / "d/b", "r+b", buffering=0) as file:
            file.write(b"W" * 4096)
            assert (at / "d/a").read_bytes() == b"a"
            time.sleep(0.3)  # a push of b would come now
            assert (at / "d/b").read_bytes() == b"W" * 4096
