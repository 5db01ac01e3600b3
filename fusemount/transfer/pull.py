"""Law: pulls an image from a registry into a store, several layers at a time, each in one pass.

    trio: requests ─► pieces ─► queue of ROOM ─► a thread per layer: part, digest, unpack, diff_id

The client runs under trio in the calling thread; computing is done in other threads.  If a thread
is slow, its queue is full and the connection waits.  So memory does not grow with the layers.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import field

import trio

from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import ImgmountError, MalformedImage, PlatformMismatch
from fusemount.image.fields import DOCUMENT_BYTES_MAX, shown
from fusemount.image.model import INDEX_TYPES, Descriptor, Index
from fusemount.image.parse import NESTING_MAX, check_names, parse_index_or_manifest
from fusemount.image.platforms import normalised, rank, this_machine
from fusemount.imagename import ImageName, Tag
from fusemount.registry.client import Registry
from fusemount.registry.credentials import CredentialSources, find_credentials
from fusemount.registry.options import RegistryOptions
from fusemount.settings import Platform
from fusemount.store import RegistryBlob, Store, StoredImage
from fusemount.store.intake import Read
from fusemount.transfer.bring import Bringing, Stopped
from fusemount.transfer.ociform import OciForms
from fusemount.transfer.reports import Transfers
from fusemount.transfer.running import run, when_cancelled

PIECE = 1 << 20  # bytes: each piece wakes a thread
ROOM = 4  # pieces of a layer that may wait in its queue


@dataclass(frozen=True)
class RegistryAccess:
    """How registries are reached, and where their credentials are."""

    options: RegistryOptions = field(default_factory=RegistryOptions)
    sources: CredentialSources = field(default_factory=CredentialSources)

    async def registry(self, name: ImageName) -> Registry:
        credentials = await find_credentials(name.domain, name.path, self.sources)
        return Registry(name.domain, self.options, credentials)


@dataclass(frozen=True)
class PullOptions:
    """platform: None means this machine's.  all_platforms: all manifests of an index."""

    access: RegistryAccess = field(default_factory=RegistryAccess)
    platform: Platform | None = None
    all_platforms: bool = False


@dataclass(frozen=True)
class Pulled:
    """What a pull brought.

    digest: of the manifest that the registry has under that name.  new: the store had not this
    image under this name before.
    """

    image: StoredImage
    digest: Digest
    new: bool


def pull(
    store: Store, name: ImageName, options: PullOptions, progress: Transfers,
    called: ImageName | None = None,
) -> Pulled:  # fmt: skip
    """Pulls an image.  called: its name in the store, if that is another.

    As in docker, a tag beside a digest is ignored, and the image gets no name.

    After an error, the next pull continues the layers that came in part.  Raises ImageNotFound,
    PlatformMismatch, RegistryError, Unauthorized, VerificationFailed, MalformedImage, NoSpace.
    """
    return run(lambda: _pull(store, name.tagged(), options, progress, called))


def all_tags(name: ImageName, options: PullOptions) -> list[ImageName]:
    """All tags of a repository, in its order.

    Raises ImageNotFound, RegistryError, Unauthorized, MalformedImage if there are too many.
    """

    async def ask() -> list[Tag]:
        async with await options.access.registry(name) as registry:
            return await registry.tags(name.path)

    tags = run(ask)
    check_names(len(tags), name.familiar_repository)
    return [ImageName(name.domain, name.path, tag) for tag in tags]


async def _pull(
    store: Store, name: ImageName, options: PullOptions, progress: Transfers,
    called: ImageName | None,
) -> Pulled:  # fmt: skip
    async with await options.access.registry(name) as registry:
        found = await registry.manifest(name.path, name.reference)
        top = Descriptor(found.media_type, found.digest, len(found.data))
        wanted = called or name
        names = [wanted] if wanted.digest is None else []
        known = str(name.with_digest(found.digest))
        before = {(entry.digest, entry.name) for image in store.images() for entry in image.entries}
        with store.lease("pull", str(name)) as lease:
            async with trio.open_nursery() as nursery:
                source = RegistrySource(registry, name, nursery)
                chosen, suits = await _choose(source, top, found.data, options)
                data = found.data if chosen == top else None
                bringing = Bringing(store, lease, source, progress, suits)
                nursery.start_soon(when_cancelled, bringing.stop)
                await trio.to_thread.run_sync(bringing.bring, chosen, data)
                nursery.cancel_scope.cancel()
            image = store.add(OciForms(store, lease).of(chosen), names, [known])
        for row in image.summary.layers:
            store.remember_blob(row.diff_id, RegistryBlob(row.digest, row.size, name.repository))
    after = {(entry.digest, entry.name) for entry in image.entries}
    return Pulled(image, found.digest, not after <= before)


