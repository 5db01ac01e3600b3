"""Law: opens an image, its layers and an upper as a file system that can be served.

The closing of each is pushed on the caller's exit stack, so that all are closed in reverse order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fusemount.beneath import by_root
from fusemount.daemon.handover import await_upper
from fusemount.daemon.imagebase import base_of, handle_generation
from fusemount.daemon.log import LOGGER
from fusemount.daemon.scratch import Scratch
from fusemount.daemon.upperdirs import (
    NewDirs,
    UpperDirs,
    check_not_a_layer,
    open_upper,
    remountable,
)
from fusemount.dataclass import dataclass
from fusemount.errors import ImgmountError
from fusemount.reference import Reference
from fusemount.settings import Directories, ImageOptions, MountOptions

if TYPE_CHECKING:
    from fusemount._native import Packed
    from fusemount.layer import OpenDirectory, OpenLayer, Progress
    from fusemount.rootfs import RootFs
    from fusemount.rootfs.base import Base
    from fusemount.rootfs.harmless import Harmless
    from fusemount.rootfs.upper import Upper
    from fusemount.sources import Image


@dataclass(frozen=True)
class View:
    """upper: the directory for changes; None if changes are not possible. scratch: made for this
    view, None if the upper is the user's.

    made: the user's directories that this view made.  The stack removes them again, unless the
    view is served or they are not empty.
    dropped: the changes that an upper of another image loses over this one (rootfs.rebase).
    directories: the layers are directories that the caller named (lowerdir=).
    packed: the compressed layers that are read in place.
    """

    image: Image
    rootfs: RootFs
    upper: Path | None
    scratch: Scratch | None
    made: NewDirs
    dropped: list[tuple[bytes, str]]
    directories: bool
    packed: Sequence[Packed]

    def begin_serving(self) -> None:
        self.made.keep()
        # Programs that mount directories (podman, buildah) remove the work directory as soon as
        # the mount is gone, while the daemon is ending. A file that the daemon made there then
        # would make the removal fail.
        self.rootfs.keeps_ctimes = not self.directories


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

    beside: called before the core reads and merges indexes, so that it can start other work to run
    at the same time.
    """
    from fusemount.rootfs.rebase import dropped
    from fusemount.sources import open_image

    image = stack.enter_context(open_image(reference, image_options, directories, progress))
    beside()
    archived, unpacked = _open_layers(image, image_options, directories, progress, stack)
    made = NewDirs()
    stack.callback(made.remove)
    dirs = open_upper(options, directories, stack, made)
    userxattr = image_options.marks.overlay
    follow = _ready_upper(dirs, unpacked, options, directories, userxattr)
    base = base_of(reference, image_options, follow, image, archived)
    base = replace(base, moves=options.overlay)
    rootfs = _open_rootfs([*archived, *unpacked], dirs, base, options, directories, userxattr)
    stack.callback(rootfs.close)
    generation = handle_generation(base, [] if unpacked else archived)
    if generation is not None:
        rootfs.tree.set_generation(generation)
    if options.static_nlink:
        rootfs.tree.set_static_nlink()
    if rootfs.upper is not None and not options.read_only:
        _log_dangers(dirs.upper, rootfs, options)
        _keep_base(rootfs.upper, rootfs, base, options)
    lost = dropped(rootfs) if options.rebase and not rootfs.fits else []
    packed = [layer.packed for layer in archived if layer.packed is not None]
    return View(image, rootfs, dirs.upper, dirs.scratch, made, lost, options.overlay, packed)


def _ready_upper(
    dirs: UpperDirs,
    unpacked: Sequence[OpenDirectory],
    options: MountOptions,
    directories: Directories,
    userxattr: bool,
) -> bool:
    """Checks a user's upper, and waits for its last mount to release it. Returns whether symlinked
    parents are followed, which a mark on the upper may decide.
    """
    from fusemount.rootfs.base import follows_symlink_parents

    asked = options.follow_symlink_parents
    if dirs.upper is None or dirs.upper_fd is None:
        return bool(asked)
    check_not_a_layer(dirs, unpacked)
    await_upper(dirs.upper, directories)
    return follows_symlink_parents(dirs.upper, dirs.upper_fd, asked, userxattr=userxattr)


def _open_rootfs(
    layers: Sequence[OpenLayer | OpenDirectory],
    dirs: UpperDirs,
    base: Base,
    options: MountOptions,
    directories: Directories,
    userxattr: bool,
) -> RootFs:
    from fusemount.rootfs import UpperOptions, open_rootfs

    return open_rootfs(
        layers,
        upper=dirs.upper,
        upper_fd=dirs.upper_fd,
        work=dirs.work,
        work_above=dirs.work_above,
        read_only=options.read_only and not remountable(options),
        follow_symlink_parents=base.follow_symlink_parents,
        keep_root=options.overlay,
        owners=options.owners,
        userxattr=userxattr,
        options=UpperOptions(
            options.metacopy, options.redirect, options.volatile, harmless_for(options)
        ),
        base=base,
        rebase=options.rebase,
        lock_directories=directories.lock_directories if dirs.scratch is None else (),
    )


def _keep_base(upper: Upper, rootfs: RootFs, base: Base, options: MountOptions) -> None:
    """Writes the base into its mark. Where that fails, `diff` and `commit` need --base."""
    from fusemount.rootfs.base import keep_base

    with suppress(OSError):
        keep_base(upper, base, rebase=options.rebase, adopted=rootfs.adopted)


def _open_layers(
    image: Image,
    options: ImageOptions,
    directories: Directories,
    progress: Progress,
    stack: ExitStack,
) -> tuple[list[OpenLayer], list[OpenDirectory]]:
    """The layers that are tars, and those that are directories; the stack closes them."""
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
    """Which modes and devices an upper keeps in marks: those that the flags of root's mount of an
    image forbid."""
    from fusemount.rootfs.harmless import AS_THEY_ARE, Harmless

    if options.overlay or not by_root():
        return AS_THEY_ARE
    return Harmless(files=not options.suid, devices=not options.dev)


def _log_dangers(upper: Path | None, rootfs: RootFs, options: MountOptions) -> None:
    from fusemount.rootfs.paths import brief

    if options.volatile:
        LOGGER.warning("volatile: nothing is synced; if this machine fails, %s is lost", upper)
    if rootfs.upper is not None and rootfs.upper.kept:
        LOGGER.warning("%s: a mount of %s was killed while it removed directories, and users had "
                       "put others' files there; these are kept as %s", rootfs.upper.work_path,
                       upper, ", ".join(map(brief, rootfs.upper.kept[:3])))  # fmt: skip
    harmed = rootfs.loaded.harmed
    if harmed.made:
        LOGGER.info("%s: %d set-id files, files with capabilities and devices stand in marks from "
                    "now on (docs/security.md)", upper, harmed.made)  # fmt: skip
    if harmed.left:
        LOGGER.warning("%s: %d set-id files, files with capabilities or devices have names "
                       "elsewhere too, are too deep or were moved, and are left as they are, for "
                       "one %s", upper, harmed.left, brief(harmed.one_left))  # fmt: skip
    if harmed.lost:
        LOGGER.warning("%s: %d files have lost their set-id bits or capability, because they have "
                       "no room for one more xattr, for one %s", upper, harmed.lost,
                       brief(harmed.one_lost))  # fmt: skip


def hold_image(image: Image, where: Path | None, stack: ExitStack) -> None:
    """Takes a lease on an image of a store, so that nothing removes it while the mount lives.

    If we may not write to the store there is no lease, only a warning: then only the owner of the
    store can remove images.
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
