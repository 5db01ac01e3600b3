"""Law: nothing that a store says is believed: every blob, document and derived file is recomputed.

Each mismatch is one line that names the file or image, what it is and what it should be.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fusemount._native import FormatError, LayerIndex, Scanner
from fusemount.codec import MAGIC_BYTES, PIECE, Compression, decompress, detect
from fusemount.digest import Digest
from fusemount.errors import ImgmountError
from fusemount.image.model import Index
from fusemount.image.parse import parse_index_or_manifest
from fusemount.layer.decode import Beside, StretchReader, malformed, read_at
from fusemount.layer.kept import Cache
from fusemount.layer.progress import Progress
from fusemount.store import layerdb
from fusemount.store.catalog import Catalog
from fusemount.store.layout import translated
from fusemount.store.locks import locked
from fusemount.store.store import Store, repositories_json
from fusemount.store.summary import Summaries, Summary


@dataclass(frozen=True)
class _Layer:
    """What a layer's blob is."""

    diff_id: Digest
    archive_size: int
    index: LayerIndex


@dataclass
class Report:
    """mismatches: a line each.  unreached: files that nothing leads to; they harm nothing, and
    `prune` takes them."""

    images: int = 0
    blobs: int = 0
    mismatches: list[str] = field(default_factory=list)
    unreached: list[str] = field(default_factory=list)


def verify(store: Store, progress: Progress, only: Sequence[Digest] | None = None) -> Report:
    """only: manifests, and what they lead to; None: the whole store.

    Raises ImgmountError only where the store cannot be read at all.
    """
    if not store.layout.exists:
        return Report()
    with store.lease("verify", "the store") as lease:  # what is looked at stays meanwhile
        summaries = Summaries(store.layout, tolerant=True)
        seen = Catalog.read(store.layout)
        for entry in seen.entries:
            lease.hold(summaries.blobs(entry.digest, entry.descriptor.media_type))
        catalog = Catalog.read(store.layout)
        known = {entry.digest for entry in seen.entries}
        catalog = catalog.changed(
            e for e in catalog.entries if e.digest in known and (only is None or e.digest in only)
        )
        return _Check(store, progress).run(catalog, whole=only is None)


