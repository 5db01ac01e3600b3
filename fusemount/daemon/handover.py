"""Law: waits for an upper that was just unmounted, because umount(8) does not wait for the daemon.

The kernel's umount(2) returns when all is written to the daemon.  Only then does the daemon release
the upper.  A mount of the same upper in the next moment must not fail as "in use".
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from fusemount.daemon import mountrecords
from fusemount.mountinfo import mount_at
from fusemount.rootfs.upperlock import is_free
from fusemount.settings import Directories
from fusemount.walk import leads_to, open_walked

HANDOVER_SECONDS = 10.0
_STEP_SECONDS = 0.01


def await_upper(upper: Path, directories: Directories) -> None:
    """Returns when no lock of the upper is taken (rootfs.upperlock), when a living mount has them,
    or when time is up. If they are still taken then, opening the upper raises UpperError."""
    deadline = time.monotonic() + HANDOVER_SECONDS
    while not is_free(upper, directories.lock_directories) and time.monotonic() < deadline:
        records = (m.record for m in mountrecords.listing(directories.runtime) if m.record.alive)
        if any(_same(record.upper, upper) and _is_mounted(record) for record in records):
            return
        time.sleep(_STEP_SECONDS)


def _same(one: str | None, upper: Path) -> bool:
    """Whether both paths lead to one directory."""
    try:
        _, fd, _ = open_walked(upper, make=False)
    except OSError:
        return False
    try:
        return one is not None and leads_to(Path(one), fd)
    finally:
        os.close(fd)


def _is_mounted(record: mountrecords.Record) -> bool:
    """Whether the record's mount is still at its mountpoint.  The device number alone does not
    prove this, because another mount may have it by now."""
    entry = mount_at(Path(record.mountpoint))
    return entry is not None and mountrecords.shows(record, entry)
