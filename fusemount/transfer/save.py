"""Law: writes images of a store as one archive or layout; the same images give the same bytes.

docker-archive    manifest.json, <config hex>.json, <diff_id hex>.tar, uncompressed, for docker
                  from 1.10 on
oci-archive, oci  blobs unchanged, with all platforms of an index that the store has; the archive
                  has a manifest.json, too, for docker before 25
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from fusemount.budget import Budget
from fusemount.codec import PIECE, decompress
from fusemount.digest import Digest
from fusemount.errors import (
    ImageNotFound,
    MalformedImage,
    PlatformMismatch,
    UsageError,
    VerificationFailed,
)
from fusemount.image.fields import object_of, parse_json
from fusemount.image.model import CONTAINERD_NAME, OCI, REF_NAME, Descriptor, Index
from fusemount.image.parse import parse_docker_manifests, parse_index, parse_index_or_manifest
from fusemount.image.platforms import parse_platform, rank
from fusemount.imagename import ImageName, parse_name
from fusemount.layer.cache import Cache
from fusemount.layer.decode import StretchReader, compression_at
from fusemount.settings import UNPACK_LIMIT, Platform, UnpackLimit
from fusemount.sources.output import ArchiveOutput, LayoutOutput, Output, StreamOutput, blob_path
from fusemount.sources.writing import Target, compact_json
from fusemount.store import Store, StoredImage, children
from fusemount.store.catalog import Entry
from fusemount.store.summary import LayerRow, Summaries, Summary
from fusemount.transfer.reports import Transfers

Chosen = tuple[StoredImage, tuple[ImageName, ...]]  # an image, and its names in the archive


def save(
    store: Store,
    images: Sequence[Chosen],
    target: Target,
    progress: Transfers,
) -> None:
    """Writes images with these names.  Raises ImageNotFound, MalformedImage, VerificationFailed,
    NoSpace, ImgmountError; the target is unchanged then."""
    layout = LayoutOutput(target.path) if target.form == "oci" else None
    _save(store, images, target.form, layout or ArchiveOutput(target.path), progress)


def save_stream(
    store: Store, images: Sequence[Chosen], form: str, fd: int, progress: Transfers
) -> None:
    """Writes an archive to a pipe; nothing is written before the archive is complete."""
    _save(store, images, form, StreamOutput(store.layout.ingest, fd), progress)


def _save(
    store: Store, images: Sequence[Chosen], form: str, output: Output, progress: Transfers
) -> None:
    try:
        with store.reading("save", ", ".join(image.digest for image, _ in images)) as lease:
            saving = _Saving(store, output, progress)
            for image, _ in images:
                store.hold(lease, image)
            if form == "docker-archive":
                saving.docker(images)
            else:
                saving.oci(images, output if isinstance(output, LayoutOutput) else None)
        output.finish()
    finally:
        output.leave()


def chosen(store: Store, texts: Sequence[str], platform: Platform | None = None) -> list[Chosen]:
    """The images that `save` is asked for: NAME:TAG; NAME with all its tags; an ID without names.

    platform: only this one of several platforms.  Raises ImageNotFound, PlatformMismatch.
    """
    found: dict[Digest, Chosen] = {}
    for text in texts:
        for image, names in _meant(store, text):
            image = image if platform is None else _for_platform(store, image, platform)
            before = found[image.digest][1] if image.digest in found else ()
            found[image.digest] = (image, tuple(dict.fromkeys((*before, *names))))
    return list(found.values())


def _meant(store: Store, text: str) -> list[Chosen]:
    try:
        name = parse_name(text, store.default_domain)
    except UsageError:
        return [(store.find(text), ())]
    if name.tag is None and name.digest is None:
        own = [
            (image, tuple(n for n in image.names if n.repository == name.repository))
            for image in store.images()
        ]
        if any(names for _, names in own):
            return [(image, names) for image, names in own if names]
    image = store.find(text)
    wanted = {name.tagged(), replace(name.tagged(), domain="localhost",
                                     path=name.path.removeprefix("library/"))}  # fmt: skip
    return [(image, tuple(each for each in image.names if each in wanted))]


def _for_platform(store: Store, image: StoredImage, platform: Platform) -> StoredImage:
    """The image for that platform; chosen from the store's images of an index."""
    summaries = Summaries(store.layout)
    ranked = []
    for digest, summary in summaries.reached(image.digest, image.descriptor.media_type):
        if summary.what == "image":
            order = rank(parse_platform(summary.platform), platform)
            ranked += [(order, digest, summary)] if order is not None else []
    if not ranked:
        there = image.summary.platform or "none"
        raise PlatformMismatch(
            f"{image.image_id[:19]}: no image for {platform} in the store, only for {there}"
        )
    _, digest, summary = min(ranked, key=lambda each: each[0])
    if digest == image.digest:
        return image
    size = store.layout.blob_size(digest)
    descriptor = Descriptor(
        _media_type(store, digest), digest, size, platform=parse_platform(summary.platform)
    )
    return StoredImage(digest, (Entry(descriptor),), summary)


