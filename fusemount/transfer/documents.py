"""Law: reads the manifests, indexes and configs of images that come in, each once, within limits.

Documents lead to one another by digest, so they form a graph.  Whoever makes an image decides how
often its lists name one document, so no pass may follow all paths of the graph: each walk visits a
document once, and what it follows is counted.  So all work grows with the bytes of the documents,
and not with the product of numbers in them.  What a list says of a document (its size, its media
type) is compared every time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import MalformedImage, VerificationFailed
from fusemount.image.fields import DOCUMENTS_BYTES_MAX, shown
from fusemount.image.model import ATTESTATION_NOTE, CONFIG_TYPES, Descriptor, Index, Manifest
from fusemount.image.parse import NESTING_MAX, parse_config, parse_index_or_manifest
from fusemount.sources.image import verified

MENTIONS_MAX = 1 << 17  # entries of lists that all walks of one archive or pull follow together


@dataclass(frozen=True)
class Document:
    """A manifest or index.  content: without annotations, which may need much more memory than
    their text."""

    digest: Digest
    data: bytes
    content: Index | Manifest


@dataclass(frozen=True)
class _Config:
    """What is needed of a config."""

    diff_ids: tuple[Digest, ...]
    size: int
    has_rootfs: bool


class Documents:
    """The documents of one archive or pull.

    label: its name in messages.  read: a manifest or index, perhaps not verified; None if it is
    missing.  All methods raise MalformedImage beyond a limit, VerificationFailed if a document is
    not what a list says, and what read raises.
    """

    def __init__(self, label: str, read: Callable[[Descriptor], bytes | None]) -> None:
        self._label, self._read = label, read
        self._bytes = self._mentions = 0
        self._found: dict[Digest, Document | None] = {}
        self._types: dict[Digest, str] = {}
        self._configs: dict[Digest, _Config] = {}

    def get(self, descriptor: Descriptor, data: bytes | None = None) -> Document | None:
        """None if it is missing.  data: its bytes, if the caller has them, and no list names it."""
        where = f"{self._label}: manifest {descriptor.digest}"
        if descriptor.digest not in self._found:
            read = self._read(descriptor) if data is None else data
            found = None if read is None else self._parsed(descriptor, read, where)
            self._found[descriptor.digest] = found
        found = self._found[descriptor.digest]
        if found is not None and data is None:
            self._check(descriptor, found, where)
        return found

    def _parsed(self, descriptor: Descriptor, data: bytes, where: str) -> Document:
        self.count(len(data), where)
        verified(data, descriptor.digest, where, True)
        content = parse_index_or_manifest(data, where, descriptor.media_type)
        return Document(descriptor.digest, data, _bare(content))

    def _check(self, descriptor: Descriptor, found: Document, where: str) -> None:
        if descriptor.size != len(found.data):
            raise VerificationFailed(
                f"{where}: {len(found.data)} bytes, it is listed with {descriptor.size}"
            )
        kind = found.content.media_type or self._types.setdefault(
            descriptor.digest, descriptor.media_type
        )
        if descriptor.media_type not in ("", kind):
            raise VerificationFailed(
                f"{where}: is {shown(kind) or 'of no type'}, it is listed as "
                f"{shown(descriptor.media_type)}"
            )

    def walk(
        self,
        top: Descriptor,
        below: Callable[[Document], Iterable[Descriptor]],
        data: bytes | None = None,
    ) -> dict[Digest, Document]:
        """The document and all below it that are there, each once, innermost first.

        below: which manifests of an index count.  An index without any is left out.  data: bytes of
        the top, if the caller has them.
        """
        found: dict[Digest, Document] = {}
        heights: dict[Digest, int] = {}  # 1: a manifest; 0: nothing of it is there

        def visit(descriptor: Descriptor, depth: int, data: bytes | None = None) -> int:
            self.follow(1)
            document = self.get(descriptor, data)
            height = heights.get(descriptor.digest)
            if height is None and depth > 0:
                height = 0 if document is None else 1
                if document is not None and isinstance(document.content, Index):
                    under = [visit(child, depth - 1) for child in below(document)]
                    height = 1 + max(under) if any(under) else 0
                heights[descriptor.digest] = height
                if document is not None and height:
                    found[descriptor.digest] = document
            if height is None or height > depth:
                raise MalformedImage(
                    f"{self._label}: manifest {descriptor.digest}: indexes nested over "
                    f"{NESTING_MAX} deep"
                )
            return height

        visit(top, NESTING_MAX, data)
        return found

    def diff_ids(
        self,
        manifest: Manifest,
        read: Callable[[Descriptor], bytes | None],
        keep: Callable[[bytes], object],
    ) -> Sequence[Digest]:
        """Of the manifest's layers, as its config claims.

        read, keep: called once for each config; keep() gets its verified bytes.  Raises
        MalformedImage for an artifact.
        """
        descriptor = manifest.config
        where = f"{self._label}: config {descriptor.digest}"
        config = self._configs.get(descriptor.digest)
        if config is None:
            data = read(descriptor)
            if data is None:
                raise MalformedImage(f"{where}: listed, but not there")
            self.count(len(data), where)
            verified(data, descriptor.digest, where, True)
            keep(data)
            self._check_kind(manifest, b'"rootfs"' in data, where)
            found = parse_config(data, where).diff_ids
            config = _Config(found, len(data), b'"rootfs"' in data)
            self._configs[descriptor.digest] = config
        self._check_kind(manifest, config.has_rootfs, where)
        if descriptor.size != config.size:
            raise VerificationFailed(
                f"{where}: {config.size} bytes, it is listed with {descriptor.size}"
            )
        if len(config.diff_ids) != len(manifest.layers):
            raise MalformedImage(
                f"{where}: it lists {len(config.diff_ids)} diff_ids, the manifest "
                f"{len(manifest.layers)} layers"
            )
        self.follow(len(manifest.layers))
        return config.diff_ids

    def _check_kind(self, manifest: Manifest, has_rootfs: bool, where: str) -> None:
        kind = manifest.config.media_type
        if manifest.is_artifact or (kind not in CONFIG_TYPES and not has_rootfs):
            raise MalformedImage(f"{where}: of type {shown(kind) or 'unknown'}: no container image")

    def count(self, size: int, where: str) -> None:
        """Counts the bytes of one more document."""
        self._bytes += size
        if self._bytes > DOCUMENTS_BYTES_MAX:
            raise MalformedImage(
                f"{where}: with it more than {DOCUMENTS_BYTES_MAX} bytes of manifests and configs, "
                "the limit"
            )

    def follow(self, entries: int) -> None:
        """Counts entries of lists before they are followed."""
        self._mentions += entries
        if self._mentions > MENTIONS_MAX:
            raise MalformedImage(
                f"{self._label}: its indexes and manifests list more than {MENTIONS_MAX} manifests "
                "and layers, the limit"
            )


def layer_claims(
    label: str, listed: Iterable[tuple[Descriptor, Digest]]
) -> list[tuple[Descriptor, Digest]]:
    """Each layer once, with its diff_id.  listed: as all manifests list them.

    Raises VerificationFailed if two of them claim different things of one blob: only one claim is
    compared with its bytes.
    """
    found: dict[Digest, tuple[Descriptor, Digest]] = {}
    for layer, diff_id in listed:
        where = f"{label}: layer {layer.digest}"
        if "encrypted" in layer.media_type:
            raise MalformedImage(f"{where}: encrypted ({shown(layer.media_type)})")
        first, claimed = found.setdefault(layer.digest, (layer, diff_id))
        if claimed != diff_id:
            raise VerificationFailed(
                f"{where}: listed with the diff_id {claimed} and with {diff_id}"
            )
        if first.size != layer.size:
            raise VerificationFailed(
                f"{where}: listed with {first.size} bytes and with {layer.size}"
            )
    return list(found.values())


def _bare(content: Index | Manifest) -> Index | Manifest:
    if isinstance(content, Index):
        manifests = tuple(_without_notes(child) for child in content.manifests)
        return replace(content, manifests=manifests, annotations={})
    layers = tuple(_without_notes(layer) for layer in content.layers)
    return replace(content, config=_without_notes(content.config), layers=layers, annotations={})


def _without_notes(descriptor: Descriptor) -> Descriptor:
    """Without annotations, except those that make it an attestation."""
    if not descriptor.annotations:
        return descriptor
    kept = {k: v for k, v in descriptor.annotations.items() if k == ATTESTATION_NOTE}
    return replace(descriptor, annotations=kept)
