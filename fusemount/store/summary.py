"""Law: what a store's manifests lead to and what is shown of them, known without opening each.

cache/summaries.json has an object a manifest, by its digest; what is not in it is found out from
the blobs and added, what no longer is in the store falls out when it is written.  Manifests never
change, so it is never stale: only which manifests of an index the store has is asked each time.
What is taken away is told from it, so that a digest of its own guards it: damaged, it is not read.

    {"version":2,"sha256":"<of the next line>"}
    {"sha256:<manifest>":{...},...}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from fusemount.digest import Digest, chain_ids
from fusemount.errors import ImgmountError, MalformedImage
from fusemount.image.fields import DOCUMENT_BYTES_MAX
from fusemount.image.model import Descriptor, Index, Manifest
from fusemount.image.parse import parse_config, parse_index_or_manifest
from fusemount.store.layout import Layout, replace_file, translated

_VERSION = 2


@dataclass(frozen=True)
class LayerRow:
    """digest, size: of the blob.  archive_size: of its tar, 0 where that is not known."""

    digest: Digest
    size: int
    diff_id: Digest
    archive_size: int


@dataclass(frozen=True)
class Summary:
    """What a manifest is.

    config: its image ID.  layers: lowest first.  children: of an index, the manifests in it that
    the store has.  what: "image", "index" or "artifact"; an artifact's config and layers are blobs
    alone, without diff_ids; "damaged": it cannot be read, which trouble says.
    """

    what: str
    config: Digest | None = None
    created: str = ""
    platform: str = ""
    labels: dict[str, str] | None = None
    layers: tuple[LayerRow, ...] = ()
    children: tuple[Digest, ...] = ()
    blobs: tuple[Digest, ...] = ()
    trouble: str = ""

    @property
    def size(self) -> int:
        """Of its layers' tars: what it takes when it is seen."""
        return sum(layer.archive_size or layer.size for layer in self.layers)

    @cached_property
    def chain(self) -> tuple[Digest, ...]:
        return chain_ids([layer.diff_id for layer in self.layers])


