"""An upper that users can write to: whatever they exchange in it, no file outside changes or shows.

Two mounts over one upper: the first brings objects up, the second has nothing open when they are
swapped. What an operation answers then is free; what it has done is not.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import stat
from collections.abc import Callable
from pathlib import Path

from mounted import Command, Workshop
from tarwriter import TarWriter

_libc = ctypes.CDLL(None, use_errno=True)
SECRET = b"a file of root's, which nobody is to read"


def _exchange(a: Path, b: Path) -> None:
    _libc.renameat2(-100, os.fsencode(a), -100, os.fsencode(b), 2)


def _append(path: Path) -> None:
    with open(path, "ab") as f:
        f.write(b"written by a user\n")


def _read(path: Path) -> None:
    assert SECRET not in path.read_bytes(), f"{path} shows what lies outside"


# Operations of the fast path come first: after errors of the others it leaves changes to Python.
OPERATIONS: dict[str, Callable[[Path], object]] = {
    "read": lambda d: _read(d / "f"),
    "write": lambda d: _append(d / "f"),
    "truncate": lambda d: os.truncate(d / "f", 3),
    "chmod": lambda d: os.chmod(d / "f", 0o4777),
    "chown": lambda d: os.chown(d / "f", 7, 7),
    "utimens": lambda d: os.utime(d / "f", ns=(5, 5)),
    "setxattr": lambda d: os.setxattr(d / "f", "user.k", b"v"),
    "setxattr-directory": lambda d: os.setxattr(d, "user.k", b"v"),
    "chmod-directory": lambda d: os.chmod(d, 0o777),
    "chmod-fifo": lambda d: os.chmod(d / "p", 0o777),
    "setxattr-fifo": lambda d: os.setxattr(d / "p", "trusted.k", b"v"),
    "chown-symlink": lambda d: os.chown(d / "l", 7, 7, follow_symlinks=False),
    "fsync": lambda d: os.fsync(os.open(d / "f", os.O_RDWR)),
    "mkdir": lambda d: os.mkdir(d / "new"),
    "create": lambda d: (d / "new").write_bytes(b"x"),
    "symlink": lambda d: os.symlink("x", d / "new"),
    "mknod": lambda d: os.mknod(d / "new", stat.S_IFIFO | 0o600),
    "link": lambda d: os.link(d / "f", d / "new"),
    "rename": lambda d: os.rename(d / "f", d / "new"),
    "unlink": lambda d: os.unlink(d / "f"),
    "rmdir": lambda d: os.rmdir(d / "empty"),
    "whiteout": lambda d: os.unlink(d / "low"),
    "exchange": lambda d: _exchange(d / "f", d / "low"),
    "copy-up": lambda d: _append(d / "low"),
    "copy-up-attributes": lambda d: os.chmod(d / "low", 0o4777),
    "rename-directory": lambda d: os.rename(d / "lowdir", d / "new"),
    "acl": lambda d: os.setxattr(
        d / "f", "system.posix_acl_access",
        bytes.fromhex("0200000001000600ffffffff04000600ffffffff20000600ffffffff"),
    ),
}  # fmt: skip
SWAPS = ("parent", "above", "symlink", "hardlink", "fifo", "device")


def _layer() -> bytes:
    tar = TarWriter().dir(".")
    for swap in SWAPS:
        tar.dir(swap)
        for name in OPERATIONS:
            d = f"{swap}/{name}/d"
            tar.dir(f"{swap}/{name}").dir(d).dir(f"{d}/lowdir").dir(f"{d}/empty")
            tar.file(f"{d}/f", b"lower").file(f"{d}/low", b"lower").file(f"{d}/lowdir/x", b"x")
            tar.symlink(f"{d}/l", "f").node(f"{d}/p", "fifo")
    return tar.tar()


def _bring_up(d: Path) -> None:
    _append(d / "f")
    os.chmod(d / "p", 0o600)
    os.chown(d / "l", 1, 1, follow_symlinks=False)


def _victim(d: Path) -> None:
    """Root's files under all names that an operation uses."""
    (d / "lowdir").mkdir(parents=True)
    (d / "empty").mkdir()
    for name in ("f", "low", "lowdir/x"):
        (d / name).write_bytes(SECRET)
        (d / name).chmod(0o600)
    os.symlink("f", d / "l")
    os.mkfifo(d / "p")


def _swap(how: str, upper: Path, victim: Path) -> None:
    """The change by a user who can write to a directory of the upper."""
    at = {"parent": Path("d"), "above": Path()}.get(how, Path("d/f"))
    os.rename(upper / at, upper.with_name(upper.name + "-was"))
    if how == "hardlink":
        os.link(victim / at, upper / at)
    elif how == "fifo":
        os.mkfifo(upper / at)
    elif how == "device":  # an existing one, as below /dev
        os.mknod(upper / at, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    else:
        os.symlink(victim / at, upper / at)


def _state(top: Path, how: str) -> dict[str, object]:
    """The ctime of a hardlink changes with its names, which the user can change."""
    found: dict[str, object] = {}
    for path in sorted(p for p in (top, *top.rglob("*"))):
        st = path.lstat()
        attributes = [st.st_mode, st.st_uid, st.st_gid, st.st_size, st.st_mtime_ns, st.st_ctime_ns]
        data = path.read_bytes() if stat.S_ISREG(st.st_mode) else b""
        xattrs = os.listxattr(path, follow_symlinks=False)
        found[str(path)] = (attributes[:5] if how == "hardlink" else attributes, data, xattrs)
    return found


def _run_all(at: Path) -> None:
    """Runs in another process, because an open of a fifo may wait for its other end."""
    if not (child := os.fork()):
        status = 0
        for swap in SWAPS:
            for name, operation in OPERATIONS.items():
                try:
                    with contextlib.suppress(OSError):
                        operation(at / swap / name / "d")
                except BaseException as e:
                    os.write(2, f"{swap} {name}: {e!r}\n".encode())
                    status = 1
        os._exit(status)
    fd = os.pidfd_open(child)
    ended = select.select([fd], [], [], 60)[0]
    os.close(fd)
    if not ended:
        os.kill(child, signal.SIGKILL)
    assert ended, "an operation hangs"
    assert os.waitpid(child, 0)[1] == 0, "what lies outside is shown"


def test_what_users_swap_leads_nowhere(tmp_path: Path, fastpath: bool) -> None:
    workshop = Workshop(Command(tmp_path / "dirs", fastpath), tmp_path, [_layer()])
    cases = [(swap, name) for swap in SWAPS for name in OPERATIONS]
    with workshop.mounted() as at:
        for swap, name in cases:
            _bring_up(at / swap / name / "d")
    victims = tmp_path / "victims"
    for swap, name in cases:
        _victim(victims / swap / name / "d")
    with workshop.mounted() as at:
        for swap, name in cases:
            _swap(swap, workshop.upper / swap / name, victims / swap / name)
        before = {case: _state(victims / case[0] / case[1], case[0]) for case in cases}
        _run_all(at)
        touched = [c for c in cases if _state(victims / c[0] / c[1], c[0]) != before[c]]
        assert not touched
