"""Law: a mount that keeps its upper harmless takes the powers of existing objects away; the upper
shows the same before and after (rootfs/harmless.py, rootfs/makeharmless.py)."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from directories import view_of
from mounted import powerful
from oracle import differences, run, without_layer

from fusemount.rootfs import AttrChange, Caller, RootFs, UpperOptions, reading, upperload
from fusemount.rootfs.harmless import CAPABILITY, SET_ID, Harmless, parse_bits
from fusemount.rootfs.makeharmless import Found, Harmed
from fusemount.rootfs.treetext import dump_lines
from fusemount.rootfs.upper import Upper

ROOT = Caller(0, 0)
VALUE = bytes.fromhex("0100000200040000000000000000000000000000")
ALL = UpperOptions(harmless=Harmless(files=True, devices=True))
BASE = """
mkdir d; echo contents > su; ln su d/su2; echo gone > gone; echo x > cap; mknod d/null c 1 3
chmod 4755 su; touch -d 2001-01-01 d
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    run("bash", "-ec", BASE, cwd=tmp_path / "base")
    return tmp_path / "base"


def change(view: RootFs) -> None:
    """All kinds of objects with power, some with several names, and a whiteout."""
    d = view.lookup(1, b"d")
    view.setattr(view.lookup(1, b"su"), AttrChange(mode=0o6711))
    view.setxattr(view.lookup(1, b"cap"), CAPABILITY, VALUE)
    view.setattr(view.lookup(d, b"null"), AttrChange(uid=5, mode=0o640))
    view.unlink(1, b"gone")
    device = view.mknod(1, b"disk", stat.S_IFBLK | 0o660, os.makedev(8, 300), ROOT)
    view.setxattr(device, b"trusted.k", b"v")
    view.link(device, d, b"disk2")
    view.mknod(d, b"pipe", stat.S_IFIFO | 0o2600, 0, ROOT)
    view.setattr(d, AttrChange(mtime_ns=10**18 + 1, atime_ns=10**18))


def shown(view: RootFs) -> list[bytes]:
    return without_layer(list(dump_lines(view, digest=True)))


@pytest.mark.parametrize("userxattr", [False, True])
def test_an_upper_is_made_harmless(base: Path, tmp_path: Path, userxattr: bool) -> None:
    upper, work = tmp_path / "upper", tmp_path / "work"
    with view_of([base], upper=upper, work=work, userxattr=userxattr) as view:
        change(view)
        before = shown(view)
    assert len(powerful(upper)) == 6
    with view_of([base], upper=upper, userxattr=userxattr) as view:  # read-only
        assert not differences(shown(view), before)
    assert powerful(upper)
    for made in (4, 0):
        with view_of([base], upper=upper, work=work, userxattr=userxattr, options=ALL) as view:
            assert view.loaded.harmed == Harmed(made)
            assert not differences(shown(view), before)
            assert not powerful(upper) + powerful(work)
    whiteout = os.lstat(upper / "gone")
    assert stat.S_ISCHR(whiteout.st_mode) and whiteout.st_rdev == 0
    assert os.path.samefile(upper / "disk", upper / "d/disk2")
    with view_of([base, upper], userxattr=userxattr) as view:  # a layer of the next
        assert not differences(shown(view), before)


def test_only_what_is_forbidden_is_kept_in_marks(base: Path, tmp_path: Path) -> None:
    """nosuid without nodev, and the other way round."""
    for files, devices in ((True, False), (False, True)):
        upper, work = tmp_path / f"upper{files}", tmp_path / f"work{files}"
        options = UpperOptions(harmless=Harmless(files, devices))
        with view_of([base], upper=upper, work=work, options=options) as view:
            change(view)
        names = {os.path.basename(path) for path in powerful(upper)}
        of_files, of_devices = {"su", "su2", "cap"}, {"disk", "disk2", "null"}
        assert names == (of_devices if files else of_files)


def test_files_that_have_names_elsewhere_are_left(base: Path, tmp_path: Path) -> None:
    """A user who can write to a directory of the upper has linked a set-id file of the host."""
    upper, work, host = tmp_path / "upper", tmp_path / "work", tmp_path / "sudo"
    with view_of([base], upper=upper, work=work) as view:
        change(view)
    host.write_bytes(b"#!")
    host.chmod(0o4755)
    os.link(host, upper / "d/sudo")
    with view_of([base], upper=upper, work=work, options=ALL) as view:
        assert view.loaded.harmed == Harmed(made=4, left=1, one_left=b"d/sudo")
    assert stat.S_IMODE(host.stat().st_mode) == 0o4755


