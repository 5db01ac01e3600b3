"""Law: an untrusted path leads beneath its descriptor; the kernel's chroot(2) is the oracle."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fusemount import _native
from fusemount.beneath import (
    make_dirs_in_root,
    open_beneath,
    open_in_root,
    own_directory,
    parent_beneath,
    parent_in_root,
)
from fusemount.errors import NotPermitted

_NAMES = ("d", "e", "f", "up", "abs", "rel", "out", "round", ".", "..", "none", "")


@pytest.fixture(params=["openat2", "steps"])
def door(request: pytest.FixtureRequest) -> Iterator[None]:
    _native.beneath_step_by_step(request.param == "steps")
    yield
    _native.beneath_step_by_step(False)


@pytest.fixture
def top(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "secret").write_text("")
    top = tmp_path / "top"
    (top / "d/e/e").mkdir(parents=True)
    (top / "d/f").write_text("")
    (top / "d/e/f").write_text("")
    os.symlink("..", top / "d/up")
    os.symlink("/d/e", top / "d/abs")
    os.symlink("d/e", top / "rel")
    os.symlink("../../../secret", top / "d/out")
    os.symlink("round/x", top / "round")
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def _answer(call: Callable[[], int]) -> int | tuple[int, int]:
    """The errno, or the device and inode of the file."""
    try:
        fd = call()
    except OSError as e:
        assert e.errno is not None
        return e.errno
    st = os.fstat(fd)
    os.close(fd)
    return st.st_dev, st.st_ino


def _in_chroot(root_fd: int, asked: list[tuple[str, int]]) -> list[int | tuple[int, int]]:
    """The answers of open(2) for each path, in a process whose root directory is root_fd."""
    read, write = os.pipe()
    if not (child := os.fork()):
        os.fchdir(root_fd)
        os.chroot(".")
        found = [_answer(lambda p=p, f=f: os.open("/" + p, f)) for p, f in asked]  # type: ignore[misc]
        with os.fdopen(write, "w") as pipe:
            pipe.write(repr(found))
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return list(eval(text))


def test_in_root_is_what_a_chroot_sees(door: None, top: int) -> None:
    flags = (os.O_RDONLY, os.O_PATH, os.O_PATH | os.O_NOFOLLOW, os.O_RDONLY | os.O_DIRECTORY)
    paths = ["/".join(p) for n in (1, 2, 3) for p in itertools.product(_NAMES, repeat=n)]
    asked = [(p, f) for p in paths for f in flags]
    ours = [_answer(lambda p=p, f=f: open_in_root(top, p, f)) for p, f in asked]  # type: ignore[misc]
    differ = [
        (a, o, t) for a, o, t in zip(asked, ours, _in_chroot(top, asked), strict=True) if o != t
    ]
    assert not differ


def test_both_doors_agree_beneath(top: int) -> None:
    flags = (os.O_RDONLY, os.O_PATH, os.O_PATH | os.O_NOFOLLOW, os.O_DIRECTORY, os.O_RDWR)
    paths = ["/".join(p) for n in (1, 2, 3) for p in itertools.product(_NAMES, repeat=n)]
    asked = [(p, f) for p in paths for f in flags]
    found = []
    for steps in (False, True):
        _native.beneath_step_by_step(steps)
        found.append([_answer(lambda p=p, f=f: open_beneath(top, p, f)) for p, f in asked])  # type: ignore[misc]
    _native.beneath_step_by_step(False)
    assert found[0] == found[1]


@pytest.mark.parametrize("path", ["d/up", "d/abs", "d/out", "rel/f", "d/abs/f", "round"])
def test_beneath_follows_no_symlink(door: None, top: int, path: str) -> None:
    for flags in (os.O_RDONLY, os.O_PATH, os.O_WRONLY | os.O_CREAT):
        with pytest.raises(OSError) as e:
            open_beneath(top, path, flags)
        assert e.value.errno == errno.ELOOP


@pytest.mark.parametrize("path", ["..", "d/../d", "/d", "d/e/../../.."])
def test_beneath_goes_never_up(door: None, top: int, path: str) -> None:
    with pytest.raises(OSError) as e:
        open_beneath(top, path, os.O_PATH)
    assert e.value.errno == errno.EXDEV
    with pytest.raises(OSError), parent_beneath(top, path + "/x"):
        pass


def test_parents(door: None, top: int) -> None:
    with parent_beneath(top, b"") as (fd, name):
        assert (fd, name) == (top, b".")
    with parent_beneath(top, "d/e/f") as (fd, name):
        assert name == b"f"
        assert os.path.samestat(os.fstat(fd), os.stat("d/e", dir_fd=top))
    with parent_beneath(top, "d/out/") as (fd, name):  # a symlink, not followed
        assert name == b"out"
    with pytest.raises(OSError), parent_beneath(top, "rel/f"):
        pass
    with parent_in_root(top, "/rel/../abs") as (fd, name):
        assert name == b"abs"
        assert os.path.samestat(os.fstat(fd), os.stat("d", dir_fd=top))
    for path in ("", "/", "..", "d/up/.."):
        with parent_in_root(top, path) as (fd, name):
            assert name == b"."
            assert os.path.samestat(os.fstat(fd), os.fstat(top))


def test_a_path_longer_than_one_call_takes(door: None, top: int) -> None:
    name = "n" * 200
    fd = os.dup(top)
    for _ in range(50):
        os.mkdir(name, dir_fd=fd)
        deeper = os.open(name, os.O_PATH, dir_fd=fd)
        os.close(fd)
        fd = deeper
    path = "/".join([name] * 50)
    assert _answer(lambda: open_beneath(top, path, os.O_RDONLY)) == _answer(lambda: os.dup(fd))
    assert _answer(lambda: open_in_root(top, path, os.O_RDONLY)) == _answer(lambda: os.dup(fd))
    os.close(fd)


def test_directories_are_made_inside_the_root(door: None, top: int) -> None:
    os.symlink("/made/by/../link", "dangling", dir_fd=top)
    old = os.umask(0o077)
    try:
        os.close(make_dirs_in_root(top, "/d/out/x/y", 0o755))
        os.close(make_dirs_in_root(top, "dangling/z/../z", 0o750))
        with pytest.raises(OSError):
            make_dirs_in_root(top, "round/x")
        with pytest.raises(NotADirectoryError):
            make_dirs_in_root(top, "d/f/x")
    finally:
        os.umask(old)
    for path, mode in (("secret/x/y", 0o755), ("made/link/z", 0o750)):
        st = os.stat(path, dir_fd=top)
        assert stat.S_IMODE(st.st_mode) == mode
    assert os.stat("../secret", dir_fd=top).st_size == 0


def test_own_directory_is_made_with_its_mode(tmp_path: Path) -> None:
    for umask in (0, 0o777):
        old = os.umask(umask)
        try:
            os.close(own_directory(tmp_path / f"p{umask}/q/dir", mode=0o750))
        finally:
            os.umask(old)
        for name in ("p{}", "p{}/q", "p{}/q/dir"):
            assert stat.S_IMODE((tmp_path / name.format(umask)).stat().st_mode) == 0o750
    with pytest.raises(FileNotFoundError):
        own_directory(tmp_path / "none", make=False)


def test_own_directory_refuses_what_others_can_change(tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    ours.mkdir()
    (tmp_path / "link").symlink_to(ours)
    (tmp_path / "file").write_text("")
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o775)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 1, 0)
    for name, why in (
        ("link", "it is a symlink"),
        ("link/", "it is a symlink"),
        ("file", "it is not a directory"),
        ("open", "its mode is 0775"),
        ("theirs", "it belongs to uid 1"),
    ):
        with pytest.raises(NotPermitted) as e:
            own_directory(f"{tmp_path}/{name}")
        assert str(e.value) == (
            f"{tmp_path}/{name.rstrip('/')}: must be a directory that only you can write to: {why}"
        )
    os.close(own_directory(ours))
