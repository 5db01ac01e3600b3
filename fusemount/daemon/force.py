"""Law: `umount --force` ends a mount at once for all its users, in every mount namespace.

First the kernel writes out what programs wrote.  Then the daemon gets SIGTERM, unmounts what it can
reach, and ends (session.py).  When it has ended, the kernel aborts the connection, and programs
that still use the mount get ENOTCONN.  No step waits without a limit: a daemon that hangs is
killed, and what it had not written yet is lost.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path

from fusemount.beneath import open_in_root
from fusemount.daemon.background import done_in_time, pidfd_ended
from fusemount.daemon.holders import Holder, holders
from fusemount.daemon.mountid import Mount, mount_of, sync_mount, sync_root
from fusemount.daemon.mountrecords import Record
from fusemount.errors import NotPermitted

# For writing out, and for the daemon's flush after the first SIGTERM.  An upper that the daemon has
# not dropped when it is killed is dropped by umount.py.
FLUSH_SECONDS = 10.0
# After the second SIGTERM a daemon does not wait for a flush any more.
LEAVE_SECONDS = 5.0
HOLDERS_MAX = 3  # namespaces that are tried for the writing out: each may take its time


def end_now(record: Record, pidfd: int, target: Path, mount: Mount | None) -> None:
    """Returns when the daemon has ended. mount: the mount on target, None if there is none.

    Raises NotPermitted: another user's daemon.
    """
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except PermissionError as error:
        raise NotPermitted(f"{target}: {record.user}'s mount: only they can end it") from error
    except ProcessLookupError:
        return
    if mount is not None:
        done_in_time(partial(sync_mount, target, mount), FLUSH_SECONDS)
    else:
        for holder in islice(holders(record.device), HOLDERS_MAX):
            if done_in_time(partial(_sync_there, holder, record.device), FLUSH_SECONDS):
                break
    for number, seconds in (
        (signal.SIGTERM, FLUSH_SECONDS),
        (signal.SIGTERM, LEAVE_SECONDS),
        (signal.SIGKILL, LEAVE_SECONDS),
    ):
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)
        if pidfd_ended(os.dup(pidfd), seconds):
            return


def _sync_there(holder: Holder, device: str) -> None:
    """Syncs the file system through a mount in another namespace.

    The owner of that namespace chooses the names, so the device that the name leads to is
    checked."""
    root = os.open(f"/proc/{holder.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mounted = open_in_root(root, os.fspath(holder.mountpoint), os.O_PATH | os.O_DIRECTORY)
    if mount_of(mounted).device != device:
        raise FileNotFoundError
    sync_root(mounted)
