"""Law: adds names to a tree that neither a layer nor the upper has, so that something can be
mounted on them: empty directories and files, only in memory.

docker has a layer of its own for them below a container's ("init layer"), so that they show neither
in `docker diff` nor in a commit.  Here they are nodes of the tree: nothing is written to the upper,
and a whiteout of such a name stays on disk.
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
_NAMES_MAX = 500  # of a path while it is resolved, so that symlinks cannot make a huge tree


def add_placeholders(tree: Tree, directories: Iterable[str], files: Iterable[str]) -> None:
    """Adds missing names with the directories above them, also targets of dangling symlinks.

    A name that cannot be added (a file is where a directory must be) is left out: the mount on it
    then fails.  The tree is sealed; the names are absolute and are resolved inside its root.
    """
    for path in directories:
        _add(tree, os.fsencode(path), _DIRECTORY)
    for path in files:
        _add(tree, os.fsencode(path), _FILE)


def _add(tree: Tree, path: bytes, kind: int) -> None:
    try:
        _add_missing(tree, path.strip(b"/").split(b"/"), kind)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            raise


def _add_missing(tree: Tree, names: list[bytes], kind: int) -> None:
    """As make_dirs_in_root() of fusemount.beneath, but a tree has no descriptors, and no other
    thread changes it meanwhile."""
    done = links = 0
    while done < len(names):
        try:
            tree.resolve(b"/".join(names[: done + 1]))
        except FileNotFoundError:
            parent, name = tree.resolve(b"/".join(names[:done])), names[done]
            there = tree.lookup(parent, name)
            if there:  # a dangling symlink, because the path could not be resolved
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
