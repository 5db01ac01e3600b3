"""File systems that another user serves (FUSE, allow_other), in the path of a command of root."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hangingfs import hanging, waited_for
from imagewriter import docker_archive
from mounted import Command, mounted
from tarwriter import TarWriter

from fusemount import served
from fusemount.daemon import mountpoint
from fusemount.daemon.mountid import mount_on, topmost
from fusemount.daemon.mountpoint import open_mountpoint
from fusemount.errors import MountpointError
from fusemount.namedfile import open_named
from fusemount.walk import open_found, open_walked

STRANGER = 65533


def test_no_step_waits_for_one_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(mountpoint, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr("fusemount.daemon.background.KILLED_SECONDS", 0.1)
    walks: list[Callable[[Path], object]] = [
        *(partial(open_walked, make=make) for make in (False, True)), open_found, topmost,
    ]  # fmt: skip
    with waited_for(), hanging(tmp_path, uid=STRANGER):
        for walk in walks:
            for path in (tmp_path / "dir", tmp_path / "dir/mnt"):
                with pytest.raises(OSError) as caught:
                    walk(path)
                assert caught.value.errno == errno.ETIMEDOUT
        assert mount_on(tmp_path / "dir") is None
        with (
            pytest.raises(MountpointError, match=f"uid {STRANGER} there does not answer"),
            open_mountpoint(tmp_path),
        ):
            pass


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("a\fb", "fuse"),
        ("a\vb - ext4 x rw", "fuse.x"),
        ("-", "fuse.x\ry"),
        ("a b", "fuse.\x85 \n-"),
    ],
)
def test_its_user_chooses_names_that_do_not_hide_it(tmp_path: Path, source: str, kind: str) -> None:
    """In mountinfo the kernel escapes space, tab, newline and backslash, and no other such byte."""
    with waited_for(), hanging(tmp_path, uid=STRANGER, source=source, kind=kind):
        top = os.open(tmp_path, os.O_PATH)
        try:
            assert served.server_of(top) == STRANGER
        finally:
            os.close(top)


def test_one_that_answers_is_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But no symlink in it is followed: its server can say that it is root's."""
    layer = TarWriter().dir("dir/sub").file("file").symlink("link", "dir")
    image = docker_archive(tmp_path / "i.tar", [layer.tar()])
    with mounted(Command(tmp_path / "dirs"), image, tmp_path / "at") as at:
        top = os.open(at, os.O_PATH)
        assert served.server_of(top) is None
        monkeypatch.setattr(served, "trusted", lambda uid: False)
        assert served.server_of(top) == 0
        os.close(top)
        for name, make in (("dir/sub", False), ("dir/../dir/new", True), ("dir/new", True)):
            place, fd, made = open_walked(at / name, make=make)
            assert os.path.samestat(os.fstat(fd), (at / name).stat())
            assert made == (name == "dir/../dir/new") and place == Path(os.path.normpath(at / name))
            os.close(fd)
        assert open_found(at / "dir/none/x") == (at / "dir/none/x", -1)
        for name, number in (("link", errno.ELOOP), ("link/sub", errno.ELOOP),
                             ("file", errno.ENOTDIR), ("file/x", errno.ENOTDIR),
                             ("none", errno.ENOENT), ("none/x", errno.ENOENT)):  # fmt: skip
            with pytest.raises(OSError) as caught:
                open_walked(at / name, make=False)
            assert caught.value.errno == number, name
        with open_mountpoint(at / "dir/sub") as found:
            assert found.path == at / "dir/sub"
        with pytest.raises(OSError, match="in a file system that uid 0 serves"):
            open_named(at / "dir/log")
        monkeypatch.undo()