def _media_type(store: Store, digest: Digest) -> str:
    data = store.layout.document(digest)
    document = parse_index_or_manifest(data, f"manifest {digest}")
    return getattr(document, "media_type", "") or OCI + "manifest.v1+json"


class _Saving:
    def __init__(self, store: Store, output: Output, progress: Transfers) -> None:
        self._store, self._output, self._progress = store, output, progress
        self.summaries = Summaries(store.layout)
        self._copied: set[Digest] = set()

    # ---- docker-archive -----------------------------------------------------------------------

    def docker(self, images: Sequence[Chosen]) -> None:
        found = [(self._only_image(image), names) for image, names in images]
        listed = _docker_manifests(
            found, lambda ident: f"{ident.hex}.json", lambda layer: f"{layer.diff_id.hex}.tar"
        )
        written: set[Digest] = set()
        configs: set[Digest] = set()
        for summary, _ in found:
            assert summary.config is not None
            for layer in summary.layers:
                if layer.diff_id not in written:
                    written.add(layer.diff_id)
                    self._plain(layer)
            if summary.config not in configs:
                configs.add(summary.config)
                config = self._document(summary.config)
                self._output.document(f"{summary.config.hex}.json", config)
        self._output.document("manifest.json", listed)

    def _only_image(self, image: StoredImage) -> Summary:
        """The image itself; of an index its only image in the store.  Else ImageNotFound."""
        media_type = image.descriptor.media_type
        found = [
            s for _, s in self.summaries.reached(image.digest, media_type) if s.what == "image"
        ]
        if len(found) != 1:
            raise ImageNotFound(
                f"{image.digest[:19]}: {len(found)} images; a docker-archive holds one platform: "
                "choose it with --platform, or save as oci-archive"
            )
        return found[0]

    def _plain(self, layer: LayerRow) -> None:
        """Writes a layer uncompressed, however it is compressed in the store."""
        task = self._progress.begin(layer.diff_id.hex[:12], layer.archive_size)
        with plain_pieces(self._store, layer) as pieces:
            with self._output.blob(lambda digest: f"{digest.hex}.tar") as blob:
                for piece in pieces:
                    blob.write(piece)
                    task.advance(len(piece))
                if blob.digest != layer.diff_id:
                    raise VerificationFailed(
                        f"layer {layer.digest}: diff_id is {blob.digest}, not {layer.diff_id}"
                    )
        task.done("Saved")

    # ---- OCI ----------------------------------------------------------------------------------

    def oci(
        self,
        images: Sequence[Chosen],
        layout: LayoutOutput | None,
    ) -> None:
        entries = [
            Entry(image.descriptor, name).document()
            for image, names in images for name in names or (None,)
        ]  # fmt: skip
        _index(layout, entries)  # a limit of the readers is found before anything is written
        docker: list[tuple[Summary, Sequence[ImageName]]] = []
        for image, names in images:
            reached = self.summaries.reached(image.digest, image.descriptor.media_type)
            found = [summary for _, summary in reached if summary.what == "image"]
            if len(found) == 1:  # of several, an older docker would load any
                docker.append((found[0], names))
        listed = _docker_manifests(docker, blob_path, lambda layer: blob_path(layer.digest))
        for image, _ in images:
            self._copy_manifest(image.descriptor)
        self._output.document("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        if layout is None and docker:
            self._output.document("manifest.json", listed)
        self._output.document("index.json", _index(layout, entries))

    def _copy_manifest(self, descriptor: Descriptor) -> None:
        """Copies all blobs below a manifest, then the manifest; each once."""
        if descriptor.digest in self._copied:
            return
        data = self._document(descriptor.digest)
        where = f"manifest {descriptor.digest}"
        document = parse_index_or_manifest(data, where, descriptor.media_type)
        if isinstance(document, Index):
            listed = (child.digest for child in document.manifests)
            own = set(children.own(self._store.layout, descriptor.digest, listed))
            for child in document.manifests:
                if child.digest in own:
                    self._copy_manifest(child)
        else:
            for blob in (*document.layers, document.config):
                self._copy(blob)
        self._copy(descriptor)

    def _document(self, digest: Digest) -> bytes:
        try:
            data = self._store.layout.document(digest)
        except OSError as error:
            raise MalformedImage(f"blob {digest}: {error.strerror}") from error
        if Digest.of(data) != digest:
            raise VerificationFailed(f"blob {digest} of the store: digest is {Digest.of(data)}")
        return data

    def _copy(self, descriptor: Descriptor) -> None:
        if descriptor.digest in self._copied:
            return
        self._copied.add(descriptor.digest)
        path = self._store.layout.blob(descriptor.digest)
        task = self._progress.begin(descriptor.digest.hex[:12], descriptor.size)
        try:
            fd = self._store.layout.open_blob(descriptor.digest)
        except OSError as error:
            raise MalformedImage(f"blob {descriptor.digest}: {error.strerror}") from error
        try:
            size = os.fstat(fd).st_size
            reader = StretchReader(fd, 0, size, str(path), task.advance, False)
            with self._output.blob() as blob:
                while piece := reader.read(PIECE):
                    blob.write(piece)
                if blob.digest != descriptor.digest:
                    raise VerificationFailed(
                        f"blob {descriptor.digest} of the store: digest is {blob.digest}"
                    )
        finally:
            os.close(fd)
        task.done("Saved")


def _docker_manifests(
    images: Sequence[tuple[Summary, Sequence[ImageName]]],
    config_name: Callable[[Digest], str],
    layer_name: Callable[[LayerRow], str],
) -> bytes:
    """manifest.json; raises MalformedImage if its readers would refuse it."""
    found: dict[Digest, tuple[Summary, dict[str, None]]] = {}
    for summary, names in images:
        assert summary.config is not None
        _, tags = found.setdefault(summary.config, (summary, {}))
        tags |= dict.fromkeys(name.tagged().familiar for name in names)
    data = compact_json([
        {"Config": config_name(ident), "RepoTags": list(tags),
         "Layers": [layer_name(layer) for layer in summary.layers]}
        for ident, (summary, tags) in found.items()
    ])  # fmt: skip
    parse_docker_manifests(data, "the new manifest.json")
    return data


def _index(layout: LayoutOutput | None, entries: Sequence[dict[str, Any]]) -> bytes:
    """index.json with these entries.  A layout's other images stay, unless their name is taken.

    Raises MalformedImage if its readers would refuse it.
    """
    written = {_key(entry): entry for entry in entries}  # each once
    manifests = list(written.values())
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI + "index.v1+json"}
    there = layout.existing_document("index.json") if layout is not None else None
    others: list[Any] = []
    if there is not None:
        parse_index(there, "index.json of the layout that is there")
        document = dict(object_of(parse_json(there, "index.json"), "index.json").document)
        taken = {name for entry in manifests for name in _called(entry)}
        others = [
            entry for entry in document.get("manifests") or []
            if _key(entry) not in written and not taken & _called(entry)
        ]  # fmt: skip
    data = compact_json(document | {"manifests": [*others, *manifests]})
    parse_index(data, "the new index.json")
    return data


