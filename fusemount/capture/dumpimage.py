"""Law: `imgmount dump` as functions: a tree or a layer's index as lines of text; mounts nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from fusemount.daemon.chunkkeeper import keeping_beside
from fusemount.daemon.openview import open_view
from fusemount.errors import ImgmountError, UsageError
from fusemount.reference import Reference
from fusemount.settings import Directories, ImageOptions, MountOptions

if TYPE_CHECKING:
    from fusemount.layer import OpenDirectory, OpenLayer, Progress


def dump_image(
    reference: Reference,
    image_options: ImageOptions,
    directories: Directories,
    progress: Progress,
    *,
    path: bytes = b"/",
    digest: bool = False,
    upper: str | None = None,
    follow_symlink_parents: bool = False,
) -> Iterator[bytes]:
    """The lines of rootfs.treetext for path and all below it. Raises every error of an image;
    ImgmountError if path is not in the image."""
    from fusemount.rootfs.treetext import dump_lines

    options = MountOptions(
        read_only=True,
        upper=Path(upper).absolute() if upper else None,
        follow_symlink_parents=follow_symlink_parents,
    )
    with ExitStack() as stack:
        view = open_view(reference, image_options, options, directories, progress, stack)
        stack.enter_context(keeping_beside(view.packed, directories.cache / "chunks"))
        try:
            yield from dump_lines(view.rootfs, path, digest, image_options.unpack)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise ImgmountError(f"{os.fsdecode(path)}: {why} in the image") from error


def dump_layer(
    reference: Reference,
    image_options: ImageOptions,
    directories: Directories,
    progress: Progress,
    number: int,
) -> Iterator[bytes]:
    """The lines of layer.text for one layer; number: counted from the lowest layer, which is 0."""
    from fusemount.layer import open_directories, open_layers
    from fusemount.layer.text import index_lines
    from fusemount.sources import open_image

    with ExitStack() as stack:
        image = stack.enter_context(open_image(reference, image_options, directories, progress))
        layers: list[OpenLayer | OpenDirectory] = [
            *open_layers(image, image_options, directories, progress),
            *open_directories(image.directories, image_options.marks, image.origin),
        ]
        for layer in layers:
            stack.callback(layer.close)
        _check_number(number, len(layers))
        yield from index_lines(layers[number].index)


def dump_points(
    reference: Reference,
    image_options: ImageOptions,
    directories: Directories,
    progress: Progress,
    number: int,
) -> Iterator[bytes]:
    """The lines of layer.text for the access points and chunks of one layer, which is opened first.
    Raises ImgmountError if the layer is not read in place."""
    from fusemount.layer import chunkcache, open_layers
    from fusemount.layer.cache import Cache
    from fusemount.layer.filestate import identity
    from fusemount.layer.text import chunk_lines, point_lines
    from fusemount.sources import open_image

    with open_image(reference, image_options, directories, progress) as image:
        _check_number(number, len(image.layers))
        for layer in open_layers(image, image_options, directories, progress):
            layer.close()
        blob = image.layers[number]
        cache = Cache(image.cache or directories.cache)
        facts = cache.facts(identity(blob.fd, blob.offset, blob.size))
        points = None if facts is None else cache.points(facts.digest)
    if facts is None or points is None:
        raise ImgmountError(f"{blob.description}: no access points are kept")
    yield from point_lines(points)
    own = Cache(directories.cache)
    yield from chunk_lines(chunkcache.states(own.chunks / own.chunks_name(facts.diff_id)))


def _check_number(number: int, layers: int) -> None:
    if not 0 <= number < layers:
        raise UsageError(f"--layer {number}: the image has {layers} layers, from 0")
