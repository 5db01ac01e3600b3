"""Law: brings a manifest and all blobs below it into a store, several layers at a time.

The caller adds the image when everything has come.  Until then no name leads to any of its blobs.
A BlobSource gives documents as bytes and layers as streams.  It is called from several threads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from threading import Event
from typing import Protocol

from fusemount.budget import Budget
from fusemount.codec import PIECE
from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import ImgmountError, MalformedImage, VerificationFailed
from fusemount.image.model import Descriptor, Index, Manifest
from fusemount.store import Lease, Store, children, diffids
from fusemount.store.collection import drop_part
from fusemount.store.intake import Claims, Part, Read, put_document, take_layer
from fusemount.store.measuring import learn
from fusemount.transfer.documents import Document, Documents, layer_claims
from fusemount.transfer.reports import Task, Transfers

JOBS = 3  # layers at a time, as in docker


class BlobSource(Protocol):
    """Where an image comes from.  label: its name in messages.

    is_local: its blobs cost no download, so they are read even where the store has them.  Otherwise
    the maker of an image could name the digest of a blob of another image, and a push of the first
    image would publish this blob.
    """

    @property
    def label(self) -> str: ...

    @property
    def is_local(self) -> bool: ...

    def own(self, index: Digest, listed: Sequence[Descriptor]) -> Sequence[Descriptor]:
        """Which of the manifests that an index lists are the source's to give."""
        ...

    def document(self, descriptor: Descriptor) -> bytes | None:
        """A manifest, index or config, perhaps not verified; None if it is missing."""
        ...

    def measured(self, descriptor: Descriptor) -> tuple[str, int] | None:
        """As layer.measured(); None if the source knows no size before all bytes have come."""
        ...

    def layer(self, descriptor: Descriptor, offset: int) -> AbstractContextManager[Read]:
        """The layer's bytes from offset on: read(n) gives at most n, b"" at the end."""
        ...

    def stop(self) -> None:
        """Every read() ends soon, with Stopped if it waits for bytes."""
        ...


@dataclass(frozen=True)
class Brought:
    """A manifest that is in the store with all its blobs, and is not an image of it yet.

    images: the number of manifests, without indexes.
    """

    descriptor: Descriptor
    images: int


class Stopped(ImgmountError):
    """The work was stopped because another layer failed, whose error says why, or by a signal."""


