"""Law: checks a store by computing every digest, document and derived file again.

Each mismatch is one line: the file or image, what it is, and what it should be.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import field, replace
from pathlib import Path

from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import ImgmountError
from fusemount.image.model import Index
from fusemount.image.parse import parse_index_or_manifest
from fusemount.layer.decode import StretchReader
from fusemount.layer.progress import Progress, reported
from fusemount.ownfile import open_file, read_file
from fusemount.store import children, layerdb
from fusemount.store.catalog import Catalog
from fusemount.store.collection import is_at_work
from fusemount.store.layout import OCI_LAYOUT, TMP, names_in, store_errors
from fusemount.store.locks import Lease, live_leases, locked
from fusemount.store.measuring import Measured, measure
from fusemount.store.repositories import repositories_json
from fusemount.store.store import Store
from fusemount.store.summary import LayerRow, Summaries, Summary
from fusemount.store.verifykept import check_kept


@dataclass
class Report:
    """What was checked and found.

    mismatches: one line each.  unreached: files that nothing leads to and no living process relies
    on; they harm nothing, and `prune` deletes them.
    """

    images: int = 0
    blobs: int = 0
    mismatches: list[str] = field(default_factory=list)
    unreached: list[str] = field(default_factory=list)


def verify(store: Store, progress: Progress, only: Sequence[Digest] | None = None) -> Report:
    """Checks the store; only: these manifests and all below them.

    Other processes may change the store meanwhile.  Images that it has at the start stay until the
    end.
    Raises ImgmountError only if the store cannot be read at all.
    """
    if not store.root.exists():
        return Report()
    with store_errors(store.root), ExitStack() as stack:
        try:
            lease = stack.enter_context(store.lease("verify", str(store.root)))
        except ImgmountError:  # it cannot be written to, so no process deletes a blob
            lease = None
        return _Check(store, progress).run(lease, only)


class _Check:
    def __init__(self, store: Store, progress: Progress) -> None:
        self._store, self._layout, self._progress = store, store.layout, progress
        self._report = Report()
        self._summaries = Summaries(store.layout, tolerant=True)
        self._layers: dict[Digest, Measured | None] = {}
        self._writable = False
        self._good: set[Digest] = set()
        self._said: set[str] = set()
        self._seen: set[tuple[Digest, str]] = set()
        self._reached: set[Digest] = set()
        self._chains: set[Digest] = set()

    def _locked(self, *, exclusive: bool) -> AbstractContextManager[None]:
        """The store's lock; none if the store cannot be written to, so does not change."""
        return locked(self._layout, exclusive=exclusive) if self._writable else nullcontext()

    def run(self, lease: Lease | None, only: Sequence[Digest] | None) -> Report:
        self._writable = lease is not None
        catalog = self._hold_images(lease)
        if only is None:
            self._marker()
            with store_errors(self._layout.blobs):
                self._blobs(names_in(self._layout.blobs))
        else:
            catalog = catalog.changed(e for e in catalog.entries if e.digest in only)
            needed = (self._summaries.blobs(digest) for digest in catalog.manifests)
            self._blobs(sorted({digest.hex for blobs in needed for digest in blobs}))
        for digest in catalog.manifests:
            self._report.images += 1
            names = ", ".join(e.name.familiar for e in catalog.of(digest) if e.name) or digest[:19]
            if digest not in self._good:
                self._wrong(
                    f"{names}: its manifest {digest} is not there, or not what it should be"
                )
                continue
            size = self._layout.blob_size(digest)
            for listed in {e.descriptor.size for e in catalog.of(digest)} - {size}:
                self._wrong(f"{names}: {size} bytes, index.json says {listed}")
            for kind in dict.fromkeys(e.descriptor.media_type for e in catalog.of(digest)):
                self._manifest(digest, kind, names)
        if only is None:
            self._derived(catalog)
        return self._report

    def _marker(self) -> None:
        """Checks oci-layout, which makes the directory an OCI layout."""
        try:
            found = json.loads(read_file(self._layout.root / "oci-layout"))
        except (OSError, ValueError) as error:
            found = error
        if found != json.loads(OCI_LAYOUT):
            self._wrong(f"oci-layout: {found}, it should be {OCI_LAYOUT.decode()}")

    def _hold_images(self, lease: Lease | None) -> Catalog:
        """The images; with a lease their blobs stay from here on."""
        while lease is not None:
            catalog = Catalog.read(self._layout)
            for digest, media_type in catalog.manifests.items():
                lease.hold(self._summaries.blobs(digest, media_type))
            if Catalog.read(self._layout).digest == catalog.digest:
                return catalog
        return Catalog.read(self._layout)

    def _wrong(self, line: str) -> None:
        if line not in self._said:  # several images share the blob
            self._said.add(line)
            self._report.mismatches.append(line)

    # ---- blobs --------------------------------------------------------------------------------

    def _blobs(self, names: Sequence[str]) -> None:
        for name in names:
            try:
                claimed = Digest(f"sha256:{name}")
            except ValueError:  # a temporary file
                continue
            self._report.blobs += 1
            path = self._layout.blobs / name
            try:
                found = self._hash(path)
            except FileNotFoundError:  # deleted just now; if an image needs it, _manifest() says so
                continue
            except (OSError, ImgmountError) as error:
                self._wrong(f"blobs/sha256/{name}: {error}")
                continue
            if found == claimed:
                self._good.add(claimed)
            else:
                self._wrong(f"blobs/sha256/{name}: digest is {found}")

    def _hash(self, path: Path) -> Digest:
        fd = open_file(path)
        try:
            size = os.fstat(fd).st_size
            with reported(self._progress, f"hashing {path.name[:12]}", size) as advance:
                return Digest(StretchReader(fd, 0, size, path.name, advance, True).digest())
        finally:
            os.close(fd)

    # ---- images -------------------------------------------------------------------------------

    def _manifest(self, digest: Digest, media_type: str, names: str) -> None:
        if (digest, media_type) in self._seen:
            return
        self._seen.add((digest, media_type))
        self._reached.add(digest)
        try:
            data = self._layout.document(digest)
            document = parse_index_or_manifest(data, f"{names}: manifest {digest}", media_type)
            own_type = json.loads(data).get("mediaType")
            if own_type and own_type != media_type:
                self._wrong(
                    f"{names}: manifest {digest} is {own_type}, it is listed as {media_type}"
                )
            if isinstance(document, Index):
                self._children(digest, document, names)
                return
            for descriptor in (document.config, *document.layers):
                self._reached.add(descriptor.digest)
                if descriptor.digest not in self._good:
                    self._wrong(f"{names}: blob {descriptor.digest} is not there, or not it")
                elif (size := self._layout.blob_size(descriptor.digest)) != descriptor.size:
                    self._wrong(f"{names}: blob {descriptor.digest}: {size} bytes, "
                                f"the manifest says {descriptor.size}")  # fmt: skip
            if document.is_artifact or not self._good.issuperset(
                d.digest for d in (document.config, *document.layers)
            ):
                return
            summary = self._summaries.computed(digest, media_type)
            remembered = self._summaries.of(digest, media_type)
            original = remembered.original
            if original is None or not self._layout.has_blob(original):  # nothing proves it now
                summary = replace(summary, original=original)
            if not _same(summary, remembered):
                self._wrong(f"cache/summaries.json: {digest}: not what the image is")
            self._image(summary, names)
        except ImgmountError as error:
            self._wrong(f"{names}: {error}")

    def _children(self, digest: Digest, index: Index, names: str) -> None:
        """Checks the children that came with the index and are in the store."""
        kept = self._layout.children(digest)
        if os.path.lexists(kept) and children.known(self._layout, digest) is None:
            self._wrong(f"{kept.relative_to(self._layout.root)}: damaged")
        own = set(children.own(self._layout, digest, (c.digest for c in index.manifests)))
        there = [child for child in index.manifests if child.digest in own]
        if index.manifests and not there:
            self._wrong(f"{names}: none of the manifests that it lists is there")
        for child in there:
            if child.digest not in self._good:
                self._wrong(f"{names}: manifest {child.digest} is not what it should be")
                continue
            size = self._layout.blob_size(child.digest)
            if size != child.size:
                self._wrong(f"{names}: manifest {child.digest}: {size} bytes, its index says "
                            f"{child.size}")  # fmt: skip
            self._manifest(child.digest, child.media_type, names)

    def _image(self, summary: Summary, names: str) -> None:
        parents = [None, *summary.chain]
        for row, parent, ident in zip(summary.layers, parents, summary.chain, strict=False):
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
            self._entry(ident, parent, layer)

    def _entry(self, ident: Digest, parent: Digest | None, layer: Measured) -> None:
        """Checks a layer's directory in layerdb; images of other programs have none."""
        row = LayerRow(layer.digest, layer.size, layer.diff_id, layer.archive_size)
        with self._locked(exclusive=False):
            if not (self._layout.layerdb / ident.hex).exists():
                return
            recorded = {
                name: layerdb.read_text(self._layout, ident, name) for name in layerdb.FILES
            }
        right = layerdb.entry(row, parent)
        for name in ("diff", "size", "parent"):
            if recorded[name] != right.get(name):
                self._wrong(f"layerdb/sha256/{ident.hex}/{name}: {recorded[name]}, it is "
                            f"{right.get(name)}")  # fmt: skip
        if not self._leads_to(ident, recorded["cache-id"], layer):
            self._wrong(f"layerdb/sha256/{ident.hex}/cache-id: {recorded['cache-id']}: no blob of "
                        f"{layer.diff_id}")  # fmt: skip

    def _leads_to(self, ident: Digest, cache_id: str | None, layer: Measured) -> bool:
        """Whether the entry leads to a blob of the layer.

        The blob may be of another image that is removed meanwhile.  Then the entry leads to a new
        blob, which is checked instead.
        """
        while cache_id is not None:
            if self._is_blob_of(cache_id, layer):
                return True
            recorded = layerdb.read_text(self._layout, ident, "cache-id")
            if recorded is None:
                return True  # the entry was removed just now
            if recorded == cache_id:
                return False
            cache_id = recorded
        return False

    def _is_blob_of(self, cache_id: str | None, layer: Measured) -> bool:
        """Whether cache_id is the digest of a blob of this layer.

        It may be another blob than this image's, if another image brought the layer first,
        compressed in another way.
        """
        if cache_id == layer.digest.hex:
            return True
        try:
            digest = Digest(f"sha256:{cache_id}")
        except ValueError:
            return False
        try:  # if it came after the start, it was not measured
            known = self._layers.get(digest) or measure(self._layout, digest)
        except ImgmountError:
            return False
        return (known.digest, known.diff_id) == (digest, layer.diff_id)

    def _layer(self, digest: Digest, names: str) -> Measured | None:
        if digest not in self._layers:
            try:
                self._layers[digest] = self._measure(digest)
            except ImgmountError as error:
                self._wrong(f"{names}: {error}")
                self._layers[digest] = None
            found = self._layers[digest]
            if found is not None:
                check_kept(self._layout, found, self._hash, self._wrong)
        return self._layers[digest]

    def _measure(self, digest: Digest) -> Measured:
        size = self._layout.blob_size(digest)
        with reported(self._progress, f"unpacking {digest.hex[:12]}", size) as advance:
            return measure(self._layout, digest, advance)

    # ---- derived files ------------------------------------------------------------------------

    def _derived(self, catalog: Catalog) -> None:
        try:
            document = json.loads(read_file(self._layout.repositories))
            made_from = Digest(document["Index"])
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._wrong(f"repositories.json: {error}")
        else:  # if it was made from an older index.json, the next change replaces it
            right = json.loads(repositories_json(catalog, self._summaries))
            if made_from == catalog.digest and document != right:
                self._wrong("repositories.json: not what index.json says")
        with self._locked(exclusive=True), store_errors(self._layout.root):
            self._report.unreached += self._unreached()

    def _unreached(self) -> list[str]:
        layout = self._layout
        leases = live_leases(layout) if self._writable else ()
        held = {digest.hex for h in leases for digest in h.digests}
        reached = {digest.hex for digest in self._reached} | held
        for digest in Catalog.read(layout).manifests:  # with images that came meanwhile
            reached |= {d.hex for d in self._summaries.blobs(digest)}
            for _, summary in self._summaries.reached(digest):
                self._chains |= set(summary.chain)
        chains = {ident.hex for ident in self._chains}
        found = []
        for directory, known in (
            (layout.blobs, reached), (layout.diff_ids, reached), (layout.indexes, reached),
            (layout.layerdb, chains),
        ):  # fmt: skip
            where = directory.relative_to(layout.root)
            found += [f"{where}/{name}" for name in sorted(set(names_in(directory)) - known)]
        parts = names_in(layout.ingest)
        found += [f"ingest/{n}" for n in parts if not is_at_work(layout.ingest / n)]
        for directory in (layout.root, layout.cache):
            found += sorted(n for n in names_in(directory) if n.startswith(TMP))
        return found


def _same(found: Summary, remembered: Summary) -> bool:
    """Whether a computed summary is the remembered one.

    If the map of diff_ids has lost a layer, only the remembered summary has the size of its tar.
    """
    rows = zip(found.layers, remembered.layers, strict=False)
    layers = tuple(
        a if a.archive_size else a._replace(archive_size=b.archive_size) for a, b in rows
    )
    return len(found.layers) == len(layers) and replace(found, layers=layers) == remembered