async def _choose(
    source: RegistrySource,
    top: Descriptor,
    data: bytes,
    options: PullOptions,
    depth: int = NESTING_MAX,
) -> tuple[Descriptor, Callable[[Descriptor], bool]]:
    """(the manifest or index to bring, which manifests of an index to bring)."""
    where = source.label
    document = parse_index_or_manifest(data, where, top.media_type)
    if not isinstance(document, Index):
        return top, lambda _: True
    images = [d for d in document.manifests if not d.is_attestation]
    if options.all_platforms:
        return top, lambda d: not d.is_attestation
    wanted = normalised(options.platform) if options.platform else this_machine()
    ranked = [(rank(d.platform, wanted), i) for i, d in enumerate(images)]
    suiting = [(r, i) for r, i in ranked if r is not None]
    if not suiting:
        there = ", ".join(sorted({shown(str(d.platform)) for d in images if d.platform}))
        raise PlatformMismatch(f"{where}: no image for {wanted}, only for {there}")
    chosen = images[min(suiting)[1]]
    if chosen.media_type in INDEX_TYPES:
        if depth == 0:
            raise MalformedImage(f"{where}: indexes nested over {NESTING_MAX} deep")
        inner = await source.fetch(chosen)
        return await _choose(source, chosen, inner, options, depth - 1)
    return chosen, lambda _: True


class RegistrySource:
    """A BlobSource (bring.py). Threads call its methods while trio serves the nursery."""

    def __init__(self, registry: Registry, name: ImageName, nursery: trio.Nursery) -> None:
        self._registry, self._name, self._nursery = registry, name, nursery
        self._token = trio.lowlevel.current_trio_token()
        self._feeds: list[_Feed] = []

    @property
    def label(self) -> str:
        return str(self._name)

    @property
    def is_local(self) -> bool:
        return False

    def own(self, index: Digest, listed: Sequence[Descriptor]) -> Sequence[Descriptor]:
        return listed

    async def fetch(self, descriptor: Descriptor) -> bytes:
        return (await self._registry.manifest(self._name.path, descriptor.digest)).data

    def document(self, descriptor: Descriptor) -> bytes | None:
        # No token is needed, because only the thread of bring() calls this, and that thread is
        # cancelled with its task.
        return trio.from_thread.run(self._document, descriptor)

    async def _document(self, descriptor: Descriptor) -> bytes:
        if "manifest" in descriptor.media_type or descriptor.media_type in INDEX_TYPES:
            return await self.fetch(descriptor)
        if descriptor.size > DOCUMENT_BYTES_MAX:
            raise MalformedImage(
                f"{self.label}: {descriptor.digest}: {descriptor.size} bytes of JSON, "
                f"the limit is {DOCUMENT_BYTES_MAX}"
            )
        data = bytearray()
        async with aclosing(self._registry.blob(self._name.path, descriptor)) as blob:
            async for piece in blob:
                data += piece
        return bytes(data)

    def measured(self, descriptor: Descriptor) -> tuple[str, int] | None:
        return None

    @contextmanager
    def layer(self, descriptor: Descriptor, offset: int) -> Iterator[Read]:
        feed = _Feed()
        self._feeds.append(feed)
        start = self._nursery.start_soon
        trio.from_thread.run_sync(start, self._pump, descriptor, offset, feed,
                                  trio_token=self._token)  # fmt: skip
        try:
            yield lambda n: feed.take(n, self._token)
        finally:
            self._feeds.remove(feed)
            self._token.run_sync_soon(feed.scope.cancel)

    def stop(self) -> None:
        for feed in list(self._feeds):
            feed.end(Stopped(f"{self.label}: stopped"))

    async def _pump(self, descriptor: Descriptor, offset: int, feed: _Feed) -> None:
        """Moves pieces from the connection to the thread of the layer, then the end or an error."""
        with feed.scope:
            try:
                blob = self._registry.blob(self._name.path, descriptor, offset)
                async with aclosing(blob):
                    held = bytearray()
                    async for piece in blob:
                        if not held and len(piece) >= PIECE // 4:
                            await feed.put(piece)  # a copy would cost more than waking a thread
                            continue
                        held += piece
                        if len(held) >= PIECE:
                            await feed.put(bytes(held))
                            held.clear()
                    if held:
                        await feed.put(bytes(held))
                feed.end(None)
            except ImgmountError as error:
                feed.end(error)
            except BaseException:
                feed.end(Stopped(f"{self.label}: stopped"))
                raise


class _Feed:
    """A queue from a task to a thread: pieces, then the end or an error."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self._room = trio.Semaphore(ROOM)
        self._pieces: queue.SimpleQueue[bytes | ImgmountError | None] = queue.SimpleQueue()
        self._rest = memoryview(b"")
        self._ended = False

    async def put(self, piece: bytes) -> None:
        await self._room.acquire()
        self._pieces.put(piece)

    def end(self, error: ImgmountError | None) -> None:
        self._pieces.put(error)

    def take(self, n: int, token: trio.lowlevel.TrioToken) -> bytes:
        """At most n bytes, b"" at the end; waits for them.  Raises the error that end() gave."""
        if not self._rest and not self._ended:
            found = self._pieces.get()
            if isinstance(found, ImgmountError):
                raise found
            self._ended = found is None
            if found is not None:
                token.run_sync_soon(self._room.release)
                self._rest = memoryview(found)
        piece, self._rest = bytes(self._rest[:n]), self._rest[n:]
        return piece
