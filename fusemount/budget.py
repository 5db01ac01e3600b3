"""Law: limits how many bytes an image unpacks to and how much of a disk it takes; the user can set
the limit.

An image has one Budget: its layers and the archive around them spend from it together, from several
threads, so that 4,096 layers together have the same limit as one layer.  The code that starts to
read an image makes the Budget and passes it down to all code that unpacks a section of the image.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from threading import Lock

from fusemount.errors import ImgmountError, MalformedImage, NoSpace
from fusemount.settings import UNPACK_LIMIT, UnpackLimit

# A member (or frame, or stream) of a compressed stream costs time even if it unpacks to nothing.
# eStargz and zstd:chunked have one for each 512 bytes at most.  Frames of zstd are counted a read
# earlier than their bytes (codec.INPUT): those of 512 zeros are 16 bytes.
MEMBERS_FREE = 20_000
MEMBER_BYTES = 512
ROOM_MIN = 64 << 20  # bytes of a file system that stay free; or a hundredth of it, if that is less


class Budget:
    """What is left of a limit.

    refused: the limit was passed.  made: files of a cache that contain unpacked bytes; the code
    that refuses the image removes them.
    """

    def __init__(self, limit: UnpackLimit = UNPACK_LIMIT) -> None:
        self.limit = limit
        self.refused = False
        self.made: list[Path] = []
        self._around: int | None = None
        self._packed: dict[str, int] = {}
        self._spent: dict[str, int] = {}
        self._members: dict[str, int] = {}
        self._sum_packed = self._arrived = self._total = self._entered = 0
        self._lock = Lock()

    def announce(self, packed: Mapping[str, int]) -> None:
        """packed: the compressed bytes of each stream to come, for the ratio, by a name that the
        same bytes always have.  Only sizes of layer.measured() may be given: a size that a manifest
        claims proves nothing, nor does a file that is a hole, or a link to another."""
        with self._lock:
            self._packed.update(packed)
            self._sum_packed = sum(self._packed.values())

    def arrive(self, packed: int) -> None:
        """Counts compressed bytes that have arrived, of a stream whose size is only claimed."""
        with self._lock:
            self._arrived += packed

    def enclose(self, packed: int) -> None:
        """packed: the compressed bytes of the archive around all; the ratio then counts these, and
        not those of the streams in it."""
        with self._lock:
            self._around = packed

    def spend(self, name: str, size: int, packed: int) -> None:
        """name: the stream's, for the message; size: bytes that it has just unpacked to; packed:
        its compressed bytes, used if nothing was announced.  Raises MalformedImage."""
        with self._lock:
            own = self._spent[name] = self._spent.get(name, 0) + size
            self._total += size
            image = self._sum_packed + self._arrived if self._around is None else self._around
            if self._total > self.limit.most(image or packed):
                self.refused = True
                raise MalformedImage(self._beyond(name, image or packed, self._total > own))

    def enter(self, name: str) -> None:
        """Counts a member of the stream of that name, before it is unpacked.  Raises MalformedImage
        if the image has more than MEMBERS_FREE, and one for each MEMBER_BYTES that it has unpacked
        to."""
        with self._lock:
            self._members[name] = self._members.get(name, 0) + 1
            self._entered += 1
            if self._entered > MEMBERS_FREE + self._total // MEMBER_BYTES:
                self.refused = True
                raise MalformedImage(
                    f"{name}: with it more than {MEMBERS_FREE:,} compressed members and one for "
                    f"each {MEMBER_BYTES} bytes that they unpack to, the limit"
                )

    def forget(self, name: str) -> None:
        """Takes back what the stream of that name has spent, because it starts again."""
        with self._lock:
            self._entered -= self._members.pop(name, 0)
            self._total -= self._spent.pop(name, 0)

    def check_taken(self, name: str, taken: int) -> None:
        """Limits the compressed bytes of a stream of unknown length, which may unpack to nothing
        (empty members, padding).  Raises MalformedImage."""
        if taken > self.limit.size:
            self.refused = True
            raise MalformedImage(f"{name}: has more than {_words(self.limit.size)}{_FLAG}")

    def spoilt_by(self, error: ImgmountError) -> bool:
        """Whether the files in `made` should be removed after this error."""
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
    """The limit of zeros that one command may write or hash for holes of sparse files.

    A file of 2^62 bytes takes no disk space until it is copied."""

    def __init__(self, limit: UnpackLimit = UNPACK_LIMIT) -> None:
        self._limit, self._spent = limit.size, 0

    def spend(self, where: str, size: int, hole: int) -> None:
        """size: the file's; hole: bytes of the next hole in it.  Raises MalformedImage."""
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
    """Must be called before size bytes are written to a file: raises OSError (ENOSPC) if they would
    take the last space of its file system, so that other programs can still work."""
    found = os.fstatvfs(fd)
    free = (found.f_bavail if os.geteuid() else found.f_bfree) * found.f_frsize
    if free - size < min(ROOM_MIN, found.f_blocks * found.f_frsize // 100):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
