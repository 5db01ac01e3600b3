"""Law: opens the daemon's log.  All modules use one logger, "imgmount", and do not choose where its
lines go.

With `--log FILE` they go to that file, with `-d` to the terminal.  Else they go to the journal or
syslog through /dev/log, and on a machine without /dev/log to STATE/imgmount.log.  If that file
cannot be written, nothing is logged: a mount must not fail because of a log that was not asked for.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from pathlib import Path

from fusemount.beneath import own_directory, trusted
from fusemount.errors import ImgmountError
from fusemount.escape import printable
from fusemount.ownfile import open_or_make
from fusemount.walk import open_parent

LOGGER = logging.getLogger("imgmount")
_SYSLOG = "/dev/log"
# /dev/stderr, /dev/fd/N: links of these lead to open files, and walk.py follows no such link.
_OWN_DESCRIPTORS = (Path("/dev"), Path("/dev/fd"), Path("/proc/self/fd"))
_FILE_FORMAT = "%(asctime)s imgmount[%(process)d] %(levelname)s %(message)s"


class _Legible(logging.Formatter):
    """Escapes names that untrusted users chose: they can neither begin a line of the log nor
    control the terminal of its reader."""

    def format(self, record: logging.LogRecord) -> str:
        traced = record.exc_info or record.stack_info
        return printable(super().format(record), "\n" if traced else "")


def open_log(file: Path | None, state: Path, *, terminal: bool = False, debug: bool = False) -> int:
    """Connects LOGGER; returns a descriptor of the log file, to which stderr may go as well.

    -1 if there is no file: with syslog, without a log, or on the terminal, where stderr stays.
    Raises ImgmountError if the file that was asked for cannot be written.
    """
    handler: logging.Handler
    fd = -1
    if terminal and file is None:
        handler = logging.StreamHandler()
        handler.setFormatter(_Legible("imgmount: %(message)s"))
    elif file is None and _has_syslog():
        from logging.handlers import SysLogHandler

        handler = SysLogHandler(_SYSLOG, SysLogHandler.LOG_DAEMON)
        handler.setFormatter(_Legible("imgmount[%(process)d]: %(message)s"))
    else:
        handler, fd = _to_file(file, state)
    LOGGER.handlers[:] = [handler]
    LOGGER.propagate = False
    LOGGER.setLevel(logging.DEBUG if debug else logging.INFO)
    return fd


def _to_file(file: Path | None, state: Path) -> tuple[logging.Handler, int]:
    path = file or state / "imgmount.log"
    try:
        if file is None:
            os.close(own_directory(state, mode=0o700))
            target = open_or_make(path, os.O_WRONLY | os.O_APPEND, 0o600)
        else:
            target = _open_named(file)
        stream = open(target, "a", buffering=1, errors="surrogateescape")
    except OSError as error:
        if file is None:
            return logging.NullHandler(), -1
        raise ImgmountError(f"{path}: cannot log: {error.strerror}") from error
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Legible(_FILE_FORMAT))
    return handler, stream.fileno()


def _open_named(path: Path) -> int:
    """The file that the user named; its mode follows the umask.

    Another user's symlink on the way is refused (walk.py), so is another user's fifo: a daemon
    would wait for who reads it. A fifo without a reader is an error, because open(2) would wait for
    one. A hard link in another user's directory may be of any file."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    if path.parent in _OWN_DESCRIPTORS:
        fd = os.open(path, flags, 0o666)
    else:
        above, name = open_parent(path)
        try:
            fd = os.open(name, flags | os.O_NOFOLLOW, 0o666, dir_fd=above)
            try:
                _check_named(os.fstat(fd), os.fstat(above))
            except OSError:
                os.close(fd)
                raise
        finally:
            os.close(above)
    os.set_blocking(fd, True)
    return fd


def _check_named(st: os.stat_result, above: os.stat_result) -> None:
    if not stat.S_ISREG(st.st_mode) and not trusted(st.st_uid):
        raise OSError(errno.EPERM, f"it is not a regular file, and belongs to uid {st.st_uid}")
    others = above.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or not trusted(above.st_uid)
    if stat.S_ISREG(st.st_mode) and st.st_nlink > 1 and others:
        raise OSError(errno.EPERM, "it has other names, and others can write to its directory")


def _has_syslog() -> bool:
    try:
        return stat.S_ISSOCK(os.stat(_SYSLOG).st_mode)
    except OSError:
        return False
