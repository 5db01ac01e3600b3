"""Lists a directory with getdents64(2), a few entries for each call, with their cookies."""

from __future__ import annotations

import ctypes
import os
import struct

_libc = ctypes.CDLL(None, use_errno=True)
_libc.lseek64.restype = ctypes.c_int64
_libc.getdents64.restype = ctypes.c_ssize_t
_BYTES = 400  # of one call: about a dozen short names


class Listing:
    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def __enter__(self) -> Listing:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def seek(self, cookie: int) -> None:
        if _libc.lseek64(self._fd, ctypes.c_int64(cookie), os.SEEK_SET) != cookie:
            raise OSError(ctypes.get_errno(), "")

    def some(self) -> list[tuple[str, int]]:
        """(name, cookie of the next entry), with `.` and `..`; empty at the end."""
        buffer = ctypes.create_string_buffer(_BYTES)
        got = _libc.getdents64(self._fd, buffer, ctypes.c_size_t(_BYTES))
        if got < 0:
            raise OSError(ctypes.get_errno(), "")
        found, place = [], 0
        while place < got:
            _, cookie, length = struct.unpack_from("<QqH", buffer, place)
            name = buffer.raw[place + 19 : place + length].split(b"\0")[0]
            found.append((os.fsdecode(name), cookie))
            place += length
        return found

    def rest(self) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        while more := self.some():
            found += more
        return found
