"""Law: an upper that was just unmounted is waited for, since umount(8) does not wait for a daemon.

The kernel's umount(2) returns when all is written to the daemon, which then lets go of the upper.
Whoever mounts the same upper in the next moment must not be told that it is in use.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from fusemount.daemon import registry
from fusemount.daemon.mountinfo import mount_at

HANDOVER_SECONDS = 10.0
_STEP_SECONDS = 0.01


def await_upper(upper: Path, work: Path | None, runtime: Path) -> None:
    """Returns when nobody holds the locks of both (rootfs.upper), or a living mount does, or nobody
    let go in time: what then holds is told by who opens the upper."""
    deadline = time.monotonic() + HANDOVER_SECONDS
    while not (_free(upper) and (work is None or _free(work))) and time.monotonic() < deadline:
        records = (m.record for m in registry.listing(runtime) if m.record.alive)
        if any(record.upper == str(upper) and _stands(record) for record in records):
            return
        time.sleep(_STEP_SECONDS)


def _stands(record: registry.Record) -> bool:
    """By its mountpoint too: a device number that was given back may be another mount's already."""
    entry = mount_at(Path(record.mountpoint))
    return entry is not None and registry.shows(record, entry)


def _free(upper: Path) -> bool:
    try:
        fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True