def test_a_name_that_moves_is_not_counted_twice(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the upper is read, a user moves the link to a set-id file of the host to where the
    reader finds it once more, and back."""
    upper, work, host = tmp_path / "upper", tmp_path / "work", tmp_path / "sudo"
    for directory in ("a", "z"):
        (upper / directory).mkdir(parents=True)
    host.write_bytes(b"#!")
    host.chmod(0o4755)
    os.link(host, upper / "a/x")
    original, seen = reading.Reader._object, []

    def moving(self: reading.Reader, fd: int, at: bytes, *rest: Any) -> object:
        found = original(self, fd, at, *rest)
        if at == b"x":
            seen.append(found.path)
            if len(seen) < 3:  # then the upper is read again
                a, z = upper / "a/x", upper / "z/x"
                a.rename(z) if len(seen) == 1 else z.rename(a)
        return found

    monkeypatch.setattr(reading.Reader, "_object", moving)
    with view_of([base], upper=upper, work=work, options=ALL) as view:
        assert view.loaded.harmed == Harmed(left=1, one_left=b"a/x")
    assert seen == [b"a/x", b"z/x", b"a/x"]
    assert stat.S_IMODE(host.stat().st_mode) == 0o4755


def test_an_object_without_room_for_a_mark_loses_its_powers(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner has filled the block that ext4 has for its xattrs.  On a file system that is full
    no object loses them: nothing is mounted."""
    upper, work = tmp_path / "upper", tmp_path / "work"
    with view_of([base], upper=upper, work=work) as view:
        change(view)
    full, setxattr = os.stat(upper / "su").st_ino, os.setxattr

    def sets(path: Any, name: bytes, *rest: Any, **more: Any) -> None:
        if name.endswith(SET_ID) and os.stat(path).st_ino == full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        setxattr(path, name, *rest, **more)

    monkeypatch.setattr(os, "setxattr", sets)
    with monkeypatch.context() as patch:
        used = os.statvfs_result((4096, 4096, 99, 5, 5, 9, 9, 9, 0, 255))
        patch.setattr(os, "fstatvfs", lambda _: used)
        with (
            pytest.raises(OSError, match="No space left"),
            view_of([base], upper=upper, work=work, options=ALL),
        ):
            pass
    assert stat.S_IMODE(os.stat(upper / "su").st_mode) == 0o6711
    with view_of([base], upper=upper, work=work, options=ALL) as view:
        harmed = view.loaded.harmed
        assert (harmed.left, harmed.lost, harmed.one_lost) == (0, 1, b"su")
        assert stat.S_IMODE(view.getattr(view.lookup(1, b"su")).mode) == 0o711
    assert not powerful(upper)


def test_a_capability_that_is_none_is_no_mark(base: Path, tmp_path: Path) -> None:
    """The file is copied up without it, as on disk, and shows it during this mount."""
    os.setxattr(base / "cap", "trusted.x", b"y")
    upper, work = tmp_path / "upper", tmp_path / "work"
    with view_of([base], upper=upper, work=work, options=ALL) as view:
        with pytest.raises(OSError, match="Invalid argument"):
            view.setxattr(view.lookup(1, b"cap"), CAPABILITY, b"x" * 20)
        assert view.tree.getxattr(view.lookup(1, b"cap"), CAPABILITY) is None


@pytest.mark.parametrize("text", [b"", b"0", b"7777", b"4000 ", b"-4000", b"04000", None])
def test_a_mark_that_nobody_of_us_wrote_gives_nothing(text: bytes | None) -> None:
    assert parse_bits(text) == 0


def test_an_error_in_between_changes_nothing_that_shows(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error leaves an upper that the next mount makes harmless."""
    with view_of([base], upper=tmp_path / "whole", work=tmp_path / "first") as view:
        change(view)
        view.unlink(view.lookup(1, b"d"), b"disk2")  # which may come apart
        before = shown(view)
    make, left, step = upperload.make_harmless, count(), 0

    def failing(opened: Upper, found: Found) -> Harmed:
        with monkeypatch.context() as patch:
            for name in ("chmod", "setxattr", "removexattr", "rename", "link", "utime"):
                patch.setattr(os, name, _failing(getattr(os, name), left))
            return make(opened, found)

    while True:
        upper, work, step = tmp_path / f"upper{step}", tmp_path / f"work{step}", step + 1
        run("cp", "-a", tmp_path / "whole", upper)
        left = count(step, -1)
        monkeypatch.setattr(upperload, "make_harmless", failing)
        try:
            with view_of([base], upper=upper, work=work, options=ALL):
                break
        except OSError as e:
            assert e.errno == errno.EIO
        finally:
            monkeypatch.setattr(upperload, "make_harmless", make)
        with view_of([base], upper=upper) as view:
            assert not differences(shown(view), before), step
        with view_of([base], upper=upper, work=work, options=ALL) as view:
            assert not differences(shown(view), before), step
            assert not powerful(upper)
    assert step > 10


def _failing(call: Callable[..., Any], left: Iterator[int]) -> Callable[..., Any]:
    def fails(*args: Any, **kwargs: Any) -> Any:
        if next(left) == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return call(*args, **kwargs)

    return fails
