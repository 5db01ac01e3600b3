"""Law: removing a directory tree of any depth, with two descriptors and no recursion.

Directories inside directories are first moved to the top, under names that nothing has, so that
each is emptied there: neither the interpreter's stack, nor PATH_MAX, nor the descriptor limit
bounds the depth.  What is already gone is no error; a directory without permissions is opened up.
Others may have been in a directory when it was moved to where it is removed, and work in it still:
no symlink is followed, and a directory of theirs becomes ours first.
"""

from __future__ import annotations

import os
from itertools import count

from fusemount.beneath import fd_path, open_beneath


def remove_tree(dir_fd: int, name: bytes) -> None:
    """Removes a file, or a directory and all below it. Raises OSError for what will not go."""
    if _unlinked(dir_fd, name):
        return
    top = _open(dir_fd, name)
    try:
        fresh = (b".remove-%d" % n for n in count())
        taken: set[bytes] = set()
        while entries := [os.fsencode(e) for e in os.listdir(top)]:
            taken.update(entries)
            for entry in entries:
                if _unlinked(top, entry):
                    continue
                child = _open(top, entry)
                try:
                    for listed in os.listdir(child):
                        inner = os.fsencode(listed)
                        if not _unlinked(child, inner):
                            place = next(n for n in fresh if n not in taken)
                            os.rename(inner, place, src_dir_fd=child, dst_dir_fd=top)
                finally:
                    os.close(child)
                os.rmdir(entry, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=dir_fd)


def _unlinked(dir_fd: int, name: bytes) -> bool:
    """False for a directory, which is left; True when the name is gone."""
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        return False
    return True


def _open(dir_fd: int, name: bytes) -> int:
    fd = open_beneath(dir_fd, name, os.O_PATH | os.O_DIRECTORY)
    try:
        st, us = os.fstat(fd), os.geteuid()
        if st.st_uid != us == 0:
            os.chown(fd_path(fd), us, -1)
        # An image's directory may be 0555 or 0000 and still ours.
        os.chmod(fd_path(fd), 0o700)
        return open_beneath(fd, b"", os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(fd)