class Summaries:
    """Raises MalformedImage, ImgmountError for what is damaged; tolerant: says it in `trouble`."""

    def __init__(self, layout: Layout, *, tolerant: bool = False) -> None:
        self._layout = layout
        self._tolerant = tolerant
        self._known: dict[str, Any] = {}
        self._read_once: dict[Digest, Summary] = {}
        self._new = False
        with suppress(OSError, ValueError, TypeError):
            head, _, rest = layout.summaries.read_bytes().partition(b"\n")
            if json.loads(head) == _head(rest):
                self._known = json.loads(rest)

    def of(self, digest: Digest, media_type: str = "") -> Summary:
        summary = self._read_once.get(digest)
        if summary is not None:
            return self._as_it_is(summary)
        known = self._known.get(digest)
        if known is not None:
            with suppress(TypeError, ValueError, KeyError):
                self._read_once[digest] = _from_json(known)
                return self._as_it_is(self._read_once[digest])
        try:
            summary = self.found_out(digest, media_type)
        except ImgmountError as error:
            if not self._tolerant:
                raise
            return Summary("damaged", trouble=str(error))
        if all(layer.archive_size for layer in summary.layers):  # else it may be known tomorrow
            self._known[digest], self._read_once[digest] = asdict(summary), summary
            self._new = True
        return self._as_it_is(summary)

    def _as_it_is(self, summary: Summary) -> Summary:
        """With those children only that the store has; more may come with another pull."""
        if not summary.children:
            return summary
        there = tuple(d for d in summary.children if self._layout.blob(d).exists())
        return replace(summary, children=there)

    def reached(self, digest: Digest, media_type: str = "") -> Iterator[tuple[Digest, Summary]]:
        """A manifest and, of an index, all that are in it, each once."""
        seen, waiting = {digest}, [(digest, media_type)]
        while waiting:
            each, media_type = waiting.pop()
            summary = self.of(each, media_type)
            yield each, summary
            new = [child for child in summary.children if child not in seen]
            seen.update(new)
            waiting += [(child, "") for child in reversed(new)]

    def blobs(self, digest: Digest, media_type: str = "") -> set[Digest]:
        """All that it needs, itself included."""
        found: set[Digest] = set()
        for manifest, summary in self.reached(digest, media_type):
            found |= {manifest, *summary.blobs, *(layer.digest for layer in summary.layers)}
            if summary.config is not None:
                found.add(summary.config)
        return found

    def save(self, digests: Iterable[Digest]) -> None:
        """Keeps what was found out of these and what they reach; a store that takes nothing will
        be asked again."""
        wanted = {reached for digest in digests for reached, _ in self.reached(digest)}
        known = {digest: self._known[digest] for digest in wanted if digest in self._known}
        if not self._new and len(known) == len(self._known):
            return
        rest = json.dumps(known, separators=(",", ":")).encode()
        data = json.dumps(_head(rest), separators=(",", ":")).encode() + b"\n" + rest
        with suppress(OSError):
            replace_file(self._layout.summaries, data, durable=False)

    # ---- from the blobs ---------------------------------------------------------------------

    def found_out(self, digest: Digest, media_type: str) -> Summary:
        """From the blobs, whatever is remembered; of an index all that it lists."""
        where = f"manifest {digest} of the store {self._layout.root}"
        document = parse_index_or_manifest(self._read(digest, where), where, media_type)
        if isinstance(document, Index):
            listed = dict.fromkeys(d.digest for d in document.manifests)
            return Summary("index", children=tuple(listed))
        if document.is_artifact:
            blobs = (document.config.digest, *(layer.digest for layer in document.layers))
            return Summary("artifact", blobs=blobs)
        return self._image(document, where)

    def _image(self, manifest: Manifest, where: str) -> Summary:
        named = f"config {manifest.config.digest}"
        config = parse_config(self._read(manifest.config.digest, f"{where}: {named}"), named)
        if len(config.diff_ids) != len(manifest.layers):
            raise MalformedImage(
                f"{where}: the config lists {len(config.diff_ids)} diff_ids, "
                f"the manifest {len(manifest.layers)} layers"
            )
        rows = [
            self._row(layer, diff_id)
            for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True)
        ]
        return Summary(
            "image", manifest.config.digest, config.created, str(config.platform),
            dict(config.container.labels), tuple(rows),
        )  # fmt: skip

    def _row(self, layer: Descriptor, diff_id: Digest) -> LayerRow:
        archive_size = layer.size if layer.digest == diff_id else 0
        with suppress(OSError, ValueError, KeyError, TypeError):
            archive_size = int(json.loads(self._layout.diff_id(layer.digest).read_bytes())["size"])
        return LayerRow(layer.digest, layer.size, diff_id, archive_size)

    def _read(self, digest: Digest, where: str) -> bytes:
        try:
            with translated(self._layout.blob(digest)):
                data = self._layout.blob(digest).read_bytes()
        except ImgmountError as error:
            raise MalformedImage(f"{where}: {error}") from error
        if len(data) > DOCUMENT_BYTES_MAX:
            raise MalformedImage(f"{where}: {len(data)} bytes of JSON")
        return data


def _head(rest: bytes) -> dict[str, Any]:
    return {"version": _VERSION, "sha256": hashlib.sha256(rest).hexdigest()}


def _from_json(known: dict[str, Any]) -> Summary:
    layers = tuple(
        LayerRow(Digest(r["digest"]), r["size"], Digest(r["diff_id"]), r["archive_size"])
        for r in known["layers"]
    )
    return Summary(
        known["what"], Digest(known["config"]) if known["config"] else None, known["created"],
        known["platform"], known["labels"], layers, tuple(map(Digest, known["children"])),
        tuple(map(Digest, known["blobs"])),
    )  # fmt: skip
