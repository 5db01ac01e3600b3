"""R 26, 28, 31, 32: what copy-up copies and keeps, and what a remount shows.

Law: each test ends with a second mount over the same upper, which must show the same, inode
numbers included, and with the kernel's overlayfs (Workshop.check_upper).
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounted import Command, Workshop
from oracle import dump_directory
from tarwriter import TarWriter

TIME = 1_600_000_000_123_456_789
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
LARGE = 8 << 20
WHITEOUT = 4
_libc = ctypes.CDLL(None, use_errno=True)


def layers() -> list[bytes]:
    low = TarWriter().dir(".", mtime_ns=TIME)
    low.file("large", b"x" * LARGE, mtime_ns=TIME, mode=0o4755, xattrs={"user.k": b"v"})
    low.file("cap", b"c" * 9000, mtime_ns=TIME, xattrs={"security.capability": CAPABILITY})
    low.dir("d", mtime_ns=TIME).file("d/f", b"file" * 1000, mtime_ns=TIME)
    low.file("d/h1", b"linked" * 200_000, mtime_ns=TIME).hardlink("h2", "d/h1")
    low.hardlink("h3", "d/h1").symlink("l", "large", mtime_ns=TIME).node("p", "fifo", mtime_ns=TIME)
    return [low.tar(), TarWriter().file("top", b"top", mtime_ns=TIME).tar()]


def numbers(at: Path) -> dict[str, int]:
    """st_ino by path; d_ino is the same."""
    found = {}
    for here, _, _ in os.walk(at):
        for entry in os.scandir(here):
            st = os.lstat(entry.path)
            assert entry.inode() == st.st_ino, entry.path
            found[entry.path] = st.st_ino
    return found


@pytest.fixture
def workshop(tmp_path: Path, fastpath: bool) -> Workshop:
    return Workshop(Command(tmp_path / "dirs", fastpath), tmp_path, layers())


@pytest.fixture
def at(workshop: Workshop) -> Iterator[Path]:
    with workshop.mounted() as mount:
        yield mount
        seen, inodes = dump_directory(mount), numbers(mount)
    with workshop.mounted() as mount:
        assert numbers(mount) == inodes
    workshop.check_upper(seen)


def link_open(fd: int, path: Path) -> None:
    """linkat(2) of an open file, as its man page has it."""
    follow, source = 0x400, b"/proc/self/fd/%d" % fd
    if _libc.linkat(-100, source, -100, os.fsencode(path), follow):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def blocks(directory: Path) -> int:
    """The disk space of the files of an upper, in bytes."""
    files = (p for p in directory.rglob("*") if p.is_file() and not p.is_symlink())
    return sum(os.lstat(p).st_blocks for p in files) * 512


def test_r32_attributes_move_no_data(at: Path, workshop: Workshop) -> None:
    before = os.stat(at / "large")
    os.chmod(at / "large", 0o600)
    os.chown(at / "large", 7, 8)
    os.utime(at / "large", ns=(TIME, TIME + 1))
    os.setxattr(at / "large", "user.more", b"1")
    os.link(at / "large", at / "d/linked")
    os.rename(at / "large", at / "d/moved")
    assert blocks(workshop.upper) < 1 << 20
    after = os.stat(at / "d/linked")
    assert (after.st_ino, after.st_nlink, after.st_size) == (before.st_ino, 2, LARGE)
    assert after.st_blocks == before.st_blocks
    with open(at / "d/moved", "rb") as f:
        assert f.read() == b"x" * LARGE
    assert os.getxattr(at / "d/moved", "user.k") == b"v"


def test_r32_data_follow_when_they_are_written(at: Path, workshop: Workshop) -> None:
    os.chmod(at / "large", 0o6711)
    os.rename(at / "large", at / "d/moved")
    os.link(at / "d/moved", at / "again")
    with open(at / "d/moved", "r+b") as f:
        f.seek(5)
        f.write(b"Y")
    with open(at / "again", "rb") as f:
        assert f.read() == b"xxxxxY" + b"x" * (LARGE - 6)
    assert blocks(workshop.upper) >= LARGE
    assert stat.S_IMODE(os.stat(at / "again").st_mode) == 0o6711


@pytest.mark.parametrize("size", [0, 3, 5000, LARGE + 10])
def test_r30_truncated_after_its_attributes_came_up(
    at: Path, workshop: Workshop, size: int
) -> None:
    os.chmod(at / "large", 0o640)
    os.truncate(at / "large", size)
    assert (at / "large").read_bytes() == (b"x" * size)[:LARGE] + b"\0" * (size - LARGE)
    if size < LARGE:
        assert blocks(workshop.upper) <= size + 8192


def test_r34_data_that_come_up_leave_a_capability(at: Path) -> None:
    os.chmod(at / "cap", 0o711)
    assert os.getxattr(at / "cap", "security.capability") == CAPABILITY
    os.chmod(at / "d/f", 0o6755)
    fd = os.open(at / "cap", os.O_RDWR)  # only opening it is no change
    os.close(fd)
    assert os.getxattr(at / "cap", "security.capability") == CAPABILITY
    with open(at / "cap", "r+b") as f:
        f.write(b"C")
    with pytest.raises(OSError, match="No data"):
        os.getxattr(at / "cap", "security.capability")


def test_r31_a_set_of_links_comes_up_as_a_whole(at: Path, workshop: Workshop) -> None:
    inode = os.stat(at / "h2").st_ino
    os.chmod(at / "h2", 0o600)
    assert {os.stat(at / n).st_mode for n in ("d/h1", "h2", "h3")} == {0o100600}
    assert blocks(workshop.upper) < 1 << 20
    os.unlink(at / "h3")
    os.rename(at / "d/h1", at / "moved")
    with open(at / "moved", "ab") as f:
        f.write(b"!")
    assert (at / "h2").read_bytes() == b"linked" * 200_000 + b"!"
    assert (os.stat(at / "h2").st_nlink, os.stat(at / "moved").st_ino) == (2, inode)


def test_r31_links_that_came_up_in_part_are_completed(at: Path, workshop: Workshop) -> None:
    """A set of hardlinks as a crash during copy-up leaves it (C5)."""
    os.chmod(at / "h2", 0o640)
    inode = os.stat(at / "h2").st_ino
    workshop.command("umount", at)
    os.unlink(workshop.upper / "h3")
    os.unlink(workshop.upper / "d/h1")
    with workshop.mounted("--read-only") as mount:
        assert [os.stat(mount / n).st_ino for n in ("d/h1", "h2", "h3")] == [inode] * 3
        assert (mount / "d/h1").read_bytes() == b"linked" * 200_000
    workshop.command(workshop.image, at, "--upper", workshop.upper, "--work", workshop.work)
    assert [os.stat(at / n).st_ino for n in ("d/h1", "h2", "h3")] == [inode] * 3
    assert len({os.stat(workshop.upper / n).st_ino for n in ("d/h1", "h2", "h3")}) == 1


def test_r26_numbers_of_new_files_last(at: Path) -> None:
    (at / "new").mkdir()
    (at / "new/file").write_bytes(b"1")
    os.link(at / "new/file", at / "d/other")
    os.symlink("x", at / "new/link")
    os.mkfifo(at / "new/fifo")
    os.unlink(at / "top")
    (at / "top").write_bytes(b"another file in its place")
    os.rename(at / "d/f", at / "new/f")  # of the layers, with its number
    os.rename(at / "l", at / "new/l")
    os.rename(at / "d", at / "d2")
    os.mkdir(at / "d")
    assert os.stat(at / "top").st_ino > 1 << 32
    assert os.stat(at / "d").st_ino != os.stat(at / "d2").st_ino < 1 << 32


def test_others_go_on_while_data_come_up(at: Path) -> None:
    """A large copy-up holds no lock that other requests need."""
    waited: list[float] = []
    done = threading.Event()

    def write() -> None:
        with open(at / "large", "r+b") as f:
            f.write(b"1")
            os.fsync(f.fileno())
        done.set()

    os.chmod(at / "d/f", 0o600)
    writer = threading.Thread(target=write)
    writer.start()
    for i in range(2000):
        began = time.monotonic()
        os.chmod(at / "d/f", 0o600 + i % 8)
        (at / f"d/n{i % 4}").write_bytes(b"")
        waited.append(time.monotonic() - began)
        if done.is_set():
            break
    writer.join()
    assert done.is_set()
    (at / "d/f").chmod(0o600)
    assert len(waited) > 3, waited


def test_r28_a_file_without_a_name_gets_one(at: Path, fastpath: bool) -> None:
    if not fastpath:  # pyfuse3 has no handler for it; programs get an error and do without
        with pytest.raises(OSError) as caught:
            os.open(at / "d", os.O_TMPFILE | os.O_RDWR, 0o640)
        assert caught.value.errno == errno.EOPNOTSUPP
        return
    os.setxattr(
        at / "d", "system.posix_acl_default",
        bytes.fromhex("02000000" "01000700ffffffff" "0200070005000000" "04000500ffffffff"
                      "10000700ffffffff" "20000000ffffffff"),
    )  # fmt: skip
    fd = os.open(at / "d", os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, b"nameless")
    assert os.fstat(fd).st_nlink == 0
    assert set(os.listdir(at / "d")) == {"h1", "f"}
    link_open(fd, at / "named")
    assert os.fstat(fd).st_nlink == 1
    assert (at / "named").read_bytes() == b"nameless"
    assert "system.posix_acl_access" in os.listxattr(at / "named")
    os.close(fd)
    only = os.open(at / "d", os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o640)
    with pytest.raises(FileNotFoundError):
        link_open(only, at / "never")
    os.close(only)
    plain = os.open(at, os.O_TMPFILE | os.O_WRONLY, 0o664)
    os.fchown(plain, 3, 4)
    os.fchmod(plain, 0o6755)
    assert stat.S_IMODE(os.fstat(plain).st_mode) == 0o6755
    os.close(plain)


def test_r27_a_rename_may_leave_a_device(at: Path) -> None:
    for name in ("large", "d", "top"):
        moved = os.fsencode(at / ("x" + name))
        old = os.fsencode(at / name)
        assert _libc.renameat2(-100, old, -100, moved, WHITEOUT) == 0, ctypes.get_errno()
        st = os.lstat(at / name)
        assert (stat.S_IFMT(st.st_mode), st.st_rdev) == (stat.S_IFCHR, 0)
        os.unlink(at / name)
    assert (at / "xd/f").read_bytes() == b"file" * 1000


def test_r36_xattr_flags(at: Path, fastpath: bool) -> None:
    os.setxattr(at / "top", "user.a", b"1")
    if not fastpath:  # pyfuse3 does not pass them to the handler
        return
    for path, name in ((at / "top", "user.a"), (at / "large", "user.k")):
        with pytest.raises(FileExistsError):
            os.setxattr(path, name, b"2", os.XATTR_CREATE)
        with pytest.raises(OSError, match="No data"):
            os.setxattr(path, "user.b", b"2", os.XATTR_REPLACE)
        os.setxattr(path, name, b"3", os.XATTR_REPLACE)
        os.setxattr(path, "user.b", b"4", os.XATTR_CREATE)
        assert (os.getxattr(path, name), os.getxattr(path, "user.b")) == (b"3", b"4")
        os.removexattr(path, name)
        with pytest.raises(OSError, match="No data"):
            os.removexattr(path, name)
    os.setxattr(at / "l", "trusted.link", b"itself", follow_symlinks=False)
    assert "trusted.link" not in os.listxattr(at / "d/f")
    os.setxattr(at / "p", "trusted.fifo", b"1")


def test_r34_a_capability_given_after_writing_stays(at: Path) -> None:
    """The kernel writes the data back from its cache after it has set the xattr."""
    fd = os.open(at / "tool", os.O_CREAT | os.O_WRONLY, 0o755)
    os.write(fd, b"#!" * 50)
    os.setxattr(fd, "security.capability", CAPABILITY)
    os.fsync(fd)
    assert os.getxattr(at / "tool", "security.capability") == CAPABILITY
    os.close(fd)
