"""R: changes through a mount, and what the upper then shows in a new mount and in overlayfs.

Every test works on one image; when it ends, the mount's dump is compared with that of a second
mount over the same upper and with the kernel's overlayfs (Workshop.check_upper).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounted import Command, Workshop
from oracle import dump_directory, run
from tarwriter import TarWriter

TIME = 1_600_000_000_123_456_789
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
NOREPLACE, EXCHANGE = 1, 2
_libc = ctypes.CDLL(None, use_errno=True)


def layers() -> list[bytes]:
    low = TarWriter().dir(".", mtime_ns=TIME).dir("d", mode=0o750, uid=3, mtime_ns=TIME)
    low.file("d/a", b"lower a", mtime_ns=TIME, xattrs={"user.k": b"v"}).dir("d/e", mtime_ns=TIME)
    low.dir("d/sub", mtime_ns=TIME).file("d/sub/deep", b"deep", mtime_ns=TIME)
    low.file("f", b"lower f" * 3000, mode=0o4755, uid=5, gid=6, mtime_ns=TIME)
    low.file("cap", b"#!", mode=0o755, mtime_ns=TIME, xattrs={"security.capability": CAPABILITY})
    low.file("h1", b"linked", mtime_ns=TIME).hardlink("h2", "h1").hardlink("d/h3", "h1")
    low.symlink("l", "d/a", mtime_ns=TIME).node("p", "fifo", mtime_ns=TIME)
    low.node("dev0", "char", (1, 3), mtime_ns=TIME).dir("empty", mtime_ns=TIME)
    # GNU tar, the oracle, needs an empty piece after a hole at the end
    low.sparse("sparse", 1 << 20, [(4096, b"x" * 4096), (1 << 20, b"")], mtime_ns=TIME)
    top = TarWriter().dir(".", mtime_ns=TIME).dir("d", mode=0o755, uid=4, mtime_ns=TIME)
    top.file("d/b", b"top b", mtime_ns=TIME).whiteout("d/e").dir("many", mtime_ns=TIME)
    for i in range(300):
        top.file(f"many/{i:03}", b"", mtime_ns=TIME)
    return [low.tar(), top.tar()]


@pytest.fixture
def at(tmp_path: Path, fastpath: bool) -> Iterator[Path]:
    workshop = Workshop(Command(tmp_path / "dirs", fastpath), tmp_path, layers())
    with workshop.mounted() as mount:
        yield mount
        seen = dump_directory(mount)
    workshop.check_upper(seen)


def renameat2(old: Path, new: Path, flags: int) -> None:
    if _libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def ls(path: Path) -> list[str]:
    return sorted(os.listdir(path))


def fails(number: int, call: object, *arguments: object) -> None:
    with pytest.raises(OSError) as caught:
        call(*arguments)  # type: ignore[operator]
    assert caught.value.errno == number, errno.errorcode.get(caught.value.errno or 0)


def test_nothing_changed(at: Path) -> None:
    assert ls(at / "d") == ["a", "b", "h3", "sub"]


# ---- copy-up ------------------------------------------------------------------------------


def test_r25_an_open_descriptor_sees_what_is_written_later(at: Path) -> None:
    with open(at / "d/a", "rb", buffering=0) as reader, open(at / "f", "rb") as other:
        with mmap.mmap(other.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
            assert reader.read() == b"lower a"
            with open(at / "d/a", "r+b") as writer:
                writer.write(b"UPPER")
            with open(at / "f", "r+b") as writer:
                writer.write(b"UPPER")
            assert os.pread(reader.fileno(), 99, 0) == b"UPPER a"
            assert mapped[:7] == b"UPPER f"


def test_r26_inode_numbers_last(at: Path) -> None:
    before = {name: os.lstat(at / name).st_ino for name in ("d", "d/a", "f", "l")}
    assert {e.name: e.inode() for e in os.scandir(at)}["f"] == before["f"]
    (at / "d/a").write_bytes(b"new")
    os.chmod(at / "f", 0o600)
    os.rename(at / "f", at / "f2")
    os.rename(at / "d", at / "d2")
    after = [os.lstat(at / name).st_ino for name in ("d2", "d2/a", "f2", "l")]
    assert after == list(before.values())
    assert len({os.lstat(at / n).st_dev for n in (".", "d2", "d2/a", "l")}) == 1


def test_r30_truncate_append_and_modes(at: Path) -> None:
    with open(at / "f", "wb") as f:
        f.write(b"short")
    with open(at / "d/a", "ab") as one, open(at / "d/a", "ab") as two:
        for i in range(20):
            (one, two)[i % 2].write(b"%02d" % i)
            (one, two)[i % 2].flush()
    assert (at / "d/a").read_bytes() == b"lower a" + b"".join(b"%02d" % i for i in range(20))
    fd = os.open(at / "locked", os.O_CREAT | os.O_WRONLY, 0o444)
    os.write(fd, b"still")
    os.close(fd)
    assert (at / "locked").read_bytes() == b"still"
    os.truncate(at / "d/b", 2)
    assert (at / "d/b").read_bytes() == b"to"
    os.truncate(at / "d/b", 5)
    assert (at / "d/b").read_bytes() == b"to\0\0\0"


def test_r30_truncated_to_its_size(at: Path) -> None:
    """A remount shows the same as before, the time too."""
    os.truncate(at / "d/a", 7)
    os.truncate(at / "d/sub/deep", 4)
    assert os.stat(at / "d/a").st_mtime_ns == TIME
    (at / "empty/file").write_bytes(b"")
    os.utime(at / "empty/file", ns=(TIME, TIME))
    with open(at / "empty/file", "wb"):
        pass
    assert os.stat(at / "empty/file").st_mtime_ns > TIME


def test_r31_one_name_written_all_names_changed(at: Path) -> None:
    with open(at / "h2", "ab") as f:
        f.write(b" still")
    for name in ("h1", "h2", "d/h3"):
        assert (at / name).read_bytes() == b"linked still"
        assert os.stat(at / name).st_nlink == 3
    os.unlink(at / "h1")
    assert os.stat(at / "d/h3").st_nlink == 2


def test_r32_copy_up_keeps_everything(at: Path) -> None:
    os.chown(at / "d/a", 11, 12)
    assert os.getxattr(at / "d/a", "user.k") == b"v"
    assert os.stat(at / "d/a").st_mtime_ns == TIME
    os.setxattr(at / "cap", "user.new", b"1")
    assert os.getxattr(at / "cap", "security.capability") == CAPABILITY
    os.utime(at / "sparse", ns=(5, 6))
    assert os.stat(at / "sparse").st_mtime_ns == 6
    data = (at / "sparse").read_bytes()
    assert data == bytes(4096) + b"x" * 4096 + bytes((1 << 20) - 8192)
    assert os.stat(at / "d").st_mtime_ns == TIME  # a copy-up does not show


def test_r33_rewrites(at: Path) -> None:
    for data in (b"x" * 5, b"y" * 100_000, b"", b"z" * 7):
        (at / "f").write_bytes(data)
        assert (at / "f").read_bytes() == data


# ---- names --------------------------------------------------------------------------------


def test_r27_rename_files(at: Path) -> None:
    os.rename(at / "d/a", at / "d/b")
    assert (at / "d/b").read_bytes() == b"lower a"
    os.rename(at / "f", at / "new")
    os.rename(at / "new", at / "d/sub/deep")
    assert os.stat(at / "d/sub/deep").st_size == 21000
    os.rename(at / "h1", at / "h2")  # names of one file: nothing happens
    assert ls(at) == [
        "cap", "d", "dev0", "empty", "h1", "h2", "l", "many", "p", "sparse",
    ]  # fmt: skip
    fails(errno.ENOENT, os.rename, at / "nothing", at / "x")
    fails(errno.EEXIST, renameat2, at / "cap", at / "l", NOREPLACE)
    fails(errno.EISDIR, os.rename, at / "cap", at / "empty")
    fails(errno.ENOTDIR, os.rename, at / "empty", at / "cap")
    fails(errno.ENOTEMPTY, os.rename, at / "empty", at / "d")
    renameat2(at / "cap", at / "free", NOREPLACE)


def test_r27_a_whiteout_is_its_makers(at: Path) -> None:
    """As on ext4: renameat2(RENAME_WHITEOUT) is open to everybody."""
    (at / "d").chmod(0o777)
    (at / "d/mine").touch()
    os.chown(at / "d/mine", 9, 7)
    code = (
        "import ctypes; ctypes.CDLL(None).renameat2(-100, b'mine', -100, b'moved', 4) and exit(1)"
    )
    words = ("setpriv", "--reuid=9", "--regid=7", "--clear-groups", sys.executable, "-c", code)
    run(*words, cwd=at / "d")
    st = (at / "d/mine").lstat()
    assert (stat.S_ISCHR(st.st_mode), st.st_rdev, st.st_uid, st.st_gid) == (True, 0, 9, 7)
    assert (at / "d/moved").exists()
    (at / "d/mine").unlink()  # a whiteout to overlayfs, with which the upper is compared


def test_r27_exchange(at: Path) -> None:
    renameat2(at / "d", at / "f", EXCHANGE)
    assert ls(at / "f") == ["a", "b", "h3", "sub"]
    assert os.stat(at / "d").st_size == 21000
    os.mkdir(at / "pure")
    (at / "pure/x").write_bytes(b"1")
    renameat2(at / "pure", at / "f/sub", EXCHANGE)
    assert ls(at / "pure") == ["deep"]
    assert ls(at / "f/sub") == ["x"]


def test_r27_a_lower_directory_renames(at: Path) -> None:
    os.rename(at / "d", at / "moved")
    assert ls(at / "moved") == ["a", "b", "h3", "sub"]
    assert (at / "moved/sub/deep").read_bytes() == b"deep"
    (at / "moved/sub/new").write_bytes(b"n")
    os.rename(at / "moved/a", at / "out")
    os.rename(at / "cap", at / "moved/in")
    os.rename(at / "moved/sub", at / "sub2")
    os.rename(at / "moved", at / "sub2/moved-again")
    os.unlink(at / "sub2/moved-again/b")
    assert ls(at / "sub2") == ["deep", "moved-again", "new"]
    assert ls(at / "sub2/moved-again") == ["h3", "in"]
    os.mkdir(at / "d")  # at the old path: nothing of the layers shows
    assert ls(at / "d") == []


def test_r27_directory_over_directory(at: Path) -> None:
    os.rename(at / "d/sub", at / "empty")
    assert ls(at / "empty") == ["deep"]
    os.mkdir(at / "pure")
    os.unlink(at / "empty/deep")
    os.rename(at / "pure", at / "empty")
    assert ls(at / "empty") == []
    os.mkdir(at / "pure2")
    for name in ls(at / "many"):
        os.unlink(at / "many" / name)
    os.rename(at / "pure2", at / "many")  # over one that holds only whiteouts
    assert ls(at / "many") == []
    os.mkdir(at / "again")
    os.rmdir(at / "many")
    os.rename(at / "again", at / "many")  # over a whiteout
    assert ls(at / "many") == []


def test_r28_links(at: Path) -> None:
    os.link(at / "f", at / "f2")
    os.link(at / "l", at / "l2", follow_symlinks=False)
    assert os.stat(at / "f").st_nlink == 2
    assert os.readlink(at / "l2") == "d/a"
    with open(at / "f2", "r+b") as f:
        f.write(b"BOTH")
    assert (at / "f").read_bytes()[:4] == b"BOTH"
    os.unlink(at / "d/b")
    os.link(at / "f", at / "d/b")  # over a whiteout
    assert os.stat(at / "f").st_nlink == 3
    fails(errno.EEXIST, os.link, at / "f", at / "cap")


def test_r29_unlinked_but_open(at: Path) -> None:
    with open(at / "f", "r+b") as lower, open(at / "made", "w+b") as upper:
        upper.write(b"0123456789")
        upper.flush()
        os.unlink(at / "f")
        os.unlink(at / "made")
        assert not (at / "f").exists()
        for f in (lower, upper):
            assert os.fstat(f.fileno()).st_nlink == 0
            os.pwrite(f.fileno(), b"written", 2)
            os.ftruncate(f.fileno(), 8)
            assert os.pread(f.fileno(), 99, 2) == b"writte"
            os.fchmod(f.fileno(), 0o640)
            with open(f"/proc/self/fd/{f.fileno()}", "rb") as again:
                assert again.read()[2:] == b"writte"
        os.fsync(upper.fileno())


def test_r29_nothing_is_left_in_the_work_directory(at: Path) -> None:
    """The kernel sends times of a file that was unlinked, after it was closed."""
    with open(at / "f", "rb") as f, open(at / "made", "wb") as made:
        f.read()
        made.write(b"1")
        for path in ("f", "made", "l", "p", "d/a"):
            os.unlink(at / path)
    os.rmdir(at / "empty")
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("2")
    work = at.parent / "upper-work/work"
    assert os.listdir(work) == []


def test_r35_listing_while_deleting(at: Path) -> None:
    seen = []
    with os.scandir(at / "many") as entries:
        for entry in entries:
            seen.append(entry.name)
            os.unlink(entry.path)
            (at / "many" / f"new-{entry.name}").write_bytes(b"")
            if len(seen) >= 600:
                break
    old = [name for name in seen if not name.startswith("new-")]
    assert sorted(old) == [f"{i:03}" for i in range(300)]
    assert len(set(seen)) == len(seen)
    names = subprocess.run(["ls", "-fa", at / "many"], capture_output=True, text=True, check=True)
    assert names.stdout.split()[:2] == [".", ".."]


def test_r35_listing_ends_while_each_name_goes_and_comes_back(at: Path) -> None:
    seen = 0
    for i in range(100):
        (at / f"many/new{i}").write_bytes(b"")
    with os.scandir(at / "many") as entries:
        for entry in entries:
            os.rename(entry.path, at / "many/away")
            os.rename(at / "many/away", entry.path)
            seen += 1
            assert seen <= 400
    assert len(os.listdir(at / "many")) == 400


def test_r37_whiteouts_and_what_comes_after(at: Path) -> None:
    for name in ("a", "b", "h3"):
        os.unlink(at / "d" / name)
    fails(errno.ENOTEMPTY, os.rmdir, at / "d")
    os.unlink(at / "d/sub/deep")
    os.rmdir(at / "d/sub")
    os.mkdir(at / "d/sub")
    assert ls(at / "d/sub") == []
    os.rmdir(at / "d/sub")
    os.rmdir(at / "d")
    assert not (at / "d").exists()
    os.mkdir(at / "d")
    assert ls(at / "d") == []
    (at / "d/a").write_bytes(b"new")
    os.unlink(at / "d/a")
    assert ls(at / "d") == []
    os.unlink(at / "f")
    (at / "f").write_bytes(b"again")
    os.unlink(at / "f")
    os.symlink("x", at / "f")
    assert os.readlink(at / "f") == "x"
    os.unlink(at / "cap")
    os.mkdir(at / "cap")
    os.mkfifo(at / "cap/pipe")


def test_r38_names_and_paths_at_the_limits(at: Path) -> None:
    (at / ("n" * 255)).write_bytes(b"")
    fails(errno.ENAMETOOLONG, (at / ("n" * 256)).write_bytes, b"")
    here = os.open(at, os.O_DIRECTORY)
    for _ in range(500):
        os.mkdir("deep-dir-10", dir_fd=here)
        below = os.open("deep-dir-10", os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    fd = os.open("file", os.O_CREAT | os.O_RDWR, 0o644, dir_fd=here)
    os.write(fd, b"5,500 bytes down")
    os.close(fd)
    os.rename("file", "file2", src_dir_fd=here, dst_dir_fd=here)
    assert os.stat("file2", dir_fd=here).st_size == 16
    os.close(here)
    subprocess.run(["rm", "-r", at / "deep-dir-10"], check=True)


def test_r40_symlinks_are_never_followed(at: Path) -> None:
    os.lchown(at / "l", 21, 22)
    os.utime(at / "l", ns=(1, 2), follow_symlinks=False)
    assert (os.lstat(at / "l").st_uid, os.lstat(at / "l").st_mtime_ns) == (21, 2)
    assert os.stat(at / "d/a").st_uid == 0
    os.setxattr(at / "l", "trusted.k", b"v", follow_symlinks=False)
    assert os.listxattr(at / "l", follow_symlinks=False) == ["trusted.k"]
    assert os.listxattr(at / "d/a") == ["user.k"]


def test_r40_overlays_own_xattrs_are_hidden(at: Path) -> None:
    os.rename(at / "d", at / "d2")
    os.unlink(at / "f")
    os.mkdir(at / "f")
    assert os.listxattr(at / "d2") == os.listxattr(at / "f") == []
    fails(errno.ENODATA, os.getxattr, at / "d2", "trusted.overlay.redirect")


def test_special_files(at: Path) -> None:
    os.mknod(at / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(at / "far", stat.S_IFBLK | 0o600, os.makedev(300, 70000))
    os.chmod(at / "p", 0o600)
    os.chmod(at / "dev0", 0o600)
    assert os.stat(at / "far").st_rdev == os.makedev(300, 70000)
    os.mknod(at / "white", stat.S_IFCHR | 0o640, 0)  # a whiteout to overlayfs, and yet a device
    assert (os.stat(at / "white").st_mode, os.stat(at / "white").st_rdev) == (0o20640, 0)
    os.unlink(at / "white")
    reader = subprocess.Popen(["cat", at / "p"], stdout=subprocess.PIPE)
    with open(at / "p", "wb") as pipe:
        pipe.write(b"through")
    assert reader.communicate(timeout=10)[0] == b"through"


def test_r29_a_removed_directory_that_is_open(at: Path) -> None:
    os.mkdir(at / "gone")
    for name in ("gone", "empty"):
        fd = os.open(at / name, os.O_DIRECTORY)
        os.rmdir(at / name)
        Path("/proc/sys/vm/drop_caches").write_text("2")
        assert os.fstat(fd).st_nlink == 0
        assert os.listdir(fd) == []
        os.fsync(fd)
        fails(errno.ENOENT, os.mkdir, f"/proc/self/fd/{fd}/x")
        os.close(fd)
