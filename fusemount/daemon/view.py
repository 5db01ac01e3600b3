"""Law: from an image's name to a file system that can be served, and back to nothing.

Everything that is opened pushes its undo on the caller's exit stack, last opened first closed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fusemount.beneath import by_root
from fusemount.daemon import registry
from fusemount.daemon.handover import await_upper
from fusemount.daemon.identity import base_of, handle_generation
from fusemount.daemon.log import LOGGER
from fusemount.daemon.scratch import Scratch, create_scratch, sweep
from fusemount.daemon.upperpath import open_place
from fusemount.dataclass import dataclass
from fusemount.errors import ImgmountError, UpperError
from fusemount.reference import Reference
from fusemount.settings import Directories, ImageOptions, MountOptions

if TYPE_CHECKING:
    from fusemount.layer import OpenDirectory, OpenLayer, Progress
    from fusemount.rootfs import RootFs
    from fusemount.rootfs.harmless import Harmless
    from fusemount.sources import Image


@dataclass(frozen=True)
class View:
    """upper: where changes go; None when there is no place for any. scratch: made for this view.

    made: the user's directories that were not there before.  They go again with the stack, unless
    the view was settled (it is served) or they hold something.
    dropped: what an upper that came from another image loses over this one (rootfs.rebase).
    directories: the layers are directories that the caller named (lowerdir=).
    """

    image: Image
    rootfs: RootFs
    upper: Path | None
    scratch: Scratch | None
    made: list[Path]
    dropped: list[tuple[bytes, str]]
    directories: bool

    def settle(self) -> None:
        self.made.clear()
        # Who mounts directories (podman, buildah) removes the work directory as soon as the mount
        # is off, beside the daemon that ends: a file made there then would make that fail.
        self.rootfs.told = not self.directories


def open_view(
    reference: Reference,
    image_options: ImageOptions,
    options: MountOptions,
    directories: Directories,
    progress: Progress,
    stack: ExitStack,
    beside: Callable[[], None] = lambda: None,
) -> View:
    """Opens image, layers and upper. Raises every error of an image, UpperError, NoSpace.

    beside: called before the core reads and merges indexes, to begin what can be done meanwhile.
    """
    from fusemount.rootfs import UpperOptions, open_rootfs
    from fusemount.rootfs.base import follows_symlink_parents, keep_base
    from fusemount.rootfs.rebase import dropped
    from fusemount.sources import open_image

    image = stack.enter_context(open_image(reference, image_options, directories, progress))
    beside()
    archived, unpacked = _open_layers(image, image_options, directories, progress, stack)
    made: list[Path] = []
    stack.callback(_take_back, made)
    upper, upper_fd, work, scratch = _open_upper(options, directories, stack, made)
    if upper and not scratch:
        _check_no_layer({"upper": upper, "work directory": work}, image)
        await_upper(upper, directories)
    follow, users = bool(options.follow_symlink_parents), image_options.marks.overlay
    if upper and not scratch:
        follow = follows_symlink_parents(upper, options.follow_symlink_parents, userxattr=users)
    base = base_of(reference, image_options, follow, image, archived)
    base = replace(base, moves=options.overlay)
    rootfs = open_rootfs(
        [*archived, *unpacked],
        upper=upper,
        upper_fd=upper_fd,
        work=work,
        read_only=options.read_only and not remountable(options),
        follow_symlink_parents=follow,
        keep_root=options.overlay,
        owners=options.owners,
        userxattr=users,
        options=UpperOptions(
            options.metacopy, options.redirect, options.volatile, harmless_for(options)
        ),
        base=base,
        rebase=options.rebase,
        lock_places=directories.lock_places if scratch is None else (),
    )
    stack.callback(rootfs.close)
    generation = handle_generation(base, [] if unpacked else archived)
    if generation is not None:
        rootfs.tree.set_generation(generation)
    if options.static_nlink:
        rootfs.tree.set_static_nlink()
    if rootfs.upper is not None and not options.read_only:
        _tell(upper, rootfs, options)
        with suppress(OSError):  # `diff` and `commit` then want --base
            keep_base(rootfs.upper, base, rebase=options.rebase, adopted=rootfs.adopted)
    lost = dropped(rootfs) if options.rebase and not rootfs.fits else []
    return View(image, rootfs, upper, scratch, made, lost, options.overlay)


def _open_layers(
    image: Image,
    options: ImageOptions,
    directories: Directories,
    progress: Progress,
    stack: ExitStack,
) -> tuple[list[OpenLayer], list[OpenDirectory]]:
    """Those that are tars, and those that are directories; the stack closes them."""
    from fusemount.layer import open_directories, open_layers

    unpacked = open_directories(image.directories, options.marks, image.origin)
    for layer in unpacked:
        stack.callback(layer.close)
        if layer.note:
            LOGGER.warning("%s", layer.note)
    archived = open_layers(image, options, directories, progress)
    for tar in archived:
        stack.callback(tar.close)
    return archived, unpacked


def harmless_for(options: MountOptions) -> Harmless:
    """What of an upper stands in marks: what the flags of root's mount of an image forbid in it."""
    from fusemount.rootfs.harmless import AS_THEY_ARE, Harmless

    if options.overlay or not by_root():
        return AS_THEY_ARE
    return Harmless(files=not options.suid, devices=not options.dev)


