"""Law: an upper has one mount, and nobody else who can open its directory can keep it from that.

Whoever may read a directory can lock it (flock(2)), so a lock decides only on what nobody but its
owner and root can open:

    WORK/work                     the directory, 0700: a work directory has one mount
    PLACE/upper-DEV-INO.lock      a file, 0600, in the runtime directory: an upper has one mount,
                                  by whichever path and with whichever work directory

A mount holds both alone; whoever only reads an upper shares the second.  Two more are looked at,
for mounts that do not share a runtime directory:

    the upper itself              flock(2) again.  It is taken where it is free.  Where it is not,
                                  it counts if a process holds it that is ours, root's or the
                                  upper's owner's; a stranger's lock keeps nobody out.
    ROOT'S PLACE/upper-…          /proc/locks tells users that root holds it.

Locks belong to open files, so a daemon keeps those that its parent took.  DEV-INO name the upper as
long as somebody holds a lock, for then it is open.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from fusemount.beneath import own_directory
from fusemount.errors import UpperError
from fusemount.ownfile import open_file, open_or_make

_WHOLE_FILE = "hhqqi4x"  # struct flock: l_type, l_whence, l_start, l_len, l_pid
_PREFIX, _SUFFIX = "upper-", ".lock"


class UpperLocks:
    """The locks of one upper, as they are taken; close() lets go of them.

    path: of the upper, for errors.  places: the runtime directory first, then those of others;
    without any, what the upper itself and its work directory tell is all.
    """

    def __init__(self, path: Path, places: Sequence[Path], *, alone: bool) -> None:
        self._path, self._places, self._alone = path, places, alone
        self._fds: list[int] = []
        self._file: Path | None = None

    def take(self, upper: int) -> None:
        """upper: its descriptor, which keeps a lock itself. Raises UpperError, OSError."""
        st = os.fstat(upper)
        name = f"{_PREFIX}{st.st_dev}-{st.st_ino}{_SUFFIX}"
        if self._places:
            self._take_file(self._places[0] / name)
        for place in self._places[1:]:
            if _seen_locked(place / name, shared=not self._alone):
                raise self._in_use("")
        try:
            fcntl.flock(upper, (fcntl.LOCK_EX if self._alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            for pid in _trusted_holders(st):
                raise self._in_use(f" (process {pid})") from None

    def take_work(self, above: int, work: int) -> None:
        """work: the descriptor of the directory `work` in the directory above, which must still be
        that one; both stay the caller's. Raises UpperError, OSError."""
        try:
            fcntl.flock(work, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise self._in_use("") from e
        current = os.stat("work", dir_fd=above, follow_symlinks=False)
        if not os.path.samestat(os.fstat(work), current):
            raise self._in_use("")

    def close(self) -> None:
        """A lock file goes with who can have it alone: others may be reading the upper still."""
        for fd in self._fds:
            with suppress(OSError):
                _lock(fd, fcntl.F_WRLCK)
                if self._file is not None:
                    self._file.unlink()
            os.close(fd)
        self._fds.clear()

    def _take_file(self, path: Path) -> None:
        if self._alone:
            os.close(own_directory(path.parent, mode=0o755 if os.geteuid() == 0 else 0o700))
        elif not path.parent.is_dir():
            return  # whoever mounts has made it
        while True:
            try:
                fd = open_or_make(path, os.O_RDWR, 0o600)
            except OSError:
                if self._alone:
                    raise
                return  # nor can a mount make one there
            try:
                _lock(fd, fcntl.F_WRLCK if self._alone else fcntl.F_RDLCK)
                current = os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
            except BlockingIOError as e:
                os.close(fd)
                raise self._in_use("") from e
            except FileNotFoundError:
                current = False
            except BaseException:
                os.close(fd)
                raise
            if current:
                self._fds, self._file = [fd], path
                return
            os.close(fd)  # of a mount that has just ended, and took the file away

    def _in_use(self, by: str) -> UpperError:
        return UpperError(f"{self._path}: in use by another mount{by}")


def is_free(path: Path, places: Sequence[Path]) -> bool:
    """Whether a mount could take the locks of the upper at that path now, or none is there."""
    locks = UpperLocks(path, places, alone=True)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return True
    try:
        locks.take(fd)
    except UpperError:
        return False
    except OSError:
        pass  # told by who opens the upper
    finally:
        locks.close()
        os.close(fd)
    return True


def sweep(place: Path) -> None:
    """Removes lock files that nobody holds: of daemons that were killed. Never raises."""
    with suppress(OSError):
        for path in place.glob(f"{_PREFIX}*{_SUFFIX}"):
            with suppress(OSError):
                fd = open_file(path, os.O_RDWR)
                try:
                    _lock(fd, fcntl.F_WRLCK)
                    path.unlink()
                finally:
                    os.close(fd)


def _lock(fd: int, kind: int) -> None:
    """An open file description lock (fcntl(2)) of it all. Raises BlockingIOError, OSError."""
    try:
        wanted = struct.pack(_WHOLE_FILE, kind, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, wanted)
    except PermissionError as e:  # fcntl(2): EACCES or EAGAIN
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from e


def _seen_locked(path: Path, *, shared: bool) -> bool:
    """Whether a file that we may not open is locked, which proc_locks(5) shows to everybody.
    shared: locks that are shared too do not count."""
    try:
        st = os.stat(path, follow_symlinks=False)
        known = Path("/proc/locks").read_text()
    except OSError:
        return False
    if not stat.S_ISREG(st.st_mode):
        return False
    device = f"{os.major(st.st_dev):02x}:{os.minor(st.st_dev):02x}"
    kinds = "WRITE" if shared else "WRITE|READ"
    return re.search(rf"OFDLCK .* ({kinds}) .* {device}:{st.st_ino} ", known) is not None


def _trusted_holders(upper: os.stat_result) -> Iterator[int]:
    """Processes that have the upper locked and are ours, root's or its owner's by all their ids: a
    set-uid program may have been handed a lock by whoever started it. It may have been as one of
    the three standard descriptors too, where no lock of ours is."""
    trusted = {os.geteuid(), 0, upper.st_uid}
    locked = re.compile(rf"^lock:.* FLOCK .*:{upper.st_ino} 0 EOF$", re.MULTILINE)
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        ids = _read(f"/proc/{pid}/status").partition("\nUid:")[2].partition("\n")[0].split()
        if not ids or not trusted.issuperset(map(int, ids)):
            continue
        with suppress(OSError):
            fds = os.listdir(f"/proc/{pid}/fdinfo")
            if any(int(fd) > 2 and locked.search(_read(f"/proc/{pid}/fdinfo/{fd}")) for fd in fds):
                yield int(pid)


def _read(path: str) -> str:
    """Empty for what is gone or not ours to read."""
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""
