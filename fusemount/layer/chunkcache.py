"""Law: holds the chunk caches of all layers of one user (native/packed/chunkfile.h) to a size.

The chunks that were not used for the longest time go first, by punching holes, so that mounts that
have the files open go on.  One process at a time does it.
"""

from __future__ import annotations

import errno
import fcntl
import os
from array import array
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fusemount._native import CHUNK, punch_chunk
from fusemount.budget import room_of
from fusemount.dataclass import dataclass
from fusemount.ownfile import open_file, open_or_make

SIZE_MAX = 10 << 30  # the default limit is a tenth of the file system, and at most this
_STATE = 8  # bytes of an img_chunk_state: generation, used
_LOW = 0.9  # of the limit: what is left after an eviction


def default_size(directory: Path) -> int:
    """The limit in bytes, where none was given."""
    there = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    disk = os.statvfs(there)
    return min(disk.f_blocks * disk.f_frsize // 10, SIZE_MAX)


def size(directory: Path) -> int:
    """Bytes on the disk of all chunks in this directory; 0 if it is missing."""
    total = 0
    for path in directory.glob("*.data"):
        with suppress(OSError):
            total += path.lstat().st_blocks * 512
    return total


def keep_only(directory: Path, names: Collection[str]) -> int:
    """Removes the files of chunks with other names that no process has open.  Returns the bytes
    freed."""
    freed = 0
    for path in directory.glob("*.data"):
        if path.name not in names:
            with suppress(OSError):
                freed += _unlink_idle(path)
    return freed


def _unlink_idle(path: Path) -> int:
    """Removes a file that no process has open to fill it.  The bytes freed."""
    fd = open_file(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        taken = os.fstat(fd).st_blocks * 512
        path.unlink()
        return taken
    finally:
        os.close(fd)


def states(path: Path) -> list[tuple[int, int]]:
    """(generation, seconds since 1970 of the last use; 0: not kept) of each chunk in this file;
    none if there is no file."""
    try:
        found = _File(path, path.lstat().st_size // (CHUNK + _STATE)).states()
    except OSError:
        return []
    return list(zip(found[::2], found[1::2], strict=True))


def evict(directory: Path, limit: int | None = None) -> int:
    """Removes chunks until they take less than the limit, and the file system has room.

    None: default_size.  Returns the bytes freed.  Raises OSError.
    """
    with _alone(directory) as alone:
        total = size(directory)
        excess = _excess(directory, total, default_size(directory) if limit is None else limit)
        if not alone or excess <= 0:
            return 0
        freed = 0
        for path, chunk in _oldest_first(directory):
            freed += _punch(path, chunk)
            if freed >= excess:
                break
        return freed


def _excess(directory: Path, total: int, limit: int) -> int:
    """How many bytes have to go."""
    disk = os.statvfs(directory)
    lacking = room_of(disk) - disk.f_bavail * disk.f_frsize
    over = total - int(limit * _LOW) if total > limit else 0
    return max(over, min(lacking, total))


@dataclass(frozen=True)
class _File:
    path: Path
    n: int  # chunks

    def states(self) -> array[int]:
        """generation, used of each chunk."""
        fd = open_file(self.path)
        try:
            return self._states(fd)
        finally:
            os.close(fd)

    def _states(self, fd: int) -> array[int]:
        return array("I", os.pread(fd, self.n * _STATE, self.n * CHUNK))

    def kept(self) -> Iterator[tuple[int, int]]:
        """(when it was used, number) of each chunk; 0 for bytes that a process left which died
        before it had noted the chunk."""
        fd = open_file(self.path)
        try:
            for chunk, when in enumerate(self._states(fd)[1::2]):
                if when or _has_data(fd, chunk):
                    yield when, chunk
        finally:
            os.close(fd)


def _has_data(fd: int, chunk: int) -> bool:
    try:
        return os.lseek(fd, chunk * CHUNK, os.SEEK_DATA) < (chunk + 1) * CHUNK
    except OSError:
        return False  # there is none behind it


def _files(directory: Path) -> Iterator[_File]:
    for path in directory.glob("*.data"):
        with suppress(OSError):
            yield _File(path, path.lstat().st_size // (CHUNK + _STATE))


def _oldest_first(directory: Path) -> Iterable[tuple[Path, int]]:
    found: list[tuple[int, Path, int]] = []
    for file in _files(directory):
        with suppress(OSError):
            found += [(when, file.path, chunk) for when, chunk in file.kept()]
    found.sort()
    return ((path, chunk) for _, path, chunk in found)


def _punch(path: Path, chunk: int) -> int:
    """The bytes freed.  A file that is gone, or a chunk that is being filled, frees none."""
    try:
        fd = open_file(path, os.O_RDWR)
    except OSError:
        return 0
    try:
        before = os.fstat(fd)
        try:
            punch_chunk(fd, before.st_size // (CHUNK + _STATE), chunk)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            path.unlink()  # a file system without holes
            return before.st_blocks * 512
        freed = (before.st_blocks - os.fstat(fd).st_blocks) * 512
        return max(freed, 0)  # others may have filled chunks meanwhile
    finally:
        os.close(fd)


@contextmanager
def _alone(directory: Path) -> Iterator[bool]:
    """Whether no other process evicts from this directory now."""
    fd = open_or_make(directory / "lock", os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)
