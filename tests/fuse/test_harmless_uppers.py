"""Law: a mount by root that is nosuid and nodev puts nothing on its disk that has power over the
host, and shows, keeps and writes out the same as one with suid and dev (rootfs/harmless.py)."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import test_privileges
from mounted import Command, Workshop, powerful
from oracle import differences, dump_directory
from tarwriter import TarWriter
from test_changes import CAPABILITY, TIME, fails, layers

LOOP = os.makedev(7, 300)
_CAPABILITY = "security.capability"


def layer() -> bytes:
    tar = TarWriter().dir(".", mtime_ns=TIME).dir("bin", mtime_ns=TIME).dir("dev", mtime_ns=TIME)
    for name in ("id", "renamed", "linked", "written", "shorter", "given", "tamed", "acl"):
        tar.file(f"bin/{name}", Path("/usr/bin/id").read_bytes(), mode=0o4755, mtime_ns=TIME)
    for name in ("cap", "cap2"):
        xattrs = {_CAPABILITY: CAPABILITY}
        tar.file(f"bin/{name}", b"#!/bin/id", mode=0o755, mtime_ns=TIME, xattrs=xattrs)
    tar.file("bin/h1", b"#!/bin/id", mode=0o6755, mtime_ns=TIME).hardlink("bin/h2", "bin/h1")
    tar.node("dev/null", "char", (1, 3), mtime_ns=TIME)
    return tar.node("dev/loop", "block", (7, 300), mtime_ns=TIME).tar()


def nameless(at: Path) -> None:
    try:
        fd = os.open(at, os.O_TMPFILE | os.O_RDWR, 0o4711)
    except OSError as e:
        assert e.errno == errno.EOPNOTSUPP  # pyfuse3 has no handler
        return
    os.link(f"/proc/self/fd/{fd}", at / "tmpfile", src_dir_fd=0, follow_symlinks=True)
    os.close(fd)


def append(path: Path) -> None:
    with path.open("ab") as f:
        f.write(b"more")
        os.fsync(f.fileno())


def create(at: Path) -> None:
    os.close(os.open(at / "new", os.O_WRONLY | os.O_CREAT, 0o6755))
    os.mkdir(at / "handed")
    subprocess.run(["setfacl", "-d", "-m", "u:55:rwx", at / "handed"], check=True)
    os.close(os.open(at / "handed/new", os.O_WRONLY | os.O_CREAT, 0o4755))
    os.mknod(at / "pipe", stat.S_IFIFO | 0o4600)


def capabilities(at: Path) -> None:
    os.setxattr(at / "new", _CAPABILITY, CAPABILITY)
    os.setxattr(at / "bin/given", _CAPABILITY, CAPABILITY, os.XATTR_CREATE)
    fails(errno.EEXIST, os.setxattr, at / "new", _CAPABILITY, CAPABILITY, os.XATTR_CREATE)
    os.removexattr(at / "bin/cap", _CAPABILITY)
    fails(errno.ENODATA, os.getxattr, at / "bin/cap", _CAPABILITY)
    os.setxattr(at / "bin/given", "trusted.overlay.imgmount.set_id", b"6000")  # data


CHANGES: dict[str, Callable[[Path], object]] = {
    "chmod": lambda at: os.chmod(at / "bin/id", 0o4751),
    "rename": lambda at: os.rename(at / "bin/renamed", at / "moved"),
    "link": lambda at: os.link(at / "bin/linked", at / "again"),
    "link of one of several": lambda at: os.link(at / "bin/h1", at / "h3"),
    "write": lambda at: append(at / "bin/written"),
    "truncate": lambda at: os.truncate(at / "bin/shorter", 9),
    "metacopy": lambda at: os.utime(at / "bin/cap2", ns=(TIME, TIME)),
    "an ACL": lambda at: subprocess.run(["setfacl", "-m", "u:55:rx", at / "bin/acl"], check=True),
    "chmod of what has one": lambda at: os.chmod(at / "bin/acl", 0o6711),
    "create": create,
    "nameless": nameless,
    "mknod": lambda at: os.mknod(at / "block", stat.S_IFBLK | 0o666, LOOP),
    "chmod of a device": lambda at: os.chmod(at / "dev/null", 0o4666),
    "rename of a device": lambda at: os.rename(at / "dev/loop", at / "loop"),
    "capabilities": capabilities,
    "bits that go": lambda at: os.chmod(at / "bin/tamed", 0o755),
    "bits that change": lambda at: os.chmod(at / "bin/given", 0o2711),
}


def settle(at: Path) -> None:
    """The same times everywhere, so that images may be compared."""
    for here, directories, files in os.walk(at, topdown=False):
        for name in (*directories, *files, "."):
            os.utime(os.path.join(here, name), ns=(TIME, TIME), follow_symlinks=False)


def told(shop: Workshop) -> list[str]:
    """What commands print of the upper without a mount."""
    out = shop.base / "committed.tar"
    shop.command("commit", shop.upper, "x", "-o", out)
    return [shop.command("diff", shop.upper).stdout, shop.command("dump", out).stdout]


def test_nothing_in_the_upper_has_power(tmp_path: Path, fastpath: bool) -> None:
    """After every change the upper has no powers, and the results are the same as with them."""
    seen, written = [], []
    for harmless in (True, False):
        (base := tmp_path / str(harmless)).mkdir()
        shop = Workshop(Command(base / "dirs", fastpath), base, [layer()], harmless)
        with shop.mounted() as at:
            for what, change in CHANGES.items():
                change(at)
                assert not harmless or not powerful(shop.upper) + powerful(shop.work), what
            settle(at)
            seen.append(dump_directory(at))
        with shop.mounted() as at:
            assert not differences(dump_directory(at), seen[-1])
        assert bool(powerful(shop.upper)) is not harmless
        if fastpath:  # both doors give the same result
            written.append(told(shop))
        if harmless:
            nobody_gains_from(shop.upper)
            other_mounts_understand(shop, seen[-1])
    assert not differences(*seen)
    assert written[:1] == written[1:]


def nobody_gains_from(upper: Path) -> None:
    """A user finds no powers on disk."""
    line = "bin/written -u; find . -perm /6000 ! -type d -o -type b; getcap -r ."
    argv = ["setpriv", "--reuid=9", "--regid=9", "--clear-groups", "sh", "-c", line]
    done = subprocess.run(argv, cwd=upper, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("9\n", "")


def other_mounts_understand(shop: Workshop, shown: list[bytes]) -> None:
    """A mount with suid and dev shows the same, and gives objects that it changes their real
    powers."""
    shop.harmless = False
    with shop.mounted() as at:
        assert not differences(dump_directory(at), shown)
        assert not powerful(shop.upper)
        os.chmod(at / "bin/id", 0o4755)
        os.setxattr(at / "bin/cap2", _CAPABILITY, CAPABILITY)
        names = {os.path.basename(path) for path in powerful(shop.upper)}
        assert names == {"id", "cap2"}
        for name in names:
            marks = os.listxattr(shop.upper / "bin" / name)
            assert not [mark for mark in marks if "set_id" in mark or "imgmount.cap" in mark]
    shop.harmless, log = True, shop.base / "log"
    for _ in range(2):
        with shop.mounted("--log", str(log)):
            assert not powerful(shop.upper)
    assert log.read_text().count(": 2 set-id files, files with capabilities") == 1


@pytest.fixture
def at(tmp_path: Path, fastpath: bool) -> Iterator[Path]:
    shop = Workshop(Command(tmp_path / "dirs", fastpath), tmp_path, layers(), harmless=True)
    with shop.mounted() as mount:
        yield mount
        seen = dump_directory(mount)
    shop.check_upper(seen)


def test_r34_marks_go_with_what_takes_privileges(at: Path) -> None:
    test_privileges.test_r34_privileges_drop(at)
    test_privileges.test_r34_root_keeps_the_set_id_bits(at)
    test_privileges.test_r34_roots_write_takes_a_capability_alone(at)
    test_privileges.test_r34_a_chown_to_nobody_is_one_to_the_same_owner(at)
