"""Law: from an image's name to a file system that can be served, and back to nothing.

Everything that is opened pushes its undo on the caller's exit stack, last opened first closed.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fusemount.daemon import registry
from fusemount.daemon.scratch import Scratch, create_scratch, sweep
from fusemount.errors import UpperError
from fusemount.reference import Reference
from fusemount.settings import Directories, ImageOptions, MountOptions

if TYPE_CHECKING:
    from fusemount.layer import Progress
    from fusemount.rootfs import RootFs
    from fusemount.sources import Image


@dataclass(frozen=True)
class View:
    """upper: where changes go; None when there is no place for any. scratch: made for this view."""

    image: Image
    rootfs: RootFs
    upper: Path | None
    scratch: Scratch | None


def open_view(
    reference: Reference,
    image_options: ImageOptions,
    options: MountOptions,
    directories: Directories,
    progress: Progress,
    stack: ExitStack,
) -> View:
    """Opens image, layers and upper. Raises every error of an image, UpperError, NoSpace."""
    from fusemount.layer import open_layers
    from fusemount.rootfs import open_rootfs
    from fusemount.sources import open_image

    image = stack.enter_context(open_image(reference, image_options, directories, progress))
    layers = open_layers(image, image_options, directories, progress)
    upper, work, scratch = _open_upper(options, directories, stack)
    rootfs = open_rootfs(
        layers,
        upper=upper,
        work=work,
        read_only=options.read_only,
        follow_symlink_parents=options.follow_symlink_parents,
    )
    stack.callback(rootfs.close)
    return View(image, rootfs, upper, scratch)


def _open_upper(
    options: MountOptions, directories: Directories, stack: ExitStack
) -> tuple[Path | None, Path | None, Scratch | None]:
    """The user's own directory, or a fresh one; a read-only mount without one has none."""
    if options.upper and options.read_only:
        return Path(os.path.realpath(options.upper)), None, None
    if options.upper:
        upper = _own_directory(options.upper)
        work = options.work or upper.with_name(f".{upper.name}.imgmount-work")
        return upper, _own_directory(work), None
    if options.read_only:
        return None, None, None
    scratch = fresh_scratch(directories, stack)
    if options.keep:
        scratch.keep()
    return scratch.upper, scratch.work, scratch


def fresh_scratch(directories: Directories, stack: ExitStack) -> Scratch:
    """A scratch that goes with the stack; what a power cut left of others goes first."""
    recorded = [Path(m.record.scratch) for m in registry.listing(directories.runtime)
                if m.record.scratch]  # fmt: skip
    sweep(directories.state, recorded)
    scratch = create_scratch(directories.state)
    stack.callback(scratch.release)
    return scratch


def _own_directory(path: Path) -> Path:
    """The user's upper or work directory, made when only its last component is missing."""
    path = Path(os.path.realpath(path))
    try:
        path.mkdir(exist_ok=True)
    except FileExistsError as error:
        raise UpperError(f"{path}: not a directory") from error
    except OSError as error:
        raise UpperError(f"{path}: {os.strerror(error.errno or 0)}") from error
    return path


def check_apart(mountpoint: Path, upper: Path | None) -> None:
    """An upper inside its own mount (or around it) would wait for itself for ever."""
    if upper is None:
        return
    upper = Path(os.path.realpath(upper))
    if mountpoint == upper or mountpoint in upper.parents or upper in mountpoint.parents:
        raise UpperError(f"{upper}: the upper and the mountpoint {mountpoint} lie in each other")
