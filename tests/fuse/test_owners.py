"""uidmapping, gidmapping and squash_to_*, in layers and upper: fuse-overlayfs is the oracle for
what is shown and what is stored, ext4 for what it gets wrong (set-gid directories); and the
kernel's overlayfs for `userxattr`."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mounted import Command
from oracle import differences, dump_directory, run

_libc = ctypes.CDLL(None, use_errno=True)
SHIFT = "uidmapping=1000:0:10,gidmapping=1000:0:10"
SPLIT = "uidmapping=1005:0:1:2000:5:9,gidmapping=:1000:0:6:0:30:5"
OPTIONS = (SHIFT, SPLIT, "squash_to_root", "squash_to_gid=6", "squash_to_root,squash_to_uid=5",
           f"{SHIFT},squash_to_gid=8")  # fmt: skip


@contextmanager
def ours(command: Command, base: Path, options: str) -> Iterator[Path]:
    words = f"lowerdir={base}/low,upperdir={base}/up,workdir={base}/work"
    fast = "on" if command.fastpath else "off"
    command("-o", f"{words},{options},fastpath={fast}", base / "mnt")
    try:
        yield base / "mnt"
    finally:
        command("umount", base / "mnt")


@contextmanager
def theirs(_: Command, base: Path, options: str) -> Iterator[Path]:
    words = f"lowerdir={base}/low,upperdir={base}/up,workdir={base}/work"
    run("fuse-overlayfs", "-o", f"{words},{options}", base / "mnt")
    try:
        yield base / "mnt"
    finally:
        run("umount", base / "mnt")


def directories(base: Path) -> None:
    """The directories of a mount, which other users can enter."""
    for name in ("low", "up", "work", "mnt", "low/d", "up/new"):
        (base / name).mkdir(parents=True)
    for uid in (0, 5, 1000, 1005, 2000, 65534):
        (base / f"low/f{uid}").write_text("lower")
        os.chown(base / f"low/f{uid}", uid, uid + 1)
    (base / "low/d/x").write_text("lower")
    (base / "up/new/x").write_text("upper")
    os.symlink("f0", base / "low/l")
    for place, ids in (
        ("low/d", (1005, 1003)), ("low/d/x", (1006, 7)), ("up/new", (1001, 1002)),
        ("up/new/x", (3, 4)), ("low/l", (1002, 1002)), ("low", (1000, 1000)),
    ):  # fmt: skip
        os.chown(base / place, *ids, follow_symlinks=False)


def create(at: Path) -> None:
    (at / "file").write_text("new")
    os.mkdir(at / "dir")
    os.symlink("t", at / "link")
    os.mkfifo(at / "fifo")
    os.mknod(at / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))


def give_away(at: Path) -> None:
    os.chown(at / "file", 3, 4)
    os.chown(at / "dir", 7, -1)
    os.chown(at / "fifo", -1, 8)
    os.chown(at / "link", 2, 2, follow_symlinks=False)
    os.chown(at / "null", 4000, 4001)  # ids in no range


def copy_up(at: Path) -> None:
    os.chmod(at / "f5", 0o600)  # its owner is in no range and does not change
    with open(at / "f1005", "a") as file:
        file.write("more")
    os.chown(at / "f1000", 2, 2)
    os.chown(at / "f65534", -1, 1)
    os.chmod(at / "d", 0o700)
    os.link(at / "f2000", at / "d/h")
    os.utime(at / "f0", ns=(5, 6))
    os.setxattr(at / "d/x", "user.a", b"b")
    os.chown(at / "new/x", 65534, 1)
    os.chown(at / "new", 0, 0)


def change(at: Path) -> None:
    for name in ("made", "given"):
        (at / name).mkdir()
        create(at / name)
    give_away(at / "given")
    create(at / "new")
    copy_up(at)


def owners(top: Path) -> list[str]:
    """`path uid:gid mode` of all but the root, without fuse-overlayfs' opaque marks."""
    found = []
    for here, dirs, files in os.walk(top):
        for name in dirs + files:
            path = Path(here, name)
            st = path.lstat()
            if not name.startswith(".wh."):
                attributes = f"{st.st_uid}:{st.st_gid} {stat.filemode(st.st_mode)}"
                found.append(f"{path.relative_to(top)} {attributes}")
    return sorted(found)


@pytest.mark.parametrize("options", OPTIONS)
def test_as_fuse_overlayfs_has_them(tmp_path: Path, fastpath: bool, options: str) -> None:
    command = Command(tmp_path, fastpath)
    seen = []
    for side in (ours, theirs):
        base = tmp_path / side.__name__
        directories(base)
        with side(command, base, options) as at:
            before = owners(at)
            change(at)
            shown = owners(at)
        with side(command, base, options) as at:
            assert owners(at) == shown, side.__name__
        seen.append((before, shown, owners(base / "up")))
    assert seen[0] == seen[1]


def test_a_symlink_that_is_copied_up_keeps_its_owner(tmp_path: Path, fastpath: bool) -> None:
    """fuse-overlayfs makes root the owner."""
    directories(tmp_path)
    with ours(Command(tmp_path, fastpath), tmp_path, SHIFT) as at:
        os.utime(at / "l", ns=(1, 2), follow_symlinks=False)
        assert (at / "l").lstat().st_uid == 2
    assert (tmp_path / "up/l").lstat().st_uid == 1002


