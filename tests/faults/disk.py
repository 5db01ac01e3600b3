"""Law: a small ext4 for one test, which may be filled or lose power.

Its image is in memory if there is room, so that syncing costs nothing.
"""

from __future__ import annotations

import fcntl
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oracle import run

_MEMORY = Path("/dev/shm")
_SHUTDOWN, _NO_LOG_FLUSH = 0x8004587D, 2  # EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH


class Disk:
    """A disk that is mounted at `at`."""

    def __init__(self, at: Path, file: str) -> None:
        self.at, self._file = at, file
        self.mount()

    def mount(self) -> None:
        run("mount", "-o", "loop", self._file, self.at)

    def cut_power(self) -> None:
        """Unwritten data are lost, and every call fails until the disk is mounted again."""
        fd = os.open(self.at, os.O_RDONLY)
        fcntl.ioctl(fd, _SHUTDOWN, struct.pack("=I", _NO_LOG_FLUSH))
        os.close(fd)


@contextmanager
def ext4(at: Path, mebibytes: int, *options: str) -> Iterator[Disk]:
    """A new ext4, mounted.  options: for mkfs.ext4."""
    at.mkdir()
    with tempfile.NamedTemporaryFile(dir=_MEMORY if _MEMORY.is_dir() else at.parent) as file:
        file.truncate(mebibytes << 20)
        run("mkfs.ext4", "-q", "-F", "-m", "0", *options, file.name)
        disk = Disk(at, file.name)
        try:
            yield disk
        finally:
            run("umount", at)
