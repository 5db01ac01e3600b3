"""Law: remembers for each manifest which blobs it needs and what `ls` shows of it.

cache/summaries.json has an object for each manifest, by its digest.  A missing one is computed from
the blobs and added.  Manifests that are not in the store any more are left out when the file is
written.  A manifest never changes, so its summary is never stale.  Only which manifests of an index
came with it (children.py) is looked up each time.  Removals delete what the summaries list, so a
checksum guards the file (record.py).

    {"version":6,"sha256":"<of the next line>"}
    {"configs":{"sha256:<config>":[created,platform,labels],...},"manifests":{"sha256:...":{...},...}}

What a config says is there once, because thousands of manifests may have one config.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import cached_property
from typing import Any, NamedTuple

from fusemount.dataclass import dataclass
from fusemount.digest import Digest, chain_ids
from fusemount.errors import ImgmountError, MalformedImage
from fusemount.image.model import ORIGINAL, Descriptor, Index, Manifest
from fusemount.image.parse import parse_config, parse_index_or_manifest
from fusemount.record import read_sealed, sealed
from fusemount.store import children, diffids
from fusemount.store.counterpart import Counterparts
from fusemount.store.layout import Layout, replace_file, store_errors

_VERSION, _KEY = 6, "summaries"
_OF_CONFIG = ("created", "platform", "labels")
_UNKNOWN = "unknown/unknown"  # the platform of BuildKit's attestations, which are no images


class LayerRow(NamedTuple):
    """A layer.  digest, size: of the blob.  archive_size: of its tar, 0 if it is not known."""

    digest: Digest
    size: int
    diff_id: Digest
    archive_size: int


@dataclass(frozen=True)
class Summary:
    """What a manifest or index contains.

    what: "image", "index", "artifact" or "damaged".
    config: the image ID; for an index the ID of its only image in the store, None if it has more.
    created, platform: for an index, the newest time, and all platforms.  layers: lowest first.
    children: the manifests of an index that came with it and are in the store (children.py).
    blobs: config and layers of an artifact, which have no diff_ids; of a damaged image those that
    are known.  error: why a damaged image cannot be read.
    original: the manifest whose counterpart this one is (counterpart.py); it may be missing.
    """

    what: str
    config: Digest | None = None
    created: str = ""
    platform: str = ""
    labels: dict[str, str] | None = None
    layers: tuple[LayerRow, ...] = ()
    children: tuple[Digest, ...] = ()
    blobs: tuple[Digest, ...] = ()
    error: str = ""
    original: Digest | None = None

    @property
    def size(self) -> int:
        """Bytes of the layers' tars; of a blob where the tar's size is not known."""
        return sum(layer.archive_size or layer.size for layer in self.layers)

    @cached_property
    def chain(self) -> tuple[Digest, ...]:
        return chain_ids([layer.diff_id for layer in self.layers])


class _Config(NamedTuple):
    """What is needed of a config, once for all manifests that have it."""

    created: str
    platform: str
    labels: dict[str, str]
    diff_ids: tuple[Digest, ...] = ()


class Summaries:
    """The summaries of a store's manifests.

    A damaged image raises MalformedImage or ImgmountError; with tolerant it has a summary that says
    why in `error`.  kept: without it, all are computed from the blobs.
    """

    def __init__(self, layout: Layout, *, tolerant: bool = False, kept: bool = True) -> None:
        self._layout = layout
        self._tolerant = tolerant
        self._read_once: dict[Digest, Summary] = {}
        self._new = False
        self._rows: dict[tuple[Any, ...], LayerRow] = {}  # images share layers
        self._configs: dict[Digest, _Config] = {}
        self._diff_ids: dict[Digest, diffids.Known] = {}
        self._counterparts = Counterparts(layout)
        data = read_sealed(layout.summaries, _VERSION, _KEY) if kept else None
        document: dict[str, dict[str, Any]] = json.loads(data or b"{}")
        self._known = document.get("manifests", {})
        self._known_configs = document.get("configs", {})

    def adopt(self, other: Summaries) -> None:
        """Takes over what another object has computed."""
        self._read_once |= other._read_once
        self._known |= other._known
        self._known_configs |= other._known_configs
        self._new |= other._new

    def of(self, digest: Digest, media_type: str = "") -> Summary:
        return self._as_it_is(digest, self._bare(digest, media_type))

    def _bare(self, digest: Digest, media_type: str) -> Summary:
        """The summary as remembered or computed; an index has all children that it lists."""
        summary = self._read_once.get(digest)
        if summary is not None:
            return summary
        known = self._known.get(digest)
        if known is not None:
            with suppress(TypeError, ValueError, KeyError):
                self._read_once[digest] = self._from_json(known)
                return self._read_once[digest]
        try:
            summary = self.computed(digest, media_type)
        except ImgmountError as error:
            if not self._tolerant:
                raise
            return Summary("damaged", blobs=self._listed(digest, media_type), error=str(error))
        if all(row.archive_size or row.digest in self._diff_ids for row in summary.layers):
            self._remember(digest, summary)  # else a size may be known later
        return summary

    def _remember(self, digest: Digest, summary: Summary) -> None:
        self._read_once[digest] = summary
        known = {field.name: getattr(summary, field.name) for field in fields(summary)}
        if summary.config is not None:
            self._known_configs[summary.config] = [known[name] for name in _OF_CONFIG]
        self._known[digest] = known | dict.fromkeys(_OF_CONFIG)
        self._new = True

    def _as_it_is(self, digest: Digest, summary: Summary) -> Summary:
        """The summary, for an index with only those children that came with it.

        Another pull may bring more of them.
        """
        if not summary.children:
            return summary
        there = self._there(digest, summary)
        below = [s for _, s in self._walk([(child, "") for child in there])]
        images = [s for s in below if s.what == "image" and s.platform != _UNKNOWN]
        only = images[0] if len(images) == 1 else Summary("index")
        return Summary(
            "index",
            only.config,
            max((s.created for s in images), default=""),
            ", ".join(dict.fromkeys(s.platform for s in images)),
            only.labels,
            children=there,
            original=summary.original,
        )

    def _listed(self, digest: Digest, media_type: str) -> tuple[Digest, ...]:
        """The blobs that a damaged image needs at least, so that they are not deleted."""
        try:
            data = self._read(digest, digest)
            document = parse_index_or_manifest(data, digest, media_type)
        except ImgmountError:
            return ()
        if isinstance(document, Index):
            return tuple(child.digest for child in document.manifests)
        return (document.config.digest, *(layer.digest for layer in document.layers))

    def reached(self, digest: Digest, media_type: str = "") -> Iterator[tuple[Digest, Summary]]:
        """The manifest and, for an index, all manifests that came with it, each once.

        The summary of an index says only that it is one.
        """
        return self._walk([(digest, media_type)])

    def _there(self, digest: Digest, summary: Summary) -> tuple[Digest, ...]:
        return children.own(self._layout, digest, summary.children) if summary.children else ()

    def _walk(self, first: Sequence[tuple[Digest, str]]) -> Iterator[tuple[Digest, Summary]]:
        """Bare summaries, each once: several nested indexes may lead to one manifest."""
        seen, waiting = {digest for digest, _ in first}, list(reversed(first))
        while waiting:
            each, media_type = waiting.pop()
            summary = self._bare(each, media_type)
            yield each, summary
            new = [child for child in self._there(each, summary) if child not in seen]
            seen.update(new)
            waiting += [(child, "") for child in reversed(new)]

    def blobs(self, digest: Digest, media_type: str = "") -> set[Digest]:
        """All blobs that a manifest needs, itself included."""
        found: set[Digest] = set()
        for manifest, summary in self.reached(digest, media_type):
            found |= {manifest, *summary.blobs, *(layer.digest for layer in summary.layers)}
            if summary.original is not None and self._layout.has_blob(summary.original):
                found.add(summary.original)
            if summary.config is not None:
                found.add(summary.config)
        return found

    def save(self, digests: Iterable[Digest]) -> None:
        """Writes the summaries of these manifests and all below them.

        If the store cannot be written to, they are computed again the next time.
        """
        wanted = {reached for digest in digests for reached, _ in self.reached(digest)}
        known = {digest: self._known[digest] for digest in wanted if digest in self._known}
        if not self._new and len(known) == len(self._known):
            return
        used = {summary["config"] for summary in known.values()}
        configs = {digest: c for digest, c in self._known_configs.items() if digest in used}
        document = {"configs": configs, "manifests": known}
        rest = json.dumps(document, separators=(",", ":")).encode()
        with suppress(OSError):
            replace_file(self._layout.summaries, sealed(rest, _VERSION, _KEY), durable=False)

    # ---- from the blobs ---------------------------------------------------------------------

    def computed(self, digest: Digest, media_type: str) -> Summary:
        """The summary from the blobs, whatever is remembered; an index has all that it lists."""
        where = f"manifest {digest} of the store {self._layout.root}"
        document = parse_index_or_manifest(self._read(digest, where), where, media_type)
        if isinstance(document, Index):
            listed = dict.fromkeys(d.digest for d in document.manifests)
            return Summary(
                "index", children=tuple(listed), original=self._original(digest, document)
            )
        if document.is_artifact:
            blobs = (document.config.digest, *(layer.digest for layer in document.layers))
            return Summary("artifact", blobs=blobs)
        return self._image(digest, document, where)

    def _original(self, digest: Digest, document: Manifest | Index) -> Digest | None:
        return self._counterparts.original(digest) if ORIGINAL in document.annotations else None

    def _image(self, digest: Digest, manifest: Manifest, where: str) -> Summary:
        config = self._config(manifest.config.digest, where)
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
            "image", manifest.config.digest, config.created, config.platform, config.labels,
            tuple(rows), original=self._original(digest, manifest),
        )  # fmt: skip

    def _config(self, digest: Digest, where: str) -> _Config:
        if digest not in self._configs:
            named = f"config {digest}"
            config = parse_config(self._read(digest, f"{where}: {named}"), named)
            labels = dict(config.container.labels)
            self._configs[digest] = _Config(
                config.created, str(config.platform), labels, config.diff_ids
            )
        return self._configs[digest]

    def _row(self, layer: Descriptor, diff_id: Digest) -> LayerRow:
        known = self._diff_ids.get(layer.digest)
        if known is None and (known := diffids.known(self._layout, layer.digest)) is not None:
            self._diff_ids[layer.digest] = known
        if known is not None:
            return LayerRow(layer.digest, layer.size, diff_id, known.size)
        archive_size = layer.size if layer.digest == diff_id else 0
        return LayerRow(layer.digest, layer.size, diff_id, archive_size)

    def _read(self, digest: Digest, where: str) -> bytes:
        try:
            with store_errors(self._layout.blob(digest)):
                return self._layout.document(digest)
        except ImgmountError as error:
            raise MalformedImage(f"{where}: {error}") from error

    # ---- from what is remembered ------------------------------------------------------------

    def _from_json(self, known: dict[str, Any]) -> Summary:
        """Raises TypeError, ValueError, KeyError if another program wrote it."""
        config = Digest(known["config"]) if known["config"] else None
        created, platform, labels = self._known_configs[config] if config else ("", "", None)
        return Summary(
            known["what"], config, created, platform, labels,
            tuple(map(self._remembered, known["layers"])),
            tuple(map(Digest, known["children"])), tuple(map(Digest, known["blobs"])),
            original=Digest(known["original"]) if known["original"] else None,
        )  # fmt: skip

    def _remembered(self, fields: list[Any]) -> LayerRow:
        key = tuple(fields)
        row = self._rows.get(key)
        if row is None:
            digest, size, diff_id, archive_size = key
            row = LayerRow(Digest(digest), int(size), Digest(diff_id), int(archive_size))
            self._rows[key] = row
        return row
