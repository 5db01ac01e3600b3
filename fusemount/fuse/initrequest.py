"""Law: keeps libfuse from asking the kernel for what pyfuse3 gives no way to refuse.

libfuse asks for FUSE_ASYNC_DIO whenever the kernel offers it.  After an asynchronous direct write
the kernel leaves outdated pages in its cache.  So the first request, INIT, is read here, and
libfuse gets it by a socket without that offer.  Before libfuse answers it, the kernel's device
takes the place of the socket: then libfuse and the kernel talk to each other.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable

# include/uapi/linux/fuse.h: struct fuse_in_header has 40 bytes; in fuse_init_in `flags` comes after
# major, minor and max_readahead.
_FLAGS_AT = 40 + 12
_ASYNC_DIO = 1 << 15
_REQUEST_BYTES = 1 << 16  # read(2) of the device refuses a buffer below FUSE_MIN_READ_BUFFER


def without_async_dio(device: int, ready: Callable[[], None]) -> tuple[int, Callable[[], None]]:
    """(descriptor for libfuse, what the handler of INIT has to call; it calls ready).

    device: a mounted FUSE channel whose INIT was not read yet; it is closed here.  Raises OSError.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        request = bytearray(os.read(device, _REQUEST_BYTES))
        (flags,) = struct.unpack_from("=I", request, _FLAGS_AT)
        struct.pack_into("=I", request, _FLAGS_AT, flags & ~_ASYNC_DIO)
        ours.send(request)
    fd = theirs.detach()

    def begin() -> None:
        os.dup2(device, fd, inheritable=False)
        os.close(device)
        ready()

    return fd, begin
