"""Directories of an upper that users moved on disk, with their marks.

A mount of such an upper shows a tree, whichever it is, or names the object that is at fault.
"""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from layers import rootfs_of
from tarwriter import TarWriter

from fusemount.errors import UpperError
from fusemount.rootfs import reading
from fusemount.rootfs import view as views
from fusemount.rootfs.loaded import Loaded
from fusemount.rootfs.objectmarks import TIMES
from fusemount.rootfs.request import Caller
from fusemount.rootfs.treetext import dump_lines
from fusemount.rootfs.view import RootFs

NAMES = [b"a", b"b", b"c"]


def low() -> bytes:
    t = TarWriter()
    for path in ("a", "a/b", "a/b/c", "b", "b/c", "c", "c/a", "c/a/b"):
        t.dir(path).file(f"{path}/file", path.encode())
    return t.tar()


def build(view: RootFs) -> None:
    """Renamed directories, directories of the layers that became opaque, metacopies."""
    at = view.tree.resolve
    view.rename(at(b"a"), b"b", 1, b"ab", 0)
    view.rename(at(b"c"), b"a", at(b"b"), b"ca", 0)
    view.rename(1, b"c", at(b"ab"), b"c2", 0)
    view.mknod(at(b"a"), b"b", stat.S_IFDIR | 0o755, 0, Caller(0, 0))
    view.link(at(b"b/file"), 1, b"link")
    for name in ("b/c/file", "ab/file"):
        view.write(at(name.encode()), 0, b"up")


def directories(top: Path) -> list[Path]:
    return sorted(Path(d) for d, _, _ in os.walk(top) if Path(d) != top)


def swap(upper: Path, dice: random.Random) -> None:
    """What mv, mkdir, rm of a whiteout and `cp -a` of a directory (of root's) can do."""
    found = directories(upper)
    one, other = dice.choice(found), dice.choice([upper, *found])
    place = other / os.fsdecode(dice.choice(NAMES))
    if os.path.lexists(place) and not place.is_dir():
        place.unlink()
    if place == one or one in place.parents or os.path.lexists(place):
        return
    what = dice.randrange(4)
    if what < 2:
        one.rename(place)
    elif what == 2:
        place.mkdir()
        for key in os.listxattr(one):
            os.setxattr(place, key, os.getxattr(one, key))
    else:
        place.mkdir()


@pytest.mark.parametrize("seed", range(40))
def test_moved_directories_show_as_a_tree(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    upper, work = tmp_path / "upper", tmp_path / "work"
    with rootfs_of([low()], upper=upper, work=work) as view:
        build(view)
    for _ in range(4):
        swap(upper, dice)
    with rootfs_of([low()], upper=upper, work=work) as view:  # checks the tree, too
        seen = list(dump_lines(view))
    with rootfs_of([low()], upper=upper, work=work) as view:
        assert list(dump_lines(view)) == seen


# directory of the upper: its marks
CYCLES: dict[str, dict[str, dict[str, bytes]]] = {
    "the origin is above": {"a/x": {"opaque": b"y", "imgmount.origin": b"a"}},
    "the origin is the root": {"x": {"opaque": b"y", "imgmount.origin": b"/"}},
    "a redirect to above": {"a/x": {"redirect": b"/a"}},
    "a redirect to below": {"a": {"redirect": b"/a/b"}},
    "a redirect to the root": {"x": {"redirect": b"/"}},
    "into each other": {"a": {"redirect": b"/b"}, "a/x": {"redirect": b"/a"}},
    "several of one": {
        "a": {}, "x": {"redirect": b"/a"}, "y": {"redirect": b"/a"},
        "z": {"opaque": b"y", "imgmount.origin": b"a"},
    },
    "below an opaque root": {".": {"opaque": b"y"}, "x": {"redirect": b"/a"}},
}  # fmt: skip


@pytest.mark.parametrize("cycle", CYCLES)
def test_directories_that_claim_each_other(tmp_path: Path, cycle: str) -> None:
    upper, work = tmp_path / "upper", tmp_path / "work"
    for directory, marks in CYCLES[cycle].items():
        (upper / directory).mkdir(parents=True, exist_ok=True)
        for mark, value in marks.items():
            os.setxattr(upper / directory, f"trusted.overlay.{mark}", value)
    for _ in range(2):
        with rootfs_of([low()], upper=upper, work=work) as view:
            lines = list(dump_lines(view))
    assert len(lines) > 2


# ---- removed while they are read -----------------------------------------------------------------


def read_while(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: bytes, then: Callable[[Path], None]
) -> list[bytes]:
    """then: is called after the name was listed and before it is entered or read."""
    upper, work = tmp_path / "upper", tmp_path / "work"
    for directory in ("p/d/sub", "p/other"):
        (upper / directory).mkdir(parents=True)
    (upper / "p/d/file").write_text("")
    original = reading.Reader._object

    def looked(self: reading.Reader, fd: int, at: bytes, *rest: object) -> object:
        found = original(self, fd, at, *rest)  # type: ignore[arg-type]
        if at == name:
            then(upper / "p")
        return found

    monkeypatch.setattr(reading.Reader, "_object", looked)
    with rootfs_of([low()], upper=upper, work=work) as view:
        return [line.split()[0] for line in dump_lines(view) if line.startswith(b"/p")]


def to_symlink(at: Path) -> None:
    (at / "d").rename(at.parent / "gone")
    (at / "d").symlink_to("/etc")


@pytest.mark.parametrize("then", [lambda p: (p / "d").rename(p.parent / "gone"), to_symlink])
def test_a_directory_that_went_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, then: Callable[[Path], None]
) -> None:
    assert read_while(monkeypatch, tmp_path, b"d", then) == [b"/p", b"/p/other"]


