"""Law: pushes an image of a store to a registry: missing blobs, then manifests, the tag last.

A layer that is uncompressed in the store is compressed for the registry, as docker and podman do.
The manifest then has another digest in the registry.  The same layer always becomes the same blob.
The store remembers that blob, so that it is not made again for a registry that has it.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import field, replace
from typing import Any

import trio

from fusemount.codec import compressor
from fusemount.compression import Compression
from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import ImageNotFound, ImgmountError, MalformedImage, VerificationFailed
from fusemount.image.fields import parse_json
from fusemount.image.model import DOCKER_LAYER, OCI, ORIGINAL, TAR_LAYER, Descriptor, Index
from fusemount.image.parse import parse_index_or_manifest
from fusemount.imagename import ImageName
from fusemount.registry.client import Registry
from fusemount.sources.writing import compact_json
from fusemount.store import Lease, RegistryBlob, Store, StoredImage, children
from fusemount.store.counterpart import Counterparts
from fusemount.store.intake import Part
from fusemount.store.summary import LayerRow, Summaries
from fusemount.transfer.pull import RegistryAccess
from fusemount.transfer.reports import Task, Transfers
from fusemount.transfer.running import run
from fusemount.transfer.save import plain_pieces

JOBS = 3
PIECE = 1 << 20


def _packed_type(media_type: str, compression: Compression) -> str | None:
    """The media type of an uncompressed layer after it is compressed; None if there is none.

    Docker's media types have none for zstd.
    """
    if media_type == TAR_LAYER and compression.media_suffix:
        return TAR_LAYER + compression.media_suffix
    if media_type == DOCKER_LAYER and compression is Compression.GZIP:
        return DOCKER_LAYER + ".gzip"
    return None


@dataclass(frozen=True)
class PushOptions:
    """compression: of layers that are uncompressed in the store; NONE: they stay so."""

    access: RegistryAccess = field(default_factory=RegistryAccess)
    compression: Compression = Compression.GZIP


@dataclass(frozen=True)
class Pushed:
    """The manifest that the registry has now under that name.  size: bytes."""

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
        self._counterparts = Counterparts(store.layout)
        self._done: dict[Digest, Descriptor] = {}
        self._pushed: dict[Digest, Pushed] = {}

    async def manifest(self, descriptor: Descriptor, tag: str) -> Pushed:
        """Pushes a manifest with all below it, under its digest if tag is ""."""
        if descriptor.digest not in self._pushed or tag:
            self._pushed[descriptor.digest] = await self._manifest(descriptor, tag)
        return self._pushed[descriptor.digest]

    async def _manifest(self, descriptor: Descriptor, tag: str) -> Pushed:
        data = self._read(descriptor.digest)
        where = f"manifest {descriptor.digest}"
        document = parse_index_or_manifest(data, where, descriptor.media_type)
        if ORIGINAL in document.annotations:
            descriptor, data = self._original(descriptor, data)
            document = parse_index_or_manifest(data, where, descriptor.media_type)
        before = data
        if isinstance(document, Index):
            data = await self._index(descriptor.digest, data, document)
        else:
            data = await self._image(descriptor, data)
        if data is not before:  # readers refuse a document beyond a limit
            parse_index_or_manifest(data, f"{where} for the registry", descriptor.media_type)
        digest = Digest.of(data)
        await self._registry.put_manifest(
            self._name.path, tag or digest, _media_type(descriptor, data), data
        )
        return Pushed(digest, len(data))

    async def _index(self, digest: Digest, data: bytes, index: Index) -> bytes:
        """Pushes the manifests of an index.  Returns the index as the registry gets it.

        The registry must have the manifests that did not come with the index (store/children.py).
        An attestation that is missing in both is left out.
        """
        document = parse_json(data, f"manifest {digest}")
        own = set(children.own(self._store.layout, digest, (d.digest for d in index.manifests)))
        left, changed = [], False
        for entry, child in zip(document["manifests"], index.manifests, strict=True):
            if child.digest in own:
                pushed = await self.manifest(child, "")
                if pushed.digest != child.digest:
                    entry["digest"], entry["size"], changed = pushed.digest, pushed.size, True
            elif not await self._has_manifest(child):
                if not child.is_attestation:
                    raise ImageNotFound(
                        f"{self._name}: manifest {child.digest} ({child.platform or 'no platform'})"
                        " of its index did not come with it, and is not there: pull --all-platforms"
                    )
                changed = True
                continue
            left.append(entry)
        return compact_json(document | {"manifests": left}) if changed else data

    def _original(self, descriptor: Descriptor, data: bytes) -> tuple[Descriptor, bytes]:
        """The manifest whose counterpart this one is (ociform.py); the same if there is none."""
        digest = self._counterparts.original(descriptor.digest)
        if digest is None:
            return descriptor, data
        data = self._read(digest)
        return Descriptor(_own_type(data), digest, len(data)), data

    async def _has_manifest(self, descriptor: Descriptor) -> bool:
        try:
            await self._registry.head_manifest(self._name.path, descriptor.digest)
        except ImageNotFound:
            return False
        return True

    async def _image(self, descriptor: Descriptor, data: bytes) -> bytes:
        summary = self._summaries.of(descriptor.digest, descriptor.media_type)
        document = parse_json(data, f"manifest {descriptor.digest}")
        entries = [*document["layers"], document["config"]]
        rows: list[LayerRow | None] = [None] * len(entries)
        if summary.what == "image":
            rows = [*summary.layers, None]
        found = {
            Digest(entry["digest"]): (_descriptor(entry), row)
            for entry, row in zip(entries, rows, strict=True)
        }
        async with trio.open_nursery() as nursery:
            for digest in found.keys() - self._done.keys():
                nursery.start_soon(self._bring, *found[digest])
        entries = [self._as_it_is_there(entry) for entry in entries]
        changed = [*document["layers"], document["config"]] != entries
        document["layers"], document["config"] = entries[:-1], entries[-1]
        return compact_json(document) if changed else data

    def _as_it_is_there(self, entry: dict[str, Any]) -> dict[str, Any]:
        there = self._done[Digest(entry["digest"])]
        if there.digest == entry["digest"]:
            return entry
        packed = {"mediaType": there.media_type, "digest": there.digest, "size": there.size}
        return entry | packed

    async def _bring(self, descriptor: Descriptor, row: LayerRow | None) -> None:
        """Pushes one blob, and remembers what it is in the registry."""
        task = self._progress.begin(descriptor.digest.hex[:12], descriptor.size)
        async with self._limit:
            self._done[descriptor.digest] = await self._blob(descriptor, row, task)

    async def _blob(self, descriptor: Descriptor, row: LayerRow | None, task: Task) -> Descriptor:
        compression = self._options.compression
        media_type = _packed_type(descriptor.media_type, compression)
        if row is None or media_type is None:
            await self._send_unchanged(descriptor, row, task)
            return descriptor
        packed = await self._known_packed(media_type, row, task)
        if packed is None:
            task.say("Compressing")
            with Part(self._store.layout, None) as part:
                packed = await trio.to_thread.run_sync(self._pack, row, compression, part)
                packed = replace(packed, media_type=media_type)
                await self._send(packed, part.read, task)
        self._seen(row, packed)
        return packed

    async def _known_packed(self, media_type: str, row: LayerRow, task: Task) -> Descriptor | None:
        """The compressed blob that we pushed to this registry for the layer; None if it is gone."""
        for seen in reversed(self._store.known_blobs(row.diff_id)):
            if seen.media_type == media_type and await self._is_in_registry(seen, task):
                return Descriptor(media_type, seen.digest, seen.size)
        return None

    async def _is_in_registry(self, seen: RegistryBlob, task: Task) -> bool:
        if seen.repository == self._name.repository:
            if await self._registry.has_blob(self._name.path, seen.digest):
                task.done("Layer already exists")
                return True
        elif source := await self._mounted(seen):
            task.done(f"Mounted from {source}")
            return True
        return False

    def _pack(self, row: LayerRow, compression: Compression, part: Part) -> Descriptor:
        import hashlib

        packing, packed, plain = compressor(compression), hashlib.sha256(), hashlib.sha256()
        with plain_pieces(self._store, row) as pieces:
            for piece in pieces:
                trio.from_thread.check_cancelled()
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

    async def _send_unchanged(
        self, descriptor: Descriptor, row: LayerRow | None, task: Task
    ) -> None:
        if await self._registry.has_blob(self._name.path, descriptor.digest):
            task.done("Layer already exists")
        elif row is not None and (source := await self._mounted_anywhere(descriptor.digest, row)):
            task.done(f"Mounted from {source}")
        else:
            try:
                fd = self._store.layout.open_blob(descriptor.digest)
            except OSError as error:
                raise MalformedImage(f"blob {descriptor.digest}: {error.strerror}") from error
            try:
                await self._send(descriptor, lambda at, n: os.pread(fd, n, at), task)
            finally:
                os.close(fd)
        if row is not None:
            self._seen(row, descriptor)

    async def _mounted(self, seen: RegistryBlob) -> str:
        """Mounts the blob from another repository of this registry.  Returns the repository's name,
        or "" if the registry refuses."""
        domain, _, path = seen.repository.partition("/")
        if domain == self._name.domain and path != self._name.path:
            with suppress(ImgmountError):
                if await self._registry.mount_blob(self._name.path, seen.digest, path):
                    return path
        return ""

    async def _mounted_anywhere(self, digest: Digest, row: LayerRow) -> str:
        for seen in reversed(self._store.known_blobs(row.diff_id)):
            if seen.digest == digest and (source := await self._mounted(seen)):
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
        repository, media_type = self._name.repository, descriptor.media_type
        self._store.remember_blob(
            row.diff_id, RegistryBlob(descriptor.digest, descriptor.size, repository, media_type)
        )

    def _read(self, digest: Digest) -> bytes:
        try:
            return self._store.layout.document(digest)
        except OSError as error:
            raise MalformedImage(f"manifest {digest} of the store: {error.strerror}") from error


def _descriptor(entry: dict[str, Any]) -> Descriptor:
    return Descriptor(str(entry.get("mediaType", "")), Digest(entry["digest"]), int(entry["size"]))


def _media_type(descriptor: Descriptor, data: bytes) -> str:
    return _own_type(data) or descriptor.media_type or OCI + "manifest.v1+json"


def _own_type(data: bytes) -> str:
    """The media type that a document gives itself, "" if none."""
    return str(json.loads(data).get("mediaType") or "")
