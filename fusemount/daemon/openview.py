"""Law: from an image's name to a file system that can be served, and back to nothing.

Everything that is opened pushes its undo on the caller's exit stack, last opened first closed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fusemount.beneath import by_root
from fusemount.daemon.handover import await_upper
from fusemount.daemon.imagebase import base_of, handle_generation
from fusemount.daemon.log import LOGGER
from fusemount.daemon.scratch import Scratch
from fusemount.daemon.upperplaces import Made, check_no_layer, open_upper, remountable
from fusemount.dataclass import dataclass
from fusemount.errors import ImgmountError
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
    made: Made
    dropped: list[tuple[bytes, str]]
    directories: bool

    def begin_serving(self) -> None:
        self.made.stay()
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
    made = Made()
    stack.callback(made.take_back)
    places = open_upper(options, directories, stack, made)
    upper, scratch = places.upper, places.scratch
    follow, users = bool(options.follow_symlink_parents), image_options.marks.overlay
    if upper and places.upper_fd is not None:
        check_no_layer(places, unpacked)
        await_upper(upper, directories)
        asked = options.follow_symlink_parents
        follow = follows_symlink_parents(upper, places.upper_fd, asked, userxattr=users)
    base = base_of(reference, image_options, follow, image, archived)
    base = replace(base, moves=options.overlay)
    rootfs = open_rootfs(
        [*archived, *unpacked],
        upper=upper,
        upper_fd=places.upper_fd,
        work=places.work,
        work_above=places.work_above,
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
