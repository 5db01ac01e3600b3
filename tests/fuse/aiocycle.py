"""aiocycle.py FILE CYCLES: libaio writes with O_DIRECT while others read the file buffered.

After each cycle a buffered read must show what was written; prints how many did not.  As xfstests'
generic/451 (src/aio-dio-regress/aio-dio-cycle-write.c) does it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct
import sys

IO_SETUP, IO_GETEVENTS, IO_SUBMIT = 206, 208, 209  # x86-64
PAGE, REQUESTS = 4096, 16
SIZE = PAGE * REQUESTS
PWRITE = 1
_libc = ctypes.CDLL(None, use_errno=True)


def start_reader(path: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    fd = os.open(path, os.O_RDONLY)
    while True:
        os.pread(fd, SIZE, 0)


def write_all(context: ctypes.c_ulong, fd: int, address: int) -> None:
    """One request a page, all at once, and waits for them."""
    iocbs = [
        ctypes.create_string_buffer(
            struct.pack("QIIHhIQQqQII", 0, 0, 0, PWRITE, 0, fd, address + at, PAGE, at, 0, 0, 0), 64
        )
        for at in range(0, SIZE, PAGE)
    ]
    pointers = (ctypes.c_void_p * REQUESTS)(*map(ctypes.addressof, iocbs))
    events = ctypes.create_string_buffer(32 * REQUESTS)
    assert _libc.syscall(IO_SUBMIT, context, REQUESTS, pointers) == REQUESTS
    assert _libc.syscall(IO_GETEVENTS, context, REQUESTS, REQUESTS, events, None) == REQUESTS
    assert all(struct.unpack_from("q", events, 32 * i + 16) == (PAGE,) for i in range(REQUESTS))


def stale_cycles(path: str, cycles: int) -> int:
    with open(path, "wb") as file:
        file.write(bytes(SIZE))
    readers = [start_reader(path) for _ in range(2)]
    direct, plain = os.open(path, os.O_RDWR | os.O_DIRECT), os.open(path, os.O_RDONLY)
    buffer = mmap.mmap(-1, SIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    context, stale = ctypes.c_ulong(0), 0
    try:
        assert _libc.syscall(IO_SETUP, REQUESTS, ctypes.byref(context)) == 0
        for cycle in range(cycles):
            expected = bytes([cycle % 255 + 1]) * SIZE
            buffer[:] = expected
            write_all(context, direct, address)
            stale += os.pread(plain, SIZE, 0) != expected
    finally:
        for pid in readers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return stale


if __name__ == "__main__":
    print(stale_cycles(sys.argv[1], int(sys.argv[2])))
