"""Law: where a daemon's words go.  One logger, "imgmount"; who logs does not know where to.

`--log FILE`: that file.  `-d`: the terminal.  Else the journal or syslog through /dev/log, and on
a machine without one STATE/imgmount.log.  Where that cannot be written nothing is logged: a mount
does not fail for want of a log that nobody asked for.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

from fusemount.beneath import own_directory
from fusemount.errors import ImgmountError
from fusemount.escape import printable
from fusemount.ownfile import open_or_make

LOGGER = logging.getLogger("imgmount")
_SYSLOG = "/dev/log"
_FILE_FORMAT = "%(asctime)s imgmount[%(process)d] %(levelname)s %(message)s"


class _Legible(logging.Formatter):
    """Names of strangers neither begin a line of their own nor drive the terminal of a reader."""

    def format(self, record: logging.LogRecord) -> str:
        traced = record.exc_info or record.stack_info
        return printable(super().format(record), "\n" if traced else "")


def open_log(file: Path | None, state: Path, *, terminal: bool = False, debug: bool = False) -> int:
    """Sends LOGGER to its place; the descriptor that stderr of C libraries may go to as well.

    The descriptor is -1 when there is none (syslog, nowhere, or the terminal: leave stderr alone).
    Raises ImgmountError when the file that was asked for cannot be written.
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
        target: Path | int = path  # a user's own, as the umask says
        if file is None:
            os.close(own_directory(state, mode=0o700))
            target = open_or_make(path, os.O_WRONLY | os.O_APPEND, 0o600)
        stream = open(target, "a", buffering=1, errors="surrogateescape")
    except OSError as error:
        if file is None:
            return logging.NullHandler(), -1
        raise ImgmountError(f"{path}: cannot log: {os.strerror(error.errno or 0)}") from error
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Legible(_FILE_FORMAT))
    return handler, stream.fileno()


def _has_syslog() -> bool:
    try:
        return stat.S_ISSOCK(os.stat(_SYSLOG).st_mode)
    except OSError:
        return False
