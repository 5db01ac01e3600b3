"""R: xattrs, times, ctimes, file handles, fsync and statfs of a mount.

Each test works on the image of test_changes.py, and ends as the tests there do.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import itertools
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

from oracle import run
from test_changes import at, fails

__all__ = ["at"]
_libc = ctypes.CDLL(None, use_errno=True)


def test_xattrs(at: Path) -> None:
    os.setxattr(at / "f", "user.one", b"1", os.XATTR_CREATE)
    fails(errno.EEXIST, os.setxattr, at / "f", "user.one", b"1", os.XATTR_CREATE)
    fails(errno.ENODATA, os.setxattr, at / "f", "user.two", b"1", os.XATTR_REPLACE)
    os.setxattr(at / "d", "user.empty", b"")
    os.removexattr(at / "d/a", "user.k")
    fails(errno.ENODATA, os.removexattr, at / "d/a", "user.k")
    assert os.listxattr(at / "f") == ["user.one"]


def test_what_is_no_xattr_or_acl(at: Path) -> None:
    os.removexattr(at / "f", "system.posix_acl_access")  # there is none: no error, as on ext4
    for name in ("user", "foo.a", "system.a"):
        fails(errno.EOPNOTSUPP, os.getxattr, at / "f", name)
    fails(errno.ENODATA, os.getxattr, at / "f", "user.a")


NAMES = [
    *(
        "user.k",
        "user.a",
        "user.",
        "user",
        "foo.a",
        "system.a",
        "trusted.a",
        "trusted.",
        "security.a",
    ),
    *(f"system.posix_acl_{kind}" for kind in ("access", "default", "other")),
]


def outcomes(at: Path) -> list[tuple[str, str, str, int | bytes]]:
    """What each call for each name gives, in turn: on objects of the layers and new ones, with and
    without a name."""
    os.mkdir(at / "xattrs")
    (at / "xattrs/new").touch()
    with open(at / "xattrs/removed", "w") as removed:
        os.unlink(at / "xattrs/removed")
        places = [
            at / "d/a",
            at / "d",
            at / "l",
            at / "xattrs",
            at / "xattrs/new",
            removed.fileno(),
        ]
        found: list[tuple[str, str, str, int | bytes]] = []
        for place, name in itertools.product(places, NAMES):
            acl = name.startswith("system.posix")
            follow = {} if isinstance(place, int) else {"follow_symlinks": False}
            steps: dict[str, Callable[[], bytes | None]] = {
                "get": functools.partial(os.getxattr, place, name, **follow),
                "remove": functools.partial(os.removexattr, place, name, **follow),
            }
            for how in (os.XATTR_REPLACE, os.XATTR_CREATE, os.XATTR_CREATE, os.XATTR_REPLACE, 0):
                value = b"nonsense" if acl else b"%d" % how
                step = functools.partial(os.setxattr, place, name, value, how, **follow)
                steps[f"set {len(steps)} {how}"] = step
            for called, step in (
                *steps.items(),
                *list(steps.items())[:2],
                ("again", steps["remove"]),
            ):
                try:
                    result = step() or b""
                except OSError as e:
                    result = e.errno
                found.append((str(place).removeprefix(str(at)), name, called, result))
    return found


def test_setxattr_as_on_ext4(at: Path, tmp_path: Path) -> None:
    ext4 = tmp_path / "ext4"
    run("cp", "-a", at, ext4)
    ours, theirs = outcomes(at), outcomes(ext4)
    assert [pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1]] == []


def test_times_beyond_2262(at: Path) -> None:
    """Such times in ns need more than 64 bits."""
    os.utime(at / "f", ns=(10**19, 10**19 + 7))
    os.utime(at / "d", ns=(10**19, 10**19 + 7))
    for name in ("f", "d"):
        assert os.stat(at / name).st_mtime_ns == 10**19 + 7


def test_trusted_xattrs_are_roots_alone(at: Path) -> None:
    os.setxattr(at / "d/a", "trusted.secret", b"1")
    assert sorted(os.listxattr(at / "d/a")) == ["trusted.secret", "user.k"]
    with open(at / "d/a") as f:
        listing = ["/usr/bin/python3", "-c", "import os; print(os.listxattr(0))"]
        somebody = ["setpriv", "--reuid=9", "--regid=9", "--clear-groups", *listing]
        seen = subprocess.run(somebody, stdin=f, capture_output=True, text=True, check=True)
    assert seen.stdout == "['user.k']\n"


def test_r39_ctime_stays_when_caches_are_dropped(at: Path) -> None:
    """The kernel sets ctimes by its own clock, so ours must be the same."""
    (at / "made").write_bytes(b"1")
    moved, again = at / "moved", at / "again"
    for path in (at / "made", at / "f", at / "d/a"):
        for change in (
            functools.partial(os.chmod, path, 0o640),
            functools.partial(os.chown, path, 7, 7),
            functools.partial(os.setxattr, path, "user.k2", b"v"),
            functools.partial(os.link, path, again),
            functools.partial(os.unlink, again),
            functools.partial(path.write_bytes, b"more"),
            functools.partial(os.rename, path, moved),
            functools.partial(os.rename, moved, path),
        ):
            change()
            now = path if path.exists() else moved
            before = os.stat(now)
            os.sync()
            Path("/proc/sys/vm/drop_caches").write_text("2")
            assert os.stat(now).st_ctime_ns == before.st_ctime_ns, change
            assert os.stat(now).st_mtime_ns == before.st_mtime_ns, change


def test_a_file_handle_lasts(at: Path) -> None:
    """open_by_handle_at(2) of a node that the kernel has forgotten: the kernel looks up its "."."""
    for name in ("f", "d", "p"):
        handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136)
        path, mount_id = os.fsencode(at / name), ctypes.byref(ctypes.c_int())
        assert _libc.name_to_handle_at(-100, path, handle, mount_id, 0) == 0
        ino = os.stat(at / name).st_ino
        Path("/proc/sys/vm/drop_caches").write_text("2")
        mount = os.open(at, os.O_RDONLY)
        fd = _libc.open_by_handle_at(mount, handle, os.O_PATH)
        os.close(mount)
        assert fd >= 0, os.strerror(ctypes.get_errno())
        assert os.fstat(fd).st_ino == ino
        os.close(fd)


def test_fsync_and_statfs(at: Path) -> None:
    with open(at / "f", "r+b") as f:
        f.write(b"synced")
        f.flush()
        os.fsync(f.fileno())
        os.fdatasync(f.fileno())
    fd = os.open(at / "d", os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)
    assert os.statvfs(at).f_blocks == os.statvfs(at.parent).f_blocks