def _tell(upper: Path | None, rootfs: RootFs, options: MountOptions) -> None:
    from fusemount.rootfs.paths import brief

    if options.volatile:
        LOGGER.warning("volatile: nothing is synced; if this machine fails, %s is lost", upper)
    harmed = rootfs.loaded.harmed
    if harmed.made:
        LOGGER.info("%s: %d set-id files, files with capabilities and devices stand in marks from "
                    "now on (docs/security.md)", upper, harmed.made)  # fmt: skip
    if harmed.left:
        LOGGER.warning("%s: %d set-id files, files with capabilities or devices have names "
                       "elsewhere too or are too deep, and are left as they are, for one %s", upper,
                       harmed.left, brief(harmed.one_left))  # fmt: skip


def hold_image(image: Image, where: Path | None, stack: ExitStack) -> None:
    """A mount says that it relies on an image of a store, as long as it lives.

    A store that we may not write to takes no such word, and nobody but its owner removes there.
    """
    if image.store is None or image.manifest_digest is None:
        return
    from fusemount.store import Store

    known = [image.manifest_digest, *([image.config_digest] if image.config_digest else [])]
    layers = [blob.digest for blob in image.layers if blob.digest is not None]
    try:
        lease = Store(image.store).lease("mount", image.source, str(where or ""))
        stack.callback(lease.end)
        lease.hold([*known, *layers])
    except ImgmountError as error:
        LOGGER.warning("%s: not told to the store: %s", image.source, error)


def _open_upper(
    options: MountOptions, directories: Directories, stack: ExitStack, made: list[Path]
) -> tuple[Path | None, int | None, Path | None, Scratch | None]:
    """The user's own directory (path and descriptor), or a fresh one; a read-only mount without one
    has none."""
    if options.upper:
        looked_at = options.read_only and not remountable(options)
        upper, fd, is_new = open_place(options.upper, make=not looked_at)
        stack.callback(os.close, fd)
        if is_new:
            made.append(upper)
        if looked_at:
            return upper, fd, None, None
        work = _work_directory(_work_for(upper, options), made)
        if not (work / "work").exists():
            made.append(work / "work")  # rootfs makes it
        return upper, fd, work, None
    if options.read_only:
        return None, None, None, None
    scratch = fresh_scratch(directories, stack)
    if options.keep:
        scratch.keep()
    return scratch.upper, None, scratch.work, scratch


def remountable(options: MountOptions) -> bool:
    """As overlayfs: `ro` with an upper and a work directory is the mount's alone, which may become
    rw later, where their file system lets them be written."""
    places = (options.upper, options.work) if options.overlay else (None,)
    return all(place is not None and os.access(place, os.W_OK) for place in places)


def fresh_scratch(directories: Directories, stack: ExitStack) -> Scratch:
    """A scratch that goes with the stack; what a power cut left of others goes first."""
    recorded = [Path(m.record.scratch) for m in registry.listing(directories.runtime)
                if m.record.scratch]  # fmt: skip
    sweep(directories.state, recorded)
    scratch = create_scratch(directories.state)
    stack.callback(scratch.release)
    return scratch


def _work_for(upper: Path, options: MountOptions) -> Path:
    return options.work or upper.with_name(f".{upper.name}.imgmount-work")


def _check_no_layer(places: dict[str, Path | None], image: Image) -> None:
    """What is written to a directory of the layers would change what is below it."""
    for what, place in places.items():
        for layer in image.directories if place is not None else ():
            if place is not None and os.path.samefile(place, layer):
                raise UpperError(f"{place}: the {what} is a layer of this mount too")


def _work_directory(path: Path, made: list[Path]) -> Path:
    """Made when only its last component is missing; a symlink is left for rootfs/upper.py to
    refuse."""
    path = Path(os.path.realpath(path.parent), path.name)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError as error:
        if not path.is_dir():
            raise UpperError(f"{path}: not a directory") from error
    except OSError as error:
        raise UpperError(f"{path}: {os.strerror(error.errno or 0)}") from error
    else:
        made.append(path)
    return path


def _take_back(made: list[Path]) -> None:
    for path in reversed(made):
        with suppress(OSError):  # somebody put something there, or it was never made
            path.rmdir()


def check_apart(mountpoint: Path, options: MountOptions) -> None:
    """An upper inside its own mount (or around it) would wait for itself for ever; a work too."""
    if options.upper is None:
        return
    upper = Path(os.path.realpath(options.upper))
    places = {"upper": upper}
    if not options.read_only:
        places["work directory"] = Path(os.path.realpath(_work_for(upper, options)))
    for what, path in places.items():
        if mountpoint == path or mountpoint in path.parents or path in mountpoint.parents:
            raise UpperError(
                f"{path}: the {what} and the mountpoint {mountpoint} lie in each other"
            )