class Bringing:
    """Brings one image.

    suits: which manifests of an index are brought; others, and missing ones, are left out.
    budget: what all layers together may unpack to; None: the store's limit.
    Raises what the source raises, VerificationFailed, MalformedImage, NoSpace.
    """

    def __init__(
        self,
        store: Store,
        lease: Lease,
        source: BlobSource,
        progress: Transfers,
        suits: Callable[[Descriptor], bool] = lambda _: True,
        budget: Budget | None = None,
        documents: Documents | None = None,
    ) -> None:
        self._store, self._lease, self._source = store, lease, source
        self._progress, self._suits = progress, suits
        self._budget = budget or Budget(store.unpack)
        self._documents = documents or Documents(source.label, source.document)
        self._measured: set[Digest] = set()
        self._stop = Event()
        self._hopeless = False  # too large: its parts are not worth keeping

    def stop(self) -> None:
        """May be called from any thread.  Running layers end soon with Stopped."""
        self._stop.set()
        self._source.stop()

    def bring(self, descriptor: Descriptor, data: bytes | None = None) -> Brought:
        """Brings the manifest and all below it.  data: its bytes, if the caller has them."""
        found = self._documents.walk(descriptor, self._below, data)
        if not found:
            raise MalformedImage(
                f"{self._source.label}: none of the manifests that it lists is there"
            )
        self._lease.hold(found)
        images = [d for d in found.values() if isinstance(d.content, Manifest)]
        self._layers(layer_claims(self._source.label, self._listed(images)))
        indexes = [d for d in found.values() if isinstance(d.content, Index)]
        for document in images:
            put_document(self._store.layout, document.data)
        children.remember(self._store.layout, [self._came(index, found) for index in indexes])
        for document in indexes:  # innermost first: no index lists a missing one
            put_document(self._store.layout, document.data)
        return Brought(descriptor, len(images))

    # ---- documents ----------------------------------------------------------------------------

    def _below(self, index: Document) -> list[Descriptor]:
        """Which manifests of the index are to come."""
        assert isinstance(index.content, Index)
        listed = self._source.own(index.digest, index.content.manifests)
        return [child for child in listed if self._suits(child)]

    def _came(self, index: Document, found: Mapping[Digest, Document]) -> children.Came:
        assert isinstance(index.content, Index)
        came = [child.digest for child in self._below(index) if child.digest in found]
        return children.Came(index.digest, came, [d.digest for d in index.content.manifests])

    def _listed(self, images: Sequence[Document]) -> Iterator[tuple[Descriptor, Digest]]:
        """All layers of all manifests, with their diff_ids; brings the configs."""
        for document in images:
            manifest = document.content
            assert isinstance(manifest, Manifest)
            self._lease.hold([manifest.config.digest, *(d.digest for d in manifest.layers)])
            diff_ids = self._documents.diff_ids(manifest, self._config, self._put)
            yield from zip(manifest.layers, diff_ids, strict=True)

    def _config(self, descriptor: Descriptor) -> bytes | None:
        data = None if self._source.is_local else self._at_hand(descriptor.digest)
        return data or self._source.document(descriptor)

    def _put(self, data: bytes) -> None:
        put_document(self._store.layout, data)

    def _at_hand(self, digest: Digest) -> bytes | None:
        """A document that the store has, undamaged; else None."""
        try:
            data = self._store.layout.document(digest)
        except (OSError, MalformedImage):
            return None
        return data if Digest.of(data) == digest else None

    # ---- layers -------------------------------------------------------------------------------

    def _layers(self, layers: Sequence[tuple[Descriptor, Digest]]) -> None:
        found = {d.digest: self._source.measured(d) for d, _ in layers}
        self._measured = {digest for digest, size in found.items() if size is not None}
        self._budget.announce(dict(size for size in found.values() if size is not None))
        tasks = [self._progress.begin(d.digest.hex[:12], d.size) for d, _ in layers]
        with ThreadPoolExecutor(JOBS, "layer") as pool:
            futures: list[Future[None]] = [
                pool.submit(self._layer, descriptor, diff_id, task)
                for (descriptor, diff_id), task in zip(layers, tasks, strict=True)
            ]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                self.stop()  # after an error the others are not needed
                for future in futures:
                    future.cancel()
        if self._hopeless:
            for descriptor, _ in layers:  # also of those that were not begun this time
                drop_part(self._store.layout, descriptor.digest)
        errors = [e for f in futures if not f.cancelled() and (e := f.exception()) is not None]
        reasons = [error for error in errors if not isinstance(error, Stopped)]
        for error in (*reasons, *errors):
            raise error

    def _layer(self, descriptor: Descriptor, diff_id: Digest | None, task: Task) -> None:
        where = f"{self._source.label}: layer {descriptor.digest}"
        layout = self._store.layout
        with Part(layout, descriptor.digest, self._go_on) as part, self._dropped(part):
            if part.is_stored() and self._is_known(descriptor, diff_id, where):
                if self._source.is_local:
                    self._prove(descriptor, where)
                part.drop()
                task.done("Already exists")
                return
            if part.size > descriptor.size or self._source.is_local:  # which gives all bytes itself
                part.cut()
            task.say("Downloading")
            claims = Claims(descriptor.digest, descriptor.size, diff_id)
            resumed = part.size > 0
            try:
                self._rest(part, claims, descriptor, where, task)
            except (VerificationFailed, MalformedImage):
                if not resumed or self._budget.refused:
                    raise
                task.advance(-part.size)  # perhaps only the old part was wrong
                part.cut()
                self._budget.forget(where)
                self._rest(part, claims, descriptor, where, task)
        task.done("Pull complete")

    def _prove(self, descriptor: Descriptor, where: str) -> None:
        """Raises VerificationFailed if the source's bytes are not those of the layer."""
        found = hashlib.sha256()
        with self._source.layer(descriptor, 0) as read:
            reading = self._unless_stopped(read)
            while data := reading(PIECE):
                found.update(data)
        if found.hexdigest() != descriptor.digest.hex:
            raise VerificationFailed(
                f"{where}: digest is sha256:{found.hexdigest()}, the manifest says "
                f"{descriptor.digest}"
            )

    @contextmanager
    def _dropped(self, part: Part) -> Iterator[None]:
        """Drops the parts of all layers if the image is too large for the limit or the disk.

        A pull that continued them would fail again.  A part of a local source saves no download.
        """
        try:
            yield
        except ImgmountError as error:
            self._hopeless |= self._budget.spoilt_by(error)
            if self._hopeless or self._source.is_local:
                part.drop()
            raise

    def _rest(
        self, part: Part, claims: Claims, descriptor: Descriptor, where: str, task: Task
    ) -> None:
        """Takes the layer: the part, and the bytes that it lacks from the source."""
        layout, lease, budget = self._store.layout, self._lease, self._budget
        measured = descriptor.digest in self._measured

        def advance(size: int) -> None:
            task.advance(size)
            if not measured:
                budget.arrive(size)

        advance(part.size)
        if part.size == descriptor.size:  # registries refuse a range that begins at the end
            take_layer(layout, lease, part, lambda _: b"", claims, where, budget, advance)
            return
        with self._source.layer(descriptor, part.size) as read:
            reading = self._unless_stopped(read)
            take_layer(layout, lease, part, reading, claims, where, budget, advance)

    def _unless_stopped(self, read: Read) -> Read:
        def reading(n: int) -> bytes:
            self._go_on()
            return read(n)

        return reading

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise Stopped("stopped")

    def _is_known(self, descriptor: Descriptor, diff_id: Digest | None, where: str) -> bool:
        """Whether the store's blob is this layer.  False if it is damaged.

        A blob that we brought was verified then; a blob of another program is verified now.  Raises
        VerificationFailed if the config claims another diff_id than the blob has.
        """
        layout = self._store.layout
        if layout.blob_size(descriptor.digest) != descriptor.size:
            return False
        known = self._store.diff_id(descriptor.digest)
        if known is None or diff_id not in (None, known):  # the map may be wrong
            learnt = learn(layout, descriptor.digest)
            if learnt is None:
                return False
            known = learnt.diff_id
        if diff_id is not None and known != diff_id:
            raise VerificationFailed(f"{where}: diff_id is {known}, the config says {diff_id}")
        if known != descriptor.digest and (found := diffids.known(layout, descriptor.digest)):
            self._budget.forget(where)  # it may have been counted for another image
            if descriptor.digest not in self._measured:
                self._budget.arrive(descriptor.size)
            self._budget.spend(where, found.size, descriptor.size)
        return True
