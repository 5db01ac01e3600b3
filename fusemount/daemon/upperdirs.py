"""Law: opens the directories for a mount's changes, upper and work directory, by descriptors.

A path is walked once (walk.py), because the owner of a directory above may exchange it at any time.
From then on the upper is its descriptor, and the work directory is one name in its parent's
descriptor.  Objects are made, checked and removed only by these.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fusemount.beneath import fd_path, open_beneath, parent_beneath
from fusemount.daemon import mountrecords
from fusemount.daemon.scratch import Scratch, create_scratch, sweep
from fusemount.dataclass import dataclass
from fusemount.errors import UpperError, translated
from fusemount.settings import Directories, MountOptions
from fusemount.walk import open_found, open_object, open_walked

if TYPE_CHECKING:
    from fusemount.layer import OpenDirectory

_PARENT = os.O_PATH | os.O_DIRECTORY


@dataclass(frozen=True)
class UpperDirs:
    """upper: None if changes are not possible; upper_fd: its descriptor.  work: None if the upper
    is only read; work_above: the descriptor of the directory that work is in.  If there are no
    descriptors, both belong to a scratch, below an own directory."""

    upper: Path | None = None
    upper_fd: int | None = None
    work: Path | None = None
    work_above: int | None = None
    scratch: Scratch | None = None


class NewDirs:
    """The directories that we made for the user, to remove them again if the mount fails."""

    def __init__(self) -> None:
        self._made: list[tuple[int, str]] = []

    def add(self, above: int, path: str) -> None:
        """path: of the new directory, below the directory above, a descriptor of the caller's."""
        self._made.append((os.dup(above), path))

    def remove(self) -> None:
        """Removes them, the last one first, unless they are not empty. Never raises."""
        for above, path in reversed(self._made):
            # an error: the directory is not empty, or was never made
            with suppress(OSError), parent_beneath(above, path) as (fd, name):
                os.rmdir(name, dir_fd=fd)
        self.keep()

    def keep(self) -> None:
        """Keeps the directories: from now on remove() does nothing."""
        for above, _ in self._made:
            os.close(above)
        self._made.clear()


def open_upper(
    options: MountOptions, directories: Directories, stack: ExitStack, made: NewDirs
) -> UpperDirs:
    """The user's own directories, or those of a new scratch; a read-only mount without an upper has
    none.

    Raises UpperError; the stack closes the descriptors.
    """
    if options.upper is None:
        if options.read_only:
            return UpperDirs()
        scratch = fresh_scratch(directories, stack)
        if options.keep:
            scratch.keep()
        return UpperDirs(scratch.upper, None, scratch.work, None, scratch)
    only_read = options.read_only and not remountable(options)
    with translated(options.upper, UpperError):
        upper, fd, is_new = open_walked(options.upper, make=not only_read)
    stack.callback(os.close, fd)
    above = os.open("..", _PARENT | os.O_NOFOLLOW, dir_fd=fd)
    stack.callback(os.close, above)
    if is_new:
        made.add(above, upper.name)
    if only_read:
        return UpperDirs(upper, fd)
    work = _work_for(upper, options)
    if options.work:
        if work.name in ("", ".."):
            raise UpperError(f"{work}: names no directory")
        with translated(work.parent, UpperError):
            parent, above, _ = open_walked(work.parent, make=False)
        stack.callback(os.close, above)
        work = parent / work.name
    _make_work(work, above, made)
    return UpperDirs(upper, fd, work, above)


def _work_for(upper: Path, options: MountOptions) -> Path:
    return options.work or upper.with_name(f".{upper.name}.imgmount-work")


def _make_work(path: Path, above: int, made: NewDirs) -> None:
    """Makes the work directory unless its name exists; rootfs/upper.py refuses a symlink later."""
    name = path.name
    try:
        os.mkdir(name, 0o700, dir_fd=above)
    except FileExistsError as error:
        mode = os.stat(name, dir_fd=above, follow_symlinks=False).st_mode
        if not (stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            raise UpperError(f"{path}: not a directory") from error
    except OSError as error:
        raise UpperError(f"{path}: {os.strerror(error.errno or 0)}") from error
    else:
        made.add(above, name)
    try:
        os.close(open_beneath(above, f"{name}/work", os.O_PATH | os.O_NOFOLLOW))
    except OSError:
        made.add(above, f"{name}/work")  # rootfs makes it


def check_not_a_layer(dirs: UpperDirs, layers: Sequence[OpenDirectory]) -> None:
    """Raises UpperError if upper or work directory is a layer: changes would go into the layer."""
    named: list[tuple[str, Path | None, os.stat_result]] = []
    if dirs.upper_fd is not None:
        named.append(("upper", dirs.upper, os.fstat(dirs.upper_fd)))
    if dirs.work is not None and dirs.work_above is not None:
        st = os.stat(dirs.work.name, dir_fd=dirs.work_above, follow_symlinks=False)
        named.append(("work directory", dirs.work, st))
    for what, path, st in named:
        if any(os.path.samestat(st, os.fstat(layer.fd)) for layer in layers):
            raise UpperError(f"{path}: the {what} is a layer of this mount too")


def check_apart(mountpoint: Path, options: MountOptions) -> None:
    """Raises UpperError if upper or work directory lies in the mount or the mount in them: the
    daemon would wait for its own mount for ever."""
    if options.upper is None:
        return
    upper = _place(options.upper)
    paths = {"upper": upper}
    if not options.read_only:
        paths["work directory"] = _place(_work_for(upper, options))
    for what, path in paths.items():
        if mountpoint == path or mountpoint in path.parents or path in mountpoint.parents:
            raise UpperError(
                f"{path}: the {what} and the mountpoint {mountpoint} lie in each other"
            )


def _place(path: Path) -> Path:
    """The path without symlinks. Raises UpperError."""
    with translated(path, UpperError):
        place, fd = open_found(path)
    if fd >= 0:
        os.close(fd)
    return place


def remountable(options: MountOptions) -> bool:
    """Whether a mount may become rw later. As with overlayfs, `ro` with an upper and a work
    directory is a flag of the mount only, if both directories can be written to."""
    paths = (options.upper, options.work) if options.overlay else (None,)
    return all(path is not None and _is_writable(path) for path in paths)


def _is_writable(path: Path) -> bool:
    try:
        fd = open_object(path)
    except OSError:
        return False
    try:
        return os.access(fd_path(fd), os.W_OK)
    finally:
        os.close(fd)


def fresh_scratch(directories: Directories, stack: ExitStack) -> Scratch:
    """A scratch that the stack removes. Removes those that a power cut left, first."""
    recorded = [Path(m.record.scratch) for m in mountrecords.listing(directories.runtime)
                if m.record.scratch]  # fmt: skip
    sweep(directories.state, recorded)
    scratch = create_scratch(directories.state)
    stack.callback(scratch.release)
    return scratch
