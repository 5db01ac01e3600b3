"""Law: each living mount has a record: a JSON file RUNTIME/<pid>.json, written by the daemon that
serves it.  The daemon's control socket is beside it and is removed with it.

A record is a claim: each time it is read it is compared with /proc/<pid> (same start time) and with
/proc/self/mountinfo (`shows`).
"""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from fusemount.beneath import own_directory
from fusemount.daemon.mountid import mount_on
from fusemount.dataclass import dataclass
from fusemount.errors import NotPermitted, translated
from fusemount.mountinfo import MountEntry, mounts
from fusemount.ownfile import make_file, read_file


@dataclass(frozen=True)
class Record:
    """pid and start_time identify the daemon. mount_id (mountid.py) identifies the mount; 0 if the
    kernel or the record is too old. device (`major:minor`) identifies the mount and its copies, as
    long as it is mounted.

    upper: None for a read-only mount without one. scratch: the directory to drop when the mount
    ends, None if there is none or it is kept. read_only: the mount's flag. writable: the daemon
    accepts changes if that flag is cleared. uid: the daemon's. since: ISO 8601, UTC.
    """

    pid: int
    start_time: int
    mountpoint: str
    device: str
    image: str
    image_id: str
    upper: str | None
    scratch: str | None
    read_only: bool
    uid: int
    since: str
    writable: bool = True
    mount_id: int = 0

    @property
    def user(self) -> str:
        try:
            return pwd.getpwuid(self.uid).pw_name
        except (KeyError, OverflowError):
            return str(self.uid)

    @property
    def alive(self) -> bool:
        return start_time(self.pid) == self.start_time


@dataclass(frozen=True)
class Mounted:
    """A record and its mount's state; visible: mounted in this mount namespace."""

    record: Record
    visible: bool

    @property
    def state(self) -> str:
        if not self.record.alive:
            return "dead"
        return "mounted" if self.visible else "detached"


def start_time(pid: int) -> int | None:
    """Clock ticks after boot (proc_pid_stat(5), field 22); None when no such process runs."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat.rpartition(b")")[2].split()  # the name in parentheses may contain any bytes
    return None if fields[0] == b"Z" else int(fields[19])


def prepare(runtime: Path) -> None:
    """Makes the runtime directory. Raises NotPermitted unless only this user can write to it."""
    _check_ours(runtime, make=True)


def _check_ours(runtime: Path, *, make: bool = False) -> None:
    """Raises NotPermitted unless only this user can write to the directory: another user may have
    made it in /tmp first, and then its records are not ours."""
    with translated(runtime):
        try:
            fd = own_directory(runtime, make=make, mode=0o755 if os.geteuid() == 0 else 0o700)
        except FileNotFoundError:
            return
    try:
        if os.fstat(fd).st_uid != os.geteuid():  # root's directory has records of root's mounts
            raise NotPermitted(f"{runtime}: must be a directory that only you can write to: "
                               "it belongs to root")  # fmt: skip
    finally:
        os.close(fd)


def register(runtime: Path, record: Record) -> None:
    path = _path(runtime, record)
    temporary = path.with_suffix(".tmp")
    with translated(path):
        temporary.unlink(missing_ok=True)  # left by a killed daemon that had our pid
        with open(make_file(temporary, 0o644), "w") as file:
            file.write(json.dumps(asdict(record)) + "\n")
        temporary.rename(path)


def forget(runtime: Path, record: Record) -> None:
    socket_path(runtime, record.pid).unlink(missing_ok=True)
    _path(runtime, record).unlink(missing_ok=True)


def socket_path(runtime: Path, pid: int) -> Path:
    """The path of that daemon's control socket (control.py)."""
    return runtime / f"{pid}.sock"


def _path(runtime: Path, record: Record) -> Path:
    return runtime / f"{record.pid}.json"


def listing(runtime: Path) -> list[Mounted]:
    """The mounts of this runtime directory, oldest first. Removes records that have neither a
    daemon nor a mount.

    Raises NotPermitted unless only this user can write to the directory; so does find.
    """
    here = mounts()
    records = list(_records(runtime))
    found = []
    for record in records:
        visible = any(_of(entry, records) is record for entry in here if shows(record, entry))
        mounted = Mounted(record, visible)
        if record.alive or mounted.visible:
            found.append(mounted)
        else:
            forget(runtime, record)
    _sweep_sockets(runtime)
    return sorted(found, key=lambda mounted: (mounted.record.since, mounted.record.pid))


def _sweep_sockets(runtime: Path) -> None:
    """Removes the sockets of daemons that were killed before they had a record."""
    for path in runtime.glob("*.sock"):
        recorded = path.with_suffix(".json").exists()
        if path.stem.isdecimal() and not recorded and start_time(int(path.stem)) is None:
            path.unlink(missing_ok=True)


def find(runtime: Path, entry: MountEntry) -> Record | None:
    """The record of that mount, whether its daemon lives or not."""
    return _of(entry, _records(runtime))


def shows(record: Record, entry: MountEntry) -> bool:
    """Whether a mount of mountinfo is the record's mount, or a copy of it (a bind mount, one of
    another mount namespace).

    A copy has another mount ID, so it is recognised by its device. This is safe while the daemon
    lives, because it ends with its last mount. Later another mount may have the device number, so
    then the mount ID decides.
    """
    if entry.device != record.device or not entry.fstype.startswith("fuse"):
        return False
    return record.alive or not record.mount_id or _has_id(record, entry)


def _has_id(record: Record, entry: MountEntry) -> bool:
    mount = mount_on(entry.mountpoint)
    return mount is not None and mount.unique == record.mount_id


def _of(entry: MountEntry, records: Iterable[Record]) -> Record | None:
    """The record of that mount. A killed daemon leaves its record, so a living one is preferred."""
    claims = (record for record in records if shows(record, entry))
    return max(claims, key=lambda record: (record.alive, record.start_time), default=None)


def _records(runtime: Path) -> Iterator[Record]:
    _check_ours(runtime)
    try:
        paths = sorted(runtime.glob("*.json"))
    except OSError:
        return
    for path in paths:
        try:
            yield Record(**json.loads(read_file(path)))
        except FileNotFoundError:
            continue  # its mount just ended
        except (OSError, ValueError, TypeError):
            path.unlink(missing_ok=True)  # no record, or one of another version
