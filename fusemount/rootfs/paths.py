"""Law: makes paths of nodes, only to print or write them, and with a limit on their length.

A user can nest directories without end and without naming a long path (chdir(2) between two
mkdir(2)).  A command that keeps a path of each of n nested directories keeps n² bytes, so code that
only works on nodes makes no paths.
"""

from __future__ import annotations

import errno
import os

from fusemount import _native
from fusemount.errors import ImgmountError, NoSpace, UpperError
from fusemount.escape import quoted

_ROOT = 1
PATH_BYTES_MAX = 8192  # native/index/index.h, IMG_PATH_BYTES_MAX: no layer of ours has a longer one
LINE_PATH_BYTES_MAX = 1 << 16  # of a path that is only printed; nested ones come to 1 GiB
PATHS_BYTES_MAX = 1 << 30  # of all paths that one command keeps: 8 million of 128 bytes
_SHOWN = 120  # bytes of either end of a path in a message


def visible_path(tree: _native.Tree, parent: int, name: bytes = b"") -> bytes:
    """The path of a name, or of a directory; relative to the root, b"" being the root itself.

    Raises FileNotFoundError below a directory that was removed.
    """
    parts = [name] if name else []
    while parent != _ROOT:
        above = tree.names(parent, 1)
        if not above:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        parent, name = above[0]
        parts.append(name)
    return b"/".join(reversed(parts))


def some_path(tree: _native.Tree, ino: int) -> bytes:
    """One path of a node, for a message; b"" if it has none."""
    names = tree.names(ino, 1)
    try:
        return visible_path(tree, *names[0]) if names else b""
    except FileNotFoundError:
        return b""


def brief(path: bytes) -> str:
    """A path in quotes for a message, without its middle if it is very long."""
    if len(path) > 2 * _SHOWN:
        path = path[:_SHOWN] + b"..." + path[-_SHOWN:]
    return quoted(os.fsdecode(path))


def by_components(path: bytes) -> bytes:
    """The key that sorts paths name by name, as lists of names would be sorted."""
    return path.replace(b"/", b"\0")


def check_length(path: bytes, most: int, why: str = "") -> None:
    """Raises ImgmountError for a path of more than most bytes."""
    if len(path) > most:
        where = brief(b"/" + path.lstrip(b"/"))
        raise ImgmountError(f"{where}: a path of more than {most} bytes, the limit{why}")


class PathLimit:
    """What is left of PATHS_BYTES_MAX for one command."""

    def __init__(self) -> None:
        self._sum = 0

    def join(self, directory: bytes, name: bytes) -> bytes:
        """The path of a name. Raises ImgmountError beyond either limit."""
        path = directory + b"/" + name if directory else name
        self._sum += len(path)
        check_length(path, PATH_BYTES_MAX, ": no layer can hold it")
        if self._sum > PATHS_BYTES_MAX:
            raise ImgmountError(
                f"{brief(b'/' + path.lstrip(b'/'))}: with those before it, paths of more than "
                f"{PATHS_BYTES_MAX >> 30} GiB, the limit"
            )
        return path


class Paths:
    """Makes paths in a tree that does not change meanwhile; each directory's path is made once."""

    def __init__(self, tree: _native.Tree, limit: PathLimit | None = None) -> None:
        self._tree, self._limit = tree, limit or PathLimit()
        self._known = {_ROOT: b""}

    def of(self, parent: int, name: bytes = b"") -> bytes:
        """As visible_path. Raises ImgmountError as PathLimit.join does."""
        todo: list[tuple[int, bytes]] = []
        here = parent
        while here not in self._known:
            above = self._tree.names(here, 1)
            if not above:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            todo.append((here, above[0][1]))
            here = above[0][0]
        path = self._known[here]
        for ino, component in reversed(todo):
            path = self._known[ino] = self._limit.join(path, component)
        return self._limit.join(path, name) if name else path


def upper_error(upper: object, path: bytes, error: OSError) -> ImgmountError:
    """The error for an OSError at a path in an upper directory; upper: the directory's own path."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    why = os.strerror(error.errno) if error.errno else str(error)
    return (NoSpace if full else UpperError)(f"{upper}: {brief(path or b'.')}: {why}")
