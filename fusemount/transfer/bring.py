"""Law: a manifest and all that it leads to come into a store, layers side by side; the image is
there when all is, and else nothing of it shows.

An BlobSource gives documents whole and layers as streams; it is called from several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from threading import Event
from typing import Protocol

from fusemount.budget import Budget
from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import ImgmountError, MalformedImage, VerificationFailed
from fusemount.image.fields import DOCUMENTS_BYTES_MAX, shown
from fusemount.image.model import CONFIG_TYPES, Descriptor, Index, Manifest
from fusemount.image.parse import MANIFESTS_MAX, NESTING_MAX, parse_config, parse_index_or_manifest
from fusemount.sources.image import verified
from fusemount.store import Lease, Store, diffids
from fusemount.store.intake import Claims, Part, Read, learn, put_document, take_layer
from fusemount.transfer.reports import Task, Transfers

JOBS = 3  # layers at once, as docker has it


class BlobSource(Protocol):
    """Where an image comes from.  label names it in messages."""

    @property
    def label(self) -> str: ...

    def document(self, descriptor: Descriptor) -> bytes | None:
        """A manifest, index or config, verified or not; None: it is not there."""
        ...

    def layer(self, descriptor: Descriptor, offset: int) -> AbstractContextManager[Read]:
        """Its bytes from there on: read(n) gives some, b"" at the end."""
        ...


@dataclass(frozen=True)
class Brought:
    """What is now in the store, and not yet an image of it."""

    descriptor: Descriptor
    images: int


class Stopped(ImgmountError):
    """Another layer failed first, and says why."""


class Bringing:
    """One image's way in.  platforms: of an index those that suit are brought, None: all that are
    there.  budget: of all of them; None: as much as the store's limit is.
    Raises what the origin raises, VerificationFailed, MalformedImage, NoSpace."""

    def __init__(
        self,
        store: Store,
        lease: Lease,
        origin: BlobSource,
        progress: Transfers,
        suits: Callable[[Descriptor], bool] = lambda _: True,
        budget: Budget | None = None,
    ) -> None:
        self._store, self._lease, self._origin = store, lease, origin
        self._progress, self._suits = progress, suits
        self._budget = budget or Budget(store.unpack)
        self._visited = self._bytes = 0
        self._stop = Event()
        self._hopeless = False  # to go on with what came would not help

    def stop(self) -> None:
        """From any thread: what is under way ends soon, and says Stopped."""
        self._stop.set()

    def bring(self, descriptor: Descriptor, data: bytes | None = None) -> Brought:
        """data: the manifest's bytes, where they are at hand."""
        found = self._documents(descriptor, data, NESTING_MAX)
        if not found:
            raise MalformedImage(
                f"{self._origin.label}: none of the manifests that it lists is there"
            )
        images = [(m, d) for d, m in found if isinstance(m, Manifest)]
        layers: dict[Digest, tuple[Descriptor, Digest | None]] = {}
        for manifest, _ in images:
            for layer, diff_id in zip(manifest.layers, self._configured(manifest), strict=True):
                layers.setdefault(layer.digest, (layer, diff_id))
        self._layers(list(layers.values()))
        for data_of in (d for _, d in images):
            put_document(self._store.layout, data_of)
        for document, data_of in ((m, d) for d, m in found):
            if isinstance(document, Index):  # the innermost first: each leads to what is there
                put_document(self._store.layout, data_of)
        return Brought(descriptor, len(images))

    # ---- documents ----------------------------------------------------------------------------

    def _documents(
        self, descriptor: Descriptor, data: bytes | None, depth: int
    ) -> list[tuple[bytes, Index | Manifest]]:
        """Itself and all below it, the innermost first; [] where it is not there."""
        self._visited += 1
        where = f"{self._origin.label}: manifest {descriptor.digest}"
        if depth == 0 or self._visited > MANIFESTS_MAX:
            raise MalformedImage(f"{where}: indexes nested over {NESTING_MAX} deep, or too many")
        data = self._origin.document(descriptor) if data is None else data
        if data is None:
            return []
        self._bytes += len(data)
        if self._bytes > DOCUMENTS_BYTES_MAX:
            raise MalformedImage(
                f"{where}: with it more than {DOCUMENTS_BYTES_MAX} bytes of manifests, the limit"
            )
        verified(data, descriptor.digest, where, True)
        self._lease.hold([descriptor.digest])
        document = parse_index_or_manifest(data, where, descriptor.media_type)
        if isinstance(document, Manifest):
            return [(data, document)]
        below: list[tuple[bytes, Index | Manifest]] = []
        for child in document.manifests:
            if self._suits(child):
                below += self._documents(child, None, depth - 1)
        return [*below, (data, document)] if below else []

    def _configured(self, manifest: Manifest) -> Sequence[Digest | None]:
        """Brings the config, which tells the layers' diff_ids; an artifact's tells none."""
        where = f"{self._origin.label}: config {manifest.config.digest}"
        self._lease.hold([manifest.config.digest, *(layer.digest for layer in manifest.layers)])
        data = self._at_hand(manifest.config.digest) or self._origin.document(manifest.config)
        if data is None:
            raise MalformedImage(f"{where}: listed, but not there")
        verified(data, manifest.config.digest, where, True)
        put_document(self._store.layout, data)
        kind = manifest.config.media_type
        if manifest.is_artifact or (kind not in CONFIG_TYPES and b'"rootfs"' not in data):
            raise MalformedImage(f"{where}: of type {shown(kind) or 'unknown'}: no container image")
        diff_ids = parse_config(data, where).diff_ids
        if len(diff_ids) != len(manifest.layers):
            raise MalformedImage(
                f"{where}: it lists {len(diff_ids)} diff_ids, the manifest "
                f"{len(manifest.layers)} layers"
            )
        return diff_ids

    def _at_hand(self, digest: Digest) -> bytes | None:
        """A document of the store that is whole."""
        try:
            data = self._store.layout.document(digest)
        except (OSError, MalformedImage):
            return None
        return data if Digest.of(data) == digest else None

    # ---- layers -------------------------------------------------------------------------------

    def _layers(self, layers: Sequence[tuple[Descriptor, Digest | None]]) -> None:
        self._budget.announce({d.digest: d.size for d, _ in layers})
        tasks = [self._progress.begin(d.digest.hex[:12], d.size) for d, _ in layers]
        with ThreadPoolExecutor(JOBS, "layer") as pool:
            futures: list[Future[None]] = [
                pool.submit(self._layer, descriptor, diff_id, task)
                for (descriptor, diff_id), task in zip(layers, tasks, strict=True)
            ]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                self._stop.set()  # what still runs then has no reason to go on
                for future in futures:
                    future.cancel()
        errors = [e for f in futures if not f.cancelled() and (e := f.exception()) is not None]
        reasons = [error for error in errors if not isinstance(error, Stopped)]
        for error in (*reasons, *errors):
            raise error

    def _layer(self, descriptor: Descriptor, diff_id: Digest | None, task: Task) -> None:
        where = f"{self._origin.label}: layer {descriptor.digest}"
        if "encrypted" in descriptor.media_type:
            raise MalformedImage(f"{where}: encrypted ({shown(descriptor.media_type)})")
        layout = self._store.layout
        with Part(layout, descriptor.digest, self._go_on) as part, self._dropped(part):
            if part.there() and self._is_known(descriptor, diff_id, where):
                part.drop()
                task.done("Already exists")
                return
            if part.size > descriptor.size:
                part.cut()
            task.say("Downloading")
            claims = Claims(descriptor.digest, descriptor.size, diff_id)
            resumed = part.size > 0
            try:
                self._rest(part, claims, descriptor, where, task)
            except (VerificationFailed, MalformedImage):
                if not resumed or self._budget.refused:
                    raise
                task.advance(-part.size)  # it is the part that was no good, perhaps
                part.cut()
                self._budget.forget(where)
                self._rest(part, claims, descriptor, where, task)
        task.done("Pull complete")

    @contextmanager
    def _dropped(self, part: Part) -> Iterator[None]:
        """Where the image is too large, for its user or for the disk, what came of it is no part to
        go on with, of no layer."""
        try:
            yield
        except ImgmountError as error:
            self._hopeless |= self._budget.spoilt_by(error)
            if self._hopeless:
                part.drop()
            raise

    def _rest(
        self, part: Part, claims: Claims, descriptor: Descriptor, where: str, task: Task
    ) -> None:
        """What the part lacks."""
        layout, lease, budget = self._store.layout, self._lease, self._budget
        task.advance(part.size)
        if part.size == descriptor.size:  # a registry has no range that begins at the end
            take_layer(layout, lease, part, lambda _: b"", claims, where, budget, task.advance)
            return
        with self._origin.layer(descriptor, part.size) as read:
            reading = self._unless_stopped(read)
            take_layer(layout, lease, part, reading, claims, where, budget, task.advance)

    def _unless_stopped(self, read: Read) -> Read:
        def reading(n: int) -> bytes:
            self._go_on()
            return read(n)

        return reading

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise Stopped("stopped")

    def _is_known(self, descriptor: Descriptor, diff_id: Digest | None, where: str) -> bool:
        """A blob that is there was verified when we brought it; one that others wrote is now.
        False: it is not what its name says.  Another config may claim another diff_id."""
        layout = self._store.layout
        if layout.blob_size(descriptor.digest) != descriptor.size:
            return False
        known = self._store.diff_id(descriptor.digest)
        if known is None or diff_id not in (None, known):  # the map may be what is wrong
            learnt = learn(layout, descriptor.digest)
            if learnt is None:
                return False
            known = learnt.diff_id
        if diff_id is not None and known != diff_id:
            raise VerificationFailed(f"{where}: diff_id is {known}, the config says {diff_id}")
        if known != descriptor.digest and (found := diffids.known(layout, descriptor.digest)):
            self._budget.forget(where)  # it may be of two images
            self._budget.spend(where, found.size, descriptor.size)
        return True
