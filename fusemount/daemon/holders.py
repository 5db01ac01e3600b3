"""Law: finds the processes that keep a file system mounted in other mount namespaces; changes
nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fusemount.daemon.mountinfo import MountEntry, parse_mountinfo
from fusemount.dataclass import dataclass
from fusemount.escape import printable


@dataclass(frozen=True)
class Holder:
    """pid, name: the first process of a mount namespace; others: how many more are in it.
    mountpoint: where it has the mount, as that process sees it."""

    pid: int
    name: str
    others: int
    mountpoint: Path

    def __str__(self) -> str:
        more = f" and {self.others} more" if self.others else ""
        return f"process {self.pid} ({self.name}){more}"


def holders(device: str) -> list[Holder]:
    """One for each other mount namespace that has a FUSE mount of that device (mountinfo). Without
    the namespaces that we may not look into (another user's)."""
    here = _namespace(Path("/proc/self"))
    spaces: dict[str, list[int]] = {}
    for pid, process in _processes():
        space = _namespace(process)
        if space is not None and space != here:
            spaces.setdefault(space, []).append(pid)
    found = []
    for pids in spaces.values():
        named = [entry.mountpoint for entry in _mounts(pids)
                 if entry.device == device and entry.fstype.startswith("fuse")]  # fmt: skip
        if named:
            found.append(Holder(pids[0], _name(pids[0]), len(pids) - 1, named[0]))
    return found


def _processes() -> Iterator[tuple[int, Path]]:
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()):
        yield pid, Path("/proc", str(pid))


def _namespace(process: Path) -> str | None:
    try:
        return os.readlink(process / "ns/mnt")
    except OSError:
        return None  # it has ended, or we may not look at it


def _mounts(pids: list[int]) -> list[MountEntry]:
    """The mounts of the namespace that they share, read from the first that still lives."""
    for pid in pids:
        try:
            with open(f"/proc/{pid}/mountinfo", "rb") as file:
                return parse_mountinfo(file)
        except OSError:
            continue
    return []


def _name(pid: int) -> str:
    try:
        name = Path(f"/proc/{pid}/comm").read_bytes().rstrip(b"\n")
    except OSError:
        return "?"
    return printable(os.fsdecode(name))
