"""Law: locks an upper for one mount.  A user who may only read its directory cannot block a mount.

Every process that may read a directory can lock it (flock(2)).  So only locks on files that just
their owner and root can open are decisive:

    WORK/work                     the directory, mode 0700: one mount for a work directory
    RUNTIME/upper-DEV-INO.lock    a file, mode 0600, in the runtime directory: one mount for an
                                  upper, by any path and with any work directory

A mount takes both exclusively; a command that only reads an upper shares the second.  Two more
locks are checked, for mounts that use another runtime directory:

    the upper itself              flock(2).  It is taken if it is free.  If it is not, the upper is
                                  in use only if a process of ours, of root or of the upper's owner
                                  has it; an untrusted user's lock blocks no mount.
    ROOT'S RUNTIME/upper-…        /proc/locks shows to users that root has it.

Locks belong to open files, so a daemon keeps those that its parent took.  DEV-INO identifies the
upper while a process has a lock, because then the upper is open.
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

from fusemount.beneath import open_beneath, own_directory
from fusemount.errors import UpperError
from fusemount.ownfile import open_file, open_or_make
from fusemount.walk import open_walked

_WHOLE_FILE = "hhqqi4x"  # struct flock: l_type, l_whence, l_start, l_len, l_pid
_PREFIX, _SUFFIX = "upper-", ".lock"


class UpperLocks:
    """The locks of one upper; close() releases them.

    path: the upper's, for errors.  directories: the own runtime directory first, then those of
    others; if there are none, only the upper itself and its work directory are locked.
    exclusive: for a mount; otherwise the lock is shared with other readers.
    """

    def __init__(self, path: Path, directories: Sequence[Path], *, exclusive: bool) -> None:
        self._path, self._directories, self._exclusive = path, directories, exclusive
        self._fds: list[int] = []
        self._file: Path | None = None

    def take(self, upper: int) -> None:
        """upper: its descriptor, to which a lock then belongs too. Raises UpperError, OSError."""
        st = os.fstat(upper)
        name = f"{_PREFIX}{st.st_dev}-{st.st_ino}{_SUFFIX}"
        if self._directories:
            self._take_file(self._directories[0] / name)
        for directory in self._directories[1:]:
            if _seen_locked(directory / name, shared=not self._exclusive):
                raise self._in_use("")
        try:
            fcntl.flock(
                upper, (fcntl.LOCK_EX if self._exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB
            )
        except BlockingIOError:
            for pid in _trusted_holders(st):
                raise self._in_use(f" (process {pid})") from None

    def take_work(self, above: int, work: int) -> None:
        """work: the descriptor of the directory `work` in the directory `above`; the name must
        still lead to it. The caller closes both. Raises UpperError, OSError."""
        try:
            fcntl.flock(work, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise self._in_use("") from e
        current = os.stat("work", dir_fd=above, follow_symlinks=False)
        if not os.path.samestat(os.fstat(work), current):
            raise self._in_use("")

    def close(self) -> None:
        """Removes the lock file if no other process shares the lock: some may still read the
        upper."""
        for fd in self._fds:
            with suppress(OSError):
                _lock(fd, fcntl.F_WRLCK)
                if self._file is not None:
                    self._file.unlink()
            os.close(fd)
        self._fds.clear()

    def _take_file(self, path: Path) -> None:
        if self._exclusive:
            os.close(own_directory(path.parent, mode=0o755 if os.geteuid() == 0 else 0o700))
        elif not path.parent.is_dir():
            return  # no mount uses it: a mount would have made it
        while True:
            try:
                fd = open_or_make(path, os.O_RDWR, 0o600)
            except OSError:
                if self._exclusive:
                    raise
                return  # a mount cannot make a lock file there either
            try:
                _lock(fd, fcntl.F_WRLCK if self._exclusive else fcntl.F_RDLCK)
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
            os.close(fd)  # a mount that has just ended has removed the file

    def _in_use(self, by: str) -> UpperError:
        return UpperError(f"{self._path}: in use by another mount{by}")


def is_free(path: Path, directories: Sequence[Path]) -> bool:
    """Whether a mount could lock the upper at that path now; true if there is no upper."""
    locks = UpperLocks(path, directories, exclusive=True)
    try:
        _, found, _ = open_walked(path, make=False)
        try:
            fd = open_beneath(found, b"", os.O_RDONLY | os.O_DIRECTORY)
        finally:
            os.close(found)
    except OSError:
        return True
    try:
        locks.take(fd)
    except UpperError:
        return False
    except OSError:
        pass  # opening the upper will report it
    finally:
        locks.close()
        os.close(fd)
    return True


def sweep(directory: Path) -> None:
    """Removes lock files without a lock, which killed daemons have left. Never raises."""
    with suppress(OSError):
        for path in directory.glob(f"{_PREFIX}*{_SUFFIX}"):
            with suppress(OSError):
                fd = open_file(path, os.O_RDWR)
                try:
                    _lock(fd, fcntl.F_WRLCK)
                    path.unlink()
                finally:
                    os.close(fd)


def _lock(fd: int, kind: int) -> None:
    """Locks the complete file by an open file description lock (fcntl(2)). Raises
    BlockingIOError, OSError."""
    try:
        wanted = struct.pack(_WHOLE_FILE, kind, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, wanted)
    except PermissionError as e:  # fcntl(2): EACCES or EAGAIN
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from e


def _seen_locked(path: Path, *, shared: bool) -> bool:
    """Whether a file that we may not open is locked; proc_locks(5) shows this to every user.

    shared: shared locks do not count, because the caller wants a shared one."""
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
    """Processes that have locked the upper and whose ids are all ours, root's or the upper's
    owner's.

    All ids, because a set-uid program may have inherited the lock from an untrusted user who
    started it.  The three standard descriptors are ignored, because any program may inherit these,
    and our locks are never on them."""
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
    """Empty for a file that is gone or that we may not read."""
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""
