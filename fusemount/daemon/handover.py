"""Law: an upper that was just unmounted is waited for, since umount(8) does not wait for a daemon.

The kernel's umount(2) returns when all is written to the daemon, which then lets go of the upper.
Whoever mounts the same upper in the next moment must not be told that it is in use.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from fusemount.daemon import mountrecords
from fusemount.daemon.mountinfo import mount_at
from fusemount.rootfs.upperlock import is_free
from fusemount.settings import Directories

HANDOVER_SECONDS = 10.0
_STEP_SECONDS = 0.01


def await_upper(upper: Path, directories: Directories) -> None:
    """Returns when nobody holds a lock of the upper (rootfs.upperlock), or a living mount does, or
    nobody let go in time: who then holds one is told by who opens the upper."""
    deadline = time.monotonic() + HANDOVER_SECONDS
    while not is_free(upper, directories.lock_places) and time.monotonic() < deadline:
        records = (m.record for m in mountrecords.listing(directories.runtime) if m.record.alive)
        if any(_same(record.upper, upper) and _stands(record) for record in records):
            return
        time.sleep(_STEP_SECONDS)


def _same(one: str | None, upper: Path) -> bool:
    """Also by another path."""
    try:
        return one is not None and os.path.samefile(one, upper)
    except OSError:
        return False


def _stands(record: mountrecords.Record) -> bool:
    """By its mountpoint too: a device number that was given back may be another mount's already."""
    entry = mount_at(Path(record.mountpoint))
    return entry is not None and mountrecords.shows(record, entry)
