"""The upper on disk: what is removed from the work directory, depth, prefixes of xattrs,
metacopy."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from layers import rootfs_of
from tarwriter import TarWriter

from fusemount.errors import UpperError
from fusemount.rootfs import AttrChange, Caller
from fusemount.rootfs.objectmarks import OVERRIDE_STAT
from fusemount.rootfs.objects import Owner
from fusemount.rootfs.removal import remove_tree
from fusemount.rootfs.treetext import dump_lines
from fusemount.rootfs.upper import Upper

ROOT = Caller(0, 0)
DEEP = 1500


def test_only_our_own_leftovers_are_swept(tmp_path: Path) -> None:
    upper, work = tmp_path / "upper", tmp_path / "work"
    (work / "theirs").mkdir(parents=True)
    (work / "theirs/file").write_text("kept")
    (work / "work/#9").mkdir(parents=True)
    Upper(upper, work).close()
    assert (work / "theirs/file").read_text() == "kept"
    assert os.listdir(work / "work") == []


@pytest.mark.parametrize("nest", ["upper", "upper/work", "."])
def test_upper_and_work_must_lie_apart(tmp_path: Path, nest: str) -> None:
    (tmp_path / "upper").mkdir()
    (tmp_path / "upper/file").write_text("kept")
    with pytest.raises(UpperError, match="lie in each other"):
        Upper(tmp_path / "upper", tmp_path / nest)
    assert (tmp_path / "upper/file").read_text() == "kept"


def test_an_upper_has_one_mount(tmp_path: Path) -> None:
    first = Upper(tmp_path / "upper", tmp_path / "work")
    for work in (tmp_path / "work", tmp_path / "other", None):
        with pytest.raises(UpperError, match="in use"):
            Upper(tmp_path / "upper", work)
    first.close()
    Upper(tmp_path / "upper", tmp_path / "other").close()


def test_r38_depth_is_no_limit(tmp_path: Path) -> None:
    """Deeper than the interpreter's stack and than PATH_MAX."""
    tar = TarWriter().file("/".join(["d"] * DEEP) + "/low", b"low").tar()
    with rootfs_of([tar], upper=tmp_path / "upper", work=tmp_path / "work") as view:
        here = 1
        for _ in range(DEEP):
            here = view.lookup(here, b"d")
        view.write(view.lookup(here, b"low"), 0, b"LOW")
        for _ in range(DEEP):
            here = view.mknod(here, b"made", stat.S_IFDIR | 0o755, 0, ROOT)
        view.rename(1, b"d", 1, b"moved", 0)
        seen = list(dump_lines(view, digest=True))
    with rootfs_of([tar], upper=tmp_path / "upper", work=tmp_path / "work") as view:
        assert list(dump_lines(view, digest=True)) == seen
    assert len(seen) == 2 * DEEP + 2
    fd = os.open(tmp_path, os.O_DIRECTORY)
    remove_tree(fd, b"upper")
    os.close(fd)
    assert os.listdir(tmp_path) == ["work"]


def test_a_users_xattr_cannot_say_who_owns_a_file(tmp_path: Path) -> None:
    upper = Upper(tmp_path / "upper", tmp_path / "work")
    upper.prefix = b"user.overlay."  # as without privilege
    (tmp_path / "upper/f").write_text("")
    st = os.stat(tmp_path / "upper/f")
    upper.set_xattr(upper.fd, b"f", OVERRIDE_STAT, b"7:7:04755")
    assert upper.xattrs(upper.fd, b"f") == {OVERRIDE_STAT: b"7:7:04755"}
    assert upper.owner(upper.fd, b"f", st) == Owner(st.st_uid, st.st_gid, 0o644)
    os.setxattr(tmp_path / "upper/f", OVERRIDE_STAT, b"zzz")  # not written by us
    assert upper.owner(upper.fd, b"f", st) == Owner(st.st_uid, st.st_gid, 0o644)
    os.setxattr(tmp_path / "upper/f", OVERRIDE_STAT, b"7:8:04755")
    assert upper.owner(upper.fd, b"f", st) == Owner(7, 8, 0o4755)
    upper.close()


def test_r31_new_links_under_old_names_are_new_files(tmp_path: Path) -> None:
    """After another mount, `b` of the layers must not show the contents of the new `a`."""
    tar = TarWriter().file("a", b"lower").hardlink("b", "a").tar()
    upper, work = tmp_path / "upper", tmp_path / "work"
    with rootfs_of([tar], upper=upper, work=work) as view:
        view.unlink(1, b"a")
        new = view.create(1, b"a", 0o644, ROOT)
        view.write(new, 0, b"new")
        view.link(new, 1, b"c")
        assert view.getattr(view.lookup(1, b"b")).nlink == 1
    assert sorted(os.listdir(upper)) == ["a", "c"]
    with rootfs_of([tar], upper=upper, work=work) as view:
        found = {n: view.read(view.lookup(1, n), 0, 9) for n in (b"a", b"b", b"c")}
    assert found == {b"a": b"new", b"b": b"lower", b"c": b"new"}


