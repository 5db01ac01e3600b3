"""Users who can write to directories of an upper put objects of others where an operation removes
or moves its own, or at a name of theirs: nothing of the others is removed, moved or read.  What the
mount itself leaves in a directory that shows no names goes with it.

The oracle is the kernel's overlayfs: rmdir(2) of a directory with an unknown object in it is
ENOTEMPTY there.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mounted import Command, Workshop
from oracle import run
from tarwriter import TarWriter

_CASES = ("new", "merged")


def _workshop(base: Path, fastpath: bool) -> Workshop:
    tar = TarWriter().dir(".").dir("to").file("to/gone", b"")
    for name in ("merged", "merged-exchanged", "left"):
        tar.dir(name).file(f"{name}/low", b"lower").file(f"{name}/low2", b"lower")
    return Workshop(Command(base / "dirs", fastpath), base, [tar.tar()])


def _make_empty(at: Path, *names: str) -> None:
    """Directories that show no names; those of the layers have whiteouts in them."""
    for name in names:
        (at / name).mkdir(exist_ok=True)
        for below in list((at / name).iterdir()):
            below.unlink()


def _of_another(path: Path) -> Path:
    """A closed directory with a file in it."""
    path.mkdir(mode=0o700, parents=True)
    (path / "thesis").write_bytes(b"work of years")
    os.chown(path, 1002, 1002)
    return path


def _fails(number: int, operation: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(OSError) as caught:
        operation(*arguments)
    assert caught.value.errno == number, caught.value


def _theses(upper: Path) -> set[str]:
    return {str(path.parent.relative_to(upper)) for path in upper.rglob("thesis")}


def test_a_directory_with_others_objects_stays(tmp_path: Path, fastpath: bool) -> None:
    workshop = _workshop(tmp_path, fastpath)
    with workshop.mounted() as at:
        _make_empty(at, *_CASES, "source")
        for name in _CASES:
            os.rename(_of_another(tmp_path / name), workshop.upper / name / "share")
        for name in _CASES:
            _fails(errno.ENOTEMPTY, os.rmdir, at / name)
            _fails(errno.ENOTEMPTY, os.rename, at / "source", at / name)
        assert list(at.iterdir()) and not list((at / "merged").iterdir())
    assert _theses(workshop.upper) == {"new/share", "merged/share"}
    assert not list((workshop.work / "work").iterdir())


def test_anothers_object_at_a_name_stays(tmp_path: Path, fastpath: bool) -> None:
    workshop = _workshop(tmp_path, fastpath)
    upper = workshop.upper
    with workshop.mounted() as at:
        _make_empty(at, *_CASES, "moved", "exchanged", "own", "source")
        for name in ("file", "mine", "over"):
            (at / name).write_bytes(b"eve's")
        (at / "to/gone").unlink()
        for name in (*_CASES, "moved", "exchanged", "to/gone"):
            other = _of_another(tmp_path / "others" / name)
            if (upper / name).is_dir():
                os.rename(upper / name, tmp_path / f"was-{Path(name).name}")
            else:
                os.unlink(upper / name)
            os.rename(other, upper / name)
        for name in ("file", "over"):
            os.unlink(upper / name)
            (upper / name).write_bytes(b"bob's")
        for name in _CASES:
            _fails(errno.EIO, os.rmdir, at / name)
        _fails(errno.EIO, os.rename, at / "moved", at / "own/moved")
        _fails(errno.EIO, os.rename, at / "file", at / "own/file")
        _fails(errno.EIO, os.rename, at / "mine", at / "over")
        _fails(errno.EIO, os.unlink, at / "file")
        with pytest.raises(OSError):  # a whiteout of the tree, and a directory on the disk
            os.rename(at / "source", at / "to/gone")
        with pytest.raises(OSError):
            os.mkdir(at / "to/gone")
    assert _theses(upper) == {*_CASES, "moved", "exchanged", "to/gone"}
    assert {(upper / name).read_bytes() for name in ("file", "over")} == {b"bob's"}
    assert not list((workshop.work / "work").iterdir())


def test_what_shows_nothing_goes_with_its_directory(tmp_path: Path, fastpath: bool) -> None:
    """Whiteouts, and attributes of files that a rebase has left without their data."""
    workshop = _workshop(tmp_path, fastpath)
    with workshop.mounted() as at:
        (at / "left/low2").chmod(0o4711)
        _make_empty(at, "merged")
    other = TarWriter().dir(".").dir("merged").dir("left").tar()
    over = Workshop(Command(tmp_path / "dirs", fastpath), tmp_path, [other])
    with over.mounted("--rebase") as at:
        assert list((over.upper / "left").iterdir()) and not list((at / "left").iterdir())
        for name in ("left", "merged"):
            os.rmdir(at / name)
            os.mkdir(at / name)
            assert not list((over.upper / name).iterdir())
    assert not list((over.work / "work").iterdir())


def _with_the_number_of(path: Path, base: Path) -> None:
    """Removes a file, and puts at its name a later file that got its inode number."""
    number = path.lstat().st_ino
    path.unlink()
    for n in range(5000):
        made = base / f"{path.name}-{n}"
        made.write_bytes(b"bob's")
        if made.stat().st_ino == number:
            made.rename(path)
            return
    raise AssertionError("no file got the number again")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An ext4 of its own: elsewhere another process may get the inode number first."""
    at, file = tmp_path / "disk", tmp_path / "disk.img"
    at.mkdir()
    file.write_bytes(b"")
    os.truncate(file, 32 << 20)
    run("mkfs.ext4", "-q", "-m", "0", file)
    run("mount", "-o", "loop", file, at)
    yield at
    run("umount", at)


def test_a_later_file_with_the_same_number_is_another(disk: Path, fastpath: bool) -> None:
    workshop = _workshop(disk, fastpath)
    upper = workshop.upper
    with workshop.mounted() as at:
        (at / "loaded").write_bytes(b"eve's")
        with open(at / "to/gone", "wb") as copied_up:
            copied_up.write(b"eve's")
    with workshop.mounted() as at:
        for name in ("loaded", "to/gone"):
            _with_the_number_of(upper / name, disk)
            _fails(errno.EIO, Path.read_bytes, at / name)
            _fails(errno.EIO, os.truncate, at / name, 0)
            _fails(errno.EIO, os.chmod, at / name, 0o666)
            _fails(errno.EIO, os.link, at / name, at / "to/link")
            _fails(errno.EIO, os.rename, at / name, at / "to/moved")
            _fails(errno.EIO, os.unlink, at / name)
            assert (upper / name).read_bytes() == b"bob's"
        os.mkfifo(at / "made")  # the daemon does not open it, so its number is free once it is gone
        _with_the_number_of(upper / "made", disk)
        _fails(errno.EIO, os.chmod, at / "made", 0o666)
        _fails(errno.EIO, os.unlink, at / "made")
