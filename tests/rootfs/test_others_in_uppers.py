"""What a user who can enter root's upper puts there shows nothing that the image keeps from the
user, and holds up nobody's changes."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from layers import rootfs_of
from tarwriter import TarWriter

from fusemount.rootfs.objects import Objects
from fusemount.rootfs.request import AttrChange, Caller
from fusemount.rootfs.staging import EXTRA_NAMES_MAX
from fusemount.rootfs.view import RootFs

ROOT, EVE, BOB = Caller(0, 0), 1001, 1002
MANY = EXTRA_NAMES_MAX + 500


def _layer() -> bytes:
    tar = TarWriter().dir(".").dir("eves", uid=EVE, gid=EVE, mode=0o777)
    tar.dir("eves/closed", uid=BOB, gid=BOB, mode=0o700).file("eves/closed/thesis", b"secret")
    tar.dir("eves/shared", mode=0o755).file("eves/shared/list", b"")
    tar.file("eves/bobs", b"bob's secret", uid=BOB, gid=BOB, mode=0o600).dir("many")
    for n in range(MANY):
        tar.file(f"many/{n}", b"")
    return tar.tar()


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    """An upper that root has mounted; eves is in it."""
    with _mounted(tmp_path) as view:
        view.mknod(view.tree.resolve(b"eves"), b"new", stat.S_IFREG | 0o666, 0, Caller(EVE, EVE))
    return tmp_path / "upper"


def _mounted(tmp_path: Path) -> AbstractContextManager[RootFs]:
    return rootfs_of([_layer()], upper=tmp_path / "upper", work=tmp_path / "work")


def _has(view: RootFs, path: bytes) -> bool:
    try:
        return bool(view.tree.resolve(path))
    except FileNotFoundError:
        return False


def _make(path: Path, owner: int, mode: int) -> None:
    path.mkdir()
    os.chown(path, owner, owner)
    path.chmod(mode)


def test_a_users_directory_does_not_open_a_closed_one(tmp_path: Path, upper: Path) -> None:
    _make(upper / "eves/closed", EVE, 0o777)
    for _ in range(2):
        with _mounted(tmp_path) as view:
            assert _has(view, b"eves/closed") and not _has(view, b"eves/closed/thesis")
    assert os.getxattr(upper / "eves/closed", "trusted.overlay.opaque") == b"y"


def test_a_directory_of_another_name_does_not_open_a_closed_one(
    tmp_path: Path, upper: Path
) -> None:
    with _mounted(tmp_path) as view:
        view.copy_up(view.tree.resolve(b"eves/shared"))
    os.rename(upper / "eves/shared", upper / "eves/closed")
    os.chown(upper / "eves/closed", BOB, BOB)
    with _mounted(tmp_path) as view:
        assert not _has(view, b"eves/closed/thesis") and _has(view, b"eves/shared/list")


@pytest.mark.parametrize("how", ["as-closed", "chowned", "older", "overlayfs"])
def test_directories_that_open_nothing_merge(tmp_path: Path, upper: Path, how: str) -> None:
    closed = upper / "eves/closed"
    if how == "chowned":  # through the mount
        with _mounted(tmp_path) as view:
            ino = view.tree.resolve(b"eves/closed")
            view.setattr(ino, AttrChange(uid=EVE, gid=EVE, mode=0o777))
    else:
        _make(closed, *((BOB, 0o700) if how == "as-closed" else (EVE, 0o777)))
    if how == "older":  # made by an older version, which did not mark what it copied up
        os.setxattr(upper, "trusted.overlay.imgmount", b"1")
    if how == "overlayfs":
        os.setxattr(closed, "trusted.overlay.origin", b"")
    with _mounted(tmp_path) as view:
        assert _has(view, b"eves/closed/thesis")


def test_all_of_an_object_is_read_from_one_object(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, upper: Path
) -> None:
    with _mounted(tmp_path) as view:
        view.setattr(view.tree.resolve(b"eves/bobs"), AttrChange(gid=7))  # attributes alone
    here = upper / "eves"
    os.truncate(here / "new", 12)
    original = Objects.stored

    def exchange() -> None:
        os.rename(here / "new", here / "x")
        os.rename(here / "bobs", here / "new")
        os.rename(here / "x", here / "bobs")

    def stored(self: Objects, fd: int, path: bytes) -> dict[bytes, bytes]:
        """Users exchange the names while an object's xattrs are read."""
        exchange()
        found = original(self, fd, path)
        exchange()
        return found

    monkeypatch.setattr(Objects, "stored", stored)
    with _mounted(tmp_path) as view:
        for name in (b"eves/new", b"eves/bobs"):
            ino = view.tree.resolve(name)
            if view.tree.getattr(ino).uid == EVE:
                assert b"secret" not in view.read(ino, 0, 100)


@pytest.mark.parametrize("operation", ["rmdir", "rename"])
@pytest.mark.parametrize("extra", [EXTRA_NAMES_MAX, EXTRA_NAMES_MAX + 1])
def test_whiteouts_of_users_are_limited(
    tmp_path: Path, upper: Path, operation: str, extra: int
) -> None:
    with _mounted(tmp_path) as view:
        many = view.tree.resolve(b"many")
        for n in range(MANY):
            view.unlink(many, b"%d" % n)
        view.mknod(1, b"source", stat.S_IFDIR | 0o755, 0, ROOT)
        for n in range(extra):
            os.mknod(upper / "many" / f"w{n}", stat.S_IFCHR)
        number = 0
        try:
            if operation == "rmdir":
                view.rmdir(1, b"many")
            else:
                view.rename(1, b"source", 1, b"many", 0)
        except OSError as error:
            number = error.errno or 0
        assert number == (errno.ENOTEMPTY if extra > EXTRA_NAMES_MAX else 0)
        assert not list((tmp_path / "work/work").iterdir())