def test_a_directory_that_is_moved_while_it_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("fusemount.rootfs.descent.KEPT", 1)  # so it is opened again
    lines = read_while(
        monkeypatch, tmp_path, b"sub", lambda p: (p / "d").rename(p.parent.parent / "elsewhere")
    )
    assert lines == [b"/p", b"/p/d", b"/p/d/file", b"/p/d/sub", b"/p/other"]


def test_a_directory_that_is_carried_ahead_of_the_reader_is_read_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Else one directory would cost as much as there are places to carry it to."""
    lines = read_while(monkeypatch, tmp_path, b"file", lambda p: (p / "d").rename(p / "other/d"))
    assert lines == [b"/p", b"/p/d", b"/p/d/file", b"/p/d/sub", b"/p/other"]


def test_what_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(path: Path) -> None:
        raise OSError(5, "Input/output error")

    with pytest.raises(UpperError, match=r"upper: 'p/d/file': Input/output error"):
        read_while(monkeypatch, tmp_path, b"file", fails)


# ---- changed between the reading and the repair --------------------------------------------------


def away(at: Path) -> None:
    at.rename(at.parent / "elsewhere")


def exchanged(at: Path) -> None:
    (at / "w").unlink()
    (at / "w").mkdir()


def filled(at: Path) -> None:
    """As far as the file system lets a user: ext4 has one block for the xattrs of an object."""


@pytest.mark.parametrize("then", [away, exchanged, filled])
def test_a_repair_of_a_users_directory_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, then: Callable[[Path], None]
) -> None:
    """A user's directory has a whiteout that hides nothing (every user can make whiteouts since
    Linux 5.8), and is moved or changed before the mount removes that."""
    upper, work = tmp_path / "upper", tmp_path / "work"
    (upper / "d").mkdir(parents=True)
    os.mknod(upper / "d/w", stat.S_IFCHR)
    start, setxattr, own = views.start_upper, os.setxattr, os.stat(upper / "d").st_ino

    def started(*arguments: Any, **more: Any) -> Loaded:
        loaded = start(*arguments, **more)
        assert loaded.repairs.needless_whiteouts
        then(upper / "d")
        return loaded

    def sets(path: Any, name: bytes, *rest: Any, **more: Any) -> None:
        if then is filled and name.endswith(TIMES) and os.stat(path).st_ino == own:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        setxattr(path, name, *rest, **more)

    monkeypatch.setattr(views, "start_upper", started)
    monkeypatch.setattr(os, "setxattr", sets)
    with rootfs_of([low()], upper=upper, work=work):
        assert (upper / "d/w").exists() == (then is exchanged)
