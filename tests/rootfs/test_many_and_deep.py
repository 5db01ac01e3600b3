"""Uppers with many and deep names: an algorithm that is quadratic in them takes minutes here."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from layers import rootfs_of
from tarwriter import TarWriter

from fusemount.errors import ImgmountError
from fusemount.rootfs import descent, paths, treetext
from fusemount.rootfs.changes import compare
from fusemount.rootfs.copyup import CopyUp
from fusemount.rootfs.removal import remove_tree
from fusemount.rootfs.treetext import dump_lines

MANY, DEEP = 20_000, 1_000
SECONDS = 8  # of CPU time; a tenth is needed


@contextmanager
def bounded() -> Iterator[None]:
    start = time.process_time()
    yield
    assert time.process_time() - start < SECONDS


def nest(top: Path, depth: int) -> None:
    fd = os.open(top, os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


def test_nested_directories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    upper, low = tmp_path / "upper", TarWriter().file("low").tar()
    upper.mkdir()
    nest(upper, DEEP)
    opened, original = [], descent.open_beneath

    def one_name(fd: int, path: bytes, flags: int) -> int:
        opened.append(path)
        return original(fd, path, flags)

    monkeypatch.setattr(descent, "open_beneath", one_name)
    monkeypatch.setattr(paths, "PATH_BYTES_MAX", 1900)
    monkeypatch.setattr(treetext, "LINE_PATH_BYTES_MAX", 1900)
    with rootfs_of([low]) as base:
        with rootfs_of([low], upper=upper, work=tmp_path / "work") as view:
            here = 1
            for _ in range(DEEP):
                here = view.lookup(here, b"d")
            assert here and not view.lookup(here, b"d")
            with pytest.raises(ImgmountError, match=r"d/d': a path of more than 1900 bytes"):
                compare(base.tree, view.tree)
            with pytest.raises(ImgmountError, match=r"d/d': a path of more than 1900 bytes"):
                list(dump_lines(view))
    assert opened == [b"", *[b"d"] * DEEP]
    fd = os.open(tmp_path, os.O_DIRECTORY)
    remove_tree(fd, b"upper")
    os.close(fd)


def test_a_deep_directory_goes_from_the_tree(tmp_path: Path) -> None:
    """A redirected directory was moved below another one that a second object claims."""
    with rootfs_of([TarWriter().dir("top").tar()]) as view:
        here = view.lookup(1, b"top")
        for _ in range(300_000):
            made = view.tree.new_node(0o40755, 0, 0, 0, 0, 0, 0, 0)
            view.tree.add_name(here, b"d", made)
            here = made
        view.tree.drop_name(1, b"top")
        assert list(dump_lines(view))[1:] == []


def test_names_of_one_file_in_a_deep_directory(tmp_path: Path) -> None:
    upper, low = tmp_path / "upper", TarWriter().file("low").tar()
    place = upper
    for _ in range(15):
        place = place / ("n" * 200)
    place.mkdir(parents=True)
    (place / "0").write_text("")
    for i in range(1, MANY // 4):
        os.link(place / "0", place / str(i))
    with bounded(), rootfs_of([low]) as base:
        with rootfs_of([low], upper=upper, work=tmp_path / "work") as view:
            assert len(compare(base.tree, view.tree)) == MANY // 4 + 16


def test_marks_of_fuse_overlayfs(tmp_path: Path) -> None:
    upper, low = tmp_path / "upper", TarWriter().dir("d").tar()
    (upper / "d").mkdir(parents=True)
    for i in range(MANY):
        (upper / "d" / f".wh.{i}").write_text("")
    with bounded(), rootfs_of([low], upper=upper, work=None) as view:
        assert [line.split()[0] for line in dump_lines(view)] == [b"/", b"/d"]


def test_whiteouts_that_hide_nothing_go_a_directory_at_a_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    upper, low = tmp_path / "upper", TarWriter().dir("d").tar()
    (upper / "d").mkdir(parents=True)
    os.setxattr(upper, "trusted.overlay.imgmount", b"1")
    for i in range(100):
        os.mknod(upper / "d" / str(i), 0o020000, 0)
    restored, original = [], CopyUp.restore_times

    def restore(self: CopyUp, ino: int) -> None:
        restored.append(ino)
        original(self, ino)

    monkeypatch.setattr(CopyUp, "restore_times", restore)
    with rootfs_of([low], upper=upper, work=tmp_path / "work") as view:
        assert os.listdir(upper / "d") == [] and restored == [view.tree.resolve(b"d")]


def test_the_paths_of_a_command_have_a_sum(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(paths, "PATHS_BYTES_MAX", 1 << 10)
    upper, low = tmp_path / "upper", TarWriter().file("low").tar()
    upper.mkdir()
    for i in range(100):
        (upper / f"{i:020}").write_text("")
    with rootfs_of([low]) as base, rootfs_of([low], upper=upper) as view:
        with pytest.raises(ImgmountError, match=r"with those before it, paths of more than"):
            compare(base.tree, view.tree)
