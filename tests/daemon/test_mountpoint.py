"""Which directories may be mounted on, and the error lines for the others."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fusemount.daemon.channel import mount_flags
from fusemount.daemon.mountpoint import open_mountpoint, unmount
from fusemount.errors import MountpointError


def check_mountpoint(path: Path, *, nonempty: bool = False) -> Path:
    with open_mountpoint(path, nonempty=nonempty) as found:
        assert os.path.samestat(os.fstat(found.fd), path.stat())
        return found.path


def test_an_empty_directory_is_fine_by_any_name(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "link").symlink_to("target")
    assert check_mountpoint(tmp_path / "link") == target
    assert check_mountpoint(Path(f"{tmp_path}/./target/..//target")) == target


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(MountpointError, match="no such directory"):
        check_mountpoint(tmp_path / "none")


def test_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MountpointError, match="not a directory"):
        check_mountpoint(tmp_path / "file")


def test_not_empty(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MountpointError, match="not empty"):
        check_mountpoint(tmp_path)
    assert check_mountpoint(tmp_path, nonempty=True) == tmp_path


def test_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def statvfs(fd: int) -> None:
        raise OSError(errno.ENOTCONN, "x")

    monkeypatch.setattr(os, "statvfs", statvfs)
    with pytest.raises(MountpointError, match="daemon is gone; `imgmount umount"):
        check_mountpoint(tmp_path)


def test_not_permitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(MountpointError, match="not permitted"):
        check_mountpoint(tmp_path)


def test_unmounting_what_is_not_mounted(tmp_path: Path) -> None:
    with pytest.raises(MountpointError, match="nothing is mounted"):
        unmount(tmp_path)


def test_words_become_bits_and_later_ones_win() -> None:
    assert mount_flags(()) == 0
    assert mount_flags(("ro", "nosuid", "nodev", "noexec")) == 1 | 2 | 4 | 8
    assert mount_flags(("ro", "rw", "noatime", "suid")) == 1024