class _Check:
    def __init__(self, store: Store, progress: Progress) -> None:
        self._store, self._layout, self._progress = store, store.layout, progress
        self._report = Report()
        self._layers: dict[Digest, _Layer | None] = {}
        self._good: set[Digest] = set()
        self._reached: set[Digest] = set()
        self._chains: set[Digest] = set()

    def run(self, catalog: Catalog, *, whole: bool) -> Report:
        if whole:
            with translated(self._layout.blobs):
                self._blobs(sorted(os.listdir(self._layout.blobs)))
        else:
            summaries = Summaries(self._layout, tolerant=True)
            needed = {d.hex for e in catalog.entries for d in summaries.blobs(e.digest)}
            self._blobs(sorted(needed))
        for digest in dict.fromkeys(entry.digest for entry in catalog.entries):
            self._report.images += 1
            entry = next(e for e in catalog.entries if e.digest == digest)
            names = ", ".join(e.name.familiar for e in catalog.of(digest) if e.name) or digest[:19]
            if digest not in self._good:
                self._wrong(
                    f"{names}: its manifest {digest} is not there, or not what it should be"
                )
                continue
            size = self._layout.blob(digest).stat().st_size
            if size != entry.descriptor.size:
                self._wrong(f"{names}: {size} bytes, index.json says {entry.descriptor.size}")
            self._manifest(digest, entry.descriptor.media_type, names)
        if whole:
            self._derived()
        return self._report

    def _wrong(self, line: str) -> None:
        self._report.mismatches.append(line)

    # ---- blobs --------------------------------------------------------------------------------

    def _blobs(self, names: Sequence[str]) -> None:
        """One that is not there is missed by who needs it."""
        for name in names:
            self._report.blobs += 1
            path = self._layout.blobs / name
            try:
                claimed = Digest(f"sha256:{name}")
                found = self._hash(path)
            except FileNotFoundError:
                self._report.blobs -= 1
                continue
            except (ValueError, OSError, ImgmountError) as error:
                self._wrong(f"blobs/sha256/{name}: {error}")
                continue
            if found == claimed:
                self._good.add(claimed)
            else:
                self._wrong(f"blobs/sha256/{name}: digest is {found}")

    def _hash(self, path: Path) -> Digest:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            size = os.fstat(fd).st_size
            self._progress.start(f"hashing {path.name[:12]}", size)
            reader = StretchReader(fd, 0, size, path.name, self._progress.advance, True)
            return Digest(reader.digest())
        finally:
            self._progress.finish()
            os.close(fd)

    # ---- images -------------------------------------------------------------------------------

    def _manifest(self, digest: Digest, media_type: str, names: str) -> None:
        self._reached.add(digest)
        data = self._layout.blob(digest).read_bytes()
        try:
            document = parse_index_or_manifest(data, f"{names}: manifest {digest}", media_type)
            if isinstance(document, Index):
                for child in document.manifests:
                    if child.digest in self._good:
                        self._manifest(child.digest, child.media_type, names)
                return
            for descriptor in (document.config, *document.layers):
                self._reached.add(descriptor.digest)
                path = self._layout.blob(descriptor.digest)
                if descriptor.digest not in self._good:
                    self._wrong(f"{names}: blob {descriptor.digest} is not there, or not it")
                elif path.stat().st_size != descriptor.size:
                    self._wrong(f"{names}: blob {descriptor.digest}: {path.stat().st_size} bytes, "
                                f"the manifest says {descriptor.size}")  # fmt: skip
            if document.is_artifact or not self._good.issuperset(
                d.digest for d in (document.config, *document.layers)
            ):
                return
            self._image(Summaries(self._layout).found_out(digest, media_type), names)
        except ImgmountError as error:
            self._wrong(f"{names}: {error}")

    def _image(self, summary: Summary, names: str) -> None:
        for row, ident in zip(summary.layers, summary.chain, strict=True):
            layer = self._layer(row.digest, names)
            if layer is None:
                continue
            if layer.diff_id != row.diff_id:
                self._wrong(f"{names}: layer {row.digest}: diff_id is {layer.diff_id}, "
                            f"the config says {row.diff_id}")  # fmt: skip
            if row.archive_size not in (0, layer.archive_size):
                self._wrong(f"distribution/diffid-by-digest/sha256/{row.digest.hex}: size "
                            f"{row.archive_size}, it is {layer.archive_size}")  # fmt: skip
            self._chains.add(ident)
            self._entry(ident, layer)
        parents = [None, *summary.chain]
        for parent, ident in zip(parents, summary.chain, strict=False):
            said = layerdb.read_text(self._layout, ident, "parent")
            if (self._layout.layerdb / ident.hex).exists() and said != parent:
                self._wrong(f"layerdb/sha256/{ident.hex}/parent: {said}, it is {parent}")

    def _entry(self, ident: Digest, layer: _Layer) -> None:
        """What Docker's view says of a layer; where it has none, it is made when it is wanted."""
        for name, right in (("diff", layer.diff_id), ("size", str(layer.archive_size))):
            said = layerdb.read_text(self._layout, ident, name)
            if said is not None and said != right:
                self._wrong(f"layerdb/sha256/{ident.hex}/{name}: {said}, it is {right}")

    def _layer(self, digest: Digest, names: str) -> _Layer | None:
        if digest not in self._layers:
            try:
                self._layers[digest] = self._measure(digest)
            except ImgmountError as error:
                self._wrong(f"{names}: {error}")
                self._layers[digest] = None
            found = self._layers[digest]
            if found is not None:
                self._kept(digest, found)
        return self._layers[digest]

    def _measure(self, digest: Digest) -> _Layer:
        path = self._layout.blob(digest)
        description = f"layer {digest}"
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            compression = detect(read_at(fd, 0, min(MAGIC_BYTES, size), description))
            self._progress.start(f"unpacking {digest.hex[:12]}", size)
            reader = StretchReader(fd, 0, size, description, self._progress.advance, False)
            return _measured(reader, compression, description)
        finally:
            self._progress.finish()
            os.close(fd)

    # ---- what is derived ----------------------------------------------------------------------

    def _kept(self, digest: Digest, layer: _Layer) -> None:
        """The map, the kept index and the unpacked tar of a layer."""
        try:
            said = json.loads(self._layout.diff_id(digest).read_bytes())["diff_id"]
            if said != layer.diff_id:
                self._wrong(f"distribution/diffid-by-digest/sha256/{digest.hex}: {said}, "
                            f"it is {layer.diff_id}")  # fmt: skip
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._wrong(f"distribution/diffid-by-digest/sha256/{digest.hex}: {error}")
        cache = Cache(self._layout.cache)
        kept = cache.index(cache.index_path(layer.diff_id, ""))
        if kept is not None and _saved(kept) != _saved(layer.index):
            self._wrong(f"cache/index/{layer.diff_id.hex}.idx: not the index of that layer")
        tar = cache.layer_path(layer.diff_id)
        if tar.exists():
            found = self._hash(tar)
            if found != layer.diff_id:
                self._wrong(f"cache/layers/{tar.name}: digest is {found}")

    def _derived(self) -> None:
        with locked(self._layout, exclusive=True):
            self._repositories()
        for digest in sorted(self._good - self._reached):
            self._report.unreached.append(f"blobs/sha256/{digest.hex}")
        for ident in sorted(set(layerdb.chains(self._layout)) - self._chains):
            self._report.unreached.append(f"layerdb/sha256/{ident.hex}")
        with translated(self._layout.ingest):
            parts = sorted(os.listdir(self._layout.ingest))
        self._report.unreached += [f"ingest/{name}" for name in parts]

    def _repositories(self) -> None:
        """What another program has changed index.json after is no mismatch, and is made again."""
        catalog, path = Catalog.read(self._layout), self._layout.repositories
        right = json.loads(repositories_json(catalog, Summaries(self._layout, tolerant=True)))
        try:
            if json.loads(path.read_bytes()) == right:
                return
            if path.stat().st_mtime_ns < self._layout.index.stat().st_mtime_ns:
                self._store.derive(catalog)
            else:
                self._wrong("repositories.json: not what index.json says")
        except FileNotFoundError:
            self._store.derive(catalog)
        except (OSError, ValueError) as error:
            self._wrong(f"repositories.json: {error}")


def _measured(reader: StretchReader, compression: Compression, description: str) -> _Layer:
    sha256, scanner, size = hashlib.sha256(), Scanner(), 0

    def consume(piece: bytes) -> None:
        sha256.update(piece)
        scanner.feed(piece)

    try:
        with Beside(consume) as beside:
            for piece in decompress(reader.read, compression, description):
                size += len(piece)
                beside.put(piece)
        index = scanner.finish()
    except FormatError as error:
        raise malformed(description, error) from None
    return _Layer(Digest("sha256:" + sha256.hexdigest()), size, index)


def _saved(index: LayerIndex) -> list[bytes]:
    """Its bytes, in pieces."""
    fd = os.memfd_create("index", os.MFD_CLOEXEC)
    try:
        index.save(fd)
        size = os.fstat(fd).st_size
        return [os.pread(fd, PIECE, at) for at in range(0, size, PIECE)]
    finally:
        os.close(fd)
