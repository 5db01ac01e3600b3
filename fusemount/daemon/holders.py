"""Law: finds the processes that keep a file system mounted in other mount namespaces; changes
nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from fusemount.dataclass import dataclass
from fusemount.escape import printable
from fusemount.mountinfo import MountEntry, parse_mountinfo

NAMED_MAX = 16
SEARCH_SECONDS = 2.0


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
    the namespaces that we may not look into (another user's); and only those, at most NAMED_MAX,
    that are found within SEARCH_SECONDS, because any user can make namespaces and mounts."""
    until = time.monotonic() + SEARCH_SECONDS
    here = _namespace(Path("/proc/self"))
    spaces: dict[str, list[int]] = {}
    for pid, process in _processes():
        space = _namespace(process)
        if space is not None and space != here:
            spaces.setdefault(space, []).append(pid)
        if time.monotonic() > until:
            break
    found: list[Holder] = []
    for pids in spaces.values():
        if len(found) == NAMED_MAX or time.monotonic() > until:
            break
        entry = _mount(pids, device, until)
        if entry is not None:
            found.append(Holder(pids[0], _name(pids[0]), len(pids) - 1, entry.mountpoint))
    return found


def _processes() -> Iterator[tuple[int, Path]]:
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()):
        yield pid, Path("/proc", str(pid))


def _namespace(process: Path) -> str | None:
    try:
        return os.readlink(process / "ns/mnt")
    except OSError:
        return None  # it has ended, or we may not look at it


def _mount(pids: list[int], device: str, until: float) -> MountEntry | None:
    """The first FUSE mount of that device in the namespace that they share, read from the first of
    them that still lives."""
    for pid in pids:
        try:
            with open(f"/proc/{pid}/mountinfo", "rb") as file:
                return _first(file, device, until)
        except OSError:
            continue
    return None


def _first(lines: Iterable[bytes], device: str, until: float) -> MountEntry | None:
    wanted = f" {device} ".encode()
    for number, line in enumerate(lines):
        if number % 1000 == 999 and time.monotonic() > until:
            return None
        if wanted in line:  # most lines need not be parsed
            for entry in parse_mountinfo([line]):
                if entry.device == device and entry.fstype.startswith("fuse"):
                    return entry
    return None


def _name(pid: int) -> str:
    try:
        name = Path(f"/proc/{pid}/comm").read_bytes().rstrip(b"\n")
    except OSError:
        return "?"
    return printable(os.fsdecode(name))