def test_r32_times_that_do_not_change_copy_nothing(tmp_path: Path) -> None:
    """The kernel sends these times for the other names when one name is unlinked."""
    tar = TarWriter().file("a", b"lower", mtime_ns=5).hardlink("b", "a").tar()
    with rootfs_of([tar], upper=tmp_path / "upper", work=tmp_path / "work") as view:
        view.setattr(view.lookup(1, b"b"), AttrChange(mtime_ns=5))
        assert os.listdir(tmp_path / "upper") == []
        view.setattr(view.lookup(1, b"b"), AttrChange(mtime_ns=6))
        assert sorted(os.listdir(tmp_path / "upper")) == ["a", "b"]


def test_blocks_are_the_uppers(tmp_path: Path) -> None:
    tar = TarWriter().sparse("s", 1 << 20, [(4096, b"x" * 4096)]).tar()
    with rootfs_of([tar], upper=tmp_path / "upper", work=tmp_path / "work") as view:
        ino = view.lookup(1, b"s")
        assert view.getattr(ino).blocks == 8
        view.setattr(ino, AttrChange(mode=0o600))
        assert view.getattr(ino).blocks == os.stat(tmp_path / "upper/s").st_blocks < 2048
        view.setattr(ino, AttrChange(size=1 << 30))
        assert view.getattr(ino).blocks == os.stat(tmp_path / "upper/s").st_blocks < 2048


def test_xattrs_that_the_upper_cannot_have_keep_no_file_from_changing(tmp_path: Path) -> None:
    odd = {"system.posix_acl_access": b"nonsense", "nonsense": b"1", "user.good": b"2"}
    tar = TarWriter().file("f", b"", xattrs=odd).tar()
    with rootfs_of([tar], upper=tmp_path / "upper", work=tmp_path / "work") as view:
        view.setattr(view.lookup(1, b"f"), AttrChange(mtime_ns=7))
    assert os.getxattr(tmp_path / "upper/f", "user.good") == b"2"


@pytest.mark.parametrize("written", [False, True])
def test_what_fails_in_the_upper_has_changed_nothing(tmp_path: Path, written: bool) -> None:
    tar = TarWriter().file("f", b"1").tar()
    upper, work = tmp_path / "upper", tmp_path / "work/work"
    with rootfs_of([tar], upper=upper, work=tmp_path / "work") as view:
        ino = view.lookup(1, b"f")
        view.tree.remember(ino)  # as the kernel does, for as long as the file is open
        if written:
            view.write(ino, 0, b"2")
        # a directory that only this test can make: renaming a file over it fails
        obstacle = work / f"orphan-{ino}" if written else upper / "f"
        obstacle.mkdir()
        with pytest.raises(IsADirectoryError):
            view.unlink(1, b"f")
        obstacle.rmdir()
        assert os.listdir(work) == []
        assert view.lookup(1, b"f") == ino
        view.unlink(1, b"f")
        assert stat.S_ISCHR(os.lstat(upper / "f").st_mode)
        assert view.read(ino, 0, 9) == (b"2" if written else b"1")
        view.write(ino, 1, b"3")  # an orphan can still be written
        assert view.read(ino, 0, 9) == (b"23" if written else b"13")
        assert os.listdir(work) == [f"orphan-{ino}"]
        view.forget(ino, 1)
        assert os.listdir(work) == []


def test_volatile_is_refused_only_after_the_machine_stopped(tmp_path: Path) -> None:
    upper, work = tmp_path / "upper", tmp_path / "work"
    Upper(upper, work, volatile=True).close()
    assert (work / "work/incompat/volatile").is_dir()  # so the kernel's overlayfs refuses it
    Upper(upper, work, volatile=True).close()  # the same boot: the upper is complete
    os.setxattr(upper, "trusted.overlay.imgmount.volatile", b"another boot")
    with pytest.raises(UpperError, match="volatile when the machine stopped"):
        Upper(upper, work)
    os.rmdir(work / "work/incompat/volatile")
    Upper(upper, work).close()
    Upper(upper, work, volatile=True).close()
    Upper(upper, work).close()
    assert "trusted.overlay.imgmount.volatile" not in os.listxattr(upper)
    assert os.listdir(work / "work") == []
