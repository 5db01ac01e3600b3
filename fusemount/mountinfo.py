"""Law: reads /proc/self/mountinfo (proc_pid_mountinfo(5)); decides nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from fusemount.dataclass import dataclass

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True)
class MountEntry:
    """One mount of a mount namespace.

    device: `major:minor`.  options: of the mount.  of_system: the options that its file system
    shows; those of FUSE are the kernel's alone."""

    mount_id: int
    device: str
    mountpoint: Path
    options: tuple[str, ...]
    fstype: str
    source: str
    of_system: tuple[str, ...]


def _unescape(field: bytes) -> str:
    """Decodes space, tab, newline and backslash, which are written as three octal digits."""
    return os.fsdecode(_ESCAPE.sub(lambda m: bytes([int(m[1], 8)]), field))


def parse_mountinfo(lines: Iterable[bytes]) -> list[MountEntry]:
    """The mounts in the kernel's order: of two mounts on one path the later one is on top."""
    return [entry for line in lines if (entry := _entry(line)) is not None]


def _entry(line: bytes) -> MountEntry | None:
    """None for a line that does not have the kernel's form.

    Any user may choose the bytes of a mountpoint and a source. The kernel escapes space, tab,
    newline and backslash in them, but not the other bytes that bytes.split() takes for white space.
    So the line is split at spaces only.
    """
    fields = line.removesuffix(b"\n").split(b" ")
    try:
        dash = fields.index(b"-", 6)  # optional fields end at a lone dash
        return MountEntry(
            mount_id=int(fields[0]),
            device=os.fsdecode(fields[2]),
            mountpoint=Path(_unescape(fields[4])),
            options=tuple(os.fsdecode(fields[5]).split(",")),
            fstype=_unescape(fields[dash + 1]),
            source=_unescape(fields[dash + 2]),
            of_system=tuple(os.fsdecode(fields[dash + 3]).split(",")),
        )
    except (ValueError, IndexError):
        return None


def mounts() -> list[MountEntry]:
    with open("/proc/self/mountinfo", "rb") as file:
        return parse_mountinfo(file)


def mount_at(path: Path) -> MountEntry | None:
    """The topmost mount whose mountpoint is exactly `path` (absolute, without symlinks)."""
    found = None
    for entry in mounts():
        if entry.mountpoint == path:
            found = entry
    return found
