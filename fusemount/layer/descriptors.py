"""Law: lets the process open the files of an image of many layers (RLIMIT_NOFILE in getrlimit(2)).

The soft limit is often 1,024, for the sake of programs that use select(2), as no code here does.  A
program that is started in the image gets the limit back that we were started with.
"""

from __future__ import annotations

import resource
from contextlib import suppress

PER_LAYER = 4  # blob, sidecar, access points, chunks
_SHARE = 4  # the layers may take this part; the rest is for files that are open, and for others
_found: list[tuple[int, int]] = []  # the limits before the first change


def make_room(layers: int) -> None:
    """Raises the soft limit as far as so many layers need, and as the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = layers * PER_LAYER * _SHARE
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY:
        needed = min(needed, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
        _found.append((soft, hard))


def give_back() -> None:
    """Sets the limits as they were found; to call before execve(2)."""
    if _found:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, _found[0])
