"""Law: removes a directory tree of any depth, with two descriptors and without recursion.

Nested directories are first moved to the top, under unused names, and emptied there.  So neither
the interpreter's stack, nor PATH_MAX, nor the descriptor limit bounds the depth.  A name that is
gone already is no error; a directory without permissions gets them first.
Processes of users may still work in a directory that is being removed.  So no symlink is followed,
and a directory of another owner is first given to us.
"""

from __future__ import annotations

import os
from itertools import count

from fusemount.beneath import fd_path, open_beneath


def remove_tree(dir_fd: int, name: bytes) -> None:
    """Removes a file, or a directory and all below it. Raises OSError."""
    if _unlinked(dir_fd, name):
        return
    top = open_to_empty(dir_fd, name)
    try:
        fresh = (b".remove-%d" % n for n in count())
        taken: set[bytes] = set()
        while entries := [os.fsencode(e) for e in os.listdir(top)]:
            taken.update(entries)
            for entry in entries:
                if _unlinked(top, entry):
                    continue
                child = open_to_empty(top, entry)
                try:
                    for listed in os.listdir(child):
                        inner = os.fsencode(listed)
                        if not _unlinked(child, inner):
                            moved = next(n for n in fresh if n not in taken)
                            os.rename(inner, moved, src_dir_fd=child, dst_dir_fd=top)
                finally:
                    os.close(child)
                os.rmdir(entry, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=dir_fd)


def _unlinked(dir_fd: int, name: bytes) -> bool:
    """False for a directory, which stays; True when the name is gone."""
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        return False
    return True


def open_to_empty(dir_fd: int, name: bytes) -> int:
    """Opens a directory and closes it to other users, so that only we change its contents."""
    fd = open_beneath(dir_fd, name, os.O_PATH | os.O_DIRECTORY)
    try:
        st, us = os.fstat(fd), os.geteuid()
        if st.st_uid != us == 0:
            os.chown(fd_path(fd), us, -1)
        # A directory of an image may have mode 0555 or 0000 even if it is our own.
        os.chmod(fd_path(fd), 0o700)
        return open_beneath(fd, b"", os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(fd)
