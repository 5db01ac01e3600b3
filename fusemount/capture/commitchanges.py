"""Law: `imgmount commit` as one function: the changes become a new layer on top of the image's."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from fusemount.capture.changed import Asked, Changed, Warn, all_as_added, open_changed
from fusemount.compression import Compression
from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import UsageError
from fusemount.settings import Directories, UnpackLimit

if TYPE_CHECKING:
    from fusemount.layer import Progress
    from fusemount.rootfs.changes import Change
    from fusemount.sources.writing import ImageWriter, Target, WrittenLayer
    from fusemount.transfer.storewriter import StoreWriter


@dataclass(frozen=True)
class CommitOptions:
    """name: NAME:TAG. target: None for the store. epoch_s: SOURCE_DATE_EPOCH, None for now.

    rewrite_timestamp: in the new layer no file is younger than epoch_s.  compression: of the new
    layer, None for the target's default.
    """

    name: str
    target: Target | None
    changes: tuple[str, ...] = ()
    author: str = ""
    message: str = ""
    epoch_s: int | None = None
    rewrite_timestamp: bool = False
    compression: Compression | None = None


def commit(
    asked: Asked,
    options: CommitOptions,
    directories: Directories,
    progress: Progress,
    warn: Warn,
) -> Digest:
    """Returns the new image's ID. Raises every error of an image, MountpointError, UpperError,
    NoSpace, ImgmountError, UsageError; then no image has been written."""
    from fusemount.image.changeline import apply_changes

    apply_changes({}, list(options.changes))  # an error is found before anything is read
    compression = _compression(options)
    with ExitStack() as stack:
        changed = open_changed(asked, directories, progress, warn, stack)
        if options.target is not None:
            _check_apart(options.target, changed)
        writer = _writer(options, directories, asked.image_options.unpack, progress)
        with writer:
            return _write(writer, changed, options, compression, asked.image_options.unpack, warn)


def _writer(
    options: CommitOptions, directories: Directories, unpack: UnpackLimit, progress: Progress
) -> ImageWriter | StoreWriter:
    from fusemount.imagename import parse_name
    from fusemount.sources.writing import ImageWriter
    from fusemount.store import Store
    from fusemount.transfer.storewriter import StoreWriter

    if options.target is not None:
        return ImageWriter(options.target, progress, unpack)
    store = Store(directories.store, create=True, unpack=unpack)
    return StoreWriter(store, [parse_name(options.name).tagged()], progress)


def _compression(options: CommitOptions) -> Compression:
    docker = options.target is None or options.target.form == "docker-archive"
    if docker and options.compression not in (None, Compression.NONE):
        where = "a docker-archive" if options.target else "the store"
        raise UsageError(f"--compress: {where} holds new layers uncompressed")
    if options.compression is not None:
        return options.compression
    return Compression.NONE if docker else Compression.GZIP


def _check_apart(target: Target, changed: Changed) -> None:
    """Raises UsageError if the new image would replace the image that the upper belongs to."""
    path, base = target.path, Path(changed.image.source)
    if target.form != "oci" and path.exists() and base.exists() and path.samefile(base):
        raise UsageError(f"{path}: is the image below {changed.upper}, which must stay as it is")


def _write(
    writer: ImageWriter | StoreWriter,
    changed: Changed,
    options: CommitOptions,
    compression: Compression,
    unpack: UnpackLimit,
    warn: Warn,
) -> Digest:
    from fusemount.image.nextconfig import Step, committed_config

    image = changed.image
    changes = _changes(changed)
    step = Step(
        created_ns=time.time_ns() if options.epoch_s is None else options.epoch_s * 10**9,
        changes=options.changes,
        author=options.author,
        comment=options.message,
    )
    unknown = Digest.of(b"")  # as long as each real digest: a config beyond a limit is found here
    below = len(image.layers) + len(image.unpacked)
    committed_config(image.config, [unknown] * below, unknown if changes else None, step)
    carried = [
        writer.carry_layer(blob, layer)
        for blob, layer in zip(image.layers, changed.layers, strict=True)
    ]
    carried += [writer.rebuild_layer(layer, compression) for layer in image.unpacked]
    new: Sequence[WrittenLayer] = ()
    if changes:
        new = (writer.add_layer(_layer_tar(changed, changes, options, unpack, warn), compression),)
    config = committed_config(
        image.config,
        [layer.diff_id for layer in carried],
        new[0].diff_id if new else None,
        step,
    )
    return writer.finish(config, image.platform, [*carried, *new], options.name)


def _changes(changed: Changed) -> Sequence[Change]:
    """The contents of the new layer: the changes; over unpacked directories, which are not layers
    of an image yet, all that the directories and the upper show."""
    return all_as_added(changed.rootfs) if changed.image.is_bare else changed.changes


def _layer_tar(
    changed: Changed,
    changes: Sequence[Change],
    options: CommitOptions,
    unpack: UnpackLimit,
    warn: Warn,
) -> Iterator[bytes]:
    from fusemount.rootfs.layertar import layer_tar

    newest = options.epoch_s if options.rewrite_timestamp else None

    def warned(what: str) -> None:
        warn(f"{what}: left out")

    return layer_tar(changed.rootfs, changes, warned, newest_s=newest, limit=unpack)
