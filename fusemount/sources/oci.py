"""Law: reads the images in an OCI image layout (image-layout.md), in a directory or a tar.

index.json may list further indexes.  The name of an index is the name of all images in it.
Manifests that are missing are passed over, because a save of one platform keeps the whole index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import ImageNotFound, MalformedImage
from fusemount.image.fields import DOCUMENT_BYTES_MAX, shown
from fusemount.image.model import (
    CONFIG_TYPES,
    CONTAINERD_NAME,
    Descriptor,
    Index,
    Manifest,
)
from fusemount.image.parse import (
    MANIFESTS_MAX,
    NESTING_MAX,
    parse_config,
    parse_index,
    parse_index_or_manifest,
)
from fusemount.settings import ImageOptions, Platform
from fusemount.sources.image import Candidate, FoundLayer, Image, image_of, verified
from fusemount.sources.medium import Medium, read_document

Own = Callable[[Digest, Sequence[Descriptor]], Sequence[Descriptor]]


def candidates(medium: Medium, options: ImageOptions) -> list[Candidate]:
    """The layout's images.  Raises MalformedImage, VerificationFailed; ImageNotFound if index.json
    is missing, or everything that it lists."""
    data = read_document(medium, "index.json", DOCUMENT_BYTES_MAX)
    if data is None:
        raise ImageNotFound(f"{medium.label}: no OCI layout: there is no index.json in it")
    index = parse_index(data, f"{medium.label}: index.json")
    return candidates_of(medium, index.manifests, options)


def candidates_of(
    medium: Medium,
    manifests: Sequence[Descriptor],
    options: ImageOptions,
    own: Own = lambda _index, listed: listed,
) -> list[Candidate]:
    """The images of only these manifests and indexes; raises what candidates() raises.

    own: chooses of an index's manifests.
    """
    reader = _Reader(medium, options.verify, own)
    found = [
        candidate
        for descriptor in manifests
        for candidate in reader.expand(descriptor, _names(descriptor), NESTING_MAX)
    ]
    if not found and reader.missing:
        there = ", ".join(reader.missing[:10])
        raise ImageNotFound(f"{medium.label}: the manifests it lists are not in it: {there}")
    if not found and reader.artifacts:
        there = ", ".join(reader.artifacts[:10])
        raise ImageNotFound(f"{medium.label}: no image in it, only artifacts: {there}")
    return found


def _names(descriptor: Descriptor) -> tuple[str, ...]:
    """The full name that containerd writes; it writes only the tag into the other annotation."""
    full = descriptor.annotations.get(CONTAINERD_NAME)
    return (full,) if full else descriptor.names


def blob_name(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex}"


@dataclass
class _Reader:
    """Walks the indexes of one layout.  missing, artifacts: what it passed over, for messages."""

    medium: Medium
    verify: bool
    own: Own
    visited: int = 0

    def __post_init__(self) -> None:
        self.missing: list[str] = []
        self.artifacts: list[str] = []
        self.documents: dict[tuple[Digest, str], Index | Manifest | None] = {}
        self.platforms: dict[Digest, Platform] = {}

    def document(self, descriptor: Descriptor) -> tuple[bytes, str] | None:
        name = blob_name(descriptor.digest)
        data = read_document(self.medium, name, DOCUMENT_BYTES_MAX)
        if data is None:
            return None
        where = f"{self.medium.label}: {name}"
        verified(data, descriptor.digest, where, self.verify)
        return data, where

    def expand(self, descriptor: Descriptor, names: tuple[str, ...], depth: int) -> list[Candidate]:
        self.visited += 1
        if depth == 0 or self.visited > MANIFESTS_MAX:
            raise MalformedImage(
                f"{self.medium.label}: indexes nested over {NESTING_MAX} deep "
                f"or over {MANIFESTS_MAX} manifests"
            )
        if descriptor.is_attestation:
            return []
        document = self.listed(descriptor)
        if document is None:
            self.missing.append(
                f"{descriptor.digest} ({shown(str(descriptor.platform or 'any platform'))})"
            )
            return []
        if isinstance(document, Index):
            return [
                candidate
                for inner in self.own(descriptor.digest, document.manifests)
                for candidate in self.expand(inner, names or _names(inner), depth - 1)
            ]
        if document.is_artifact:
            kind = document.artifact_type or document.config.media_type
            self.artifacts.append(f"{descriptor.digest} ({shown(kind)})")
            return []
        return [self.candidate(descriptor, document, names)]

    def listed(self, descriptor: Descriptor) -> Index | Manifest | None:
        """The manifest or index, which is read once; None if it is missing."""
        key = (descriptor.digest, descriptor.media_type)
        if key not in self.documents:
            found = self.document(descriptor)
            parsed = parse_index_or_manifest(*found, descriptor.media_type) if found else None
            self.documents[key] = parsed
        return self.documents[key]

    def candidate(
        self, descriptor: Descriptor, manifest: Manifest, names: tuple[str, ...]
    ) -> Candidate:
        def platform() -> Platform | None:
            if descriptor.platform is not None and descriptor.platform.os:
                return descriptor.platform
            digest = manifest.config.digest
            if digest not in self.platforms:
                self.platforms[digest] = parse_config(*self.config(manifest)).platform
            return self.platforms[digest]

        def open_it(names: tuple[str, ...]) -> Image:
            data, _ = self.config(manifest)
            layers = [self.layer(layer) for layer in manifest.layers]
            return image_of(
                self.medium,
                data,
                Digest.of(data),
                layers,
                manifest_digest=descriptor.digest,
                names=names,
            )

        return Candidate(
            key=descriptor.digest,
            names=names,
            ids=(descriptor.digest, manifest.config.digest),
            platform=platform,
            open=open_it,
        )

    def config(self, manifest: Manifest) -> tuple[bytes, str]:
        found = self.document(manifest.config)
        if found is None:
            raise MalformedImage(
                f"{self.medium.label}: config {manifest.config.digest}: "
                "listed, but not in the image"
            )
        kind = manifest.config.media_type
        if kind not in CONFIG_TYPES and b'"rootfs"' not in found[0]:
            raise MalformedImage(
                f"{self.medium.label}: its config is of type {shown(kind) or 'unknown'}: "
                "not a container image"
            )
        return found

    def layer(self, descriptor: Descriptor) -> FoundLayer:
        name = blob_name(descriptor.digest)
        where = f"{self.medium.label}: layer {descriptor.digest}"
        if "encrypted" in descriptor.media_type:
            raise MalformedImage(f"{where}: encrypted ({shown(descriptor.media_type)})")
        stretch = self.medium.find(name)
        if stretch is None and descriptor.is_foreign:
            urls = f", it is to be had from {shown(descriptor.urls[0])}" if descriptor.urls else ""
            raise MalformedImage(f"{where}: a foreign layer, which is not in the image{urls}")
        if stretch is None:
            raise MalformedImage(f"{where}: listed, but not in the image")
        if self.verify and stretch.size != descriptor.size:
            raise MalformedImage(
                f"{where}: {stretch.size} bytes long, the manifest says {descriptor.size}"
            )
        return FoundLayer(name, stretch, descriptor.digest, descriptor.media_type)
