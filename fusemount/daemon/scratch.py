"""Law: makes the scratch: the directory that a mount owns while it lives and removes when it ends.

    STATE/uppers/<id>/   lock      the processes of the mount have its flock (see below)
                         keep      present: the user asked to keep the changes; never dropped
                         upper/    what was written
                         work/     overlayfs' work directory
                         root/     a private mountpoint, for `imgmount run`

All processes that may use a scratch have its lock; a forked child shares it, because flock(2)
belongs to the open file.  A scratch without `keep` whose lock is free and that no record names was
left by a SIGKILL or a power cut.  The next mount removes it (sweep).
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from fusemount.beneath import own_directory
from fusemount.dataclass import dataclass
from fusemount.errors import ImgmountError, translated
from fusemount.ownfile import lock_if_free, make_directory, make_file, open_file, open_or_make


@dataclass(frozen=True)
class Scratch:
    path: Path
    lock: int

    @property
    def upper(self) -> Path:
        return self.path / "upper"

    @property
    def work(self) -> Path:
        return self.path / "work"

    @property
    def root(self) -> Path:
        return self.path / "root"

    def keep(self) -> None:
        os.close(open_or_make(self.path / "keep", os.O_RDONLY, 0o600))

    def release(self) -> None:
        """Call it when the mount has ended: removes the scratch; with `keep`, all but the upper."""
        if (self.path / "keep").exists():
            drop(self.work)
            self.root.rmdir()
            (self.path / "lock").unlink()
        else:
            drop(self.path)
        os.close(self.lock)


def is_scratch(path: str, state: Path) -> bool:
    """Whether the path names a scratch under `state`: only such a path may be dropped."""
    name = path.rpartition("/")[2]
    return name not in ("", ".", "..") and path == str(state / "uppers" / name)


def create_scratch(state: Path) -> Scratch:
    """A new empty scratch under `state`, locked. Raises NoSpace or ImgmountError."""
    path = state / "uppers" / secrets.token_hex(6)
    failed = f"{path}: cannot make an upper"
    with translated(failed, full=failed):
        for directory in (state, path.parent):
            os.close(own_directory(directory, mode=0o700))
        with _gate(state):  # a sweep between mkdir and flock would remove the directory
            make_directory(path, 0o700)
            lock = make_file(path / "lock", 0o600, os.O_RDWR)
            lock_if_free(lock)
        scratch = Scratch(path, lock)
        make_directory(scratch.upper, 0o755)
        make_directory(scratch.work, 0o700)
        make_directory(scratch.root, 0o700)
    return scratch


class _gate:
    """A context manager that takes the flock(2) of STATE/uppers: for making, and for sweeping."""

    def __init__(self, state: Path) -> None:
        self._path = state / "uppers"

    def __enter__(self) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self._path, flags)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def sweep(state: Path, recorded: Iterable[Path]) -> None:
    """Drops scratches that are not used, kept or recorded. If one cannot be dropped, the next mount
    tries again.

    Raises NotPermitted if another user could have put a directory there.
    """
    spared = set(recorded)
    try:
        for directory in (state, state / "uppers"):
            os.close(own_directory(directory, make=False))
        with _gate(state):
            for path in (state / "uppers").iterdir():
                if path not in spared and not (path / "keep").exists() and _unused(path):
                    drop(path)
    except OSError:
        return


def _unused(path: Path) -> bool:
    try:
        fd = open_file(path / "lock", os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        return lock_if_free(fd)
    finally:
        os.close(fd)


def drop(path: Path) -> None:
    """Removes a directory and all below it, however deep. Never raises."""
    from fusemount.rootfs.removal import remove_tree

    try:
        parent = own_directory(path.parent, make=False)
    except (OSError, ImgmountError):
        return  # another user can write there: we remove nothing
    try:
        remove_tree(parent, os.fsencode(path.name))
    except OSError:
        pass  # the next mount's sweep tries again
    finally:
        os.close(parent)
