"""Law: what one image unpacks to, and what it takes of a disk, has an end that its user can set.

A Budget is one image's: its layers and the archive around them spend of it together, from several
threads, so that 4,096 layers get no more than one.  It is made where an image's way in begins, and
passed down to whatever unpacks a part of it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from threading import Lock

from fusemount.errors import ImgmountError, MalformedImage, NoSpace
from fusemount.settings import UNPACK_LIMIT, UnpackLimit

ROOM_MIN = 64 << 20  # bytes of a file system that stay free; a hundredth of it, where that is less


class Budget:
    """What is left of a limit.

    refused: something passed it.  made: files of a cache that hold what it was spent on; whoever
    sees that the image is refused removes them.
    """

    def __init__(self, limit: UnpackLimit = UNPACK_LIMIT) -> None:
        self.limit = limit
        self.refused = False
        self.made: list[Path] = []
        self._around: int | None = None
        self._packed: dict[str, int] = {}
        self._spent: dict[str, int] = {}
        self._sum_packed = self._total = 0
        self._lock = Lock()

    def announce(self, packed: Mapping[str, int]) -> None:
        """Compressed bytes of each stream to come, by a name of its own, for the ratio."""
        with self._lock:
            self._packed.update(packed)
            self._sum_packed = sum(self._packed.values())

    def enclose(self, packed: int) -> None:
        """Compressed bytes of the archive around all: what is inside it counts for no more."""
        with self._lock:
            self._around = packed

    def spend(self, name: str, size: int, packed: int) -> None:
        """name: of a stream, for the message; size: bytes that came out of it now; packed: its
        compressed bytes, which count where nothing was announced.  Raises MalformedImage."""
        with self._lock:
            own = self._spent[name] = self._spent.get(name, 0) + size
            self._total += size
            image = self._sum_packed if self._around is None else self._around
            if self._total > self.limit.most(image or packed):
                self.refused = True
                raise MalformedImage(self._beyond(name, image or packed, self._total > own))

    def forget(self, name: str) -> None:
        """The stream of that name begins anew."""
        with self._lock:
            self._total -= self._spent.pop(name, 0)

    def check_taken(self, name: str, taken: int) -> None:
        """Of a stream without a known end, from which nothing need come out (empty members,
        padding): its own bytes.  Raises MalformedImage."""
        if taken > self.limit.size:
            self.refused = True
            raise MalformedImage(f"{name}: has more than {_words(self.limit.size)}{_FLAG}")

    def spoilt_by(self, error: ImgmountError) -> bool:
        """Whether what was made is in the way rather than of use."""
        return self.refused or isinstance(error, NoSpace)

    def _beyond(self, name: str, packed: int, several: bool) -> str:
        most = self.limit.most(packed)
        words = f"more than {_words(most)}"
        if several:
            words = f"with the image's other parts, unpacks to {words}"
        elif packed > most:
            words = f"has {words}"
        else:
            words = f"unpacks to {words}"
        if most < self.limit.size:
            whose = "the image's" if several else "its"
            words += f" and {self.limit.ratio:,} times {whose} {packed} bytes"
        return f"{name}: {words}{_FLAG}"


class Holes:
    """What is left of the zeros that one command may write or hash for holes of sparse files: a
    file of 2^62 bytes takes no disk until it is written somewhere else."""

    def __init__(self, limit: UnpackLimit = UNPACK_LIMIT) -> None:
        self._limit, self._spent = limit.size, 0

    def spend(self, where: str, size: int, hole: int) -> None:
        """size: of the file; hole: bytes of it that are zeros to come.  Raises MalformedImage."""
        self._spent += hole
        if self._spent > self._limit:
            others = "" if hole > self._limit else "together with others' "
            raise MalformedImage(
                f"{where}: a sparse file of {size} bytes, whose holes are {others}more than "
                f"{_words(self._limit)} of zeros{_FLAG}"
            )


_FLAG = ", the limit (--max-unpacked SIZE allows more)"


def _words(size: int) -> str:
    unit = next((u for u in (30, 20, 10) if size % (1 << u) == 0), 0)
    return f"{size >> unit} " + {30: "GiB", 20: "MiB", 10: "KiB", 0: "bytes"}[unit]


def check_room(fd: int, size: int) -> None:
    """Before size bytes are written to a file: raises OSError (ENOSPC) where they would take of the
    last that its file system has, so that others on it can still work."""
    found = os.fstatvfs(fd)
    free = (found.f_bavail if os.geteuid() else found.f_bfree) * found.f_frsize
    if free - size < min(ROOM_MIN, found.f_blocks * found.f_frsize // 100):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
