"""Law: names that a mount shows though neither a layer nor the upper has them, for something to be
mounted on: empty directories and files, in memory alone.

docker has a layer of its own for them below a container's ("init layer"), so that they show neither
in `docker diff` nor in a commit. Here they are nodes of the tree: nothing is written to the upper,
and a whiteout that stands there stays on disk.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable

from fusemount._native import Tree
from fusemount.beneath import LINKS_MAX

_DIRECTORY, _FILE = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644
_NAME_MAX = 255  # NAME_MAX
_NAMES_MAX = 500  # of a path on the way: what a symlink says may be made, but no forest


def add_placeholders(tree: Tree, directories: Iterable[str], files: Iterable[str]) -> None:
    """Adds what is missing, through symlinks that lead to nothing yet, with the directories above.

    A name that cannot be had (a file stands where a directory must) is left out: who mounts there
    sees the error. The tree is sealed; the names are absolute and stay in its root.
    """
    for path in directories:
        _add(tree, os.fsencode(path), _DIRECTORY)
    for path in files:
        _add(tree, os.fsencode(path), _FILE)


def _add(tree: Tree, path: bytes, kind: int) -> None:
    try:
        _place(tree, path.strip(b"/").split(b"/"), kind)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            raise


def _place(tree: Tree, names: list[bytes], kind: int) -> None:
    """As fusemount.beneath does on disk; but a tree has no descriptors, and nobody else changes it
    meanwhile."""
    done = links = 0
    while done < len(names):
        try:
            tree.resolve(b"/".join(names[: done + 1]))
        except FileNotFoundError:
            parent, name = tree.resolve(b"/".join(names[:done])), names[done]
            there = tree.lookup(parent, name)
            if there:  # a symlink, or the path would have led somewhere
                target = tree.readlink(there)
                before = [] if target.startswith(b"/") else names[:done]
                names, done = before + target.split(b"/") + names[done + 1 :], 0
                links += 1
                if links > LINKS_MAX or len(names) > _NAMES_MAX:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
                continue
            if len(name) > _NAME_MAX:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG)) from None
            mode = kind if done + 1 == len(names) else _DIRECTORY
            node = tree.new_node(mode, 0, 0, 0, 0, 0, 0, 0, upper=False)
            tree.add_name(parent, name, node)
        done += 1
