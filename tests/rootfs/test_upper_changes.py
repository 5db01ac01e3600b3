"""Changes of an upper: cases that `diff` does not print, and the layers that are made of them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from layers import rootfs_of
from tarwriter import TarWriter

from fusemount.errors import ImgmountError
from fusemount.rootfs import RootFs, view
from fusemount.rootfs.changes import Change, compare
from fusemount.rootfs.layertar import layer_tar
from fusemount.rootfs.upper import Upper

TIME = 1_400_000_000_123_456_789
CALLER = view.Caller(0, 0)


def low() -> list[bytes]:
    t = TarWriter().dir(".", mtime_ns=TIME)
    for name in ("a/", "a/one", "b/", "b/x", "b/y", "c/", "c/z", "deep/", "deep/er/"):
        if name.endswith("/"):
            t.dir(name, mtime_ns=TIME)
        else:
            t.file(name, b"data of " + name.encode(), mtime_ns=TIME)
    return [t.hardlink("c/two", "a/one").hardlink("deep/er/three", "a/one").tar()]


@contextmanager
def changing(tmp_path: Path) -> Iterator[RootFs]:
    with rootfs_of(low(), upper=tmp_path / "upper", work=tmp_path / "work") as rootfs:
        yield rootfs


@contextmanager
def changed(tmp_path: Path) -> Iterator[tuple[RootFs, list[Change]]]:
    """A view of the upper over the layers, and its changes."""
    with rootfs_of(low()) as base, rootfs_of(low()) as above:
        rootfs = RootFs(above.tree, Upper(tmp_path / "upper", None, live=True), read_only=True)
        try:
            yield rootfs, compare(base.tree, rootfs.tree)
        finally:
            rootfs.close()


def told(changes: Sequence[Change]) -> list[str]:
    """`kind path`; `=` for SAME, `(…)` if the layer does not need it, `!` for opaque."""
    lines = []
    for change in changes:
        line = f"{change.kind or '='} {os.fsdecode(change.path) or '.'}"
        lines.append(f"({line})" if change.hidden else line + "!" * change.opaque)
    return lines


def members(rootfs: RootFs, changes: Sequence[Change]) -> list[str]:
    tar = b"".join(layer_tar(rootfs, changes, lambda what: None))
    listed = subprocess.run(["tar", "-tv"], input=tar, capture_output=True, check=True)
    names = [line.split(maxsplit=5)[5] for line in listed.stdout.decode().splitlines()]
    return [name.removeprefix("./") for name in names if name != "./"]


def test_an_emptied_directory_is_opaque(tmp_path: Path) -> None:
    with changing(tmp_path) as rootfs:
        b = rootfs.tree.resolve(b"b")
        for name in (b"x", b"y"):
            rootfs.unlink(b, name)
        rootfs.create(b, b"x", 0o644, CALLER)
    with changed(tmp_path) as (rootfs, changes):
        assert told(changes) == ["C .", "C b!", "C b/x", "(D b/y)"]
        assert members(rootfs, changes) == ["b/", "b/.wh..wh..opq", "b/x"]


def test_one_that_keeps_something_has_whiteouts(tmp_path: Path) -> None:
    with changing(tmp_path) as rootfs:
        rootfs.unlink(rootfs.tree.resolve(b"b"), b"x")
    with changed(tmp_path) as (rootfs, changes):
        assert told(changes) == ["C .", "C b", "D b/x"]
        assert members(rootfs, changes) == ["b/", "b/.wh.x"]


def test_a_moved_name_takes_the_others_along(tmp_path: Path) -> None:
    """Neither the file nor the directories of its other names were changed."""
    with changing(tmp_path) as rootfs:
        rootfs.rename(1, b"a", 1, b"moved", 0)
    with changed(tmp_path) as (rootfs, changes):
        assert told(changes) == [
            "C .", "D a", "= c", "= c/two", "= deep", "= deep/er", "= deep/er/three", "A moved",
            "A moved/one",
        ]  # fmt: skip
        assert members(rootfs, changes) == [
            ".wh.a", "c/", "c/two", "deep/", "deep/er/", "deep/er/three link to c/two", "moved/",
            "moved/one link to c/two",
        ]  # fmt: skip


def test_a_further_name_is_all_that_is_told(tmp_path: Path) -> None:
    with changing(tmp_path) as rootfs:
        rootfs.link(rootfs.tree.resolve(b"b/x"), rootfs.tree.resolve(b"deep"), b"x2")
    with changed(tmp_path) as (rootfs, changes):
        assert told(changes) == ["C .", "= b", "= b/x", "C deep", "A deep/x2"]
        assert members(rootfs, changes) == ["b/", "b/x", "deep/", "deep/x2 link to b/x"]


def test_what_was_put_back_is_no_change(tmp_path: Path) -> None:
    with changing(tmp_path) as rootfs:
        ino = rootfs.tree.resolve(b"b/x")
        for mode in (0o600, 0o644):
            rootfs.setattr(ino, view.AttrChange(mode=mode))
    with changed(tmp_path) as (_, changes):
        assert changes == []


def test_a_directory_moved_over_another(tmp_path: Path) -> None:
    with changing(tmp_path) as rootfs:
        b = rootfs.tree.resolve(b"b")
        for name in (b"x", b"y"):
            rootfs.unlink(b, name)
        rootfs.rename(1, b"c", 1, b"b", 0)
    with changed(tmp_path) as (rootfs, changes):
        assert told(changes)[:2] == ["C .", "= a"]
        assert {"C b!", "(D b/x)", "(D b/y)", "A b/z", "A b/two", "D c"} <= set(told(changes))
        assert members(rootfs, changes)[2:4] == ["b/", "b/.wh..wh..opq"]


def test_nothing_is_nothing(tmp_path: Path) -> None:
    with changing(tmp_path):
        pass
    with changed(tmp_path) as (_, changes):
        assert changes == []


@pytest.mark.parametrize("size", [0, 10, 5000])
def test_a_file_that_shrinks_is_named(tmp_path: Path, size: int) -> None:
    with changing(tmp_path) as rootfs:
        ino = rootfs.create(1, b"log", 0o644, CALLER)
        rootfs.write(ino, 0, b"x" * 5001)
    with changed(tmp_path) as (rootfs, changes):
        os.truncate(tmp_path / "upper/log", size)
        with pytest.raises(ImgmountError, match="/log: shrank while it was read"):
            list(layer_tar(rootfs, changes, lambda what: None))


def test_a_file_that_grows_is_as_long_as_it_was(tmp_path: Path) -> None:
    with changing(tmp_path) as rootfs:
        ino = rootfs.create(1, b"log", 0o644, CALLER)
        rootfs.write(ino, 0, b"x" * 100)
    with changed(tmp_path) as (rootfs, changes):
        os.truncate(tmp_path / "upper/log", 9000)
        assert members(rootfs, changes) == ["log"]


def test_a_file_that_goes_is_named(tmp_path: Path) -> None:
    with changing(tmp_path) as rootfs:
        rootfs.write(rootfs.create(1, b"log", 0o644, CALLER), 0, b"x" * 100)
    with changed(tmp_path) as (rootfs, changes):
        os.unlink(tmp_path / "upper/log")
        with pytest.raises(ImgmountError, match="/log: was taken away"):
            list(layer_tar(rootfs, changes, lambda what: None))
