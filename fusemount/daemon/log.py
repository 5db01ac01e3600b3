"""Law: opens the daemon's log.  All modules use one logger, "imgmount", and do not choose where its
lines go.

With `--log FILE` they go to that file, with `-d` to the terminal.  Else they go to the journal or
syslog through /dev/log, and on a machine without /dev/log to STATE/imgmount.log.  If that file
cannot be written, nothing is logged: a mount must not fail because of a log that was not asked for.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

from fusemount.beneath import own_directory
from fusemount.errors import ImgmountError
from fusemount.escape import printable
from fusemount.namedfile import open_named
from fusemount.ownfile import open_or_make

LOGGER = logging.getLogger("imgmount")
_SYSLOG = "/dev/log"
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
            target = open_named(file, os.O_APPEND)
        stream = open(target, "a", buffering=1, errors="surrogateescape")
    except OSError as error:
        if file is None:
            return logging.NullHandler(), -1
        raise ImgmountError(f"{path}: cannot log: {error.strerror}") from error
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Legible(_FILE_FORMAT))
    return handler, stream.fileno()


def _has_syslog() -> bool:
    try:
        return stat.S_ISSOCK(os.stat(_SYSLOG).st_mode)
    except OSError:
        return False