def _key(entry: dict[str, Any]) -> str:
    return json.dumps(entry, sort_keys=True)


def _called(entry: dict[str, Any]) -> set[str]:
    annotations = entry.get("annotations") or {}
    return {annotations[key] for key in (CONTAINERD_NAME, REF_NAME) if key in annotations}


@contextmanager
def plain_pieces(store: Store, layer: LayerRow) -> Iterator[Iterator[bytes]]:
    """The tar of a layer: from the cache, else from its blob.  The caller compares its digest."""
    cache = Cache(store.layout.cache)
    try:
        fd = cache.open_tar(cache.layer_path(layer.diff_id), layer.archive_size)
        if fd < 0:
            fd = store.layout.open_blob(layer.digest)
    except OSError as error:
        raise MalformedImage(f"blob {layer.digest}: {error.strerror}") from error
    try:
        size = os.fstat(fd).st_size
        description = f"layer {layer.digest}"
        reader = StretchReader(fd, 0, size, description, lambda _: None, False)
        compression = compression_at(fd, 0, size, description)
        known = layer.archive_size  # as measured when it was taken in
        budget = Budget(UnpackLimit(known, 0) if known else UNPACK_LIMIT)
        yield decompress(reader.read, compression, description, budget, size)
    finally:
        os.close(fd)
