"""Law: a directory becomes a layer; its index is of this moment, and kept nowhere."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from fusemount import _native
from fusemount.errors import ImageNotFound, ImgmountError, MalformedImage, NotPermitted
from fusemount.settings import Owners


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

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> OpenDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_directories(
    paths: Iterable[Path], owners: Owners, *, trusted_marks: bool = False
) -> list[OpenDirectory]:
    """Each as a layer, in that order; the caller closes them. Raises as open_directory does.

    trusted_marks: where a layer's root has no mark that tells, only trusted.overlay xattrs are
    marks, as for the kernel, and a user's are data; without it both are.
    """
    with ExitStack() as undo:
        layers = [undo.enter_context(_opened(path, owners, trusted_marks)) for path in paths]
        undo.pop_all()
    return layers


def open_directory(path: Path, owners: Owners) -> OpenDirectory:
    """Raises ImageNotFound, MalformedImage, NotPermitted, ImgmountError; the caller closes it."""
    return _opened(path, owners, False)


def _opened(path: Path, owners: Owners, trusted_marks: bool) -> OpenDirectory:
    fd = _open(path)
    try:
        index, unreadable, first = _scan(fd, path, owners, trusted_marks)
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
    fd: int, path: Path, owners: Owners, trusted_marks: bool
) -> tuple[_native.LayerIndex, int, bytes]:
    try:
        return _native.scan_directory(
            fd, owners.uids, owners.gids, owners.squash_uid, owners.squash_gid, trusted_marks
        )
    except _native.FormatError as error:
        raise MalformedImage(f"{path}: {os.fsdecode(error.member)!r} {error.message}") from error
    except OSError as error:
        where = os.fsdecode(error.filename or b"")
        raise ImgmountError(f"{path}: {where!r}: {error.strerror}") from error
