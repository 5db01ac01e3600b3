"""Law: a directory becomes a layer; its index is of this moment, and kept nowhere."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from fusemount import _native
from fusemount.errors import ImageNotFound, ImgmountError, MalformedImage, NotPermitted


@dataclass(frozen=True)
class OpenDirectory:
    """A directory layer that a tree can be made of, as OpenLayer is; fd is the directory's.

    note: a line for the log, "" where there is nothing to say.
    """

    index: _native.LayerIndex
    fd: int
    description: str
    note: str = ""
    offset: int = 0
    rebuild: None = None  # it is of this moment

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> OpenDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_directories(
    paths: Iterable[Path], *, userxattr: bool = False, trusted_marks: bool = False
) -> list[OpenDirectory]:
    """Each as a layer, in that order; the caller closes them. Raises as open_directory does.

    userxattr: the marks are `user.overlay.*` in every one, as with overlayfs' option; else each
    layer's root says which.  trusted_marks: where it does not say, only trusted.overlay xattrs are
    marks, as for the kernel, and a user's are data; without it both are.
    """
    with ExitStack() as undo:
        opened = (open_directory(path, userxattr, trusted_marks) for path in paths)
        layers = [undo.enter_context(layer) for layer in opened]
        undo.pop_all()
    return layers


def open_directory(
    path: Path, userxattr: bool = False, trusted_marks: bool = False
) -> OpenDirectory:
    """Raises ImageNotFound, MalformedImage, NotPermitted, ImgmountError; the caller closes it."""
    fd = _open(path)
    try:
        index, unreadable, first = _scan(fd, path, userxattr, trusted_marks)
    except BaseException:
        os.close(fd)
        raise
    note = ""
    if unreadable:
        what = os.fsdecode(first)
        note = f"{path}: {unreadable} directories may not be read, and show empty ({what!r})"
    return OpenDirectory(index, fd, str(path), note)


def _open(path: Path) -> int:
    try:
        return _native.open_layer_root(path)
    except PermissionError as error:
        raise NotPermitted(f"{path}: {error.strerror}") from error
    except OSError as error:
        raise ImageNotFound(f"{path}: {error.strerror}") from error


def _scan(
    fd: int, path: Path, userxattr: bool, trusted_marks: bool
) -> tuple[_native.LayerIndex, int, bytes]:
    try:
        return _native.scan_directory(fd, userxattr, trusted_marks)
    except _native.FormatError as error:
        raise MalformedImage(f"{path}: {os.fsdecode(error.member)!r} {error.message}") from error
    except OSError as error:
        where = os.fsdecode(error.filename or b"")
        raise ImgmountError(f"{path}: {where!r}: {error.strerror}") from error
