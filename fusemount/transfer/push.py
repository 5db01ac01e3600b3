"""Law: an image of a store goes to a registry: blobs that it lacks, then manifests, the tag last.

A layer that stands uncompressed in the store is compressed on its way, as docker's and podman's
pushes are; its manifest then has another digest there.  The same layer always becomes the same
blob, and which one is remembered, so that it is not made again for a registry that has it.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from fusemount.codec import Compression, compressor
from fusemount.digest import Digest
from fusemount.errors import ImageNotFound, ImgmountError, MalformedImage, VerificationFailed
from fusemount.image.model import DOCKER, OCI, TAR_LAYER, Descriptor, Index
from fusemount.image.parse import parse_index_or_manifest
from fusemount.imagename import ImageName
from fusemount.registry.client import Registry
from fusemount.store import Lease, Store, StoredImage
from fusemount.store.intake import Part
from fusemount.store.summary import LayerRow, Summaries
from fusemount.transfer.progress import Task, Transfers
from fusemount.transfer.pull import RegistryAccess, run
from fusemount.transfer.save import plain_pieces

JOBS = 3
PIECE = 1 << 20
_PLAIN = (TAR_LAYER, DOCKER + "image.rootfs.diff.tar")
_SUFFIX = {Compression.GZIP: "+gzip", Compression.ZSTD: "+zstd"}


@dataclass(frozen=True)
class PushOptions:
    """compression: what uncompressed layers become, NONE: they stay."""

    access: RegistryAccess = field(default_factory=RegistryAccess)
    compression: Compression = Compression.GZIP


@dataclass(frozen=True)
class Pushed:
    """What the registry has now under that name."""

    digest: Digest
    size: int


def push(
    store: Store, image: StoredImage, name: ImageName, options: PushOptions, progress: Transfers
) -> Pushed:
    """Raises RegistryError, Unauthorized, MalformedImage, VerificationFailed, NoSpace."""
    return run(lambda: _push(store, image, name.tagged(), options, progress))


async def _push(
    store: Store, image: StoredImage, name: ImageName, options: PushOptions, progress: Transfers
) -> Pushed:
    with store.lease("push", str(name)) as lease:
        store.hold(lease, image)
        async with await options.access.registry(name) as registry:
            pushing = _Pushing(store, lease, registry, name, options, progress)
            pushed = await pushing.manifest(image.descriptor, name.tag or "")
            known = [str(name.with_digest(pushed.digest))]
            store.change(
                lambda catalog: (
                    catalog.with_image(image.descriptor, [], known)
                    if catalog.of(image.digest)  # else it was removed meanwhile
                    else catalog
                )
            )
            return pushed


class _Pushing:
    def __init__(
        self, store: Store, lease: Lease, registry: Registry, name: ImageName,
        options: PushOptions, progress: Transfers,
    ) -> None:  # fmt: skip
        self._store, self._lease, self._registry, self._name = store, lease, registry, name
        self._options, self._progress = options, progress
        self._limit = trio.CapacityLimiter(JOBS)
        self._summaries = Summaries(store.layout)
        self._done: dict[Digest, Descriptor] = {}

    async def manifest(self, descriptor: Descriptor, tag: str) -> Pushed:
        """With all below it; under its digest where tag is ""."""
        data = self._read(descriptor.digest)
        where = f"manifest {descriptor.digest}"
        document = parse_index_or_manifest(data, where, descriptor.media_type)
        if isinstance(document, Index):
            data = await self._index(data, document)
        else:
            data = await self._image(descriptor, data)
        digest = Digest.of(data)
        await self._registry.put_manifest(
            self._name.path, tag or digest, _media_type(descriptor, data), data
        )
        return Pushed(digest, len(data))

    async def _index(self, data: bytes, index: Index) -> bytes:
        """Manifests that the store lacks must be there already."""
        said = json.loads(data)
        changed = False
        for entry, child in zip(said["manifests"], index.manifests, strict=True):
            if not self._store.layout.blob(child.digest).exists():
                try:
                    await self._registry.head_manifest(self._name.path, child.digest)
                except ImageNotFound:
                    raise ImageNotFound(
                        f"{self._name}: manifest {child.digest} ({child.platform or 'no platform'})"
                        " of its index is neither in the store nor there: pull --all-platforms"
                    ) from None
                continue
            pushed = await self.manifest(child, "")
            if pushed.digest != child.digest:
                entry["digest"], entry["size"], changed = pushed.digest, pushed.size, True
        return _json(said) if changed else data

    async def _image(self, descriptor: Descriptor, data: bytes) -> bytes:
        summary = self._summaries.of(descriptor.digest, descriptor.media_type)
        said = json.loads(data)
        entries = [*said["layers"], said["config"]]
        rows: list[LayerRow | None] = [*summary.layers, None]
        if summary.what != "image":
            rows = [None] * len(entries)
        async with trio.open_nursery() as nursery:
            for i, row in enumerate(rows):
                nursery.start_soon(self._entry, entries, i, row)
        said["layers"], said["config"] = entries[:-1], entries[-1]
        return data if said == json.loads(data) else _json(said)

    async def _entry(self, entries: list[dict[str, Any]], i: int, row: LayerRow | None) -> None:
        """One blob of a manifest; its descriptor becomes that of what is there."""
        entry = entries[i]
        kind, digest, size = str(entry["mediaType"]), Digest(entry["digest"]), int(entry["size"])
        descriptor = Descriptor(kind, digest, size)
        if digest not in self._done:
            task = self._progress.begin(digest.hex[:12], size)
            async with self._limit:
                self._done[digest] = await self._blob(descriptor, row, task)
        there = self._done[digest]
        if there.digest != digest:
            entries[i] = entry | {
                "mediaType": there.media_type, "digest": there.digest, "size": there.size,
            }  # fmt: skip

    async def _blob(self, descriptor: Descriptor, row: LayerRow | None, task: Task) -> Descriptor:
        compression = self._options.compression
        if row is None or compression is Compression.NONE or descriptor.media_type not in _PLAIN:
            await self._up(descriptor, row, task)
            return descriptor
        known = await self._known(descriptor, row)
        if known is not None:
            task.done("Layer already exists")
            return known
        task.say("Compressing")
        with Part(self._store.layout, None) as part:
            packed = await trio.to_thread.run_sync(self._pack, row, compression, part)
            packed = replace(packed, media_type=TAR_LAYER + _SUFFIX[compression])
            await self._send(packed, part.read, task)
        self._seen(row, packed)
        return packed

    async def _known(self, descriptor: Descriptor, row: LayerRow) -> Descriptor | None:
        """The compressed blob of a layer, where this repository has it from us."""
        media_type = TAR_LAYER + _SUFFIX[self._options.compression]
        for digest, size, repository in reversed(self._store.known(row.diff_id)):
            mine = repository == self._name.repository and digest != descriptor.digest
            if mine and size and await self._registry.has_blob(self._name.path, digest):
                return Descriptor(media_type, digest, size)
        return None

    def _pack(self, row: LayerRow, compression: Compression, part: Part) -> Descriptor:
        import hashlib

        packing, packed, plain = compressor(compression), hashlib.sha256(), hashlib.sha256()
        with plain_pieces(self._store, row) as pieces:
            for piece in pieces:
                plain.update(piece)
                out = packing.compress(piece)
                packed.update(out)
                part.append(out)
        out = packing.flush()
        packed.update(out)
        part.append(out)
        if "sha256:" + plain.hexdigest() != row.diff_id:
            raise VerificationFailed(f"layer {row.digest} of the store: not what it should be")
        return Descriptor("", Digest("sha256:" + packed.hexdigest()), part.size)

    async def _up(self, descriptor: Descriptor, row: LayerRow | None, task: Task) -> None:
        if await self._registry.has_blob(self._name.path, descriptor.digest):
            task.done("Layer already exists")
        elif row is not None and (source := await self._mounted(descriptor, row)):
            task.done(f"Mounted from {source}")
        else:
            path = self._store.layout.blob(descriptor.digest)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise MalformedImage(f"blob {descriptor.digest}: {error.strerror}") from error
            try:
                await self._send(descriptor, lambda at, n: os.pread(fd, n, at), task)
            finally:
                os.close(fd)
        if row is not None:
            self._seen(row, descriptor)

    async def _mounted(self, descriptor: Descriptor, row: LayerRow) -> str:
        """The repository of this registry that it was taken over from, "" where none has it."""
        here = self._name.domain + "/"
        for digest, _, repository in reversed(self._store.known(row.diff_id)):
            if digest == descriptor.digest and repository.startswith(here):
                source = repository.removeprefix(here)
                if source == self._name.path:
                    continue
                with suppress(ImgmountError):
                    if await self._registry.mount_blob(self._name.path, digest, source):
                        return source
        return ""

    async def _send(self, descriptor: Descriptor, read: Any, task: Task) -> None:
        task.say("Pushing")
        furthest = 0

        async def pieces(offset: int) -> AsyncGenerator[bytes, None]:
            nonlocal furthest
            while data := await trio.to_thread.run_sync(read, offset, PIECE):
                offset += len(data)
                if offset > furthest:
                    task.advance(offset - furthest)
                    furthest = offset
                yield data

        await self._registry.upload_blob(
            self._name.path, descriptor.digest, descriptor.size, pieces
        )
        task.done("Pushed")

    def _seen(self, row: LayerRow, descriptor: Descriptor) -> None:
        self._store.seen(row.diff_id, descriptor.digest, descriptor.size, self._name.repository)

    def _read(self, digest: Digest) -> bytes:
        try:
            return self._store.layout.blob(digest).read_bytes()
        except OSError as error:
            raise MalformedImage(f"manifest {digest} of the store: {error.strerror}") from error


def _media_type(descriptor: Descriptor, data: bytes) -> str:
    said = json.loads(data).get("mediaType")
    return str(said or descriptor.media_type or OCI + "manifest.v1+json")


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
