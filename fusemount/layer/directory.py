"""Law: opens a directory as a layer; its index is made at each mount and is not kept."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

from fusemount import _native
from fusemount._native import MARKS_TRUSTED, MARKS_USER
from fusemount.beneath import by_root, fd_path, open_below
from fusemount.dataclass import dataclass
from fusemount.errors import (
    ImageNotFound,
    ImgmountError,
    MalformedImage,
    NotPermitted,
    UpperError,
)
from fusemount.escape import quoted
from fusemount.layer.marks import ANYBODYS, Origin, check_disobeyed, obeyed
from fusemount.settings import UserMarks

_UNASKED = UserMarks()


@dataclass(frozen=True)
class OpenDirectory:
    """A directory that is opened as a layer, for a tree like an OpenLayer. fd: the directory's.

    note: a line for the log, or "".
    """

    index: _native.LayerIndex
    fd: int
    description: str
    note: str = ""
    offset: int = 0
    packed: None = None

    def rescan(self) -> None:
        """The index is new, not a kept one."""

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> OpenDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_directories(
    paths: Iterable[Path], wish: UserMarks = _UNASKED, origin: Origin = ANYBODYS
) -> list[OpenDirectory]:
    """Opens each as a layer, in that order; the caller closes them.

    Raises as open_directory does.
    """
    with ExitStack() as undo:
        opened = (open_directory(path, wish, origin) for path in paths)
        layers = [undo.enter_context(layer) for layer in opened]
        undo.pop_all()
    return layers


def open_directory(
    path: Path, wish: UserMarks = _UNASKED, origin: Origin = ANYBODYS
) -> OpenDirectory:
    """Opens a directory as a layer; the caller closes it.

    Raises ImageNotFound, MalformedImage, NotPermitted, ImgmountError; UpperError for an upper that
    may be damaged.
    """
    fd = _open(path, origin.below)
    try:
        scanned = _scan(fd, path, wish, origin)
    except BaseException:
        os.close(fd)
        raise
    index, unreadable, first, _, _ = scanned
    note = ""
    if unreadable:
        what = os.fsdecode(first)
        note = f"{path}: {unreadable} directories may not be read, and show empty ({quoted(what)})"
    return OpenDirectory(index, fd, str(path), note)


def _open(path: Path, below: tuple[Path, ...]) -> int:
    root = next((each for each in below if path.is_relative_to(each)), None)
    try:
        if root is None:  # the user named this path, so its symlinks are followed
            return _native.open_layer_root(path)
        fd = open_below(root, path, os.O_PATH | os.O_DIRECTORY)
        try:
            return _native.open_layer_root(fd_path(fd))
        finally:
            os.close(fd)
    except PermissionError as error:
        raise NotPermitted(f"{path}: {error.strerror}") from error
    except OSError as error:
        raise ImageNotFound(f"{path}: {error.strerror}") from error


def _check_undamaged(fd: int, path: Path, kinds: int) -> None:
    """Raises UpperError for an upper with the mark `volatile` of another boot (rootfs/upper.py).

    A layer has no work directory, so rootfs/upper.py's check of it is not possible here.
    """
    for kind, prefix in ((MARKS_TRUSTED, "trusted"), (MARKS_USER, "user")):
        if not kinds & kind:
            continue
        name = f"{prefix}.overlay.imgmount.volatile"
        with suppress(OSError):
            boot = os.getxattr(fd, name)
            if boot != Path("/proc/sys/kernel/random/boot_id").read_bytes().strip():
                raise UpperError(
                    f"{path}: was mounted volatile when the machine stopped, so it may be damaged; "
                    f"to use it all the same remove its xattr {name}"
                )


def _scan(
    fd: int, path: Path, wish: UserMarks, origin: Origin
) -> tuple[_native.LayerIndex, int, bytes, int, bytes]:
    try:
        kinds = obeyed(_native.root_marks(fd), wish, origin, by_root())
        _check_undamaged(fd, path, kinds)
        scanned = _native.scan_directory(fd, kinds)
        if by_root():
            check_disobeyed(*scanned[3:], origin)
    except NotPermitted as error:
        raise NotPermitted(f"{path}: {error}") from error
    except _native.FormatError as error:
        raise MalformedImage(
            f"{path}: {quoted(os.fsdecode(error.member))} {error.message}"
        ) from error
    except OSError as error:
        where = os.fsdecode(error.filename or b"")
        raise ImgmountError(f"{path}: {quoted(where)}: {error.strerror}") from error
    return scanned
