"""Law: recognises what a file contains, an archive of images or the tar of a root file system, and
makes it readable if it is compressed.

    tar of a root file system    read in place if gzip or zstd packed it; else unpacked
    archive of images            unpacked into the cache, because images name its members
"""

from __future__ import annotations

import os
import re
from contextlib import suppress

from fusemount._native import LayerIndex
from fusemount.budget import Budget
from fusemount.codec import decompress
from fusemount.compression import Compression
from fusemount.dataclass import dataclass
from fusemount.errors import ImageNotFound, ImgmountError, MalformedImage
from fusemount.image.model import TAR_LAYER
from fusemount.layer import BlobFile, LayerBlob, Progress, measured, open_layers
from fusemount.layer.cache import Cache
from fusemount.layer.decode import StretchReader, compression_at, scan, unpack_archive
from fusemount.layer.filestate import await_new_ctime, identity, lasting
from fusemount.layer.progress import reported
from fusemount.settings import UNLIMITED, Directories, ImageOptions, Unpacking
from fusemount.sources.medium import MEMBERS_MAX

ROOTFS = "tar"  # the tar of a root file system, without a config
_NAME_BYTES = 100  # of a member, in its header (tar(5))
_OF_IMAGES = re.compile(
    rb"(\./)*(blobs|oci-layout|index\.json|manifest\.json|repositories|[0-9a-f]{64})(/|\.|\0|$)"
)


@dataclass(frozen=True)
class _Root:
    """The tar of a root file system, as open_layers() takes an image."""

    layers: tuple[LayerBlob]
    cache: None = None
    budget: None = None


def root_layer(file: BlobFile, label: str) -> LayerBlob:
    """The only layer of a root file system, compressed or not."""
    description = f"{label}: its only layer"
    compression = compression_at(file.fd, 0, file.size, label)
    kind = TAR_LAYER + (compression.media_suffix or "")
    return LayerBlob(None, None, kind, file, 0, file.size, description)


def is_root_in_place(
    file: BlobFile,
    label: str,
    transport: str | None,
    options: ImageOptions,
    directories: Directories,
    progress: Progress,
) -> bool:
    """Whether this file is the compressed tar of a root file system that is read in place.

    The names of all members decide, so a file of which nothing is kept is read to its end.  What
    this finds out is kept for the opening of the layer.  A file whose first name is one of an
    archive of images is not read if it may be unpacked: it would be read twice.
    Raises ImageNotFound, MalformedImage, NoSpace.
    """
    compression = compression_at(file.fd, 0, file.size, label)
    if not compression.in_place or options.unpacking is Unpacking.ALWAYS:
        return False
    if transport is not None:
        return transport == ROOTFS
    cache, key = Cache(directories.cache), identity(file.fd, 0, file.size)
    if cache.kind(key) == ROOTFS:
        return True
    unpacks = options.unpacking is not Unpacking.NEVER
    if unpacks and _OF_IMAGES.match(_first_name(file, label, compression)):
        return False
    await_new_ctime(file.fd)
    key = lasting(file.fd, key)
    with open_layers(_Root((root_layer(file, label),)), options, directories, progress)[0] as layer:
        if _transport_of(layer.index, label) != ROOTFS:
            return False
    with suppress(ImgmountError):  # a cache that takes nothing costs time only
        cache.keep_kind(key, ROOTFS)
    return True


def _first_name(file: BlobFile, label: str, compression: Compression) -> bytes:
    """The name in the first header of a compressed tar."""
    reader = StretchReader(file.fd, 0, file.size, label, lambda _: None, False)
    pieces = decompress(reader.read, compression, label, Budget(UNLIMITED), file.size)
    return next(pieces, b"")[:_NAME_BYTES]


def unwrapped(
    file: BlobFile,
    label: str,
    cache: Cache,
    progress: Progress,
    budget: Budget,
    never: bool = False,
) -> BlobFile:
    """The archive itself; of a compressed one the tar in it, which the cache keeps.

    never: the user allows no unpacking.  Raises MalformedImage, NoSpace, ImgmountError.
    """
    compression = compression_at(file.fd, 0, file.size, label)
    if compression is Compression.NONE:
        return file
    if never:
        raise ImgmountError(
            f"{label}: a {compression.value} archive of images cannot be read in place, and "
            "-o unpack=never allows nothing else"
        )
    key = identity(file.fd, 0, file.size)
    kept = cache.archive_path(key)
    budget.enclose(measured(file, 0, file.size)[1])
    fd = cache.open_tar(kept)
    if fd >= 0:
        os.close(fd)
    else:
        await_new_ctime(file.fd)
        kept = cache.archive_path(lasting(file.fd, key))
        with reported(progress, f"unpacking {label}", file.size) as advance:
            unpack_archive(file.fd, compression, label, cache, kept, advance, budget)
        if identity(file.fd, 0, file.size) != key:
            kept.unlink(missing_ok=True)
            raise ImgmountError(f"{label}: changed while it was read")
        budget.made.append(kept)
    return BlobFile(kept)


def index_of(file: BlobFile, label: str) -> LayerIndex:
    return scan(file.fd, 0, file.size, label)


def recognised(
    transport: str | None, file: BlobFile, label: str, cache: Cache
) -> tuple[str, LayerIndex | None]:
    """(transport, the archive's index if the archive was scanned to recognise it)."""
    if transport is not None:
        return transport, None
    key = identity(file.fd, 0, file.size)
    if cache.kind(key) == ROOTFS:
        return ROOTFS, None
    if file.size == 0:
        raise MalformedImage(f"{label}: an empty file")
    await_new_ctime(file.fd)
    key = lasting(file.fd, key)
    index = index_of(file, label)
    found = _transport_of(index, label)
    if found == ROOTFS:
        with suppress(ImgmountError):
            cache.keep_kind(key, ROOTFS)
    return found, index


def _transport_of(index: LayerIndex, label: str) -> str:
    names = _names_of(index)
    if b"manifest.json" in names:
        return "docker-archive"
    if b"index.json" in names and b"oci-layout" in names:
        return "oci-archive"
    if b"repositories" in names:
        return "docker-archive"
    if len(index) == 0:
        raise ImageNotFound(f"{label}: an archive without members: there is no image in it")
    return ROOTFS


def _names_of(index: LayerIndex) -> set[bytes]:
    if len(index) > MEMBERS_MAX:
        return set()
    return {index.member(i).path for i in range(len(index))}
