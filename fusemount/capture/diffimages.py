"""Law: `imgmount diff IMAGE IMAGE` as one function: compares the trees of two images."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from fusemount.capture.changed import Asked
from fusemount.daemon.chunkkeeper import keeping_beside
from fusemount.errors import translated
from fusemount.reference import Reference
from fusemount.settings import Directories

if TYPE_CHECKING:
    from fusemount._native import Packed
    from fusemount.layer import Progress
    from fusemount.rootfs.treediff import Side


def diff_images(
    old: Reference, new: Reference, asked: Asked, directories: Directories, progress: Progress
) -> list[tuple[str, bytes]]:
    """(A, C or D, path relative to the root), sorted.  Raises every error of an image."""
    from fusemount.rootfs.treediff import image_changes

    with ExitStack() as stack:
        was, now = (_side(each, asked, directories, progress, stack) for each in (old, new))
        with translated(f"{old}, {new}"):
            return list(image_changes(was, now, asked.image_options.unpack))


def _side(
    reference: Reference,
    asked: Asked,
    directories: Directories,
    progress: Progress,
    stack: ExitStack,
) -> Side:
    from fusemount.layer import OpenDirectory, OpenLayer, open_directories, open_layers
    from fusemount.rootfs import RootFs
    from fusemount.rootfs.open import build_tree
    from fusemount.rootfs.treediff import Side
    from fusemount.sources import open_image

    options = asked.image_options
    image = stack.enter_context(open_image(reference, options, directories, progress))
    layers: list[OpenLayer | OpenDirectory] = []
    packed: list[Packed | None] = []
    for layer in open_layers(image, options, directories, progress):
        layers.append(stack.enter_context(layer))
        packed.append(layer.packed)
    stack.enter_context(keeping_beside(packed, directories.cache / "chunks"))
    known = [layer.diff_id for layer in layers if isinstance(layer, OpenLayer)]
    for directory in open_directories(image.directories, options.marks, image.origin):
        layers.append(stack.enter_context(directory))
    tree = build_tree(layers, follow_symlink_parents=bool(asked.follow_symlink_parents))
    return Side(RootFs(tree, None), known)