def test_set_gid_directories_are_as_on_a_disk(tmp_path: Path, fastpath: bool) -> None:
    """Here the oracle is a directory with the owners that are shown."""
    directories(tmp_path)
    (tmp_path / "disk").mkdir()
    with ours(Command(tmp_path, fastpath), tmp_path, SHIFT) as at:
        seen = []
        for top in (at / "team", tmp_path / "disk/team"):
            top.mkdir()
            os.chown(top, 3, 4)
            os.chmod(top, 0o2775)
            (top / "file").write_text("")
            (top / "dir").mkdir()
            (top / "dir/deeper").mkdir()
            os.symlink("x", top / "link")
            os.mkfifo(top / "fifo")
            os.chown(top / "file", 5, -1)
            seen.append(owners(top))
        assert seen[0] == seen[1]
    stored = owners(tmp_path / "up/team")
    assert "file 1005:1004 -rw-r--r--" in stored and "dir/deeper 1000:1004 drwxr-sr-x" in stored


def by(uid: int, gid: int, path: Path, call: Callable[[str], object]) -> None:
    """Makes a call in a process with these ids and no further groups."""
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir(path.parent)  # only root can enter the directories above
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            call(path.name)
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def test_set_id_bits_go_by_the_group_shown(tmp_path: Path, fastpath: bool) -> None:
    """chown(2) with -1 and -1, chmod(2) and write(2) by the owner, in the group or not; ext4 is the
    oracle."""
    directories(tmp_path)
    (tmp_path / "disk").mkdir()
    calls: tuple[Callable[[str], object], ...] = (
        lambda name: _libc.lchown(os.fsencode(name), -1, -1),
        lambda name: os.chmod(name, 0o2666),
        lambda name: os.write(os.open(name, os.O_WRONLY), b"y"),
    )
    with ours(Command(tmp_path, fastpath), tmp_path, SHIFT) as at:
        seen = []
        for path in (at / "new/bits", tmp_path / "disk/bits"):
            modes = []
            for gid, call in ((gid, call) for gid in (4, 5) for call in calls):
                path.write_text("x")
                os.chown(path, 3, 4)
                os.chmod(path, 0o6666)
                by(3, gid, path, call)
                modes.append(oct(stat.S_IMODE(path.stat().st_mode)))
            seen.append(modes)
    assert seen[0] == seen[1]
    assert seen[1][:3] != seen[1][3:]


def test_without_an_upper_they_are_shown_the_same(tmp_path: Path, fastpath: bool) -> None:
    directories(tmp_path)
    command = Command(tmp_path, fastpath)
    fast = "on" if fastpath else "off"
    words = f"lowerdir={tmp_path}/up:{tmp_path}/low,{SHIFT},fastpath={fast}"
    with ours(command, tmp_path, SHIFT) as at:
        shown = owners(at)
    command("-o", words, tmp_path / "mnt")
    try:
        assert owners(tmp_path / "mnt") == shown
    finally:
        command("umount", tmp_path / "mnt")


# ---- userxattr ------------------------------------------------------------------------------


@contextmanager
def kernel(base: Path) -> Iterator[Path]:
    words = f"lowerdir={base}/low,upperdir={base}/up,workdir={base}/work-of-the-kernel,userxattr"
    (base / "work-of-the-kernel").mkdir(exist_ok=True)
    run("mount", "-t", "overlay", "overlay", "-o", words, base / "mnt")
    try:
        yield base / "mnt"
    finally:
        run("umount", base / "mnt")


def test_userxattr_is_the_kernels(tmp_path: Path, fastpath: bool) -> None:
    """Marks of layers and upper are user.overlay.*, and those of the other prefix are data."""
    directories(tmp_path)
    hidden = (b"user.overlay.", b"trusted.overlay.")
    for name, mark in (("hides", "user"), ("shows", "trusted")):
        for top in ("low", "up"):
            (tmp_path / top / name).mkdir()
            (tmp_path / top / name / top).write_text("")
        os.setxattr(tmp_path / "up" / name, f"{mark}.overlay.opaque", b"y")
    with kernel(tmp_path) as at:
        before = dump_directory(at, hide=hidden)
    with ours(Command(tmp_path, fastpath), tmp_path, "userxattr") as at:
        found = differences(dump_directory(at, hide=hidden), before)
        assert not found, "an upper of the kernel's:\n" + found
        assert os.listdir(at / "hides") == ["up"]
        os.rename(at / "d", at / "moved")
        os.unlink(at / "f0")
        os.mkdir(at / "d")
        (at / "none").write_text("")
        for path, mode in ((at / "none", 0), (at / "f5", 0o4111), (at / "shows", 0o7000)):
            os.chown(path, 5, 6)
            os.chmod(path, mode)
        os.setxattr(at / "f5", "user.overlay.opaque", b"a user's own")
        after = dump_directory(at, hide=hidden)
        assert os.getxattr(at / "f5", "user.overlay.opaque") == b"a user's own"
    with pytest.raises(OSError) as nothing:
        os.getxattr(tmp_path / "up", "trusted.overlay.imgmount")
    assert nothing.value.errno == errno.ENODATA
    assert os.getxattr(tmp_path / "up/d", "user.overlay.opaque") == b"y"
    with kernel(tmp_path) as at:
        found = differences(dump_directory(at, hide=hidden), after)
        assert not found, "the kernel's overlayfs (ours) and the mount (theirs):\n" + found
