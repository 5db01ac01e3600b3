"""Law: counts and times the answers of pyfuse3's handlers, by the opcode of the request.

The time is that of the handler, from its call to its result, because pyfuse3 does not report when
it read a request or wrote an answer.  Some handlers serve two opcodes (FORGET and BATCH_FORGET,
RENAME and RENAME2, READDIR and READDIRPLUS), and pyfuse3 does not report which one came; the opcode
in the table here is counted.  This costs each request about 0.4 µs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pyfuse3

from fusemount import _native

# linux/fuse.h, enum fuse_opcode
OPCODES = {
    "lookup": 1, "forget": 2, "getattr": 3, "setattr": 4, "readlink": 5, "symlink": 6, "mknod": 8,
    "mkdir": 9, "unlink": 10, "rmdir": 11, "rename": 12, "link": 13, "open": 14, "read": 15,
    "write": 16, "statfs": 17, "release": 18, "fsync": 20, "setxattr": 21, "getxattr": 22,
    "listxattr": 23, "removexattr": 24, "flush": 25, "opendir": 27, "releasedir": 29,
    "fsyncdir": 30, "access": 34, "create": 35, "poll": 40, "readdir": 44,
}  # fmt: skip


def count_handlers(operations: pyfuse3.Operations, stats: _native.Stats) -> None:
    """Wraps each handler of this object in a counter; must be called before pyfuse3.init."""
    for name, opcode in OPCODES.items():
        handler = getattr(operations, name, None)
        if handler is not None:
            setattr(operations, name, _counted(handler, opcode, stats))


def _counted(
    handler: Callable[..., Awaitable[Any]], opcode: int, stats: _native.Stats
) -> Callable[..., Awaitable[Any]]:
    add, now, door = stats.add, stats.now, _native.DOOR_PYTHON
    size: Callable[[Any], int] = _SIZES.get(opcode, _nothing)

    async def answer(*args: Any) -> Any:
        began = now()
        try:
            result = await handler(*args)
        except BaseException:
            add(opcode, door, now() - began, True, 0)
            raise
        add(opcode, door, now() - began, False, size(result))
        return result

    return answer


def _nothing(_result: Any) -> int:
    return 0


# The results that are data: READ's bytes, and the number of bytes that WRITE took.
_SIZES: dict[int, Callable[[Any], int]] = {OPCODES["read"]: len, OPCODES["write"]: int}
